"""Sessions in this process's memory: for development, tests and single-process servers that may forget."""

import logging
import mmap
import os
from asyncio import Event
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

from tornado.process import task_id

from ..errors import SessionRecordError
from ..values import plain
from .base import Outcome, SaveResult, SessionEnd, SessionRecord, SessionStore, SessionWatch, SessionWrite

__all__ = ["MemoryStore"]

logger = logging.getLogger("tornado_sesame")

# How many ends are remembered at most; each for a minute.
MAX_ENDS = 10_000

# How much time must be between two searches for what has expired, since each goes through all sessions.
SWEEP_INTERVAL = timedelta(seconds=1)


class MemoryStore(SessionStore):
    """Keeps sessions until the process ends.

    Each process has its own sessions, so the server must be a single process: with two, as after ``server.start(2)``, a
    visitor has his session or not, depending on which of them answers. When a second process uses the store, a warning
    in the log says so.

    When there is no room for a new session, expired ones are dropped. If there are none, the least recently used one
    without an owner (see `SessionMixin.session_owner`) is dropped, and one with an owner only when all have one. So
    visitors without a cookie, however many, do not sign users out. When a session that has not expired is dropped for
    the first time, a warning in the log says so.

    :arg max_sessions: how many sessions are kept.
    :raises ValueError: when *max_sessions* is less than 1.
    """

    def __init__(self, max_sessions: int = 10_000) -> None:
        if max_sessions < 1:
            raise ValueError(f"max_sessions={max_sessions!r}: must be at least 1")
        self.max_sessions = max_sessions
        # OrderedDicts, as a dict takes the longer to find its first key, the more were removed from before it.
        self._ownerless: OrderedDict[str, SessionRecord] = OrderedDict()  # the least recently used first
        self._owned: OrderedDict[str, SessionRecord] = OrderedDict()  # likewise
        self._ends: OrderedDict[str, SessionEnd] = OrderedDict()  # the oldest first
        self._next_sweep = datetime.min.replace(tzinfo=UTC)
        self._has_warned = False
        self._processes = _Processes()
        self._watches: set[_Watch] = set()

    async def load(
        self, ids: Sequence[str], *, timeout: float
    ) -> Mapping[str, SessionRecord | SessionEnd | SessionRecordError]:
        self._processes.note()
        found: dict[str, SessionRecord | SessionEnd | SessionRecordError] = {}
        for id in ids:
            stored = self._stored(id)
            if isinstance(stored, SessionRecord):
                (self._ownerless if stored.owner is None else self._owned).move_to_end(id)
                found[id] = _copied(stored)
            elif stored is not None:
                found[id] = stored
        return found

    async def save(self, writes: Sequence[SessionWrite], *, timeout: float) -> Sequence[SaveResult]:
        self._processes.note()
        return [self._save(write) for write in writes]

    async def pop(self, end: SessionEnd, *, timeout: float) -> SessionRecord | SessionEnd | None:
        self._processes.note()
        stored = self._stored(end.id)
        self._save(end)
        return stored

    async def records(self, owner: str | None = None, *, timeout: float) -> AsyncIterator[SessionRecord]:
        self._processes.note()
        for id in [*self._owned, *self._ownerless]:
            record = self._stored(id)
            if isinstance(record, SessionRecord) and owner in (None, record.owner):
                yield _copied(record)

    def watch(self) -> SessionWatch:
        return _Watch(self._watches)

    def _stored(self, id: str) -> SessionRecord | SessionEnd | None:
        return self._owned.get(id) or self._ownerless.get(id) or self._ends.get(id)

    def _save(self, write: SessionWrite) -> SaveResult:
        stored = self._stored(write.id)
        match write.apply(stored):
            case SessionRecord() as record:
                if isinstance(stored, SessionRecord):
                    self._remove(stored)
                elif len(self._ownerless) + len(self._owned) >= self.max_sessions:
                    self._make_room(record.updated)
                (self._ownerless if record.owner is None else self._owned)[record.id] = record
            case SessionEnd() as end:
                if isinstance(stored, SessionRecord):
                    self._remove(stored)
                self._forget_ends(end)
                self._ends[end.id] = end
            case result:
                return result
        self._tell(write.id)
        return Outcome.SAVED

    def _tell(self, id: str) -> None:
        for watch in self._watches:
            watch.note(id)

    def _make_room(self, moment: datetime) -> None:
        """Drops one session, or all that have expired at *moment*."""
        if moment >= self._next_sweep:
            self._next_sweep = moment + SWEEP_INTERVAL
            expired = [
                record for record in chain(self._ownerless.values(), self._owned.values()) if record.expires <= moment
            ]
            for record in expired:
                self._remove(record)
                self._tell(record.id)
            if expired:
                return
        _, dropped = (self._ownerless or self._owned).popitem(last=False)
        self._tell(dropped.id)
        if dropped.expires > moment and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "MemoryStore is full and begins to drop sessions that have not expired, as max_sessions=%d: give it a "
                "larger max_sessions, or use SQLiteStore or MongoStore",
                self.max_sessions,
            )

    def _remove(self, record: SessionRecord) -> None:
        del (self._ownerless if record.owner is None else self._owned)[record.id]

    def _forget_ends(self, newest: SessionEnd) -> None:
        self._ends.pop(newest.id, None)
        while self._ends:
            oldest = next(iter(self._ends.values()))
            if oldest.expires > newest.ended and len(self._ends) < MAX_ENDS:
                break
            del self._ends[oldest.id]


