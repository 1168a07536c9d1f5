"""The library itself, unchanged, on a simulated event loop, network, store and clock.

`world` runs a case, `promises` says what must hold, `loop` decides what happens when, `network` is what lies between,
and `breaks` are the faults that it has to find. A *seed* stands for a case and all that happens in it.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from .breaks import BREAKS
from .loop import RandomChoices, ScriptedChoices
from .network import DELAYS
from .promises import BrokenPromise
from .world import Case, simulate

__all__ = ["BREAKS", "SMALL_CASES", "BrokenPromise", "Case", "case_of", "find_break", "run_all", "run_seed", "simulate"]

# How many seconds commands take to a server far away.
FAR = (0.01, 0.05, 0.3)

# Two or three requests, one fault, one process and no time that passes by itself: small enough for all schedules.
SMALL_CASES = [
    Case(visitors=1, requests=1, tabs=len(pages), processes=1, faults=1, disasters=0, delays=(0.0, 0.01), script=pages)
    for pages in (
        ("change", "change"),
        ("change", "rotate"),
        ("change", "destroy"),
        ("rotate", "rotate"),
        ("rotate", "destroy"),
        ("rotate", "destroyall"),
        ("stream", "change"),
        ("change", "rotate", "read"),
    )
]


def case_of(seed: int) -> Case:
    if seed % 20 == 19:  # a crowd, so that there is much in one batch, and many batches
        return Case(visitors=12, requests=2, processes=1, faults=seed // 20 % 4, disasters=0, delays=(0.0, 0.0, 0.01))
    if seed % 20 == 13:  # a login page that is opened all the time
        pages = ("change", "rotate", "plain")
        return Case(visitors=1, requests=12, tabs=3, processes=2, faults=3, disasters=0, delays=FAR, pages=pages)
    return Case(
        visitors=1 + seed % 3,
        requests=6,
        tabs=1 + seed // 3 % 3,
        processes=1 + seed // 9 % 2,
        faults=seed // 18 % 4,
        disasters=seed // 72 % 3,
        waits=seed % 11 != 10,
        delays=DELAYS if seed % 2 else (0.0, 0.0, 0.01),  # so that there is more in one batch
    )


def run_seed(seed: int) -> list[str]:
    """Runs one random schedule and returns its story.

    :raises BrokenPromise: with the story as a note.
    """
    return simulate(case_of(seed), RandomChoices(seed))


def find_break(name: str, seeds: Iterable[int]) -> int | None:
    """Returns the first of these seeds that finds a break."""
    with BREAKS[name]():
        for seed in seeds:
            try:
                run_seed(seed)
            except BrokenPromise:
                return seed
    return None


def run_all(deviations: int) -> int:
    """Runs all schedules of the small cases that deviate at most so often from the first choice, and counts them."""
    return sum(1 for case in SMALL_CASES for _ in _runs(case, {}, 0, deviations))


def _runs(case: Case, script: dict[int, int], first: int, deviations: int) -> Iterator[Any]:
    choices = ScriptedChoices(script)
    yield simulate(case, choices)
    if deviations:
        for position in range(first, len(choices.made)):
            for choice in range(1, choices.made[position][1]):
                yield from _runs(case, {**script, position: choice}, position + 1, deviations - 1)
