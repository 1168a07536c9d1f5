"""Sessions move from store to store."""

import logging
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from bson import Decimal128, ObjectId
from tornado.web import RequestHandler

from tornado_sesame import MemoryStore, SessionInsert, SessionManager, SessionMixin, copy_sessions
from tornado_sesame.testing.contract import end, inserted, load, new_id, records, save

from .support import serve

DATA = {"id": ObjectId(), "price": Decimal128("1.10"), "a.b": {"$x": [datetime(2026, 1, 1, tzinfo=UTC)]}, "times": 1}


class Counter(SessionMixin, RequestHandler):
    def get(self):
        self.session.times = self.session.get("times", 0) + 1
        self.write(f"{self.session.times}")


@pytest.mark.parametrize("number", [0, 1, 1234])
async def test_everything_is_as_it_was(database, number):
    """From each store by way of memory into the same one again."""
    store, memory = database.new_store(), MemoryStore()
    writes = [await inserted(store, DATA, owner="alice" if n % 2 else None) for n in range(min(number, 10))]
    record = await load(store, writes[0]) if writes else None
    if number > 10:
        await save(store, [SessionInsert(replace(record, id=new_id())) for _ in range(number - 10)])
    before = {record.id: record async for record in records(store)}
    assert await copy_sessions(store, memory) == number == len(before)
    assert {record.id: record async for record in records(memory)} == before
    for id in before:
        await remove(database, store, id)
    assert await copy_sessions(memory, store) == number
    assert {record.id: record async for record in records(store)} == before


async def test_what_is_there_already_stays_as_it_is(database):
    store, memory = database.new_store(), MemoryStore()
    id = await inserted(store, {"times": 1})
    await copy_sessions(store, memory)
    record = await load(memory, id)
    await remove(database, store, id)
    await save(store, [SessionInsert(replace(record, data={"times": 2}))])
    assert await copy_sessions(memory, store) == 1
    assert (await load(store, id)).data == {"times": 2}


async def test_a_visitor_keeps_the_session(site, database):
    running = await site([("/", Counter)])
    browser = running.browser()
    assert await browser.text() == "1"
    memory = MemoryStore()
    await copy_sessions(database.new_store(), memory)
    async with serve([("/", Counter)], sessions=SessionManager(memory)) as moved:
        other = moved.browser()
        other.cookies = browser.cookies
        assert await other.text() == "2"


async def test_one_that_cannot_be_stored_is_an_error(database):
    class Refusing(MemoryStore):
        async def save(self, writes, *, timeout):
            return [ValueError("no") for _ in writes]

    await inserted(database.new_store())
    with pytest.raises(ValueError, match="no"):
        await copy_sessions(database.new_store(), Refusing())


@pytest.mark.stores("sqlite", "pymongo")
async def test_one_that_cannot_be_read_is_skipped_and_the_log_says_which(database, caplog):
    store, memory = database.new_store(), MemoryStore()
    good, bad = await inserted(store), await inserted(store)
    if database.is_mongo:
        await database.collection.update_one({"_id": bad}, {"$set": {"created": "yesterday"}})
    else:
        with closing(sqlite3.connect(database.address[1])) as connection, connection:
            connection.execute("UPDATE sessions SET document = x'00' WHERE id = ?", (bad,))
    assert await copy_sessions(store, memory) == 1
    assert [record.id async for record in records(memory)] == [good]
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith(f"not copied: what is stored as session {bad} cannot be read")


async def remove(database, store, id):
    """Removes a session and leaves no trace of it."""
    await end(store, [id])
    if database.is_mongo:
        await database.collection.delete_one({"_id": id})
    elif database.kind == "sqlite":
        with closing(sqlite3.connect(store.path)) as connection, connection:
            connection.execute("DELETE FROM sessions WHERE id = ?", (id,))
    else:
        store._ends.clear()
