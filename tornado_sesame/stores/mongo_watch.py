"""What tells of writes to sessions in MongoDB: a change stream, whose filter follows what is open."""

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

import pymongo
from pymongo.errors import OperationFailure, PyMongoError

from ..errors import SessionStoreError
from .base import SessionNotWatchable, SessionWatch

__all__ = ["MongoWatch"]

# Milliseconds that MongoDB waits for a change before it answers that there is none, and other sessions can be followed.
MAX_AWAIT = 250

# Seconds that the end of a command is waited for when nobody is to be followed any more.
GRACE_SECONDS = 5.0

# Seconds that it may take to learn where the stream is to begin.
TIMEOUT = 15.0

# With these, MongoDB refuses change streams for good: Unauthorized, CommandNotSupportedOnView, and that they are there
# for replica sets only, or that it does not know them at all.
REFUSALS = frozenset({13, 166, 40573, 40324})

# What happens to a collection as a whole, in which no session is named.
WHOLE = ["drop", "dropDatabase", "rename", "invalidate"]

# What MongoDB's profiler and its logs say of the stream.
COMMENT = "tornado-sesame watch"


class MongoWatch(SessionWatch):
    """Reads one change stream at a time.

    A stream has its filter for good. So when other sessions are to be followed, another one goes on from where it was
    when that was known: what it would have told next, the new one tells, by the filter that holds now.

    :arg collection: of Motor or PyMongo.
    :arg failure: makes an error of what the driver raises, with a reason that may be logged.
    """

    def __init__(self, collection: Any, failure: Callable[[type[SessionStoreError], Exception], Exception]) -> None:
        self._collection = collection
        self._failure = failure
        self._ids: list[str] = []
        self._place: dict[str, Any] = {}  # how far what is followed has been read,
        self._begin: dict[str, Any] | None = None  # and how far that was when others were to be followed
        self._reader: asyncio.Task[None] | None = None
        self._is_closed = False
        self._written: set[str] = set()
        self._is_any = False
        self._error: Exception | None = None
        self._is_news = asyncio.Event()

    async def follow(self, ids: Collection[str]) -> None:
        if self._reader is None:
            self._place = {"start_at_operation_time": await self._now()}
            self._reader = asyncio.create_task(self._read_on())
        self._ids = sorted(ids)
        self._begin = self._begin or self._place

    async def changed(self) -> Collection[str] | None:
        await self._is_news.wait()
        if self._error is not None:
            raise self._error
        self._is_news.clear()
        written, self._written = self._written, set()
        is_any, self._is_any = self._is_any, False
        return None if is_any else written

    async def close(self) -> None:
        if self._reader is not None:
            self._is_closed = True
            # It ends with the command that it waits for, as Motor's thread cannot be cancelled.
            await asyncio.wait([self._reader], timeout=GRACE_SECONDS)
            self._reader.cancel()

    async def _now(self) -> Any:
        """Returns MongoDB's time, by which a stream can begin in the past."""
        try:
            with pymongo.timeout(TIMEOUT):
                answer = await self._collection.database.command("ping")
        except PyMongoError as error:
            raise self._failure(SessionStoreError, error) from error
        if "operationTime" not in answer:
            raise SessionNotWatchable("a standalone MongoDB has no change streams")
        return answer["operationTime"]

    async def _read_on(self) -> None:
        try:
            while not self._is_closed:
                await self._read()
        except Exception as error:
            self._fail(error)

    async def _read(self) -> None:
        """Reads a stream until other sessions are to be followed."""
        ids = self._ids
        self._place, self._begin = self._begin or self._place, None
        ours = {"documentKey._id": {"$in": ids}}
        pipeline = [
            {"$match": {"$or": [ours, {"operationType": {"$in": WHOLE}}]}},
            {"$project": {"documentKey": True, "operationType": True}},
        ]
        # A stream that waits for long would hold a connection, and in Motor a thread, after it is not needed any more.
        stream = self._collection.watch(pipeline, max_await_time_ms=MAX_AWAIT, comment=COMMENT, **self._place)
        if asyncio.iscoroutine(stream):  # of PyMongo
            stream = await stream
        try:
            while self._ids is ids and not self._is_closed:
                change = await stream.try_next()
                if change is not None:
                    self._note(change)
                if not stream.alive:
                    raise SessionStoreError("the collection was dropped or renamed")
                self._place = {"resume_after": stream.resume_token}
        finally:
            with suppress(PyMongoError):
                await stream.close()

    def _note(self, change: dict[str, Any]) -> None:
        if "documentKey" in change:
            self._written.add(change["documentKey"]["_id"])
        else:
            self._is_any = True
        self._is_news.set()

    def _fail(self, error: Exception) -> None:
        if isinstance(error, OperationFailure) and error.code in REFUSALS:
            failure: Exception = self._failure(SessionStoreError, error)
            error = SessionNotWatchable(getattr(failure, "log_message", str(failure)))
        elif isinstance(error, PyMongoError):
            error = self._failure(SessionStoreError, error)
        self._error = error
        self._is_news.set()
