"""Many requests' loads or saves as one call.

A driver's cost is by the command far more than by the document, so what waits at the same time goes out together. A
batch leaves at the end of the tick in which its first item came, or, when enough is under way, as soon as something of
that comes back, or after a short while. No batch is held back to become larger: an idle server adds no delay, and a
busy one forms larger batches by itself.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

__all__ = ["GRACE", "Coalescer", "answer_within"]

# Seconds that a call has, after those that its callers wait, to come to its own end before it is cancelled. While it
# waits for a server, PyMongo looks at its deadline every half second, and on Python 3.11 a cancellation that meets one
# of these looks can leave its lock locked for good.
GRACE = 2.0

# Seconds after which what waits for a call to come back is sent all the same, as that call may be stuck, or far away.
PATIENCE = 0.02

Item = TypeVar("Item")
Result = TypeVar("Result")


class Coalescer(Generic[Item, Result]):
    """Collects items and hands them to *call* in batches.

    :arg call: gets a list of items and returns for each, in the same order, its result or the exception it failed with.
        What it raises, all of them have failed with.
    :arg failed: gets an item and the exception that it failed with, and returns what is its result then.
    :arg timeout: seconds after which an item counts as failed, wherever it is.
    :arg max_batch: the most items in one call.
    :arg max_calls: the most calls under way at once.
    :arg few: while fewer items than these are under way, more of them need not wait for a call to come back.
    :arg halve_above: when more items wait, only one half of them goes out, at least so many, and the others when it is
        back, or has not come back for `PATIENCE`. For calls that take long: all requests of a busy server would else
        come to wait for the same call, and the server with them.
    """

    def __init__(
        self,
        call: Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]],
        failed: Callable[[Item, Exception], Result],
        *,
        timeout: float,
        max_batch: int = 256,
        max_calls: int = 8,
        few: int = 4,
        halve_above: int | None = None,
    ) -> None:
        self._call = call
        self._failed = failed
        self._timeout = timeout
        self._max_batch = max_batch
        self._max_calls = max_calls
        self._few = few
        self._halve_above = halve_above or max_batch
        self._waiting: deque[_Entry[Item, Result]] = deque()
        self._unanswered: deque[_Entry[Item, Result]] = deque()
        self._under_way = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._senders: set[asyncio.Task[None]] = set()
        self._starting: asyncio.Task[None] | None = None  # the one of them that has yet to take its first batch
        self._watch: asyncio.TimerHandle | None = None
        self._nudge: asyncio.TimerHandle | None = None

    def submit(self, item: Item) -> "asyncio.Future[Result]":
        """Puts *item* into the next batch and returns the future of its result. Cancelling the future is harmless."""
        loop = asyncio.get_running_loop()
        self._be_on(loop)
        entry: _Entry[Item, Result] = _Entry(item, loop.create_future(), loop.time() + self._timeout)
        self._waiting.append(entry)
        self._unanswered.append(entry)
        if self._watch is None:
            self._watch = loop.call_at(entry.deadline, self._expire, loop)
        if self._starting is None:
            self._start_or_wait(loop)
        return entry.future

    def _be_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins anew on another loop, as tests have one each: what the last one had under way has ended with it."""
        if loop is self._loop:
            return
        self._loop = loop
        self._waiting.clear()
        self._unanswered.clear()
        self._senders.clear()
        self._under_way = 0
        self._starting = self._watch = self._nudge = None

    async def drain(self) -> None:
        """Waits until everything that was submitted is answered and no call is under way any more."""
        self._be_on(asyncio.get_running_loop())
        while self._senders:
            await asyncio.wait(self._senders)
        for timer in (self._watch, self._nudge):
            if timer is not None:
                timer.cancel()
        self._watch = self._nudge = None
        self._unanswered.clear()

    def _start_or_wait(self, loop: asyncio.AbstractEventLoop) -> None:
        """Has what waits sent at the end of the tick if little is under way, else when that is back or takes long."""
        if not self._senders or (self._under_way < self._few and len(self._senders) < self._max_calls):
            self._start(loop)
        elif self._nudge is None:
            self._nudge = loop.call_later(PATIENCE, self._on_nudge, loop)

    def _on_nudge(self, loop: asyncio.AbstractEventLoop) -> None:
        self._nudge = None
        if self._waiting and self._starting is None and len(self._senders) < self._max_calls:
            self._start(loop)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        # Not by create_task(): an application's eager task factory would run it now, and not at the end of the tick.
        # Its context is not that of the request which happens to be the first: a deadline in it is not for the others.
        self._starting = sender = asyncio.Task(self._send(), loop=loop, context=contextvars.Context())
        self._senders.add(sender)
        sender.add_done_callback(self._on_end)

    async def _send(self) -> None:
        """Sends one batch after the other, until nothing waits."""
        self._starting = None
        while batch := self._take():
            if self._waiting:
                self._start_or_wait(asyncio.get_running_loop())
            try:
                await self._run(batch)
            finally:
                self._under_way -= len(batch)
                self._forget_answered()

    def _on_end(self, sender: "asyncio.Task[None]") -> None:
        self._senders.discard(sender)
        if self._starting is sender:
            self._starting = None  # it was cancelled before its turn came
        self._forget_answered()
        if self._waiting and self._starting is None:
            self._start_or_wait(sender.get_loop())

    def _forget_answered(self) -> None:
        while self._unanswered and self._unanswered[0].future.done():
            self._unanswered.popleft()

    def _take(self) -> "list[_Entry[Item, Result]]":
        """Returns the next batch, which counts as under way, without those whom nobody waits for any more."""
        waiting = self._waiting
        most = min(self._max_batch, max(self._halve_above, (len(waiting) + 1) // 2))
        batch: list[_Entry[Item, Result]] = []
        while waiting and len(batch) < most:
            entry = waiting.popleft()
            if not entry.future.done():
                batch.append(entry)
        self._under_way += len(batch)
        return batch

    async def _run(self, batch: "list[_Entry[Item, Result]]") -> None:
        try:
            async with asyncio.timeout(self._timeout + GRACE):
                results = await self._call([entry.item for entry in batch])
            if len(results) != len(batch):
                raise ValueError(f"{len(batch)} items were given, {len(results)} results came back")
        except Exception as error:
            for entry in batch:
                self._fail(entry, error)
        except asyncio.CancelledError:
            for entry in batch:
                self._fail(entry, RuntimeError("the server is shutting down"))
            raise
        else:
            for entry, result in zip(batch, results, strict=True):
                if isinstance(result, Exception):
                    self._fail(entry, result)
                elif not entry.future.done():
                    entry.future.set_result(result)

    def _fail(self, entry: "_Entry[Item, Result]", error: Exception) -> None:
        if not entry.future.done():
            entry.future.set_result(self._failed(entry.item, error))

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._watch = None
        while self._unanswered:
            entry = self._unanswered[0]
            if not entry.future.done():
                if entry.deadline > loop.time():
                    self._watch = loop.call_at(entry.deadline, self._expire, loop)
                    return
                self._fail(entry, TimeoutError(f"no answer within {self._timeout} s"))
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
