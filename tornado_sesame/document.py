"""`Session` and what nests in it: the proxies through which a handler reads and changes its session.

The data lie in plain dicts and lists, as a store returned them. A container becomes a proxy, a *node*, when it is first
reached, and the node takes its place in the container above; so loading costs nothing for what is not looked at, there
is one node for one container, and a node knows where it is by the nodes above it.

References go one way, from the nodes to the `Session` and from there to its `Host`: what a request leaves behind is
freed at once, without the garbage collector, as long as nothing nested was looked at.
"""

import itertools
import operator
import weakref
from collections.abc import (
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    MutableSequence,
)
from typing import Any, Protocol, SupportsIndex, overload

from bson import Int64

from .changes import Changes, ChangeSet, Set
from .counters import counter, origin_of, same_float
from .errors import SessionDataError, SessionNotLoaded
from .values import MISSING, Node, Path, bson_size, normalized, normalized_key, plain

__all__ = ["Content", "Host", "Session", "SessionDict", "SessionList"]


class Host(Protocol):
    """Whose content a `Session` shows."""

    def load(self) -> Awaitable[None]:
        """Loads the content and gives it to `Content.open`."""

    def changing(self) -> ChangeSet:
        """Hears that there will be a change, and returns what notes it. It may raise, and then there is no change."""


class SessionDict(Node, MutableMapping[str, Any]):
    """A dict in a session. Its items are attributes, too: ``session.user.name`` is ``session["user"]["name"]``.

    A missing key raises `KeyError`, a missing attribute `AttributeError`. Names that dicts use themselves (``items``,
    ``get``, ...) and names that start with an underscore are keys only: write ``session["items"]``.

    :meth:`copy` returns plain dicts and lists, for JSON (``self.write(session.copy())``) and to keep.
    """

    __slots__ = ("_data", "_key", "_parent", "_token")

    _data: dict[str, Any]
    _parent: "SessionDict | SessionList | None"
    _key: str  # under which the parent has it; not used in a list
    _token: object  # what numbers read from this dict remember as their origin, as they must not keep the session

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, data: dict[str, Any], parent: "SessionDict | SessionList | None", key: str) -> None:
        _set_dict_data(self, data)
        _set_dict_parent(self, parent)
        _set_dict_key(self, key)
        _set_dict_token(self, None)

    # Reading

    def __getitem__(self, key: str) -> Any:
        value = self._data[key]
        kind = type(value)
        if kind is str:
            return value
        if kind is dict:
            value = self._data[key] = SessionDict(value, self, key)
        elif kind is list:
            value = self._data[key] = SessionList(value, self, key)
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
        raise AttributeError(f"{type(self).__name__} has no attribute or key {name!r}")

    def get(self, key: str, default: Any = None) -> Any:
        """Returns the item, or *default* when there is none.

        ``session.times = session.get("times", 0) + 1`` is an atomic increment also when there are no ``times`` yet.
        """
        if key in self._data:
            return self[key]
        if type(default) in _NUMBERS and default == 0 and same_float(default, 0):  # which -0.0 is not
            return counter(default, self._token or _new_token(self), key, None)
        return default

    def __contains__(self, key: object) -> bool:
        return key in self._data

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __eq__(self, other: object) -> bool:
        return bool(self._data == (other._data if isinstance(other, SessionDict) else other))

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**self.copy(), **other}

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**other, **self.copy()}

    def __repr__(self) -> str:
        return repr(self._data)

    def copy(self) -> dict[str, Any]:
        """Returns the content as a plain dict of plain dicts and lists, independent of the session."""
        return {key: plain(value) for key, value in self._data.items()}

    def __copy__(self) -> dict[str, Any]:
        return self.copy()

    def __deepcopy__(self, memo: object) -> dict[str, Any]:
        return self.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (self.copy(),)

    # Changing

    def __setitem__(self, key: str, value: Any) -> None:
        old = self._data.get(key, MISSING)
        if value is old and isinstance(value, Node):
            return  # `session.cart += [...]` appends, and then assigns the list to where it is
        host, path, depth, in_list = _located(self)
        origin = origin_of(value)
        key = _accepted_key(self, key)
        new = _accepted(self, key, value, depth)
        if host is not None:
            if in_list:
                host.changing().rewritten(path)
            elif origin is not None and origin.holder is self._token and origin.key == key:
                host.changing().incremented((*path, key), old, new, origin.read, origin.added)
            else:
                host.changing().assigned((*path, key), old, new)
        self._data[key] = new
        _detach(old)

    def __delitem__(self, key: str) -> None:
        old = self._data[key]
        host, path, _, in_list = _located(self)
        if host is not None:
            if in_list:
                host.changing().rewritten(path)
            else:
                host.changing().deleted((*path, key), old)
        del self._data[key]
        _detach(old)

    def __setattr__(self, name: str, value: Any) -> None:
        self[self._key_of(name)] = value

    def __delattr__(self, name: str) -> None:
        key = self._key_of(name)
        if key not in self._data:
            raise AttributeError(f"{type(self).__name__} has no attribute or key {name!r}")
        del self[key]

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Returns the item; when there is none, puts *default* there first.

        When two requests overlap, ``session.setdefault("cart", []).append(item)`` keeps both items: an empty default
        (0, [] or {}) does not replace what the other request stored.
        """
        if key not in self._data:
            host, path, depth, in_list = _located(self)
            key = _accepted_key(self, key)
            new = _accepted(self, key, default, depth)
            if host is not None:
                if in_list:
                    host.changing().rewritten(path)
                else:
                    host.changing().created((*path, key), new)
            self._data[key] = new
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Like `dict.update`; when one value cannot be stored, none is changed."""
        len(self._data)  # says so if it is not loaded, also when there is nothing to put in
        items = dict(*args, **kwargs)
        depth = _located(self)[2]
        for key, value in items.items():
            _accepted(self, _accepted_key(self, key), value, depth)
        for key, value in items.items():
            self[key] = value

    def __ior__(self, other: Mapping[str, Any]) -> "SessionDict":
        self.update(other)
        return self

    def popitem(self) -> tuple[str, Any]:
        """Removes the item that was put in last, and returns it."""
        if not self._data:
            raise KeyError("popitem(): the session or dict is empty")
        key = next(reversed(self._data))
        return key, self.pop(key)

    def clear(self) -> None:
        """Removes everything."""
        self._replace({})

    def _replace(self, data: dict[str, Any]) -> None:
        host, path, _, _ = _located(self)
        if not data and not self._data:
            return
        if host is not None:
            host.changing().rewritten(path)
        old = list(self._data.values())
        self._data.clear()
        self._data.update(data)
        _detach(*old)

    def _key_of(self, name: str) -> str:
        if name[:1] == "_" or name in _OWN_NAMES:
            raise AttributeError(
                f"{name!r} cannot be set or deleted as an attribute of a {type(self).__name__}, "
                f"whose own it is: use session[{name!r}]"
            )
        return name


