"""``python -m tornado_sesame``, run as an operator does."""

import asyncio
import os
import re
import signal
import socket
import sys
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from types import SimpleNamespace
from uuid import uuid4

import pytest
from bson import ObjectId, json_util
from bson.binary import UuidRepresentation
from pymongo import AsyncMongoClient, MongoClient
from tornado.web import RequestHandler

import tornado_sesame
from tornado_sesame import MongoStore, SessionMixin
from tornado_sesame.testing.contract import end, insert, inserted, load, new_id, save

from .mongod import free_port
from .support import DATABASE

COMMAND = (sys.executable, "-m", "tornado_sesame")
JSON_OPTIONS = json_util.JSONOptions(tz_aware=True, uuid_representation=UuidRepresentation.STANDARD)
LATER = datetime.now(UTC).replace(microsecond=0) + timedelta(days=14)


async def run(*arguments, command=COMMAND):
    process = await asyncio.create_subprocess_exec(
        *command, *map(str, arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, errors = await process.communicate()
    return SimpleNamespace(status=process.returncode, out=out.decode(), errors=errors.decode())


def place_of(database):
    kind, where, collection = database.address
    return ("--sqlite", where) if kind == "sqlite" else ("--mongo", where, "-d", DATABASE, "-c", collection)


@pytest.fixture
def store(database):
    return database.new_store()


@pytest.fixture
def sesame(database):
    """Runs the command on the test's database, and fails when it says that it has failed."""

    async def sesame(*arguments, status=0):
        done = await run(*place_of(database), *arguments)
        assert done.status == status, done
        assert done.errors.count("\n") == (1 if status else 0), done
        return done.errors if status else done.out

    return sesame


on_stores = pytest.mark.stores("sqlite", "pymongo")


async def test_without_arguments_it_prints_the_versions():
    names = ("motor", "pymongo", "tornado")
    expected = [tornado_sesame.__version__, *map(version, names), sys.version.split()[0]]
    done = await run()
    assert [line.split()[1] for line in done.out.splitlines()] == expected
    assert (done.status, done.errors) == (0, "")


@pytest.mark.parametrize(
    "arguments", [("list",), ("--sqlite", "sessions.db"), ("--sqlite", "x", "--mongo", "y", "list")]
)
async def test_a_wrong_command_line_is_told_in_one_line_below_the_usage(arguments):
    done = await run(*arguments)
    assert (done.status, done.out) == (2, "")
    assert done.errors.startswith("usage: python -m tornado_sesame ")
    assert "error: " in done.errors.splitlines()[-1]


@on_stores
class TestOnEachStore:
    async def test_list_prints_one_line_for_each_session(self, store, sesame):
        alices, nobodys = await inserted(store, {"n": 1}, owner="alice"), await inserted(store, {})
        await end(store, [await inserted(store)])
        await save(store, [insert({}, expires=datetime.now(UTC) - timedelta(seconds=1))])
        rows = {row[0]: row[1:] for row in (line.split("\t") for line in (await sesame("list")).splitlines())}
        assert {id: row[3:] for id, row in rows.items()} == {alices: ["12", "alice"], nobodys: ["5", ""]}
        record = await load(store, alices)
        times = [record.created, record.updated, record.expires]
        assert [datetime.fromisoformat(time) for time in rows[alices][:3]] == [t.replace(microsecond=0) for t in times]
        assert (await sesame("list", "--owner", "alice")).split("\t")[0] == alices
        assert await sesame("list", "--owner", "bob") == ""

    async def test_show_keeps_values_to_itself_unless_it_is_asked_for_them(self, store, sesame):
        data = {
            "user": {"name": "secret"},
            "cart": ["secret", 2],
            "since": LATER,
            "k\x1b[2J": uuid4(),
            "id": ObjectId(),
        }
        id = await inserted(store, data, owner="alice", lifetime=timedelta(days=1))
        shown = await sesame("show", id)
        assert "secret" not in shown
        assert "\x1b" not in shown
        assert f"id: {id}\nowner: alice\n" in shown
        fields = ["'user': dict of 1", "'cart': list of 2", "'since': datetime", r"'k\x1b[2J': UUID", "'id': ObjectId"]
        assert sorted(re.findall(r"^  (.*)", shown, re.MULTILINE)) == sorted(fields)
        with_values = json_util.loads(await sesame("show", id, "--values"), json_options=JSON_OPTIONS)
        assert (with_values["id"], with_values["owner"], with_values["lifetime"]) == (id, "alice", 86400)
        assert with_values["data"] == data
        assert with_values["created"] == (await load(store, id)).created

    async def test_destroy_signs_a_visitor_out(self, site, store, sesame):
        class Counter(SessionMixin, RequestHandler):
            def get(self):
                self.session.times = self.session.get("times", 0) + 1
                self.write(f"{self.session_id} {self.session.times}")

        browser = (await site([("/", Counter)])).browser()
        await browser.text()
        id, times = (await browser.text()).split()
        assert times == "2"
        other = await inserted(store)
        assert await sesame("destroy", id) == ""
        assert (await browser.text()).split()[1] == "1"
        assert await load(store, other) is not None

    async def test_destroy_owner_ends_the_sessions_of_this_owner_alone(self, store, sesame):
        ids = [await inserted(store, owner=owner) for owner in ("alice", "alice", "bob", None)]
        assert await sesame("destroy-owner", "alice") == "sessions destroyed: 2\n"
        assert [await load(store, id) is not None for id in ids] == [False, False, True, True]
        assert await sesame("destroy-owner", "alice") == "sessions destroyed: 0\n"

    @pytest.mark.parametrize("command", ["show", "destroy"])
    async def test_an_unknown_id_is_an_error(self, store, sesame, command):
        ended, expired = await inserted(store), insert({}, expires=datetime.now(UTC) - timedelta(seconds=1))
        await end(store, [ended])
        await save(store, [expired])
        for id in new_id(), ended, expired.id:
            assert f"there is no session {id}" in await sesame(command, id, status=1)

    async def test_what_may_be_a_secret_is_not_repeated(self, sesame):
        assert "secret" not in await sesame("show", "secret", status=1)

    async def test_stats(self, store, sesame):
        assert "sessions: 0\nowners: 0\n" in await sesame("stats")
        for owner, size in (("alice", 10), ("alice", 20), ("bob", 30), (None, 1000)):
            largest = await inserted(store, {"n": "x" * size}, owner=owner)
        old = insert({"n": "x" * 10})
        old.record.created -= timedelta(days=3)
        await save(store, [old])
        stats = dict(line.split(": ") for line in (await sesame("stats")).splitlines())
        assert (stats["sessions"], stats["owners"]) == ("5", "2")
        assert stats["total bytes"] == str(10 + 20 + 30 + 1000 + 10 + 5 * 13)
        assert stats["median bytes"] == str(20 + 13)
        assert stats["largest bytes"] == f"1013 (session {largest})"
        oldest = old.record.created.isoformat(timespec="seconds")
        assert stats["oldest"] == f"{oldest} (session {old.record.id})"

    async def test_a_name_that_a_user_chose_does_not_command_the_terminal(self, store, sesame):
        id = await inserted(store, owner="\x1b[2J\n\x9b2J")
        for output in (await sesame("list"), await sesame("show", id), await sesame("show", id, "--values")):
            assert "\x1b" not in output
            assert "\x9b" not in output
        assert (await sesame("list")).count("\n") == 1

    async def test_a_terminal_need_not_know_all_characters(self, store, sesame, monkeypatch):
        await inserted(store, owner="Jürgen")
        for encoding, shown in (("utf-8", "Jürgen"), ("ascii", r"J\xfcrgen")):
            monkeypatch.setenv("PYTHONIOENCODING", encoding)
            assert (await sesame("list")).endswith(f"\t{shown}\n")

    async def test_a_reader_who_has_enough_is_no_error(self, database, store):
        await save(store, [insert({}) for _ in range(2000)])  # more than a pipe holds
        process = await asyncio.create_subprocess_exec(
            *COMMAND, *place_of(database), "list", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        await process.stdout.readline()
        process.stdout._transport.close()  # as `head -1` does
        assert await process.stderr.read() == b""
        assert await process.wait() == 141  # as after SIGPIPE

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is always full")
    async def test_a_full_disk_is_an_error(self, database, store):
        await inserted(store)
        done = await run(*COMMAND, *place_of(database), "list", command=("sh", "-c", '"$@" >/dev/full', "sh"))
        assert (done.status, done.errors.count("\n")) == (1, 1)
        assert "No space left" in done.errors

    @pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux's /proc")
    @pytest.mark.parametrize("command", ["list", "stats"])
    async def test_memory_has_only_some_of_many_sessions(self, database, store, command):
        code = (
            "import atexit, re, runpy, sys\n"
            "peak = lambda: re.search(r'VmHWM:\\s*(\\d+) kB', open('/proc/self/status').read())[1]\n"
            "atexit.register(lambda: print(peak(), file=sys.stderr))\n"
            "runpy.run_module('tornado_sesame', run_name='__main__')\n"
        )

        async def mebibytes():
            done = await run(*place_of(database), command, command=(sys.executable, "-c", code))
            assert done.status == 0
            return int(done.errors) / 1024

        await inserted(store)
        with_one = await mebibytes()
        for _ in range(20):
            await save(store, [insert({"n": "x" * 2**20}) for _ in range(10)])  # 200 MiB
        assert await mebibytes() < with_one + 130


@pytest.mark.stores("pymongo")
class TestOnMongoDB:
    async def test_it_makes_no_indexes_and_says_which_are_there(self, database, store, sesame):
        await inserted(store, owner="alice")
        collection = database.collection

        async def stats():
            return re.findall(r"^index on (\w+): (.*)", await sesame("stats"), re.MULTILINE)

        for arguments in (("list",), ("destroy-owner", "alice")):
            await sesame(*arguments)
        assert await stats() == [("expires", "missing"), ("owner", "missing")]
        assert set(await collection.index_information()) == {"_id_"}
        await collection.create_index("expires", expireAfterSeconds=60)
        assert await stats() == [("expires", "has other options"), ("owner", "missing")]
        indexing = MongoStore(collection)
        await load(indexing, new_id())
        await indexing._indexing
        assert await stats() == [("expires", "ok"), ("owner", "ok")]

    async def test_indexes_that_cannot_be_listed_are_an_error_of_one_line(self, mongodb_uri, sesame):
        with MongoClient(mongodb_uri) as client:
            fail = {"failCommands": ["listIndexes"], "errorCode": 13}
            client.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=fail)
        assert "could not list the indexes: " in await sesame("stats", status=1)

    async def test_the_database_may_be_in_the_uri(self, mongodb_uri, database):
        uri = re.sub(r"^(\w+://[^/]+)/?[^?]*", rf"\1/{DATABASE}", mongodb_uri)
        async with AsyncMongoClient(mongodb_uri) as client:
            id = await inserted(MongoStore(client[DATABASE].sessions, create_indexes=False))
        assert id in (await run("--mongo", uri, "list")).out
        assert (await run("--mongo", uri, "destroy", id)).status == 0
        without = await run("--mongo", re.sub(r"^(\w+://[^/]+)/?[^?]*", r"\1/", mongodb_uri), "list")
        assert (without.status, without.out, without.errors.count("\n")) == (1, "", 1)
        assert "--db" in without.errors

    async def test_what_cannot_be_read_is_skipped_and_can_be_ended(self, database, store, sesame):
        bad, good = await inserted(store), await inserted(store)
        await database.collection.update_one({"_id": bad}, {"$set": {"created": "yesterday"}})
        done = await run(*place_of(database), "list")
        assert (done.status, done.out[:64], done.out.count("\n")) == (0, good, 1)
        assert re.fullmatch(rf"python -m tornado_sesame: skipped: .*{bad}.*\n", done.errors)
        assert f"session {bad} cannot be read" in await sesame("show", bad, status=1)
        await sesame("destroy", bad)
        assert "there is no session" in await sesame("show", bad, status=1)


@pytest.mark.parametrize("arguments", [("list",), ("stats",), ("show", "0" * 64), ("destroy-owner", "alice")])
async def test_a_mongodb_that_does_not_answer_is_one_line(arguments):
    address = f"127.0.0.1:{free_port()}"
    done = await run("--mongo", f"mongodb://user:secret@{address}/mysite", "--timeout", "1", *arguments)
    assert (done.status, done.out) == (1, "")
    assert re.fullmatch(rf"python -m tornado_sesame: .*{address}: connection refused\n", done.errors, re.IGNORECASE)


@pytest.mark.posix
async def test_it_ends_at_once_when_it_is_interrupted():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        process = await asyncio.create_subprocess_exec(
            *(*COMMAND, "--mongo", f"mongodb://127.0.0.1:{silent.getsockname()[1]}/mysite", "--timeout", "600", "list"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        connection, _ = await asyncio.get_running_loop().sock_accept(silent)
        with connection:
            process.send_signal(signal.SIGINT)
            assert await process.communicate() == (b"", b"")
    assert process.returncode == -signal.SIGINT


@pytest.mark.parametrize("uri", ["mysite", "mongodb://user:secret/1@host/mysite", "mongodb://host/mysite?w=0"])
async def test_a_wrong_uri_is_one_line_without_the_password(uri):
    done = await run("--mongo", uri, "list")
    assert (done.status, done.out, done.errors.count("\n")) == (1, "", 1)
    assert "secret" not in done.errors


async def test_no_file_is_created(tmp_path):
    for name in ("missing.db", "missing/sessions.db"):
        done = await run("--sqlite", tmp_path / name, "list")
        assert (done.status, done.errors.count("\n")) == (1, 1)
        assert name in done.errors
    (tmp_path / "empty.db").touch()
    assert (await run("--sqlite", tmp_path / "empty.db", "list")).status == 1
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == {"empty.db": 0}
