"""What changed in a session since its last save, in the few operations that every store can do.

A `ChangeSet` belongs to a live session and listens to its mutations. `ChangeSet.take` turns what it heard into
`Changes`, a value that no longer depends on the session: MongoDB gets it as one update, the other stores let it apply
itself to a dict. Both have the same meaning, which is MongoDB's.
"""

import enum
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Literal, Protocol

from .counters import same_float
from .values import INT64_MAX, INT64_MIN, MISSING, Path, identical

__all__ = ["ChangeSet", "Changes", "Create", "Inc", "Op", "Push", "Set", "Unset"]


# These and the writes that stores get are values, and nobody changes them. They are not frozen, as a frozen dataclass
# takes several times as long to make, and each request makes some.


@dataclass(slots=True)
class Set:
    """Makes the field this value, whatever it was.

    :arg value: what a session can hold, as plain dicts and lists.
    """

    value: Any


@dataclass(slots=True)
class Unset:
    """Removes the field. It is no error if there is none. Nothing is ever removed from a list."""


@dataclass(slots=True)
class Inc:
    """Adds to a number; an absent field counts as 0.

    :arg amount: what is added; it may be negative.
    """

    amount: int | float


@dataclass(slots=True)
class Push:
    """Appends to a list; an absent field counts as [].

    :arg values: the new items, in their order. Without any, it makes sure that there is a list.
    """

    values: list[Any]


@dataclass(slots=True)
class Create:
    """Puts an empty dict where nothing is. A dict that is there stays as it is."""


Op = Set | Unset | Inc | Push | Create


@dataclass(slots=True)
class Changes:
    """What one save does to a session.

    :arg ops: what to do with the data, by path, a tuple of the keys that lead to a field. The empty path stands for the
        whole content; its operation is a `Set`, and there is no other. Otherwise, no path continues another one, unless
        that one has a `Create`. A `Create` comes before the paths below it; if there are any, at least one of them has
        another operation than `Unset`. All other dicts above a changed field must be there: where they are not, that is
        a conflict (see `conflicts`), so that no half of an object is stored.
    :arg owner: ``Set("alice")`` gives the session to Alice, ``Set(None)`` to nobody; None leaves the owner as it is.
    :arg lifetime: ``Set(timedelta(days=90))`` gives the session an idle timeout of its own, ``Set(None)`` removes it,
        and None leaves it as it is.
    """

    ops: Mapping[Path, Op] = field(default_factory=dict)
    owner: Set | None = None
    lifetime: Set | None = None

    def __bool__(self) -> bool:
        return bool(self.ops) or self.owner is not None or self.lifetime is not None

    def required(self) -> set[Path]:
        """Returns the paths of the dicts that must be there already."""
        return {
            path[:depth]
            for path, op in self.ops.items()
            if type(op) is not Unset
            for depth in range(1, len(path))
            if path[:depth] not in self.ops
        }

    def conflicts(self, data: dict[str, Any]) -> set[str]:
        """Returns the top-level fields of *data* that these changes do not fit any more.

        They do not when an overlapping request has replaced a dict, a list or a number by something else, or removed
        the dict that a changed field was in. `resolved` is the way out.
        """
        return {path[0] for path, op in self.ops.items() if path and not self._fits(path, op, data)}

    def resolved(self, fields: Mapping[str, Any]) -> "Changes":
        """Returns these changes, but with each of *fields* set whole to the value given for it (`MISSING`: removed)."""
        ops = {path: op for path, op in self.ops.items() if path[0] not in fields}
        for name, value in fields.items():
            ops[name,] = _set_or_unset(value)
        return replace(self, ops=ops)

    def without_removals_from(self, data: dict[str, Any]) -> "Changes":
        """Returns these changes without each `Unset` for which *data* has no dict to remove something from."""

        def finds_one(path: Path) -> bool:
            holder: Any = data
            for key in path[:-1]:
                holder = holder.get(key) if type(holder) is dict else None
            return type(holder) is dict

        return replace(
            self, ops={path: op for path, op in self.ops.items() if type(op) is not Unset or finds_one(path)}
        )

    def apply(self, data: dict[str, Any]) -> dict[str, Any]:
        """Returns *data* as these changes leave it. It must have no `conflicts`, and may be modified on the way."""
        for path, op in self.ops.items():
            if not path and type(op) is Set:
                return dict(op.value)
            holder: Any = data
            for key in path[:-1]:
                holder = holder.get(key) if type(holder) is dict else None
            if type(holder) is dict:
                _apply(op, holder, path[-1])
        return data

    def _fits(self, path: Path, op: Op, data: dict[str, Any]) -> bool:
        if type(op) is Unset:
            return True
        holder: Any = data
        for depth, key in enumerate(path[:-1], 1):
            holder = holder.get(key, {} if path[:depth] in self.ops else None)
            if type(holder) is not dict:
                return False
        current = holder.get(path[-1], MISSING)
        if current is MISSING:
            return True
        if type(op) is Inc:
            return _can_add(current, op.amount)
        if type(op) is Push:
            return type(current) is list
        return type(current) is dict if type(op) is Create else True


