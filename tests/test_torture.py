"""A short torture of real servers, and proof that a history which breaks a promise is found."""

from dataclasses import replace

import pytest

from .torture import torture
from .torture.history import Event, broken_promises

SECONDS = 15


@pytest.mark.posix
@pytest.mark.parametrize("place", ["mongodb", "sqlite"])
async def test_all_promises_are_kept_under_torture(place, tmp_path, capsys, request):
    if place == "mongodb":
        request.getfixturevalue("needs_mongod")
    report = await torture(place, SECONDS, tmp_path, print)
    print(report)  # noqa: T201 - is shown when it fails
    assert report.broken == []
    assert report.requests["change", 200] > 10
    assert report.lineages > 10
    assert report.faults > 1


def change(number, began, log, **fields):
    log = [f"c{item}" for item in log]
    event = Event("s", "change", f"c{number}", began, began + 0.5, 200, "s", log)
    return replace(event, **fields)


START = Event("s", "start", "s", 0, 0.5, 200, "s")
FIRST, SECOND = change(1, 1, [1]), change(2, 2, [1, 2])
ROTATE = Event("s", "rotate", "r", 3, 3.5, 200)
DESTROY = Event("s", "destroy", "d", 4, 4.5, 200)


def stored(*log, n=None):
    return {"lineage": "s", "nested": {"n": len(log) if n is None else n, "log": [f"c{item}" for item in log]}}


@pytest.mark.parametrize(
    ("history", "found", "opened", "problem"),
    [
        ([START, FIRST, SECOND, ROTATE], [stored(1, 2)], "s", None),
        ([START, FIRST, SECOND, DESTROY], [], None, None),
        ([START, FIRST, replace(SECOND, status=503)], [stored(1, 2)], "s", None),
        ([START, FIRST, replace(SECOND, status=503)], [stored(1)], "s", None),
        ([START, FIRST, SECOND], [stored(1)], "s", "has lost ['c2']"),
        ([START, FIRST, SECOND], [stored(1, 2, 2)], "s", "something twice"),
        ([START, FIRST, SECOND], [stored(2, 1)], "s", "c1 after c2"),
        ([START, FIRST, SECOND], [stored(1, 2, n=3)], "s", "counts 3 for 2"),
        ([START, FIRST, SECOND], [stored(1, 2, 3)], "s", "what is not of s: ['c3']"),
        ([START, FIRST, SECOND], [stored(1, 2), stored(1, 2)], "s", "lives 2 times"),
        ([START, FIRST, SECOND, DESTROY], [stored(1, 2)], None, "lives on after its end"),
        ([START, FIRST, ROTATE], [stored(1)], "other", "its secret opens other"),
        ([START, FIRST, ROTATE], [], "other", "its secret opens other"),
        ([START, FIRST, change(2, 2, [2])], [stored(1, 2)], "s", "does not show ['c1']"),
        ([START, FIRST, replace(FIRST, operation="c2", name="t", lineage="t", log=["c1"])], [], None, "not of t"),
        ([START, FIRST, replace(ROTATE, status=599)], [], "other", None),
    ],
)
def test_a_history_that_breaks_a_promise_is_found(history, found, opened, problem):
    broken = list(broken_promises(history, found, {} if opened is None else {"s": opened}, []))
    if problem is None:
        assert broken == []
    else:
        assert any(problem in text for text in broken), broken
