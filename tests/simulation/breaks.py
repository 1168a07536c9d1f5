"""Deliberate breaks of the library, each of which the simulation has to find."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from tornado_sesame import coalescer, rotation
from tornado_sesame.calls import StoreCalls
from tornado_sesame.changes import ChangeSet, Set
from tornado_sesame.coalescer import Coalescer
from tornado_sesame.deadlines import Deadlines
from tornado_sesame.errors import SessionNotSaved, SessionStoreError
from tornado_sesame.live import LiveSession
from tornado_sesame.manager import SessionManager
from tornado_sesame.mixin import SessionMixin
from tornado_sesame.rotation import Rotation
from tornado_sesame.saving import Saving
from tornado_sesame.stores import MemoryStore, SessionEnd, SessionRecord, SessionUpdate

__all__ = ["BREAKS"]

BREAKS: dict[str, Callable[[], Any]] = {}


def breaks(function: Callable[[], Iterator[None]]) -> Callable[[], Any]:
    manager = contextmanager(function)
    BREAKS[function.__name__] = manager
    return manager


@breaks
def an_answer_before_its_save() -> Iterator[None]:
    with patch.object(SessionMixin, "_session_must_wait", lambda self, live: False):
        yield


@breaks
def only_the_first_flush_waits() -> Iterator[None]:
    original = SessionMixin.flush

    def flush(self: Any, include_footers: bool = False) -> Any:
        live = self._session_live
        if live is not None and live.headers_out and not include_footers:
            return super(SessionMixin, self).flush()
        return original(self, include_footers)

    with patch.object(SessionMixin, "flush", flush):
        yield


@breaks
def an_unknown_save_is_repeated() -> Iterator[None]:
    original = Saving._fail
    with patch.object(Saving, "_fail", lambda self, error, is_unknown: original(self, error, is_unknown=False)):
        yield


@breaks
def what_was_not_done_is_forgotten() -> Iterator[None]:
    with patch.object(ChangeSet, "restore", ChangeSet.confirm):
        yield


@breaks
def a_lost_wake_up_in_the_coalescer() -> Iterator[None]:
    original = Coalescer._on_sent

    def on_sent(self: Any, loop: Any, batch: Any, sender: Any) -> None:
        with patch.object(Coalescer, "_flush", lambda self, loop: None):
            original(self, loop, batch, sender)

    with patch.object(Coalescer, "_on_sent", on_sent), patch.object(Coalescer, "_on_late", lambda self, loop: None):
        yield


@breaks
def an_update_that_inserts() -> Iterator[None]:
    original = SessionUpdate.apply

    def apply(self: Any, stored: Any) -> Any:
        if not isinstance(stored, SessionRecord):
            data = {"lineage": "start1", "nested": {"n": 0, "log": []}, "last": ""}
            stored = SessionRecord(self.id, data, self.updated, self.updated, self.updated.replace(year=2027))
        return original(self, stored)

    with patch.object(SessionUpdate, "apply", apply):
        yield


@breaks
def an_end_that_is_not_remembered() -> Iterator[None]:
    original = MemoryStore._save

    def save(self: Any, write: Any) -> Any:
        result = original(self, write)
        if isinstance(write, SessionEnd):
            self._ends.pop(write.id, None)
        return result

    with patch.object(MemoryStore, "_save", save):
        yield


@breaks
def a_batch_of_saves_in_another_order() -> Iterator[None]:
    original = StoreCalls._save_writes

    async def save_writes(self: Any, writes: Any) -> Any:
        results = await original(self, writes)
        return results[::-1]

    with patch.object(StoreCalls, "_save_writes", save_writes):
        yield


@breaks
def a_batch_of_loads_in_another_order() -> Iterator[None]:
    original = StoreCalls._load_batch

    async def load_batch(self: Any, ids: Any) -> Any:
        return (await original(self, ids))[::-1]

    with patch.object(StoreCalls, "_load_batch", load_batch):
        yield


@breaks
def deadlines_that_nobody_watches() -> Iterator[None]:
    with (
        patch.object(Deadlines, "watch", lambda self, waiting, loop: None),
        patch.object(coalescer, "GRACE_SECONDS", 1e6),
    ):
        yield


@breaks
def a_late_request_begins_a_new_session() -> Iterator[None]:
    with patch.object(LiveSession, "_began_before", lambda self, moment: False):
        yield


@breaks
def an_end_that_is_only_told() -> Iterator[None]:
    async def end(self: Any, ids: Any) -> None:
        await asyncio.sleep(0)

    with patch.object(StoreCalls, "end", end):
        yield


@breaks
def a_rotation_without_a_copy() -> Iterator[None]:
    async def begin(self: Any, content: Any, created: Any) -> None:
        later = created.replace(year=2027)
        self._copy = SessionRecord(self._new, content.whole(), created, created, later, content.owner)

    with patch.object(Rotation, "begin", begin):
        yield


@breaks
def a_rotation_that_is_given_up_when_nobody_knows() -> Iterator[None]:
    async def find_out(self: Any, end: Any) -> None:
        pass

    with patch.object(Rotation, "_find_out", find_out):
        yield


@breaks
def a_rotation_that_keeps_the_old_cookie_when_nobody_knows() -> Iterator[None]:
    original = Rotation.complete

    async def complete(self: Any) -> Any:
        try:
            return await original(self)
        except SessionStoreError as error:
            raise SessionNotSaved(error.log_message or "") from error

    with patch.object(Rotation, "complete", complete):
        yield


@breaks
def a_rotation_that_takes_its_own_end_for_anothers() -> Iterator[None]:
    original = StoreCalls.pop

    async def pop(self: Any, end: Any) -> Any:
        stored = await original(self, end)
        return stored if isinstance(stored, SessionRecord) else None

    with patch.object(StoreCalls, "pop", pop):
        yield


@breaks
def a_copy_that_lasts() -> Iterator[None]:
    original = StoreCalls.write

    async def write(self: Any, write: Any) -> Any:
        if hasattr(write, "record"):
            write = replace(write, record=replace(write.record, expires=write.record.expires.replace(year=2027)))
        return await original(self, write)

    with patch.object(StoreCalls, "write", write):
        yield


@breaks
def destroy_all_that_looks_once() -> Iterator[None]:
    async def destroy_all(self: Any, owner: str, *, keep: Any = None) -> int:
        ids = [record.id async for record in self._calls.records(owner)]
        await self._calls.end(ids)
        return len(ids)

    with patch.object(SessionManager, "destroy_all", destroy_all):
        yield


@breaks
def close_that_does_not_wait_for_rotations() -> Iterator[None]:
    async def drain(self: Any) -> None:
        await self._loads.drain()
        await self._saves.drain()

    with patch.object(StoreCalls, "_drain", drain):
        yield


@breaks
def what_was_read_is_shown_whatever_was_saved_meanwhile() -> Iterator[None]:
    with patch.object(Saving, "sent", property(lambda self: 0, lambda self, number: None)):
        yield


@breaks
def a_rotation_that_carries_over_whole_fields() -> Iterator[None]:
    def compare(path: Any, one: Any, other: Any, ops: Any) -> None:
        for name in {**one, **other}:
            if one.get(name) != other.get(name):
                ops[name,] = Set(other.get(name))

    with patch.object(rotation, "_compare", compare):
        yield
