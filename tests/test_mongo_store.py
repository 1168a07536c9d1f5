"""What MongoDB sees of a session: its documents, its indexes, and the commands and bytes that requests cost."""

import asyncio
import logging
import re
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure
from tornado.web import RequestHandler

from tornado_sesame import Conflict, MongoStore, Outcome, SessionManager, SessionMixin, SessionStoreError
from tornado_sesame.changes import Inc, Push, Set
from tornado_sesame.testing.contract import DATA, LATER, NOW, data, insert, inserted, new_id, update
from tornado_sesame.values import CODEC_OPTIONS

from .support import DATABASE, eventually

pytestmark = pytest.mark.mongodb

WORDS = {f"word{number}": "x" * 1000 for number in range(100)}


@pytest.fixture
def store(database):
    return database.new_store()


class Large(SessionMixin, RequestHandler):
    def post(self):
        self.session.update(WORDS, times=0)

    def get(self):
        for number in range(20):
            self.session[f"word{number}"] = str(number)

    def put(self):
        self.session.times += 1


class TestDocuments:
    async def test_they_are_readable_as_they_are(self, store, database):
        id = await inserted(store)
        times = {"created": NOW, "updated": NOW, "expires": LATER}
        assert await found(database) == [{"_id": id, "data": DATA, **times}]
        await store.save([update(id, {}, owner=Set("alice"))])
        assert await found(database) == [{"_id": id, "data": DATA, "owner": "alice", **times}]
        await store.save([update(id, {}, owner=Set(None))])
        assert await found(database) == [{"_id": id, "data": DATA, **times}]

    async def test_increments_and_appends_leave_the_tokens_of_the_last_twenty(self, store, database):
        id = await inserted(store)
        writes = [update(id, {("n",): Inc(1)}) for _ in range(25)]
        for write in writes:
            await store.save([write, update(id, {("s",): Set("x")})])
        (document,) = await found(database)
        assert document["applied"] == [write.token for write in writes[-20:]]

    async def test_keys_that_mongodb_cannot_address_are_escaped(self, store, database):
        await inserted(store, {"a.b": {"$x": 1}, "": 2, "50%": 3, "x\0": 4, "plain": 5})
        (document,) = await found(database)
        assert document["data"] == {"a%2Eb": {"%24x": 1}, "%": 2, "50%25": 3, "x%00": 4, "plain": 5}
        assert document["escaped"] is True

    async def test_a_session_can_be_found_by_what_is_in_it(self, store, database):
        id = await inserted(store, {"user": {"name": "alice"}})
        await inserted(store, {"user": {"name": "bob"}})
        assert (await database.collection.find_one({"data.user.name": "alice"}))["_id"] == id

    async def test_a_foreign_document_is_an_error_of_its_own(self, store, database):
        id, foreign = await inserted(store), new_id()
        await database.collection.insert_one({"_id": foreign, "data": {}})
        records = await store.load([id, foreign])
        assert records[id].data == DATA
        assert f"the document of session {foreign} has no field 'created'" in str(records[foreign])
        with pytest.raises(SessionStoreError, match="has no field 'created'"):
            await store.pop(foreign)

    @pytest.mark.parametrize("wrong", [{"expires": None}, {"expires": "tomorrow"}, {"created": 1}, {"data": {}}])
    async def test_so_is_one_with_something_else_in_a_field(self, store, database, wrong):
        id, foreign = await inserted(store), new_id()
        times = {"created": NOW, "updated": NOW, "expires": LATER}
        await database.collection.insert_one({"_id": foreign, "data": {"d": 1}, **times, **wrong})
        records = await store.load([id, foreign])
        assert records[id].data == DATA
        if "data" not in wrong:
            assert f"a field of the document of session {foreign} is not of its type" in str(records[foreign])
        one, other = await store.save([update(id, {("n",): Inc(1)}), update(foreign, {("d", "n"): Inc(1)})])
        assert one is Outcome.SAVED
        assert other is not Outcome.SAVED


