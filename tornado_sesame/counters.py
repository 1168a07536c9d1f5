"""Numbers that remember the field that they were read from.

``session.times += 1`` reads a number, adds to it and assigns the sum. The number that a session gives out is an `int`
or `float` that carries its origin through ``+`` and ``-``, and so the assignment can tell "one more" from "this value"
and be saved as an increment that no overlapping request can undo. Everything else that one can do with a number
(products, ``int()``, JSON, pickling) gives a plain number and thereby an assignment. So does a float plus a field that
is an int, ``0.5 + session.times``, because Python asks the float first, and the float knows nothing of this.
"""

import operator
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from bson import Int64

__all__ = ["Origin", "Token", "caught_up", "counter", "origin_of", "same_float"]


class Token:
    """Stands for a dict that numbers were read from: they must not keep the session alive.

    When others have added to numbers in the dict, another token takes its place, and this one knows what was added.
    """

    __slots__ = ("_added", "_next")

    def __init__(self) -> None:
        self._next: Token | None = None
        self._added: Mapping[str, int | float] = {}

    def succeeded(self, added: Mapping[str, int | float]) -> "Token":
        """Returns the one that takes its place.

        :arg added: what others have added, by key.
        """
        self._next, self._added = Token(), added
        return self._next

    def added_until(self, other: "Token | None", key: str) -> int | float | None:
        """Returns what others have added to a number since, until *other* was the token; None if that never was."""
        added: int | float = 0
        token: Token | None = self
        while token is not None:
            if token is other:
                return added
            added += token._added.get(key, 0)
            token = token._next
        return None


class Origin(NamedTuple):
    """Where a number came from.

    :arg holder: a token of the dict that it was read from; compared by identity.
    :arg key: its key in that dict.
    :arg read: the value that was read; None when the field was absent and ``get(key, 0)`` gave its default.
    :arg added: what has been added since.
    """

    holder: Token
    key: str
    read: int | float | None
    added: int | float


_new_tuple = tuple.__new__  # much faster than a NamedTuple's own constructor


def counter(value: Any, holder: Token, key: str, read: Any) -> Any:
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


def caught_up(value: Any, token: Token | None, key: str, is_absent: bool) -> Any:
    """Returns *value*, bound for *key* of the dict of *token*, with what others have added there since it was read.

    :arg is_absent: whether nothing is there now.
    """
    origin = origin_of(value)
    if origin is None or origin.holder is token or origin.key != key:
        return value
    added = origin.holder.added_until(token, key)
    if added is None:
        return value
    read = None if is_absent else (origin.read or 0) + added
    total = value.__class__.__base__(value) + added
    number: _Int | _Float = _Float(total) if isinstance(total, float) else _Int(total)
    number.origin = _new_tuple(Origin, (token, key, read, origin.added))
    return number


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
