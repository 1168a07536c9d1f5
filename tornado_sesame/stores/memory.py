"""Sessions in this process's memory: for development, tests and single-process servers that may forget."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..values import plain
from .base import Conflict, Outcome, SaveResult, SessionRecord, SessionStore, SessionWrite

__all__ = ["MemoryStore"]


class MemoryStore(SessionStore):
    """Keeps sessions until the process ends.

    :arg max_sessions: how many are kept; beyond that, the one that was saved least recently is dropped.
    """

    def __init__(self, max_sessions: int = 10_000) -> None:
        if max_sessions < 1:
            raise ValueError(f"max_sessions={max_sessions!r}: must be at least 1")
        self.max_sessions = max_sessions
        self._records: dict[str, SessionRecord] = {}  # the least recently saved first

    async def load(self, ids: Sequence[str]) -> Mapping[str, SessionRecord | Exception]:
        found = [record for id in ids if (record := self._records.get(id))]
        return {record.id: _copied(record) for record in found}

    async def save(self, writes: Sequence[SessionWrite]) -> Sequence[SaveResult]:
        return [self._save(write) for write in writes]

    async def pop(self, id: str) -> SessionRecord | None:
        return self._records.pop(id, None)

    async def delete(self, ids: Sequence[str]) -> None:
        for id in ids:
            self._records.pop(id, None)

    async def records(self, owner: str | None = None) -> AsyncIterator[SessionRecord]:
        for id in list(self._records):
            record = self._records.get(id)
            if record is not None and owner in (None, record.owner):
                yield _copied(record)

    def _save(self, write: SessionWrite) -> SaveResult:
        record = self._records.get(write.id)
        if write.created is not None:
            if record is None:
                record = SessionRecord(write.id, {}, write.created, write.updated, write.updated)
                self._change(record, write)
            return Outcome.SAVED
        if record is None or record.expires <= write.updated:
            return Outcome.GONE
        if fields := write.changes.conflicts(record.data):
            return Conflict(frozenset(fields))
        self._change(record, write)
        return Outcome.SAVED

    def _change(self, record: SessionRecord, write: SessionWrite) -> None:
        data = write.changes.apply(record.data)
        self._records.pop(record.id, None)  # so that it moves to the end
        self._records[record.id] = replace(
            record,
            data=data,
            updated=write.updated,
            expires=write.expires or record.expires,
            owner=write.owner.value if write.owner else record.owner,
        )
        if len(self._records) > self.max_sessions:
            del self._records[next(iter(self._records))]


def _copied(record: SessionRecord) -> SessionRecord:
    data: dict[str, Any] = plain(record.data)
    return SessionRecord(record.id, data, record.created, record.updated, record.expires, record.owner)
