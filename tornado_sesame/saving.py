"""The save of one session: what is known to be stored, what waits to be saved, and how a save may end."""

import asyncio
import enum
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime

from .calls import Saved, StoreCalls
from .changes import Changes, Set
from .errors import SessionNotSaved, SessionStoreError, SessionTooLarge
from .session import SessionData
from .settings import SessionSettings
from .stores import Outcome, SessionInsert, SessionRecord, SessionUpdate, SessionWrite

__all__ = ["Phase", "Saving"]

logger = logging.getLogger("tornado_sesame")


class Phase(enum.Enum):
    """Where a session's save is; see `Saving`."""

    IDLE = enum.auto()
    QUEUED = enum.auto()
    SENT = enum.auto()
    HELD = enum.auto()


class Saving:
    """Saves one session, one save after the other.

    ========  =====================================  ===============================================================
    phase     what happens                           what follows
    ========  =====================================  ===============================================================
    IDLE      something changes                      QUEUED: the next batch takes it
    IDLE      the session is to be moved or read     HELD
    QUEUED    the batch leaves                       SENT with all that has changed, be it nothing
    QUEUED    its time is up, or it is too large     IDLE; what has changed stays pending
    SENT      it is saved, or the session is gone,   IDLE; QUEUED if something has changed since
              or there was nothing to save
    SENT      it does not fit on what is stored      SENT, with whole fields in place of what does not fit
    SENT      it was not done (`SessionNotSaved`)    IDLE; what was sent is pending again, with what has changed since
    SENT      nobody knows whether it was done       IDLE; all that has changed is dropped, and the content is unloaded
    HELD      the session is where it belongs        IDLE; QUEUED if something has changed since
    ========  =====================================  ===============================================================
    """

    # What few requests set lies in the class, so that the others need not.
    id: str | None = None
    """Under which it is stored, or will be; None when it is not known to be."""

    created: datetime | None = None
    """What is stored, as far as it is known; None while nothing is."""

    expires: datetime | None = None
    """Likewise."""

    touches = True
    """Whether using it extends its life."""

    phase = Phase.IDLE

    sent = 0
    """How many saves of changes have been sent. What is read while that grows may be older than what is known."""

    lost: SessionStoreError | None = None
    """The error of a save of which nobody knows whether it was done; None when there was none."""

    is_loss_told = True
    """Whether somebody has learned of `lost` by an error, or by having to load the session again."""

    gone: str | None = None
    """The id of the session when it is known to have ended; what changes is dropped then, and logged."""

    on_stored: Callable[[], None] | None = None
    """Is called when a new session has been stored."""

    _sent: SessionWrite | None = None
    _saved: "asyncio.Future[Saved] | None" = None  # the save that is queued or sent,
    _next: "asyncio.Future[Saved] | None" = None  # and the one that somebody waits for after it

    def __init__(self, settings: SessionSettings, calls: StoreCalls, data: SessionData) -> None:
        self.data = data
        self._settings = settings
        self._calls = calls

    @property
    def is_unsaved(self) -> bool:
        """Whether there are changes that the store has not confirmed."""
        return self.data.has_changes or (self._sent is not None and not _is_touch(self._sent))

    @property
    def is_void(self) -> bool:
        """Whether it is a new session in which there is nothing that would be stored."""
        return self.created is None and self._sent is None and self.data.is_empty

    @property
    def new_owner(self) -> str | None:
        """To whom the session belongs since the save that is under way; None when that does not say so."""
        match self._sent:
            case SessionInsert(record):
                return record.owner
            case SessionUpdate(changes=Changes(owner=Set(owner))):
                return owner  # type: ignore[no-any-return]
        return None

    def open(self, record: SessionRecord | None) -> None:
        """Makes *record* what is known to be stored; None: nothing, and so there is no id."""
        self.gone = None
        if record is None:
            self.id = self.created = self.expires = None
            self.data.open({})
        else:
            self.id, self.created, self.expires = record.id, record.created, record.expires
            self.data.open(record.data, record.owner, record.lifetime)

    def open_gone(self, id: str) -> None:
        """Makes it empty, as the session with this *id* has ended while the request was on its way or under way."""
        self.open(None)
        self.gone = id

    def begin(self, id: str) -> None:
        """Has the content, if there is any, stored as a new session."""
        self.id, self.created, self.expires, self.gone = id, None, None, None
        if not self.data.is_empty:
            self.data.changes.rewritten(())
            self.schedule()

    def lose(self, error: SessionStoreError) -> None:
        """Forgets the content, as nobody knows what is stored."""
        self.lost = error
        self.is_loss_told = False
        self.data.unload()

    def drop_changes(self) -> None:
        """Has nothing saved of what has changed until now, as the session is about to end."""
        if self.created is None:
            self.data.open({})
        elif self.data.is_loaded:
            self.data.changes.clear()

    def is_touch_due(self, moment: datetime) -> bool:
        """Tells whether the stored session is to live longer when it is used at *moment*."""
        if self.created is None or self.expires is None or not self.touches:
            return False
        return self._settings.is_touch_due(self.created, self.expires, moment, self.data.lifetime)

    def schedule(self) -> None:
        """Has what is about to change saved at the end of the tick."""
        if self.phase is Phase.IDLE:
            self._submit()

    def saved(self) -> "asyncio.Future[Saved]":
        """Returns the future of the save that includes all that was changed until now."""
        self.schedule()
        if self._saved is not None and (self.phase is Phase.QUEUED or not self.data.has_changes):
            return self._saved
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        return self._next

    async def save(self) -> None:
        """Returns when all that was changed before is saved, or the session is `gone`.

        :raises SessionStoreError: when it was not saved, or nobody knows; once, and again where it is not loaded.
        """
        if self.is_unsaved:
            saved = await asyncio.shield(self.saved())
            if isinstance(saved, SessionStoreError):
                self.is_loss_told = self.is_loss_told or saved is self.lost
                raise saved
        if self.lost is not None and not (self.data.is_loaded and self.is_loss_told):
            self.is_loss_told = True
            raise self.lost

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Gives a context in which nothing is being saved: what changes waits for its end."""
        while self._saved is not None:
            await asyncio.wait([self._saved])
        self.phase = Phase.HELD
        try:
            yield
        finally:
            self.phase = Phase.IDLE
            self._go_on()

    # For the batch that saves it

    def take(self, moment: datetime) -> SessionWrite | None:
        """Returns what is to be saved, or None when there is nothing; see `Savable`.

        :raises SessionTooLarge: when it is larger than it may be.
        """
        write = self._composed(moment)
        self.phase = Phase.SENT  # also with nothing: what changes from now on is not in this batch
        if write is not None:
            self._sent = write
            self.sent += not _is_touch(write)
        return write

    def resolve(self, write: SessionWrite, fields: Iterable[str]) -> SessionWrite | None:
        """Returns what is to be saved in place of *write*; None when nobody waits for that any more."""
        if self._sent is not write or not isinstance(write, SessionUpdate):
            return None
        whole = {name: self.data.snapshot((name,)) for name in fields}
        self.data.changes.widen(whole)
        self._sent = replace(write, changes=write.changes.resolved(whole))
        return self._sent

    def _composed(self, moment: datetime) -> SessionWrite | None:
        data, changes, id = self.data, self.data.changes, self.id
        if self.gone is not None and changes:
            self._log_dropped(self.gone)
        if id is None or self.gone is not None or (self.created is None and data.is_empty):
            changes.clear()  # an empty session is not stored, nor one that has ended
            return None
        self._check_size()
        if self.created is None:
            changes.set_aside()
            expires = self._settings.expiry(moment, moment, data.lifetime)
            owned = None if data.owner is None else moment
            record = SessionRecord(id, data.whole(), moment, moment, expires, data.owner, data.lifetime, owned)
            return SessionInsert(record)
        taken = changes.take(data)
        if taken.lifetime is not None or self.is_touch_due(moment):
            expires = self._settings.expiry(self.created, moment, data.lifetime)
            return SessionUpdate(id, taken, moment, expires, data.lifetime)
        return SessionUpdate(id, taken, moment) if taken else None

    def _check_size(self) -> None:
        limit = self._settings.max_bytes
        if limit is not None and (self.created is None or self.data.changes.may_grow):
            size = self.data.size()
            if size > limit:
                raise SessionTooLarge(self.id, size, limit)

    def _submit(self) -> None:
        self.phase = Phase.QUEUED
        self._saved, self._next = self._next or asyncio.get_running_loop().create_future(), None
        self._calls.save(self).add_done_callback(self._on_answer)

    def _on_answer(self, answer: "asyncio.Future[Saved]") -> None:
        result = answer.result()
        sent, self._sent = self._sent, None
        waiting, self._saved = [self._saved], None
        self.phase = Phase.IDLE
        if sent is not None and not isinstance(result, SessionStoreError):
            self._confirm(sent, result)
        if isinstance(result, SessionStoreError) and not (sent is not None and _is_touch(sent)):
            self._fail(result, is_unknown=sent is not None and not isinstance(result, SessionNotSaved))
            waiting.append(self._next)  # what changed while it was under way shares its fate
            self._next = None
        else:
            self._go_on()
        for saved in waiting:
            if saved is not None and not saved.done():
                saved.set_result(result)

    def _confirm(self, sent: SessionWrite, result: Saved) -> None:
        if result is Outcome.GONE:
            self.gone = sent.id
            if not _is_touch(sent):
                self._log_dropped(sent.id)
        elif isinstance(sent, SessionInsert):
            self.created, self.expires = sent.record.created, sent.record.expires
            if self.on_stored is not None:
                self.on_stored()
        elif isinstance(sent, SessionUpdate):
            self.expires = sent.expires or self.expires
        self.data.changes.confirm()

    def _fail(self, error: SessionStoreError, *, is_unknown: bool) -> None:
        if is_unknown:
            self.lose(error)
        else:
            self.data.changes.restore()

    def _log_dropped(self, id: str) -> None:
        logger.info("dropped a late write to session %s, which was destroyed, rotated or has expired", id)

    def _go_on(self) -> None:
        """Has saved what has changed meanwhile."""
        if self._next is not None or self.data.has_changes:
            self._submit()


def _is_touch(write: SessionWrite) -> bool:
    """Tells whether *write* changes nothing but when the session expires."""
    return isinstance(write, SessionUpdate) and not write.changes