class TestCommands:
    """As MongoDB's own profiler sees them."""

    async def test_twenty_changes_are_one_update_of_these_fields(self, profiled, site):
        browser = (await site([("/", Large)])).browser()
        await browser.post()
        async with profiled() as operations:
            assert (await browser.get()).code == 200
        assert [operation["op"] for operation in operations] == ["query", "update"]
        sets = operations[1]["command"]["u"]["$set"]
        assert sets.keys() == {"updated"} | {f"data.word{number}" for number in range(20)}
        assert operations[1]["command"]["u"].keys() == {"$set"}
        assert operations[1]["keysExamined"] == operations[1]["docsExamined"] == 1
        assert operations[1]["planSummary"] == "IDHACK"  # found by the _id, without planning

    async def test_one_field_of_a_large_session_is_a_few_hundred_bytes(self, database, site):
        browser = (await site([("/", Large)])).browser()
        await browser.post()
        (inserted,) = database.commands.sizes()
        assert inserted > 100_000
        database.commands.take()
        await browser.fetch("PUT")
        _, size = database.commands.sizes()
        assert size < inserted / 100

    @pytest.mark.parametrize("number", [1, 2, 300])
    async def test_a_batch_is_one_command(self, store, database, number):
        inserts = [insert({"n": n}) for n in range(number)]
        ids = [write.id for write in inserts]
        await store.save(inserts)
        assert database.commands.take() == ["insert"]
        assert len(await store.load(ids)) == number
        assert database.commands.take() == ["find"]
        await store.save([update(id, {("n",): Inc(1), ("x", "y"): Set(1)}, created=[("x",)]) for id in ids])
        assert database.commands.take() == ["update"]
        await store.delete(ids)
        assert database.commands.take() == ["delete"]

    async def test_operators_in_a_session_are_data(self, site, database):
        class Hostile(SessionMixin, RequestHandler):
            async def post(self):
                session = await self.session
                session[self.get_argument("key")] = {"$where": "sleep(1000)", "$ne": 1, "a.b": {"$gt": ""}}
                session["list"] = [{"$each": [1]}]

            def get(self):
                self.write(self.session.copy())

        browser = (await site([("/", Hostile)])).browser()
        for key in ("$where", "$set", "a.$[].b", "data.x", "_id", "expires"):
            assert (await browser.post(f"/?key={key}")).code == 200
        stored = await database.data(browser.secret)
        hostile = {"$where": "sleep(1000)", "$ne": 1, "a.b": {"$gt": ""}}
        assert stored == {"list": [{"$each": [1]}]} | dict.fromkeys(
            ("$where", "$set", "a.$[].b", "data.x", "_id", "expires"), hostile
        )


class TestOneBadItem:
    """In a batch fails alone."""

    @pytest.mark.parametrize("bad", ["too large", "too large to insert", "refused by a validator", "not BSON"])
    async def test_fails_alone(self, store, database, bad):
        if bad == "refused by a validator":
            client = database.collection.database
            await client.command("create", database.collection.name, validator={"data.s": {"$ne": "secret"}})
        first, victim, last = [await inserted(store) for _ in range(3)]
        large = "x" * 17_000_000
        poison = {
            "too large": update(victim, {("s",): Set(large)}),
            "too large to insert": insert({"s": large}),
            "refused by a validator": update(victim, {("s",): Set("secret")}),
            "not BSON": update(victim, {("s",): Set({"secret"})}),
        }[bad]
        batch = [update(first, {("n",): Inc(1)}), poison, insert({"s": "other"}), update(last, {("l",): Push([2])})]
        results = await store.save(batch)
        assert [result is Outcome.SAVED for result in results] == [True, False, True, True]
        assert isinstance(results[1], SessionStoreError)
        assert results[1].__cause__
        assert "secret" not in str(results[1])
        assert (await data(store, first))["n"] == 2
        assert (await data(store, last))["l"] == [1, {"a": 2}, 2]
        (alone,) = await store.save([poison])
        assert isinstance(alone, SessionStoreError)

    async def test_a_session_that_grows_too_large_keeps_what_it_had(self, store):
        id, other = await inserted(store, {"l": []}), await inserted(store)
        for _ in range(2):
            *_, result = await store.save(
                [update(other, {("n",): Inc(1)}), update(id, {("l",): Push(["x" * 9_000_000])})]
            )
        assert isinstance(result, SessionStoreError)
        assert len((await data(store, id))["l"]) == 1
        assert (await data(store, other))["n"] == 3

    async def test_a_thousand_sessions_of_100_kilobytes(self, store):
        inserts = [insert(WORDS) for _ in range(1000)]
        assert set(await store.save(inserts)) == {Outcome.SAVED}
        updates = [update(write.id, {(): Set({"l": ["y" * 100_000]})}) for write in inserts]
        assert set(await store.save(updates)) == {Outcome.SAVED}
        records = await store.load([write.id for write in inserts])
        assert len(records) == 1000
        await store.delete([write.id for write in inserts])


