"""`Session`, the root of a visitor's data, and the content behind it as a save has to do with it.

References go one way, from the `Session` to its `SessionData` and its `Content`, which know it only as long as somebody
has it.
"""

import typing
import weakref
from collections.abc import Awaitable, Callable, Generator, Mapping
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

from .changes import ChangeSet
from .errors import SessionDataError, SessionNotLoaded, SessionStoreError
from .nodes import DictNode, SessionDict, attach, place, shared
from .places import Backing
from .values import MISSING, Path, bson_size, is_same, normalized, plain

__all__ = ["Session", "SessionBacking", "SessionData", "SessionRoot", "SessionT"]


class SessionBacking(Backing, Protocol):
    """What a `Session` is a view of: it loads the content, and has changes of it saved."""

    def load(self) -> Awaitable[None]:
        """Loads the content and gives it to `SessionData.open`."""


class SessionRoot(DictNode):
    """The root of a visitor's data, saved when it is changed: what `Session` and `TypedSession` have in common."""

    __slots__ = ("__weakref__", "_backing", "_content")

    _content: "SessionData"

    def __init__(self, backing: SessionBacking, content: "SessionData", data: dict[str, Any]) -> None:
        _dict_update(self, data)
        place(self, None, "")
        _set_backing(self, backing)
        _set_content(self, content)

    def __await__(self) -> Generator[Any, Any, Self]:
        if not self._content.is_loaded:
            yield from cast(SessionBacking, self._backing).load().__await__()
        return self

    def __del__(self) -> None:
        # Nobody has it or a node of it any more, so what is still to be saved of it goes back.
        if hasattr(self, "_content") and self._content.is_loaded:
            self._content.take_back(dict(_dict_items(self)))


class Session(SessionDict, SessionRoot):
    """A visitor's data: a `SessionDict` that is saved when it is changed.

    ``await self.session`` loads it, once a request, and returns it. Using it before raises `SessionNotLoaded`.
    """

    __slots__ = ()


if TYPE_CHECKING:
    from typing_extensions import TypeVar  # its stubs come with each type checker

    SessionT = TypeVar("SessionT", bound=SessionRoot, default=Session)
else:
    SessionT = typing.TypeVar("SessionT", bound=SessionRoot)


