"""The real library in simulated schedules: at random, all of small cases, and with deliberate breaks."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .simulation import BREAKS, BrokenPromise, Case, run_all, run_seed, simulate

# What a process that dies leaves behind.
pytestmark = [
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SEEDS = int(os.environ.get("SESAME_SEEDS", "2000"))
DEVIATIONS = int(os.environ.get("SESAME_DEVIATIONS", "1"))

# The first seed that finds it: how many it takes.
FOUND_BY = {
    "an_answer_before_its_save": 0,
    "an_end_that_is_only_told": 0,
    "a_rotation_without_a_copy": 0,
    "an_update_that_inserts": 8,
    "an_end_that_is_not_remembered": 23,
    "a_late_request_begins_a_new_session": 23,
    "an_unknown_save_is_repeated": 50,
    "a_batch_of_loads_in_another_order": 56,
    "a_rotation_that_keeps_the_old_cookie_when_nobody_knows": 66,
    "a_rotation_that_carries_over_whole_fields": 93,
    "a_copy_that_lasts": 116,
    "only_the_first_flush_waits": 128,
    "what_was_not_done_is_forgotten": 789,
    "a_rotation_that_takes_its_own_end_for_anothers": 1003,
    "a_rotation_that_is_given_up_when_nobody_knows": 1414,
}


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


@pytest.mark.parametrize("name", FOUND_BY)
def test_it_finds_each_deliberate_break(name):
    with BREAKS[name](), pytest.raises(BrokenPromise):
        run_seed(FOUND_BY[name])
