"""`Session` and what nests in it: the dicts and lists through which a handler reads and changes its session.

They are dicts and lists, which hold the content themselves and note what changes. A container in the content stays a
plain one until it is first reached; then a *node* takes its place, which knows where it is by the nodes above it. So
loading costs nothing for what is not looked at, and there is one node for one container.

What reads a dict or a list through C sees the content as it is, nodes and plain containers mixed. What would copy it
so, and share a plain container with the session, is led through `__iter__` and `__getitem__` here, as CPython does
with subclasses that have an `__iter__` of their own (``dict_merge`` and ``list_extend`` in its sources).

References go one way, from the nodes to the `Session` and from there to its `Backing`: what a request leaves behind is
freed at once, without the garbage collector, as long as nothing nested was looked at.
"""

import itertools
import operator
import weakref
from collections.abc import Awaitable, Callable, Generator, ItemsView, Iterable, Iterator, Mapping, ValuesView
from typing import Any, Protocol, SupportsIndex, overload

from bson import Int64

from .changes import ChangeSet
from .counters import counter, origin_of, same_float
from .errors import SessionDataError, SessionNotLoaded, SessionStoreError, quoted
from .values import MISSING, Path, SessionContainer, bson_size, normalized, normalized_key, plain

__all__ = ["Backing", "Session", "SessionData", "SessionDict", "SessionList"]


class Backing(Protocol):
    """What a `Session` is a view of: it loads the content, and has changes of it saved."""

    def load(self) -> Awaitable[None]:
        """Loads the content and gives it to `SessionData.open`."""

    def begin_change(self) -> ChangeSet:
        """Returns what the caller is to tell of a change, just before it makes it, and has that saved.

        :raises SessionError: when there can be no change now. The caller makes none then.
        """


