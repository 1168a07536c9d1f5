"""Typed sessions: what a session holds, declared in a class, for people and for type checkers.

A class of `TypedSession` or `TypedSessionDict` has a `Field` for each annotation. It is a descriptor: reading one asks
for the item of its name, and knows what to say when there is none and what the dicts and lists in it become.
"""

import difflib
import sys
from collections.abc import Mapping
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar, dataclass_transform, get_origin

from .errors import SessionDataError, quoted
from .nodes import NUMBERS, OWN_NAMES, DictNode, SessionDict, SessionList, default_of
from .session import SessionBacking, SessionData, SessionRoot
from .shapes import Body, Shape, check_arguments
from .values import MISSING, normalized, plain

__all__ = ["Field", "TypedSession", "TypedSessionDict"]


class Field:
    """A declared field of a typed dict, as a descriptor.

    :arg key: its name.
    :arg body: where it is annotated.
    :arg default: `MISSING` when it has none.
    """

    __slots__ = ("_body", "_key", "_shape", "default")

    def __init__(self, key: str, body: Body, default: Any) -> None:
        self._key = key
        self._body = body
        self.default = default
        self._shape: Shape | None = None  # until it is known

    def __repr__(self) -> str:
        return f"<field {self._body.place(self._key)}>"

    def __get__(self, node: "TypedSessionDict | None", owner: type | None = None) -> Any:
        if node is None:
            return self
        value = _dict_get(node, self._key, MISSING)
        if type(value) in _REACHED:
            return node[self._key]
        return self._absent_in(node) if value is MISSING else value

    def __delete__(self, node: "TypedSessionDict") -> None:
        if self._key not in node:
            raise AttributeError(f"{self._body.place(self._key)} is not set")
        del node[self._key]

    @property
    def shape(self) -> Shape:
        """What the annotation says.

        :raises TypeError: when it names what is not defined.
        """
        if self._shape is None:
            try:
                self.evaluate()
            except NameError as error:
                raise TypeError(f"the annotation of {self._body.place(self._key)}: {error}") from error
        assert self._shape is not None  # noqa: S101
        return self._shape

    def evaluate(self, names: Mapping[str, Any] = {}) -> None:
        """Learns what the annotation says; see `Body.shape`."""
        self._shape = self._body.shape(self._key, names)

    def with_default(self, default: Any) -> "Field":
        """Returns the same field with another default."""
        return Field(self._key, self._body, default)

    @property
    def is_required(self) -> bool:
        """Whether there is nothing that it could be when it is absent."""
        return self.default is MISSING and self.shape.empty is MISSING

    def _absent_in(self, node: "TypedSessionDict") -> Any:
        default = self.shape.empty if self.default is MISSING else self.default
        if default is MISSING:
            raise AttributeError(f"{self._body.place(self._key)} is not set, and has no default")
        if type(default) is dict or type(default) is list:
            return node._absent_node(self._key, default)
        return default_of(node, self._key, plain(default))


@dataclass_transform(kw_only_default=True)
class TypedSessionDict(DictNode):
    """A dict in a session whose fields are declared::

        class Address(TypedSessionDict):
            city: str = ""
            lines: list[str] = []

    An absent field reads as its default, which is stored only once it is changed. A typed dict, a dict or a list needs
    no default and is then empty. With the default 0, ``+=`` on an absent number is an increment; with an empty default,
    ``append`` to an absent list is an append. So when requests overlap, nothing is lost.

    Only declared fields are attributes. Items may have any name, as in any dict: ``address["zip"]``. Only what has been
    assigned is stored, and `len`, iteration, ``in`` and ``copy()`` know nothing of defaults.

    ``Address(city="Berlin")`` makes one outside of any session. Like any value, it is copied when it is assigned. To
    type checkers, fields without a default are required; at run time, those that can be None or empty are not.

    :raises TypeError: when a class declares a field that cannot be, naming both; and when one is made with a field that
        is not declared, or without one that is required.
    """

    __slots__ = ()

    _fields: ClassVar[Mapping[str, Field]] = {}
    _own_fields: ClassVar[Mapping[str, Field | None]] = {}  # those of the class itself; None: overridden

    def __init__(self, data: Any = (), /, **fields: Any) -> None:
        super().__init__()
        for name in fields:
            if name not in self._fields:
                raise TypeError(f"{type(self).__name__}() takes no {quoted(name)}: {self._nearest(name)}")
        items = dict(data, **fields)
        missing = [name for name, field in self._fields.items() if field.is_required and name not in items]
        if missing and not data:
            raise TypeError(f"{type(self).__name__}() needs {' and '.join(map(quoted, missing))}")
        self.update(items)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__ != __name__:
            for base in cls.__dict__.get("__orig_bases__", ()):
                if get_origin(base) in cls.__bases__:
                    check_arguments(base, cls)
            cls._fields = _fields_of(cls)
            for name, field in cls._fields.items():
                setattr(cls, name, field)

    def _classes(self, key: str) -> tuple[type[DictNode], type[SessionList]]:
        field = self._fields.get(key)
        if field is None:
            return SessionDict, SessionList
        return field.shape.dict_class or SessionDict, field.shape.list_class or SessionList

    def _content_when_absent(self, key: str, empty: Any) -> Any:
        field = self._fields.get(key)
        default = empty if field is None else field.default
        return plain(default) if type(default) is type(empty) else empty

    # Type checkers would take any name for an attribute if they saw these.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # Python comes here also for what has failed with an AttributeError: again, as only that says why.
            if hasattr(type(self), name):
                return object.__getattribute__(self, name)
            raise self._undeclared(name)

        def __setattr__(self, name: str, value: Any) -> None:
            if name in self._fields:
                self[name] = value
            elif hasattr(getattr(type(self), name, None), "__set__"):  # a property of the application's
                object.__setattr__(self, name, value)
            else:
                raise self._undeclared(name)

        def __delattr__(self, name: str) -> None:
            if not hasattr(getattr(type(self), name, None), "__delete__"):
                raise self._undeclared(name)
            object.__delattr__(self, name)

    def _undeclared(self, name: str) -> AttributeError:
        text = f"{type(self).__name__} declares no {quoted(name)}"
        if name[:1] != "_":
            text += f": {self._nearest(name)} (as an item, it is session[{quoted(name)}])"
        return AttributeError(text)

    def _nearest(self, name: str) -> str:
        near = difflib.get_close_matches(name, self._fields, 1)
        if near:
            return f"did you mean {quoted(near[0])}?"
        return f"its fields are {', '.join(map(quoted, self._fields)) or 'none'}"


