"""What the annotations of a typed session say: which class the dicts and lists in a field have."""

import inspect
import re
import sys
from collections import deque
from collections.abc import Collection, Iterable, Mapping, MutableMapping, MutableSequence, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    ForwardRef,
    NamedTuple,
    Self,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from .nodes import DictNode, SessionDict, SessionList
from .session import SessionRoot
from .values import MISSING

__all__ = ["Body", "Shape", "check_arguments"]


class Shape(NamedTuple):
    """What an annotation says about a field.

    :arg dict_class: what a dict in it is; None when that is not said.
    :arg list_class: likewise for a list.
    :arg empty: what it is when it is absent and has no default; `MISSING`: nothing.
    """

    dict_class: type[DictNode] | None = None
    list_class: type[SessionList] | None = None
    empty: Any = MISSING


class Body:
    """The body of a class, with its annotations.

    :arg cls: the class that it has become.
    """

    def __init__(self, cls: type) -> None:
        self._cls = cls
        self.values = dict(vars(cls))
        """What is assigned in it, by name."""
        self.annotated = _annotations(cls)
        """What is annotated in it, by name."""
        self.fields = [name for name, annotation in self.annotated.items() if not _is_class_variable(annotation)]
        """The names of what is annotated and no class variable."""

    def place(self, name: str) -> str:
        """Returns the name of a field with that of its class, for the texts of errors."""
        return f"{self._cls.__name__}.{name}"

    def shape(self, name: str, names: Mapping[str, Any] = {}) -> Shape:
        """Returns what the annotation of a field says.

        :arg names: what can be seen where the class statement stands, beside what the module has.
        :raises NameError: when it has a name that is not defined yet.
        :raises TypeError: when a session cannot hold what it says, naming the field.
        """
        cls = self._cls
        inner = {name: value for name, value in self.values.items() if isinstance(value, type)}
        local_names = {**names, **inner, cls.__name__: cls}
        module = sys.modules.get(cls.__module__)
        global_names = vars(module) if module else {}
        alone = type("", (), {"__annotations__": {name: self.annotated[name]}})
        try:
            annotation = get_type_hints(alone, global_names, local_names, include_extras=True)[name]
            return _shape(annotation, cls)
        except NameError:
            raise
        except Exception as error:
            raise TypeError(f"the annotation of {self.place(name)}: {error}") from error


def _annotations(cls: type) -> Mapping[str, Any]:
    if sys.version_info >= (3, 14):  # where they are evaluated when they are asked for
        import annotationlib

        return annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF)  # type: ignore[no-any-return]
    return inspect.get_annotations(cls)


def _is_class_variable(annotation: Any) -> bool:
    if isinstance(annotation, ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):  # which is not evaluated yet, and perhaps cannot be
        return re.match(r"(\w+\.)*ClassVar\b", annotation) is not None
    return annotation is ClassVar or get_origin(annotation) is ClassVar


def _shape(annotation: Any, cls: type) -> Shape:
    """Returns the shape that an annotation in the body of *cls* says."""
    kind, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if kind is Annotated or kind is Final:
        return _shape(arguments[0], cls)
    if hasattr(kind, "__value__"):  # of a ``type`` statement
        return _shape(kind.__value__[arguments] if arguments else kind.__value__, cls)
    if hasattr(kind, "__supertype__"):  # of a NewType
        return _shape(kind.__supertype__, cls)
    if kind is Self:
        return _shape(cls, cls)
    if kind is Union or kind is UnionType:
        return _united([_shape(member, cls) for member in arguments])
    if kind is None or kind is NoneType:
        return Shape(empty=None)
    if not isinstance(kind, type):
        return Shape()
    if kind in _LISTS:
        return Shape(
            list_class=_class_of(SessionList, *_shape(arguments[0], cls)[:2]) if arguments else SessionList, empty=[]
        )
    if kind in _DICTS:
        if not arguments:
            return Shape(SessionDict, empty={})
        key, value = arguments
        if isinstance(key, type) and not issubclass(key, str) and key is not Any:
            raise TypeError(f"the keys of a dict in a session are str, not {key.__name__}")
        return Shape(_class_of(SessionDict, *_shape(value, cls)[:2]), empty={})
    if issubclass(kind, SessionRoot):
        raise TypeError(f"a session cannot lie in another, so {kind.__name__} has to be a TypedSessionDict")
    if issubclass(kind, DictNode):
        check_arguments(annotation, cls)
        return Shape(kind, empty={})
    if issubclass(kind, SessionList):
        return Shape(list_class=kind, empty=[])
    for others, remedy in _OTHERS.items():
        if issubclass(kind, others) and not issubclass(kind, datetime) and not is_typeddict(kind):
            raise TypeError(f"what comes out of a session is no {kind.__name__}: {remedy}")
    return Shape()


def check_arguments(annotation: Any, cls: type) -> None:
    """Makes sure that a generic typed dict is given no class of dicts or lists, which its fields would not learn of.

    :raises TypeError: when it is.
    """
    for argument in get_args(annotation):
        if not isinstance(argument, TypeVar) and _shape(argument, cls)[:2] != (None, None):
            raise TypeError(
                f"the fields of {get_origin(annotation).__name__} do not learn what its parameters stand for: "
                "make a subclass that annotates them anew"
            )


def _united(members: list[Shape]) -> Shape:
    """Returns the shape of a union."""
    dict_classes = {member.dict_class for member in members} - {None}
    list_classes = {member.list_class for member in members} - {None}
    if len(dict_classes) > 1 or len(list_classes) > 1:
        raise TypeError("it is not known of which of several kinds a stored dict or list is")
    empty = None if any(member.empty is None for member in members) else MISSING
    return Shape(next(iter(dict_classes), None), next(iter(list_classes), None), empty)


@lru_cache(maxsize=1024)
def _class_of(kind: Any, dict_class: type[DictNode] | None, list_class: type[SessionList] | None) -> Any:
    """Returns a class of dicts or lists in which dicts and lists are of these classes, where that is said."""
    if dict_class is None and list_class is None:
        return kind
    inside = {"_dict_class": dict_class or SessionDict, "_list_class": list_class or SessionList, "__slots__": ()}
    return type(kind.__name__, (kind,), inside)


_LISTS = (list, Sequence, MutableSequence, Collection, Iterable)
_DICTS = (dict, Mapping, MutableMapping)
_OTHERS: dict[Any, str] = {
    (tuple, deque): "it becomes a list, so annotate list",
    (list, dict): "annotate list or dict",
    (set, frozenset): "annotate dict or list",
    Enum: "an enum becomes its value, so annotate str or int",
    date: "annotate datetime or str",
    (time, timedelta, complex): "annotate str or a number",
    Decimal: "annotate Decimal128 or str",
    bytearray: "annotate bytes",
}
