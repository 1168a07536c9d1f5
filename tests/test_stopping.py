"""A server that is stopped answers what is under way, and loses nothing that was acknowledged."""

import asyncio
import itertools
import logging
import signal
import sys

import pytest
from tornado.httpclient import AsyncHTTPClient

from tornado_sesame import MemoryStore, SessionManager
from tornado_sesame.cookie import id_of_secret

from .support import Browser, eventually

VISITORS = 20


class Visitor:
    """Counts, rotates and signs out, again and again, until nobody listens any more."""

    def __init__(self, browser, paths):
        self.browser = browser
        self.paths = paths
        self.counted = 0
        self.answers = 0
        self.broken = []  # requests that were taken and not answered

    async def visit(self):
        for path in itertools.chain(["/start"], self.paths):
            try:
                response = await self.browser.post(path)
            except (ConnectionRefusedError, ConnectionResetError):
                return  # nobody has accepted the connection
            if response.code == 599:
                self.broken.append((path, response.error))
                return
            assert response.code == 200, response.body
            self.answers += 1
            self.counted = 1 if path in ("/start", "/destroy") else self.counted + 1


@pytest.mark.posix
@pytest.mark.stores("memory", "sqlite", "motor_asyncio", "pymongo")
@pytest.mark.parametrize("waits", [True, False], ids=["waits", "does_not_wait"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stopped_server_loses_nothing(database, waits, number):
    pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
    command = ("-m", "tests.stopping_site", *(database.address or ("memory", "-", "-")), str(waits))
    process = await asyncio.create_subprocess_exec(sys.executable, *command, **pipes)
    client = AsyncHTTPClient(force_instance=True, max_clients=VISITORS)
    try:
        port = int(await process.stdout.readline())
        # Without waiting, a request may come before what the last one began or changed is stored.
        paths = ["/count", "/rotate", "/count", "/destroy"] if waits else ["/count"]
        browsers = [Browser(f"http://127.0.0.1:{port}", client) for _ in range(VISITORS)]
        visitors = [Visitor(browser, itertools.cycle(paths)) for browser in browsers]
        visits = [asyncio.create_task(visitor.visit()) for visitor in visitors]

        async def is_busy():
            return all(visitor.answers >= 8 for visitor in visitors)

        await eventually(is_busy)
        process.send_signal(number)
        _, errors = await process.communicate()
        await asyncio.gather(*visits)
    finally:
        client.close()
    assert process.returncode == 0
    assert [visitor.broken for visitor in visitors if visitor.broken] == []
    for trouble in (b"Task was destroyed", b"never retrieved", b"never awaited", b"Traceback", b"[E ", b"[W "):
        assert trouble not in errors, errors.decode()
    if database.address:
        for visitor in visitors:
            assert (await database.data(visitor.browser.secret))["n"] == visitor.counted


class Stuck(MemoryStore):
    """A store that does not answer any more."""

    is_stuck = False
    is_closed = False

    async def save(self, writes, *, timeout):
        if self.is_stuck:
            await asyncio.Event().wait()
        return await super().save(writes, timeout=timeout)

    async def pop(self, end, *, timeout):
        if self.is_stuck:
            await asyncio.Event().wait()
        return await super().pop(end, timeout=timeout)

    async def close(self):
        self.is_closed = True


async def told(manager):
    """Returns a stored session whose client has its cookie."""
    live = manager.open()
    live.open_empty()
    live.session.n = 0
    await live.save()
    live.response_header(https=True)
    return live


@pytest.mark.parametrize("what", ["save", "rotate", "destroy"])
async def test_closing_waits_for_what_is_under_way_and_not_for_ever(what, caplog):
    manager = SessionManager(Stuck(), timeout=0.5)
    live = await told(manager)
    manager.store.is_stuck = True
    live.session.n += 1
    task = asyncio.ensure_future(getattr(live, what)())
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await manager.close()
    assert manager.store.is_closed
    await asyncio.wait([task])
    assert task.exception() is not None
    assert [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_closing_takes_no_longer_than_timeout_under_load(caplog):
    manager = SessionManager(timeout=0.5)
    live = await told(manager)

    async def change():
        while True:
            live.session.n += 1
            await asyncio.sleep(0)

    changes = asyncio.create_task(change())
    await asyncio.sleep(0.01)
    async with asyncio.timeout(60):
        await manager.close()
    changes.cancel()
    assert "closed the session store before all was done, as that took over 0.5 s" in caplog.text


@pytest.mark.parametrize("turns", range(6))
async def test_closing_waits_for_rotations_and_deletions(database, turns):
    manager = SessionManager(database.new_store())
    moved, ended = await told(manager), await told(manager)
    old = moved.id, ended.id
    moving, ending = asyncio.ensure_future(moved.rotate()), asyncio.ensure_future(ended.destroy())
    for _ in range(turns + 1):
        await asyncio.sleep(0)
    await manager.close()
    await asyncio.gather(moving, ending)
    assert [await database.data(id) for id in old] == [None, None]
    assert await database.data(moved.id) == {"n": 0}
    assert moved.id == id_of_secret(moved.response_header(https=True)[1].partition("=")[2].partition(";")[0])