class TestIndexes:
    async def test_expired_sessions_are_removed_and_owners_found_by_them(self, database):
        store = MongoStore(database.collection)
        assert await store.load([new_id()]) == {}
        await eventually(lambda: has_ttl(database))

        async def has_owner():
            return "owner_1" in await database.collection.index_information()

        await eventually(has_owner)
        plan = await database.collection.find({"owner": "alice"}).explain()
        assert plan["queryPlanner"]["winningPlan"]["inputStage"]["indexName"] == "owner_1"
        await store.close()

    @pytest.mark.parametrize("options", [{}, {"expireAfterSeconds": 3600}])
    async def test_another_one_on_expires_is_changed(self, database, options, caplog):
        await database.collection.create_index("expires", **options)
        store = MongoStore(database.collection)
        await inserted(store)
        await eventually(lambda: has_ttl(database))
        assert not caplog.records

    async def test_another_one_on_owner_is_a_warning(self, database, caplog):
        await database.collection.create_index("owner", unique=True, sparse=True)
        store = MongoStore(database.collection)
        id = await inserted(store)
        await store.load([id])

        async def has_warned():
            return f"could not create the indexes of {DATABASE}" in caplog.text

        await eventually(has_warned)
        await store.save([update(id, {("n",): Inc(1)})])
        assert (await data(store, id))["n"] == 2
        assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1

    async def test_they_can_be_left_to_the_user(self, database):
        store = MongoStore(database.collection, create_indexes=False)
        await inserted(store)
        await asyncio.sleep(0.1)
        assert list(await database.collection.index_information()) == ["_id_"]


async def has_ttl(database):
    return (await database.collection.index_information()).get("expires_1", {}).get("expireAfterSeconds") == 0


class TestCollections:
    def test_a_synchronous_one_is_refused(self):
        client = MongoClient("mongodb://127.0.0.1:1", connect=False)
        with pytest.raises(TypeError, match="would block the server: use AsyncMongoClient"):
            MongoStore(client.mysite.sessions)

    @pytest.mark.parametrize("wrong", [None, "mongodb://localhost", {}])
    def test_something_else_is_refused(self, wrong):
        with pytest.raises(TypeError, match=re.escape("such as client.mydatabase.sessions")):
            MongoStore(wrong)

    async def test_a_database_is_refused(self, database):
        with pytest.raises(TypeError, match=re.escape("such as client.mydatabase.sessions")):
            MongoStore(database.collection.database)


