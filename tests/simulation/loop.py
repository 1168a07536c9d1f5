"""An event loop whose clock and order come from one source of choices, for several simulated processes.

Within a process, callbacks run in the order in which they were scheduled, as asyncio promises. Which process runs next,
and in which order what becomes ready at the same time does so, are choices. Time passes when there is nothing to run.
"""

import asyncio
import heapq
import random
import weakref
from collections.abc import Callable
from contextvars import Context
from typing import Any, Protocol

__all__ = ["Choices", "Process", "RandomChoices", "ScriptedChoices", "SimulatedLoop", "Stuck"]


# Far more than any case takes.
MOST_STEPS = 50_000


class Choices(Protocol):
    """Where all that is undetermined comes from."""

    def pick(self, number: int) -> int:
        """Returns one of ``range(number)``."""


class RandomChoices:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def pick(self, number: int) -> int:
        return self._random.randrange(number) if number > 1 else 0


class ScriptedChoices:
    """Makes the first of all choices but those that it is told by their position; notes from how many it chose."""

    def __init__(self, script: dict[int, int]) -> None:
        self._script = script
        self.made: list[tuple[int, int]] = []

    def pick(self, number: int) -> int:
        if number < 2:
            return 0
        choice = self._script.get(len(self.made), 0)
        self.made.append((choice, number))
        return choice


class Stuck(Exception):
    """There is nothing left that could ever happen, or no end of what does."""


class Process:
    """A simulated process: when it is dead, nothing of it runs any more.

    :arg offset: how many seconds its clock is fast.
    """

    def __init__(self, name: str, offset: float = 0.0) -> None:
        self.name = name
        self.offset = offset
        self.is_dead = False

    def __repr__(self) -> str:
        return self.name


class SimulatedLoop(asyncio.BaseEventLoop):
    """See the module.

    :arg choices: where the order comes from.
    """

    def __init__(self, choices: Choices) -> None:
        super().__init__()
        self._choices = choices
        self._now = 0.0
        self._steps = 0
        self.process = self.world = Process("world")
        self._processes: weakref.WeakKeyDictionary[asyncio.Task[Any], Process] = weakref.WeakKeyDictionary()

    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:
        process = self.process
        task = getattr(callback, "__self__", None)
        if isinstance(task, asyncio.Task):  # which may be woken by what happens in another process
            process = self._processes.setdefault(task, process)
        return super().call_soon(self._run_in, process, callback, args, context=context)

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> asyncio.TimerHandle:
        return super().call_at(when, self._run_in, self.process, callback, args, context=context)

    def in_process(self, process: Process, callback: Callable[..., Any], *args: Any) -> None:
        """Has *callback* run as something that happens to *process*, such as data that arrive."""
        if self.is_closed():
            return  # a visitor who was still waiting when a promise was broken is collected later, and leaves
        former, self.process = self.process, process
        try:
            self.call_soon(callback, *args)
        finally:
            self.process = former

    def left_of(self, process: Process) -> list[asyncio.Handle]:
        """Returns what *process* is still to do, now or later."""
        handles = [*self._ready, *self._scheduled]  # type: ignore[attr-defined]
        return [handle for handle in handles if not handle.cancelled() and _process_of(handle) is process]

    def _run_in(self, process: Process, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if process.is_dead:
            return
        self.process = process
        try:
            callback(*args)
        finally:
            self.process = self.world

    def _run_once(self) -> None:
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise Stuck
        ready, scheduled = self._ready, self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
        if not ready:
            if not scheduled:
                raise Stuck
            self._now = max(self._now, scheduled[0]._when)
            due = []
            while scheduled and scheduled[0]._when <= self._now:
                handle = heapq.heappop(scheduled)
                handle._scheduled = False
                if not handle._cancelled:
                    due.append(handle)
            while due:
                ready.append(due.pop(self._choices.pick(len(due))))
            return
        processes = list(dict.fromkeys(map(_process_of, ready)))
        chosen = processes[self._choices.pick(len(processes))]
        for position, handle in enumerate(ready):
            if _process_of(handle) is chosen:
                del ready[position]
                break
        if not handle._cancelled:
            handle._run()

    # What a loop with real connections needs

    def _process_events(self, event_list: Any) -> None:
        raise NotImplementedError

    def _write_to_self(self) -> None:
        pass


def _process_of(handle: Any) -> Process | None:
    arguments = handle._args
    return arguments[0] if arguments and isinstance(arguments[0], Process) else None
