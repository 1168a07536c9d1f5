"""The dicts and lists that nest in a session, through which a handler reads and changes it.

They are dicts and lists, which hold the content themselves and note what changes. A container in the content stays a
plain one until it is first reached; then a *node* takes its place, which knows where it is by the nodes above it. So
loading costs nothing for what is not looked at, and there is one node for one container.

What reads a dict or a list through C sees the content as it is, nodes and plain containers mixed. What would copy it
so, and share a plain container with the session, is led through `__iter__` and `__getitem__` here, as CPython does
with subclasses that have an `__iter__` of their own (``dict_merge`` and ``list_extend`` in its sources).

References go from a node to the one above it. The way back is the content itself, so that what a request leaves behind
is freed at once, without the garbage collector, as long as nothing nested was looked at.
"""

import itertools
import operator
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, ValuesView
from typing import Any, ClassVar, SupportsIndex, TypeVar, cast, overload

from bson import Int64

from .counters import Token, caught_up, counter, origin_of, same_float
from .errors import quoted
from .places import DETACHED, Absent, Backing, Node, accepted, accepted_key, begin_rewrite, place_of
from .values import MISSING, SessionContainer, is_same, plain

__all__ = [
    "NUMBERS",
    "OWN_NAMES",
    "DictNode",
    "SessionDict",
    "SessionList",
    "attach",
    "default_of",
    "new_dict",
    "new_list",
    "place",
    "shared",
]


# How many nodes that others have removed a dict goes on to know, so that they can come back.
MAX_ABSENT = 100


