"""Sessions in this process's memory: for development, tests and single-process servers that may forget."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from ..errors import SessionRecordError
from ..values import plain
from .base import Outcome, SaveResult, SessionEnd, SessionRecord, SessionStore, SessionWrite

__all__ = ["MemoryStore"]


# How many ends are remembered at most; each for a minute.
MAX_ENDS = 10_000


class MemoryStore(SessionStore):
    """Keeps sessions until the process ends.

    :arg max_sessions: how many are kept; beyond that, the one that was saved least recently is dropped.
    """

    def __init__(self, max_sessions: int = 10_000) -> None:
        if max_sessions < 1:
            raise ValueError(f"max_sessions={max_sessions!r}: must be at least 1")
        self.max_sessions = max_sessions
        self._records: dict[str, SessionRecord] = {}  # the least recently saved first
        self._ends: dict[str, SessionEnd] = {}  # the oldest first

    async def load(
        self, ids: Sequence[str], *, timeout: float
    ) -> Mapping[str, SessionRecord | SessionEnd | SessionRecordError]:
        found = ((id, self._stored(id)) for id in ids)
        return {id: _copied(stored) for id, stored in found if stored is not None}

    async def save(self, writes: Sequence[SessionWrite], *, timeout: float) -> Sequence[SaveResult]:
        return [self._save(write) for write in writes]

    async def pop(self, end: SessionEnd, *, timeout: float) -> SessionRecord | None:
        record = self._records.get(end.id)
        self._save(end)
        return record

    async def records(self, owner: str | None = None, *, timeout: float) -> AsyncIterator[SessionRecord]:
        for id in list(self._records):
            record = self._records.get(id)
            if record is not None and owner in (None, record.owner):
                yield _copied_record(record)

    def _stored(self, id: str) -> SessionRecord | SessionEnd | None:
        return self._records.get(id) or self._ends.get(id)

    def _save(self, write: SessionWrite) -> SaveResult:
        match write.apply(self._stored(write.id)):
            case SessionRecord() as record:
                self._records.pop(record.id, None)  # so that it moves to the end
                self._records[record.id] = record
                if len(self._records) > self.max_sessions:
                    del self._records[next(iter(self._records))]
            case SessionEnd() as end:
                self._records.pop(end.id, None)
                self._forget_ends(end)
                self._ends[end.id] = end
            case result:
                return result
        return Outcome.SAVED

    def _forget_ends(self, newest: SessionEnd) -> None:
        self._ends.pop(newest.id, None)
        while self._ends:
            oldest = next(iter(self._ends.values()))
            if oldest.expires > newest.ended and len(self._ends) < MAX_ENDS:
                break
            del self._ends[oldest.id]


def _copied(stored: SessionRecord | SessionEnd) -> SessionRecord | SessionEnd:
    return _copied_record(stored) if isinstance(stored, SessionRecord) else stored


def _copied_record(record: SessionRecord) -> SessionRecord:
    # Not by replace(), which takes as long as all the rest of a load.
    data: dict[str, Any] = plain(record.data)
    return SessionRecord(record.id, data, record.created, record.updated, record.expires, record.owner)