class SessionDict(SessionContainer, dict[str, Any]):
    """A dict in a session. Its items are attributes, too: ``session.user.name`` is ``session["user"]["name"]``.

    A missing key raises `KeyError`, a missing attribute `AttributeError`. Names that dicts use themselves (``items``,
    ``get``, ...) and names that start with an underscore are keys only: write ``session["items"]``.

    :meth:`copy` returns plain dicts and lists, to keep.
    """

    __slots__ = ("_key", "_parent", "_token")

    _parent: "SessionDict | SessionList | None"
    _key: str  # under which the parent has it; not used in a list
    _token: object  # what numbers read from this dict remember as their origin, as they must not keep the session

    __hash__ = None

    def __init__(
        self, data: Any = (), parent: "SessionDict | SessionList | None" = None, key: str = ""
    ) -> None:  # a detached one for those who make another of a dict's class, as `dataclasses.asdict` does
        _dict_update(self, data)
        _set_dict_parent(self, parent)
        _set_dict_key(self, key)
        _set_dict_token(self, None)

    # Reading

    def __getitem__(self, key: str) -> Any:
        value = _dict_getitem(self, key)
        kind = type(value)
        if kind is str:
            return value
        if kind is dict:
            value = SessionDict(value, self, key)
            _dict_setitem(self, key, value)
        elif kind is list:
            value = SessionList(value, self, key)
            _dict_setitem(self, key, value)
        elif kind in _NUMBERS:
            return counter(value, self._token or _new_token(self), key, value)
        return value

    def __getattr__(self, name: str) -> Any:
        # Python comes here only for names that the class does not have.
        if name[:1] != "_":
            try:
                return self[name]
            except KeyError:
                pass
        raise AttributeError(f"{type(self).__name__} has no attribute or key {quoted(name)}")

    def get(self, key: str, default: Any = None) -> Any:
        """Returns the item, or *default* when there is none.

        ``session.times = session.get("times", 0) + 1`` is an atomic increment also when there are no ``times`` yet.
        """
        if key in self:
            return self[key]
        if type(default) in _NUMBERS and default == 0 and same_float(default, 0):  # -0.0 is no neutral start
            return counter(default, self._token or _new_token(self), key, None)
        return default

    def __iter__(self) -> Iterator[str]:
        return _dict_iter(self)

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        return _Values(self)

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        return _Items(self)

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        return {**self.copy(), **other}

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        return {**other, **self.copy()}

    def copy(self) -> dict[str, Any]:
        """Returns the content as a plain dict of plain dicts and lists, independent of the session."""
        return {key: plain(value) for key, value in _dict_items(self)}

    def __copy__(self) -> dict[str, Any]:
        return self.copy()

    def __deepcopy__(self, memo: object) -> dict[str, Any]:
        return self.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (self.copy(),)

    fromkeys = staticmethod(dict.fromkeys)  # type: ignore[assignment]

    # Changing

    def __setitem__(self, key: str, value: Any) -> None:
        old = _dict_get(self, key, MISSING)
        if value is old and isinstance(value, SessionContainer):
            return  # `session.cart += [...]` appends, and then assigns the list to where it is
        backing, path, depth, in_list = _located(self)
        origin = origin_of(value)
        key = _accepted_key(self, key)
        new = _accepted(self, key, value, depth)
        old = _dict_get(self, key, MISSING)  # once more, as *value* may have read the dict
        if backing is not None:
            if in_list:
                backing.begin_change().rewritten(path)
            elif origin is not None and origin.holder is self._token and origin.key == key:
                backing.begin_change().incremented((*path, key), old, new, origin.read, origin.added)
            else:
                backing.begin_change().assigned((*path, key), old, new)
        _dict_setitem(self, key, new)
        _detach(old)

    def __delitem__(self, key: str) -> None:
        old = _dict_getitem(self, key)
        backing, path, _, in_list = _located(self)
        if backing is not None:
            if in_list:
                backing.begin_change().rewritten(path)
            else:
                backing.begin_change().deleted((*path, key), old)
        _dict_delitem(self, key)
        _detach(old)

    def __setattr__(self, name: str, value: Any) -> None:
        self[self._key_of(name)] = value

    def __delattr__(self, name: str) -> None:
        key = self._key_of(name)
        if key not in self:
            raise AttributeError(f"{type(self).__name__} has no attribute or key {quoted(name)}")
        del self[key]

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Returns the item; when there is none, puts *default* there first.

        When two requests overlap, ``session.setdefault("cart", []).append(item)`` keeps both items: an empty default
        (0, [] or {}) does not replace what the other request stored.
        """
        if key not in self:
            backing, path, depth, in_list = _located(self)
            key = _accepted_key(self, key)
            new = _accepted(self, key, default, depth)
            if backing is not None:
                if in_list:
                    backing.begin_change().rewritten(path)
                else:
                    backing.begin_change().created((*path, key), new)
            _dict_setitem(self, key, new)
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Like `dict.update`; when one value cannot be stored, none is changed."""
        items = dict(*args, **kwargs)
        depth = _located(self)[2]
        for key, value in items.items():
            _accepted(self, _accepted_key(self, key), value, depth)
        for key, value in items.items():
            self[key] = value

    def __ior__(self, other: Mapping[str, Any]) -> "SessionDict":  # type: ignore[override]
        self.update(other)
        return self

    def pop(self, key: str, *default: Any) -> Any:
        """Removes the item and returns it; *default*, if it is given, when there is none."""
        if len(default) > 1:
            raise TypeError(f"pop expected at most 2 arguments, got {1 + len(default)}")
        if not self or (default and key not in self):  # an empty dict does not ask whether a key can be one
            if default:
                return default[0]
            raise KeyError(key)
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        """Removes the item that was put in last, and returns it."""
        if not self:
            raise KeyError("popitem(): the session or dict is empty")
        # Not by reversed(): it looks again at each place that was freed before, and so takes quadratic time.
        key, value = _dict_popitem(self)
        _dict_setitem(self, key, value)
        return key, self.pop(key)

    def clear(self) -> None:
        """Removes everything."""
        self._replace({})

    def _replace(self, data: dict[str, Any]) -> None:
        backing, path, _, _ = _located(self)
        if not data and not self:
            return
        if backing is not None:
            backing.begin_change().rewritten(path)
        _refill(self, data)

    def _key_of(self, name: str) -> str:
        if name[:1] == "_" or name in _OWN_NAMES:
            raise AttributeError(
                f"{quoted(name)} cannot be set or deleted as an attribute of a {type(self).__name__}, "
                f"which has it for itself: use session[{quoted(name)}]"
            )
        return name


_OWN_NAMES = frozenset(dir(SessionDict))


class Session(SessionDict):
    """A visitor's data: a `SessionDict` that is saved when it is changed.

    ``await self.session`` loads it, once a request, and returns it. Before that, touching it raises `SessionNotLoaded`.

    :arg backing: see `Backing`.
    :arg content: whose content it holds as long as it lives.
    """

    __slots__ = ("__weakref__", "_backing", "_content")

    _backing: Backing
    _content: "SessionData"

    def __init__(self, backing: Backing, content: "SessionData", data: dict[str, Any]) -> None:
        super().__init__(data, None, "")
        _set_session_backing(self, backing)
        _set_session_content(self, content)

    def __await__(self) -> Generator[Any, Any, "Session"]:
        if type(self) is _UnloadedSession:
            yield from self._backing.load().__await__()
        return self

    def __del__(self) -> None:
        # Nobody has it or a node of it any more, so what is still to be saved of it goes back.
        if hasattr(self, "_content") and self._content.is_loaded:
            self._content.take_back(dict(_dict_items(self)))


