"""Several processes, threads and event loops: they work, or say at once that they cannot."""

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager

import pytest
from tornado.httpclient import AsyncHTTPClient
from tornado.web import RequestHandler

from tornado_sesame import SessionError, SessionManager, SessionMixin

from .mongod import free_port
from .support import Browser, serve


@asynccontextmanager
async def forked(way, path):
    """Runs a site of two processes; gives its URL, and a list that has what they logged, when they are over."""
    port, log = free_port(), []
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.forking_site", way, str(path), str(port)),
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield f"http://127.0.0.1:{port}", log
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        _, errors = await process.communicate()
        log.append(errors.decode())


async def counted(url):
    """Returns what a visitor is shown who comes until both processes have answered several times."""
    client = AsyncHTTPClient(force_instance=True)
    browser = Browser(url, client)
    seen, shown = {}, []
    try:
        async with asyncio.timeout(120):
            while len(seen) < 2 or min(seen.values()) < 5:
                try:
                    response = await browser.get()
                except ConnectionRefusedError:
                    await asyncio.sleep(0.02)
                    continue
                assert response.code == 200
                process, times = response.body.split()
                seen[process] = seen.get(process, 0) + 1
                shown.append(int(times))
                assert response.request_time < 5
    finally:
        client.close()
    return shown


@pytest.mark.posix
@pytest.mark.parametrize("way", ["sqlite", "used"])
async def test_sqlite_works_over_a_fork(way, tmp_path):
    async with forked(way, tmp_path / "sessions.db") as (url, log):
        shown = await counted(url)
    assert shown == [*range(1, len(shown) + 1)]
    assert log == [""] or "[" not in log[0].replace("[I ", ""), log


@pytest.mark.posix
@pytest.mark.parametrize("way", ["memory", "workers"])
async def test_memory_that_is_used_by_a_second_process_warns_once(way, tmp_path):
    async with forked(way, tmp_path) as (url, log):
        shown = await counted(url)
    assert shown != [*range(1, len(shown) + 1)]  # the counter jumps
    assert log[0].count("MemoryStore is used by several processes") == 1
    assert "use SQLiteStore(path) or MongoStore" in log[0]


class Handler(SessionMixin, RequestHandler):
    async def get(self, way):
        session = await self.session
        session.n = session.get("n", 0) + 1
        if self.get_argument("saved", ""):
            await self.save_session()
        try:
            await asyncio.to_thread(getattr(self, way))
        except SessionError as error:
            self.write(str(error))
        else:
            self.write("nothing was raised")

    def item(self):
        self.session["other"] = 1

    def append(self):
        self.session.setdefault("list", []).append(1)

    def count(self):
        self.session.n += 1

    def delete(self):
        del self.session.n

    def replace(self):
        self.session = {"other": 1}

    def owner(self):
        self.session_owner = "alice"

    def in_a_loop_of_its_own(self):
        async def change():
            self.session.n += 1

        asyncio.run(change())

    def reads(self):
        assert self.session.n == 1
        raise SessionError("it can be read")


@pytest.mark.stores("memory", "pymongo")
class TestThreads:
    @pytest.mark.parametrize("saved", ["", "1"])
    @pytest.mark.parametrize("way", ["item", "append", "count", "delete", "replace", "owner", "in_a_loop_of_its_own"])
    async def test_a_change_from_another_thread_is_an_error_and_changes_nothing(self, site, database, way, saved):
        running = await site([("/(.*)", Handler)])
        browser = running.browser()
        text = await browser.text(f"/{way}?saved={saved}")
        assert "another thread" in text
        assert "loop.call_soon_threadsafe" in text
        assert await database.data(browser.secret) == {"n": 1}
        assert [record.owner async for record in running.manager.records()] == [None]

    async def test_reading_is_not(self, site):
        assert await (await site([("/(.*)", Handler)])).browser().text("/reads") == "it can be read"

    async def test_nor_is_a_change_that_is_handed_over(self, site, database):
        class HandsOver(SessionMixin, RequestHandler):
            async def get(self):
                session = await self.session
                loop = asyncio.get_running_loop()
                await asyncio.to_thread(loop.call_soon_threadsafe, session.update, {"n": 1})

        browser = (await site([("/", HandsOver)])).browser()
        await browser.get()
        assert await database.data(browser.secret) == {"n": 1}

    async def test_a_change_without_any_loop_is_an_error(self, database):
        manager = SessionManager(database.new_store())

        def begin():
            manager.open()

        with pytest.raises(SessionError, match="another thread"):
            await asyncio.to_thread(begin)


class Counter(SessionMixin, RequestHandler):
    def get(self):
        self.session.times = self.session.get("times", 0) + 1
        self.write(str(self.session.times))


async def test_one_manager_on_two_running_loops_is_an_error_at_once(caplog):
    manager = SessionManager()
    async with serve([("/", Counter)], sessions=manager) as running:
        browser = running.browser()
        assert await browser.text() == "1"

        async def elsewhere():
            live = manager.open()
            live.open_empty()
            live.session.n = 1
            await live.save()

        with pytest.raises(SessionError, match="give each loop a SessionManager of its own"):
            await asyncio.to_thread(asyncio.run, elsewhere())
        assert await browser.text() == "2"


def test_one_loop_after_the_other_is_fine():
    manager = SessionManager()

    async def use():
        live = manager.open()
        live.open_empty()
        live.session.n = 1
        await live.save()
        return live.id

    ids = {asyncio.run(use()) for _ in range(3)}
    assert len(ids) == 3
