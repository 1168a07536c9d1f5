"""A store of one's own, as in the README's recipe: sessions in a plain file of JSON lines.

Every save appends the session as it is then, or its end, and the last line on a session counts. Memory holds where that
is. The file can be read with a text editor and belongs to one process. It only grows; what moves its records into a new
one makes it small again.
"""

import errno
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from bson import json_util

from tornado_sesame import (
    CODEC_OPTIONS,
    Outcome,
    SaveResult,
    SessionEnd,
    SessionNotSaved,
    SessionRecord,
    SessionStore,
    SessionWrite,
)

JSON = json_util.CANONICAL_JSON_OPTIONS.with_options(
    tz_aware=True, uuid_representation=CODEC_OPTIONS.uuid_representation
)


class JSONLinesStore(SessionStore):
    """Keeps sessions in the file at *path*. A line is read and written faster than a thread would be told to."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._places: dict[str, tuple[int, int]] = {}  # by id, where its last line begins, and its length
        self._end = 0
        # Unbuffered: what is written is in the file, or it has failed.
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "a+b", buffering=0)
        with open(path, "rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):  # else a process has ended while it wrote
                    self._note(json_util.loads(line, json_options=JSON), len(line))
        self._file.truncate(self._end)

    async def load(self, ids: Sequence[str], *, timeout: float) -> Mapping[str, SessionRecord | SessionEnd]:
        return {id: stored for id in ids if (stored := self._read(id))}

    async def save(self, writes: Sequence[SessionWrite], *, timeout: float) -> Sequence[SaveResult]:
        results = [self._save(write) for write in writes]
        os.fsync(self._file)
        return results

    async def pop(self, end: SessionEnd, *, timeout: float) -> SessionRecord | SessionEnd | None:
        stored = self._read(end.id)
        await self.save([end], timeout=timeout)
        return stored

    async def records(self, owner: str | None = None, *, timeout: float) -> AsyncIterator[SessionRecord]:
        for id in list(self._places):
            stored = self._read(id)
            if isinstance(stored, SessionRecord) and owner in (None, stored.owner):
                yield stored

    async def close(self) -> None:
        self._file.close()

    def _save(self, write: SessionWrite) -> SaveResult:
        result = write.apply(self._read(write.id))
        if not isinstance(result, SessionRecord | SessionEnd):
            return result
        try:
            self._append(asdict(result))
        except OSError as error:
            return SessionNotSaved(str(error))
        except TypeError:  # its text may quote the value, and goes to the log
            return SessionNotSaved("it has a value that JSON cannot have")
        return Outcome.SAVED

    def _read(self, id: str) -> SessionRecord | SessionEnd | None:
        if id not in self._places:
            return None
        begin, length = self._places[id]
        self._file.seek(begin)
        fields = json_util.loads(self._file.read(length), json_options=JSON)
        if "ended" in fields:
            return SessionEnd(**fields)
        seconds = fields.pop("lifetime")
        lifetime = None if seconds is None else timedelta(seconds=seconds)
        return SessionRecord(**{**fields, "data": _with_keys(fields["data"], "$$", "$")}, lifetime=lifetime)

    def _append(self, fields: dict[str, Any]) -> None:
        if "data" in fields:
            lifetime = fields["lifetime"] and fields["lifetime"].total_seconds()
            fields = {**fields, "data": _with_keys(fields["data"], "$", "$$"), "lifetime": lifetime}
        line = json_util.dumps(fields, json_options=JSON).encode() + b"\n"
        if self._file.write(line) < len(line):
            self._file.truncate(self._end)  # as half a line would spoil the next
            raise OSError(errno.ENOSPC, "no space for a session")
        self._note(fields, len(line))

    def _note(self, fields: dict[str, Any], length: int) -> None:
        self._places[fields["id"]] = self._end, length
        self._end += length


def _with_keys(value: Any, old: str, new: str) -> Any:
    """Returns *value* with another beginning of keys: in extended JSON, ``{"$oid": ...}`` is not a dict."""
    if type(value) is dict:
        return {
            key.replace(old, new, 1) if key.startswith(old) else key: _with_keys(item, old, new)
            for key, item in value.items()
        }
    return [_with_keys(item, old, new) for item in value] if type(value) is list else value
