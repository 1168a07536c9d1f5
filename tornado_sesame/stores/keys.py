"""Keys that a database cannot have, percent-encoded: BSON cannot have a NUL in one, nor MongoDB address some others."""

import re
from functools import lru_cache
from typing import Any

__all__ = ["escaped", "escaped_key", "unescaped"]


# The longest key that is remembered in its escaped form. Strangers may choose keys, so there is a limit to what they
# take of the memory: 4096 keys of this length.
LONGEST_CACHED = 100


def escaped_key(key: str) -> str:
    """Returns *key* without what MongoDB cannot address: an empty one is ``%``, and ``.``, ``$``, NUL are encoded."""
    return _cached_key(key) if len(key) <= LONGEST_CACHED else _escape(key)


def escaped(value: Any) -> Any:
    """Returns *value* with all keys escaped: *value* itself where there is nothing to escape."""
    if type(value) is dict:
        items = {escaped_key(key): escaped(item) for key, item in value.items()}
        same = all(one is other for one, other in zip(items.values(), value.values(), strict=True))
        return value if same and items.keys() == value.keys() else items
    if type(value) is list:
        copied = [escaped(item) for item in value]
        return value if all(one is other for one, other in zip(copied, value, strict=True)) else copied
    return value


def unescaped(value: Any) -> Any:
    """Returns what `escaped` was given."""
    if type(value) is dict:
        return {_unescaped_key(key): unescaped(item) for key, item in value.items()}
    if type(value) is list:
        return [unescaped(item) for item in value]
    return value


_UNADDRESSABLE = re.compile(r"^$|^\$|[.%\0]")
_ENCODED = re.compile(r"^%$|%([0-9A-F]{2})")


def _escape(key: str) -> str:
    return _UNADDRESSABLE.sub(lambda match: f"%{ord(match[0]):02X}" if match[0] else "%", key)


_cached_key = lru_cache(maxsize=4096)(_escape)


def _unescaped_key(key: str) -> str:
    return _ENCODED.sub(lambda match: chr(int(match[1], 16)) if match[1] else "", key)
