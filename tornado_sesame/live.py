"""One session during one request: loaded, changed, rotated, destroyed, and told to the client."""

import asyncio
from dataclasses import replace
from typing import Any, NoReturn

from .calls import Loaded, Saved, StoreCalls
from .changes import ChangeSet
from .cookie import id_of_secret, new_secret
from .errors import SessionError, SessionNotLoaded, SessionStoreError
from .saving import Saving
from .session import Session
from .settings import SessionSettings, now

__all__ = ["LiveSession"]


class LiveSession:
    """What stands between a handler's `Session` and the store.

    :arg settings: the manager's.
    :arg calls: likewise.
    :arg secret: what the client's cookie says, or None.
    """

    # What few requests set lies in the class, so that the others need not.
    headers_out = False
    """To be set when the response's headers are sent: the client can get no cookie any more."""

    _is_touched = False  # it lives longer from now on, and so must the cookie
    _is_ended = False  # the client is to forget what it knows
    _turn: asyncio.Lock | None = None  # for those who move or reload it

    def __init__(self, settings: SessionSettings, calls: StoreCalls, secret: str | None) -> None:
        self.settings = settings
        self._calls = calls
        self._saving = Saving(settings, calls, id_of_secret(secret) if secret else None)
        self._secret = self._told = secret  # what it has now, and what the client knows

    def __reduce__(self) -> NoReturn:
        raise TypeError("a LiveSession knows the cookie's secret and is its request's alone: it cannot be pickled")

    @property
    def session(self) -> Session:
        """Its content: the same object as long as somebody keeps it, which keeps this one alive, too."""
        return self._saving.data.session(self)

    @property
    def id(self) -> str | None:
        """The id under which it is stored or will be; None when there is nothing to store, or it is not loaded."""
        return self._saving.id if self.is_stored or self.is_unsaved else None

    @property
    def is_stored(self) -> bool:
        """Whether the store is known to have it."""
        return self._saving.created is not None

    @property
    def is_unsaved(self) -> bool:
        """Whether there are changes that the store has not confirmed."""
        return self._saving.is_unsaved

    @property
    def lost(self) -> SessionStoreError | None:
        """Why nobody knows whether changes were saved, if that has happened."""
        return self._saving.lost

    @property
    def owner(self) -> str | None:
        """To whom the session belongs.

        :raises SessionNotLoaded: when it is not loaded.
        """
        data = self._saving.data
        if not data.is_loaded:
            raise SessionNotLoaded
        return data.owner

    @owner.setter
    def owner(self, owner: str | None) -> None:
        former = self.owner
        if owner != former:
            self.begin_change().owner_assigned(former, owner)
            self._saving.data.owner = owner

    def cookie_header(self, *, https: bool) -> str | None:
        """Returns the ``Set-Cookie`` header that the response needs; None when the client already has what it needs.

        It counts as given to the client from then on.
        """
        if self._secret == self._told and not self._is_touched:
            return None
        cookie = self.settings.cookie
        if self._secret is None or self.id is None:
            return cookie.delete_header(https=https) if self._is_ended and self._told else None
        self._told = self._secret
        return cookie.set_header(self._secret, https=https, lifetime=self.settings.lifetime(self._saving.created))

    def replace(self, data: Any) -> None:
        """Makes *data* the content; see `SessionData.replace`."""
        self._saving.data.replace(self, data)

    def open_empty(self) -> None:
        """Makes it loaded, without asking the store for what is known not to be there."""
        self._open(None)

    async def load(self) -> None:
        """Loads the content, unless that has been done.

        :raises SessionStoreError: when the store fails.
        """
        if not self._saving.data.is_loaded:
            loaded = await self._load()
            if not self._saving.data.is_loaded:  # by another await meanwhile
                self._open(loaded)

    def begin_change(self) -> ChangeSet:
        """Has what is about to change saved at the end of the tick; see `Backing.begin_change`.

        :raises SessionError: when the session is new and the response's headers are sent.
        """
        if self._secret is None or self._secret != self._told:
            self._check_cookie_can_be_set()
        if self._secret is None:
            self._secret = new_secret()
            self._saving.id = id_of_secret(self._secret)
        self._saving.schedule()
        return self._saving.data.changes

    def saved(self) -> "asyncio.Future[Saved]":
        """Returns the future of the save that includes all that was changed until now."""
        return self._saving.saved()

    async def save(self) -> None:
        """Returns when everything that was changed before is saved.

        :raises SessionNotSaved: when that was not done. The changes are kept and go out with the next save.
        :raises SessionStoreError: when nobody knows whether it was done. The session is to be loaded again.
        """
        if self.is_unsaved:
            saved = await asyncio.shield(self.saved())
            if isinstance(saved, SessionStoreError):
                raise saved
        elif self.lost is not None and not self._saving.data.is_loaded:
            raise self.lost

    async def reload(self) -> None:
        """Saves what is pending and loads the content again.

        :raises SessionStoreError: when the store fails.
        """
        async with self._in_turn():
            while True:
                if self._saving.data.is_loaded:
                    await self.save()
                loaded = await self._load()
                if not self.is_unsaved:  # else something was changed meanwhile, which must not be overwritten
                    self._open(loaded)
                    return

    async def destroy(self) -> None:
        """Ends what is stored, and is an empty, new session from then on.

        :raises SessionStoreError: when the store fails.
        """
        async with self._in_turn():
            self._saving.drop_changes()
            async with self._saving.held():
                if self._saving.id is not None:
                    await self._calls.end([self._saving.id])
                self._start_anew()
                self._is_ended = True

    async def rotate(self) -> None:
        """Moves what is stored to a new id with a new secret. The old ones are dead when this returns.

        :raises SessionError: when the response's headers are sent.
        :raises SessionStoreError: when the store fails. Then the session is where it was; or, if it was lost between
            its removal and its return, gone, and the old id is dead all the same.
        """
        async with self._in_turn():
            await self.load()
            if self._secret is None or self._secret != self._told:
                return  # nobody has the secret yet
            self._check_cookie_can_be_set()
            await self.save()
            async with self._saving.held():
                await self._move()

    async def _move(self) -> None:
        old = self._saving.id
        record = await self._calls.pop(old) if old else None
        if record is None:
            self._start_anew()
            return
        secret = new_secret()
        id = id_of_secret(secret)
        try:
            self._saving.expires = await self._calls.insert(replace(record, id=id))
        except SessionStoreError:
            del secret  # so that no error report shows it among this frame's variables
            self._start_anew()
            self._is_ended = True
            raise
        self._secret, self._saving.id = secret, id

    async def _load(self) -> Loaded:
        return await self._calls.load(self._saving.id) if self._saving.id else None

    def _check_cookie_can_be_set(self) -> None:
        if self.headers_out:
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
        self._saving.open(record)
        if self._saving.is_touch_due(now()):
            self._is_touched = self.settings.cookie.persistent
            self._saving.schedule()

    def _start_anew(self) -> None:
        self._secret = None
        self._saving.open(None)
