"""One timer for many futures that wait equally long, and a time limit for one call.

A timer for each would cost more than the rest of the waiting.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from .errors import SHUTTING_DOWN

__all__ = ["GRACE_SECONDS", "Deadlines", "answer_within"]

# How long a call may go on after its callers have given up, before it is cancelled. While it waits for a server,
# PyMongo looks at its deadline every half second, and on Python 3.11 a cancellation that meets one of these looks can
# leave its lock locked for good.
GRACE_SECONDS = 2.0

Result = TypeVar("Result")

Start = Callable[[Coroutine[Any, Any, Any]], "asyncio.Task[Any]"]


class Waiting(Protocol):
    """What has a deadline."""

    @property
    def future(self) -> "asyncio.Future[Any]":
        """Done when there is nothing to wait for any more."""

    @property
    def deadline(self) -> float:
        """When it expires, by the event loop's clock."""


class Deadlines:
    """Watches the deadlines of what comes in their order.

    :arg expire: is called with what is not done at its deadline.
    """

    def __init__(self, expire: Callable[[Any], None]) -> None:
        self._expire = expire
        self._waiting: deque[Waiting] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, waiting: Waiting, loop: asyncio.AbstractEventLoop) -> None:
        """Watches *waiting*, whose deadline is not earlier than those of all before it."""
        self._waiting.append(waiting)
        if self._timer is None:
            self._timer = loop.call_at(waiting.deadline, self._on_time, loop)

    @property
    def are_watched(self) -> bool:
        return self._timer is not None

    def forget_done(self) -> None:
        """Lets go of those who came first and are done."""
        while self._waiting and self._waiting[0].future.done():
            self._waiting.popleft()

    def clear(self) -> None:
        """Watches nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._waiting.clear()

    def _on_time(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        while self._waiting:
            first = self._waiting[0]
            if first.future.done():
                self._waiting.popleft()
            elif first.deadline <= loop.time():
                self._expire(self._waiting.popleft())
            else:
                self._timer = loop.call_at(first.deadline, self._on_time, loop)
                return


async def answer_within(seconds: float, call: Awaitable[Result], start: Start = asyncio.ensure_future) -> Result:
    """Returns the answer of one *call*, which comes by itself.

    :arg start: makes a task of what goes on for `GRACE_SECONDS` after nobody waits for it any more.
    :raises TimeoutError: when it takes longer.
    """
    task = start(_cancelled_after(seconds + GRACE_SECONDS, call))
    await asyncio.wait({task}, timeout=seconds)
    if task.cancelled():
        raise TimeoutError(SHUTTING_DOWN)
    if task.done():
        return task.result()  # type: ignore[no-any-return]
    task.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody else asks for it
    raise TimeoutError(f"no answer within {seconds} s")


async def _cancelled_after(seconds: float, call: Awaitable[Result]) -> Result:
    async with asyncio.timeout(seconds):
        return await call
