"""A stored session that somebody else than its visitor reads and changes."""

import asyncio

from .calls import StoreCalls
from .changes import ChangeSet
from .errors import ELSEWHERE, SessionError, SessionGone, SessionStoreError
from .saving import Saving
from .session import SessionData, SessionRoot
from .settings import SessionSettings
from .stores import SessionRecord

__all__ = ["Editing"]


class Editing:
    """What stands between a `Session` and the store where there is no request.

    It does not extend the session's life, as it is no use by the visitor.

    :arg settings: the manager's.
    :arg calls: likewise.
    :arg id: of the session.
    :arg kind: the class of what the caller sees.
    """

    def __init__(self, settings: SessionSettings, calls: StoreCalls, id: str, kind: type[SessionRoot]) -> None:
        self._calls = calls
        self._loop = asyncio.get_running_loop()
        self._id = id
        self._saving = Saving(settings, calls, SessionData(kind))
        self._saving.touches = False
        self._is_over = False

    @property
    def session(self) -> SessionRoot:
        """Its content: the same object as long as somebody keeps it."""
        return self._saving.data.session(self)

    async def load(self) -> None:
        """Loads the content.

        :raises SessionGone: when there is no such session.
        :raises SessionStoreError: when the store fails.
        """
        loaded = await self._calls.load(self._id)
        if isinstance(loaded, SessionStoreError):
            raise loaded
        if not isinstance(loaded, SessionRecord):
            raise SessionGone(self._id)
        self._saving.open(loaded)

    def begin_change(self) -> ChangeSet:
        """Has what is about to change saved at the end of the tick; see `Backing.begin_change`.

        :raises SessionError: when the editing is over, or in another thread.
        """
        if asyncio._get_running_loop() is not self._loop:  # None in a thread without one
            raise SessionError(ELSEWHERE)
        if self._is_over:
            raise SessionError("this session is not being edited any more: change it inside of the `async with` block")
        self._saving.schedule()
        return self._saving.data.changes

    async def save(self) -> None:
        """Returns when all that was changed is saved.

        :raises SessionGone: when the session has ended meanwhile, so that something was dropped.
        :raises SessionStoreError: when the store fails.
        """
        await self._saving.save()
        if self._saving.gone is not None:
            raise SessionGone(self._saving.gone)

    def end(self) -> None:
        """Lets nothing be changed any more."""
        self._is_over = True