class DictNode(SessionContainer, dict[str, Any]):
    """A dict in a session, of whatever kind: its items, but no attributes."""

    __slots__ = ("_absent", "_key", "_parent", "_token")

    _backing: Backing = DETACHED
    _dict_class: "type[DictNode]"  # what dicts among its items become when they are reached,
    _list_class: "type[SessionList]"  # and lists
    _fields: ClassVar[Mapping[str, object]] = {}  # the items that are attributes, where not all are

    _parent: "DictNode | SessionList | None"
    _key: "str | Absent | None"  # under which the parent has it; None in a list
    _token: Token | None  # what numbers read from this dict remember as their origin, as they must not keep the session
    _absent: "dict[str, DictNode | SessionList] | None"  # nodes that were given out and are not in here yet, if any

    __hash__ = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # a detached one, as `dataclasses.asdict` makes it
        _dict_update(self, *args, **kwargs)
        place(self, None, "")

    # Reading

    def __getitem__(self, key: str) -> Any:
        value = _dict_getitem(self, key)
        kind = type(value)
        if kind is str:
            return value
        if kind in NUMBERS:
            return counter(value, self._token or _new_token(self), key, value)
        if kind is dict or kind is list:
            value = self._new_node(key, value, key)
            _dict_setitem(self, key, value)
        return value

    def get(self, key: str, default: Any = None) -> Any:
        """Returns the item under *key*, or *default* when there is none.

        ``session.times = session.get("times", 0) + 1`` is an atomic increment even when there are no ``times`` yet.
        """
        return self[key] if key in self else default_of(self, key, default)

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

    def _shared(self) -> dict[str, Any]:
        return shared(self)

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
        if old is MISSING and self._absent is not None:
            old = self._absent.get(key, MISSING)
        if value is old and isinstance(value, SessionContainer):
            return  # `session.cart += [...]` appends, and then assigns the list to where it is
        backing, path, depth, in_list = place_of(self)
        origin = origin_of(value)
        if origin is not None and origin.holder is not self._token:
            value = caught_up(value, self._token, key, old is MISSING)
            origin = origin_of(value)
        key = accepted_key(self, key)
        new = accepted(self, key, value, depth)
        old = _dict_get(self, key, MISSING)  # once more, as *value* may have read the dict
        changes = backing.begin_change()
        if in_list:
            changes.rewritten(path)
        elif origin is not None and origin.holder is self._token and origin.key == key:
            changes.incremented((*path, key), old, new, origin.read, origin.added)
        else:
            changes.assigned((*path, key), old, new)
        _dict_setitem(self, key, new)
        if self._absent is not None:
            _detach(self._no_longer_absent(key))
        if isinstance(old, SessionContainer):
            _detach(old)

    def __delitem__(self, key: str) -> None:
        old = _dict_getitem(self, key)
        backing, path, _, in_list = place_of(self)
        changes = backing.begin_change()
        if in_list:
            changes.rewritten(path)
        else:
            changes.deleted((*path, key), old)
        _dict_delitem(self, key)
        _detach(old)

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Returns the item under *key*; when there is none, puts *default* there first.

        When two requests overlap, ``session.setdefault("cart", []).append(item)`` keeps both items: an empty default
        (0, [] or {}) does not replace what the other request stored.

        :raises SessionDataError: when *default* is put there and cannot be stored.
        """
        if key not in self:
            backing, path, depth, in_list = place_of(self)
            key = accepted_key(self, key)
            new = accepted(self, key, default, depth)
            changes = backing.begin_change()
            if in_list:
                changes.rewritten(path)
            else:
                changes.created((*path, key), new)
            _dict_setitem(self, key, new)
            _detach(self._no_longer_absent(key))
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Takes over items from a mapping, from pairs or from keywords (*args* and *kwargs*), as `dict.update` does.

        :raises SessionDataError: when one of them cannot be stored; none is changed then.
        """
        items = dict(*args, **kwargs)
        _, _, depth, _ = place_of(self)
        for key, value in items.items():
            accepted(self, accepted_key(self, key), value, depth)
        for key, value in items.items():
            self[key] = value

    def __ior__(self, other: Mapping[str, Any]) -> "DictNode":  # type: ignore[override]
        self.update(other)
        return self

    def pop(self, key: str, *default: Any) -> Any:
        """Removes the item under *key* and returns it. When there is none, it returns *default*, if one is given.

        :raises KeyError: when there is no such item and no *default*.
        """
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
        """Removes the item that was put in last, and returns its key and value.

        :raises KeyError: when there is none.
        """
        if not self:
            raise KeyError("popitem(): the session or dict is empty")
        # Not by reversed(): it looks again at each place that was freed before, and so takes quadratic time.
        key, value = _dict_popitem(self)
        _dict_setitem(self, key, value)
        return key, self.pop(key)

    def clear(self) -> None:
        """Removes all items."""
        self._replace({})

    def _replace(self, data: dict[str, Any]) -> None:
        if data or self:
            begin_rewrite(self)
            self._refill(data)

    def _refill(self, data: dict[str, Any]) -> None:
        """Becomes *data* without noting that, and detaches what it was."""
        old = [*_dict_values(self), *(self._absent or {}).values()]
        _dict_clear(self)
        _dict_update(self, data)
        _set_absent(self, None)
        _detach(*old)

    def _refresh(self, data: dict[str, Any]) -> None:
        """Becomes *data*, which others have stored, without noting that.

        Nodes stay what lies under their keys, so that who holds one goes on with what is stored now. Those of which
        nothing is stored any more are empty, and will be there again when something changes in them.
        """
        if self._token is not None:
            _set_token(self, self._token.succeeded(_added(self, data)))
        former = dict(_dict_items(self))
        content = {key: _refreshed(self._former(key, former), value) for key, value in data.items()}
        if list(former) != list(data):  # else who iterates can go on
            _dict_clear(self)
        _dict_update(self, content)
        for key, value in content.items():
            if isinstance(value, DictNode | SessionList):
                value._rename(key)
        for key in former.keys() - data.keys():
            self._let_go(key, former[key])

    def _former(self, key: str, former: dict[str, Any]) -> Any:
        return former[key] if key in former else self._no_longer_absent(key)

    def _let_go(self, key: str, value: Any) -> None:
        """Holds a node no longer, which stays where it is all the same, as one that is absent."""
        if isinstance(value, DictNode | SessionList):
            empty: Any = {} if isinstance(value, DictNode) else []
            value._refresh(self._content_when_absent(key, empty))
            value._rename(Absent(key))
            absent = self._absent_nodes()
            absent[key] = value
            if len(absent) > MAX_ABSENT + len(self._fields):
                _detach(absent.pop(next(iter(absent))))

    def _content_when_absent(self, key: str, empty: Any) -> Any:
        """Returns what a node under *key* holds while nothing is there: *empty*, or a default of that type."""
        return empty

    def _new_node(self, key: str, value: "dict[str, Any] | list[Any]", place: "str | Absent") -> Any:
        dict_class, list_class = self._classes(key)
        if type(value) is dict:
            return new_dict(dict_class, value, self, place)
        return new_list(list_class, value, self, place)

    def _classes(self, key: str) -> "tuple[type[DictNode], type[SessionList]]":
        """Returns what a dict and a list become under *key*."""
        return self._dict_class, self._list_class

    def _absent_node(self, key: str, default: "dict[str, Any] | list[Any]") -> Any:
        """Returns a node for a *key* that is not there. It is, with *default*, as soon as something changes in it."""
        absent = self._absent_nodes()
        if key not in absent:
            absent[key] = self._new_node(key, plain(default), Absent(key))
        return absent[key]

    def _absent_nodes(self) -> "dict[str, DictNode | SessionList]":
        if self._absent is None:
            _set_absent(self, {})
        return cast("dict[str, DictNode | SessionList]", self._absent)

    def _no_longer_absent(self, key: str) -> "DictNode | SessionList | None":
        return None if self._absent is None else self._absent.pop(key, None)

    def _attach(self, parent: "DictNode | SessionList | None") -> None:
        _set_parent(self, parent)

    def _settle(self) -> None:
        self._rename(_settled(self))

    def _rename(self, key: str | Absent) -> None:
        _set_key(self, key)

    def _position_of(self, node: Node) -> int:
        raise AssertionError("what lies in a dict has a key")


