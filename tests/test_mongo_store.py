"""What MongoDB sees of a session: its documents, its indexes, and the commands and bytes that requests cost."""

import asyncio
import logging
import re
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from bson import Binary, DatetimeMS, ObjectId, encode
from bson.raw_bson import RawBSONDocument
from pymongo import AsyncMongoClient, MongoClient
from pymongo.errors import OperationFailure
from tornado.web import RequestHandler

from tornado_sesame import (
    Conflict,
    MongoStore,
    Outcome,
    SessionEnd,
    SessionManager,
    SessionMixin,
    SessionNotSaved,
    SessionRecordError,
    SessionStoreError,
)
from tornado_sesame.changes import Create, Inc, Push, Set, Unset
from tornado_sesame.testing.contract import (
    DATA,
    LATER,
    NOW,
    data,
    end,
    insert,
    inserted,
    new_id,
    pop,
    save,
    stored,
    update,
)
from tornado_sesame.values import CODEC_OPTIONS

from .support import DATABASE, eventually

pytestmark = pytest.mark.mongodb

BAD = {
    "a lifetime of a thousand million years": lambda document: {**document, "lifetime": 3e16},
    "a lifetime that is none": lambda document: {**document, "lifetime": -5},
    "a lifetime that is a bool": lambda document: {**document, "lifetime": True},
    "a lifetime beyond Python's": lambda document: {**document, "lifetime": 1e300},
    "a lifetime that is no number": lambda document: {**document, "lifetime": "long"},
    "no expires": lambda document: {name: value for name, value in document.items() if name != "expires"},
    "another library's": lambda document: {"_id": document["_id"], "owner": "alice", "session": "{}"},
    "a date beyond Python's": {"expires": DatetimeMS(8_640_000_000_000_000)},
    "invalid UTF-8": {"data": {"s": "invalid"}},
    "invalid UTF-8 in a key": {"data": {"l": [{"invalid": 1}]}},
    "a malformed UUID": {"data": {"l": [{"u": Binary(b"xx", 4)}]}},
    "a malformed UUID beside the data": {"created": Binary(b"xx", 4)},
    "data that are none": {"data": [1]},
}

WORDS = {f"word{number}": "x" * 1000 for number in range(100)}


@pytest.fixture
def store(database):
    return database.new_store()


