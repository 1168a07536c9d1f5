"""What SQLiteStore promises beyond the contract: of its file, its locks, full disks, and processes that are killed."""

import asyncio
import itertools
import os
import random
import re
import sqlite3
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Barrier

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPClientError
from tornado.web import RequestHandler

from tornado_sesame import (
    Outcome,
    SessionEnd,
    SessionManager,
    SessionMixin,
    SessionNotSaved,
    SessionRecordError,
    SessionStoreError,
    SQLiteStore,
)
from tornado_sesame.changes import Inc, Push, Set
from tornado_sesame.cookie import id_of_secret
from tornado_sesame.testing.contract import (
    DATA,
    NOW,
    data,
    end,
    ending,
    insert,
    inserted,
    load,
    new_id,
    pop,
    records,
    save,
    stored,
    update,
)

from .support import Browser, record_of, serve

resource = pytest.importorskip("resource", reason="Windows has neither limits nor forks nor modes of files")

KILLS = 20
VISITORS = 16

NOBODY = 65534

NO_UTF_8 = pytest.param("\udcff", marks=pytest.mark.skipif(sys.platform == "darwin", reason="macOS refuses it"))

FORKING = """
import asyncio, sys
from tornado.process import fork_processes
from tornado_sesame import SQLiteStore
from tornado_sesame.testing.contract import inserted

store = SQLiteStore(sys.argv[1])
number = fork_processes(3, max_restarts=0)

async def main():
    await inserted(store, {"process": number})
    await store.close()

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sessions.db"


@pytest.fixture
async def store(path):
    store = SQLiteStore(path)
    yield store
    await store.close()


@contextmanager
def opened(path):
    """Gives another connection to the file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


@contextmanager
def locked(path):
    """Gives a context in which somebody else writes."""
    with opened(path) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


def number_of_sessions(path):
    with opened(path) as connection:
        return connection.execute("SELECT count(*) FROM sessions").fetchone()[0]