class _Watch(SessionWatch):
    """Tells of the writes of all managers that use one store.

    :arg watches: where it is as long as it is open.
    """

    def __init__(self, watches: "set[_Watch]") -> None:
        self._watches = watches
        self._followed: Collection[str] = ()
        self._written: set[str] = set()
        self._is_written = Event()

    async def follow(self, ids: Collection[str]) -> None:
        self._followed = frozenset(ids)
        self._watches.add(self)

    async def changed(self) -> Collection[str]:
        await self._is_written.wait()
        self._is_written.clear()
        written, self._written = self._written, set()
        return written

    async def close(self) -> None:
        self._watches.discard(self)

    def note(self, id: str) -> None:
        if id in self._followed:
            self._written.add(id)
            self._is_written.set()


class _Processes:
    """Notices that a store is used by a second process, and warns once in all of them.

    It may have been inherited over a fork, or is one of several that workers made for themselves. That the process
    which made it has forked is nothing to warn of, as it may be a daemon that goes on in the child.
    """

    def __init__(self) -> None:
        # Two numbers that a process shares with those that it forks: the pid of the first that used the store, and
        # whether they have warned. There is no lock: when two are the first at the same time, the one whose pid was
        # written over finds the other's when it uses the store next.
        self._shared = memoryview(mmap.mmap(-1, 16)).cast("q")
        worker = task_id()
        if worker is not None and worker > 0:
            self._shared[0] = -1  # worker 0 has made another

    def note(self) -> None:
        """Is called by the process that uses the store, each time."""
        first = self._shared[0]
        if first == _pid:
            return
        if first == 0:
            self._shared[0] = _pid
        elif not self._shared[1]:
            self._shared[1] = 1
            logger.warning(
                "MemoryStore is used by several processes, and sessions in memory are not shared between processes: "
                "use SQLiteStore(path) or MongoStore"
            )


def _copied(record: SessionRecord) -> SessionRecord:
    # Not by replace(), which takes as long as all the rest of a load.
    data: dict[str, Any] = plain(record.data)
    return SessionRecord(
        record.id, data, record.created, record.updated, record.expires, record.owner, record.lifetime, record.owned
    )


_pid = os.getpid()


def _on_fork() -> None:
    global _pid
    _pid = os.getpid()


if hasattr(os, "register_at_fork"):  # on Windows, no process forks
    # Not at each use of a store, where asking for the pid would take a tenth of the time.
    os.register_at_fork(after_in_child=_on_fork)