class Snapshots(Protocol):
    """The live content of a session, as `ChangeSet.take` needs it."""

    owner: str | None
    lifetime: timedelta | None

    def snapshot(self, path: Path, last: int | None = None) -> Any:
        """Returns a plain copy of what is at *path* (of a list only its *last* items), `MISSING` when nothing is."""

    def correct(self, path: Path, number: float) -> None:
        """Replaces the number at *path* without recording a change."""


class ChangeSet:
    """Listens to the mutations of one session, and keeps what a save has taken until it is known how that ended.

    What is pending is a tree like the data, with a `_Pending` for each key on the way to a change; so no mutation looks
    at the others'.
    """

    __slots__ = ("_former", "_root", "_taken")

    def __init__(self) -> None:
        self._root = _Pending()
        self._former: Mapping[str, Any] = _NOTHING_ELSE  # what owner and lifetime were at the last save, if not as now
        self._taken: tuple[_Pending, Mapping[str, Any]] | None = None

    def __bool__(self) -> bool:
        return bool(self._root) or bool(self._former)

    @property
    def may_grow(self) -> bool:
        """Whether what is noted can make the session larger."""
        return self._root.may_grow()

    def assigned(self, path: Path, old: Any, new: Any) -> None:
        """Notes that *new* takes the place of *old* (`MISSING`: of nothing)."""
        pending = self._reach(path)
        if pending is None:
            return
        original = pending.original_or(old)
        pending.become(_Kind.SET, original)
        if identical(original, new):
            self._drop(path)

    def deleted(self, path: Path, old: Any) -> None:
        """Notes that *old* is removed."""
        pending = self._reach(path)
        if pending is None:
            return
        pending.become(_Kind.UNSET, pending.original_or(old))
        if pending.original is MISSING:
            self._drop(path)

    def incremented(self, path: Path, old: Any, new: int | float, read: int | float | None, added: int | float) -> None:
        """Notes that *new*, which is *read*, an earlier value of the field, plus *added*, takes the place of *old*."""
        pending = self._reach(path)
        if pending is None:
            return None
        is_field = read is None if old is MISSING else read is not None and _is_number(old)
        if not is_field or (pending.kind is not None and pending.kind is not _INC):
            return self.assigned(path, old, new)
        original = old if pending.kind is None else pending.original
        zero = type(new)(0)  # what an absent field counts as, so that it becomes an int or a float like here
        base = zero if original is MISSING else original
        amount = new - base
        if isinstance(amount, float) and math.isnan(base + amount) and not math.isnan(new):
            return self.assigned(path, old, new)  # nothing that is added leads back from infinity
        if isinstance(amount, float) and (old is MISSING or identical(read, old)):
            # What was added says 0.1 where the difference of the sums says 0.0999...
            exact = (pending.amount if pending.kind else zero if old is MISSING else 0) + added
            amount = exact if same_float(base + exact, new) or not same_float(base + amount, new) else amount
        is_same = amount == 0 if type(amount) is int else identical(original, new)
        if is_same and original is not MISSING:
            self._drop(path)
        else:
            pending.become_increment(original, amount)
        return None

    def appended(self, path: Path, count: int) -> None:
        """Notes that the list at *path* gets *count* more items at its end."""
        pending = self._reach(path)
        if pending is None:
            return
        if pending.kind is None:
            pending.become(_Kind.PUSH, _UNKNOWN, count)
        elif pending.kind is _Kind.PUSH:
            pending.amount += count

    def rewritten(self, path: Path) -> None:
        """Notes that the list or dict at *path* changes in a way that only sending it whole can tell."""
        pending = self._reach(path)
        if pending is not None:
            pending.become(_Kind.SET, pending.original_or(_UNKNOWN))

    def created(self, path: Path, default: Any) -> None:
        """Notes that ``setdefault`` puts *default* where nothing was.

        For 0, [] and {} there are operations that leave alone what an overlapping request put there first.
        """
        kind = _NEUTRAL.get(type(default)) if not default else None
        pending = self._reach(path)
        if pending is None:
            return None
        if kind is None or pending.kind is not None:
            return self.assigned(path, MISSING, default)
        pending.become(kind, MISSING, default if kind is _Kind.INC else 0)
        return None

    def attribute_assigned(self, name: Literal["owner", "lifetime"], old: Any, new: Any) -> None:
        """Notes that what lies beside the content under this *name* is *new* now, and was *old*."""
        former = {name: old, **self._former}
        if former[name] == new:
            del former[name]
        self._former = former

    def clear(self) -> None:
        """Drops everything that is noted, and what has been taken."""
        self._root, self._former, self._taken = _Pending(), _NOTHING_ELSE, None

    # The way of a save: take, and then either of the others

    def take(self, content: Snapshots) -> Changes:
        """Returns what has been noted and starts anew. Tell `confirm` or `restore` how it ended."""
        ops: dict[Path, Op] = {}
        self._root.collect((), content, ops)
        others = {name: Set(getattr(content, name)) for name in self._former} if self._former else {}
        self.set_aside()
        return Changes(ops, **others)

    def set_aside(self) -> None:
        """Starts anew, as the whole session is saved. Tell `confirm` or `restore` how it ended."""
        self._taken = self._root, self._former
        self._root, self._former = _Pending(), _NOTHING_ELSE

    def widen(self, fields: Iterable[str]) -> None:
        """Notes that the save under way has come to set these top-level *fields* whole, as they are now."""
        assert self._taken is not None  # noqa: S101
        taken = self._taken[0]
        for name in fields:
            assert taken.below is not None  # noqa: S101 - the conflict came from there
            taken.below[name] = whole = _Pending()
            whole.become(_Kind.SET, _UNKNOWN)
            if self._root.below:
                self._root.below.pop(name, None)

    def confirm(self) -> None:
        """What was taken is done."""
        self._taken = None

    def restore(self) -> None:
        """What was taken was not done, for certain: it is pending again, together with what was noted since."""
        if self._taken is None:
            return
        later, (self._root, former) = self._root, self._taken
        self._root.add(later)
        self._former = {**self._former, **former}
        self._taken = None

    def _reach(self, path: Path) -> "_Pending | None":
        """Returns what is pending at *path*; None when a container above it is to be sent whole anyway.

        The caller makes it a change, or drops it.
        """
        pending = self._root
        for key in path:
            if pending.kind is _Kind.SET:
                return None
            below = pending.below
            if below is None:
                below = pending.below = {}
            next_one = below.get(key)
            if next_one is None:
                next_one = below[key] = _Pending()
            pending = next_one
        return pending

    def _drop(self, path: Path) -> None:
        """Makes what is pending at *path* no change, and removes what was on the way only to it."""
        pending = self._root
        trail: list[dict[str, _Pending]] = []
        for key in path:
            trail.append(pending.below or {})
            pending = trail[-1][key]
        pending.kind = None
        for key, below in zip(reversed(path), reversed(trail), strict=True):
            if below[key]:
                return
            del below[key]