class TypedSession(TypedSessionDict, SessionRoot):
    """A visitor's data with declared fields; see `TypedSessionDict`.

    ``SessionMixin[Visit]`` gives a handler one::

        class Visit(TypedSession):
            times: int = 0
            cart: list[str] = []
            address: Address
            since: datetime | None = None
    """

    __slots__ = ()

    def __init__(self, backing: SessionBacking, content: SessionData, data: dict[str, Any]) -> None:
        SessionRoot.__init__(self, backing, content, data)


def _fields_of(cls: type[TypedSessionDict]) -> dict[str, Field]:
    """Returns the fields of a class that is being made, its own and those of its bases."""
    fields: dict[str, Field | None] = {}
    for base in reversed(cls.__mro__[1:]):
        if issubclass(base, TypedSessionDict):
            fields |= base._own_fields
        elif base not in SessionRoot.__mro__:  # a mixin, whose other attributes are its own
            body = Body(base)
            fields |= {name: _field(name, body, {}) for name in body.fields if name[:1] != "_"}
            fields |= _overridden(body, fields)
    body, names = Body(cls), _names_around(cls)
    own: dict[str, Field | None] = {name: _field(name, body, names) for name in body.fields}
    own |= _overridden(body, fields)
    for name, value in body.values.items():
        if name[:1] != "_" and name not in own and name not in body.annotated and not _is_code(value):
            raise TypeError(
                f"{body.place(name)} has no annotation: write `{name}: {type(value).__name__} = ...`, "
                "or ClassVar[...] when it is no field"
            )
    cls._own_fields = own
    return {name: field for name, field in (fields | own).items() if field is not None}


def _overridden(body: Body, inherited: Mapping[str, Field | None]) -> dict[str, Field | None]:
    """Returns the inherited fields that have another default in this body, or (None) have become something else."""
    result: dict[str, Field | None] = {}
    for name in (inherited.keys() & body.values.keys()) - set(body.fields):
        field = inherited[name]
        if field is None or name in body.annotated or _is_code(body.values[name]):
            result[name] = None
        else:
            result[name] = field.with_default(_default(name, body))
    return result


def _is_code(value: Any) -> bool:
    return callable(value) or hasattr(value, "__get__")


def _names_around(cls: type) -> dict[str, Any]:
    """Returns what can be seen where the class statement of *cls* is: the functions around it are still running."""
    names: dict[str, Any] = {}
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") == cls.__module__:
            names = {**frame.f_globals, **frame.f_locals, **names}
        frame = frame.f_back
    return names


def _field(name: str, body: Body, names: Mapping[str, Any]) -> Field:
    if name[:1] == "_" or name in OWN_NAMES:
        raise TypeError(
            f"{body.place(name)} cannot be a field, as sessions and dicts have names of that kind for themselves: "
            f"choose another name, or use it as an item, session[{quoted(name)}]"
        )
    field = Field(name, body, _default(name, body))
    with suppress(NameError):  # which may be defined later
        field.evaluate(names)
    return field


def _default(name: str, body: Body) -> Any:
    default = body.values.get(name, MISSING)
    try:
        return default if default is MISSING else normalized(default)
    except SessionDataError as error:
        raise SessionDataError(f"the default of {body.place(name)}: {error.problem}", error.path) from error.__cause__


_dict_get = dict.get
_REACHED = NUMBERS | {dict, list}  # what is another thing when it is read
