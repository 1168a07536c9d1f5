"""The calls of a store that many requests share: what waits goes out together, is counted, and fails in one way."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol, TypeVar

from .coalescer import Coalescer
from .deadlines import GRACE_SECONDS, answer_within
from .errors import SessionNotSaved, SessionRecordError, SessionStoreError, SessionTooLarge
from .settings import END_REMEMBERED, UNTOLD_LIFETIME, SessionSettings, now, truncated_to_ms
from .stats import SessionStats
from .stores import (
    Conflict,
    Outcome,
    SaveResult,
    SessionEnd,
    SessionRecord,
    SessionStore,
    SessionWrite,
)
from .values import plain
from .watching import Watching

__all__ = ["Loaded", "Savable", "Saved", "StoreCalls", "end_of"]

logger = logging.getLogger("tornado_sesame")

# After so many fruitless attempts at one save, other requests change the session's shape faster than it can follow.
MAX_CONFLICTS = 5

# Saves take MongoDB several times as long as loads; see `Coalescer`. With fewer sessions in a command there are too
# many commands, and with more the server waits (measured with 64 connections).
SAVES_SPLIT_ABOVE = 32

# How many sessions one call ends at most.
ENDED_AT_ONCE = 1000

# How many sessions that cannot be read are known not to be logged again.
MAX_UNREADABLE = 1000

# How many seconds earlier than its callers a store gives up, so that its own reason is what they learn: PyMongo, while
# it waits for a server, notices up to half a second late that its time is up. It is at most half of the time.
STORE_LEAD_SECONDS = 1.0

T = TypeVar("T")

Loaded = SessionRecord | SessionEnd | SessionStoreError | None
"""A stored session, or when it ended; None when there is nothing, or it has expired."""

Saved = Outcome | SessionStoreError | None
"""How a save has ended; None when there was nothing to save."""


class Savable(Protocol):
    """A session that is to be saved."""

    id: str | None

    @property
    def new_owner(self) -> str | None:
        """To whom it belongs since the last write that was taken; None when that did not say so."""

    def take(self, moment: datetime) -> SessionWrite | None:
        """Returns what is to be saved, or None when there is nothing.

        :raises SessionTooLarge: when it is larger than it may be.
        """

    def resolve(self, write: SessionWrite, fields: Iterable[str]) -> SessionWrite | None:
        """Returns what is to be saved in place of *write*, which does not fit on these fields of what is stored."""


class StoreCalls:
    """Calls *store* for all requests.

    What fails is logged, once, and is a `SessionStoreError` with the store's error as its cause.
    """

    def __init__(self, store: SessionStore, settings: SessionSettings) -> None:
        self.store = store
        self.stats = SessionStats()
        self._settings = settings
        self._store_timeout = max(settings.timeout - STORE_LEAD_SECONDS, settings.timeout / 2)
        self.watching = Watching(store)
        self.loaded_at = now()  # when the last batch of sessions came: what they are looked at with
        self._unreadable: set[str] = set()  # ids of which the log has said so
        self._steps: set[asyncio.Task[Any]] = set()
        self._calls: set[asyncio.Task[Any]] = set()
        self._loads: Coalescer[str, Loaded] = Coalescer(
            self._load_batch,
            lambda id, error: self._failure(f"load session {id}", error, is_write=False),
            timeout=settings.timeout,
        )
        self._saves: Coalescer[Savable, Saved] = Coalescer(
            self._save_batch,
            lambda session, error: self._failure(f"save session {session.id}", error),
            timeout=settings.timeout,
            split_above=SAVES_SPLIT_ABOVE,
        )

    def load(self, id: str) -> "asyncio.Future[Loaded]":
        """Asks for a stored session, together with all others that are asked for at the moment."""
        return self._loads.submit(id)

    def save(self, session: Savable) -> "asyncio.Future[Saved]":
        """Saves what has changed in *session*, together with all others that have changed at the moment.

        If it gets an owner by that, and he has too many sessions then, those that were used longest ago end, too.
        """
        saved = self._saves.submit(session)
        return saved if self._settings.max_per_owner is None else self.start(self._save_and_limit(session, saved))

    def start(self, step: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Runs to its end what must not stop halfway, whoever stops waiting for it; `close` waits, too."""
        task = asyncio.ensure_future(step)
        self._steps.add(task)
        task.add_done_callback(self._on_step_done)
        return task

    async def end(self, ids: Sequence[str]) -> None:
        """Ends the sessions with these ids.

        :raises SessionStoreError: when one could not be ended.
        """
        for start in range(0, len(ids), ENDED_AT_ONCE):
            batch = ids[start : start + ENDED_AT_ONCE]
            named = f"{batch[0]} and others" if batch[1:] else batch[0]
            results = await self._call(
                f"end session {named}", self.store.save(list(map(end_of, batch)), timeout=self._store_timeout)
            )
            for id, result in zip(batch, results, strict=True):
                if isinstance(result, Exception):
                    raise self._failure(f"end session {id}", result)
            self.watching.tell(batch)

    async def pop(self, end: SessionEnd) -> SessionRecord | SessionEnd | None:
        """Ends a session and returns it as it was last, or its end; None when there was none or it had expired.

        :raises SessionNotSaved: when that was not done, for certain.
        :raises SessionStoreError: when nobody knows whether it was done.
        """
        record = await self._call(f"rotate session {end.id}", self.store.pop(end, timeout=self._store_timeout))
        self.watching.tell([end.id])
        return None if isinstance(record, SessionRecord) and not self._is_valid(record, now()) else record

    async def write(self, write: SessionWrite) -> SaveResult:
        """Does one write by itself, and returns how it ended.

        :raises SessionNotSaved: when that was not done, for certain.
        :raises SessionStoreError: when nobody knows whether it was done.
        """
        named = f"save session {write.id}"
        (result,) = await self._call(named, self.store.save([write], timeout=self._store_timeout))
        if isinstance(result, Exception):
            raise self._failure(named, result)
        self.watching.tell([write.id])
        return result

    async def records(self, owner: str | None) -> AsyncIterator[SessionRecord | SessionRecordError]:
        """Iterates over all valid sessions, or those of an *owner*; what cannot be read is a `SessionRecordError`."""
        self.stats.commands += 1
        records = aiter(self.store.records(owner, timeout=self._store_timeout))
        while True:
            try:
                async with asyncio.timeout(self._settings.timeout + GRACE_SECONDS):
                    record = await anext(records)
            except StopAsyncIteration:
                return
            except Exception as error:
                failure = self._failure("list sessions", error, is_write=False)
                raise failure from failure.__cause__
            if isinstance(record, SessionRecordError) or self._is_valid(record, now()):
                yield record

    async def close(self) -> None:
        """Waits, for at most the manager's timeout, for what is under way, cancels the rest, and closes the store."""
        await self.watching.close()
        try:
            async with asyncio.timeout(self._settings.timeout):
                await self._drain()
        except TimeoutError:
            logger.error("closed the session store before all was done, as that took over %s s", self._settings.timeout)
            await self._cancel()
        await answer_within(self._settings.timeout, self.store.close())

    async def _drain(self) -> None:
        """Waits until all is done at once: each kind may have begun another one while that was waited for."""
        while (under_way := self._steps | self._calls) or not (self._loads.is_idle and self._saves.is_idle):
            if under_way:
                await asyncio.wait(under_way)
            await self._loads.drain()
            await self._saves.drain()

    async def _cancel(self) -> None:
        """Cancels calls first: those who wait for them fail as always when the store does not answer."""
        with suppress(TimeoutError):  # what handlers begin all the time, nobody can wait for
            async with asyncio.timeout(GRACE_SECONDS):
                while tasks := (self._loads.cancel() | self._saves.cancel() | self._calls) or set(self._steps):
                    for task in tasks:
                        task.cancel()
                    await asyncio.wait(tasks)
                    await asyncio.sleep(0)  # for those who wait for them

    async def _save_and_limit(self, session: Savable, saving: "asyncio.Future[Saved]") -> Saved:
        saved = await saving
        owner = session.new_owner
        if saved is Outcome.SAVED and owner is not None:
            # It is saved, whatever comes of this. An error is in the log; the owner's next session is another attempt.
            with suppress(SessionStoreError, asyncio.CancelledError):
                await self._limit(owner)
        return saved

    async def _limit(self, owner: str) -> None:
        """Ends the sessions that an owner has too many.

        Of several who do this at once, each does so after its own session was saved, so the last of them knows all. And
        all of them agree on which session got this owner last, which stays, however much the others are used meanwhile.
        """
        records = [record async for record in self.records(owner) if isinstance(record, SessionRecord)]
        # One that is being rotated is there twice; see `Rotation`.
        lasting = {record.created for record in records if not _is_copy(record)}
        sessions = [record for record in records if not (_is_copy(record) and record.created in lasting)]
        newest = max(sessions, key=lambda record: (record.owned or record.created, record.id), default=None)
        sessions.sort(key=lambda record: (record is newest, record.updated, record.id), reverse=True)
        most = self._settings.max_per_owner
        ended = [record.id for record in sessions[most:]]
        await self.end(ended)
        for id in ended:
            logger.info("ended session %s, as its owner has more than max_per_owner=%s", id, most)

    def _on_step_done(self, step: "asyncio.Task[Any]") -> None:
        self._steps.discard(step)
        if not step.cancelled():
            step.exception()  # is for those who wait, if there are any

    def _failure(self, action: str, error: BaseException, *, is_write: bool = True) -> SessionStoreError:
        """Logs that the store failed with *error*, and returns the error that tells users so."""
        self.stats.failures += 1
        if isinstance(error, SessionTooLarge | SessionRecordError):
            failure: SessionStoreError = error
        else:
            reason, cause, status = f"{type(error).__name__}: {error}", error, 503
            if isinstance(error, SessionStoreError):
                reason, cause, status = error.log_message or "", error.__cause__ or error, error.status_code
            kind = SessionNotSaved if is_write and isinstance(error, SessionNotSaved) else SessionStoreError
            failure = kind(f"could not {action}: {reason}", status_code=status)
            failure.__cause__ = cause
        failure.is_logged = True
        if not (isinstance(failure, SessionRecordError) and self._is_known_to_be_unreadable(failure.id)):
            logger.error("%s", failure.log_message)
        return failure

    def _is_known_to_be_unreadable(self, id: str) -> bool:
        """Tells whether the log need not say again that a session cannot be read, as its visitors have new ones."""
        if self._settings.unreadable == "error":
            return False
        is_known = id in self._unreadable
        if len(self._unreadable) >= MAX_UNREADABLE:
            self._unreadable.clear()
        self._unreadable.add(id)
        return is_known

    def _is_valid(self, record: SessionRecord, moment: datetime) -> bool:
        return self._settings.is_valid(record.created, record.expires, moment)

    def _start_call(self, call: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = asyncio.ensure_future(call)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return task

    async def _call(self, action: str, call: Awaitable[T]) -> T:
        self.stats.commands += 1
        try:
            return await answer_within(self._settings.timeout, call, self._start_call)
        except Exception as error:
            failure = self._failure(action, error)
            raise failure from failure.__cause__

    async def _load_batch(self, ids: list[str]) -> Sequence[SessionRecord | SessionEnd | Exception | None]:
        unique = list(dict.fromkeys(ids))
        began = time.monotonic()
        try:
            found = await self.store.load(unique, timeout=self._store_timeout)
        finally:
            self.stats.add_load(len(unique), time.monotonic() - began)
        self.loaded_at = moment = now()
        is_valid = self._settings.is_valid
        result: list[SessionRecord | SessionEnd | Exception | None] = []
        given = set()
        for id in ids:
            record = found.get(id)
            if isinstance(record, SessionRecord):
                if not is_valid(record.created, record.expires, moment):
                    record = None
                elif id in given:
                    record = replace(record, data=plain(record.data))  # each request changes its own
                given.add(id)
            result.append(record)
        return result

    async def _save_batch(self, sessions: list[Savable]) -> Sequence[Saved | Exception]:
        moment = truncated_to_ms(now())
        results: list[Saved | Exception] = [None] * len(sessions)
        todo: dict[int, SessionWrite] = {}
        for index, session in enumerate(sessions):
            try:
                write = session.take(moment)
            except SessionTooLarge as error:
                results[index] = error
            else:
                if write is not None:
                    todo[index] = write
        for _ in range(MAX_CONFLICTS):
            if not todo:
                return results
            resolved: dict[int, SessionWrite] = {}
            outcomes = await self._save_writes(list(todo.values()))
            for (index, write), outcome in zip(todo.items(), outcomes, strict=True):
                if not isinstance(outcome, Conflict):
                    results[index] = outcome
                elif again := sessions[index].resolve(write, outcome.fields):
                    resolved[index] = again
            self.watching.tell(write.id for index, write in todo.items() if results[index] is Outcome.SAVED)
            todo = resolved
        for index in todo:
            results[index] = SessionNotSaved("other requests change its shape all the time")
        return results

    async def _save_writes(self, writes: list[SessionWrite]) -> Sequence[SaveResult]:
        began = time.monotonic()
        try:
            return await self.store.save(writes, timeout=self._store_timeout)
        except Exception as error:
            return [error] * len(writes)
        finally:
            self.stats.add_save(len(writes), time.monotonic() - began)


def _is_copy(record: SessionRecord) -> bool:
    """Tells whether this may be what a rotation has begun with; a session with a short idle timeout looks alike."""
    return record.expires - record.updated <= UNTOLD_LIFETIME


def end_of(id: str, reason: Literal["destroyed", "rotated"] = "destroyed") -> SessionEnd:
    """Returns what ends a session now, unlike any other end, so that its maker knows it when it is stored."""
    moment = truncated_to_ms(now())
    expires = moment + END_REMEMBERED + timedelta(milliseconds=random.randrange(10_000))  # noqa: S311
    return SessionEnd(id, moment, expires, reason)