class TestTheFile:
    async def test_it_keeps_sessions_for_the_next_store(self, store, path):
        id = await inserted(store, owner="alice")
        record = await load(store, id)
        await store.close()
        store = SQLiteStore(path)
        assert await load(store, id) == record
        await store.close()

    async def test_it_is_for_its_owner_only_and_alone_after_closing(self, store, path):
        await inserted(store)
        assert modes(path.parent) == {"sessions.db": 0o600, "sessions.db-wal": 0o600, "sessions.db-shm": 0o600}
        await store.close()
        assert modes(path.parent) == {"sessions.db": 0o600}

    async def test_it_tells_whose_it_is(self, store, path):
        assert path.read_bytes()[68:72] == b"sesa"
        with opened(path) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert connection.execute("PRAGMA user_version").fetchone() == (1,)

    @pytest.mark.parametrize("name", ["a b.db", "a?mode=memory", "#.db", "100%25", "ü", NO_UTF_8, ":memory:"])
    async def test_it_has_the_name_that_it_was_given(self, tmp_path, name):
        store = SQLiteStore(tmp_path / name)
        await inserted(store)
        await store.close()
        assert [file.name for file in tmp_path.iterdir()] == [name]

    async def test_it_may_be_there_and_empty(self, path):
        path.touch()
        store = SQLiteStore(path)
        assert await data(store, await inserted(store)) == DATA
        await store.close()

    def test_many_may_make_it_at_once(self, tmp_path):
        barrier = Barrier(8)

        def make(path):
            barrier.wait()
            SQLiteStore(path)

        with ThreadPoolExecutor(8) as executor:
            for number in range(10):
                paths = [tmp_path / str(number)] * 8
                assert list(executor.map(make, paths)) == [None] * 8

    async def test_whoever_makes_it_waits_for_another_who_does(self, path):
        path.touch()
        with locked(path):
            making = asyncio.ensure_future(asyncio.to_thread(SQLiteStore, path))
            await asyncio.sleep(0.1)
            assert not making.done()
        assert await data(await making, await inserted(making.result())) == DATA
        await making.result().close()

    async def test_a_damaged_session_fails_alone(self, store, path):
        good, bad = await inserted(store), await inserted(store)
        with opened(path) as connection:
            connection.execute("UPDATE sessions SET document = x'00' WHERE id = ?", (bad,))
        found = await stored(store, [good, bad])
        assert found[good].data == DATA
        assert f"session {bad} cannot be read: its row is damaged" in str(found[bad])
        saved, failed = await save(store, [update(id, {("n",): Inc(1)}) for id in (good, bad)])
        assert saved is Outcome.SAVED
        assert isinstance(failed, SessionNotSaved)
        with pytest.raises(SessionStoreError, match="is damaged"):
            await pop(store, bad)

    @pytest.mark.parametrize(
        "damage",
        [
            "document = x'00'",
            "document = x'0500000000'",
            "document = x'0f0000001064617461000100000000'",  # {"data": 1}
            "document = 'text'",
            "document = 5",
            "document = CAST(x'ff' AS TEXT)",
            "expires = 'x'",
            "lifetime = 'x'",
            "lifetime = 0",
            "lifetime = 9223372036854775807",
            "created = 1e300",
        ],
    )
    async def test_one_is_skipped_in_listings_and_ended_with_all_others(self, store, path, damage, caplog):
        good, bad = await inserted(store, owner="alice"), await inserted(store, owner="alice")
        with opened(path) as connection:
            connection.execute(f"UPDATE sessions SET {damage} WHERE id = ?", (bad,))
        manager = SessionManager(store)
        for owner in (None, "alice"):
            assert [record.id async for record in manager.records(owner)] == [good]
            assert f"skipped: what is stored as session {bad} cannot be read" in caplog.text
        assert await manager.destroy_all("alice") == 2
        assert {type(one) for one in (await stored(store, [good, bad])).values()} == {SessionEnd}

    async def test_one_whose_owner_is_no_utf_8_fails_alone_too(self, store, path):
        good, bad = await inserted(store), await inserted(store)
        with opened(path) as connection:
            connection.execute("UPDATE sessions SET owner = CAST(x'616cff' AS TEXT) WHERE id = ?", (bad,))
        found = await stored(store, [good, bad])
        assert (found[good].data, type(found[bad])) == (DATA, SessionRecordError)
        manager = SessionManager(store)
        assert [record.id async for record in manager.records()] == [good]
        await manager.destroy(bad)
        assert type((await stored(store, [bad]))[bad]) is SessionEnd

    @pytest.mark.parametrize("change", ["removed", "moved", "replaced"])
    async def test_nothing_is_saved_in_a_file_that_is_not_there_any_more(self, store, path, change):
        id = await inserted(store)
        await load(store, id)
        other = path.with_name("other.db")
        if change == "replaced":
            await SQLiteStore(other).close()
            other.replace(path)
        elif change == "moved":
            path.rename(other)
        else:
            path.unlink()
        for call in (save(store, [insert(DATA)]), stored(store, [id]), pop(store, id), end(store, [id])):
            with pytest.raises(SessionStoreError, match=re.escape(f"{path} has been moved, removed or replaced")):
                await call
        assert path.exists() is (change == "replaced")
        if change == "moved":
            other.rename(path)
            assert await data(store, id) == DATA

    async def test_one_that_is_removed_before_its_first_use_is_not_made_again(self, store, path):
        path.unlink()
        for call in (save(store, [insert(DATA)]), stored(store, [new_id()])):
            with pytest.raises(SessionStoreError, match=re.escape(str(path))):
                await call
        assert not path.exists()


