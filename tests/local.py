"""A session alone, as handlers see it, without a manager and a store."""

from collections.abc import Callable
from typing import Any

from tornado_sesame.changes import Changes, ChangeSet
from tornado_sesame.session import Session, SessionData, SessionRoot

__all__ = ["Local"]


class Local:
    """The backing of a session.

    :arg data: the content; None when it is not loaded.
    :arg on_change: called before every change, which does not happen if this raises.
    :arg kind: the class of the session.
    """

    def __init__(
        self,
        data: dict[str, Any] | None = None,
        on_change: Callable[[], object] = lambda: None,
        kind: type[SessionRoot] = Session,
    ) -> None:
        self._content = SessionData(kind)
        self._on_change = on_change
        self._held: SessionRoot | None = self.session
        self.open = self._content.open
        self.refresh = self._content.refresh
        if data is not None:
            self.open(data)

    @property
    def session(self) -> Any:
        return self._content.session(self)

    def release(self) -> None:
        """Holds the session no longer."""
        self._held = None

    async def load(self) -> None:
        self.open({})

    def begin_change(self) -> ChangeSet:
        self._on_change()
        return self.changes

    @property
    def changes(self) -> ChangeSet:
        return self._content.changes

    def take_changes(self) -> Changes:
        return self.changes.take(self._content)

    @property
    def owner(self) -> str | None:
        return self._content.owner

    @owner.setter
    def owner(self, owner: str | None) -> None:
        self._content.owner = owner

    @property
    def is_loaded(self) -> bool:
        return self._content.is_loaded

    def replace(self, data: Any) -> None:
        self._content.replace(self, data)
