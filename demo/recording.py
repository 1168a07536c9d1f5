"""A store that remembers what it was last asked to save, so that the demo can show it."""

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple

from tornado_sesame import (
    Inc,
    Push,
    SaveResult,
    SessionEnd,
    SessionInsert,
    SessionRecord,
    SessionRecordError,
    SessionStore,
    SessionUpdate,
    SessionWatch,
    SessionWrite,
    Set,
    Unset,
)

__all__ = ["Command", "RecordingStore"]

REMEMBERED = 1_000  # sessions


class Command(NamedTuple):
    """What a session was saved with.

    :arg update: in MongoDB's words.
    :arg sessions: how many sessions shared the command.
    :arg milliseconds: that it took.
    """

    update: dict[str, Any]
    sessions: int
    milliseconds: float


class RecordingStore(SessionStore):
    """Hands everything to another store."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._last: OrderedDict[str, Command] = OrderedDict()

    def last(self, id: str | None) -> Command | None:
        """Returns what a session was saved with last."""
        return self._last.get(id or "")

    async def load(
        self, ids: Sequence[str], *, timeout: float
    ) -> Mapping[str, SessionRecord | SessionEnd | SessionRecordError]:
        return await self._store.load(ids, timeout=timeout)

    async def save(self, writes: Sequence[SessionWrite], *, timeout: float) -> Sequence[SaveResult]:
        updates = {write.id: update for write in writes if (update := _update(write))}
        began = time.perf_counter()
        results = await self._store.save(writes, timeout=timeout)
        milliseconds = (time.perf_counter() - began) * 1000
        for id, update in updates.items():
            self._last[id] = Command(update, len(writes), milliseconds)
            self._last.move_to_end(id)
        while len(self._last) > REMEMBERED:
            self._last.popitem(last=False)
        return results

    async def pop(self, end: SessionEnd, *, timeout: float) -> SessionRecord | SessionEnd | None:
        return await self._store.pop(end, timeout=timeout)

    def records(self, owner: str | None = None, *, timeout: float) -> AsyncIterator[SessionRecord | SessionRecordError]:
        return self._store.records(owner, timeout=timeout)

    def watch(self) -> SessionWatch | None:
        return self._store.watch()

    async def close(self) -> None:
        await self._store.close()


def _update(write: SessionWrite) -> dict[str, Any]:
    """Returns what *write* does, in MongoDB's words; {} when that is nothing that is shown."""
    if isinstance(write, SessionInsert):
        return {"insert": write.record.data}
    update: dict[str, Any] = {}
    if isinstance(write, SessionUpdate):
        for path, op in write.changes.ops.items():
            field = ".".join(path)
            match op:
                case Inc(amount):
                    update.setdefault("$inc", {})[field] = amount
                case Push(values):
                    update.setdefault("$push", {})[field] = values
                case Set(value):
                    update.setdefault("$set", {})[field] = value
                case Unset():
                    update.setdefault("$unset", {})[field] = True
    return update
