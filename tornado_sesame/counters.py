"""Numbers that remember the field that they were read from.

``session.times += 1`` reads a number, adds to it and assigns the sum. The number that a session gives out is an `int`
or `float` that carries its origin through ``+`` and ``-``, and so the assignment can tell "one more" from "this value"
and be saved as an increment that no overlapping request can undo. Everything else that one can do with a number
(products, ``int()``, JSON, pickling) gives a plain number and thereby an assignment. So does a float plus a field that
is an int, ``0.5 + session.times``, because Python asks the float first, and the float knows nothing of this.
"""

import operator
import struct
from typing import Any, NamedTuple

from bson import Int64

__all__ = ["Origin", "counter", "origin_of", "same_float"]


class Origin(NamedTuple):
    """Where a number came from.

    :arg holder: a token of the dict that it was read from; compared by identity.
    :arg key: its key in that dict.
    :arg read: the value that was read; None when the field was absent and ``get(key, 0)`` gave its default.
    :arg added: what has been added since.
    """

    holder: object
    key: str
    read: int | float | None
    added: int | float


_new_tuple = tuple.__new__  # much faster than a NamedTuple's own constructor


def counter(value: Any, holder: object, key: str, read: Any) -> Any:
    """Returns *value* as a number that remembers its origin, or as it is when it is not an int or a float."""
    kind = type(value)
    if kind is int or kind is Int64:
        number: _Int | _Float = _Int(value)
    elif kind is float:
        number = _Float(value)
    else:
        return value
    number.origin = _new_tuple(Origin, (holder, key, read, 0))
    return number


def origin_of(value: Any) -> Origin | None:
    """Returns where *value* came from, or None for any value that is not a sum with exactly one field."""
    return value.origin if type(value) is _Int or type(value) is _Float else None


def same_float(one: float, other: float) -> bool:
    """Tells whether two floats are the same to the last bit, NaN and the sign of zero included."""
    return struct.pack("<d", one) == struct.pack("<d", other)


class _Int(int):
    origin: Origin  # an int cannot have slots

    def __add__(self, other: Any) -> Any:
        return _added(self.origin, int(self), other, 1)

    def __sub__(self, other: Any) -> Any:
        return _added(self.origin, int(self), other, -1)

    __radd__ = __add__

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)


class _Float(float):
    __slots__ = ("origin",)
    origin: Origin

    def __add__(self, other: Any) -> Any:
        return _added(self.origin, float(self), other, 1)

    def __sub__(self, other: Any) -> Any:
        return _added(self.origin, float(self), other, -1)

    __radd__ = __add__

    def __reduce__(self) -> tuple[type[float], tuple[float]]:
        return float, (float(self),)


def _added(origin: Origin, value: int | float, other: Any, sign: int) -> Any:
    if isinstance(other, float):
        amount = sign * float(other)
    else:
        try:
            amount = sign * operator.index(other)
        except TypeError:  # it is no int, and nothing like one
            return NotImplemented
    total = value + amount
    number: _Int | _Float = _Float(total) if isinstance(total, float) else _Int(total)
    number.origin = _new_tuple(Origin, (origin.holder, origin.key, origin.read, origin.added + amount))
    return number
