"""`unreadable`: what a visitor gets whose session is stored, but cannot be read."""

import asyncio
import logging
import sqlite3
from datetime import UTC, datetime, timedelta

import pytest
from tornado.httpclient import HTTPRequest
from tornado.web import RequestHandler
from tornado.websocket import WebSocketHandler, websocket_connect

from tornado_sesame import SessionManager, SessionMixin, SessionRecordError
from tornado_sesame.cookie import id_of_secret

pytestmark = pytest.mark.stores("sqlite", "motor_tornado", "motor_asyncio", "pymongo")


class Counter(SessionMixin, RequestHandler):
    def get(self):
        self.session.times = self.session.get("times", 0) + 1
        self.write(str(self.session.times))


class Read(SessionMixin, RequestHandler):
    async def get(self):
        session = await self.session
        self.write(f"{session.get('times')}, {self.session_owner}")


class Leave(SessionMixin, RequestHandler):
    async def post(self):
        await self.destroy_session()


class Rotate(SessionMixin, RequestHandler):
    async def post(self):
        await self.rotate_session_id()
        self.session_owner = "alice"


class Slow(SessionMixin, RequestHandler):
    async def get(self):
        await self.session
        self.settings["read"].set()
        await self.settings["released"].wait()


class Reload(SessionMixin, RequestHandler):
    async def get(self):
        await self.session
        await self.settings["damage"](self.session_id)
        await self.reload_session()


class Socket(SessionMixin, WebSocketHandler):
    def open(self):
        self.write_message(str(self.session.get("times")))

    def on_message(self, message):
        pass


PAGES = [
    ("/", Counter),
    ("/read", Read),
    ("/leave", Leave),
    ("/rotate", Rotate),
    ("/reload", Reload),
    ("/socket", Socket),
]


@pytest.fixture
def damage(database):
    """Has something else write to a session, so that it cannot be read; returns what is stored then."""

    async def damage(id):
        if database.is_mongo:
            await database.collection.update_one({"_id": id}, {"$set": {"data": "rubbish"}})
            return await database.collection.find_one({"_id": id})
        with sqlite3.connect(database.address[1]) as connection:
            connection.execute("UPDATE sessions SET document = x'00' WHERE id = ?", (id,))
            return connection.execute("SELECT * FROM sessions WHERE id = ?", (id,)).fetchone()

    return damage


@pytest.fixture
def stored(database):
    async def stored(id):
        if database.is_mongo:
            return await database.collection.find_one({"_id": id})
        with sqlite3.connect(database.address[1]) as connection:
            return connection.execute("SELECT * FROM sessions WHERE id = ?", (id,)).fetchone()

    return stored


def errors(caplog):
    return [
        record.getMessage()
        for record in caplog.records
        if (record.name, record.levelno) == ("tornado_sesame", logging.ERROR)
    ]


async def test_by_default_it_is_an_error_at_each_page_until_it_is_mended(site, damage, caplog):
    browser = (await site(PAGES)).browser()
    await browser.text()
    id = id_of_secret(browser.secret)
    await damage(id)
    for path in "/", "/read":
        caplog.clear()
        assert (await browser.get(path)).code == 503
        (error,) = errors(caplog)
        assert error.startswith(f"what is stored as session {id} cannot be read: ")
    assert browser.cookies


async def test_the_visitor_gets_a_new_one_and_the_document_stays(site, damage, stored, caplog):
    browser = (await site(PAGES, unreadable="new")).browser()
    await browser.text()
    before, id = browser.secret, id_of_secret(browser.secret)
    damaged = await damage(id)
    assert await browser.text() == "1"
    assert browser.secret != before
    (error,) = errors(caplog)
    assert error.startswith(f"what is stored as session {id} cannot be read: ")
    assert await browser.text() == "2"
    assert len(errors(caplog)) == 1
    assert await stored(id) == damaged


async def test_pages_that_only_read_show_an_empty_one_and_it_is_logged_once(site, damage, stored, caplog):
    running = await site(PAGES, unreadable="new")
    browser, other = running.browser(), running.browser()
    await browser.text()
    await other.text()
    id = id_of_secret(browser.secret)
    damaged = await damage(id)
    for _ in range(3):
        assert await browser.text("/read") == "None, None"
    assert len(errors(caplog)) == 1
    assert await stored(id) == damaged
    await damage(id_of_secret(other.secret))
    assert await other.text("/read") == "None, None"
    assert len(errors(caplog)) == 2