def deep(levels):
    value = {}
    for _ in range(levels):
        value = {"d": value}
    return value


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
        await save(store, [update(id, {}, owner=Set("alice"))])
        assert await found(database) == [{"_id": id, "data": DATA, "owner": "alice", "owned": NOW, **times}]
        await save(store, [update(id, {}, owner=Set(None))])
        assert await found(database) == [{"_id": id, "data": DATA, **times}]

    async def test_what_is_saved_leaves_nothing_else_behind(self, store, database):
        id = await inserted(store)
        everything = {("n",): Inc(1), ("l",): Push([2]), ("new",): Create(), ("s",): Unset(), ("f",): Set(1)}
        for batch in [], [update(await inserted(store), {("n",): Inc(1)})]:
            await save(store, [*batch, update(id, everything, owner=Set("alice"), expires=LATER)])
        document = await database.collection.find_one({"_id": id})
        assert document.keys() == {"_id", "data", "owner", "owned", "created", "updated", "expires"}

    async def test_the_end_of_one_has_no_content_and_is_removed_after_a_minute(self, store, database):
        id = await inserted(store, owner="alice")
        await end(store, [id])
        assert await found(database) == [{"_id": id, "data": None, "ended": NOW, "expires": NOW + timedelta(minutes=1)}]

    async def test_keys_that_mongodb_cannot_address_are_escaped(self, store, database):
        await inserted(store, {"a.b": {"$x": 1}, "": 2, "50%": 3, "x\0": 4, "plain": 5})
        (document,) = await found(database)
        assert document["data"] == {"a%2Eb": {"%24x": 1}, "%": 2, "50%25": 3, "x%00": 4, "plain": 5}
        assert document["escaped"] is True

    async def test_a_session_can_be_found_by_what_is_in_it(self, store, database):
        id = await inserted(store, {"user": {"name": "alice"}})
        await inserted(store, {"user": {"name": "bob"}})
        assert (await database.collection.find_one({"data.user.name": "alice"}))["_id"] == id

    @pytest.mark.parametrize("wrong", [{"expires": None}, {"expires": "tomorrow"}, {"created": 1}, {"data": {}}])
    async def test_one_with_something_else_in_a_field_is_an_error_of_its_own(self, store, database, wrong):
        id, foreign = await inserted(store), new_id()
        times = {"created": NOW, "updated": NOW, "expires": LATER}
        await database.collection.insert_one({"_id": foreign, "data": {"d": 1}, **times, **wrong})
        records = await stored(store, [id, foreign])
        assert records[id].data == DATA
        if "data" not in wrong:
            assert f"session {foreign} cannot be read: a field is not of its type" in str(records[foreign])
            with pytest.raises(SessionRecordError, match="a field is not of its type"):
                await pop(store, foreign)
            assert isinstance((await stored(store, [foreign]))[foreign], SessionEnd)
        one, other = await save(store, [update(id, {("n",): Inc(1)}), update(foreign, {("d", "n"): Inc(1)})])
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
        assert operations[1]["command"]["u"].keys() == {"$set", "$setOnInsert"}
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
        await save(store, inserts)
        assert database.commands.take() == ["insert"]
        assert len(await stored(store, ids)) == number
        assert database.commands.take() == ["find"]
        await save(store, [update(id, {("n",): Inc(1), ("x",): Create(), ("x", "y"): Set(1)}) for id in ids])
        assert database.commands.take() == ["update"]
        await end(store, ids)
        assert database.commands.take() == ["update"]

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
        results = await save(store, batch)
        assert [result is Outcome.SAVED for result in results] == [True, False, True, True]
        assert isinstance(results[1], SessionStoreError)
        assert results[1].__cause__
        assert "secret" not in str(results[1])
        assert (await data(store, first))["n"] == 2
        assert (await data(store, last))["l"] == [1, {"a": 2}, 2]
        (alone,) = await save(store, [poison])
        assert isinstance(alone, SessionStoreError)

    async def test_a_session_that_grows_too_large_keeps_what_it_had(self, store):
        id, other = await inserted(store, {"l": []}), await inserted(store)
        for _ in range(2):
            *_, result = await save(
                store, [update(other, {("n",): Inc(1)}), update(id, {("l",): Push(["x" * 9_000_000])})]
            )
        assert isinstance(result, SessionStoreError)
        assert len((await data(store, id))["l"]) == 1
        assert (await data(store, other))["n"] == 3

    async def test_a_thousand_sessions_of_100_kilobytes(self, store):
        inserts = [insert(WORDS) for _ in range(1000)]
        assert set(await save(store, inserts)) == {Outcome.SAVED}
        updates = [update(write.id, {(): Set({"l": ["y" * 100_000]})}) for write in inserts]
        assert set(await save(store, updates)) == {Outcome.SAVED}
        records = await stored(store, [write.id for write in inserts])
        assert len(records) == 1000
        await end(store, [write.id for write in inserts])

    @pytest.mark.parametrize("bad", ["a lone surrogate \ud800", deep(3000)], ids=["surrogate", "depth"])
    async def test_that_a_session_would_refuse_does_so_too(self, store, bad):
        one, victim, other = [await inserted(store) for _ in range(3)]
        writes = [update(one, {("n",): Inc(1)}), update(victim, {("s",): Set(bad)}), update(other, {("n",): Inc(1)})]
        first, refused, last = await save(store, writes)
        assert (first, last) == (Outcome.SAVED, Outcome.SAVED)
        assert isinstance(refused, SessionNotSaved)
        assert [(await data(store, id))["n"] for id in (one, victim, other)] == [2, 1, 2]


class TestIndexes:
    async def test_expired_sessions_are_removed_and_owners_found_by_them(self, database):
        store = MongoStore(database.collection)
        assert await stored(store, [new_id()]) == {}
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
        await stored(store, [id])

        async def has_warned():
            return f"could not create the indexes of {DATABASE}" in caplog.text

        await eventually(has_warned)
        await save(store, [update(id, {("n",): Inc(1)})])
        assert (await data(store, id))["n"] == 2
        assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1

    async def test_they_are_made_at_the_next_use_when_mongodb_fails(self, database, mongodb_uri):
        fail(mongodb_uri, "createIndexes", closeConnection=True)
        store = MongoStore(database.collection)

        async def is_made():
            await stored(store, [new_id()])
            return await has_ttl(database)

        await eventually(is_made)

    async def test_they_can_be_left_to_the_user(self, database):
        store = MongoStore(database.collection, create_indexes=False)
        await inserted(store)
        await asyncio.sleep(0.1)
        assert list(await database.collection.index_information()) == ["_id_"]