class SessionDict(DictNode):
    """A dict in a session. Its items are attributes, too: ``session.user.name`` is ``session["user"]["name"]``.

    A missing key raises `KeyError`, a missing attribute `AttributeError`. Names that dicts use themselves (``items``,
    ``get``, ...) and names that start with an underscore are keys only: write ``session["items"]``. Assigning a value
    that cannot be stored raises `SessionDataError` and changes nothing.

    `copy` returns plain dicts and lists, which are independent of the session.
    """

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        # Python comes here only for names that the class does not have.
        if name[:1] != "_":
            try:
                return self[name]
            except KeyError:
                pass
        raise AttributeError(
            f"{type(self).__name__} has no attribute or key {quoted(name)}: "
            f"where it may be absent, use get({quoted(name)}) or setdefault({quoted(name)}, ...)"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        self[self._key_of(name)] = value

    def __delattr__(self, name: str) -> None:
        key = self._key_of(name)
        if key not in self:
            raise AttributeError(f"{type(self).__name__} has no attribute or key {quoted(name)}")
        del self[key]

    def _key_of(self, name: str) -> str:
        if name[:1] == "_" or name in OWN_NAMES:
            raise AttributeError(
                f"{quoted(name)} cannot be set or deleted as an attribute of a {type(self).__name__}, "
                f"which has it for itself: use session[{quoted(name)}]"
            )
        return name


OWN_NAMES = frozenset(dir(SessionDict))
"""What dicts in a session have as attributes by themselves, so that no item can be an attribute of that name."""


class SessionList(SessionContainer, list[Any]):
    """A list in a session.

    ``append``, ``extend`` and ``+=`` are saved as appends, so overlapping requests keep each other's items. Any other
    change saves the whole list, since positions mean nothing when somebody else changes it, too. A value that cannot be
    stored raises `SessionDataError` and changes nothing.

    Functions written in C may change a list without its methods, as those of :mod:`heapq` and `operator.concat` do, and
    such a change is not noticed. Give them a ``copy()``, and assign the result.
    """

    __slots__ = ("_key", "_parent")

    # As those of a `DictNode`.
    _backing: Backing = DETACHED
    _dict_class: type[DictNode] = SessionDict
    _list_class: "type[SessionList]"
    _parent: "DictNode | SessionList | None"
    _key: str | Absent | None

    __hash__ = None

    def __init__(self, data: Iterable[Any] = ()) -> None:
        _list_extend(self, data)
        self._parent = None
        self._key = None

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
            value = new_dict(self._dict_class, value, self, None)
            _list_setitem(self, index, value)
        elif kind is list:
            value = new_list(self._list_class, value, self, None)
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

    def _shared(self) -> list[Any]:
        return [value._shared() if isinstance(value, SessionContainer) else value for value in _list_iter(self)]

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
        backing, path, depth, in_list = place_of(self)
        new = [accepted(self, position, value, depth) for position, value in enumerate(values, len(self))]
        if not new:
            return
        changes = backing.begin_change()
        if in_list:
            changes.rewritten(path)
        else:
            changes.appended(path, len(new))
        _list_extend(self, new)

    def __iadd__(self, values: Iterable[Any]) -> "SessionList":
        self.extend(values)
        return self

    def __imul__(self, times: SupportsIndex) -> "SessionList":
        self[:] = self.copy() * times
        return self

    def insert(self, index: SupportsIndex, value: Any) -> None:
        position = operator.index(index)
        list[Any]().insert(position, None)  # raises what a list raises
        (new,) = self._accepted((value,), position, 1)
        begin_rewrite(self)
        list.insert(self, position, new)

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, slice):
            start, _, step = index.indices(len(self))
            new = self._accepted(value, start, step)
            old = _list_getitem(self, index)  # now, as *value* may have read the list
            if step != 1 and len(new) != len(old):
                raise ValueError(f"{len(new)} items cannot take the place of {len(old)}")
            begin_rewrite(self)
            _list_setitem(self, index, new)
            _detach(*old)
        elif not (value is _list_getitem(self, index) and isinstance(value, SessionContainer)):
            (new,) = self._accepted((value,), index, 1)
            old = _list_getitem(self, index)
            begin_rewrite(self)
            _list_setitem(self, index, new)
            _detach(old)

    def __delitem__(self, index: SupportsIndex | slice) -> None:
        old = _list_getitem(self, index)
        begin_rewrite(self)
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
        if len(self) > 1:
            begin_rewrite(self)
            list.reverse(self)

    def sort(self, *, key: Callable[[Any], Any] | None = None, reverse: bool = False) -> None:
        # The nodes, not the raw dicts in their place, are what `key` expects.
        items = list(self)
        ordered = sorted(items, key=key, reverse=reverse)
        if len(self) != len(items) or any(map(operator.is_not, _list_iter(self), items)):
            raise ValueError("list modified during sort")
        if any(map(operator.is_not, items, ordered)):
            begin_rewrite(self)
            _list_setitem(self, slice(None), ordered)

    def _accepted(self, values: Iterable[Any], start: SupportsIndex, step: int) -> list[Any]:
        """Returns *values*, bound for every *step*-th position, as they are stored."""
        _, _, depth, _ = place_of(self)
        positions = itertools.count(operator.index(start), step)
        return [accepted(self, position, value, depth) for position, value in zip(positions, values, strict=False)]

    def _attach(self, parent: "DictNode | SessionList | None") -> None:
        self._parent = parent

    def _settle(self) -> None:
        self._rename(_settled(self))

    def _rename(self, key: str | Absent) -> None:
        self._key = key

    def _refresh(self, items: list[Any]) -> None:
        """Becomes *items*, which others have stored, without noting that; see `DictNode`.

        Which of its items is which, nobody knows; so nodes stay only where nothing has changed.
        """
        former = list(_list_iter(self))
        kept = [
            node if isinstance(node, SessionContainer) and is_same(node.copy(), item) else item
            for node, item in zip(former, items, strict=False)
        ]
        _list_setitem(self, slice(None), kept + items[len(former) :])
        still = set(map(id, kept))
        _detach(*(node for node in former if isinstance(node, SessionContainer) and id(node) not in still))

    def _position_of(self, node: Node) -> int:
        return next(position for position, item in enumerate(_list_iter(self)) if item is node)


