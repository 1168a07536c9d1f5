"""What is promised, in a page: `Promises` is told all that visitors do and see, and asserts that it may be so.

A *lineage* is a session with all its ids, from its beginning through all rotations to its end. An *operation* adds one
to a nested counter, appends its own name to a nested list, and assigns it to a field.
"""

from dataclasses import dataclass, field
from typing import Any

from tornado_sesame import SessionRecord

__all__ = ["BrokenPromise", "Lineage", "Promises"]


class BrokenPromise(AssertionError):
    """Something was seen that must not be."""


@dataclass
class Lineage:
    name: str
    tried: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)  # what was acknowledged, and met no rotation on its way
    secrets: list[str] = field(default_factory=list)  # what clients were told, in order
    moves: int = 0  # how many rotations and ends have begun,
    moving: int = 0  # and are under way
    is_ending: bool = False  # somebody has asked for its end
    has_ended: bool = False  # he was told that it is done
    unsettled: set[object] = field(default_factory=set)  # processes that answered a move with an error, and find out
    is_excused: bool = False  # its visitor or process went away while it moved, so nobody can know the new secret
    is_astray: bool = False  # of two rotations at once, one that nobody knew the end of was told last


class Promises:
    def __init__(self) -> None:
        self.lineages: dict[str, Lineage] = {}

    def of(self, name: str) -> Lineage:
        return self.lineages.setdefault(name, Lineage(name))

    def sent(self, operation: str, name: str | None, moves_before: int, records: list[SessionRecord]) -> None:
        """No answer precedes its save: *operation* is stored when the first byte that tells of it leaves."""
        if name is None or self.of(name).moves != moves_before or self.of(name).is_ending:
            return
        living = [record for record in records if record.data.get("lineage") == name]
        if living and not any(operation in record.data["nested"]["log"] for record in living):
            raise BrokenPromise(f"{operation} was answered before it was saved")

    def seen(self, name: str | None, operations: list[str], expected: set[str]) -> None:
        """Who waits for his answers reads what he wrote, and nobody reads what is another's."""
        if name is None:
            return
        if strangers := {operation for operation in operations if not self._is_of(operation, name)}:
            raise BrokenPromise(f"{name} shows {strangers} of others")
        if len(operations) != len(set(operations)):
            raise BrokenPromise(f"{name} shows something twice: {operations}")
        if missing := expected - set(operations):
            raise BrokenPromise(f"{name} does not show {missing}, which was acknowledged before")

    def cookie(self, page: str, carried_age: float | None) -> None:
        """A late request sets no cookie, and one in a living session, neither.

        :arg carried_age: how many seconds before the request the session that it carries had ended; 0 if it lived.
        """
        if (
            page not in ("rotate", "impatientrotate", "destroy", "start")
            and carried_age is not None
            and carried_age < 8
        ):
            raise BrokenPromise(f"/{page} set a cookie")

    def at_rest(self, records: list[SessionRecord], id_of: Any) -> None:
        """When all is over: acknowledged is stored, once; the rest at most once; what has ended stays ended."""
        for lineage in self.lineages.values():
            living = [record for record in records if record.data.get("lineage") == lineage.name]
            if lineage.has_ended and living and not lineage.is_astray:
                raise BrokenPromise(f"{lineage.name} lives on after its end")
            if len(living) > 1 and not lineage.is_excused:
                raise BrokenPromise(f"{lineage.name} lives {len(living)} times: {[record.id[:6] for record in living]}")
            if not living:
                if lineage.secrets and not lineage.is_ending and not lineage.is_excused:
                    raise BrokenPromise(f"{lineage.name} is lost")
                continue
            self._check_content(lineage, living[0].data)
            told = {id_of(secret) for secret in lineage.secrets}
            if not lineage.is_excused and living[0].id not in told:
                raise BrokenPromise(f"nobody was told the secret of {lineage.name}")
            if not lineage.is_excused and living[0].id != id_of(lineage.secrets[-1]):
                raise BrokenPromise(f"the secret of {lineage.name} that was told last opens nothing")

    def _check_content(self, lineage: Lineage, data: dict[str, Any]) -> None:
        log = data["nested"]["log"]
        if len(log) != len(set(log)) or data["nested"]["n"] != len(log):
            raise BrokenPromise(f"{lineage.name} counts {data['nested']['n']} for {log}")
        if (lost := lineage.done - set(log)) and not lineage.is_astray:
            raise BrokenPromise(f"{lineage.name} has lost {lost}")
        if invented := set(log) - lineage.tried:
            raise BrokenPromise(f"{lineage.name} has {invented}, which nobody did")
        if data["last"] and data["last"] not in log:
            raise BrokenPromise(f"{lineage.name} has half of {data['last']}")

    def _is_of(self, operation: str, name: str) -> bool:
        return operation in self.of(name).tried