async def test_of_very_many_some_are_logged_again(site, damage, caplog, monkeypatch):
    monkeypatch.setattr("tornado_sesame.calls.MAX_UNREADABLE", 2)
    running = await site(PAGES, unreadable="new")
    browsers = [running.browser() for _ in range(3)]
    for browser in browsers:
        await browser.text()
        await damage(id_of_secret(browser.secret))
    for browser in [*browsers, *browsers]:
        assert await browser.text("/read") == "None, None"
    assert 3 < len(errors(caplog)) <= 6


async def test_a_slow_page_signs_nobody_out_who_has_signed_in_meanwhile(site, damage):
    running = await site([*PAGES, ("/slow", Slow)], unreadable="new")
    settings = running.application.settings
    settings["read"], settings["released"] = asyncio.Event(), asyncio.Event()
    browser = running.browser()
    await browser.text()
    await damage(id_of_secret(browser.secret))
    slow = asyncio.ensure_future(browser.get("/slow"))
    await settings["read"].wait()
    assert (await browser.post("/rotate")).code == 200
    settings["released"].set()
    assert (await slow).code == 200
    assert await browser.text("/read") == "None, alice"


async def test_who_signs_in_then_is_signed_in(site, damage):
    browser = (await site(PAGES, unreadable="new")).browser()
    await browser.text()
    await damage(id_of_secret(browser.secret))
    assert (await browser.post("/rotate")).code == 200
    assert await browser.text("/read") == "None, alice"


async def test_who_signs_out_ends_it(site, damage, database):
    browser = (await site(PAGES, unreadable="new")).browser()
    await browser.text()
    id = id_of_secret(browser.secret)
    await damage(id)
    assert (await browser.post("/leave")).code == 200
    assert not browser.cookies
    assert await database.data(id) is None


async def test_of_several_cookies_one_that_can_be_read_counts(site, damage):
    running = await site(PAGES, unreadable="new")
    first, second = running.browser(), running.browser()
    await first.text()
    await second.text()
    await damage(id_of_secret(first.secret))
    headers = {"Cookie": f"_session={first.secret}; _session={second.secret}"}
    response = await running.browser().get("/read", headers=headers)
    assert response.body == b"1, None"
    assert "Set-Cookie" not in response.headers


async def test_one_that_a_handler_has_already_is_not_exchanged_under_it(site, damage):
    running = await site(PAGES, unreadable="new")
    running.application.settings["damage"] = damage
    browser = running.browser()
    await browser.text()
    assert (await browser.get("/reload")).code == 503


async def test_a_websocket_opens_with_a_new_one(site, damage):
    running = await site(PAGES, unreadable="new")
    browser = running.browser()
    await browser.text()
    await damage(id_of_secret(browser.secret))
    headers = {"Cookie": f"_session={browser.secret}"}
    socket = await websocket_connect(HTTPRequest(f"ws://127.0.0.1:{running.port}/socket", headers=headers))
    assert await socket.read_message() == "None"
    socket.close()


async def test_it_is_an_error_of_its_own_class(site, database, damage):
    running = await site(PAGES)
    browser = running.browser()
    await browser.text()
    id = id_of_secret(browser.secret)
    await damage(id)
    with pytest.raises(SessionRecordError) as raised:
        async with running.manager.edit(id):
            raise AssertionError
    assert (raised.value.id, raised.value.status_code) == (id, 503)


def test_anything_else_is_refused():
    with pytest.raises(ValueError, match="unreadable='ignore': must be 'error' or 'new'"):
        SessionManager(unreadable="ignore")


@pytest.mark.mongodb
async def test_one_that_claims_to_be_of_the_year_9999_spoils_nothing_for_others(site, database):
    running = await site(PAGES, absolute_timeout=timedelta(days=1))
    browser, other = running.browser(), running.browser()
    await browser.text()
    await other.text()
    created = {"created": datetime(9999, 12, 31, tzinfo=UTC)}
    await database.collection.update_one({"_id": id_of_secret(browser.secret)}, {"$set": created})
    pages = await asyncio.gather(*(visitor.text("/read") for visitor in [browser, other] * 5))
    assert pages == ["1, None"] * 10
    assert len([record async for record in running.manager.records()]) == 2
