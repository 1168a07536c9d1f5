"""Who hears of it when a session that is open for long in this process is written to, wherever that is done."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable
from contextvars import Context
from typing import Any

from .errors import SessionStoreError
from .stores import SessionNotWatchable, SessionRecord, SessionStore, SessionWatch

__all__ = ["Watching"]

logger = logging.getLogger("tornado_sesame")

# Seconds between two attempts to follow a store that has failed.
RETRY_SECONDS = 1.0

# Seconds without a failure after which the log tells of the next one.
SILENCE_SECONDS = 60.0

# Seconds between two looks at what is open in a store that cannot tell of writes, and how many sessions are one call.
POLL_SECONDS = 1.0
POLLED_AT_ONCE = 1_000

# Seconds that each call of such a look may take.
TIMEOUT = 15.0

# How many seconds after somebody who is to be followed there is another stream, for all who come meanwhile: the more
# there are, the longer, as each stream is told of all.
PAUSE, MAX_PAUSE, FOLLOWED_IN_A_SECOND = 0.02, 0.5, 50_000

# How many sessions that are not open any more may be followed.
STALE = 100

Listener = Callable[[], None]


class Watching:
    """Tells listeners that their sessions may have changed, or ended.

    As long as there are some, a task follows their sessions in the store. What this process writes, they hear of at
    once, as somebody calls `tell`.

    :arg store: where the sessions are.
    """

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._listeners: dict[str, set[Listener]] = {}
        self._task: asyncio.Task[None] | None = None  # that follows, or has followed
        self._followed: frozenset[str] = frozenset()  # of which it hears
        self.is_closed = False
        self._is_pollable_only = False
        self._failed = -SILENCE_SECONDS  # when it was the last time

    def add(self, id: str, listener: Listener) -> None:
        """Has *listener* called when the session with this *id* may have changed, as soon as that is followed, too."""
        if id in self._followed:
            # Of what was written since it has loaded its session, the others may have heard before.
            asyncio.get_running_loop().call_soon(listener)
        listeners = self._listeners.get(id)
        if listeners is not None:
            listeners.add(listener)
            return
        self._listeners[id] = {listener}
        if self._task is None or self._task.done():
            self._is_new = asyncio.Event()
            # In a context of its own, as it outlives the request that begins it.
            self._task = asyncio.get_running_loop().create_task(self._run(), context=Context())
        self._is_new.set()

    def discard(self, id: str, listener: Listener) -> None:
        """Calls it no longer."""
        listeners = self._listeners.get(id, set())
        listeners.discard(listener)
        if not listeners:
            self._listeners.pop(id, None)
            if not self._listeners and self._task is not None:
                self._is_new.set()  # the task ends by itself, as a driver does not like its commands to be cancelled

    def tell(self, ids: Iterable[str] | None) -> None:
        """Calls the listeners of these sessions; None: of all."""
        if self._listeners:
            for id in tuple(self._listeners) if ids is None else ids:
                for listener in tuple(self._listeners.get(id, ())):
                    listener()

    async def close(self) -> None:
        """Calls nobody any more."""
        self.is_closed = True
        self._listeners.clear()
        if self._task is not None and not self._task.done():  # else it may be of a loop that is closed
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while self._listeners:
            watch = (None if self._is_pollable_only else self._store.watch()) or _Poll(self._store)
            try:
                await self._follow(watch)
            except SessionNotWatchable as error:
                self._is_pollable_only = True
                logger.warning(
                    "open sessions are loaded once a second, as their store does not tell of writes: %s", error
                )
            except Exception as error:
                if time.monotonic() - self._failed > SILENCE_SECONDS:
                    reason = error.log_message if isinstance(error, SessionStoreError) else repr(error)
                    logger.warning("cannot follow open sessions in their store, and will try again: %s", reason)
                self._failed = time.monotonic()
                await asyncio.sleep(RETRY_SECONDS)
            finally:
                await watch.close()

    async def _follow(self, watch: SessionWatch) -> None:
        self._followed = frozenset()
        changed: asyncio.Task[Collection[str] | None] | None = None
        is_new: asyncio.Task[Any] | None = None
        try:
            while True:
                self._is_new.clear()  # before it is looked who is new
                if not self._listeners:
                    return
                former = self._followed
                if not self._listeners.keys() <= former or len(former) > 2 * len(self._listeners) + STALE:
                    # A little later, for those who come at the same time.
                    await asyncio.sleep(min(MAX_PAUSE, PAUSE + len(former) / FOLLOWED_IN_A_SECOND))
                    ids = frozenset(self._listeners)
                    await watch.follow(ids)
                    self._followed = ids
                    self.tell(ids - former)  # of what was written since they were loaded
                changed = changed or asyncio.ensure_future(watch.changed())
                is_new = asyncio.ensure_future(self._is_new.wait())
                await asyncio.wait([changed, is_new], return_when=asyncio.FIRST_COMPLETED)
                is_new.cancel()
                if changed.done():
                    self.tell(changed.result())
                    changed = None
        finally:
            for task in changed, is_new:
                if task is not None and not task.get_loop().is_closed():
                    task.cancel()


class _Poll(SessionWatch):
    """Tells of writes to a store that does not tell of them itself: by loading what is followed, once a second."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._seen: dict[str, object] = {}

    async def follow(self, ids: Collection[str]) -> None:
        new = await self._look([id for id in ids if id not in self._seen])
        self._seen = {id: self._seen[id] if id in self._seen else new[id] for id in ids}

    async def changed(self) -> Collection[str]:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            seen = await self._look(list(self._seen))
            changed = [id for id, what in seen.items() if id in self._seen and self._seen[id] != what]
            self._seen |= {id: seen[id] for id in changed}
            if changed:
                return changed

    async def close(self) -> None:
        pass

    async def _look(self, ids: list[str]) -> dict[str, object]:
        """Returns what tells each session from what it was before, by id."""
        seen: dict[str, object] = dict.fromkeys(ids)
        for start in range(0, len(ids), POLLED_AT_ONCE):
            found = await self._store.load(ids[start : start + POLLED_AT_ONCE], timeout=TIMEOUT)
            for id, stored in found.items():
                if isinstance(stored, SessionRecord):
                    seen[id] = stored.updated, stored.owner, hash(repr(stored.data))
                else:
                    seen[id] = type(stored)
        return seen
