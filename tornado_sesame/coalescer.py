"""Many requests' loads or saves as one call.

A driver's cost is by the command far more than by the document, so what waits at the same time goes out together. There
is no timer in it: a batch leaves at the end of the tick in which its first item came, or, when enough batches are under
way, as soon as one of them is back. An idle server thus adds no delay, and a busy one forms larger batches by itself.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from tornado.ioloop import IOLoop

__all__ = ["GRACE", "Coalescer", "answer_within"]

# Seconds that a call has, after those that its callers wait, to come to its own end before it is cancelled. While it
# waits for a server, PyMongo looks at its deadline every half second, and on Python 3.11 a cancellation that meets one
# of these looks can leave its lock locked for good.
GRACE = 2.0

Item = TypeVar("Item")
Result = TypeVar("Result")


class Coalescer(Generic[Item, Result]):
    """Collects items and hands them to *call* in batches.

    :arg call: gets a list of items and returns their results in the same order. What it raises, all of them get.
    :arg timeout: seconds after which an item's future gets a `TimeoutError`, wherever the item is.
    :arg max_batch: the most items in one call.
    :arg max_in_flight: the most calls under way at once.
    """

    def __init__(
        self,
        call: Callable[[list[Item]], Awaitable[Sequence[Result]]],
        *,
        timeout: float,
        max_batch: int = 256,
        max_in_flight: int = 2,
    ) -> None:
        self._call = call
        self._timeout = timeout
        self._max_batch = max_batch
        self._max_in_flight = max_in_flight
        self._waiting: deque[_Entry[Item, Result]] = deque()
        self._unanswered: deque[_Entry[Item, Result]] = deque()
        self._in_flight: set[asyncio.Task[None]] = set()
        self._is_scheduled = False
        self._watch: asyncio.TimerHandle | None = None

    def submit(self, item: Item) -> "asyncio.Future[Result]":
        """Puts *item* into the next batch and returns the future of its result. Cancelling the future is harmless."""
        loop = asyncio.get_running_loop()
        entry = _Entry(item, loop.create_future(), loop.time() + self._timeout)
        self._waiting.append(entry)
        self._unanswered.append(entry)
        if self._watch is None:
            self._watch = loop.call_at(entry.deadline, self._expire, loop)
        if not self._is_scheduled:
            self._is_scheduled = True
            IOLoop.current().add_callback(self._flush)
        return entry.future

    async def drain(self) -> None:
        """Waits until everything that was submitted is answered."""
        while pending := [entry.future for entry in self._unanswered if not entry.future.done()]:
            await asyncio.wait(pending)
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._unanswered.clear()

    def _flush(self) -> None:
        self._is_scheduled = False
        while self._waiting and len(self._in_flight) < self._max_in_flight:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._max_batch))]
            task = asyncio.get_running_loop().create_task(self._run(batch))
            self._in_flight.add(task)
            task.add_done_callback(self._on_done)

    def _on_done(self, task: "asyncio.Task[None]") -> None:
        self._in_flight.discard(task)
        while self._unanswered and self._unanswered[0].future.done():
            self._unanswered.popleft()
        self._flush()

    async def _run(self, batch: "list[_Entry[Item, Result]]") -> None:
        batch = [entry for entry in batch if not entry.future.done()]
        if not batch:
            return
        try:
            async with asyncio.timeout(self._timeout + GRACE):
                results = await self._call([entry.item for entry in batch])
            if len(results) != len(batch):
                raise ValueError(f"{len(batch)} items were given, {len(results)} results came back")
        except Exception as error:
            for entry in batch:
                if not entry.future.done():
                    entry.future.set_exception(error)
        except asyncio.CancelledError:
            for entry in batch:
                entry.future.cancel()
            raise
        else:
            for entry, result in zip(batch, results, strict=True):
                if not entry.future.done():
                    entry.future.set_result(result)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._watch = None
        while self._unanswered:
            entry = self._unanswered[0]
            if not entry.future.done():
                if entry.deadline > loop.time():
                    self._watch = loop.call_at(entry.deadline, self._expire, loop)
                    return
                entry.future.set_exception(TimeoutError(f"no answer within {self._timeout} s"))
            self._unanswered.popleft()


async def answer_within(seconds: float, call: Awaitable[Result]) -> Result:
    """Returns the answer of one *call*, which comes by itself.

    :raises TimeoutError: when it takes longer.
    """
    task = asyncio.ensure_future(call)
    await asyncio.wait({task}, timeout=seconds)
    if task.done():
        return task.result()
    asyncio.get_running_loop().call_later(GRACE, task.cancel)
    task.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody else asks for it
    raise TimeoutError(f"no answer within {seconds} s")


class _Entry(NamedTuple, Generic[Item, Result]):
    item: Item
    future: "asyncio.Future[Result]"
    deadline: float
