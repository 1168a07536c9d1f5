"""Many requests' loads or saves as one call.

A driver's cost is by the command far more than by the document, so what waits at the same time goes out together. There
is no timer in it: a batch leaves at the end of the tick in which its first item came, or, when enough is under way, as
soon as what is under way comes back. An idle server thus adds no delay, and a busy one forms larger batches by itself.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

__all__ = ["GRACE", "Coalescer", "answer_within"]

# Seconds that a call has, after those that its callers wait, to come to its own end before it is cancelled. While it
# waits for a server, PyMongo looks at its deadline every half second, and on Python 3.11 a cancellation that meets one
# of these looks can leave its lock locked for good.
GRACE = 2.0

# Seconds after which a batch no longer waits for those before it, as they may be stuck.
PATIENCE = 0.01

Item = TypeVar("Item")
Result = TypeVar("Result")

_Entry = tuple[Item, "asyncio.Future[Result]", float]  # with the time at which it is too late


class Coalescer(Generic[Item, Result]):
    """Collects items and hands them to *call* in batches.

    :arg call: gets a list of items and returns for each, in the same order, its result or the exception it failed with.
        What it raises, all of them have failed with.
    :arg failed: gets an item and the exception that it failed with, and returns what is its result then.
    :arg timeout: seconds after which an item counts as failed, wherever it is.
    :arg max_batch: the most items in one call.
    :arg max_calls: the most calls under way at once.
    :arg few: while so many items are under way, or more, the others wait until a call returns.
    :arg halve_above: of more waiting items than that only one half goes out, and the other half when it is back. For
        calls that take long: all requests of a busy server would else wait for the same call, and the server with them.
    """

    def __init__(
        self,
        call: Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]],
        failed: Callable[[Item, Exception], Result],
        *,
        timeout: float,
        max_batch: int = 256,
        max_calls: int = 8,
        few: int = 8,
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
        self._left = 0.0  # when the last batch did
        self._senders: set[asyncio.Task[None]] = set()
        self._is_starting = False
        self._watch: asyncio.TimerHandle | None = None

    def submit(self, item: Item) -> "asyncio.Future[Result]":
        """Puts *item* into the next batch and returns the future of its result. Cancelling the future is harmless."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        entry = item, future, loop.time() + self._timeout
        self._waiting.append(entry)
        self._unanswered.append(entry)
        if self._watch is None:
            self._watch = loop.call_at(entry[2], self._expire, loop)
        if not self._senders or (not self._is_starting and self._has_room(entry[2] - self._timeout)):
            self._start(loop)
        return future

    async def drain(self) -> None:
        """Waits until everything that was submitted is answered."""
        while pending := [future for _, future, _ in self._unanswered if not future.done()]:
            await asyncio.wait(pending)
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._unanswered.clear()

    def _has_room(self, now: float) -> bool:
        """Tells whether another call may be under way, too."""
        if len(self._senders) >= self._max_calls:
            return False
        return self._under_way < self._few or now >= self._left + PATIENCE

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts a sender, whose turn comes when everything has run that is to run in this tick."""
        self._is_starting = True
        sender = loop.create_task(self._send())
        self._senders.add(sender)
        sender.add_done_callback(self._on_end)

    async def _send(self) -> None:
        """Sends one batch after the other, until nothing waits."""
        self._is_starting = False
        while batch := self._take():
            self._under_way += len(batch)
            self._left = asyncio.get_running_loop().time()
            try:
                await self._run(batch)
            finally:
                self._under_way -= len(batch)
                self._forget_answered()

    def _on_end(self, sender: "asyncio.Task[None]") -> None:
        self._senders.discard(sender)
        self._forget_answered()
        if self._waiting and not self._senders and not sender.cancelled():
            self._start(sender.get_loop())

    def _forget_answered(self) -> None:
        while self._unanswered and self._unanswered[0][1].done():
            self._unanswered.popleft()

    def _take(self) -> "list[_Entry[Item, Result]]":
        """Returns the next batch, without those whom nobody waits for any more."""
        waiting = self._waiting
        most = min(self._max_batch, max(self._halve_above, (len(waiting) + 1) // 2))
        batch: list[_Entry[Item, Result]] = []
        while waiting and len(batch) < most:
            entry = waiting.popleft()
            if not entry[1].done():
                batch.append(entry)
        return batch

    async def _run(self, batch: "list[_Entry[Item, Result]]") -> None:
        try:
            async with asyncio.timeout(self._timeout + GRACE):
                results = await self._call([item for item, _, _ in batch])
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
                elif not entry[1].done():
                    entry[1].set_result(result)

    def _fail(self, entry: "_Entry[Item, Result]", error: Exception) -> None:
        item, future, _ = entry
        if not future.done():
            future.set_result(self._failed(item, error))

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._watch = None
        while self._unanswered:
            _, future, deadline = entry = self._unanswered[0]
            if not future.done():
                if deadline > loop.time():
                    self._watch = loop.call_at(deadline, self._expire, loop)
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