class TestWhatCannotBeUsed:
    """Is refused when the store is made, and left as it is."""

    @pytest.mark.parametrize("path", ["", ":memory:"])
    def test_no_file(self, path):
        with pytest.raises(ValueError, match="sessions need a file; for some in memory there is MemoryStore"):
            SQLiteStore(path)

    def test_a_directory(self, tmp_path):
        with pytest.raises(ValueError, match=re.escape(f"{tmp_path} is a directory: name a file in it")):
            SQLiteStore(tmp_path)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("content", [b"hello", b"x" * 10_000, b"SQLite format 3\0" + b"x" * 10_000])
    def test_a_file_that_is_no_database(self, path, content):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(f"{path} is not an SQLite database")):
            SQLiteStore(path)
        assert (path.read_bytes(), modes(path.parent).keys()) == (content, {"sessions.db"})

    @pytest.mark.parametrize(
        "statement", ["CREATE TABLE users (name)", "PRAGMA application_id = 7", "PRAGMA user_version = 1"]
    )
    def test_the_database_of_another_application(self, path, statement):
        with opened(path) as connection:
            connection.execute(statement)
        content = path.read_bytes()
        with pytest.raises(ValueError, match=re.escape(f"{path} is the database of another application")):
            SQLiteStore(path)
        assert (path.read_bytes(), modes(path.parent).keys()) == (content, {"sessions.db"})

    async def test_a_file_of_a_newer_version(self, store, path):
        await inserted(store)
        await store.close()
        with opened(path) as connection:
            connection.execute("PRAGMA user_version = 2")
        content = path.read_bytes()
        with pytest.raises(ValueError, match=rf"{re.escape(str(path))} .*newer.* version 2.*: upgrade tornado-sesame"):
            SQLiteStore(path)
        assert (path.read_bytes(), modes(path.parent).keys()) == (content, {"sessions.db"})

    @pytest.mark.parametrize("directory", ["no/such", "/proc"])
    def test_a_directory_where_nobody_can_create_it(self, tmp_path, directory):
        path = tmp_path / directory / "sessions.db"
        with pytest.raises(SessionStoreError, match=rf"cannot create {re.escape(str(path))}: No such file"):
            SQLiteStore(path)

    @pytest.mark.parametrize(
        ("file_mode", "directory_mode", "problem"),
        [
            (None, 0o500, "cannot create {}: Permission denied"),
            (0o600, 0o500, "cannot open {}: .*; the server must be allowed to write to .* its directory"),
            (0o400, 0o700, "cannot open {}: .*; the server must be allowed to write to .* its directory"),
            (0o000, 0o700, "cannot open {}: .*; the server must be allowed to write to .* its directory"),
        ],
    )
    async def test_what_the_server_has_no_permission_for(self, unprivileged, file_mode, directory_mode, problem):
        path = unprivileged / "sessions.db"
        if file_mode is not None:
            store = SQLiteStore(path)
            await inserted(store)
            await store.close()
            path.chmod(file_mode)
        unprivileged.chmod(directory_mode)
        with pytest.raises(SessionStoreError, match=problem.format(re.escape(str(path)))):
            SQLiteStore(path)


