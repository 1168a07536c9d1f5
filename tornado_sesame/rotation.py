"""The move of one stored session to a new id, which loses it at no moment."""

import asyncio
from contextlib import suppress
from datetime import datetime
from typing import Any

from bson import encode

from .calls import StoreCalls, end_of
from .changes import Changes, Op, Set, Unset
from .errors import SessionNotSaved, SessionStoreError
from .settings import UNTOLD_LIFETIME, SessionSettings, now, truncated_to_ms
from .stores import Outcome, SessionEnd, SessionInsert, SessionRecord, SessionUpdate
from .values import CODEC_OPTIONS, MISSING, plain

__all__ = ["Rotation"]

# How many seconds are between two attempts to find out what became of a move.
RETRY_SECONDS = 1.0


class Rotation:
    """Moves a session from one id to another.

    1. `begin` stores a copy under the new id, for `UNTOLD_LIFETIME`. Whatever happens, the session is where it was.
    2. `complete` ends the old one and gets it as it was last, in one step of the store: at this moment it moves.
    3. Then it makes the new one last, with what overlapping requests have saved since the copy was made.

    When the store does not say whether the second or the third step was done, that is found out and completed in the
    background, for as long as the copy lives. The client gets the new secret by then.

    What remains is a store that does not answer for all that time after it has done the second step: then the copy
    expires, and what others saved between the first two steps, in the same milliseconds, goes with the lost answer.
    """

    def __init__(self, settings: SessionSettings, calls: StoreCalls, old: str, new: str) -> None:
        self._settings = settings
        self._calls = calls
        self._old = old
        self._new = new

    async def begin(self, data: dict[str, Any], created: datetime, owner: str | None) -> None:
        """Stores a copy.

        :raises SessionStoreError: when that failed.
        """
        moment = truncated_to_ms(now())
        expires = min(moment + UNTOLD_LIFETIME, self._settings.expiry(created, moment))
        self._copy = SessionRecord(self._new, data, created, moment, expires, owner)
        given = SessionRecord(self._new, plain(data), created, moment, expires, owner)  # as the store may change it
        await self._calls.write(SessionInsert(given))

    async def complete(self) -> datetime | None:
        """Ends the old one and makes the new one last.

        :returns: when it will expire; None when the session had ended before it could move.
        :raises SessionNotSaved: when it has not moved, for certain.
        :raises SessionStoreError: when nobody knows whether it has, or whether it will last.
        """
        end = end_of(self._old)
        try:
            record = await self._calls.pop(end)
        except SessionNotSaved:
            raise
        except SessionStoreError:
            self._calls.start(self._find_out(end))
            raise
        if record is None:
            with suppress(SessionStoreError):  # if that fails, it expires, and nobody has its secret
                await self._calls.end([self._new])
            return None
        try:
            return await self._settle(record)
        except SessionStoreError as error:
            self._calls.start(self._settle_later(record))
            failure = SessionStoreError(error.log_message or "")  # also in place of a SessionNotSaved
            failure.is_logged = True
            raise failure from error.__cause__

    async def _settle(self, record: SessionRecord) -> datetime | None:
        """Makes the new one last as *record*."""
        moment = truncated_to_ms(now())
        expires = self._settings.expiry(record.created, moment)
        changes = _difference(self._copy, record)
        outcome = await self._calls.write(SessionUpdate(self._new, changes, moment, expires))
        return expires if outcome is Outcome.SAVED else None

    async def _settle_later(self, record: SessionRecord) -> None:
        while self._has_time:
            await asyncio.sleep(RETRY_SECONDS)
            with suppress(SessionStoreError):
                await self._settle(record)
                return

    async def _find_out(self, end: SessionEnd) -> None:
        while self._has_time:
            await asyncio.sleep(RETRY_SECONDS)
            stored = await self._calls.load(self._old)
            record: SessionRecord | None = None  # somebody else has ended it
            with suppress(SessionStoreError):
                if isinstance(stored, SessionStoreError):
                    continue
                if isinstance(stored, SessionRecord):
                    record = await self._calls.pop(end)
                elif isinstance(stored, SessionEnd) and stored.ended == end.ended:
                    record = self._copy
                if record is None:
                    await self._calls.end([self._new])
                else:
                    await self._settle_later(record)
                return

    @property
    def _has_time(self) -> bool:
        return now() < self._copy.expires


def _difference(one: SessionRecord, other: SessionRecord) -> Changes:
    """Returns the changes that make *one* what *other* is."""
    ops: dict[tuple[str, ...], Op] = {}
    for name in {**one.data, **other.data}:
        value = other.data.get(name, MISSING)
        if value is MISSING:
            ops[name,] = Unset()
        elif name not in one.data or _encoded(one.data[name]) != _encoded(value):
            ops[name,] = Set(value)
    return Changes(ops, None if one.owner == other.owner else Set(other.owner))


def _encoded(value: Any) -> bytes:
    return encode({"": value}, codec_options=CODEC_OPTIONS)
