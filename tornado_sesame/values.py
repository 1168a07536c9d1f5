"""What a session can hold: BSON values, brought into the form in which a store gives them back.

:func:`normalized` is the one gate that data pass on their way into a session. It refuses what MongoDB could not keep
and copies the rest, so a session never shares a mutable object with the application and looks the same before and after
a save, whatever the store.
"""

import operator
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from bson import (
    Binary,
    Code,
    CodecOptions,
    DatetimeMS,
    DBRef,
    Decimal128,
    Int64,
    MaxKey,
    MinKey,
    ObjectId,
    Regex,
    Timestamp,
    decode,
    encode,
)
from bson.binary import UuidRepresentation
from bson.codec_options import DatetimeConversion
from bson.errors import BSONError, InvalidDocument, InvalidStringData

from .errors import SessionDataError

__all__ = [
    "CODEC_OPTIONS",
    "MAX_DEPTH",
    "MISSING",
    "UNENCODABLE",
    "Path",
    "SessionContainer",
    "bson_size",
    "check_owner",
    "identical",
    "is_same",
    "normalized",
    "normalized_key",
    "plain",
]

Path = tuple[str, ...]
"""The keys from the session's root down to a field."""

MAX_DEPTH = 98
"""How deep dicts and lists may nest, the session itself included.

MongoDB documents nest 100 levels (https://www.mongodb.com/docs/manual/reference/limits/); the stored document and its
``data`` take two of them.
"""

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

CODEC_OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(
    tz_aware=True,
    tzinfo=UTC,
    uuid_representation=UuidRepresentation.STANDARD,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)
"""How every store reads and writes BSON, for `bson.encode` and `bson.decode`: aware UTC datetimes, native UUIDs.

A date beyond the years 1 to 9999, which a database may hold but Python cannot express, is a `~bson.DatetimeMS`.
"""


UNENCODABLE = (InvalidDocument, InvalidStringData, OverflowError, RecursionError, UnicodeEncodeError)
"""What `bson.encode` raises for data that BSON cannot have."""


MISSING: Any = object()
"""Stands for a field that is not there, where None is a value."""


class SessionContainer:
    """A live dict or list of a session (see `session`), as far as this module needs to know it."""

    __slots__ = ()

    def copy(self) -> Any:
        """Returns the content as plain dicts and lists."""
        raise NotImplementedError

    def _shared(self) -> Any:
        """Returns the content as plain dicts and lists, to be read only: they are its own where they are plain already.

        Nothing plain has a live one in it, as those are made when they are reached, from the outside in.
        """
        raise NotImplementedError

    def _attach(self, parent: Any) -> None:
        """Makes *parent* what it lies in; None: it is in no session."""
        raise NotImplementedError


def normalized(value: Any, depth: int = 1) -> Any:
    """Returns a copy of *value* as it will come back from a store.

    Lists and tuples become lists, mappings become dicts, datetimes become UTC with whole milliseconds. Subclasses of
    the basic types (an `~enum.IntEnum`, a `~enum.StrEnum`) become those types, and what has ``__index__`` (an integer
    of NumPy's) becomes an int.

    :arg depth: how many containers the value will lie in, the session included.
    :raises SessionDataError: when MongoDB could not keep it, naming the path of the culprit inside *value*.
    """
    kind = type(value)
    if kind in _KEPT:
        return value
    if kind is str:
        return _normalized_str(value)
    if kind is int or kind is Int64:
        return _normalized_int(value)
    # Subclasses (enums, numpy.float64, Markup, a session's counters) come back from a store as their base, so they go
    # in as it, too.
    if isinstance(value, int):
        return _normalized_int(int.__index__(value))
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, SessionContainer):
        value = value.copy()
    if isinstance(value, Mapping):
        return _normalized_dict(value, depth)
    if isinstance(value, list | tuple):
        return _normalized_list(value, depth)
    if isinstance(value, Code | DBRef):
        value = _normalized_inside(value, depth)
    elif hasattr(kind, "__index__"):
        try:
            return _normalized_int(operator.index(value))
        except TypeError:  # an array, which has this method for the one that it may hold
            pass
    return _normalized_scalar(value)


def normalized_key(key: Any) -> str:
    """Returns *key* as an exact `str`.

    :raises SessionDataError: when it is not a str or cannot be encoded as UTF-8.
    """
    if type(key) is str and key.isascii():
        return key
    if not isinstance(key, str):
        raise SessionDataError(f"keys must be str, not {type(key).__name__}")
    return _normalized_str(key)


def plain(value: Any) -> Any:
    """Returns a deep copy of *value*, data of a session, made of nothing but plain dicts, lists and scalars."""
    kind = type(value)
    if kind in _IMMUTABLE:
        return value
    if kind is dict:
        return {key: item if type(item) in _IMMUTABLE else plain(item) for key, item in value.items()}
    if kind is list:
        return [item if type(item) in _IMMUTABLE else plain(item) for item in value]
    if kind is Code and value.scope is not None:
        return Code(str(value), plain(value.scope))
    if kind is DBRef:
        fields = plain(value.as_doc().to_dict())
        return DBRef(fields.pop("$ref"), fields.pop("$id"), fields.pop("$db", None), fields)
    return value.copy() if isinstance(value, SessionContainer) else value