class TestWaiting:
    """For other processes that write to the file."""

    async def test_the_loop_goes_on_while_a_save_waits(self, store, path):
        id = await inserted(store)
        with locked(path):
            saving = asyncio.ensure_future(save(store, [update(id, {("n",): Inc(1)})]))
            await asyncio.sleep(0.1)
            assert not saving.done()
        assert await saving == [Outcome.SAVED]

    async def test_loads_wait_for_nobody(self, store, path):
        id = await inserted(store)
        with locked(path):
            saving = asyncio.ensure_future(save(store, [update(id, {("n",): Inc(1)})]))
            await asyncio.sleep(0.01)
            assert await data(store, id) == DATA
            assert [record.data async for record in records(store)] == [DATA]
            assert not saving.done()
        await saving

    async def test_a_visitor_who_waits_too_long_gets_an_error_that_names_the_file(self, path, caplog):
        class Counter(SessionMixin, RequestHandler):
            def post(self):
                self.session.times = self.session.get("times", 0) + 1
                self.write(f"{self.session.times} times!")

        sessions = SessionManager(SQLiteStore(path), timeout=0.5)
        async with serve([("/", Counter)], sessions=sessions) as site:
            browser = site.browser()
            await browser.post()
            with locked(path):
                assert (await browser.post()).code == 503
            assert f"could not save session {id_of_secret(browser.secret)}: {path}: database is locked" in caplog.text
            assert (await browser.post()).body == b"2 times!"

    async def test_a_save_that_had_to_wait_too_long_goes_out_with_the_next(self, path):
        sessions = SessionManager(SQLiteStore(path), timeout=0.5)
        live = sessions.open()
        live.open_empty()
        live.session.update(n=0, cart=[])
        await live.save()
        live.session.n += 1
        live.session.cart.append("x")
        with locked(path):
            for _ in range(2):
                with pytest.raises(SessionNotSaved, match=re.escape(f"{path}: database is locked")):
                    await live.save()
        await live.save()
        assert (await record_of(sessions, live.id)).data == {"n": 1, "cart": ["x"]}
        await sessions.close()

    async def test_a_save_that_was_given_up_is_not_done_later(self, store, path):
        id = await inserted(store)
        with locked(path):
            saves = [store.save([update(id, {("n",): Inc(100)})], timeout=0.2) for _ in range(3)]
            saves += [store.pop(ending(id), timeout=0.2), store.save([ending(id)], timeout=0.2)]
            results = await asyncio.gather(*saves, return_exceptions=True)
        assert [type(result) for result in results] == [SessionNotSaved] * 5
        assert all(str(path) in str(result) for result in results)
        assert await save(store, [update(id, {("n",): Inc(1)})]) == [Outcome.SAVED]
        assert (await data(store, id))["n"] == 2

    async def test_a_save_that_takes_too_long_itself_is_not_done_at_all(self, store, path):
        await inserted(store)
        with pytest.raises(SessionNotSaved, match=re.escape(f"{path}: the file was locked or the disk busy")):
            await store.save([insert({"s": "x" * 100_000}) for _ in range(500)], timeout=0.01)
        assert number_of_sessions(path) == 1

    async def test_of_a_commit_that_fails_nobody_knows_what_it_did(self, store, monkeypatch):
        id = await inserted(store)

        def fails(connection):
            execute = connection.execute

            def failing(statement, *values):
                if statement == "COMMIT":
                    raise sqlite3.OperationalError("disk I/O error")
                return execute(statement, *values)

            connection.execute = failing

        await store._writer.run(10, fails)
        with pytest.raises(SessionStoreError, match="disk I/O error") as caught:
            await save(store, [update(id, {("n",): Inc(1)})])
        assert not isinstance(caught.value, SessionNotSaved)


class TestSaves:
    async def test_a_batch_is_one_transaction(self, store, path):
        inserts = [insert(DATA) for _ in range(200)]
        ids = [write.id for write in inserts]
        await save(store, inserts)
        assert transactions(path) == 1
        await save(store, [update(id, {("n",): Inc(1)}) for id in ids])
        assert transactions(path) == 2
        await end(store, ids)
        assert transactions(path) == 3

    async def test_a_session_that_grows_too_large_keeps_what_it_had_and_fails_alone(self, store):
        id, other = await inserted(store, {"l": []}), await inserted(store)
        for _ in range(2):
            _, result = await save(
                store, [update(other, {("n",): Inc(1)}), update(id, {("l",): Push(["x" * 9_000_000])})]
            )
        assert isinstance(result, SessionStoreError)
        assert len((await data(store, id))["l"]) == 1
        assert (await data(store, other))["n"] == 3

    async def test_what_has_expired_is_removed_in_small_steps(self, store, path):
        soon, later = NOW + timedelta(seconds=1), NOW + timedelta(seconds=2)
        alive = [insert({"alive": True}, expires=later + timedelta(milliseconds=1)) for _ in range(5)]
        await save(store, [*alive, *(insert({}, expires=soon) for _ in range(100))])
        assert number_of_sessions(path) == 105
        left = [105]
        while left[-1] > 5:
            assert await save(store, [update(alive[0].id, {("n",): Set(len(left))}, at=later)]) == [Outcome.SAVED]
            left.append(number_of_sessions(path))
            assert 0 < left[-2] - left[-1] < 50
        assert (await stored(store, [write.id for write in alive])).keys() == {write.id for write in alive}


