"""One session during one request: loaded, changed, saved, rotated, destroyed."""

import asyncio
import logging
import os
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from .changes import ChangeSet, Set
from .cookie import id_of_secret, new_secret
from .document import Content, Session
from .errors import SessionError, SessionNotLoaded, SessionStoreError, SessionTooLarge
from .stores import Conflict, Outcome, SaveResult, SessionRecord, SessionWrite

if TYPE_CHECKING:
    from .manager import SessionManager

__all__ = ["LiveSession", "Loaded", "Saved"]

logger = logging.getLogger("tornado_sesame")

Loaded = SessionRecord | SessionStoreError | None
"""A stored session; None when there is no valid one."""

Saved = asyncio.Future[SessionStoreError | None]
"""Done when a save has ended, with what went wrong."""


class LiveSession:
    """What stands between a handler's `Session` and the store.

    :arg manager: whose settings and coalescers it uses.
    :arg secret: what the client's cookie says, or None.
    """

    # What few requests set lies in the class, so that the others need not.
    headers_sent = False
    """To be set when the response's headers are sent: the client can get no cookie any more."""

    _created: datetime | None = None  # None while it is not stored
    _expires: datetime | None = None
    _owner: str | None = None
    _owner_is_saved = True
    _is_renewed = False  # whether it lives longer from now on, and so must the cookie
    _is_destroyed = False
    _is_moving = False  # from one id to another or to none; saves wait meanwhile
    _turn: asyncio.Lock | None = None  # for those who move or reload it
    _unsent: SessionWrite | None = None  # taken from the change set and not known to be saved
    _saving: Saved | None = None  # the save that waits or is under way,
    _is_taken = False  # whether it has left with what was changed,
    _following: Saved | None = None  # and the one that somebody waits for after it

    def __init__(self, manager: "SessionManager", secret: str | None) -> None:
        self.manager = manager
        self._content = Content()
        self._secret = self._sent = secret  # what it has now, and what the client knows
        self._id = id_of_secret(secret) if secret else None

    def __reduce__(self) -> NoReturn:
        raise TypeError("a LiveSession knows the cookie's secret and is its request's alone: it cannot be pickled")

    @property
    def session(self) -> Session:
        """Its content: the same object as long as somebody keeps it, which keeps this one alive, too."""
        return self._content.session(self)

    @property
    def id(self) -> str | None:
        """The id under which it is stored or will be; None when there is nothing to store, or it is not loaded."""
        return self._id if self._created or self.is_unsaved else None

    @property
    def is_unsaved(self) -> bool:
        """Whether there are changes that the store has not confirmed."""
        return self._has_news or bool(self._unsent and not self._unsent.is_touch)

    @property
    def _has_news(self) -> bool:
        """Whether something has changed that no save has taken."""
        return self._content.has_changes or not self._owner_is_saved

    @property
    def owner(self) -> str | None:
        """To whom the session belongs.

        :raises SessionNotLoaded: when it is not loaded.
        """
        if not self._content.is_loaded:
            raise SessionNotLoaded
        return self._owner

    @owner.setter
    def owner(self, owner: str | None) -> None:
        if owner == self.owner:
            return
        self.changing()
        self._owner = owner
        self._owner_is_saved = False

    def cookie_header(self, *, https: bool) -> str | None:
        """Returns the ``Set-Cookie`` header that the response needs; None when the client already has what it needs.

        It counts as given to the client from then on.
        """
        if self._secret == self._sent and not self._is_renewed:
            return None
        cookie = self.manager.cookie
        if self._secret is None or self.id is None:
            return cookie.delete_header(https=https) if self._is_destroyed and self._sent else None
        self._sent = self._secret
        return cookie.set_header(self._secret, https=https, lifetime=self.manager.lifetime(self._created))

    @property
    def is_stored(self) -> bool:
        """Whether the store is known to have it."""
        return self._created is not None

    def replace(self, data: Any) -> None:
        """Makes *data* the content; see `Content.replace`."""
        self._content.replace(self, data)

    def open_empty(self) -> None:
        """Makes it loaded, without asking the store for what is known not to be there."""
        self._open(None)

    async def load(self) -> None:
        """Loads the content, unless that has been done.

        :raises SessionStoreError: when the store fails.
        """
        if not self._content.is_loaded:
            loaded = await self.manager.load(self._id) if self._id else None
            if not self._content.is_loaded:  # by another await meanwhile
                self._open(loaded)

    def changing(self) -> ChangeSet:
        """Has what is about to change saved at the end of the tick; see `Host.changing`.

        :raises SessionError: when the session is new and the response's headers are sent.
        """
        if self._secret is None or self._secret != self._sent:
            self._check_cookie_can_be_set()
        if self._secret is None:
            self._secret = new_secret()
            self._id = id_of_secret(self._secret)
        if self._saving is None and not self._is_moving:
            self._submit()
        return self._content.changes

    async def reload(self) -> None:
        """Saves what is pending and loads the content again.

        :raises SessionStoreError: when the store fails.
        """
        async with self._in_turn():
            while True:
                await self.save()
                loaded = await self.manager.load(self._id) if self._id else None
                if not self.is_unsaved:  # else something was changed meanwhile, which must not be overwritten
                    self._open(loaded)
                    return

    def saved(self) -> Saved:
        """Returns the future of the save that includes all that was changed until now: its error, or None."""
        saving = self._saving or self._submit()
        # One that failed goes out again by itself, and what changed since then follows it.
        if not self._is_taken and not (self._unsent and self._has_news):
            return saving
        if self._following is None:
            self._following = asyncio.get_running_loop().create_future()
        return self._following

    async def save(self) -> None:
        """Returns when everything that was changed before is saved.

        :raises SessionStoreError: when that failed. The changes are kept and go out with the next save.
        """
        if self.is_unsaved:
            error = await asyncio.shield(self.saved())
            if error is not None:
                raise error

    async def destroy(self) -> None:
        """Deletes what is stored, and is an empty, new session from then on.

        :raises SessionStoreError: when the store fails.
        """
        async with self._in_turn():
            self._is_moving = True
            try:
                self._content.changes.clear()
                self._owner_is_saved = True
                self._unsent = None
                if self._created is None and self._saving is not None:
                    await asyncio.wait([self._saving])  # an insert under way must not arrive after the delete
                if self._id is not None:
                    await self.manager.delete(self._id)
                self._start_anew()
                self._is_destroyed = True
            finally:
                self._is_moving = False

    async def rotate(self) -> None:
        """Moves what is stored to a new id with a new secret. The old ones are dead when this returns.

        :raises SessionError: when the response's headers are sent.
        :raises SessionStoreError: when the store fails. Then the session is where it was; or, if it was lost between
            its removal and its return, gone, and the old id is dead all the same.
        """
        async with self._in_turn():
            await self.load()
            if self._secret is None or self._secret != self._sent:
                return  # nobody has the secret yet
            self._check_cookie_can_be_set()
            await self.save()
            self._is_moving = True
            try:
                await self._move()
            finally:
                self._is_moving = False
            if self.is_unsaved:
                self.saved()

    async def _move(self) -> None:
        record = await self.manager.pop(self._id) if self._id else None
        if record is None:
            self._start_anew()
            return
        secret = new_secret()
        id = id_of_secret(secret)
        try:
            self._expires = await self.manager.insert(replace(record, id=id))
        except SessionStoreError:
            del secret  # so that no error report shows it among this frame's variables
            self._start_anew()
            self._is_destroyed = True
            raise
        self._secret, self._id = secret, id

    # The coalescer's side

    def take(self, now: datetime) -> SessionWrite | None:
        """Returns what is to be saved, or None when there is nothing. Tell `settle` how it ended.

        :raises SessionTooLarge: when it is larger than it may be. Its changes stay pending.
        """
        self._is_taken = True
        if self._is_moving or self._id is None:
            return None
        if self._unsent is not None:
            self._unsent = replace(self._unsent, is_repeated=True)
            return self._unsent
        if not self._created and not self._content.data and self._owner is None:
            self._content.changes.clear()
            self._owner_is_saved = True
            return None
        self._check_size()
        is_due = self._is_renewal_due(now)
        changes = self._content.take_changes() if self._created else self._content.take_all()
        if not changes and self._owner_is_saved and not is_due:
            return None
        self._unsent = SessionWrite(
            id=self._id,
            changes=changes,
            updated=now,
            expires=self.manager.expiry(self._created or now, now) if is_due else None,
            token=os.urandom(8),
            created=None if self._created else now,
            owner=None if self._owner_is_saved else Set(self._owner),
        )
        self._owner_is_saved = True
        return self._unsent

    def save_failed(self, error: Exception) -> SessionStoreError:
        """Returns what those get who wait for a save that failed with *error*."""
        return self.manager.failure("save", self._id, error)

    def settle(self, write: SessionWrite, result: SaveResult) -> SessionWrite | None:
        """Learns how the save of *write* ended; returns what is to be saved in its place after a conflict."""
        if self._unsent is None or self._unsent.token != write.token:
            return None  # destroyed meanwhile, or answered so late that a repetition has been settled before
        if isinstance(result, Conflict):
            whole = {name: self._content.snapshot((name,)) for name in result.fields}
            for name in whole:
                self._content.changes.forget(name)
            self._unsent = replace(write, changes=write.changes.resolved(whole))
            return self._unsent
        if isinstance(result, Exception):
            if write.is_touch:
                self._unsent = None
            return None
        if result is Outcome.GONE and not write.is_touch:
            logger.info("dropped a late write to session %s, which was destroyed, rotated or has expired", write.id)
        self._created = self._created or write.created
        self._expires = write.expires or self._expires
        self._unsent = None
        return None

    def _check_size(self) -> None:
        limit = self.manager.max_bytes
        if limit is not None and (not self._created or self._content.changes.may_grow):
            size = self._content.size()
            if size > limit:
                raise SessionTooLarge(self._id, size, limit)

    def _is_renewal_due(self, moment: datetime) -> bool:
        if self._created is None or self._expires is None:
            return True
        return self.manager.is_renewal_due(self._created, self._expires, moment)

    def _check_cookie_can_be_set(self) -> None:
        if self.headers_sent:
            raise SessionError(
                "the response's headers are sent, so the client cannot get the cookie of a new session: "
                "put something into the session before flush() or the WebSocket's handshake"
            )

    def _in_turn(self) -> asyncio.Lock:
        if self._turn is None:
            self._turn = asyncio.Lock()
        return self._turn

    def _open(self, record: Loaded) -> None:
        if isinstance(record, SessionStoreError):
            raise record
        if record is None:
            self._start_anew()  # an id that the store does not know is not adopted
            return
        self._created = record.created
        self._expires = record.expires
        self._owner = record.owner
        self._owner_is_saved = True
        self._content.open(record.data)
        if self.manager.is_renewal_due(record.created, record.expires):
            self._is_renewed = self.manager.cookie.persistent
            self.saved()

    def _start_anew(self) -> None:
        self._id = self._secret = self._created = self._expires = self._owner = self._unsent = None
        self._owner_is_saved = True
        self._content.open({})

    def _submit(self) -> Saved:
        self._saving = saving = self.manager.save(self)
        saving.add_done_callback(self._on_saved)
        return saving

    def _on_saved(self, saving: Saved) -> None:
        following = self._following
        self._saving = self._following = None
        self._is_taken = False
        error = saving.result()
        if error is not None:
            logger.warning("%s", error.log_message)
            if following is not None:
                following.set_result(error)
        elif following is not None:
            self._submit().add_done_callback(lambda saving: following.set_result(saving.result()))
        elif self.is_unsaved and not self._is_moving:
            self._submit()
