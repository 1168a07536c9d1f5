"""What a session store is: a few methods that each handle many sessions at once."""

import enum
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..changes import Changes, Set

__all__ = ["Conflict", "Outcome", "SaveResult", "SessionRecord", "SessionStore", "SessionWrite"]


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session as it is stored.

    :arg id: the SHA-256 of the cookie's secret, in hex.
    :arg data: the content. Whoever gets the record owns it and may change it.
    :arg created, updated, expires: aware UTC datetimes with whole milliseconds.
    :arg owner: to whom it belongs, a user's id; None for nobody.
    """

    id: str
    data: dict[str, Any]
    created: datetime
    updated: datetime
    expires: datetime
    owner: str | None = None


@dataclass(frozen=True, slots=True)
class SessionWrite:
    """What one save does to one session.

    :arg id: of the session.
    :arg changes: what to do to the stored data; for an insert, to ``{}``.
    :arg updated: the time of the save. A stored session that expired by then counts as absent.
    :arg expires: when the session will expire; None leaves that as it is.
    :arg owner: ``Set(owner)`` when the session is to belong to somebody else, or (None) to nobody; None leaves that as
        it is.
    :arg created: set for a session that is new and to be inserted, None for one that exists and is to be updated.
    :arg token: a few bytes that no other write has. A write that failed may be given to the store again, also while the
        first attempt is still on its way. A store that may have carried out what it reported as failed recognizes it by
        the token, and does not do twice what is not `Changes.is_repeatable`.
    :arg is_repeated: whether it has been given to the store before.
    """

    id: str
    changes: Changes
    updated: datetime
    expires: datetime | None
    token: bytes
    created: datetime | None = None
    owner: Set | None = None
    is_repeated: bool = False

    @classmethod
    def inserting(cls, record: SessionRecord) -> "SessionWrite":
        """Returns the write that makes *record* a new session."""
        # Without a token, as an insert that is repeated is known by its id.
        changes, owner = Changes({(): Set(record.data)}), Set(record.owner)
        return cls(record.id, changes, record.updated, record.expires, b"", created=record.created, owner=owner)

    @property
    def is_touch(self) -> bool:
        """Whether it changes nothing but when the session expires."""
        return not self.changes and self.owner is None


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


SaveResult = Outcome | Conflict | Exception


class SessionStore(ABC):
    """Where sessions are kept.

    The manager calls a store with the sessions of all requests that wait at the moment, at least one, and may do so
    several times at once. A method that raises has failed for all of them; the requests are answered with a 503. It
    does not need to retry or log: the manager does. The texts of exceptions go to the log and must not contain values
    from sessions.
    """

    timeout: float = 10.0
    """Seconds after which the manager gives a call up, and soon after cancels it; the manager sets it. A store should
    end its work by itself by then: nobody expects it to happen any more."""

    @abstractmethod
    async def load(self, ids: Sequence[str]) -> Mapping[str, SessionRecord | Exception]:
        """Returns the sessions with these *ids*, by id. Those that do not exist are left out.

        An expired one may be returned or left out. A session whose record cannot be read is not left out, for then its
        user would be given a new one: it gets its exception.
        """

    @abstractmethod
    async def save(self, writes: Sequence[SessionWrite]) -> Sequence[SaveResult]:
        """Carries out the *writes*, each atomically, and returns for each how it ended, in their order.

        Several may be for one session, by requests that overlap; which of them is done first does not matter.

        An update changes a session that exists, and never brings one back: when there is none, the result is
        `Outcome.GONE`. One that has expired (its ``expires`` is not later than the write's ``updated``) counts as gone;
        if it is still there, it may be changed all the same, as long as it stays expired. An insert of an id that
        exists is the repetition of one that succeeded, and is `Outcome.SAVED`. A write that cannot be done gives its
        exception and leaves the others alone. The values in the writes belong to the store from now on.
        """

    @abstractmethod
    async def pop(self, id: str) -> SessionRecord | None:
        """Deletes a session and returns it as it was last, atomically; None when it does not exist.

        What was saved before is in it, and what is saved after finds nothing (`Outcome.GONE`).
        """

    @abstractmethod
    async def delete(self, ids: Sequence[str]) -> None:
        """Deletes the sessions with these *ids*, for good. Ids that do not exist are no error."""

    @abstractmethod
    def records(self, owner: str | None = None) -> AsyncIterator[SessionRecord]:
        """Returns an asynchronous iterator (as an async generator does) of all sessions, or of those of an *owner*.

        It need not see what is saved or deleted while it runs; expired sessions may be among them. It must not hold all
        of them in memory at once.
        """

    async def close(self) -> None:  # noqa: B027 - most stores have nothing to release
        """Releases what the store itself opened. Called once, when nothing is under way any more."""
