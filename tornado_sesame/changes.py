"""What changed in a session since its last save, in the few operations that every store can do.

A `ChangeSet` belongs to a live session and listens to its mutations. `ChangeSet.take` turns what it heard into
`Changes`, a value that no longer depends on the session: MongoDB gets it as one update, the other stores let it apply
itself to a dict. Both have the same meaning, which is MongoDB's.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from .counters import same_float
from .values import INT64_MAX, INT64_MIN, MISSING, Node, Path, identical

__all__ = ["ChangeSet", "Changes", "Inc", "Op", "Push", "Set", "Unset"]


@dataclass(frozen=True, slots=True)
class Set:
    """Makes the field this value, whatever it was."""

    value: Any


@dataclass(frozen=True, slots=True)
class Unset:
    """Removes the field; one that is not there is no error."""


@dataclass(frozen=True, slots=True)
class Inc:
    """Adds to a number; an absent field counts as 0."""

    amount: int | float


@dataclass(frozen=True, slots=True)
class Push:
    """Appends to a list; an absent field counts as []. Pushing nothing makes sure that there is a list."""

    values: list[Any]


Op = Set | Unset | Inc | Push


@dataclass(frozen=True, slots=True)
class Changes:
    """One save's operations, by path; no path is the beginning of another, so their order does not matter.

    :arg ops: what to do. The empty path stands for the whole content and is always a `Set`.
    :arg created: paths of dicts that ``setdefault`` put in where nothing was, so they may be absent in the store. All
        other dicts above a changed field must be there: what lost its surroundings is a conflict, not half an object.
    """

    ops: Mapping[Path, Op] = field(default_factory=dict)
    created: frozenset[Path] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.ops)

    @property
    def is_repeatable(self) -> bool:
        """Whether doing them twice is the same as doing them once."""
        return not any(isinstance(op, Inc | Push) for op in self.ops.values())

    def required(self) -> set[Path]:
        """Returns the paths of the dicts that must be there."""
        return {
            path[:depth]
            for path, op in self.ops.items()
            if type(op) is not Unset
            for depth in range(1, len(path))
            if path[:depth] not in self.created
        }

    def conflicts(self, data: dict[str, Any]) -> set[str]:
        """Returns the top-level fields of which *data* has become something that these changes do not fit on.

        That is so when an overlapping request replaced a dict, list or number by something else, or removed a dict
        that the changed field was in. `resolved` is the way out.
        """
        return {path[0] for path, op in self.ops.items() if path and not self._fits(path, op, data)}

    def resolved(self, fields: Mapping[str, Any]) -> "Changes":
        """Returns these changes with *fields* set whole to the given values (`MISSING`: removed)."""
        ops = {path: op for path, op in self.ops.items() if path[0] not in fields}
        for name, value in fields.items():
            ops[name,] = Unset() if value is MISSING else Set(value)
        return Changes(ops, frozenset(path for path in self.created if path[0] not in fields))

    def apply(self, data: dict[str, Any]) -> dict[str, Any]:
        """Returns *data* as these changes leave it; it may be modified on the way, and must have no `conflicts`."""
        for path, op in self.ops.items():
            if not path and type(op) is Set:
                return dict(op.value)
            holder: Any = data
            for key in path[:-1]:
                if type(holder) is not dict:
                    break
                holder = holder.get(key) if type(op) is Unset else holder.setdefault(key, {})
            if type(holder) is dict:
                _apply(op, holder, path[-1])
        return data

    def _fits(self, path: Path, op: Op, data: dict[str, Any]) -> bool:
        if type(op) is Unset:
            return True
        holder: Any = data
        for depth, key in enumerate(path[:-1], 1):
            holder = holder.get(key, {} if path[:depth] in self.created else None)
            if type(holder) is not dict:
                return False
        current = holder.get(path[-1], MISSING)
        match op:
            case Push():
                return current is MISSING or type(current) is list
            case Inc(amount):
                return current is MISSING or _can_add(current, amount)
        return True


class Document(Protocol):
    """The live content of a session, as `ChangeSet.take` needs it."""

    def snapshot(self, path: Path, last: int | None = None) -> Any:
        """Returns a plain copy of what is at *path* (of a list only its *last* items), `MISSING` when nothing is."""

    def correct(self, path: Path, number: float) -> None:
        """Replaces the number at *path* without recording a change."""


class ChangeSet:
    """Listens to the mutations of one session."""

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        self._pending: dict[Path, _Pending] = {}

    def __bool__(self) -> bool:
        return bool(self._pending)

    @property
    def may_grow(self) -> bool:
        """Whether what is noted can make the session larger."""
        return any(pending.kind not in (_Kind.INC, _Kind.UNSET) for pending in self._pending.values())

    def assigned(self, path: Path, old: Any, new: Any) -> None:
        """Notes that *new* takes the place of *old* (`MISSING`: of nothing)."""
        if self._is_covered(path):
            return
        original = self._original(path, old)
        self._forget_below(path, old)
        if _same_scalar(original, new):
            self._pending.pop(path, None)
        else:
            self._pending[path] = _Pending(_Kind.SET, original)

    def deleted(self, path: Path, old: Any) -> None:
        """Notes that *old* is removed."""
        if self._is_covered(path):
            return
        original = self._original(path, old)
        self._forget_below(path, old)
        if original is MISSING:
            del self._pending[path]
        else:
            self._pending[path] = _Pending(_Kind.UNSET, original)

    def incremented(self, path: Path, old: Any, new: int | float, read: int | float | None, added: int | float) -> None:
        """Notes that *new*, which is *read*, an earlier value of the field, plus *added*, takes the place of *old*."""
        pending = self._pending.get(path)
        is_other = (read is None) is not (old is MISSING) or not (old is MISSING or _is_number(old))
        if is_other or (pending and pending.kind is not _Kind.INC):
            return self.assigned(path, old, new)
        if self._is_covered(path):
            return None
        original = pending.original if pending else old
        zero = type(new)(0)  # what an absent field counts as, so that it becomes an int or a float like here
        base = zero if original is MISSING else original
        amount = new - base
        if isinstance(amount, float) and (old is MISSING or identical(read, old)):
            # What was added says 0.1 where the difference of the sums says 0.0999...
            exact = (pending.amount if pending else zero if old is MISSING else 0) + added
            amount = exact if same_float(base + exact, new) or not same_float(base + amount, new) else amount
        if original is not MISSING and ((amount == 0 and isinstance(amount, int)) or identical(original, new)):
            self._pending.pop(path, None)
        elif isinstance(amount, int) and not INT64_MIN <= amount <= INT64_MAX:
            self._pending[path] = _Pending(_Kind.SET, original)
        else:
            self._pending[path] = _Pending(_Kind.INC, original, amount)
        return None

    def appended(self, path: Path, count: int) -> None:
        """Notes that the list at *path* gets *count* more items at its end."""
        if self._is_covered(path):
            return
        pending = self._pending.get(path)
        if pending is None:
            self._pending[path] = _Pending(_Kind.PUSH, _UNKNOWN, count)
        elif pending.kind is _Kind.PUSH:
            pending.amount += count

    def rewritten(self, path: Path) -> None:
        """Notes that the list or dict at *path* changes in a way that only sending it whole can tell."""
        if self._is_covered(path):
            return
        original = self._original(path, _UNKNOWN)
        self._forget_below(path, _UNKNOWN)
        self._pending[path] = _Pending(_Kind.SET, original)

    def created(self, path: Path, default: Any) -> None:
        """Notes that ``setdefault`` puts *default* where nothing was.

        For 0, [] and {} there are operations that leave alone what an overlapping request put there first.
        """
        kind = _NEUTRAL.get(type(default)) if not default else None
        if kind is None or path in self._pending:
            return self.assigned(path, MISSING, default)
        if not self._is_covered(path):
            self._pending[path] = _Pending(kind, MISSING, default if kind is _Kind.INC else 0)
        return None

    def forget(self, name: str) -> None:
        """Drops what is noted of the top-level field *name*, because it is being saved whole."""
        for path in [path for path in self._pending if path and path[0] == name]:
            del self._pending[path]

    def clear(self) -> None:
        """Drops everything that is noted."""
        self._pending.clear()

    def take(self, document: Document) -> Changes:
        """Returns what has been noted and starts anew."""
        ops: dict[Path, Op] = {}
        created = set()
        for path, pending in self._pending.items():
            if pending.kind is not _Kind.CREATE:
                ops[path] = pending.op(path, document)
            elif self._has_below(path):
                created.add(path)
            else:
                ops[path] = Set({})
        self.clear()
        return Changes(ops, frozenset(created))

    def _is_covered(self, path: Path) -> bool:
        """Tells whether a container above *path*, or a list at it, is to be sent whole anyway."""
        pending = self._pending
        if not pending:
            return False
        for depth in range(len(path)):
            above = pending.get(path[:depth])
            if above is not None and above.kind is _Kind.SET:
                return True
        return False

    def _original(self, path: Path, old: Any) -> Any:
        pending = self._pending.get(path)
        if pending is not None:
            return pending.original
        return _UNKNOWN if isinstance(old, Node | dict | list) else old

    def _forget_below(self, path: Path, old: Any) -> None:
        # Only a container that was given out as a node can have been changed inside.
        if old is _UNKNOWN or isinstance(old, Node):
            for below in self._below(path):
                del self._pending[below]

    def _has_below(self, path: Path) -> bool:
        return bool(self._below(path))

    def _below(self, path: Path) -> list[Path]:
        depth = len(path)
        return [other for other in self._pending if len(other) > depth and other[:depth] == path]


class _Kind(enum.Enum):
    SET = enum.auto()
    UNSET = enum.auto()
    INC = enum.auto()
    PUSH = enum.auto()
    CREATE = enum.auto()


class _Pending:
    """An operation in the making; what it sends is read from the session when it is taken.

    ``original`` is what the field was at the last save, so that a change that is taken back sends nothing; containers
    are not remembered. ``amount`` is what an INC adds and how many items a PUSH appends.
    """

    __slots__ = ("amount", "kind", "original")

    def __init__(self, kind: _Kind, original: Any, amount: Any = 0) -> None:
        self.kind = kind
        self.original = original
        self.amount = amount

    def op(self, path: Path, document: Document) -> Op:
        match self.kind:
            case _Kind.UNSET:
                return Unset()
            case _Kind.PUSH:
                return Push(document.snapshot(path, last=self.amount))
            case _Kind.INC:
                self._settle_rounding(path, document)
                return Inc(self.amount)
        return Set(document.snapshot(path))

    def _settle_rounding(self, path: Path, document: Document) -> None:
        # Floats added one by one may round to another last bit than their sum added at once, which is what the store
        # does. Its result is the true one.
        if self.original is not MISSING:
            stored = self.original + self.amount
            if isinstance(stored, float) and not same_float(stored, document.snapshot(path)):
                document.correct(path, stored)


_UNKNOWN: Any = object()  # stands for an original that was a container
_NEUTRAL = {int: _Kind.INC, float: _Kind.INC, list: _Kind.PUSH, dict: _Kind.CREATE}


def _same_scalar(original: Any, new: Any) -> bool:
    if original is _UNKNOWN or original is MISSING or isinstance(new, dict | list):
        return False
    return identical(original, new)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _can_add(current: Any, amount: int | float) -> bool:
    if not _is_number(current):
        return False
    total = current + amount
    return isinstance(total, float) or INT64_MIN <= total <= INT64_MAX


def _apply(op: Op, holder: dict[str, Any], key: str) -> None:
    match op:
        case Set(value):
            holder[key] = value
        case Unset():
            holder.pop(key, None)
        case Inc(amount):
            holder[key] = holder[key] + amount if key in holder else amount
        case Push(values):
            holder[key] = [*holder.get(key, ()), *values]