_OWN_NAMES = frozenset(dir(SessionDict))


class Session(SessionDict):
    """A visitor's data: a `SessionDict` that is saved when it is changed.

    ``await self.session`` loads it, once a request, and returns it. Before that, touching it raises `SessionNotLoaded`.

    :arg host: see `Host`.
    """

    __slots__ = ("__weakref__", "_host")

    _host: Host

    def __init__(self, host: Host, data: dict[str, Any]) -> None:
        super().__init__(data, None, "")
        _set_session_host(self, host)

    def __await__(self) -> Generator[Any, Any, "Session"]:
        if self._data is _NOT_LOADED:
            yield from self._host.load().__await__()
        return self

    def __repr__(self) -> str:
        return "<Session: not loaded>" if self._data is _NOT_LOADED else super().__repr__()


class Content:
    """The content of a `Session`, as its `Host` handles it: loaded, replaced, copied and saved."""

    __slots__ = ("_changes", "_shown", "data")

    def __init__(self) -> None:
        self.data: dict[str, Any] = _NOT_LOADED
        self._changes: ChangeSet | None = None  # until there is one
        self._shown: Callable[[], Session | None] = _nothing

    @property
    def is_loaded(self) -> bool:
        return self.data is not _NOT_LOADED

    @property
    def changes(self) -> ChangeSet:
        if self._changes is None:
            self._changes = ChangeSet()
        return self._changes

    @property
    def has_changes(self) -> bool:
        return bool(self._changes)

    def session(self, host: Host) -> Session:
        """Returns the session that shows this content: the same one as long as somebody has it."""
        session = self._shown()
        if session is None:
            session = Session(host, self.data)
            self._shown = weakref.ref(session)
        return session

    def open(self, data: dict[str, Any]) -> None:
        """Makes *data* the content, as loaded: nothing of it is a change. Nodes of the former content are detached."""
        old = list(self.data.values()) if self.is_loaded else []
        self._changes = None
        self.data = data
        session = self._shown()
        if session is not None:
            _set_dict_data(session, data)
        _detach(*old)

    def replace(self, host: Host, data: Any) -> None:
        """Makes *data* the content, as a change.

        :raises SessionDataError: when it is not a mapping or cannot be stored.
        :raises SessionNotLoaded: when the session is not loaded.
        """
        session = self.session(host)
        if data is session:
            return
        if not isinstance(data, Mapping):
            raise SessionDataError(f"a session is a dict and cannot become a {type(data).__name__}")
        len(session)
        session._replace(normalized(data, depth=0))

    def take_changes(self) -> Changes:
        """Returns what changed since the last time."""
        return self.changes.take(self)

    def take_all(self) -> Changes:
        """Returns the whole content as one change, to be put where nothing is."""
        self._changes = None
        return Changes({(): Set(plain(self.data))})

    def size(self) -> int:
        """Returns how many bytes the content has as BSON."""
        return bson_size(plain(self.data))

    def snapshot(self, path: Path, last: int | None = None) -> Any:
        value: Any = self.data
        for key in path:
            value = (value._data if isinstance(value, SessionDict) else value).get(key, MISSING)
        if last is not None:
            items = value._data if isinstance(value, SessionList) else value
            value = items[len(items) - last :]
        return plain(value)

    def correct(self, path: Path, number: float) -> None:
        holder: Any = self.data
        for key in path[:-1]:
            holder = holder[key]
            holder = holder._data if isinstance(holder, SessionDict) else holder
        holder[path[-1]] = number