def fail(uri, command, **how):
    """Has MongoDB fail the next such command."""
    with MongoClient(uri) as client:
        data = {"failCommands": [command], **(how or {"errorCode": 13})}
        client.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=data)


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


class TestUnmatched:
    """Of many updates in one command, it is known which did not match."""

    @pytest.mark.parametrize("number", [1, 40])
    async def test_with_a_session_that_is_gone_in_the_same_command(self, store, number):
        id, gone = await inserted(store, {"d": {"n": 0}, "n": 0}), new_id()
        nested = [update(id, {("d", "n"): Inc(1)}) for _ in range(number)]
        extending = [update(id, {("n",): Inc(1)}, expires=LATER) for _ in range(number)]
        late = [update(gone, {("n",): Inc(1)}), update(gone, {("d", "n"): Inc(1)})]
        results = await save(store, [*nested, *late, *extending])
        assert results == [Outcome.SAVED] * number + [Outcome.GONE] * 2 + [Outcome.SAVED] * number
        assert await data(store, id) == {"d": {"n": number}, "n": number}

    async def test_with_sessions_that_end_meanwhile(self, store, database):
        """Whatever happens between the commands of one process and of another."""
        rounds, crowd = 10, 64
        id = await inserted(store, {"d": {"n": 0}, "l": []})
        elsewhere = database.new_store()
        for number in range(rounds):
            ending = [await inserted(store) for _ in range(4)]

            def bulk(number=number, ending=ending):
                counts = [update(id, {("d", "n"): Inc(1), ("l",): Push([number])}) for _ in range(crowd)]
                return [*counts, *(update(gone, {("d", "n"): Inc(1)}) for gone in ending)]

            *results, _, _ = await asyncio.gather(
                save(store, bulk()), save(elsewhere, bulk()), end(store, ending[:2]), end(elsewhere, ending[2:])
            )
            assert [result for some in results for result in some[:crowd]] == [Outcome.SAVED] * 2 * crowd
        found = await data(store, id)
        assert (found["d"]["n"], len(found["l"])) == (2 * rounds * crowd, 2 * rounds * crowd)

    async def test_is_not_saved_when_nobody_can_look_why(self, store, mongodb_uri):
        id = await inserted(store, {"d": "text"})
        writes = [update(id, {("d", "n"): Inc(1)})]
        fail(mongodb_uri, "find")
        (result,) = await save(store, writes)
        assert isinstance(result, SessionNotSaved)
        assert await data(store, id) == {"d": "text"}
        (result,) = await save(store, writes)
        assert isinstance(result, Conflict)

    async def test_a_unique_index_of_the_users_is_no_session_that_is_there(self, store, database):
        """Only an insert whose `_id` is there was done before."""
        await database.collection.create_index("data.email", unique=True, sparse=True)
        one, other = await inserted(store, {"email": "a@b"}), await inserted(store, {"n": 1})
        writes = [insert({"email": "a@b"}), update(other, {("email",): Set("a@b")}), update(one, {("n",): Inc(1)})]
        *refused, result = await save(store, writes)
        assert result is Outcome.SAVED
        for error in (*refused, *(await save(store, writes[:1])), *(await save(store, writes[1:2]))):
            assert isinstance(error, SessionNotSaved)
            assert "11000" in str(error)
            assert "a@b" not in str(error)
        assert await data(store, other) == {"n": 1}
        assert await data(store, writes[0].id) is None


