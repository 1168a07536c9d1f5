"""The calls of a store that many requests share: what waits goes out together, is counted, and fails in one way."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol, TypeVar

from .coalescer import Coalescer
from .deadlines import GRACE_SECONDS, answer_within
from .errors import SessionNotSaved, SessionRecordError, SessionStoreError, SessionTooLarge
from .settings import END_REMEMBERED, SessionSettings, now, truncated_to_ms
from .stores import (
    Conflict,
    Outcome,
    SaveResult,
    SessionEnd,
    SessionInsert,
    SessionRecord,
    SessionStore,
    SessionWrite,
)
from .values import plain

__all__ = ["Loaded", "Savable", "Saved", "SessionStats", "StoreCalls"]

# After so many fruitless attempts at one save, other requests change the session's shape faster than it can follow.
MAX_CONFLICTS = 5

# Saves take MongoDB several times as long as loads; see `Coalescer`. With fewer sessions in a command there are too
# many commands, and with more the server waits (measured with 64 connections).
SAVES_SPLIT_ABOVE = 32

# How many sessions one call ends at most.
ENDED_AT_ONCE = 1000

# How many seconds earlier than its callers a store gives up, so that its own reason is what they learn: PyMongo, while
# it waits for a server, notices up to half a second late that its time is up. It is at most half of the time.
STORE_LEAD_SECONDS = 1.0

T = TypeVar("T")

Loaded = SessionRecord | SessionStoreError | None
"""A stored session; None when there is no valid one."""

Saved = Outcome | SessionStoreError | None
"""How a save has ended; None when there was nothing to save."""


class Savable(Protocol):
    """A session that is to be saved."""

    id: str | None

    def take(self, moment: datetime) -> SessionWrite | None:
        """Returns what is to be saved, or None when there is nothing.

        :raises SessionTooLarge: when it is larger than it may be.
        """

    def resolve(self, write: SessionWrite, fields: Iterable[str]) -> SessionWrite | None:
        """Returns what is to be saved in place of *write*, which does not fit on these fields of what is stored."""


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


class StoreCalls:
    """Calls *store* for all requests. What fails is a `SessionStoreError`, with the store's error as its cause."""

    def __init__(self, store: SessionStore, settings: SessionSettings) -> None:
        self.store = store
        self.stats = SessionStats()
        self._settings = settings
        self._store_timeout = max(settings.timeout - STORE_LEAD_SECONDS, settings.timeout / 2)
        self._loads: Coalescer[str, Loaded] = Coalescer(
            self._load_batch, lambda id, error: self.failure("load", id, error), timeout=settings.timeout
        )
        self._saves: Coalescer[Savable, Saved] = Coalescer(
            self._save_batch,
            lambda session, error: self.failure("save", session.id, error),
            timeout=settings.timeout,
            split_above=SAVES_SPLIT_ABOVE,
        )

    def load(self, id: str) -> "asyncio.Future[Loaded]":
        """Asks for a stored session, together with all others that are asked for at the moment."""
        return self._loads.submit(id)

    def save(self, session: Savable) -> "asyncio.Future[Saved]":
        """Saves what has changed in *session*, together with all others that have changed at the moment."""
        return self._saves.submit(session)

    async def end(self, ids: Sequence[str]) -> None:
        """Ends the sessions with these ids.

        :raises SessionStoreError: when one could not be ended.
        """
        for start in range(0, len(ids), ENDED_AT_ONCE):
            batch = ids[start : start + ENDED_AT_ONCE]
            named = f"{batch[0]} and others" if batch[1:] else batch[0]
            results = await self._call(
                "end", named, self.store.save(list(map(_end_of, batch)), timeout=self._store_timeout)
            )
            for id, result in zip(batch, results, strict=True):
                if isinstance(result, Exception):
                    raise self.failure("end", id, result)

    async def pop(self, id: str) -> SessionRecord | None:
        """Ends a session and returns it as it was last; None when it was not valid."""
        record = await self._call("rotate", id, self.store.pop(_end_of(id), timeout=self._store_timeout))
        return record if record is not None and self._is_valid(record, now()) else None

    async def insert(self, record: SessionRecord) -> datetime:
        """Stores *record* as used now, and returns when it will expire."""
        moment = truncated_to_ms(now())
        expires = self._settings.expiry(record.created, moment)
        write = SessionInsert(replace(record, updated=moment, expires=expires))
        (result,) = await self._call("save", record.id, self.store.save([write], timeout=self._store_timeout))
        if isinstance(result, Exception):
            raise self.failure("save", record.id, result)
        return expires

    async def records(self, owner: str | None) -> AsyncIterator[SessionRecord | SessionRecordError]:
        """Iterates over all valid sessions, or those of an *owner*; what cannot be read is a `SessionRecordError`."""
        records = aiter(self.store.records(owner, timeout=self._store_timeout))
        while True:
            try:
                async with asyncio.timeout(self._settings.timeout + GRACE_SECONDS):
                    record = await anext(records)
            except StopAsyncIteration:
                return
            except Exception as error:
                self.stats.failures += 1
                failure = SessionStoreError(f"could not list sessions: {type(error).__name__}")
                raise failure from error
            if isinstance(record, SessionRecordError) or self._is_valid(record, now()):
                yield record

    async def close(self) -> None:
        """Waits for what is under way and closes the store."""
        await self._loads.drain()  # which may have sessions saved that are to live longer
        await self._saves.drain()
        await self.store.close()

    def failure(self, action: str, id: str | None, error: BaseException) -> SessionStoreError:
        """Returns the error that tells users that the store failed with *error*."""
        self.stats.failures += 1
        if isinstance(error, SessionTooLarge):
            return error
        reason, cause = f"{type(error).__name__}: {error}", error
        if isinstance(error, SessionStoreError):
            reason, cause = error.log_message or "", error.__cause__ or error
        kind = SessionNotSaved if isinstance(error, SessionNotSaved) else SessionStoreError
        failure = kind(f"could not {action} session {id}: {reason}")
        failure.__cause__ = cause
        return failure

    def _is_valid(self, record: SessionRecord, moment: datetime) -> bool:
        return self._settings.is_valid(record.created, record.expires, moment)

    async def _call(self, action: str, id: str, call: Awaitable[T]) -> T:
        self.stats.commands += 1
        try:
            return await answer_within(self._settings.timeout, call)
        except Exception as error:
            failure = self.failure(action, id, error)
            raise failure from failure.__cause__

    async def _load_batch(self, ids: list[str]) -> Sequence[SessionRecord | Exception | None]:
        unique = list(dict.fromkeys(ids))
        self.stats.commands += 1
        self.stats.loads += len(unique)
        found = await self.store.load(unique, timeout=self._store_timeout)
        moment, is_valid = now(), self._settings.is_valid
        result: list[SessionRecord | Exception | None] = []
        given = set()
        for id in ids:
            record = found.get(id)
            if isinstance(record, SessionRecord):
                if not is_valid(record.created, record.expires, moment):
                    record = None
                elif id in given:
                    record = replace(record, data=plain(record.data))  # each request changes its own
                given.add(id)
            elif isinstance(record, SessionEnd):
                record = None
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
            todo = resolved
        for index in todo:
            results[index] = SessionNotSaved("other requests change its shape all the time")
        return results

    async def _save_writes(self, writes: list[SessionWrite]) -> Sequence[SaveResult]:
        self.stats.commands += 1
        self.stats.saves += len(writes)
        try:
            return await self.store.save(writes, timeout=self._store_timeout)
        except Exception as error:
            return [error] * len(writes)


def _end_of(id: str) -> SessionEnd:
    moment = truncated_to_ms(now())
    return SessionEnd(id, moment, moment + END_REMEMBERED)
