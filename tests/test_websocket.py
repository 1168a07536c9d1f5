"""Sessions in WebSocket handlers, which live long after their handshake."""

import asyncio

import pytest
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.web import RequestHandler
from tornado.websocket import WebSocketHandler, websocket_connect

from tornado_sesame import MemoryStore, SessionError, SessionManager, SessionMixin
from tornado_sesame.cookie import id_of_secret

from .support import eventually, serve


class Counter(SessionMixin, RequestHandler):
    def get(self):
        self.session.times = self.session.get("times", 0) + 1
        self.write(str(self.session.times))


class Echo(SessionMixin, WebSocketHandler):
    def open(self):
        self.write_message(f"open {self.session.times}")

    def on_message(self, message):
        self.session.times += 1
        self.session.setdefault("said", []).append(message)
        self.write_message(f"{message} {self.session.times}")


class Awaiting(SessionMixin, WebSocketHandler):
    async def open(self):
        await self.write_message(f"open {(await self.session).times}")

    async def on_message(self, message):
        await self.reload_session()
        await self.write_message(str(self.session.times))


class Stranger(SessionMixin, WebSocketHandler):
    def open(self):
        try:
            self.session.new = True
        except SessionError as error:
            self.write_message(str(error))


class Welcoming(SessionMixin, WebSocketHandler):
    async def prepare(self):
        (await self.session).welcome = True

    async def open(self):
        await self.write_message(repr(self.session))


PAGES = [("/", Counter), ("/echo", Echo), ("/awaiting", Awaiting), ("/stranger", Stranger), ("/welcoming", Welcoming)]


@pytest.fixture
async def running(site):
    return await site(PAGES)


async def connect(running, browser, path):
    headers = {"Cookie": f"_session={browser.secret}"} if browser.cookies else {}
    return await websocket_connect(HTTPRequest(f"ws://127.0.0.1:{running.port}{path}", headers=headers))


async def test_a_message_changes_the_session(running, database):
    browser = running.browser()
    await browser.text()
    socket = await connect(running, browser, "/echo")
    assert await socket.read_message() == "open 1"
    await socket.write_message("hello")
    assert await socket.read_message() == "hello 2"

    async def is_saved():
        return await database.data(browser.secret) == {"times": 2, "said": ["hello"]}

    await eventually(is_saved)
    assert await browser.text() == "3"
    socket.close()


async def test_changes_by_others_are_kept_and_seen_after_a_reload(running):
    browser = running.browser()
    await browser.text()
    socket = await connect(running, browser, "/awaiting")
    assert await socket.read_message() == "open 1"
    await browser.text()
    await socket.write_message("again")
    assert await socket.read_message() == "2"
    socket.close()


async def test_a_new_session_comes_too_late_after_the_handshake(running):
    socket = await connect(running, running.browser(), "/stranger")
    assert "before flush() or the WebSocket's handshake" in await socket.read_message()
    socket.close()


async def test_a_new_session_in_prepare_gets_its_cookie_with_the_handshake(running, database):
    socket = await connect(running, running.browser(), "/welcoming")
    assert await socket.read_message() == "{'welcome': True}"
    cookie = socket.headers["Set-Cookie"]
    secret = cookie.partition("=")[2].partition(";")[0]

    assert await database.data(secret) == {"welcome": True}  # the handshake has waited for it
    socket.close()


async def test_a_handshake_is_refused_when_what_came_before_could_not_be_saved():
    class Broken(MemoryStore):
        async def save(self, writes, *, timeout):
            raise OSError("no disk")

    async with serve(PAGES, sessions=SessionManager(Broken())) as running:
        with pytest.raises(HTTPClientError) as caught:
            await connect(running, running.browser(), "/welcoming")
    assert caught.value.code == 503
    assert "Set-Cookie" not in caught.value.response.headers


async def test_a_logout_elsewhere_is_final_for_an_open_socket(running, database):
    browser = running.browser()
    await browser.text()
    socket = await connect(running, browser, "/echo")
    await socket.read_message()
    await running.manager.destroy(id_of_secret(browser.secret))
    await socket.write_message("late")
    await socket.read_message()
    await asyncio.sleep(0.05)
    assert await database.data(browser.secret) is None
    socket.close()
