"""The README's store of one's own keeps the contract, and what it has written."""

import pytest

from tornado_sesame import Outcome, SessionNotSaved
from tornado_sesame.changes import Inc
from tornado_sesame.testing import StoreContract
from tornado_sesame.testing.contract import DATA, data, end, insert, inserted, load, records, save, update

from .jsonl_store import JSONLinesStore

resource = pytest.importorskip("resource", reason="it is written for POSIX")


class TestJSONLinesStore(StoreContract):
    @pytest.fixture
    async def store(self, tmp_path):
        store = JSONLinesStore(tmp_path / "sessions.jsonl")
        yield store
        await store.close()


async def test_sessions_are_there_when_it_is_opened_again(tmp_path):
    path = tmp_path / "sessions.jsonl"
    store = JSONLinesStore(path)
    kept, gone = await inserted(store, owner="alice"), await inserted(store)
    await end(store, [gone])
    record = await load(store, kept)
    await store.close()
    with path.open("a") as file:
        file.write('{"id": "half a li')

    store = JSONLinesStore(path)
    assert [record async for record in records(store)] == [record]
    assert record.data == DATA
    assert await save(store, [update(kept, {}), update(gone, {})]) == [Outcome.SAVED, Outcome.GONE]
    assert await data(store, kept) == DATA
    await store.close()
    assert len(path.read_text().splitlines()) == 4


async def test_what_the_disk_has_no_space_for_fails_alone(tmp_path):
    path = tmp_path / "sessions.jsonl"
    store = JSONLinesStore(path)
    ids = [await inserted(store) for _ in range(2)]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 2000, limits[1]))
    try:
        first, large, second = await save(
            store, [update(ids[0], {("n",): Inc(1)}), insert({"s": "x" * 2000}), update(ids[1], {("n",): Inc(1)})]
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (first, second) == (Outcome.SAVED, Outcome.SAVED)
    assert isinstance(large, SessionNotSaved)
    await store.close()
    store = JSONLinesStore(path)
    assert [(await data(store, id))["n"] for id in ids] == [2, 2]
    await store.close()