SessionDict._dict_class, SessionDict._list_class, SessionList._list_class = SessionDict, SessionList, SessionList


class _Values(ValuesView[Any]):
    __slots__ = ()

    def __reversed__(self) -> Iterator[Any]:
        return (self._mapping[key] for key in reversed(self._mapping))  # type: ignore[attr-defined]


class _Items(ItemsView[str, Any]):
    __slots__ = ()

    def __reversed__(self) -> Iterator[tuple[str, Any]]:
        return ((key, self._mapping[key]) for key in reversed(self._mapping))  # type: ignore[attr-defined]


NUMBERS = frozenset({int, float, Int64})
"""The types of what remembers where it was read."""

# Attributes of a SessionDict are its items, so a dict's own fields are set through their slots.
_set_parent = DictNode.__dict__["_parent"].__set__
_set_key = DictNode.__dict__["_key"].__set__
_set_token = DictNode.__dict__["_token"].__set__
_set_absent = DictNode.__dict__["_absent"].__set__

# What dicts and lists do by themselves, without noting anything.
_dict_getitem, _dict_setitem, _dict_delitem = dict.__getitem__, dict.__setitem__, dict.__delitem__
_dict_get, _dict_items, _dict_values, _dict_iter = dict.get, dict.items, dict.values, dict.__iter__
_dict_popitem, _dict_clear, _dict_update = dict.popitem, dict.clear, dict.update
_list_getitem, _list_setitem, _list_iter, _list_extend = list.__getitem__, list.__setitem__, list.__iter__, list.extend


