"""`SessionManager`: the application's sessions, as it sets them up and administers them."""

import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, ForwardRef, Generic, Literal, cast, get_args

from .calls import StoreCalls
from .cookie import Secret, SessionCookie, is_id
from .editing import Editing
from .errors import SessionGone, SessionRecordError
from .live import LiveSession
from .session import Session, SessionRoot, SessionT
from .settings import LATE, SessionSettings, now
from .stats import SessionStats
from .stores import MemoryStore, SessionRecord, SessionStore
from .values import check_owner

__all__ = ["SessionManager"]

logger = logging.getLogger("tornado_sesame")


class SessionManager(Generic[SessionT]):
    """What all requests of an application share; pass it as ``Application(..., sessions=SessionManager(...))``.

    With ``SessionManager[Visit](...)``, where ``Visit`` is a `TypedSession`, `edit` gives sessions of that class.

    :arg store: where sessions are kept; by default a `MemoryStore`, which forgets them when the process ends.
    :arg cookie: the cookie's name and attributes.
    :arg header: where clients without cookies send the secret, such as "X-Session-Token"; None: nowhere. In a request
        that has this header, even an empty one, the header takes the cookie's place: a new secret comes back in the
        response's header of this name, and an empty one when the session was destroyed.
    :arg idle_timeout: how long a session lives after its last use. This and other lengths of time are timedeltas; only
        *timeout* is a number of seconds.
    :arg absolute_timeout: how long a session lives at most, however much it is used; None: as long as it is used. This
        time begins anew only with a new session, after `SessionMixin.destroy_session`.
    :arg touch_interval: how much of *idle_timeout* must have passed before a use extends the session, by default a
        twentieth. So a session that is only read is written once in this time.
    :arg max_per_owner: how many sessions an owner may have; None: any number. When one more gets this owner, those that
        were saved or extended longest ago end before the response goes out, and never the new one. When sessions are
        used while several logins race, one too many may end. When the store cannot list the sessions, the log says so,
        and the next login enforces the limit.
    :arg unreadable: what a visitor gets when his session is stored but cannot be read, because something else has
        written to it: "error", a 503 on each page that uses it, until somebody has mended it; or "new", a new session.
        What is stored stays as it is, and the log has an ERROR that names its id.
    :arg wait_for_save: holds each response until what its handler changed is saved, and answers with a 503 if that
        fails. False sends responses at once and logs failed saves; a client that is faster than the save then finds its
        session as it was before, and a new one not at all.
    :arg timeout: how many seconds the store has for an answer. After that, it has failed.
    :arg max_bytes: how many bytes of BSON a session may have; None: as many as the store takes. A request that makes it
        larger gets a `SessionTooLarge`, and its changes are not saved.
    :raises TypeError, ValueError: for settings that cannot be meant, saying which.

    .. attribute:: settings

       All of these but the store. They cannot be changed.
    """

    def __init__(
        self,
        store: SessionStore | None = None,
        *,
        cookie: SessionCookie = SessionCookie(),
        header: str | None = None,
        idle_timeout: timedelta = timedelta(days=14),
        absolute_timeout: timedelta | None = None,
        touch_interval: timedelta | None = None,
        max_per_owner: int | None = None,
        unreadable: Literal["error", "new"] = "error",
        wait_for_save: bool = True,
        timeout: float = 15.0,
        max_bytes: int | None = 2**20,
    ) -> None:
        if store is None:
            store = MemoryStore()
        if not isinstance(store, SessionStore):
            raise TypeError(f"store must be a SessionStore such as MongoStore(collection), not {type(store).__name__}")
        if touch_interval is None and isinstance(idle_timeout, timedelta):
            touch_interval = idle_timeout / 20
        self.settings = SessionSettings(
            cookie=cookie,
            header=header,
            idle_timeout=idle_timeout,
            absolute_timeout=absolute_timeout,
            touch_interval=touch_interval or timedelta(0),
            max_per_owner=max_per_owner,
            unreadable=unreadable,
            wait_for_save=wait_for_save,
            timeout=timeout,
            max_bytes=max_bytes,
        )
        self._calls = StoreCalls(store, self.settings)

    def __class_getitem__(cls, kind: Any) -> Any:
        if isinstance(kind, type) and kind is not Any and not issubclass(kind, SessionRoot):
            raise TypeError(f"the parameter of SessionManager must be a subclass of TypedSession, not {kind!r}")
        return super().__class_getitem__(kind)  # type: ignore[misc]  # of Generic

    def _session_kind(self) -> type[SessionRoot]:
        """Returns the class of sessions that this manager, or a class that it is of, was given as a parameter."""
        for alias in (getattr(self, "__orig_class__", None), *getattr(self, "__orig_bases__", ())):
            for kind in get_args(alias):
                if isinstance(kind, ForwardRef):
                    raise TypeError(f"{alias}: give SessionManager the class itself, not its name")
                if isinstance(kind, type) and issubclass(kind, SessionRoot):
                    return kind
        return Session

    @property
    def store(self) -> SessionStore:
        """Where the sessions are kept."""
        return self._calls.store

    @property
    def stats(self) -> SessionStats:
        """Counts and times since the manager was made, for monitoring."""
        return self._calls.stats

    def open(
        self,
        secrets: Sequence[Secret] = (),
        age: Callable[[], float] = lambda: 0.0,
        kind: type[SessionRoot] = Session,
        touches: bool = True,
        header: str | None = None,
    ) -> LiveSession:
        """Returns the session of a request. Handlers get theirs from `SessionMixin`.

        :arg secrets: what the client sent; the one of a session that exists counts.
        :arg age: returns how many seconds ago the request began.
        :arg kind: the class of the session.
        :arg touches: whether using it extends its life.
        :arg header: the header in which the client sent the secret; None: the cookie.
        """
        return LiveSession(self.settings, self._calls, secrets, age, kind, touches, header)

    @asynccontextmanager
    async def edit(self, session_id: str) -> AsyncIterator[SessionT]:
        """Reads and changes a session from outside a request, as a worker or an administrator does::

            async with sessions.edit(session_id) as session:
                session.role = "editor"

        The session is changed and saved as in a handler: what others change at the same time is kept, and handlers that
        have it open hear of the change. When the block ends, everything is saved. An exception does not undo what was
        changed before it. Editing does not extend the session's life.

        :arg session_id: see `SessionMixin.session_id`. A session that is rotated goes on under another id; so when one
            of ``sessions.records(owner)`` is gone, list them again.
        :raises SessionGone: when there is no such session, or when it ended before the changes were saved.
        :raises SessionStoreError: when the store fails; see `SessionMixin.save_session`.
        """
        _check_session_id(session_id)
        if not is_id(session_id):
            raise SessionGone(None)  # it may be a secret
        editing = Editing(self.settings, self._calls, session_id, self._session_kind())
        await editing.load()
        try:
            yield cast(SessionT, editing.session)
            await editing.save()
        finally:
            editing.end()

    async def destroy(self, session_id: str) -> None:
        """Ends a session, wherever it is in use. If there is no such session, nothing happens.

        It does not ask whose session that is: check first that an id sent by a client is among the user's `records`.

        :arg session_id: see `SessionMixin.session_id`.
        :raises SessionStoreError: when the store fails.
        """
        _check_session_id(session_id)
        if is_id(session_id):  # anything else is no session's, and has no business in a query or the log
            await self._calls.end([session_id])

    async def destroy_all(self, owner: str, *, keep: str | Collection[str] | None = None) -> int:
        """Ends all sessions of an owner: "sign out everywhere", including whoever has stolen a cookie.

        :arg owner: see `SessionMixin.session_owner`.
        :arg keep: the id of a session that stays, such as the one that asks for this; or several ids.
        :returns: how many sessions were ended.
        :raises SessionStoreError: when the store fails. Some may have been ended by then.
        """
        check_owner(owner)
        kept = {keep} if isinstance(keep, str) else set(keep or ())
        latest = now() + LATE
        # Those that cannot be read are among them: whoever has their cookies is signed out, too.
        ids = [
            record.id
            async for record in self._calls.records(owner)
            if not (isinstance(record.id, str) and record.id in kept)
        ]
        ended = 0
        while True:
            await self._calls.end(ids)
            ended += len(ids)
            # Again until there are none, as one that was rotated while they were listed is to be met under its new id,
            # too. It began before now, by whichever server's clock; those that began meanwhile may stay.
            ids = [
                record.id
                async for record in self._calls.records(owner)
                if isinstance(record, SessionRecord) and record.id not in kept and record.created <= latest
            ]
            if not ids:
                return ended

    async def records(self, owner: str | None = None) -> AsyncIterator[SessionRecord]:
        """Iterates over all valid sessions, or over those of an *owner*: ``async for record in sessions.records()``.

        They come one by one, in no particular order, so there may be any number of them. Changing a record does not
        change the session. A session that cannot be read is skipped, with a warning in the log.

        :arg owner: see `SessionMixin.session_owner`; None: all sessions.
        :raises SessionStoreError: when the store fails.
        """
        if owner is not None:
            check_owner(owner)
        async for record in self._calls.records(owner):
            if isinstance(record, SessionRecordError):
                logger.warning("skipped: %s", record.log_message)
            else:
                yield record

    async def close(self) -> None:
        """Waits for all that is under way, at most for the manager's ``timeout``, and closes the store.

        Call it when the server has stopped and its connections are closed; it does not wait for what begins later.
        """
        await self._calls.close()


def _check_session_id(session_id: object) -> None:
    if not isinstance(session_id, str):
        raise TypeError(f"session_id must be a str, not {type(session_id).__name__}")
