"""`SessionManager(header=...)`: the secret travels in a header, for clients that have no cookies."""

import asyncio
import logging
from datetime import timedelta

import pytest
from tornado.httpclient import HTTPRequest
from tornado.web import RequestHandler
from tornado.websocket import WebSocketHandler, websocket_connect

from tornado_sesame import SessionCookie, SessionManager, SessionMixin
from tornado_sesame.cookie import Secret

HEADER = "X-Session-Token"


class Counter(SessionMixin, RequestHandler):
    def get(self):
        self.session.times = self.session.get("times", 0) + 1
        self.write(str(self.session.times))


class Later(SessionMixin, RequestHandler):
    async def get(self):
        session = await self.session
        self.write(str(session.get("times")))


class Read(SessionMixin, RequestHandler):
    def get(self):
        self.write(str(self.session.get("times")))


class Untouched(SessionMixin, RequestHandler):
    def get(self):
        self.write("nothing")


class Leave(SessionMixin, RequestHandler):
    async def post(self):
        await (self.rotate_session_id if self.get_argument("rotate", None) else self.destroy_session)()


class Remember(SessionMixin, RequestHandler):
    def post(self):
        self.session_lifetime = timedelta(days=1)


class Socket(SessionMixin, WebSocketHandler):
    def open(self):
        self.write_message(str(self.session.get("times")))

    def on_message(self, message):
        pass


PAGES = [
    ("/", Counter),
    ("/later", Later),
    ("/read", Read),
    ("/untouched", Untouched),
    ("/leave", Leave),
    ("/remember", Remember),
    ("/socket", Socket),
]


@pytest.fixture
async def running(site):
    return await site(PAGES, header=HEADER)


class Client:
    """Keeps what the header says, and no cookies."""

    def __init__(self, site):
        self.browser = site.browser()
        self.token = ""

    async def fetch(self, method="GET", path="/", **headers):
        response = await self.browser.fetch(method, path, headers={HEADER: self.token, **headers})
        assert response.code == 200
        assert "Set-Cookie" not in response.headers
        self.token = response.headers.get(HEADER, self.token)
        return response

    async def text(self, path="/"):
        return (await self.fetch("GET", path)).body.decode()


async def test_an_empty_one_begins_a_session_and_its_secret_goes_on_with_it(running, database):
    client = Client(running)
    response = await client.fetch()
    assert response.headers[HEADER] == client.token != ""
    for times in "23":
        response = await client.fetch()
        assert response.body.decode() == times
        assert HEADER not in response.headers
    assert [await client.text(path) for path in ("/later", "/read")] == ["3", "3"]
    assert await database.data(client.token) == {"times": 3}


async def test_without_it_there_are_cookies_in_the_same_application(running):
    client, browser = Client(running), running.browser()
    await client.fetch()
    response = await browser.get()
    assert "Set-Cookie" in response.headers
    assert HEADER not in response.headers
    assert [await client.text(), await browser.text()] == ["2", "2"]


async def test_it_takes_the_place_of_cookies_that_come_with_it(running):
    client, browser = Client(running), running.browser()
    await browser.text()
    response = await client.fetch(Cookie=f"_session={browser.secret}")
    assert response.body == b"1"
    assert client.token != browser.secret
    assert await browser.text() == "2"


@pytest.mark.parametrize(
    "wrong", ["x", "A" * 42, "A" * 44, "A" * 42 + "%", "é" * 43, "Bearer " + "A" * 43, "A" * 43 + "," + "B" * 43]
)
async def test_what_has_not_the_form_of_a_secret_does_not_reach_the_store(running, database, wrong):
    database.commands.take()
    client = Client(running)
    client.token = wrong
    assert await client.text("/read") == "None"
    assert database.commands.take() == []
    assert await client.text() == "1"
    assert client.token != wrong


async def test_an_unknown_secret_is_not_adopted(running):
    client = Client(running)
    client.token = planted = Secret().value
    assert await client.text() == "1"
    assert client.token != planted


