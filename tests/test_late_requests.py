"""A request that was on its way when its session ended signs nobody out, and brings nothing back."""

import asyncio
import contextlib
import json
import logging
import sys

import pytest
from tornado.httpclient import AsyncHTTPClient

from tornado_sesame.cookie import id_of_secret

from .late_site import PAGES
from .support import Browser, record_of

LATENCIES = [0, 0.02, 0.05, 0.2]
ROUNDS = 5


@pytest.fixture
async def running(site):
    return await site(PAGES)


@contextlib.asynccontextmanager
async def polling(browser, latency):
    """Has the page poll, by reading and by writing, all the time; gives the responses."""
    responses, is_over = [], asyncio.Event()

    async def poll(method, path):
        while not is_over.is_set():
            responses.append(await browser.fetch(method, path))
            await asyncio.sleep(0)

    browser.latency = latency
    tasks = [asyncio.create_task(poll(*what)) for what in [("POST", "/poll"), ("GET", "/read")] * 3]
    await asyncio.sleep(2 * latency + 0.005)
    yield responses
    await asyncio.sleep(2 * latency + 0.005)
    is_over.set()
    await asyncio.gather(*tasks)
    browser.latency = 0


@pytest.mark.parametrize("latency", LATENCIES)
async def test_polls_do_not_undo_a_login(running, latency):
    for _ in range(ROUNDS if latency < 0.1 else 2):
        browser = running.browser()
        await browser.post("/visit")
        async with polling(browser, latency) as responses:
            login = await browser.post("/login")
            secret = browser.secret
        assert "Set-Cookie" in login.headers
        assert not any("Set-Cookie" in response.headers for response in responses)
        assert {response.code for response in responses} == {200}
        assert browser.secret == secret
        assert await browser.text("/who") == "alice"


@pytest.mark.parametrize("latency", LATENCIES)
async def test_polls_do_not_undo_a_logout(running, database, latency):
    browser = running.browser()
    await browser.post("/visit")
    secret = browser.secret
    async with polling(browser, latency) as responses:
        await browser.post("/logout")
        assert not browser.cookies
        # The page goes on polling without a cookie, as is its right; what is of interest are those on their way.
        on_their_way = len(responses)
        await asyncio.sleep(2 * latency)
        late = responses[on_their_way : on_their_way + 6] if latency else []
    assert not any("Set-Cookie" in response.headers for response in late)
    assert await database.data(secret) is None


async def test_nor_what_an_administrator_ends(running, database, caplog):
    caplog.set_level(logging.INFO, "tornado_sesame")
    browser = running.browser()
    await browser.post("/visit")
    secret = browser.secret
    await running.manager.destroy(id_of_secret(secret))
    for _ in range(3):
        response = await browser.post("/poll")
        assert response.code == 200
        assert "Set-Cookie" not in response.headers
        assert await browser.text("/read") == "{}"
        assert await browser.text("/who") == ""
    assert [record async for record in running.manager.records()] == []
    assert caplog.text.count(f"dropped a late write to session {id_of_secret(secret)}") == 3


@pytest.mark.parametrize("path", ["/login", "/login?first=1"])
@pytest.mark.parametrize("latency", LATENCIES)
async def test_a_double_click_on_login_signs_in(running, latency, path):
    browser = running.browser()
    await browser.post("/visit")
    browser.latency = latency
    first = asyncio.create_task(browser.post(path))
    await asyncio.sleep(0)
    second = asyncio.create_task(browser.post(path))
    assert {response.code for response in await asyncio.gather(first, second)} == {200}
    assert await browser.text("/who") == "alice"


async def test_a_second_click_that_comes_after_the_first_signs_in_anew(running):
    browser = running.browser()
    await browser.post("/visit")
    old = dict(browser.cookies)
    await browser.post("/login?first=1")
    first = browser.secret
    browser.cookies = dict(old)
    await browser.post("/login?first=1")
    assert browser.secret not in (first, old["_session"])
    assert await browser.text("/who") == "alice"


async def late(running):
    """Returns a browser that still sends the cookies of a session that has ended, and these cookies."""
    browser = running.browser()
    await browser.post("/visit")
    old = dict(browser.cookies)
    await browser.post("/logout")
    browser.cookies = dict(old)
    return browser, old


async def test_a_late_request_may_begin_a_new_session_only_explicitly(running, database):
    browser, old = await late(running)
    response = await browser.post("/logout")
    assert response.headers["Set-Cookie"].startswith("_session=; Max-Age=0")
    browser.cookies = dict(old)
    await browser.post("/login")
    assert browser.secret != old["_session"]
    assert await browser.text("/who") == "alice"


async def test_what_a_late_request_had_is_in_the_session_that_it_begins(running, database):
    browser, old = await late(running)
    await browser.post("/move")
    assert browser.secret != old["_session"]
    assert json.loads(await browser.text("/read")) == {"moved": True}


@pytest.mark.stores("memory", "pymongo")
async def test_eleven_seconds_later_the_id_is_unknown(running, database):
    browser = running.browser()
    await browser.post("/visit")
    secret = browser.secret
    await running.manager.destroy(id_of_secret(secret))
    await asyncio.sleep(11)
    await browser.post("/poll")
    assert browser.secret != secret
    assert json.loads(await browser.text("/read")) == {"nested": {"seen": 1}, "polled": True}


async def test_the_marker_costs_no_command_and_nobody_sees_it(running, database):
    browser = running.browser()
    await browser.post("/visit")
    cookies = dict(browser.cookies)
    await browser.post("/login")
    browser.cookies = cookies
    database.commands.take()
    assert await browser.text("/read") == "{}"
    assert database.commands.take() == ["find"] * database.is_mongo
    assert [record.owner async for record in running.manager.records()] == ["alice"]
    assert [record.owner async for record in running.manager.records("alice")] == ["alice"]
    assert await record_of(running.manager, id_of_secret(cookies["_session"])) is None


@pytest.mark.stores("sqlite", "pymongo")
@pytest.mark.parametrize("seconds", [-2, 2])
async def test_the_clocks_of_two_servers_may_differ(running, database, seconds):
    command = ("-m", "tests.late_site", *database.address, str(seconds))
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    process = await asyncio.create_subprocess_exec(sys.executable, *command, **pipes)
    client = AsyncHTTPClient(force_instance=True)
    try:
        port = int(await process.stdout.readline())
        for first, second in (
            (running.url, f"http://127.0.0.1:{port}"),
            (f"http://127.0.0.1:{port}", running.url),
        ):
            here, there = Browser(first, client), Browser(second, client)
            assert (await here.post("/visit")).code == 200
            there.cookies = dict(here.cookies)
            assert (await here.post("/login")).code == 200
            for method, path in (("POST", "/poll"), ("GET", "/read"), ("POST", "/poll")):
                response = await there.fetch(method, path)
                assert response.code == 200
                assert "Set-Cookie" not in response.headers
            assert await here.text("/who") == "alice"
            assert (await here.get("/read")).body == b'{"visits": 1, "nested": {"seen": 0}}'
    finally:
        client.close()
        process.stdin.close()
        await process.wait()