class SessionList(Node, MutableSequence[Any]):
    """A list in a session.

    ``append``, ``extend`` and ``+=`` are saved as appends, which overlapping requests do not take from each other. Any
    other change saves the list as a whole, since positions mean nothing when somebody else changes it, too.
    """

    __slots__ = ("_data", "_key", "_parent")

    _data: list[Any]
    _parent: "SessionDict | SessionList | None"
    _key: str

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, data: list[Any], parent: "SessionDict | SessionList | None", key: str) -> None:
        self._data = data
        self._parent = parent
        self._key = key

    # Reading

    @overload
    def __getitem__(self, index: SupportsIndex) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self._data)))]
        value = self._data[index]
        if type(value) is dict:
            value = self._data[index] = SessionDict(value, self, "")
        elif type(value) is list:
            value = self._data[index] = SessionList(value, self, "")
        return value

    def __len__(self) -> int:
        return len(self._data)

    def __contains__(self, value: object) -> bool:
        return value in self._data

    def count(self, value: Any) -> int:
        return self._data.count(value)

    def __eq__(self, other: object) -> bool:
        return bool(self._data == (other._data if isinstance(other, SessionList) else other))

    def __lt__(self, other: Any) -> bool:
        return self.copy() < (other.copy() if isinstance(other, SessionList) else other)

    def __le__(self, other: Any) -> bool:
        return self.copy() <= (other.copy() if isinstance(other, SessionList) else other)

    def __gt__(self, other: Any) -> bool:
        return self.copy() > (other.copy() if isinstance(other, SessionList) else other)

    def __ge__(self, other: Any) -> bool:
        return self.copy() >= (other.copy() if isinstance(other, SessionList) else other)

    def __add__(self, other: Iterable[Any]) -> list[Any]:
        return [*self.copy(), *other]

    def __radd__(self, other: Iterable[Any]) -> list[Any]:
        return [*other, *self.copy()]

    def __mul__(self, times: int) -> list[Any]:
        return self.copy() * times

    __rmul__ = __mul__

    def __repr__(self) -> str:
        return repr(self._data)

    def copy(self) -> list[Any]:
        """Returns the content as a plain list of plain dicts and lists, independent of the session."""
        return [plain(value) for value in self._data]

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
        host, path, depth, in_list = _located(self)
        new = [_accepted(self, position, value, depth) for position, value in enumerate(values, len(self._data))]
        if not new:
            return
        if host is not None:
            if in_list:
                host.changing().rewritten(path)
            else:
                host.changing().appended(path, len(new))
        self._data.extend(new)

    def __iadd__(self, values: Iterable[Any]) -> "SessionList":
        self.extend(values)
        return self

    def __imul__(self, times: int) -> "SessionList":
        self[:] = self.copy() * times
        return self

    def insert(self, index: SupportsIndex, value: Any) -> None:
        self._rewrite((value,), index, 1, lambda new: self._data.insert(index, *new))

    def __setitem__(self, index: Any, value: Any) -> None:
        old = self._data[index]
        if isinstance(index, slice):
            start, _, step = index.indices(len(self._data))
            self._rewrite(value, start, step, lambda new: self._data.__setitem__(index, new))
            _detach(*old)
        elif not (value is old and isinstance(value, Node)):
            self._rewrite((value,), index, 1, lambda new: self._data.__setitem__(index, *new))
            _detach(old)

    def __delitem__(self, index: SupportsIndex | slice) -> None:
        old = self._data[index]
        self._rewrite((), 0, 1, lambda _: self._data.__delitem__(index))
        _detach(*(old if isinstance(index, slice) else (old,)))

    def clear(self) -> None:
        if self._data:
            del self[:]

    def reverse(self) -> None:
        self._rewrite((), 0, 1, lambda _: self._data.reverse())

    def sort(self, *, key: Callable[[Any], Any] | None = None, reverse: bool = False) -> None:
        # The nodes, not the raw dicts in their place, are what `key` expects.
        ordered = sorted(self, key=key, reverse=reverse)
        self._rewrite((), 0, 1, lambda _: self._data.__setitem__(slice(None), ordered))

    def _rewrite(
        self, values: Iterable[Any], start: SupportsIndex, step: int, change: Callable[[list[Any]], Any]
    ) -> None:
        """Changes the list by *change*, which gets *values*, bound for every *step*-th position, as they are stored."""
        host, path, depth, _ = _located(self)
        positions = itertools.count(operator.index(start), step)
        new = [_accepted(self, position, value, depth) for position, value in zip(positions, values, strict=False)]
        before = self._data.copy()
        change(new)  # before it is recorded, as it may raise an IndexError or ValueError
        if host is not None:
            try:
                host.changing().rewritten(path)
            except BaseException:
                self._data[:] = before
                raise


