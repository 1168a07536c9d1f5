"""Keeps the session of a handler that lives long up to date with what others write."""

import asyncio
from collections.abc import Callable
from contextvars import copy_context

from .calls import StoreCalls
from .errors import SessionNotSaved, SessionStoreError
from .saving import Saving
from .settings import SessionSettings, now
from .stores import SessionEnd, SessionRecord

__all__ = ["Following", "Hear"]

# Seconds until what could not be read is read again, the first time and at most.
LOOK_AGAIN, LOOK_AGAIN_AT_LAST = 1.0, 60.0

Hear = Callable[[str | None], None]


class Following:
    """Follows one session, shows what is stored when others have written to it, and tells of it.

    :arg saving: of the session.
    :arg turn: to be had by whoever moves the session or reads it again.
    :arg open_gone: makes the session what it is after it has ended; gets its id.
    :arg hear: is told that the session has changed (None), or why it has ended. The session shows that already then.
    """

    def __init__(
        self,
        settings: SessionSettings,
        calls: StoreCalls,
        saving: Saving,
        turn: asyncio.Lock,
        open_gone: Callable[[str], None],
        hear: Hear,
    ) -> None:
        self._settings = settings
        self._calls = calls
        self._saving = saving
        self._turn = turn
        self._open_gone = open_gone
        self._hear = hear
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()
        self._id: str | None = None  # under which it is followed
        self._is_stopped = False
        self._is_due = False  # something was written since the last look
        self._look: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None  # until it expires, or until the next look after a failure
        self._failures = 0

    def place(self) -> None:
        """Follows the session where it is now, if it is stored. One that has ended is followed until that is told."""
        saving = self._saving
        if self._id is not None and saving.gone is not None:
            self._on_written()
            return
        is_there = not self._is_stopped and saving.created is not None and saving.gone is None
        self._move(saving.id if is_there else None)
        if self._id is not None and saving.created is not None and saving.expires is not None:
            self._look_in((self._settings.end(saving.created, saving.expires) - now()).total_seconds())

    def stop(self) -> None:
        """Follows nothing any more, and tells nobody."""
        self._is_stopped = True
        self._move(None)

    def _move(self, id: str | None) -> None:
        if id != self._id:
            if self._id is not None:
                self._calls.watching.discard(self._id, self._on_written)
            if id is not None:
                self._calls.watching.add(id, self._on_written)
            self._id = id
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(seconds, 0) + 0.001, self._on_written)

    def _on_written(self) -> None:
        """Notices that what is stored may be another thing by now."""
        self._is_due = True
        if self._look is None and not self._calls.watching.is_closed:
            self._look = self._loop.create_task(self._look_while_due(), context=self._context)

    async def _look_while_due(self) -> None:
        try:
            while self._is_due and not self._is_stopped:
                self._is_due = False
                await self._catch_up()
            self._failures = 0
        except SessionStoreError:  # it is in the log
            if self._id is not None:
                self._look_in(min(LOOK_AGAIN * 2**self._failures, LOOK_AGAIN_AT_LAST))
            self._failures += 1
        finally:
            self._look = None

    async def _catch_up(self) -> None:
        """Shows what is stored now, and tells if that is anything new."""
        saving = self._saving
        async with self._turn:
            while (id := self._id) is not None:
                is_saved, sent = not saving.is_unsaved, saving.sent
                loaded = await self._calls.load(id)
                if isinstance(loaded, SessionStoreError):
                    raise loaded
                if not isinstance(loaded, SessionRecord) or saving.gone is not None:
                    self._end(id, loaded)
                    return
                if saving.is_unsaved:
                    if isinstance(await asyncio.shield(saving.saved()), SessionNotSaved):
                        return  # what this handler has changed stays as it is, until it is saved
                elif is_saved and saving.sent == sent:  # else what was read may be older than what was saved meanwhile
                    self._show(loaded)
                    return

    def _show(self, record: SessionRecord) -> None:
        saving = self._saving
        is_news = True
        if saving.data.is_loaded:
            saving.created, saving.expires = record.created, record.expires
            is_news = saving.data.refresh(record.data, record.owner, record.lifetime)
        else:  # as nobody knew whether it was saved
            saving.open(record)
        self.place()
        if is_news:
            self._tell(None)

    def _end(self, id: str, loaded: object) -> None:
        saving = self._saving
        reason: str
        if isinstance(loaded, SessionEnd):
            reason = loaded.reason
        else:
            created, expires = saving.created, saving.expires
            has_expired = created and expires and not self._settings.is_valid(created, expires, now())
            reason = "expired" if has_expired else "destroyed"  # without a trace
        self._move(None)
        self._open_gone(id)
        self._tell(reason)

    def _tell(self, reason: str | None) -> None:
        if not self._is_stopped:
            self._hear(reason)
