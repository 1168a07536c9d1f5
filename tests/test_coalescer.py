"""Many items, few calls: when batches leave, who is in them, and what happens when one fails or somebody leaves."""

import asyncio
import contextvars
import gc
import sys
import time
import weakref

import pytest

from tornado_sesame.coalescer import Coalescer
from tornado_sesame.deadlines import answer_within


class Calls:
    """A call that takes as long as the test wants, and doubles numbers."""

    def __init__(self, **options):
        self.batches = []
        self.answers = asyncio.Semaphore(0)
        self.coalescer = Coalescer(self.call, failed, **{"timeout": 60, **options})
        self.submit = self.coalescer.submit

    async def call(self, items):
        self.batches.append(items)
        await self.answers.acquire()
        if "bad" in items:
            raise ConnectionError("down")
        return [2 * item for item in items]

    def answer(self, times=1):
        for _ in range(times):
            self.answers.release()


def failed(item, error):
    """Makes an item's result of the error that it failed with."""
    return item, error


@pytest.fixture
def limits(monkeypatch):
    """Sets constants of the coalescer."""

    def set_limits(**limits):
        for name, value in limits.items():
            monkeypatch.setattr(f"tornado_sesame.coalescer.{name}", value)

    # No machine is away for so long that what has to wait would be sent as late.
    set_limits(LINGER_SECONDS=60)
    return set_limits


