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

    :arg id: the SHA-256 of the cookie's secret, in hex.
    :arg data: the content. Whoever gets the record owns it and may change it.
    :arg created, updated, expires: aware UTC datetimes with whole milliseconds.
    :arg owner: to whom it belongs, a user's id; None for nobody.
    :arg lifetime: how long it lives without being used, in whole milliseconds; None for as long as most.
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
    GONE = enum.auto()
    """There is no such session any more: it was destroyed, rotated or has expired. Nobody will see what was written."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """The changes do not fit on what is stored (see `Changes.conflicts`). Nothing was written.

    :arg fields: the top-level fields in question.
    """

    fields: frozenset[str]


@dataclass(frozen=True, slots=True)
class SessionEnd:
    """Ends a session, and stays under its id for a while to say so: the session has no content any more.

    Without it, an insert that was under way when the session ended would bring it back.

    :arg id: of the session; there need not be one.
    :arg ended: when it ended.
    :arg expires: when a store may forget the end.
    :arg reason: whether it was destroyed, or rotated and so goes on under another id.
    """

    id: str
    ended: datetime
    expires: datetime
    reason: Literal["destroyed", "rotated"] = "destroyed"

    def apply(self, stored: "SessionRecord | SessionEnd | None") -> "SessionEnd":
        """Returns what is to be stored in place of *stored*: the first end stays, so that its maker knows it."""
        return stored if isinstance(stored, SessionEnd) else self


@dataclass(slots=True)
class SessionInsert:
    """Stores a new session.

    :arg record: the session.
    """

    record: SessionRecord

    @property
    def id(self) -> str:
        return self.record.id

    def apply(self, stored: SessionRecord | SessionEnd | None) -> SessionRecord | Outcome:
        """Returns what is to be stored, or why nothing is.

        A session that is there already was inserted by the same write, which came twice; one that has ended stays so.
        """
        if stored is None:
            return self.record
        return Outcome.GONE if isinstance(stored, SessionEnd) else Outcome.SAVED


@dataclass(slots=True)
class SessionUpdate:
    """Changes a session that exists.

    :arg id: of the session.
    :arg changes: what to do to the stored session.
    :arg updated: the time of the save. A stored session that expired by then counts as absent.
    :arg expires: when the session will expire; None leaves that as it is.
    :arg lifetime: of the stored session, by which *expires* was computed. If another request has given the session
        another lifetime meanwhile, that one's *expires* stays, unless the changes set a lifetime themselves.
    """

    id: str
    changes: Changes
    updated: datetime
    expires: datetime | None = None
    lifetime: timedelta | None = None

    def knows_lifetime_of(self, stored: SessionRecord) -> bool:
        """Tells whether *expires* holds for *stored*: no other request has given it another lifetime."""
        return self.changes.lifetime is not None or stored.lifetime == self.lifetime

    def apply(self, stored: SessionRecord | SessionEnd | None) -> SessionRecord | Outcome | Conflict:
        """Returns what is to be stored in place of *stored*, whose data may be modified; or why nothing is."""
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

SaveResult = Outcome | Conflict | Exception


class SessionStore(ABC):
    """Where sessions are kept.

    The manager calls a store with the sessions of all requests that wait at the moment, at least one, and may do so
    several times at once. *timeout* is how many seconds the call has; a little later the manager gives it up, and after
    some more seconds cancels it.

    A method that raises has failed for all of the sessions that it was given. A store need not retry or log: the
    manager does. The texts of exceptions go to the log and must not contain values from sessions.
    """

    @abstractmethod
    async def load(
        self, ids: Sequence[str], *, timeout: float
    ) -> Mapping[str, SessionRecord | SessionEnd | SessionRecordError]:
        """Returns what is stored under these *ids*, by id. Those under which nothing is are left out.

        What has expired may be returned or left out. A session that cannot be read is not left out, for then its user
        would be given a new one: it gets a `SessionRecordError`, and the others are returned all the same.
        """

    @abstractmethod
    async def save(self, writes: Sequence[SessionWrite], *, timeout: float) -> Sequence[SaveResult]:
        """Does what each write's ``apply`` says, each atomically, and returns how each ended, in their order.

        That is `Outcome.SAVED`, or the `Outcome` or `Conflict` that ``apply`` returned in place of what to store.
        Several writes may be for one session, by requests that overlap; which of them is done first does not matter.
        An update of an expired session that is still there may be done, as long as it stays expired.

        A write that cannot be done leaves the others alone. Its result is a `SessionNotSaved` if the store can be
        certain that nothing of it was done or will be; then it will be saved again. With any other exception, nobody
        knows, and it will not. The same holds for what the method raises. The values in the writes belong to the store.
        """

    @abstractmethod
    async def pop(self, end: SessionEnd, *, timeout: float) -> SessionRecord | SessionEnd | None:
        """Saves *end* and returns what was stored, atomically; None when nothing was.

        What was saved before is in the session, and what is saved after finds nothing (`Outcome.GONE`). A session that
        has ended keeps its first end, which is returned.
        """

    @abstractmethod
    def records(self, owner: str | None = None, *, timeout: float) -> AsyncIterator[SessionRecord | SessionRecordError]:
        """Returns an asynchronous iterator (as an async generator does) of all sessions, or of those of an *owner*.

        One that cannot be read comes as a `SessionRecordError`. Ends are not among them; expired sessions may be. The
        iterator need not see what is saved while it runs, and must not hold all sessions in memory at once. *timeout*
        is for each step.
        """

    def watch(self) -> "SessionWatch | None":
        """Returns what tells of writes by other processes, for sessions that are open for long; None (the default) when
        there is nothing but to load them again and again, which the manager does once a second then.
        """
        return None

    async def close(self) -> None:  # noqa: B027 - most stores have nothing to release
        """Releases what the store itself opened. Called once, when nothing is under way any more."""


class SessionNotWatchable(Exception):
    """The store cannot tell of writes, and that will not change. The text says why."""


class SessionWatch(ABC):
    """Tells of writes to some sessions of a store, by whatever process.

    One task at a time calls `changed`, and another one `follow` meanwhile. When one of them raises, the manager closes
    the watch, asks the store for a new one a second later, and looks at all that is open; so an error loses nothing.
    """

    @abstractmethod
    async def follow(self, ids: Collection[str]) -> None:
        """Tells of writes to the sessions with these ids from now on, in place of those that were followed before.

        Of a write that begins after this has returned, `changed` tells within a second. Of a session that was followed
        before and still is, no write is missed meanwhile.

        :raises SessionNotWatchable: when the store cannot do that.
        """

    @abstractmethod
    async def changed(self) -> Collection[str] | None:
        """Waits until something was written, and returns the ids of such sessions; None: it may be any.

        An id may be returned without need. Expiry is no write.

        :raises SessionNotWatchable: when the store cannot do that.
        """

    @abstractmethod
    async def close(self) -> None:
        """Ends it. `changed` is not waiting any more."""
