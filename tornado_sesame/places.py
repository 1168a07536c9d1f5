"""Where in a session a dict or list lies, and how a change there is noted.

A node knows the one above it and under which key it lies there. A change asks for the way up when it is made, so that
nothing has to be told to what lies below when a node is moved or taken out.
"""

from typing import Any, NamedTuple, Protocol

from .changes import ChangeSet
from .errors import SessionDataError
from .values import Path, normalized, normalized_key

__all__ = ["DETACHED", "Absent", "Backing", "Node", "Place", "accepted", "accepted_key", "begin_rewrite", "place_of"]


class Backing(Protocol):
    """What has the changes of a session saved."""

    def begin_change(self) -> ChangeSet:
        """Returns what the caller is to tell of a change, just before it makes it, and has that saved.

        :raises SessionError: when there can be no change now. The caller makes none then.
        """


class Absent(NamedTuple):
    """In place of the key of a node that its parent has given out but does not hold, until something changes in it."""

    key: str


class Node(Protocol):
    """A dict or list in a session. Names without an underscore would be those of items."""

    @property
    def _backing(self) -> Backing: ...

    @property
    def _parent(self) -> "Node | None":
        """What it lies in; None when it is a session, or in none."""

    @property
    def _key(self) -> str | Absent | None:
        """Under which key its parent has it; None in a list."""

    def copy(self) -> Any:
        """Returns the content as plain dicts and lists."""

    def _position_of(self, node: "Node") -> int:
        """Returns where in this list *node* is."""

    def _settle(self) -> None:
        """Makes it what its parent holds under its key, which is an `Absent`."""


class _Detached:
    def begin_change(self) -> ChangeSet:
        return ChangeSet()


DETACHED: Backing = _Detached()
"""The backing of what is in no session: nobody asks for its changes."""


Place = tuple[Backing, Path, int, bool]
"""Where a node is.

It is: what has changes of it saved; the path under which they are recorded; how deep it lies, where the session itself
is 1; and whether that path is that of a list around it, since positions mean nothing to another request.
"""


def place_of(node: Node) -> Place:
    """Returns where *node* is now."""
    if node._parent is None:
        return node._backing, (), 1, False
    keys: list[str] = []
    depth = 1
    in_list = False
    absent: tuple[Node, ...] = ()
    while (parent := node._parent) is not None:
        depth += 1
        key = node._key
        if type(key) is str:
            keys.append(key)
        elif isinstance(key, Absent):
            keys.append(key.key)
            absent = (node, *absent)
        else:
            keys.clear()
            in_list = True
        node = parent
    keys.reverse()
    backing = _Settling(node._backing, absent) if absent else node._backing
    return backing, tuple(keys), depth, in_list


def begin_rewrite(node: Node) -> None:
    """Notes a change that only saving the whole dict or list can tell. What follows cannot fail any more."""
    backing, path, _, _ = place_of(node)
    backing.begin_change().rewritten(path)


def accepted_key(node: Node, key: Any) -> str:
    """Returns *key* as it will be stored in *node*.

    :raises SessionDataError: when it cannot be, with its path.
    """
    try:
        return normalized_key(key)
    except SessionDataError as error:
        raise error.within(*_full_path(node)) from error.__cause__


def accepted(node: Node, key: str | int, value: Any, depth: int) -> Any:
    """Returns *value* as it will be stored under *key* of *node*, which lies this *depth*.

    :raises SessionDataError: when it cannot be, with its path.
    """
    try:
        return normalized(value, depth)
    except SessionDataError as error:
        raise error.within(*_full_path(node), key) from error.__cause__


class _Settling:
    """The backing of nodes that their parents do not hold: they do just before something changes in them.

    :arg nodes: from the outside in.
    """

    def __init__(self, backing: Backing, nodes: tuple[Node, ...]) -> None:
        self._backing = backing
        self._nodes = nodes

    def begin_change(self) -> ChangeSet:
        for node in self._nodes:
            try:
                normalized(node.copy(), place_of(node)[2] - 1)
            except SessionDataError as error:  # it lies too deep
                raise error.within(*_full_path(node)) from error.__cause__
        changes = self._backing.begin_change()
        for node in self._nodes:
            if isinstance(node._key, Absent) and node._parent is not None:  # still
                _, path, _, in_list = place_of(node)
                if in_list:
                    changes.rewritten(path)
                else:
                    changes.created(path, node.copy())
                node._settle()
        return changes


def _full_path(node: Node) -> tuple[str | int, ...]:
    keys: list[str | int] = []
    while (parent := node._parent) is not None:
        key = node._key
        keys.append(parent._position_of(node) if key is None else key.key if isinstance(key, Absent) else key)
        node = parent
    return tuple(reversed(keys))