def _refusing(name: str) -> Any:
    """Returns a method that refuses while the session is not loaded, and does as always for who has kept it since."""

    def refuse(self: Session, *args: Any, **kwargs: Any) -> Any:
        self._content.check_loaded()
        return getattr(Session, name)(self, *args, **kwargs)

    return refuse


class _UnloadedSession(Session):
    """A `Session` that is not loaded, and says so on any touch. It becomes a `Session` when it is."""

    __slots__ = ()

    __contains__, __delitem__, __eq__, __ne__ = map(_refusing, ("__contains__", "__delitem__", "__eq__", "__ne__"))
    __getitem__, __iter__, __len__, __reversed__ = map(
        _refusing, ("__getitem__", "__iter__", "__len__", "__reversed__")
    )
    __setitem__, __or__, __ror__, __ior__ = map(_refusing, ("__setitem__", "__or__", "__ror__", "__ior__"))
    __copy__, __deepcopy__, __reduce__ = map(_refusing, ("__copy__", "__deepcopy__", "__reduce__"))
    clear, copy, get, items, keys, pop = map(_refusing, ("clear", "copy", "get", "items", "keys", "pop"))
    popitem, setdefault, update, values = map(_refusing, ("popitem", "setdefault", "update", "values"))
    __delattr__ = _refusing("__delattr__")
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "<Session: not loaded>"


class SessionData:
    """The content of a `Session` and its owner, as its `Backing` handles them: loaded, replaced, copied and saved.

    The session holds the content as long as somebody has the session.
    """

    __slots__ = ("_changes", "_data", "_error", "_session_ref", "is_loaded", "owner")

    def __init__(self) -> None:
        self.is_loaded = False
        self.owner: str | None = None
        self._data = _NOTHING_LOADED
        self._error: SessionStoreError | None = None
        self._changes: ChangeSet | None = None  # until there is one
        self._session_ref: Callable[[], Session | None] = _nothing

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

    def session(self, backing: Backing) -> Session:
        """Returns the session that shows this content: the same one as long as somebody has it."""
        session = self._session_ref()
        if session is None:
            session = (Session if self.is_loaded else _UnloadedSession)(backing, self, self._data)
            self._session_ref = weakref.ref(session)
            if self.is_loaded:
                for value in self._data.values():  # nodes of a former session of this content
                    _attach(value, session)
                self._data = _NOTHING_LOADED
        return session

    def open(self, data: dict[str, Any], owner: str | None = None) -> None:
        """Makes *data* the content, as loaded: nothing of it is a change. Nodes of the former content are detached."""
        self._become(data, owner, is_loaded=True)

    def unload(self, error: SessionStoreError | None = None) -> None:
        """Forgets the content and what has changed in it.

        :arg error: what is raised when it is touched, in place of `SessionNotLoaded`.
        """
        self._become(_NOTHING_LOADED, None, is_loaded=False)
        self._error = error

    def _become(self, data: dict[str, Any], owner: str | None, *, is_loaded: bool) -> None:
        self._changes = None
        self.owner = owner
        self.is_loaded = is_loaded
        session = self._session_ref()
        if session is None:
            self._data = data
        else:
            _refill(session, data)
            _set_class(session, Session if is_loaded else _UnloadedSession)

    def take_back(self, data: dict[str, Any]) -> None:
        """Holds the content itself again, as the session that held it is gone."""
        self._data = data

    def check_loaded(self) -> None:
        """Raises what is raised when content that is not loaded is touched."""
        if not self.is_loaded:
            raise SessionNotLoaded if self._error is None else self._error

    def replace(self, backing: Backing, data: Any) -> None:
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
        return bson_size(self.whole())

    def snapshot(self, path: Path, last: int | None = None) -> Any:
        value: Any = self.data
        for key in path:
            value = _dict_get(value, key, MISSING)
        if last is not None:
            value = _list_getitem(value, slice(len(value) - last, None))
        return plain(value)

    def correct(self, path: Path, number: float) -> None:
        holder: Any = self.data
        for key in path[:-1]:
            holder = _dict_getitem(holder, key)
        _dict_setitem(holder, path[-1], number)


