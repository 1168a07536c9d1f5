"""When requests overlap, nothing is lost: through two server processes on one MongoDB or file, or one in memory."""

import asyncio
import itertools
import json
import random
import sys
from contextlib import AsyncExitStack

import pytest
from tornado.httpclient import AsyncHTTPClient

from .overlap_site import PAGES
from .support import Browser

OPERATIONS = 1_000
ROUNDS = 200
CONNECTIONS = 64


class Sites:
    """The servers of one site, in turns."""

    def __init__(self, urls):
        self._client = AsyncHTTPClient(force_instance=True, max_clients=CONNECTIONS)
        self._urls = itertools.cycle(urls)

    def browser(self, cookies=()):
        """Returns a visitor who is sent to the next server."""
        browser = Browser(next(self._urls), self._client)
        browser.cookies = dict(cookies)
        return browser

    async def start(self):
        """Returns the cookies of a new session."""
        browser = self.browser()
        assert (await browser.post("/start")).code == 200
        return browser.cookies

    async def post(self, cookies, path):
        browser = self.browser(cookies)
        response = await browser.post(path)
        assert response.code == 200, response.body
        return browser.cookies

    async def data(self, cookies):
        return json.loads(await self.browser(cookies).text())

    def close(self):
        self._client.close()


@pytest.fixture
async def sites(database, site):
    async with AsyncExitStack() as stack:
        if database.address:
            command = ("-m", "tests.overlap_site", *database.address)
            urls = []
            for _ in range(2):
                pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
                process = await asyncio.create_subprocess_exec(sys.executable, *command, **pipes)
                stack.push_async_callback(process.wait)
                stack.callback(process.stdin.close)
                urls.append(f"http://127.0.0.1:{int(await process.stdout.readline())}")
        else:
            urls = [(await site(PAGES)).url]
        sites = Sites(urls)
        stack.callback(sites.close)
        yield sites


async def test_a_thousand_overlapping_changes_are_all_there(sites):
    cookies = await sites.start()
    paths = ["/increment", "/append?item={}", "/field?item={}"]
    requests = [random.choice(paths).format(item) for item in range(OPERATIONS)]
    await asyncio.gather(*(sites.post(cookies, path) for path in requests))

    increments = sum(path == "/increment" for path in requests)
    appended = {path.partition("=")[2] for path in requests if path.startswith("/append")}
    fields = {path.partition("=")[2] for path in requests if path.startswith("/field")}
    data = await sites.data(cookies)
    assert data["times"] == data["fresh"] == increments
    assert data["total"] == 0.5 + 0.5 * increments
    assert data["nested"] == {"a": {"n": -2 * increments}}
    assert len(data["cart"]) == len(data["log"]) == len(appended)
    assert set(data["cart"]) == {entry["item"] for entry in data["log"]} == appended
    assert data["fields"].keys() == {"first", *fields}


async def test_a_logout_is_final_whatever_else_is_running(sites):
    async def race():
        cookies = await sites.start()
        await asyncio.gather(
            sites.post(cookies, "/logout"), sites.post(cookies, "/increment"), sites.post(cookies, "/append?item=late")
        )
        return await sites.data(cookies)

    assert await in_rounds(race) == [{}] * ROUNDS


async def test_after_a_login_only_the_new_id_lives_whatever_else_is_running(sites):
    async def race():
        old = await sites.start()
        before = await sites.post(old, "/increment")
        new, *_ = await asyncio.gather(
            sites.post(old, "/login"), sites.post(old, "/increment"), sites.post(old, "/append?item=late")
        )
        assert before == old
        assert new != old
        found = await sites.data(new)
        return await sites.data(old), found["user"], found["times"] in {1, 2}, found["cart"] in ([], ["late"])

    assert await in_rounds(race) == [({}, "alice", True, True)] * ROUNDS


async def test_of_a_login_and_a_logout_at_once_none_revives_the_old_session(sites):
    async def race():
        old = await sites.start()
        await asyncio.gather(sites.post(old, "/login"), sites.post(old, "/logout"))
        return await sites.data(old)

    assert await in_rounds(race) == [{}] * ROUNDS


async def in_rounds(race):
    """Runs *race* 200 times, some at once, and returns how each ended."""
    results = []
    for _ in range(ROUNDS // 8):
        results += await asyncio.gather(*(race() for _ in range(8)))
    return results