class TestRecords:
    @pytest.mark.parametrize("owner", [None, "alice"])
    async def test_a_thousand_are_listed_while_others_come_and_go(self, store, owner):
        kept = [insert({}, owner="alice") for _ in range(1000)]
        going = [insert({}, owner="alice") for _ in range(1000)]
        mixed = random.sample(kept + going, 2000)
        await save(store, mixed)
        await save(store, [insert({}, owner="bob") for _ in range(300)])
        listed = []
        async for record in records(store, owner):
            if len(listed) % 100 == 0 and going:
                await end(store, [write.id for write in going[-100:]])
                del going[-100:]
                await inserted(store, owner="alice")
            listed.append(record.id)
        assert len(listed) == len(set(listed))
        assert {write.id for write in kept} <= set(listed)

    async def test_large_ones_are_not_all_in_memory_at_once(self, store):
        for _ in range(30):
            await inserted(store, {"s": "x" * 1_000_000})
        tracemalloc.start()
        try:
            assert len([len(record.data["s"]) async for record in records(store)]) == 30
            assert tracemalloc.get_traced_memory()[1] < 10_000_000
        finally:
            tracemalloc.stop()


class TestAFullDisk:
    async def test_loses_nothing_and_is_used_again_when_there_is_space(self, disk):
        path = disk.directory / "sessions.db"
        store = SQLiteStore(path)
        id, writes = await inserted(store), [insert({"s": "x" * 10_000}) for _ in range(20)]
        with disk.full():
            for call in (save(store, writes), save(store, [update(id, {("n",): Inc(1)}), *writes])):
                with pytest.raises(SessionStoreError, match=rf"{re.escape(str(path))}: {disk.problem}"):
                    await call
            assert await data(store, id) == DATA
        assert await save(store, [update(id, {("n",): Inc(1)}), *writes]) == [Outcome.SAVED] * 21
        await store.close()
        store = SQLiteStore(path)
        assert (await data(store, id))["n"] == 2
        assert (await stored(store, [write.id for write in writes])).keys() == {write.id for write in writes}
        await store.close()
        assert integrity(path) == "ok"

    async def test_is_an_error_when_the_store_is_made(self, disk):
        path = disk.directory / "sessions.db"
        with (
            disk.full(),
            pytest.raises(SessionStoreError, match=rf"cannot open {re.escape(str(path))}: {disk.problem}"),
        ):
            SQLiteStore(path)
        store = SQLiteStore(path)
        assert await data(store, await inserted(store)) == DATA
        await store.close()


