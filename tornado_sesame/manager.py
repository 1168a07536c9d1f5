"""The application's sessions: their settings, their store, and the calls to it that many requests share."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from .coalescer import GRACE, Coalescer, answer_within
from .cookie import SessionCookie, is_id
from .errors import SessionStoreError, SessionTooLarge
from .live import LiveSession, Loaded, Saved
from .stores import MemoryStore, SaveResult, SessionRecord, SessionStore, SessionWrite
from .values import normalized, plain

__all__ = ["SessionManager", "SessionStats", "check_owner"]

logger = logging.getLogger("tornado_sesame")

T = TypeVar("T")

# After so many fruitless attempts at one save, other requests change the session's shape faster than it can follow.
MAX_CONFLICTS = 5

# Saves take MongoDB several times as long as loads; see `Coalescer`. With fewer sessions in a command there are too
# many commands, and with more the server waits (measured with 64 connections).
HALVED_ABOVE = 32

# What one call of `SessionStore.delete` gets at most.
DELETED_AT_ONCE = 1000


@dataclass(slots=True)
class SessionStats:
    """Counts since the manager was made.

    :arg loads: sessions asked of the store.
    :arg saves: sessions given to the store to save.
    :arg commands: calls of the store, each for any number of sessions.
    :arg failures: loads and saves that failed.
    """

    loads: int = 0
    saves: int = 0
    commands: int = 0
    failures: int = 0


class SessionManager:
    """Holds what all requests of an application share; pass it as ``Application(..., sessions=SessionManager(...))``.

    :arg store: where sessions are kept; by default a `MemoryStore`, which forgets them when the process ends.
    :arg cookie: the cookie's name and attributes.
    :arg idle_timeout: how long a session lives after its last use.
    :arg absolute_timeout: how long it lives at most, however much it is used; None for as long as it is used. Nothing
        but a new session, after `SessionMixin.destroy_session`, begins this time anew.
    :arg touch_interval: how much of *idle_timeout* must have passed before a use extends the session, and with it the
        cookie; so one that is only read is written once in this time. By default a twentieth of *idle_timeout*.
    :arg wait_for_save: holds each response until the changes its handler made are saved, and answers with a 503 when
        they cannot be. False sends responses at once and logs failed saves; a client that is faster than the save then
        finds its session as it was before, and a new one not at all.
    :arg timeout: seconds after which a store that does not answer counts as failed.
    :arg max_bytes: the largest that a session may become, as BSON; None for no other limit than the store's. The
        request that makes it larger gets a `SessionTooLarge`, and what it changed is not saved.
    :raises TypeError, ValueError: for settings that cannot be meant, saying which.
    """

    def __init__(
        self,
        store: SessionStore | None = None,
        *,
        cookie: SessionCookie = SessionCookie(),
        idle_timeout: timedelta = timedelta(days=14),
        absolute_timeout: timedelta | None = None,
        touch_interval: timedelta | None = None,
        wait_for_save: bool = True,
        timeout: float = 10.0,
        max_bytes: int | None = 2**20,
    ) -> None:
        if store is None:
            store = MemoryStore()
        if not isinstance(store, SessionStore):
            raise TypeError(
                f"store must be a SessionStore such as MongoStore(collection), not a {type(store).__name__}"
            )
        if not isinstance(cookie, SessionCookie):
            raise TypeError(f"cookie must be a SessionCookie, not a {type(cookie).__name__}")
        if not isinstance(idle_timeout, timedelta):
            raise TypeError(f"idle_timeout must be a datetime.timedelta, not a {type(idle_timeout).__name__}")
        if idle_timeout < timedelta(seconds=1):
            raise ValueError(f"idle_timeout={idle_timeout!r}: must be at least a second")
        if absolute_timeout is not None and not isinstance(absolute_timeout, timedelta):
            raise TypeError(f"absolute_timeout must be a datetime.timedelta, not a {type(absolute_timeout).__name__}")
        if absolute_timeout is not None and absolute_timeout < timedelta(seconds=1):
            raise ValueError(f"absolute_timeout={absolute_timeout!r}: must be at least a second")
        if touch_interval is None:
            touch_interval = idle_timeout / 20
        if not isinstance(touch_interval, timedelta):
            raise TypeError(f"touch_interval must be a datetime.timedelta, not a {type(touch_interval).__name__}")
        if not timedelta(0) <= touch_interval < idle_timeout:
            raise ValueError(f"touch_interval={touch_interval!r}: must be shorter than idle_timeout")
        if not timeout > 0:
            raise ValueError(f"timeout={timeout!r}: must be a positive number of seconds")
        if max_bytes is not None and not max_bytes > 0:
            raise ValueError(f"max_bytes={max_bytes!r}: must be a positive number of bytes")
        self.store = store
        store.timeout = timeout
        self.cookie = cookie
        self.idle_timeout = idle_timeout
        self.absolute_timeout = absolute_timeout
        self.touch_interval = touch_interval
        self._renewed_below = idle_timeout - touch_interval
        self.wait_for_save = wait_for_save
        self.timeout = timeout
        self.max_bytes = max_bytes
        self.stats = SessionStats()
        self.loads: Coalescer[str, Loaded] = Coalescer(self._load_batch, self._load_failed, timeout=timeout)
        self.saves: Coalescer[LiveSession, SessionStoreError | None] = Coalescer(
            self._save_batch, LiveSession.save_failed, timeout=timeout, halve_above=HALVED_ABOVE
        )

    def open(self, secret: str | None) -> LiveSession:
        """Returns the session of a request whose cookie carries *secret*; see `LiveSession`."""
        return LiveSession(self, secret)

    async def destroy(self, session_id: str) -> None:
        """Deletes the session with this id (see `SessionMixin.session_id`), wherever it is in use.

        It does not ask whose session it is; an id that a client sent has to be one of his `records`.

        :raises SessionStoreError: when the store fails.
        """
        if not isinstance(session_id, str):
            raise TypeError(f"session_id must be a str, not a {type(session_id).__name__}")
        if is_id(session_id):  # anything else is no session's, and has no business in a query or the log
            await self.delete(session_id)

    async def destroy_all(self, owner: str, *, keep: str | Collection[str] | None = None) -> int:
        """Deletes all sessions of an owner: "sign out everywhere", also for those who have stolen a cookie.

        :arg owner: see `SessionMixin.session_owner`.
        :arg keep: the id of a session that stays, such as the one that asks for this; or several ids.
        :returns: how many were deleted.
        :raises SessionStoreError: when the store fails. Some may have been deleted by then.
        """
        check_owner(owner)
        kept = {keep} if isinstance(keep, str) else set(keep or ())
        ids = [record.id async for record in self.records(owner) if record.id not in kept]
        for start in range(0, len(ids), DELETED_AT_ONCE):
            batch = ids[start : start + DELETED_AT_ONCE]
            await self._call("delete", f"{batch[0]} and others" if batch[1:] else batch[0], self.store.delete(batch))
        return len(ids)

    async def records(self, owner: str | None = None) -> AsyncIterator[SessionRecord]:
        """Iterates over all valid sessions, or over those of an *owner*: ``async for record in sessions.records()``.

        They come one by one, in no particular order and however many there are. Changing a record changes nothing.

        :raises SessionStoreError: when the store fails.
        """
        if owner is not None:
            check_owner(owner)
        records = aiter(self.store.records(owner))
        while True:
            try:
                async with asyncio.timeout(self.timeout + GRACE):
                    record = await anext(records)
            except StopAsyncIteration:
                return
            except Exception as error:
                self.stats.failures += 1
                failure = SessionStoreError(f"could not list sessions: {type(error).__name__}")
                raise failure from error
            if self.is_valid(record, now()):
                yield record

    async def close(self) -> None:
        """Waits for what is under way and closes the store. Call it when the server has stopped."""
        await self.loads.drain()  # which may have sessions saved that are to live longer
        await self.saves.drain()
        await self.store.close()

    # For LiveSession. What fails is a SessionStoreError, with the store's error as its cause.

    def load(self, id: str) -> "asyncio.Future[Loaded]":
        """Asks for a stored session, together with all others that are asked for at the moment."""
        return self.loads.submit(id)

    def save(self, live: LiveSession) -> Saved:
        """Saves what has changed in *live*, together with all others that have changed at the moment."""
        return self.saves.submit(live)

    async def delete(self, id: str) -> None:
        """Deletes the stored session."""
        await self._call("delete", id, self.store.delete([id]))

    async def pop(self, id: str) -> SessionRecord | None:
        """Deletes the stored session and returns it as it was last; None when it was not valid."""
        record = await self._call("rotate", id, self.store.pop(id))
        return record if record is not None and self.is_valid(record, now()) else None

    async def insert(self, record: SessionRecord) -> datetime:
        """Stores *record* as used now, and returns when it will expire."""
        moment = in_milliseconds(now())
        expires = self.expiry(record.created, moment)
        write = SessionWrite.inserting(replace(record, updated=moment, expires=expires))
        (result,) = await self._call("save", record.id, self.store.save([write]))
        if isinstance(result, Exception):
            raise self.failure("save", record.id, result)
        return expires

    def expiry(self, created: datetime, moment: datetime) -> datetime:
        """Returns when a session that was created then and is used at *moment* expires."""
        expires = moment + self.idle_timeout
        return expires if self.absolute_timeout is None else min(expires, created + self.absolute_timeout)

    def lifetime(self, created: datetime | None) -> timedelta:
        """Returns how long a session that is used now, and not again, lives; *created* is None for a new one."""
        moment = now()
        return self.expiry(created or moment, moment) - moment

    def is_valid(self, record: SessionRecord, moment: datetime) -> bool:
        """Tells whether *record* has not expired at *moment*, whatever the store makes of it."""
        limit = self.absolute_timeout
        return moment < record.expires and (limit is None or moment < record.created + limit)

    def is_renewal_due(self, created: datetime, expires: datetime, moment: datetime | None = None) -> bool:
        """Tells whether a session that would expire then is to live longer when it is used now."""
        moment = moment or now()
        return expires - moment <= self._renewed_below and expires < self.expiry(created, moment)

    def failure(self, action: str, id: str | None, error: BaseException) -> SessionStoreError:
        """Returns the error that tells users that the store failed with *error*."""
        self.stats.failures += 1
        if isinstance(error, SessionTooLarge):
            return error
        reason, cause = f"{type(error).__name__}: {error}", error
        if isinstance(error, SessionStoreError):
            reason, cause = error.log_message or "", error.__cause__ or error
        failure = SessionStoreError(f"could not {action} session {id}: {reason}")
        failure.__cause__ = cause
        return failure

    async def _call(self, action: str, id: str, call: Awaitable[T]) -> T:
        self.stats.commands += 1
        try:
            return await answer_within(self.timeout, call)
        except Exception as error:
            failure = self.failure(action, id, error)
            raise failure from failure.__cause__

    async def _load_batch(self, ids: list[str]) -> Sequence[SessionRecord | Exception | None]:
        unique = list(dict.fromkeys(ids))
        self.stats.commands += 1
        self.stats.loads += len(unique)
        records = await self.store.load(unique)
        moment = now()
        result: list[SessionRecord | Exception | None] = []
        given = set()
        for id in ids:
            record = records.get(id)
            if isinstance(record, SessionRecord):
                try:
                    if not self.is_valid(record, moment):
                        record = None
                    elif id in given:
                        record = _copied(record)  # each request changes its own
                except TypeError as error:  # the store's: a time that is none, or naive
                    record = error
                given.add(id)
            result.append(record)
        return result

    def _load_failed(self, id: str, error: Exception) -> SessionStoreError:
        return self.failure("load", id, error)

    async def _save_batch(self, sessions: list[LiveSession]) -> Sequence[Exception | None]:
        moment = in_milliseconds(now())
        errors: list[Exception | None] = [None] * len(sessions)
        todo = {}
        for index, live in enumerate(sessions):
            try:
                write = live.take(moment)
            except SessionTooLarge as error:
                errors[index] = error
            else:
                if write is not None:
                    todo[index] = write
        for _ in range(MAX_CONFLICTS):
            if not todo:
                return errors
            self.stats.commands += 1
            self.stats.saves += len(todo)
            results = await self._results(list(todo.values()))
            unresolved = {}
            for (index, write), result in zip(todo.items(), results, strict=True):
                if isinstance(result, Exception):
                    errors[index] = result
                if again := sessions[index].settle(write, result):
                    unresolved[index] = again
            todo = unresolved
        for index in todo:
            errors[index] = SessionStoreError("other requests change its shape all the time")
        return errors

    async def _results(self, writes: list[SessionWrite]) -> Sequence[SaveResult]:
        try:
            return await self.store.save(writes)
        except Exception as error:
            return [error] * len(writes)


def now() -> datetime:
    """Returns the time, in UTC. All of this package's times come from here."""
    return datetime.now(UTC)


def in_milliseconds(moment: datetime) -> datetime:
    """Returns *moment* as exact as stores keep it."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _copied(record: SessionRecord) -> SessionRecord:
    return replace(record, data=plain(record.data))


def check_owner(owner: str) -> None:
    if not isinstance(owner, str):
        raise TypeError(f"owner must be a str such as a user's id, not a {type(owner).__name__}")
    if not owner:
        raise ValueError("owner must not be empty")
    normalized(owner)
