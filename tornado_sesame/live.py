"""One session during one request: loaded, changed, rotated, destroyed, and told to the client."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import datetime, timedelta
from typing import Any, NoReturn, TypeVar

from .calls import Loaded, Saved, StoreCalls
from .changes import ChangeSet
from .cookie import Secret
from .errors import (
    ELSEWHERE,
    SHUTTING_DOWN,
    SessionError,
    SessionGone,
    SessionNotSaved,
    SessionRecordError,
    SessionStoreError,
)
from .following import Following, Hear
from .rotation import Rotation
from .saving import Saving
from .session import SessionData, SessionRoot
from .settings import LATE, SessionSettings, now
from .stores import SessionEnd, SessionRecord

__all__ = ["LiveSession"]

T = TypeVar("T")


class LiveSession:
    """What stands between a handler's `Session` and the store.

    :arg settings: the manager's.
    :arg calls: likewise.
    :arg secrets: what the client's cookies or headers say, each of which may be a session's.
    :arg age: returns how many seconds ago the request began.
    :arg kind: the class of what the handler sees.
    :arg touches: whether its use of the session extends the session's life.
    :arg header: in which the client gets a new secret; None: in a cookie.
    """

    # What few requests set lies in the class, so that the others need not.
    headers_out = False
    """To be set when the response's headers are sent: the client can get no cookie any more."""

    refusal: str | None = None
    """To be set to say why this request can have no changes saved."""

    _secret: Secret | None = None  # what it has now,
    _told: Secret | None = None  # and what the client knows
    _is_late = False  # the session had ended when the request, which was on its way, came to load it
    _client_must_forget = False
    _has_new_lifetime = False  # so it is to keep what it knows for another time
    _others: Sequence[Secret] = ()  # of further sessions that the client has cookies of
    _turn: asyncio.Lock | None = None  # for those who move or reload it
    _steps: "Sequence[asyncio.Task[None]]" = ()  # moves and ends that are under way
    _following: Following | None = None  # for a handler that lives long

    def __init__(
        self,
        settings: SessionSettings,
        calls: StoreCalls,
        secrets: Sequence[Secret],
        age: Callable[[], float],
        kind: type[SessionRoot],
        touches: bool,
        header: str | None,
    ) -> None:
        self.settings = settings
        self._calls = calls
        self._loop = _running_loop()
        self._saving = Saving(settings, calls, SessionData(kind))
        if not touches:
            self._saving.touches = False
        self._header = header
        self._carried = secrets
        self._age = age

    def __reduce__(self) -> NoReturn:
        raise TypeError("a LiveSession knows the cookie's secret and is its request's alone: it cannot be pickled")

    @property
    def session(self) -> SessionRoot:
        """Its content: the same object as long as somebody keeps it, which keeps this one alive, too."""
        return self._saving.data.session(self)

    @property
    def id(self) -> str | None:
        """The id under which it is stored or will be; None when there is nothing to store, or it is not loaded."""
        saving = self._saving
        return saving.id if self.is_stored or (saving.is_unsaved and not saving.is_void) else None

    @property
    def is_loaded(self) -> bool:
        """Whether there is content to be read and changed."""
        return self._saving.data.is_loaded

    @property
    def is_stored(self) -> bool:
        """Whether the store is known to have it."""
        return self._saving.created is not None

    @property
    def is_unsaved(self) -> bool:
        """Whether there are changes that the store has not confirmed."""
        return self._saving.is_unsaved

    @property
    def expires(self) -> datetime | None:
        """When it will expire if nobody uses it after this request; None before it is stored.

        :raises SessionNotLoaded: when it is not loaded.
        """
        saving = self._saving
        saving.data.check_loaded()
        if saving.created is None or saving.expires is None:
            return None
        moment = now()
        if saving.is_touch_due(moment):
            return self.settings.expiry(saving.created, moment, saving.data.lifetime)
        return self.settings.end(saving.created, saving.expires)

    @property
    def is_moving(self) -> bool:
        """Whether it is being rotated or destroyed, so that nobody knows yet which cookie the client is to get."""
        return bool(self._steps)

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
            data.check_loaded()
        return data.owner

    @owner.setter
    def owner(self, owner: str | None) -> None:
        former = self.owner
        if owner != former:
            self.begin_change().attribute_assigned("owner", former, owner)
            self._saving.data.owner = owner

    @property
    def lifetime(self) -> timedelta | None:
        """Its own idle timeout; None: that of all.

        :raises SessionNotLoaded: when the session is not loaded.
        """
        self._saving.data.check_loaded()
        return self._saving.data.lifetime

    @lifetime.setter
    def lifetime(self, lifetime: timedelta | None) -> None:
        former = self.lifetime
        if lifetime != former:
            if self._saving.gone is None:
                self._check_cookie_can_be_set()
            self.begin_change().attribute_assigned("lifetime", former, lifetime)
            saving = self._saving
            saving.data.lifetime = lifetime
            if saving.created is not None:
                saving.expires = self.settings.expiry(saving.created, now(), lifetime)
            self._has_new_lifetime = True

    def response_header(self, *, https: bool) -> tuple[str, str] | None:
        """Returns the name and the value of the header that tells the client what it is to keep, or to forget.

        It counts as told from then on. None: the client has already what it needs.
        """
        cookie = self.settings.cookie
        is_news = self._secret is not self._told or (self._has_new_lifetime and self.lost is None)
        if self._secret is not None and is_news and self.id and self._saving.gone is None:
            self._told, self._has_new_lifetime = self._secret, False
            if self._header is not None:
                return self._header, self._secret.value
            lifetime = self.settings.cookie_lifetime(self._saving.created, self._saving.data.lifetime)
            return "Set-Cookie", cookie.set_header(self._secret, https=https, lifetime=lifetime)
        if self._client_must_forget:
            self._client_must_forget = False
            if self._header is not None:
                return self._header, ""
            return "Set-Cookie", cookie.delete_header(https=https)
        return None

    def replace(self, data: Any) -> None:
        """Makes *data* the content; see `SessionData.replace`."""
        self._saving.data.replace(self, data)

    def open_empty(self) -> None:
        """Makes it loaded, without asking the store for what is known not to be there."""
        self._start_anew()

    def refuse_changes(self, reason: str) -> None:
        """Makes it read as empty and nobody's, whatever it is, and refuse changes."""
        self.refusal = reason
        self._saving.data.open({})

    def listen(self, hear: Hear) -> None:
        """Has *hear* told when the session has changed by others (None) or ended (the reason), until `stop_listening`.

        The session shows that already then.
        """
        self._following = Following(self.settings, self._calls, self._saving, self._in_turn(), self._open_gone, hear)
        self._saving.on_stored = self._place

    def stop_listening(self) -> None:
        """Tells nobody any more."""
        if self._following is not None:
            self._following.stop()
            self._following = self._saving.on_stored = None

    def use(self) -> None:
        """Has the stored session live longer, if that is due, as somebody uses it who has loaded it long ago."""
        if self._saving.gone is None and self._saving.is_touch_due(now()):
            self._saving.schedule()

    async def load(self) -> None:
        """Loads the content, unless that has been done.

        :raises SessionStoreError: when the store fails. Whoever touches the content without asking again gets it, too.
        """
        data = self._saving.data
        if not data.is_loaded:
            found = await self._find()
            if not data.is_loaded:  # by another await meanwhile
                self._open(found)
            self._saving.is_loss_told = True

    def begin_change(self) -> ChangeSet:
        """Has what is about to change saved at the end of the tick; see `Backing.begin_change`.

        :raises SessionError: when the session is new and the response's headers are sent, when the request can have
            none, or in another thread.
        """
        if asyncio._get_running_loop() is not self._loop:  # None in a thread without one
            raise SessionError(ELSEWHERE)
        if self.refusal is not None:
            raise SessionError(self.refusal)
        saving = self._saving
        if (self._secret is None or self._secret is not self._told) and saving.gone is None:
            self._check_cookie_can_be_set()
            if self._secret is None:
                self._secret = Secret()
                saving.id = self._secret.id
        saving.schedule()
        return saving.data.changes

    def saved(self) -> "asyncio.Future[Saved]":
        """Returns the future of the save that includes all that was changed until now."""
        return self._saving.saved()

    def settled(self) -> "asyncio.Future[Saved]":
        """Returns the future of the save that includes all that was changed until now, and what is moving."""
        return asyncio.ensure_future(self._settle()) if self._steps else self._saving.saved()

    def held(self, seconds: float) -> None:
        """Notes that a response, or a part of one, has waited so long for what was changed."""
        self._calls.stats.add_hold(seconds)

    async def save(self) -> None:
        """Returns when everything that was changed before is saved.

        :raises SessionNotSaved: when that was not done. The changes are kept and go out with the next save.
        :raises SessionStoreError: when nobody knows whether it was done. The session is to be loaded again.
        :raises SessionGone: when the session has ended, so that nothing will be saved.
        """
        await self._saving.save()
        if self._saving.gone is not None:
            raise SessionGone(self._saving.gone)

    async def reload(self) -> None:
        """Saves what is pending and loads the content again.

        :raises SessionStoreError: when the store fails.
        """
        async with self._in_turn():
            self._open(await self._read(self._find))

    async def destroy(self) -> None:
        """Ends what is stored, and is an empty, new session from then on.

        It goes on to its end when the caller is cancelled; likewise `rotate`.

        :raises SessionStoreError: when the store fails.
        """
        await self._step(self._destroy)

    async def rotate(self) -> None:
        """Moves what is stored to a new id with a new secret. The old ones are dead when this returns.

        :raises SessionError: when the response's headers are sent.
        :raises SessionNotSaved: when the session is where it was.
        :raises SessionStoreError: when the store fails and nobody knows yet whether the session has moved. The client
            is given the new secret, and the session is moved as soon as the store answers.
        """
        await self._step(self._rotate)

    async def _step(self, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self.refusal is not None:
            raise SessionError(self.refusal)
        task = self._calls.start(step())
        self._steps = (*self._steps, task)
        task.add_done_callback(self._on_step_done)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise SessionStoreError(SHUTTING_DOWN) from None
            raise

    def _on_step_done(self, step: "asyncio.Task[None]") -> None:
        self._steps = tuple(task for task in self._steps if task is not step)

    async def _settle(self) -> Saved:
        while self._steps:
            await asyncio.wait(self._steps)
        return await self._saving.saved() if self.is_unsaved else None

    async def _destroy(self) -> None:
        async with self._in_turn():
            if not self.is_loaded and len(self._carried) > 1:
                await self.load()  # as it may be any of them
            is_known = self.is_loaded
            self._saving.drop_changes()
            async with self._saving.held():
                ids = [secret.id for secret in self._others]
                if self._saving.id is not None:
                    ids.append(self._saving.id)
                elif not is_known:
                    ids += [secret.id for secret in self._carried]
                await self._calls.end(ids)
                self._others = ()
                self._start_anew()
                self._client_must_forget = True

    async def _rotate(self) -> None:
        async with self._in_turn():
            await self.load()
            saving = self._saving
            if saving.gone is None and self._secret is self._told:  # else nobody has the secret yet
                await saving.save()
                if saving.gone is None and self._secret is not None:
                    async with saving.held():
                        await self._move(self._secret)
            if saving.gone is not None:
                self._begin_again()
            if self._others:
                await self._calls.end([secret.id for secret in self._others])
                self._others = ()

    async def _move(self, old: Secret) -> None:
        saving, new = self._saving, Secret()
        assert saving.created is not None  # noqa: S101 - the client has its secret
        self._check_cookie_can_be_set()
        rotation = Rotation(self.settings, self._calls, old.id, new.id)
        await rotation.begin(saving.data, saving.created)
        self._check_cookie_can_be_set()  # again, as the response may have been sent meanwhile
        self._secret = new  # whatever response is sent from now on gives it to the client
        try:
            moved = await rotation.complete()
        except SessionNotSaved:
            self._secret = old
            raise
        except SessionStoreError as error:
            saving.id = new.id
            saving.lose(error)
            saving.is_loss_told = True
            self._place()
            raise
        if moved is None:
            saving.open_gone(old.id)
        else:
            saving.id, saving.expires = new.id, moved.expires
            if not saving.data.has_changes:  # else they may be of these
                saving.data.owner, saving.data.lifetime = moved.owner, moved.lifetime
            self._place()

    def _begin_again(self) -> None:
        """Is a new session, after the one that the client knew has ended.

        What a late request has put into it was its own. Otherwise there is something of the ended one among it.
        """
        self._check_cookie_can_be_set()
        if not self._is_late:
            self._start_anew()
            return
        self._is_late = False
        self._secret, self._told = Secret(), None
        self._saving.begin(self._secret.id)

    async def _read(self, read: Callable[[], Awaitable[T]]) -> T:
        """Saves what is pending and returns what *read* returns, when nothing was changed and saved meanwhile."""
        while True:
            if self.is_loaded:
                await self._saving.save()
            sent = self._saving.sent
            found = await read()
            if not self.is_unsaved and self._saving.sent == sent:
                return found

    async def _find(self) -> "list[tuple[Secret, Loaded]]":
        secrets = self._carried if self._secret is None else (self._secret,)
        if len(secrets) == 1:
            return [(secrets[0], await self._calls.load(secrets[0].id))]
        loads = [(secret, self._calls.load(secret.id)) for secret in secrets]
        return [(secret, await load) for secret, load in loads]

    def _open(self, found: "list[tuple[Secret, Loaded]]") -> None:
        for place, (secret, loaded) in enumerate(found):
            if isinstance(loaded, SessionRecord):
                if self._secret is None:
                    self._secret = self._told = secret
                if len(found) > 1:
                    others = found[place + 1 :]
                    self._others = [other for other, loaded in others if isinstance(loaded, SessionRecord)]
                self._saving.open(loaded)
                if self._saving.is_touch_due(self._calls.loaded_at):
                    self._saving.schedule()
                self._place()
                return
        was_stored = self.is_stored
        for _, loaded in found:
            if isinstance(loaded, SessionRecordError) and self.settings.unreadable == "new" and not was_stored:
                continue
            if isinstance(loaded, SessionStoreError):
                if not self.is_loaded:
                    self._saving.data.unload(loaded)
                raise loaded
        for secret, loaded in found:
            if was_stored or (isinstance(loaded, SessionEnd) and self._began_before(loaded.ended + LATE)):
                self._open_gone(secret.id)
                return
        self._start_anew()  # an id that the store does not know is not adopted

    def _place(self) -> None:
        if self._following is not None:
            self._following.place()

    def _open_gone(self, id: str) -> None:
        self._secret = self._told = None
        self._is_late = True
        self._saving.open_gone(id)
        self._place()

    def _began_before(self, moment: Any) -> bool:
        return bool(now() - timedelta(seconds=self._age()) <= moment)

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

    def _start_anew(self) -> None:
        self._secret = self._told = None
        self._is_late = False
        self._carried = ()
        self._saving.open(None)
        self._place()


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise SessionError(ELSEWHERE) from None