class TestRepetitions:
    async def test_many_increments_of_one_session_at_once_are_done_once(self, store):
        """Also when something in the same command did not match, so that it is found out what did."""
        id, gone = await inserted(store, {"d": {"n": 0}, "n": 0}), new_id()
        nested = [update(id, {("d", "n"): Inc(1)}) for _ in range(40)]
        extending = [update(id, {("n",): Inc(1)}, expires=LATER) for _ in range(40)]
        results = await store.save([*nested, update(gone, {("n",): Inc(1)}), *extending])
        assert results == [Outcome.SAVED] * 40 + [Outcome.GONE] + [Outcome.SAVED] * 40
        assert await data(store, id) == {"d": {"n": 40}, "n": 40}

    async def test_increments_of_a_session_that_another_process_fenced_are_all_done(self, store, database):
        id, other = await inserted(store, {"n": 0, "l": []}), await inserted(store)
        await store.save([replace(update(id, {("n",): Inc(1)}), is_repeated=True)])
        elsewhere = database.new_store()
        writes = [update(id, {("n",): Inc(1), ("l",): Push([number])}) for number in range(3)]
        assert await elsewhere.save([*writes, update(other, {("n",): Inc(1)})]) == [Outcome.SAVED] * 4
        found = await data(store, id)
        assert (found["n"], sorted(found["l"])) == (4, [0, 1, 2])

    async def test_nor_does_one_get_lost_when_the_fence_does(self, store, database):
        """As when a backup is restored."""
        id, other = await inserted(store, {"n": 0}), await inserted(store)
        await store.save([replace(update(id, {("n",): Inc(1)}), is_repeated=True)])
        for writes in [update(id, {("n",): Inc(1)})], [update(id, {("n",): Inc(1)}), update(other, {("n",): Inc(1)})]:
            await database.collection.update_one({"_id": id}, {"$set": {"applied": []}})
            assert set(await store.save(writes)) == {Outcome.SAVED}
        assert (await data(store, id))["n"] == 3

    async def test_they_do_not_hold_up_others(self, store, database):
        ids = [await inserted(store) for _ in range(20)]
        writes = [update(id, {("n",): Inc(1)}) for id in ids]
        assert set(await store.save(writes)) == {Outcome.SAVED}
        database.commands.take()
        again = [replace(write, is_repeated=True) for write in writes[:2]]
        assert set(await store.save([*again, *(update(id, {("n",): Inc(1)}) for id in ids[2:])])) == {Outcome.SAVED}
        assert database.commands.take()[0] == "update"
        assert [(await data(store, id))["n"] for id in ids] == [2, 2] + [3] * 18

    async def test_a_session_of_which_one_was_repeated_is_saved_in_one_command_again(self, store, database):
        id, other = await inserted(store), await inserted(store)
        await store.save([replace(update(id, {("n",): Inc(1)}), is_repeated=True)])
        for there in store, database.new_store():  # that another process did it shows with the first increment
            assert (
                await there.save([update(id, {("n",): Inc(1)}), update(other, {("n",): Inc(1)})]) == [Outcome.SAVED] * 2
            )
            database.commands.take()
            assert (
                await there.save([update(id, {("n",): Inc(1)}), update(other, {("n",): Inc(1)})]) == [Outcome.SAVED] * 2
            )
            assert database.commands.take() == ["update"]
        assert [(await data(store, each))["n"] for each in (id, other)] == [6, 5]


async def test_overlapping_changes_of_shape_are_told_apart_in_a_batch(store):
    plain, changed, gone = [await inserted(store) for _ in range(3)]
    await store.save([update(changed, {("d",): Set("text")})])
    await store.delete([gone])
    ops = {("d", "n"): Inc(1)}
    results = await store.save([update(id, ops) for id in (plain, changed, gone)])
    assert results == [Outcome.SAVED, Conflict(frozenset({"d"})), Outcome.GONE]


async def test_its_errors_are_the_drivers(database):
    mongodb = database.collection.database
    await mongodb.command("create", "view", viewOn=database.collection.name, pipeline=[])
    manager = SessionManager(MongoStore(mongodb.view, create_indexes=False))
    for number in (1, 2):
        sessions = [manager.open(None) for _ in range(number)]
        for live in sessions:
            live.open_empty()
            live.session.name = "secret"
        for error in await asyncio.gather(*(live.save() for live in sessions), return_exceptions=True):
            assert isinstance(error, SessionStoreError)
            assert isinstance(error.__cause__, OperationFailure)
            assert "secret" not in str(error)
    await mongodb.drop_collection("view")


async def found(database):
    collection = database.collection.with_options(codec_options=CODEC_OPTIONS)
    return [document async for document in collection.find({})]


@pytest.fixture
async def profiled(database):
    """Gives a context in which MongoDB's profiler sees the test's collection; its list is filled at the end."""
    db = database.collection.database

    @asynccontextmanager
    async def profile():
        operations = []
        await db.command("profile", 2)
        try:
            yield operations
        finally:
            await db.command("profile", 0)
        seen = db["system.profile"].find({"ns": database.collection.full_name}, sort=[("ts", 1)])
        operations.extend([operation async for operation in seen])

    yield profile
    await db.drop_collection("system.profile")