class TestOneBadDocument:
    """Is one session's error, however it is bad."""

    @pytest.fixture(params=[*BAD])
    async def bad(self, request, database):
        """The id of a session of Alice's that cannot be read."""
        id = new_id()
        document = {"_id": id, "owner": "alice", "data": {"n": 1}, "created": NOW, "updated": NOW, "expires": LATER}
        change = BAD[request.param]
        encoded = encode(change(document) if callable(change) else {**document, **change})
        raw = RawBSONDocument(encoded.replace(b"invalid", b"\xff\xfe\xfd\xfc\xfb\xfa\xf9"))
        await database.collection.insert_one(raw)
        return id

    async def test_when_it_is_loaded(self, store, bad):
        id = await inserted(store)
        found = await stored(store, [id, bad])
        assert found[id].data == DATA
        assert isinstance(found[bad], SessionRecordError)
        assert found[bad].id == bad
        assert isinstance((await stored(store, [bad]))[bad], SessionRecordError)

    async def test_when_sessions_are_listed_and_ended(self, store, database, bad, caplog):
        id = await inserted(store, owner="alice")
        manager = SessionManager(store)
        for owner in (None, "alice"):
            assert [record.id async for record in manager.records(owner)] == [id]
            assert f"what is stored as session {bad} cannot be read" in caplog.text
        assert await manager.destroy_all("alice") == 2
        assert {document["_id"]: document["data"] for document in await found(database)} == {id: None, bad: None}

    @pytest.mark.parametrize("id", [ObjectId("0" * 24), {"a": 1}, 5], ids=repr)
    async def test_when_its_id_is_no_str(self, store, database, id, caplog):
        """A document of another library's, however much it looks like a session."""
        good = await inserted(store, owner="alice")
        times = {"created": NOW, "updated": NOW, "expires": LATER}
        await database.collection.insert_one({"_id": id, "owner": "alice", "data": {}, **times})
        manager = SessionManager(store)
        assert [record.id async for record in manager.records("alice")] == [good]
        assert "cannot be read" in caplog.text
        assert await manager.destroy_all("alice", keep="another") == 2
        assert [document["data"] for document in await found(database)] == [None, None]

    async def test_when_it_is_ended(self, store, database, bad):
        await SessionManager(store).destroy(bad)
        assert [document["data"] for document in await found(database)] == [None]

    async def test_when_others_are_saved(self, store, bad):
        id = await inserted(store)
        results = await save(store, [update(id, {("n",): Inc(1)}), update(bad, {("gone", "n"): Inc(1)})])
        assert results[0] is Outcome.SAVED
        assert isinstance(results[1], SessionNotSaved | Conflict)


async def test_a_date_beyond_pythons_is_a_value_like_others(store, database):
    id = await inserted(store)
    await database.collection.update_one({"_id": id}, {"$set": {"data.d.late": DatetimeMS(8_640_000_000_000_000)}})
    found = await data(store, id)
    assert found["d"]["late"] == DatetimeMS(8_640_000_000_000_000)
    other = await inserted(store, found)
    assert await data(store, other) == found


def test_a_write_concern_that_confirms_nothing_is_refused():
    client = AsyncMongoClient("mongodb://127.0.0.1:1/?w=0", connect=False)
    with pytest.raises(ValueError, match="the write concern of this collection is w=0"):
        MongoStore(client.mysite.sessions)


async def test_overlapping_changes_of_shape_are_told_apart_in_a_batch(store):
    plain, changed, gone = [await inserted(store) for _ in range(3)]
    await save(store, [update(changed, {("d",): Set("text")})])
    await end(store, [gone])
    ops = {("d", "n"): Inc(1)}
    results = await save(store, [update(id, ops) for id in (plain, changed, gone)])
    assert results == [Outcome.SAVED, Conflict(frozenset({"d"})), Outcome.GONE]


async def test_one_that_cannot_be_sent_fails_alone_when_mongodb_fails_another(store, mongodb_uri):
    one, other = await inserted(store), await inserted(store)
    writes = [update(one, {("n",): Inc(1)}), update(other, {("s",): Set("a lone surrogate \ud800")})]
    fail(mongodb_uri, "update")
    failed, refused = await save(store, writes)
    assert "failCommand" in str(failed)
    assert isinstance(refused, SessionNotSaved)
    assert await save(store, writes[:1]) == [Outcome.SAVED]


async def test_beside_one_that_cannot_be_sent_nobody_knows_of_those_that_take_several_commands(store):
    large = [update(await inserted(store), {("s",): Set("x" * 9_000_000)}) for _ in range(5)]
    poison = update(await inserted(store), {("s",): Set("a lone surrogate \ud800")})
    with pytest.raises(SessionStoreError) as raised:
        await save(store, [*large, poison])
    assert not isinstance(raised.value, SessionNotSaved)


async def test_its_errors_are_the_drivers(database):
    mongodb = database.collection.database
    await mongodb.command("create", "view", viewOn=database.collection.name, pipeline=[])
    manager = SessionManager(MongoStore(mongodb.view, create_indexes=False))
    for number in (1, 2):
        sessions = [manager.open() for _ in range(number)]
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
