"""`Session` and what nests in it: the proxies through which a handler reads and changes its session.

The data lie in plain dicts and lists, as a store returned them. A container becomes a proxy, a *node*, when it is first
reached, and the node takes its place in the container above; so loading costs nothing for what is not looked at, there
is one node for one container, and a node knows where it is by the nodes above it.

References go one way, from the nodes to the `Session` and from there to its `Backing`: what a request leaves behind is
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


class SessionDict(SessionContainer, MutableMapping[str, Any]):
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
        raise AttributeError(f"{type(self).__name__} has no attribute or key {quoted(name)}")

    def get(self, key: str, default: Any = None) -> Any:
        """Returns the item, or *default* when there is none.

        ``session.times = session.get("times", 0) + 1`` is an atomic increment also when there are no ``times`` yet.
        """
        if key in self._data:
            return self[key]
        if type(default) in _NUMBERS and default == 0 and same_float(default, 0):  # -0.0 is no neutral start
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
        if value is old and isinstance(value, SessionContainer):
            return  # `session.cart += [...]` appends, and then assigns the list to where it is
        backing, path, depth, in_list = _located(self)
        origin = origin_of(value)
        key = _accepted_key(self, key)
        new = _accepted(self, key, value, depth)
        if backing is not None:
            if in_list:
                backing.begin_change().rewritten(path)
            elif origin is not None and origin.holder is self._token and origin.key == key:
                backing.begin_change().incremented((*path, key), old, new, origin.read, origin.added)
            else:
                backing.begin_change().assigned((*path, key), old, new)
        self._data[key] = new
        _detach(old)

    def __delitem__(self, key: str) -> None:
        old = self._data[key]
        backing, path, _, in_list = _located(self)
        if backing is not None:
            if in_list:
                backing.begin_change().rewritten(path)
            else:
                backing.begin_change().deleted((*path, key), old)
        del self._data[key]
        _detach(old)

    def __setattr__(self, name: str, value: Any) -> None:
        self[self._key_of(name)] = value

    def __delattr__(self, name: str) -> None:
        key = self._key_of(name)
        if key not in self._data:
            raise AttributeError(f"{type(self).__name__} has no attribute or key {quoted(name)}")
        del self[key]

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Returns the item; when there is none, puts *default* there first.

        When two requests overlap, ``session.setdefault("cart", []).append(item)`` keeps both items: an empty default
        (0, [] or {}) does not replace what the other request stored.
        """
        if key not in self._data:
            backing, path, depth, in_list = _located(self)
            key = _accepted_key(self, key)
            new = _accepted(self, key, default, depth)
            if backing is not None:
                if in_list:
                    backing.begin_change().rewritten(path)
                else:
                    backing.begin_change().created((*path, key), new)
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
        # Not by reversed(): it looks again at each place that was freed before, and so takes quadratic time.
        key, value = self._data.popitem()
        self._data[key] = value
        return key, self.pop(key)

    def clear(self) -> None:
        """Removes everything."""
        self._replace({})

    def _replace(self, data: dict[str, Any]) -> None:
        backing, path, _, _ = _located(self)
        if not data and not self._data:
            return
        if backing is not None:
            backing.begin_change().rewritten(path)
        old = list(self._data.values())
        self._data.clear()
        self._data.update(data)
        _detach(*old)

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
    """

    __slots__ = ("__weakref__", "_backing")

    _backing: Backing

    def __init__(self, backing: Backing, data: dict[str, Any]) -> None:
        super().__init__(data, None, "")
        _set_session_backing(self, backing)

    def __await__(self) -> Generator[Any, Any, "Session"]:
        if type(self._data) is _NotLoaded:
            yield from self._backing.load().__await__()
        return self

    def __repr__(self) -> str:
        return "<Session: not loaded>" if type(self._data) is _NotLoaded else super().__repr__()


class SessionData:
    """The content of a `Session` and its owner, as its `Backing` handles them: loaded, replaced, copied and saved."""

    __slots__ = ("_changes", "_session_ref", "data", "owner")

    def __init__(self) -> None:
        self.data: dict[str, Any] = _NOT_LOADED
        self.owner: str | None = None
        self._changes: ChangeSet | None = None  # until there is one
        self._session_ref: Callable[[], Session | None] = _nothing

    @property
    def is_loaded(self) -> bool:
        return type(self.data) is not _NotLoaded

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
            session = Session(backing, self.data)
            self._session_ref = weakref.ref(session)
        return session

    def open(self, data: dict[str, Any], owner: str | None = None) -> None:
        """Makes *data* the content, as loaded: nothing of it is a change. Nodes of the former content are detached."""
        old = list(self.data.values()) if self.is_loaded else []
        self._changes = None
        self.owner = owner
        self.data = data
        session = self._session_ref()
        if session is not None:
            _set_dict_data(session, data)
        _detach(*old)

    def unload(self, error: SessionStoreError | None = None) -> None:
        """Forgets the content and what has changed in it.

        :arg error: what is raised when it is touched, in place of `SessionNotLoaded`.
        """
        self.open(_NOT_LOADED if error is None else _NotLoaded(error))

    def check_loaded(self) -> None:
        """Raises what is raised when content that is not loaded is touched."""
        len(self.data)

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
        len(session)
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


class SessionList(SessionContainer, MutableSequence[Any]):
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
        backing, path, depth, in_list = _located(self)
        new = [_accepted(self, position, value, depth) for position, value in enumerate(values, len(self._data))]
        if not new:
            return
        if backing is not None:
            if in_list:
                backing.begin_change().rewritten(path)
            else:
                backing.begin_change().appended(path, len(new))
        self._data.extend(new)

    def __iadd__(self, values: Iterable[Any]) -> "SessionList":
        self.extend(values)
        return self

    def __imul__(self, times: int) -> "SessionList":
        self[:] = self.copy() * times
        return self

    def insert(self, index: SupportsIndex, value: Any) -> None:
        position = operator.index(index)
        (new,) = self._accepted((value,), position, 1)
        self._begin_rewrite()
        self._data.insert(position, new)

    def __setitem__(self, index: Any, value: Any) -> None:
        old = self._data[index]
        if isinstance(index, slice):
            start, _, step = index.indices(len(self._data))
            new = self._accepted(value, start, step)
            if step != 1 and len(new) != len(old):
                raise ValueError(f"{len(new)} items cannot take the place of {len(old)}")
            self._begin_rewrite()
            self._data[index] = new
            _detach(*old)
        elif not (value is old and isinstance(value, SessionContainer)):
            (new,) = self._accepted((value,), index, 1)
            self._begin_rewrite()
            self._data[index] = new
            _detach(old)

    def __delitem__(self, index: SupportsIndex | slice) -> None:
        old = self._data[index]
        self._begin_rewrite()
        del self._data[index]
        _detach(*(old if isinstance(index, slice) else (old,)))

    def clear(self) -> None:
        if self._data:
            del self[:]

    def reverse(self) -> None:
        self._begin_rewrite()
        self._data.reverse()

    def sort(self, *, key: Callable[[Any], Any] | None = None, reverse: bool = False) -> None:
        # The nodes, not the raw dicts in their place, are what `key` expects.
        ordered = sorted(self, key=key, reverse=reverse)
        self._begin_rewrite()
        self._data[:] = ordered

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


class _NotLoaded(dict[str, Any]):
    """Stands where the data will be; says what is wrong on any touch.

    :arg error: why they could not be loaded; None when nobody has asked for them.
    """

    __slots__ = ("error",)

    def __init__(self, error: SessionStoreError | None = None) -> None:
        self.error = error

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise SessionNotLoaded if self.error is None else self.error

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
_set_session_backing = Session.__dict__["_backing"].__set__


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