def check_owner(owner: str) -> None:
    """Makes sure that *owner* can be whom a session belongs to.

    :raises TypeError, ValueError: when it is not a str, is empty, or cannot be encoded as UTF-8.
    """
    if not isinstance(owner, str):
        raise TypeError(f"owner must be a str such as a user's id, not {type(owner).__name__}")
    if not owner:
        raise ValueError("owner must not be empty")
    normalized(owner)


def bson_size(data: dict[str, Any]) -> int:
    """Returns how many bytes *data*, made of plain dicts and lists, has as BSON."""
    try:
        return len(encode(data, codec_options=CODEC_OPTIONS))
    except InvalidDocument:  # a NUL in a key, which a store of BSON must escape
        return len(encode(_without_nul(data), codec_options=CODEC_OPTIONS))


def identical(one: Any, other: Any) -> bool:
    """Tells whether two scalars are the same to MongoDB: equal and of one BSON type (True is not 1, 1 is not 1.0)."""
    if type(one) is type(other) and type(one) in _EXACT:
        return bool(one == other)
    return bool(one == other) and _encoded(one) == _encoded(other)


def is_same(one: Any, other: Any) -> bool:
    """Tells whether two contents, made of plain dicts and lists, are the same but for the order of their keys."""
    if type(one) is dict and type(other) is dict:
        return one.keys() == other.keys() and all(is_same(value, other[key]) for key, value in one.items())
    if type(one) is list and type(other) is list:
        return len(one) == len(other) and all(map(is_same, one, other))
    return one is other or identical(one, other) or (one != one and other != other)


_IMMUTABLE = frozenset({type(None), bool, int, float, str, bytes, datetime, Int64, ObjectId, UUID, Decimal128})
_KEPT = frozenset({type(None), bool, float, bytes, ObjectId, UUID, Decimal128})  # nothing to check or to change
_EXACT = frozenset({bool, int, str, bytes, ObjectId})  # == says it all
_BSON_TYPES = (Binary, Code, DatetimeMS, DBRef, MaxKey, MinKey, ObjectId, Regex, Timestamp, UUID)


def _without_nul(value: Any) -> Any:
    if type(value) is dict:
        return {key.replace("\0", "%00"): _without_nul(item) for key, item in value.items()}
    return [_without_nul(item) for item in value] if type(value) is list else value


def _normalized_dict(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    _check_depth(depth)
    result = {}
    for key, item in value.items():
        name = normalized_key(key)
        try:
            result[name] = normalized(item, depth + 1)
        except SessionDataError as error:
            raise error.within(name) from error.__cause__
    return result


def _normalized_list(value: list[Any] | tuple[Any, ...], depth: int) -> list[Any]:
    _check_depth(depth)
    result = []
    for position, item in enumerate(value):
        try:
            result.append(normalized(item, depth + 1))
        except SessionDataError as error:
            raise error.within(position) from error.__cause__
    return result


def _normalized_inside(value: Code | DBRef, depth: int) -> Code | DBRef:
    """Returns *value* with what lies in it normalized."""
    _check_depth(depth)
    if isinstance(value, Code):
        return Code(str(value), None if value.scope is None else _normalized_dict(value.scope, depth + 1))
    fields = _normalized_dict(value.as_doc(), depth)
    return DBRef(fields.pop("$ref"), fields.pop("$id"), fields.pop("$db", None), fields)


def _check_depth(depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise SessionDataError(f"nested deeper than the {MAX_DEPTH} levels that MongoDB can store, or contains itself")


def _normalized_scalar(value: Any) -> Any:
    if isinstance(value, datetime):
        return _normalized_datetime(value)
    if isinstance(value, _BSON_TYPES):
        try:
            return decode(_encoded(value), CODEC_OPTIONS)[""]
        except (BSONError, ValueError, OverflowError):
            # The cause is left out, as its text may quote the value.
            raise SessionDataError(f"BSON cannot encode this {type(value).__name__}") from None
    if isinstance(value, str):
        return _normalized_str(value)
    if isinstance(value, bytes):
        return bytes(value)
    raise SessionDataError(
        f"a {type(value).__qualname__} cannot be stored; convert it to dicts, lists and BSON values first"
    )


def _normalized_int(value: int) -> int:
    if INT64_MIN <= value <= INT64_MAX:
        return value
    raise SessionDataError("this int does not fit into 64 bits; keep it as a str or a Decimal128")


def _normalized_str(value: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise SessionDataError("this str has a lone surrogate and cannot be encoded as UTF-8") from error
    return str.__str__(value)


def _normalized_datetime(value: datetime) -> datetime:
    if value.utcoffset() is None:
        raise SessionDataError("this datetime is naive; make it aware, for instance with datetime.now(UTC)")
    try:
        utc = value.astimezone(UTC)
    except OverflowError as error:
        raise SessionDataError("this datetime is out of range in UTC") from error
    milliseconds = utc.microsecond // 1000 * 1000
    return datetime(utc.year, utc.month, utc.day, utc.hour, utc.minute, utc.second, milliseconds, UTC)


def _encoded(value: Any) -> bytes:
    return encode({"": value}, codec_options=CODEC_OPTIONS)