class TestProcesses:
    """Two that write to one file are in `test_overlap`."""

    def test_an_application_may_be_made_before_it_forks(self, path):
        subprocess.run([sys.executable, "-c", FORKING, path], check=True, timeout=30)
        with opened(path) as connection:
            assert number_of_sessions(path) == 3
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    async def test_every_write_that_was_acknowledged_is_there_after_kill_9(self, path):
        client = AsyncHTTPClient(force_instance=True, max_clients=VISITORS)
        items = itertools.count()
        sent, acknowledged, secrets = [], [], []

        async def visit(url, cookies):
            """Sends one request after the other until the server is gone."""
            while True:
                browser = Browser(url, client)
                page = random.choice(["/increment", f"/append?item={next(items)}", "/start"])
                if page != "/start":
                    browser.cookies = dict(cookies)
                sent.append(page)
                try:
                    response = await browser.post(page)
                except (HTTPClientError, OSError):
                    return
                assert response.code == 200, response.body
                acknowledged.append(page)
                if page == "/start":
                    secrets.append(browser.secret)

        async with server(path) as url:
            first = Browser(url, client)
            assert (await first.post("/start")).code == 200
        for _ in range(KILLS):
            async with server(path) as url:
                visits = [asyncio.ensure_future(visit(url, first.cookies)) for _ in range(VISITORS)]
                await asyncio.sleep(random.uniform(0.1, 0.4))
            await asyncio.gather(*visits)
        client.close()
        sys.stdout.write(f"\n{KILLS} kills, {len(sent)} writes sent, {len(acknowledged)} acknowledged\n")

        assert KILLS < len(acknowledged) < len(sent)
        assert integrity(path) == "ok"
        store = SQLiteStore(path)
        found = await data(store, id_of_secret(first.secret))
        assert acknowledged.count("/increment") <= found["times"] <= sent.count("/increment")
        assert found["nested"] == {"a": {"n": -2 * found["times"]}}
        assert len(found["cart"]) == len(set(found["cart"]))
        assert found["log"] == [{"item": item} for item in found["cart"]]
        assert appended(acknowledged) <= set(found["cart"]) <= appended(sent)
        ids = {id_of_secret(secret) for secret in secrets}
        assert (await stored(store, list(ids))).keys() == ids
        await store.close()


@asynccontextmanager
async def server(path):
    """Runs a site in a process of its own until the context is left, and then kills it."""
    command = (sys.executable, "-m", "tests.overlap_site", "sqlite", str(path), "")
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    process = await asyncio.create_subprocess_exec(*command, **pipes)
    try:
        yield f"http://127.0.0.1:{int(await process.stdout.readline())}"
    finally:
        process.kill()
        await process.wait()


def appended(pages):
    return {page.partition("=")[2] for page in pages if page.startswith("/append")}


def modes(directory):
    return {file.name: file.stat().st_mode & 0o777 for file in directory.iterdir()}


def integrity(path):
    with opened(path) as connection:
        return connection.execute("PRAGMA integrity_check").fetchone()[0]


def transactions(path):
    """Returns how many are in the write-ahead log, as https://www.sqlite.org/fileformat2.html#walformat has it."""
    log = Path(f"{path}-wal").read_bytes()
    frames = range(32, len(log), 24 + int.from_bytes(log[8:12]))
    return sum(log[frame + 4 : frame + 8] != bytes(4) for frame in frames)


@pytest.fixture
def unprivileged():
    """A directory of a user who is not root, while we are him."""
    user = os.geteuid()
    with TemporaryDirectory() as directory:
        if user == 0:
            os.chown(directory, NOBODY, -1)
            os.seteuid(NOBODY)
        yield Path(directory)
        os.seteuid(user)


class Mounted:
    """A file system of its own, that other files fill."""

    problem = "database or disk is full"

    def __init__(self, directory):
        self.directory = directory

    @contextmanager
    def full(self):
        ballast = self.directory / "ballast"
        with pytest.raises(OSError, match="No space left"):
            ballast.write_bytes(bytes(2**21))
        yield
        ballast.unlink()


class Limited(Mounted):
    """A quota: no file grows any more."""

    problem = "disk I/O error"

    @contextmanager
    def full(self):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        size = max((file.stat().st_size for file in self.directory.iterdir()), default=0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture(params=["mounted", "limited"])
def disk(request, tmp_path):
    if request.param == "limited":
        yield Limited(tmp_path)
        return
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        yield Mounted(tmp_path)
    finally:
        subprocess.run(["umount", tmp_path], check=True)