class _NotLoaded(dict[str, Any]):
    """Stands where the data will be; says what is wrong on any touch."""

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise SessionNotLoaded

    __contains__ = __delitem__ = __eq__ = __getitem__ = __iter__ = __len__ = __reversed__ = __setitem__ = _refuse
    clear = copy = get = items = keys = pop = update = values = _refuse
    __hash__ = None


_NOT_LOADED = _NotLoaded()


def _nothing() -> None:
    """A weak reference to a session that is not there yet."""


_NUMBERS = frozenset({int, float, Int64})

# Attributes of a SessionDict are its items, so its own fields are set through their slots.
_set_dict_data = SessionDict.__dict__["_data"].__set__
_set_dict_parent = SessionDict.__dict__["_parent"].__set__
_set_dict_key = SessionDict.__dict__["_key"].__set__
_set_dict_token = SessionDict.__dict__["_token"].__set__
_set_session_host = Session.__dict__["_host"].__set__


def _new_token(node: SessionDict) -> object:
    token = object()
    _set_dict_token(node, token)
    return token


def _located(node: SessionDict | SessionList) -> tuple[Host | None, Path, int, bool]:
    """Returns where *node* is.

    :returns: the host of its session (None when it was taken out of it), the path under which its changes are
        recorded, how deep it lies (the session itself is 1), and whether that path is that of a list around it.
    """
    if type(node) is Session:
        return node._host, (), 1, False
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
    return node._host if type(node) is Session else None, tuple(keys), depth, in_list


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
            keys.append(next(position for position, item in enumerate(parent._data) if item is node))
        else:
            keys.append(node._key)
        node = parent
    return tuple(reversed(keys))


def _detach(*values: Any) -> None:
    """Cuts containers that were taken out of a session off from it: their changes are their own from now on."""
    for value in values:
        if type(value) is SessionDict:
            _set_dict_parent(value, None)
        elif type(value) is SessionList:
            value._parent = None
