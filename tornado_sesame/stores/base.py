"""What a session store is: a few methods that each handle many sessions at once.

What a write does to what is stored stands here, in the ``apply`` of the three kinds of writes. A store reads what it
has under the write's id, asks ``apply``, and keeps the answer, in one step that no other write comes between.
"""

import enum
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from ..changes import Changes
from ..errors import SessionRecordError

__all__ = [
    "Conflict",
    "Outcome",
    "SaveResult",
    "SessionEnd",
    "SessionInsert",
    "SessionNotWatchable",
    "SessionRecord",
    "SessionStore",
    "SessionUpdate",
    "SessionWatch",
    "SessionWrite",
]


@dataclass(slots=True)
class SessionRecord:
    """A session as it is stored.

    :arg id: the SHA-256 of the cookie's secret, in hex. It opens no session, so it is safe to log.
    :arg data: the content, as plain dicts and lists. Whoever gets the record owns it and may change it.
    :arg created: when the session began. This and all other times are aware UTC datetimes with whole milliseconds.
    :arg updated: when it was last saved or extended.
    :arg expires: when it will expire if nobody uses it again.
    :arg owner: to whom it belongs, a user's id; None for nobody.
    :arg lifetime: how long it lives without being used, in whole milliseconds; None for the manager's ``idle_timeout``.
    :arg owned: since when it belongs to its owner; None without one.
    """

    id: str
    data: dict[str, Any]
    created: datetime
    updated: datetime
    expires: datetime
    owner: str | None = None
    lifetime: timedelta | None = None
    owned: datetime | None = None


class Outcome(enum.Enum):
    """How a write that did not fail ended."""

    SAVED = enum.auto()
    """What was written is stored."""

    GONE = enum.auto()
    """There is no such session any more: it was destroyed, rotated or has expired. Nobody will see what was written."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """The changes do not fit what is stored (see `Changes.conflicts`), so nothing was written.

    :arg fields: the top-level fields that they do not fit.
    """

    fields: frozenset[str]


@dataclass(frozen=True, slots=True)
class SessionEnd:
    """Ends a session, and stays in its place for a while to say so; the content is gone.

    Without it, an insert that was under way when the session ended would bring it back.

    :arg id: the session's id. There need not be such a session.
    :arg ended: when it ended.
    :arg expires: when a store may forget the end.
    :arg reason: "destroyed", or "rotated" when the session goes on under another id.
    """

    id: str
    ended: datetime
    expires: datetime
    reason: Literal["destroyed", "rotated"] = "destroyed"

    def apply(self, stored: "SessionRecord | SessionEnd | None") -> "SessionEnd":
        """Returns what is to be stored in place of *stored*. The first end stays, so that its maker recognises it."""
        return stored if isinstance(stored, SessionEnd) else self


@dataclass(slots=True)
class SessionInsert:
    """Stores a new session.

    :arg record: the session.
    """

    record: SessionRecord

    @property
    def id(self) -> str:
        """The session's id."""
        return self.record.id

    def apply(self, stored: SessionRecord | SessionEnd | None) -> SessionRecord | Outcome:
        """Returns what is to be stored in place of *stored*, or why nothing is.

        A session that is there already was inserted by this same write, which came twice. One that has ended stays so.
        """
        if stored is None:
            return self.record
        return Outcome.GONE if isinstance(stored, SessionEnd) else Outcome.SAVED


@dataclass(slots=True)
class SessionUpdate:
    """Changes a session that exists.

    :arg id: the session's id.
    :arg changes: what to do to the stored session.
    :arg updated: when the save was made. A stored session that had expired by then counts as absent.
    :arg expires: when the session will expire; None leaves that as it is.
    :arg lifetime: the stored session's lifetime, from which *expires* was computed. If another request has given the
        session another lifetime meanwhile, the *expires* of that request stays, unless *changes* set a lifetime, too.
    """

    id: str
    changes: Changes
    updated: datetime
    expires: datetime | None = None
    lifetime: timedelta | None = None

    def knows_lifetime_of(self, stored: SessionRecord) -> bool:
        """Tells whether `expires` holds for *stored*: no other request has given it another lifetime."""
        return self.changes.lifetime is not None or stored.lifetime == self.lifetime

    def apply(self, stored: SessionRecord | SessionEnd | None) -> SessionRecord | Outcome | Conflict:
        """Returns what is to be stored in place of *stored*, or why nothing is. It may modify the data of *stored*."""
        if not isinstance(stored, SessionRecord) or stored.expires <= self.updated:
            return Outcome.GONE
        if fields := self.changes.conflicts(stored.data):
            return Conflict(frozenset(fields))
        owner, lifetime = self.changes.owner, self.changes.lifetime
        expires = self.expires if self.knows_lifetime_of(stored) else None
        return SessionRecord(
            id=stored.id,
            data=self.changes.apply(stored.data),
            created=stored.created,
            updated=self.updated,
            expires=expires or stored.expires,
            owner=stored.owner if owner is None else owner.value,
            lifetime=stored.lifetime if lifetime is None else lifetime.value,
            owned=stored.owned if owner is None else None if owner.value is None else self.updated,
        )


