"""Many requests' loads or saves as one call.

A driver's cost is by the command far more than by the document, so what waits at the same time goes out together. A
batch leaves at the end of the tick in which its first item came, or, when enough is under way, as soon as something of
that comes back, or after a short while. No batch is held back to become larger: an idle server adds no delay, and a
busy one forms larger batches by itself.
"""

import asyncio
import contextvars
import functools
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar, cast

from .deadlines import GRACE_SECONDS, Deadlines
from .errors import SHUTTING_DOWN, SessionError

__all__ = ["Coalescer"]

# The most items in one call, and the most calls under way at once.
MAX_BATCH = 256
MAX_CALLS = 8

# While fewer items than these are under way, more of them need not wait for a call to come back.
MIN_UNDER_WAY = 4

# After so long, what waits for a call to come back is sent all the same, as that call may be stuck, or far away.
LINGER_SECONDS = 0.02

Item = TypeVar("Item")
Result = TypeVar("Result")


class Coalescer(Generic[Item, Result]):
    """Collects items and hands them to *call* in batches.

    :arg call: gets a list of items and returns for each, in the same order, its result or the exception it failed with.
        What it raises, all of them have failed with.
    :arg failed: gets an item and the exception that it failed with, and returns what is its result then.
    :arg timeout: seconds after which an item counts as failed, wherever it is.
    :arg split_above: when more items wait, only one half of them goes out, at least so many, and the others when it is
        back, or has not come back for `LINGER_SECONDS`. For calls that take long: all requests of a busy server would
        else come to wait for the same call, and the server with them.
    """

    def __init__(
        self,
        call: Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]],
        failed: Callable[[Item, Exception], Result],
        *,
        timeout: float,
        split_above: int = MAX_BATCH,
    ) -> None:
        self._call = call
        self._failed = failed
        self._timeout = timeout
        self._split_above = split_above
        self._waiting: deque[_Entry[Item, Result]] = deque()
        self._deadlines = Deadlines(self._expire)
        self._call_deadlines = Deadlines(_cancel)
        self._under_way = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._senders: set[asyncio.Task[None]] = set()
        self._is_flush_scheduled = False
        self._late_timer: asyncio.TimerHandle | None = None

    def submit(self, item: Item) -> "asyncio.Future[Result]":
        """Puts *item* into the next batch and returns the future of its result. Cancelling the future is harmless."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._begin_on(loop)
        entry: _Entry[Item, Result] = _Entry(item, loop.create_future(), loop.time() + self._timeout)
        self._waiting.append(entry)
        self._deadlines.watch(entry, loop)
        if not self._is_flush_scheduled:
            self._schedule(loop)
        return entry.future

    @property
    def is_idle(self) -> bool:
        """Nothing is under way, and no timer is set."""
        is_timed = self._late_timer or self._deadlines.are_watched or self._call_deadlines.are_watched
        return not (self._senders or is_timed)

    async def drain(self) -> None:
        """Waits until everything that was submitted is answered and no call is under way any more."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._begin_on(loop)
        while self._senders:
            await asyncio.wait(self._senders)
        self._forget_timers()

    def cancel(self) -> "set[asyncio.Task[None]]":
        """Has all that waits fail, and returns the calls that are under way, for the caller to cancel."""
        while self._waiting:
            self._fail(self._waiting.popleft(), RuntimeError(SHUTTING_DOWN))
        self._forget_timers()
        return set(self._senders)

    def _forget_timers(self) -> None:
        if self._late_timer is not None:
            self._late_timer.cancel()
            self._late_timer = None
        self._deadlines.clear()
        self._call_deadlines.clear()

    def _begin_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins anew on another loop, as tests have one each: what the last one had under way has ended with it.

        :raises SessionError: when the last one is still running.
        """
        if self._loop is not None and self._loop.is_running():
            raise SessionError(
                "this SessionManager is in use by another event loop, in another thread: "
                "give each loop a SessionManager of its own, on the same database"
            )
        self._loop = loop
        self._waiting.clear()
        self._deadlines.clear()
        self._call_deadlines.clear()
        self._senders.clear()
        self._under_way = 0
        self._is_flush_scheduled = False
        self._late_timer = None

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        """Has what waits sent at the end of the tick if little is under way, else when that is back or takes long."""
        if not self._senders or (self._under_way < MIN_UNDER_WAY and len(self._senders) < MAX_CALLS):
            self._flush(loop)
        elif self._late_timer is None:
            self._late_timer = loop.call_later(LINGER_SECONDS, self._on_late, loop)

    def _on_late(self, loop: asyncio.AbstractEventLoop) -> None:
        self._late_timer = None
        if self._waiting and not self._is_flush_scheduled and len(self._senders) < MAX_CALLS:
            self._flush(loop)

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        """Has one batch sent at the end of the tick, which is when a task begins that no eager factory has made."""
        self._is_flush_scheduled = True
        batch: list[_Entry[Item, Result]] = []
        # Its context is not that of the request which happens to be the first: a deadline in it is not for the others.
        sender = asyncio.Task(self._send(batch, loop), loop=loop, context=contextvars.Context())
        self._senders.add(sender)
        sender.add_done_callback(functools.partial(self._on_sent, batch, loop))

    async def _send(self, batch: "list[_Entry[Item, Result]]", loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop:
            return  # another loop has taken over, as in tests
        self._is_flush_scheduled = False
        self._take(batch)
        if not batch:
            return
        if self._waiting:
            self._schedule(loop)
        sender = cast("asyncio.Task[None]", asyncio.current_task(loop))
        self._call_deadlines.watch(_Call(sender, loop.time() + self._timeout + GRACE_SECONDS), loop)
        try:
            results = await self._call([entry.item for entry in batch])
            if len(results) != len(batch):
                raise ValueError(f"{len(batch)} items were given, {len(results)} results came back")
        except Exception as error:
            for entry in batch:
                self._fail(entry, error)
        else:
            for entry, result in zip(batch, results, strict=True):
                if isinstance(result, Exception):
                    self._fail(entry, result)
                elif not entry.future.done():
                    entry.future.set_result(result)

    def _take(self, batch: "list[_Entry[Item, Result]]") -> None:
        """Fills *batch*, which counts as under way, but for those whom nobody waits for any more."""
        waiting = self._waiting
        most = min(MAX_BATCH, max(self._split_above, (len(waiting) + 1) // 2))
        while waiting and len(batch) < most:
            entry = waiting.popleft()
            if not entry.future.done():
                batch.append(entry)
        self._under_way += len(batch)

    def _on_sent(
        self, batch: "list[_Entry[Item, Result]]", loop: asyncio.AbstractEventLoop, sender: "asyncio.Task[None]"
    ) -> None:
        if loop is not self._loop:
            return
        self._senders.discard(sender)
        self._under_way -= len(batch)
        if sender.cancelled():
            if not batch:  # it had not begun
                self._is_flush_scheduled = False
            for entry in batch:
                self._fail(entry, RuntimeError(SHUTTING_DOWN))
        self._deadlines.forget_done()
        self._call_deadlines.forget_done()
        if self._waiting and not self._is_flush_scheduled:
            self._flush(loop)

    def _fail(self, entry: "_Entry[Item, Result]", error: Exception) -> None:
        if not entry.future.done():
            entry.future.set_result(self._failed(entry.item, error))

    def _expire(self, entry: "_Entry[Item, Result]") -> None:
        self._fail(entry, TimeoutError(f"no answer within {self._timeout} s"))


class _Entry(NamedTuple, Generic[Item, Result]):
    item: Item
    future: "asyncio.Future[Result]"
    deadline: float


class _Call(NamedTuple):
    future: "asyncio.Task[None]"
    deadline: float


def _cancel(call: _Call) -> None:
    call.future.cancel()