_D = TypeVar("_D", bound=DictNode)
_L = TypeVar("_L", bound=SessionList)


def new_dict(kind: type[_D], data: Any, parent: DictNode | SessionList | None, key: str | Absent | None) -> _D:
    """Returns a node of this *kind*; see `DictNode` for the rest."""
    node = kind.__new__(kind)
    _dict_update(node, data)
    place(node, parent, key)
    return node


def new_list(kind: type[_L], data: Any, parent: DictNode | SessionList, key: str | Absent | None) -> _L:
    """Likewise."""
    node = kind.__new__(kind)
    _list_extend(node, data)
    node._parent = parent
    node._key = key
    return node


def default_of(node: DictNode, key: str, default: Any) -> Any:
    """Returns *default* for an absent field, as the start of an increment where it is one."""
    if type(default) in NUMBERS and default == 0 and same_float(default, 0):  # -0.0 is no neutral start
        return counter(default, node._token or _new_token(node), key, None)
    return default


def shared(data: dict[str, Any]) -> dict[str, Any]:
    """Returns *data* with plain dicts and lists in place of the live ones in it; see `SessionContainer._shared`."""
    items = _dict_items(data)
    return {key: value._shared() if isinstance(value, SessionContainer) else value for key, value in items}


def attach(value: Any, parent: DictNode | SessionList | None) -> None:
    """Makes *parent* what a node lies in. None cuts it off from its session: its changes are its own then."""
    if isinstance(value, SessionContainer):
        value._attach(parent)


def place(node: DictNode, parent: DictNode | SessionList | None, key: str | Absent | None) -> None:
    _set_parent(node, parent)
    _set_key(node, key)
    _set_token(node, None)
    _set_absent(node, None)


def _refreshed(node: Any, value: Any) -> Any:
    """Returns *node*, as *value* is now, or *value* where that is of another kind."""
    if isinstance(node, DictNode) and type(value) is dict:
        node._refresh(value)
        return node
    if isinstance(node, SessionList) and type(value) is list:
        node._refresh(value)
        return node
    _detach(node)
    return value


def _added(node: DictNode, data: dict[str, Any]) -> dict[str, int | float]:
    """Returns by how much the numbers in *data* are others than those in *node*, of which absent ones count as 0."""
    added = {}
    for key in {**node, **data}:
        old, new = _dict_get(node, key, 0), data.get(key, 0)
        if type(old) in NUMBERS and type(new) in NUMBERS and new != old:
            added[key] = new - old
    return added


def _settled(node: DictNode | SessionList) -> str:
    """Has its parent hold *node*, and returns the key."""
    assert isinstance(node._key, Absent)  # noqa: S101
    assert isinstance(node._parent, DictNode)  # noqa: S101
    node._parent._no_longer_absent(node._key.key)
    _dict_setitem(node._parent, node._key.key, node)
    return node._key.key


def _new_token(node: DictNode) -> Token:
    token = Token()
    _set_token(node, token)
    return token


def _detach(*values: Any) -> None:
    for value in values:
        attach(value, None)
