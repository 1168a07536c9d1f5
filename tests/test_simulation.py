"""The real library in simulated schedules: at random, all of small cases, and with deliberate breaks."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .simulation import Case, find_break, run_all, run_seed, simulate

# What a process that dies leaves behind.
pytestmark = [
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SEEDS = int(os.environ.get("SESAME_SEEDS", "2000"))
DEVIATIONS = int(os.environ.get("SESAME_DEVIATIONS", "1"))

# Those that are found within some hundred seeds; `python -m tests.simulation --breaks` tries all.
FOUND_SOON = [
    "an_answer_before_its_save",
    "an_end_that_is_only_told",
    "a_rotation_without_a_copy",
    "an_update_that_inserts",
    "an_end_that_is_not_remembered",
    "a_late_request_begins_a_new_session",
    "an_unknown_save_is_repeated",
    "a_batch_of_loads_in_another_order",
    "a_rotation_that_keeps_the_old_cookie_when_nobody_knows",
    "a_rotation_that_carries_over_whole_fields",
    "a_copy_that_lasts",
    "only_the_first_flush_waits",
]


@pytest.mark.parametrize("part", range(10))
def test_random_schedules_keep_all_promises(part):
    for seed in range(part, SEEDS, 10):
        run_seed(seed)


def test_all_schedules_of_small_cases_keep_all_promises():
    assert run_all(DEVIATIONS) > 100


class DrawnChoices:
    def __init__(self, data):
        self._data = data

    def pick(self, number):
        return self._data.draw(st.integers(0, number - 1)) if number > 1 else 0


@given(st.data())
@settings(max_examples=30)
def test_schedules_that_shrink(data):
    """When it fails, hypothesis looks for the shortest story."""
    simulate(Case(visitors=1, requests=3, tabs=2, faults=2, disasters=1), DrawnChoices(data))


def test_a_seed_tells_the_same_story_each_time():
    def told(seed):
        return [line.partition(" with ")[0] for line in run_seed(seed) if "the server does" not in line]

    for seed in range(20):
        assert told(seed) == told(seed)


@pytest.mark.parametrize("name", FOUND_SOON)
def test_it_finds_deliberate_breaks(name):
    assert find_break(name, 3000) is not None