class _Kind(enum.Enum):
    SET = enum.auto()
    UNSET = enum.auto()
    INC = enum.auto()
    PUSH = enum.auto()
    CREATE = enum.auto()


_INC = _Kind.INC  # which a class looks up faster than an enum its members, in Python 3.11


class _Pending:
    """An operation in the making, or a key on the way to one.

    What it sends is read from the session when it is taken. ``kind`` is None when there is no operation at this path.
    ``original`` is what the field was at the last save, so that a change that is taken back sends nothing; containers
    are not remembered. ``amount`` is what an INC adds and how many items a PUSH appends. ``below`` has the operations
    below, by key; only a CREATE has some, and a path without an operation.
    """

    __slots__ = ("amount", "below", "kind", "original")

    def __init__(self) -> None:
        self.kind: _Kind | None = None
        self.original: Any = None
        self.amount: Any = 0
        self.below: dict[str, _Pending] | None = None

    def __bool__(self) -> bool:
        return self.kind is not None or bool(self.below)

    def become(self, kind: _Kind, original: Any, amount: Any = 0) -> None:
        self.kind = kind
        self.original = original
        self.amount = amount
        self.below = None

    def become_increment(self, original: Any, amount: int | float) -> None:
        fits = isinstance(amount, float) or INT64_MIN <= amount <= INT64_MAX
        self.become(_INC if fits else _Kind.SET, original, amount)

    def original_or(self, old: Any) -> Any:
        """Returns what was here at the last save; *old* is what is here now."""
        if self.kind is not None:
            return self.original
        return _UNKNOWN if isinstance(old, dict | list) else old

    def may_grow(self) -> bool:
        if self.kind is None:
            for pending in (self.below or {}).values():  # noqa: SIM110 - each save asks, and a generator costs more
                if pending.may_grow():
                    return True
            return False
        return self.original is MISSING if self.kind is _INC else self.kind is not _Kind.UNSET

    def collect(self, path: Path, content: Snapshots, ops: dict[Path, Op]) -> None:
        if self.kind is not None:
            ops[path] = self._op(path, content)
        if self.below:
            for key, pending in self.below.items():
                pending.collect((*path, key), content, ops)

    def add(self, later: "_Pending") -> None:
        """Makes this the change that it is together with *later*, which came after it."""
        match self.kind, later.kind:
            case (_Kind.SET, _) if later.kind is not _Kind.UNSET:
                pass  # the value is read when it is taken
            case (None | _Kind.CREATE, None):
                self._add_below(later)
            case (None, _Kind.CREATE) if not self.below:
                self.become(_Kind.CREATE, later.original)
                self._add_below(later)
            case (None, kind) if kind is not None and not self.below:
                self.become(kind, later.original, later.amount)
            case (_Kind.INC, _Kind.INC):
                self.become_increment(self.original, self.amount + later.amount)
            case (_Kind.PUSH, _Kind.PUSH):
                self.amount += later.amount
            case (_, _Kind.UNSET) if self.kind is not None and self.original is MISSING:
                self.become(_Kind.UNSET, MISSING)
                self.kind = None  # it came and went
            case (_, _Kind.UNSET):
                self.become(_Kind.UNSET, self.original_or(_UNKNOWN))
            case _:
                self.become(_Kind.SET, self.original_or(_UNKNOWN))

    def _add_below(self, later: "_Pending") -> None:
        for key, pending in (later.below or {}).items():
            if self.below is None:
                self.below = {}
            mine = self.below.setdefault(key, _Pending())
            mine.add(pending)
            if not mine:
                del self.below[key]

    def _op(self, path: Path, content: Snapshots) -> Op:
        kind = self.kind
        if kind is _INC:
            if type(self.amount) is float or type(self.original) is float:
                self._settle_rounding(path, content)
            return Inc(self.amount)
        if kind is _Kind.PUSH:
            return Push(content.snapshot(path, last=self.amount))
        if kind is _Kind.UNSET:
            return Unset()
        return Create() if kind is _Kind.CREATE else _set_or_unset(content.snapshot(path))

    def _settle_rounding(self, path: Path, content: Snapshots) -> None:
        # Floats added one by one may round to another last bit than their sum added at once, which is what the store
        # does. Its result is the true one.
        stored = self.amount if self.original is MISSING else self.original + self.amount
        if not same_float(stored, content.snapshot(path)):
            content.correct(path, stored)


_UNKNOWN: Any = object()  # stands for an original that was a container
_NOTHING_ELSE: Mapping[str, Any] = MappingProxyType({})
_NEUTRAL = {int: _Kind.INC, float: _Kind.INC, list: _Kind.PUSH, dict: _Kind.CREATE}


def _set_or_unset(value: Any) -> Op:
    return Unset() if value is MISSING else Set(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _can_add(current: Any, amount: int | float) -> bool:
    if not _is_number(current):
        return False
    total = current + amount
    return isinstance(total, float) or INT64_MIN <= total <= INT64_MAX


def _apply(op: Op, holder: dict[str, Any], key: str) -> None:
    if type(op) is Set:
        holder[key] = op.value
    elif type(op) is Inc:
        holder[key] = holder[key] + op.amount if key in holder else op.amount
    elif type(op) is Push:
        holder[key] = [*holder.get(key, ()), *op.values]
    elif type(op) is Create:
        holder.setdefault(key, {})
    else:
        holder.pop(key, None)