async def until(condition):
    """Lets the event loop turn until *condition* holds."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


async def turns(number=10):
    """Lets the event loop turn a few times."""
    for _ in range(number):
        await asyncio.sleep(0)


async def test_what_is_submitted_in_a_tick_is_one_call():
    calls = Calls()
    futures = [calls.submit(number) for number in range(100)]
    calls.answer()
    assert await asyncio.gather(*futures) == [2 * number for number in range(100)]
    assert calls.batches == [list(range(100))]


async def test_a_single_item_leaves_at_the_end_of_its_tick():
    calls = Calls()
    calls.submit(1)
    assert calls.batches == []
    await turns(3)
    assert calls.batches == [[1]]
    calls.answer()


async def test_while_enough_calls_are_under_way_the_next_batch_fills(limits):
    limits(MAX_CALLS=2)
    calls = Calls()
    futures = []
    for number in range(6):
        futures.append(calls.submit(number))
        await turns()
    assert calls.batches == [[0], [1]]
    calls.answer()
    await turns()
    assert calls.batches == [[0], [1], [2, 3, 4, 5]]
    calls.answer(2)
    assert await asyncio.gather(*futures) == [0, 2, 4, 6, 8, 10]


async def test_while_few_are_under_way_others_need_not_wait(limits):
    limits(MIN_UNDER_WAY=3)
    calls = Calls()
    futures = []
    for number in range(5):
        futures.append(calls.submit(number))
        await turns()
    assert calls.batches == [[0], [1], [2]]
    calls.answer()
    await turns()
    assert calls.batches == [[0], [1], [2], [3, 4]]
    calls.answer(3)
    assert await asyncio.gather(*futures) == [0, 2, 4, 6, 8]


async def test_a_call_that_is_stuck_does_not_hold_up_what_comes_later(limits):
    limits(LINGER_SECONDS=0.05, MIN_UNDER_WAY=1, MAX_CALLS=3)
    calls = Calls(timeout=60)
    for number in range(3):
        calls.submit(number)
        await until(lambda number=number: len(calls.batches) == number + 1)
    calls.submit(3)
    await asyncio.sleep(0.2)
    assert calls.batches == [[0], [1], [2]]
    calls.answer()
    await until(lambda: len(calls.batches) == 4)
    calls.answer(3)
    await calls.coalescer.drain()


async def test_what_has_waited_long_does_not_wait_for_the_other_half(limits):
    limits(LINGER_SECONDS=0.05, MIN_UNDER_WAY=1)
    calls = Calls(split_above=2, timeout=60)
    for number in range(4):
        calls.submit(number)
    await until(lambda: len(calls.batches) == 2)
    assert calls.batches == [[0, 1], [2, 3]]
    calls.answer(2)
    await calls.coalescer.drain()


async def test_of_many_one_half_goes_out_while_the_other_is_worked_on(limits):
    limits(MIN_UNDER_WAY=1)
    calls = Calls(split_above=4, timeout=60)
    futures = [calls.submit(number) for number in range(20)]
    for sizes in [10], [10, 5], [10, 5, 4], [10, 5, 4, 1]:
        await turns()
        assert [len(batch) for batch in calls.batches] == sizes
        calls.answer()
    assert await asyncio.gather(*futures) == [2 * number for number in range(20)]


async def test_no_batch_is_larger_than_it_may_be_and_nobody_is_overtaken(limits):
    limits(MAX_BATCH=4, MAX_CALLS=2)
    calls = Calls()
    futures = [calls.submit(number) for number in range(10)]
    await turns()
    futures.append(calls.submit(10))
    calls.answer(3)
    assert await asyncio.gather(*futures) == [2 * number for number in range(11)]
    assert calls.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]


async def test_an_error_is_that_of_its_batch_only():
    calls = Calls()
    failing = [calls.submit("bad"), calls.submit(1)]
    await turns()
    other = calls.submit(2)
    calls.answer(2)
    (bad, error), (one, same), result = await asyncio.gather(*failing, other)
    assert (bad, one, result) == ("bad", 1, 4)
    assert isinstance(error, ConnectionError)
    assert same is error


async def test_one_that_fails_alone_does_so_in_a_call_that_succeeds():
    async def call(items):
        return [ValueError(item) if item == 2 else item for item in items]

    coalescer = Coalescer(call, failed, timeout=60)
    one, (two, error), three = await asyncio.gather(*map(coalescer.submit, (1, 2, 3)))
    assert (one, two, three) == (1, 2, 3)
    assert isinstance(error, ValueError)


async def test_a_call_that_returns_too_few_results_fails():
    async def call(items):
        return items[1:]

    coalescer = Coalescer(call, failed, timeout=60)
    for _, error in await asyncio.gather(coalescer.submit(1), coalescer.submit(2)):
        assert isinstance(error, ValueError)
        assert str(error) == "2 items were given, 1 results came back"


@pytest.mark.parametrize("has_begun", [True, False])
async def test_when_the_server_ends_what_is_under_way_has_failed_and_what_waits_is_done(limits, has_begun):
    limits(MAX_CALLS=1)
    calls = Calls()
    under_way = calls.submit(1)
    if has_begun:
        await turns()
    (sender,) = asyncio.all_tasks() - {asyncio.current_task()}
    waiting = calls.submit(2)
    sender.cancel()
    calls.answer(2)
    if has_begun:
        item, error = await under_way
        assert (item, str(error)) == (1, "the server is shutting down")
    else:
        assert await under_way == 2
    assert await waiting == 4


async def test_a_call_has_nothing_of_the_context_of_whoever_came_first():
    """PyMongo's deadlines and sessions are in there, and they are not for other requests."""
    request = contextvars.ContextVar("request", default="none")
    seen = []

    async def call(items):
        seen.append(request.get())
        return items

    coalescer = Coalescer(call, failed, timeout=60)
    request.set("the first")
    assert await coalescer.submit(1) == 1
    assert seen == ["none"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.11 has no eager tasks")
async def test_a_batch_leaves_at_the_end_of_the_tick_though_tasks_are_eager():
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    calls = Calls()
    futures = [calls.submit(number) for number in range(3)]
    calls.answer()
    assert await asyncio.gather(*futures) == [0, 2, 4]
    assert calls.batches == [[0, 1, 2]]


async def test_who_leaves_does_not_disturb_the_others():
    calls = Calls()
    leaving, staying = calls.submit(1), calls.submit(2)
    leaving.cancel()
    await turns()
    assert calls.batches == [[2]]
    under_way = calls.submit(3)
    late = calls.submit(4)
    await turns()
    under_way.cancel()
    calls.answer(2)
    assert await asyncio.gather(staying, late) == [4, 8]


async def test_a_batch_that_everybody_left_is_not_called():
    calls = Calls()
    for number in range(3):
        calls.submit(number).cancel()
    await turns()
    assert calls.batches == []


async def test_who_left_is_not_kept():
    class Item:
        pass

    calls = Calls()
    item = Item()
    gone = weakref.ref(item)
    calls.submit(item).cancel()
    del item
    await turns()
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("where", ["under way", "waiting"])
async def test_a_call_that_does_not_answer_times_out_wherever_the_item_is(limits, where):
    limits(MAX_CALLS=1)
    calls = Calls(timeout=0.1)
    first, second = calls.submit(1), None
    await turns()
    second = calls.submit(2)
    future = {"under way": first, "waiting": second}[where]
    _, error = await asyncio.wait_for(future, 1)
    assert isinstance(error, TimeoutError)
    await asyncio.wait([first, second])


async def test_after_a_timeout_it_works_again():
    calls = Calls(timeout=0.1)
    assert isinstance((await calls.submit(1))[1], TimeoutError)
    calls.answer(2)  # the first one, too, though nobody waits for it any more
    assert await calls.submit(2) == 4


async def test_a_call_that_timed_out_ends_by_itself_or_is_cancelled_some_time_later(monkeypatch):
    """Drivers do not like to be cancelled: PyMongo on Python 3.11 could stay locked for good."""
    ends = []

    async def call(items):
        try:
            await asyncio.sleep(items[0])
            ends.append("itself")
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise
        return items

    monkeypatch.setattr("tornado_sesame.coalescer.GRACE_SECONDS", 0.4)
    monkeypatch.setattr("tornado_sesame.deadlines.GRACE_SECONDS", 0.4)
    for begin in (
        lambda seconds: Coalescer(call, failed, timeout=0.1).submit(seconds),
        lambda seconds: asyncio.gather(answer_within(0.1, call([seconds])), return_exceptions=True),
    ):
        for seconds, end in (0.2, "itself"), (10, "cancelled"):
            assert isinstance((await begin(seconds))[-1], TimeoutError)
            assert ends == []
            await asyncio.sleep(0.5)
            assert ends == [end]
            ends.clear()


async def test_a_call_that_leaves_late_has_its_whole_time(monkeypatch):
    monkeypatch.setattr("tornado_sesame.coalescer.GRACE_SECONDS", 0.1)

    async def call(items):
        await asyncio.sleep(0.01)
        return items

    coalescer = Coalescer(call, failed, timeout=10)
    monkeypatch.setattr(coalescer, "_timeout", 0.1)
    first = coalescer.submit(1)
    time.sleep(0.5)  # noqa: ASYNC251 - a handler that blocks the event loop before the batch leaves
    monkeypatch.setattr(coalescer, "_timeout", 10)
    assert await coalescer.submit(2) == 2
    assert isinstance((await first)[-1], TimeoutError)


async def test_drain_waits_for_what_waits_and_what_is_under_way(limits):
    limits(MAX_CALLS=1)
    calls = Calls()
    futures = [calls.submit(1)]
    await turns()
    futures.append(calls.submit(2))
    draining = asyncio.ensure_future(calls.coalescer.drain())
    await turns()
    assert not draining.done()
    calls.answer(2)
    await draining
    assert [future.result() for future in futures] == [2, 4]
    await calls.coalescer.drain()


def test_on_another_loop_it_begins_anew():
    """As in tests of one application, of which each has a loop of its own."""
    calls = Calls(timeout=0.1)

    async def leave():
        calls.submit(1)
        calls.submit(2)
        await turns()

    async def use():
        item, error = await asyncio.wait_for(calls.submit(3), 1)
        assert item == 3
        assert isinstance(error, TimeoutError)
        calls.answer(2)
        assert await calls.submit(4) == 8
        await calls.coalescer.drain()

    for main in leave, use, calls.coalescer.drain:
        loop = asyncio.new_event_loop()
        calls.answers = asyncio.Semaphore(0)
        loop.run_until_complete(main())
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def test_a_loop_that_goes_on_when_another_has_begun_sends_nothing():
    calls = Calls()
    calls.answer()
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    for loop, item in (first, 1), (second, 2):  # which ends before anything is sent
        loop.call_soon(calls.submit, item)
        loop.call_soon(loop.stop)
        loop.run_forever()
    first.run_until_complete(turns())
    assert calls.batches == []
    second.run_until_complete(calls.coalescer.drain())
    assert calls.batches == [[2]]
    first.close()
    second.close()