SessionWrite = SessionInsert | SessionUpdate | SessionEnd
"""What a store is given to save."""

SaveResult = Outcome | Conflict | Exception
"""How a write has ended; an exception when it could not be done."""


class SessionStore(ABC):
    """Where sessions are kept.

    The manager calls a store with the sessions of all requests that wait at the moment, at least one, and several calls
    may be under way at once. *timeout* is how many seconds a call may take; a little later the manager gives it up, and
    some seconds after that cancels it.

    A method that raises has failed for all sessions that it was given. A store need not retry or log, as the manager
    does. The texts of its exceptions go to the log, so they must not quote values from sessions.
    """

    @abstractmethod
    async def load(
        self, ids: Sequence[str], *, timeout: float
    ) -> Mapping[str, SessionRecord | SessionEnd | SessionRecordError]:
        """Returns what is stored under these *ids*, by id. An id under which nothing is stored is left out.

        An expired session may be returned or left out. A session that cannot be read must not be left out, as its user
        would be given a new one; in its place there is a `SessionRecordError`, and the others are returned as always.
        """

    @abstractmethod
    async def save(self, writes: Sequence[SessionWrite], *, timeout: float) -> Sequence[SaveResult]:
        """Does what each of the *writes* says, each atomically, and returns how each ended, in their order.

        ``write.apply(stored)`` says what is to be stored. A write ended with `Outcome.SAVED`, or with the `Outcome` or
        `Conflict` that ``apply`` returned in place of what to store. Several writes may be for one session, by requests
        that overlap, and may be done in any order. An update of an expired session that is still there may be done, as
        long as the session stays expired.

        A write that cannot be done leaves the others alone. Its result is a `SessionNotSaved` if the store is certain
        that nothing of it was done or will be; the manager then saves it again. After any other exception nobody knows,
        so the manager never does. The same holds for what the method raises. Values in *writes* belong to the store.
        """

    @abstractmethod
    async def pop(self, end: SessionEnd, *, timeout: float) -> SessionRecord | SessionEnd | None:
        """Saves *end* and returns what was stored, atomically; None when nothing was.

        Whatever was saved before is in what is returned, and whatever is saved later finds the session gone
        (`Outcome.GONE`). A session that has ended keeps its first end, and that is returned.
        """

    @abstractmethod
    def records(self, owner: str | None = None, *, timeout: float) -> AsyncIterator[SessionRecord | SessionRecordError]:
        """Iterates over all sessions, or over those of an *owner*; most stores have an async generator for this.

        A session that cannot be read comes as a `SessionRecordError`. Expired sessions may be among them, ends are not.
        The iterator need not see what is saved while it runs, and must not hold all sessions in memory at once.
        *timeout* is for each step.
        """

    def watch(self) -> "SessionWatch | None":
        """Returns what tells of writes by other processes, for handlers that live long.

        None, the default, means that the store cannot tell. The manager then loads the sessions of these handlers once
        a second.
        """
        return None

    async def close(self) -> None:  # noqa: B027 - most stores have nothing to release
        """Releases what the store itself opened. The manager calls it once, when nothing is under way any more."""


class SessionNotWatchable(Exception):
    """The store cannot tell of writes, and that will not change. The text says why."""


class SessionWatch(ABC):
    """Tells of writes to some sessions of a store, whichever process made them.

    One task at a time calls `changed`, and another may call `follow` meanwhile. When either raises, the manager closes
    the watch, asks the store for a new one a second later, and looks at all open sessions; so an error loses nothing.
    """

    @abstractmethod
    async def follow(self, ids: Collection[str]) -> None:
        """Follows the sessions with these *ids* from now on, in place of those that were followed before.

        `changed` tells within a second of a write that begins after this has returned. It misses no write to a session
        that was followed before and still is.

        :raises SessionNotWatchable: when the store cannot do that.
        """

    @abstractmethod
    async def changed(self) -> Collection[str] | None:
        """Waits until something was written, and returns the ids of the sessions; None: it may be any of them.

        It may return an id without need. A session that expires is not written.

        :raises SessionNotWatchable: when the store cannot do that.
        """

    @abstractmethod
    async def close(self) -> None:
        """Ends it. `changed` is not waiting any more."""
