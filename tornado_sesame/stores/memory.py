"""Sessions in this process's memory: for development, tests and single-process servers that may forget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from bson import decode, encode

from ..values import CODEC_OPTIONS
from .base import Conflict, Outcome, SaveResult, SessionRecord, SessionStore, SessionWrite

__all__ = ["MemoryStore"]


class MemoryStore(SessionStore):
    """Keeps sessions until the process ends.

    They are kept as BSON, so what works here works in MongoDB, and a session that was loaded shares nothing with the
    stored one.

    :arg max_sessions: how many are kept; beyond that, the one that was saved least recently is dropped.
    """

    def __init__(self, max_sessions: int = 10_000) -> None:
        if max_sessions < 1:
            raise ValueError(f"max_sessions={max_sessions!r}: must be at least 1")
        self.max_sessions = max_sessions
        self._rows: dict[str, _Row] = {}  # the least recently saved first

    async def load(self, ids: Sequence[str]) -> Mapping[str, SessionRecord | Exception]:
        return {id: self._rows[id].record(id) for id in ids if id in self._rows}

    async def save(self, writes: Sequence[SessionWrite]) -> Sequence[SaveResult]:
        return [self._save(write) for write in writes]

    async def pop(self, id: str) -> SessionRecord | None:
        row = self._rows.pop(id, None)
        return None if row is None else row.record(id)

    async def delete(self, ids: Sequence[str]) -> None:
        for id in ids:
            self._rows.pop(id, None)

    def _save(self, write: SessionWrite) -> SaveResult:
        row = self._rows.get(write.id)
        if write.created is not None:
            if row is None:
                self._put(write, _Row.of(write.changes.apply({}), write.created, write, write.updated))
            return Outcome.SAVED
        if row is None or row.expires <= write.updated:
            return Outcome.GONE
        data = decode(row.data, CODEC_OPTIONS)
        if fields := write.changes.conflicts(data):
            return Conflict(frozenset(fields))
        self._put(write, _Row.of(write.changes.apply(data), row.created, write, row.expires))
        return Outcome.SAVED

    def _put(self, write: SessionWrite, row: "_Row") -> None:
        self._rows.pop(write.id, None)  # so that it moves to the end
        self._rows[write.id] = row
        if len(self._rows) > self.max_sessions:
            del self._rows[next(iter(self._rows))]


@dataclass(frozen=True, slots=True)
class _Row:
    data: bytes
    created: datetime
    updated: datetime
    expires: datetime

    @classmethod
    def of(cls, data: dict[str, object], created: datetime, write: SessionWrite, expires: datetime) -> "_Row":
        return cls(encode(data, codec_options=CODEC_OPTIONS), created, write.updated, write.expires or expires)

    def record(self, id: str) -> SessionRecord:
        return SessionRecord(id, decode(self.data, CODEC_OPTIONS), self.created, self.updated, self.expires)