class SessionList(SessionContainer, list[Any]):
    """A list in a session.

    ``append``, ``extend`` and ``+=`` are saved as appends, which overlapping requests do not take from each other. Any
    other change saves the list as a whole, since positions mean nothing when somebody else changes it, too.

    Functions of C that use a list without its methods, as those of :mod:`heapq` and `operator.concat` do, are not
    noticed: give them a ``copy()``, and assign what has become of it.
    """

    __slots__ = ("_key", "_parent")

    _parent: "SessionDict | SessionList | None"
    _key: str

    __hash__ = None

    def __init__(
        self, data: Iterable[Any] = (), parent: "SessionDict | SessionList | None" = None, key: str = ""
    ) -> None:
        _list_extend(self, data)
        self._parent = parent
        self._key = key

    # Reading

    @overload
    def __getitem__(self, index: SupportsIndex) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        value = _list_getitem(self, index)
        kind = type(value)
        if kind is dict:
            value = SessionDict(value, self, "")
            _list_setitem(self, index, value)
        elif kind is list:
            value = SessionList(value, self, "")
            _list_setitem(self, index, value)
        return value

    def __iter__(self) -> Iterator[Any]:
        position = 0
        while position < len(self):
            yield self[position]
            position += 1

    def __reversed__(self) -> Iterator[Any]:
        return (self[position] for position in reversed(range(len(self))))

    def __add__(self, other: Iterable[Any]) -> list[Any]:
        return [*self.copy(), *other]

    def __radd__(self, other: Iterable[Any]) -> list[Any]:
        return [*other, *self.copy()]

    def __mul__(self, times: SupportsIndex) -> list[Any]:
        return self.copy() * times

    __rmul__ = __mul__

    def copy(self) -> list[Any]:
        """Returns the content as a plain list of plain dicts and lists, independent of the session."""
        return [plain(value) for value in _list_iter(self)]

    def __copy__(self) -> list[Any]:
        return self.copy()

    def __deepcopy__(self, memo: object) -> list[Any]:
        return self.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (self.copy(),)

    # Changing

    def append(self, value: Any) -> None:
        self.extend((value,))

    def extend(self, values: Iterable[Any]) -> None:
        values = list(values)
        backing, path, depth, in_list = _located(self)
        new = [_accepted(self, position, value, depth) for position, value in enumerate(values, len(self))]
        if not new:
            return
        if backing is not None:
            if in_list:
                backing.begin_change().rewritten(path)
            else:
                backing.begin_change().appended(path, len(new))
        _list_extend(self, new)

    def __iadd__(self, values: Iterable[Any]) -> "SessionList":
        self.extend(values)
        return self

    def __imul__(self, times: SupportsIndex) -> "SessionList":
        self[:] = self.copy() * times
        return self

    def insert(self, index: SupportsIndex, value: Any) -> None:
        position = operator.index(index)
        (new,) = self._accepted((value,), position, 1)
        self._begin_rewrite()
        list.insert(self, position, new)

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, slice):
            start, _, step = index.indices(len(self))
            new = self._accepted(value, start, step)
            old = _list_getitem(self, index)  # now, as *value* may have read the list
            if step != 1 and len(new) != len(old):
                raise ValueError(f"{len(new)} items cannot take the place of {len(old)}")
            self._begin_rewrite()
            _list_setitem(self, index, new)
            _detach(*old)
        elif not (value is _list_getitem(self, index) and isinstance(value, SessionContainer)):
            (new,) = self._accepted((value,), index, 1)
            old = _list_getitem(self, index)
            self._begin_rewrite()
            _list_setitem(self, index, new)
            _detach(old)

    def __delitem__(self, index: SupportsIndex | slice) -> None:
        old = _list_getitem(self, index)
        self._begin_rewrite()
        list.__delitem__(self, index)
        _detach(*(old if isinstance(index, slice) else (old,)))

    def pop(self, index: SupportsIndex = -1) -> Any:
        value = self[operator.index(index)]
        del self[index]
        return value

    def remove(self, value: Any) -> None:
        del self[self.index(value)]

    def clear(self) -> None:
        if self:
            del self[:]

    def reverse(self) -> None:
        self._begin_rewrite()
        list.reverse(self)

    def sort(self, *, key: Callable[[Any], Any] | None = None, reverse: bool = False) -> None:
        # The nodes, not the raw dicts in their place, are what `key` expects.
        items = list(self)
        ordered = sorted(items, key=key, reverse=reverse)
        if len(self) != len(items) or any(map(operator.is_not, _list_iter(self), items)):
            raise ValueError("list modified during sort")
        self._begin_rewrite()
        _list_setitem(self, slice(None), ordered)

    def _accepted(self, values: Iterable[Any], start: SupportsIndex, step: int) -> list[Any]:
        """Returns *values*, bound for every *step*-th position, as they are stored."""
        depth = _located(self)[2]
        positions = itertools.count(operator.index(start), step)
        return [_accepted(self, position, value, depth) for position, value in zip(positions, values, strict=False)]

    def _begin_rewrite(self) -> None:
        """Notes a change that only saving the whole list can tell. What follows cannot fail any more."""
        backing, path, _, _ = _located(self)
        if backing is not None:
            backing.begin_change().rewritten(path)


