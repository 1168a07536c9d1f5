"""The move of one stored session to a new id, which loses it at no moment."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

from bson import encode

from .calls import StoreCalls, end_of
from .changes import Changes, Inc, Op, Push, Set, Unset
from .errors import SessionNotSaved, SessionStoreError
from .session import SessionData
from .settings import UNTOLD_LIFETIME, SessionSettings, now, truncated_to_ms
from .stores import Conflict, Outcome, SessionEnd, SessionInsert, SessionRecord, SessionUpdate
from .values import CODEC_OPTIONS, MISSING, Path, plain

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

    The client may use the new one by then. So what others have saved since the copy is added to it as increments,
    appends and assignments of the smallest fields, and not again when it may have been added.

    What remains is a store that does not answer for all that time after it has done the second step: then the copy
    expires. And when the answer to the second or third step is lost, what others saved since the copy was made, in the
    same milliseconds, may be lost with it.
    """

    def __init__(self, settings: SessionSettings, calls: StoreCalls, old: str, new: str) -> None:
        self._settings = settings
        self._calls = calls
        self._old = old
        self._new = new

    async def begin(self, content: SessionData, created: datetime) -> None:
        """Stores a copy.

        :raises SessionStoreError: when that failed.
        """
        moment = truncated_to_ms(now())
        expires = min(moment + UNTOLD_LIFETIME, self._settings.expiry(created, moment, content.lifetime))
        owned = None if content.owner is None else moment
        self._copy = SessionRecord(
            self._new, content.whole(), created, moment, expires, content.owner, content.lifetime, owned
        )
        given = replace(self._copy, data=plain(self._copy.data))  # as the store may change it
        await self._calls.write(SessionInsert(given))

    async def complete(self) -> SessionRecord | None:
        """Ends the old one and makes the new one last.

        :returns: the new one; None when the session had ended before it could move.
        :raises SessionNotSaved: when it has not moved, for certain.
        :raises SessionStoreError: when nobody knows whether it has, or whether it will last.
        """
        end = end_of(self._old, "rotated")
        ends = {end}
        try:
            record = await self._calls.pop(end)
        except SessionNotSaved:
            raise
        except SessionStoreError as error:
            try:
                record = await self._look_again(ends)
            except SessionStoreError:
                self._calls.start(self._find_out(ends))
                raise error from error.__cause__
        if not isinstance(record, SessionRecord):
            with suppress(SessionStoreError):  # if that fails, it expires, and nobody has its secret
                await self._calls.end([self._new])
            return None
        try:
            return await self._settle(record)
        except SessionStoreError as error:
            is_certain = isinstance(error, SessionNotSaved)
            self._calls.start(self._settle_later(record if is_certain else self._copy))
            failure = SessionStoreError(error.log_message or "")  # also in place of a SessionNotSaved
            failure.is_logged = True
            raise failure from error.__cause__

    async def _settle(self, record: SessionRecord) -> SessionRecord | None:
        """Makes the new one last, with what *record* has more than the copy, and returns it; None when it has ended."""
        changes = _difference(self._copy, record)
        while True:
            moment = truncated_to_ms(now())
            expires = self._settings.expiry(record.created, moment, record.lifetime)
            update = SessionUpdate(self._new, changes, moment, expires, self._copy.lifetime)
            outcome = await self._calls.write(update)
            if not isinstance(outcome, Conflict):
                return replace(record, id=self._new, expires=expires) if outcome is Outcome.SAVED else None
            changes = Changes()  # the client has the new one already, and has changed its shape

    async def _settle_later(self, record: SessionRecord) -> None:
        while self._has_time:
            await asyncio.sleep(RETRY_SECONDS)
            try:
                await self._settle(record)
            except SessionNotSaved:
                pass
            except SessionStoreError:
                record = self._copy  # what it has more may be there, and must not be added twice
            else:
                return

    async def _find_out(self, ends: set[SessionEnd]) -> None:
        while self._has_time:
            await asyncio.sleep(RETRY_SECONDS)
            with suppress(SessionStoreError):
                record = await self._look_again(ends)
                if record is not None:
                    await self._settle_later(record)
                else:
                    await self._calls.end([self._new])
                return

    async def _look_again(self, ends: set[SessionEnd]) -> SessionRecord | None:
        """Finds out whether the old one was ended by us, ends it if nobody has, and returns it; None when others have.

        An earlier attempt may still be done late, by a server that hung, at any moment.

        :arg ends: with which we have ended it or tried to; more is added to them.
        :raises SessionStoreError: when nobody knows.
        """
        stored = await self._calls.load(self._old)
        if isinstance(stored, SessionStoreError):
            raise stored
        again: SessionRecord | SessionEnd | None = stored
        if isinstance(stored, SessionRecord):
            end = end_of(self._old, "rotated")
            ends.add(end)
            again = await self._calls.pop(end)
        if isinstance(again, SessionEnd) and again in ends:
            return self._copy
        return again if isinstance(again, SessionRecord) else None

    @property
    def _has_time(self) -> bool:
        return now() < self._copy.expires


def _difference(one: SessionRecord, other: SessionRecord) -> Changes:
    """Returns the changes that make *one* what *other* is, and leave alone what somebody else changes in *one*."""
    ops: dict[Path, Op] = {}
    _compare((), one.data, other.data, ops)
    owner = None if one.owner == other.owner else Set(other.owner)
    return Changes(ops, owner, None if one.lifetime == other.lifetime else Set(other.lifetime))


def _compare(path: Path, one: Any, other: Any, ops: dict[Path, Op]) -> None:
    if type(one) is type(other) is dict:
        for name in {**one, **other}:
            _compare((*path, name), one.get(name, MISSING), other.get(name, MISSING), ops)
    elif other is MISSING:
        ops[path] = Unset()
    elif one is MISSING:
        ops[path] = Set(other)
    elif type(one) is type(other) is int:
        if one != other:
            ops[path] = Inc(other - one)
    elif _encoded(one) != _encoded(other):
        is_longer = type(one) is type(other) is list and _encoded(other[: len(one)]) == _encoded(one)
        ops[path] = Push(other[len(one) :]) if is_longer else Set(other)


def _encoded(value: Any) -> bytes:
    return encode({"": value}, codec_options=CODEC_OPTIONS)
