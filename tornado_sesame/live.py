"""One session during one request: loaded, changed, saved, rotated, destroyed."""

import asyncio
import logging
import os
from collections.abc import Callable, Generator
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from .cookie import id_of_secret, new_secret
from .document import Content, Session
from .errors import SessionStoreError
from .stores import Conflict, Outcome, SaveResult, SessionRecord, SessionWrite

if TYPE_CHECKING:
    from .manager import SessionManager

__all__ = ["LiveSession"]

logger = logging.getLogger("tornado_sesame")


class LiveSession:
    """What stands between a handler's `Session` and the store.

    :arg manager: whose settings and coalescers it uses.
    :arg secret: what the client's cookie says, or None.
    :arg claim: called before a session that is not in the store yet is changed; raises when it is too late to give the
        client a cookie.
    """

    __slots__ = (
        "_claim",
        "_content",
        "_created",
        "_id",
        "_is_destroyed",
        "_manager",
        "_saving",
        "_secret",
        "_sent",
        "_unsent",
    )

    def __init__(self, manager: "SessionManager", secret: str | None, claim: Callable[[], None]) -> None:
        self._manager = manager
        self._claim = claim
        self._content = Content(self._on_change, self._on_await)
        self._secret = self._sent = secret  # what it has now, and what the client knows
        self._id = id_of_secret(secret) if secret else None
        self._created: datetime | None = None  # None while it is not stored
        self._is_destroyed = False
        self._unsent: SessionWrite | None = None  # taken from the change set and not known to be saved
        self._saving: asyncio.Future[Exception | None] | None = None

    @property
    def session(self) -> Session:
        return self._content.session

    @property
    def id(self) -> str | None:
        """The id under which it is stored or will be; None when there is nothing to store."""
        return self._id if self._created or self.is_unsaved else None

    @property
    def is_unsaved(self) -> bool:
        """Whether there are changes that the store has not confirmed."""
        return bool(self._is_saving or self._unsent or self._content.changes)

    def cookie_header(self, *, https: bool) -> str | None:
        """Returns the ``Set-Cookie`` header that the response needs; None when the client already has what it needs.

        It counts as given to the client from then on.
        """
        cookie = self._manager.cookie
        if self.id is None:
            return cookie.delete_header(https=https) if self._is_destroyed and self._sent else None
        if self._secret is None or self._secret == self._sent:
            return None
        self._sent = self._secret
        return cookie.set_header(self._secret, https=https, lifetime=self._manager.idle_timeout)

    def replace(self, data: Any) -> None:
        """Makes *data* the content; see `Content.replace`."""
        self._content.replace(data)

    def open_empty(self) -> None:
        """Makes it loaded, without asking the store for what is known not to be there."""
        self._open(None)

    async def load(self) -> None:
        """Loads the content, unless that has been done.

        :raises SessionStoreError: when the store fails.
        """
        if not self._content.is_loaded:
            record = await self._manager.load(self._id) if self._id else None
            if not self._content.is_loaded:  # by another await meanwhile
                self._open(record)

    async def reload(self) -> None:
        """Saves what is pending and loads the content again.

        :raises SessionStoreError: when the store fails.
        """
        await self.save()
        self._open(await self._manager.load(self._id) if self._id else None)

    async def save(self) -> None:
        """Returns when everything that was changed before is saved.

        :raises SessionStoreError: when that failed. The changes are kept and go out with the next save.
        """
        while self.is_unsaved:
            try:
                error = await asyncio.shield(self._submit())
            except TimeoutError as late:
                raise self._manager.failure("save", self._id, late) from late
            if error is not None:
                raise error

    async def destroy(self) -> None:
        """Deletes what is stored, and is an empty, new session from then on.

        :raises SessionStoreError: when the store fails.
        """
        self._content.changes.clear()
        self._unsent = None
        if self._created is None and self._saving is not None and self._is_saving:
            await asyncio.wait([self._saving])  # an insert on its way must not arrive after the delete
        if self._id is not None:
            await self._manager.delete(self._id)
        self._start_anew()
        self._is_destroyed = True

    async def rotate(self) -> None:
        """Moves what is stored to a new id with a new secret. The old ones are dead when this returns.

        :raises SessionStoreError: when the store fails. The old id may be dead then, and the session with it.
        """
        await self.load()
        await self.save()
        if self._id is None or self._created is None:
            return  # nothing is stored, and what will be gets a secret that nobody knows yet
        self._claim()
        old = self._id
        # Expired, the old id takes no more writes, so none can be acknowledged and then be missing in the copy.
        record = await self._manager.retire(old)
        if record is None:
            self._start_anew()
            return
        secret = new_secret()
        try:
            await self._manager.insert(replace(record, id=id_of_secret(secret)))
        except SessionStoreError:
            self._start_anew()
            self._is_destroyed = True
            raise
        self._secret, self._id = secret, id_of_secret(secret)
        await self._manager.delete(old)

    # The coalescer's side

    def take(self, now: datetime) -> SessionWrite | None:
        """Returns what is to be saved, or None when there is nothing. Tell `settle` how it ended."""
        if self._unsent is not None:
            self._unsent = replace(self._unsent, is_repeated=True)
            return self._unsent
        changes = self._content.take_changes() if self._created else self._content.take_all()
        if not changes or self._id is None:
            return None
        self._unsent = SessionWrite(
            id=self._id,
            changes=changes,
            updated=now,
            expires=now + self._manager.idle_timeout,
            token=os.urandom(8),
            created=None if self._created else now,
        )
        return self._unsent

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
            return None
        if result is Outcome.GONE:
            logger.info("dropped a late write to session %s, which was destroyed, rotated or has expired", write.id)
        self._created = self._created or write.created
        self._unsent = None
        return None

    # The session's side

    def _on_change(self) -> None:
        if self._secret is None or self._secret != self._sent:
            self._claim()
        if self._secret is None:
            self._secret = new_secret()
            self._id = id_of_secret(self._secret)
        self._submit()

    def _on_await(self) -> Generator[Any, Any, None]:
        return self.load().__await__()

    def _open(self, record: SessionRecord | None) -> None:
        if record is None:
            self._start_anew()  # an id that the store does not know is not adopted
        else:
            self._created = record.created
            self._content.open(record.data)

    def _start_anew(self) -> None:
        self._id = self._secret = self._created = self._unsent = None
        self._content.open({})

    @property
    def _is_saving(self) -> bool:
        # A future calls back a little after it is done, so what the callback does must not be waited for here.
        return self._saving is not None and not self._saving.done()

    def _submit(self) -> "asyncio.Future[Exception | None]":
        if self._saving is None or self._saving.done():
            self._saving = self._manager.saves.submit(self)
            self._saving.add_done_callback(self._on_answer)
        return self._saving

    def _on_answer(self, future: "asyncio.Future[Exception | None]") -> None:
        if future.cancelled():
            return
        error = future.exception() or future.result()
        if error is not None:
            logger.warning("session %s is not saved: %s", self._id, error)
        elif self.is_unsaved:  # by changes that were made during the save
            self._submit()