class _Values(ValuesView[Any]):
    __slots__ = ()

    def __reversed__(self) -> Iterator[Any]:
        return (self._mapping[key] for key in reversed(self._mapping))  # type: ignore[attr-defined]


class _Items(ItemsView[str, Any]):
    __slots__ = ()

    def __reversed__(self) -> Iterator[tuple[str, Any]]:
        return ((key, self._mapping[key]) for key in reversed(self._mapping))  # type: ignore[attr-defined]


class _NotLoaded:
    """Lies in a session that is not loaded, so that what reads it through C fails, too, and shows what is wrong."""


_NOTHING_LOADED: dict[str, Any] = {"await self.session": _NotLoaded()}


def _nothing() -> None:
    """A weak reference to a session that is not there yet."""


_NUMBERS = frozenset({int, float, Int64})

# Attributes of a SessionDict are its items, so its own fields are set through their slots.
_set_dict_parent = SessionDict.__dict__["_parent"].__set__
_set_dict_key = SessionDict.__dict__["_key"].__set__
_set_dict_token = SessionDict.__dict__["_token"].__set__
_set_session_backing = Session.__dict__["_backing"].__set__
_set_session_content = Session.__dict__["_content"].__set__
_set_class = object.__dict__["__class__"].__set__

# What dicts and lists do by themselves, without noting anything.
_dict_getitem, _dict_setitem, _dict_delitem = dict.__getitem__, dict.__setitem__, dict.__delitem__
_dict_get, _dict_items, _dict_values, _dict_iter = dict.get, dict.items, dict.values, dict.__iter__
_dict_popitem, _dict_clear, _dict_update = dict.popitem, dict.clear, dict.update
_list_getitem, _list_setitem, _list_iter, _list_extend = list.__getitem__, list.__setitem__, list.__iter__, list.extend


def _refill(node: SessionDict, data: dict[str, Any]) -> None:
    """Makes *data* the content of *node*, and detaches what it was."""
    old = list(_dict_values(node))
    _dict_clear(node)
    _dict_update(node, data)
    _detach(*old)


def _new_token(node: SessionDict) -> object:
    token = object()
    _set_dict_token(node, token)
    return token


def _located(node: SessionDict | SessionList) -> tuple[Backing | None, Path, int, bool]:
    """Returns where *node* is.

    :returns: the backing of its session (None when it was taken out of it), the path under which its changes are
        recorded, how deep it lies (the session itself is 1), and whether that path is that of a list around it.
    """
    if type(node) is Session:
        return node._backing, (), 1, False
    keys: list[str] = []
    depth = 1
    in_list = False
    while (parent := node._parent) is not None:
        depth += 1
        if type(parent) is SessionList:
            keys.clear()
            in_list = True
        else:
            keys.append(node._key)
        node = parent
    keys.reverse()
    return node._backing if type(node) is Session else None, tuple(keys), depth, in_list


def _accepted_key(node: SessionDict, key: Any) -> str:
    try:
        return normalized_key(key)
    except SessionDataError as error:
        raise error.within(*_path_of(node)) from error.__cause__


def _accepted(node: SessionDict | SessionList, key: str | int, value: Any, depth: int) -> Any:
    """Returns *value* as it will be stored under *key* of *node*.

    :raises SessionDataError: when it cannot be stored.
    """
    try:
        return normalized(value, depth)
    except SessionDataError as error:
        raise error.within(*_path_of(node), key) from error.__cause__


def _path_of(node: SessionDict | SessionList) -> tuple[str | int, ...]:
    keys: list[str | int] = []
    while (parent := node._parent) is not None:
        if isinstance(parent, SessionList):
            keys.append(next(position for position, item in enumerate(_list_iter(parent)) if item is node))
        else:
            keys.append(node._key)
        node = parent
    return tuple(reversed(keys))


def _attach(value: Any, parent: Session | None) -> None:
    if type(value) is SessionDict:
        _set_dict_parent(value, parent)
    elif type(value) is SessionList:
        value._parent = parent


def _detach(*values: Any) -> None:
    """Cuts containers that were taken out of a session off from it: their changes are their own from now on."""
    for value in values:
        _attach(value, None)