async def test_a_rotation_gives_a_new_one_and_an_end_an_empty_one(running, database):
    client = Client(running)
    await client.fetch()
    first = client.token
    response = await client.fetch("POST", "/leave?rotate=1")
    assert client.token not in ("", first)
    assert response.headers["Cache-Control"] == "no-store"
    assert await database.data(first) is None
    assert await client.text("/read") == "1"
    second = client.token
    response = await client.fetch("POST", "/leave")
    assert response.headers[HEADER] == client.token == ""
    assert await database.data(second) is None
    client.token = second
    assert await client.text("/read") == "None"


async def test_what_depends_on_the_session_says_on_what_it_depends(running):
    for response in await Client(running).fetch(), await running.browser().get():
        assert response.headers.get_list("Vary") == ["Cookie", HEADER]
        assert response.headers["Cache-Control"] == "no-store"
    untouched = await Client(running).fetch(path="/untouched")
    assert not {"Vary", "Cache-Control", HEADER} & untouched.headers.keys()


async def test_the_cookies_path_is_not_the_headers(site):
    running = await site(PAGES, header=HEADER, cookie=SessionCookie(path="/app"))
    client = Client(running)
    assert [await client.text() for _ in range(2)] == ["1", "2"]


async def test_a_lifetime_is_kept_without_a_cookie(running):
    client = Client(running)
    await client.fetch()
    token = client.token
    await client.fetch("POST", "/remember")
    assert client.token == token
    (record,) = [record async for record in running.manager.records()]
    assert record.lifetime == timedelta(days=1)


async def test_a_websocket_of_such_a_client_has_its_session(running):
    client = Client(running)
    await client.fetch()
    request = HTTPRequest(f"ws://127.0.0.1:{running.port}/socket", headers={HEADER: client.token})
    socket = await websocket_connect(request)
    assert await socket.read_message() == "1"
    await client.fetch("POST", "/leave")
    assert await socket.read_message() is None
    assert socket.close_code == 1008
    socket.close()


async def test_overlapping_requests_lose_nothing(running):
    client = Client(running)
    await client.fetch()
    texts = await asyncio.gather(*(client.text() for _ in range(30)))
    assert len(texts) == 30
    assert await client.text("/read") == "31"


class Foreign(RequestHandler):
    """A base class that knows nothing of sessions and calls no super()."""

    session_manager = "its own"

    def prepare(self):
        self.set_header("X-Session-Token", "planted")

    def on_finish(self):
        pass


async def test_it_works_below_a_base_class_that_somebody_else_wrote(site, database):
    class Page(SessionMixin, Foreign):
        session_manager = Foreign.session_manager

        def get(self):
            self.session.setdefault("visits", {}).times = self.session.get("visits", {}).get("times", 0) + 1
            self.write(str(self.session.visits.times))

    running = await site([("/", Page), ("/leave", Leave)], header=HEADER)
    client = Client(running)
    assert await client.text() == "1"
    assert len(client.token) == 43  # ours takes the place of what the base class had set
    token = client.token
    assert await database.data(token) == {"visits": {"times": 1}}


@pytest.mark.stores("memory")
async def test_without_the_setting_the_header_means_nothing(site):
    running = await site(PAGES)
    response = await running.browser().get(headers={HEADER: ""})
    assert "Set-Cookie" in response.headers
    assert HEADER not in response.headers


@pytest.mark.stores("memory")
async def test_a_page_that_does_not_touch_the_session_goes_on_with_a_wrong_manager(site, caplog):
    class Wrong(Untouched):
        @property
        def session_manager(self):
            raise ZeroDivisionError

    with caplog.at_level(logging.ERROR):
        assert await (await site([("/", Wrong)])).browser().text() == "nothing"


@pytest.mark.stores("memory")
@pytest.mark.parametrize(
    ("wrong", "error"),
    [(5, TypeError), *((name, ValueError) for name in ("", "X Token", "Cookie", "Set-Cookie", "authorization"))],
)
def test_a_name_that_cannot_be_meant_is_refused(database_kind, wrong, error):
    with pytest.raises(error, match="header"):
        SessionManager(header=wrong)