class _Silent:
    """Keeps the application's classes from hearing of a subclass of theirs that is none of their business."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        pass


_TOUCHES = (
    *("__contains__", "__copy__", "__deepcopy__", "__delattr__", "__delitem__", "__eq__", "__getitem__", "__ior__"),
    *("__iter__", "__len__", "__ne__", "__or__", "__reduce__", "__reversed__", "__ror__", "__setitem__"),
    *("clear", "copy", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values"),
)


@cache
def _unloaded(kind: type[SessionRoot]) -> type[SessionRoot]:
    """Returns the class of sessions of this *kind* as long as they are not loaded.

    They say so on any touch. A session that is loaded changes its class, so that nothing is asked later.
    """

    def refusing(name: str) -> Any:
        def refuse(self: SessionRoot, *args: Any, **kwargs: Any) -> Any:
            self._content.check_loaded()
            return getattr(kind, name)(self, *args, **kwargs)  # somebody has kept the method since

        return refuse

    def described(self: SessionRoot) -> str:
        return f"<{kind.__name__}: not loaded>"

    namespace = {name: refusing(name) for name in _TOUCHES} | {"__repr__": described, "__slots__": ()}
    for name in kind._fields:
        namespace[name] = property(lambda self: self._content.check_loaded())
    return cast("type[SessionRoot]", type(kind.__name__, (_Silent, kind), namespace))


class SessionData:
    """The content of a `Session` and what lies beside it, as its `Backing` handles it: loaded, replaced and saved.

    The session holds the content as long as somebody has the session.
    """

    __slots__ = ("_changes", "_data", "_error", "_kind", "_session_ref", "is_loaded", "lifetime", "owner")

    def __init__(self, kind: type[SessionRoot] = Session) -> None:
        self._kind = kind
        self.is_loaded = False
        self.owner: str | None = None
        self.lifetime: timedelta | None = None
        self._data = _NOTHING_LOADED
        self._error: SessionStoreError | None = None
        self._changes: ChangeSet | None = None  # until there is one
        self._session_ref: Callable[[], SessionRoot | None] = _nothing

    @property
    def data(self) -> dict[str, Any]:
        session = self._session_ref()
        return self._data if session is None else session

    @property
    def changes(self) -> ChangeSet:
        if self._changes is None:
            self._changes = ChangeSet()
        return self._changes

    @property
    def has_changes(self) -> bool:
        """Whether something has changed that no save has taken."""
        return bool(self._changes)

    def session(self, backing: SessionBacking) -> SessionRoot:
        """Returns the session that shows this content: the same one as long as somebody has it."""
        session = self._session_ref()
        if session is None:
            session = self._class()(backing, self, self._data)
            self._session_ref = weakref.ref(session)
            if self.is_loaded:
                for value in self._data.values():  # nodes of a former session of this content
                    attach(value, session)
                self._data = _NOTHING_LOADED
        return session

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing for which a session would be stored. A lifetime alone is no reason."""
        return not self.data and self.owner is None

    def open(self, data: dict[str, Any], owner: str | None = None, lifetime: timedelta | None = None) -> None:
        """Makes *data* the content, as loaded: nothing of it is a change. Nodes of the former content are detached."""
        self._become(data, owner, lifetime, is_loaded=True)

    def refresh(self, data: dict[str, Any], owner: str | None, lifetime: timedelta | None) -> bool:
        """Makes *data*, which others have stored, the content where nothing is to be saved. Nodes stay what they are.

        :returns: whether that is anything else than what it was.
        """
        if owner == self.owner and lifetime == self.lifetime and is_same(self.whole(), data):
            return False
        self.owner, self.lifetime = owner, lifetime
        session = self._session_ref()
        if session is None:
            self._data = data
        else:
            session._refresh(data)
        return True

    def unload(self, error: SessionStoreError | None = None) -> None:
        """Forgets the content and what has changed in it.

        :arg error: what is raised when it is touched, in place of `SessionNotLoaded`.
        """
        self._become(_NOTHING_LOADED, None, None, is_loaded=False)
        self._error = error

    def _become(self, data: dict[str, Any], owner: str | None, lifetime: timedelta | None, *, is_loaded: bool) -> None:
        was_loaded, self.is_loaded = self.is_loaded, is_loaded
        self._changes = None
        self.owner = owner
        self.lifetime = lifetime
        session = self._session_ref()
        if session is None:
            self._data = data
            return
        if was_loaded:
            session._refill(data)
        else:  # there is nothing to detach
            _dict_clear(session)
            _dict_update(session, data)
        _set_class(session, self._class())

    def _class(self) -> type[SessionRoot]:
        return self._kind if self.is_loaded else _unloaded(self._kind)

    def take_back(self, data: dict[str, Any]) -> None:
        """Holds the content itself again, as the session that held it is gone."""
        self._data = data

    def check_loaded(self) -> None:
        """Raises what is raised when content that is not loaded is touched."""
        if not self.is_loaded:
            raise SessionNotLoaded if self._error is None else self._error

    def replace(self, backing: SessionBacking, data: Any) -> None:
        """Makes *data* the content, as a change.

        :raises SessionDataError: when it is not a mapping or cannot be stored.
        :raises SessionNotLoaded: when the session is not loaded.
        """
        session = self.session(backing)
        if data is session:
            return
        if not isinstance(data, Mapping):
            raise SessionDataError(f"a session is a dict and cannot become a {type(data).__name__}")
        self.check_loaded()
        session._replace(normalized(data, depth=0))

    def whole(self) -> dict[str, Any]:
        """Returns a plain copy of the content."""
        return plain(self.data)  # type: ignore[no-any-return]

    def size(self) -> int:
        """Returns how many bytes the content has as BSON."""
        return bson_size(shared(self.data))

    def snapshot(self, path: Path, last: int | None = None) -> Any:
        value: Any = self.data
        for key in path:
            value = dict.get(value, key, MISSING)
        if last is not None:
            value = list.__getitem__(value, slice(len(value) - last, None))
        return plain(value)

    def correct(self, path: Path, number: float) -> None:
        holder: Any = self.data
        for key in path[:-1]:
            holder = dict.__getitem__(holder, key)
        dict.__setitem__(holder, path[-1], number)


class _NotLoaded:
    """Lies in a session that is not loaded, so that what reads it through C fails, too, and shows what is wrong."""


_NOTHING_LOADED: dict[str, Any] = {"await self.session": _NotLoaded()}


def _nothing() -> None:
    """A weak reference to a session that is not there yet."""


_dict_clear, _dict_items, _dict_update = dict.clear, dict.items, dict.update

# Attributes of a session are its items, so its own fields are set through their slots.
_set_backing = SessionRoot.__dict__["_backing"].__set__
_set_content = SessionRoot.__dict__["_content"].__set__
_set_class = object.__dict__["__class__"].__set__
