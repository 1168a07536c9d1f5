"""What visitors did and saw, and what may be seen; a *lineage* is a session from its beginning to its end."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["MOVES", "Event", "broken_promises"]

MOVES = ("rotate", "destroy", "destroyall")


@dataclass(frozen=True)
class Event:
    """One request.

    :arg lineage: the session that the visitor believed to have; of a `start`, the one that it would begin.
    :arg page: what was asked for.
    :arg operation: what a change appends.
    :arg began, ended: when, in seconds.
    :arg status: of the response; 599 when there was none.
    :arg name: of the session that was shown, if any.
    :arg log: what it had.
    """

    lineage: str
    page: str
    operation: str
    began: float
    ended: float
    status: int
    name: str | None = None
    log: Sequence[str] = ()


def broken_promises(
    history: Sequence[Event], stored: Sequence[Mapping[str, Any]], opened: Mapping[str, str | None], killed: list[float]
) -> Iterator[str]:
    """Yields what must not be, in words.

    :arg stored: the content of all sessions, when all is over.
    :arg opened: for each lineage that somebody believes to have, the name of what its last secret opens.
    :arg killed: when a server process was killed. What it was about to find out about a rotation is not found out.
    """
    events: dict[str, list[Event]] = defaultdict(list)
    for event in history:
        events[event.lineage].append(event)
    tried = {event.operation: event.lineage for event in history if event.page == "change"}
    living: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for data in stored:
        if "lineage" in data:
            living[data["lineage"]].append(data)
    for event in history:
        if event.name is not None:
            yield from _content(event.name, event.log, tried, f"{event.page} {event.operation} shows")
    for lineage, own in events.items():
        is_excused = any(_is_lost_track_of(event, killed) for event in own)
        found = living[lineage]
        for data in found:
            log = data["nested"]["log"]
            yield from _content(lineage, log, tried, f"{lineage} has")
            if data["nested"]["n"] != len(log):
                yield f"{lineage} counts {data['nested']['n']} for {len(log)} operations"
        has_ended = any(_is_end(event, own) for event in own)
        if found and has_ended:
            yield f"{lineage} lives on after its end"
        if is_excused:
            continue
        if len(found) > 1:
            yield f"{lineage} lives {len(found)} times"
        if lineage in opened and opened[lineage] != lineage:
            yield f"{lineage} is lost: its secret opens {opened[lineage]}"
        acknowledged = [event for event in own if _is_acknowledged(event, own)]
        for data in found:
            position = {operation: index for index, operation in enumerate(data["nested"]["log"])}
            lost = [event.operation for event in acknowledged if event.operation not in position]
            if lost:
                yield f"{lineage} has lost {lost}"
                continue
            for first, second in _in_turn(acknowledged):
                if position[first.operation] > position[second.operation]:
                    yield f"{lineage} has {first.operation} after {second.operation}, which came later"
        for event in own:
            if event.name == lineage and event.page in ("read", "change"):
                before = {other.operation for other in acknowledged if other.ended < event.began}
                if missing := before - set(event.log):
                    yield f"{event.page} {event.operation} of {lineage} does not show {sorted(missing)}"


def _content(name: str, log: Sequence[str], tried: Mapping[str, str], what: str) -> Iterator[str]:
    if len(set(log)) != len(log):
        yield f"{what} something twice: {log}"
    if strangers := [operation for operation in log if tried.get(operation) != name]:
        yield f"{what} what is not of {name}: {strangers}"


def _is_lost_track_of(event: Event, killed: list[float]) -> bool:
    """Nobody can know where the session is."""
    if event.page not in MOVES and event.page != "start":
        return False
    return event.status == 599 or (event.status != 200 and any(event.began < moment for moment in killed))


def _is_met(event: Event, own: Sequence[Event]) -> bool:
    return any(
        other.page in MOVES and other is not event and other.began <= event.ended and event.began <= other.ended
        for other in own
    )


def _is_end(event: Event, own: Sequence[Event]) -> bool:
    """Somebody was told that it has ended, and no rotation took the session elsewhere meanwhile."""
    if event.status != 200:
        return False
    if event.page == "destroyall":
        return event.name == event.lineage
    return event.page == "destroy" and not _is_met(event, own)


def _is_acknowledged(event: Event, own: Sequence[Event]) -> bool:
    is_done = event.page == "change" and event.status == 200 and event.operation in event.log
    return is_done and not _is_met(event, own)


def _in_turn(events: Sequence[Event]) -> Iterator[tuple[Event, Event]]:
    """Yields pairs of which one had ended when the next began."""
    last: Event | None = None
    for event in sorted(events, key=lambda event: event.began):
        if last is not None and last.ended < event.began:
            yield last, event
        if last is None or event.ended > last.ended:
            last = event
