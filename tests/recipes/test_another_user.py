"""Another user on the same browser: what a visitor takes along into his login, and what nobody inherits."""

import asyncio
import json
import re
from urllib.parse import urlencode

import pytest
from tornado.httpclient import HTTPRequest
from tornado.web import RequestHandler
from tornado.websocket import websocket_connect

from demo.recipes.another_user import PASSWORDS, Login, Visit, make_application
from tests.support import Site, record_of
from tornado_sesame import SessionMixin
from tornado_sesame.cookie import id_of_secret


class Slow(SessionMixin[Visit], RequestHandler):
    """Puts something into the cart late, long after it has read it."""

    def initialize(self, reading, going_on):
        self.reading, self.going_on = reading, going_on

    async def get(self):
        session = await self.session
        self.write(f"{self.session_owner}: {', '.join(session.cart)}")
        self.reading.set()
        await self.going_on.wait()
        session.cart.append("late")


class SlowLogin(Login):
    """Takes its time to check a password, which is right; and has looked at the session before."""

    def initialize(self, reading, going_on):
        self.reading, self.going_on = reading, going_on

    def check_xsrf_cookie(self):
        pass

    async def check_password(self, name, password):
        await self.session
        self.reading.set()
        await self.going_on.wait()
        return name


@pytest.fixture
def slowly():
    """The moments at which the slow requests have read and at which they go on."""
    return {"reading": asyncio.Event(), "going_on": asyncio.Event()}


@pytest.fixture
async def site(slowly):
    application = make_application()
    application.add_handlers(".*", [("/slow", Slow, slowly), ("/slow-login", SlowLogin, slowly)])
    site = Site(application)
    yield site
    await site.close()


@pytest.fixture
def connect(site):
    """Opens the WebSocket of a browser's page."""
    sockets = []

    async def connect(browser):
        headers = {"Cookie": f"_session={browser.secret}"}
        sockets.append(await websocket_connect(HTTPRequest(f"ws://127.0.0.1:{site.port}/live", headers=headers)))
        return sockets[-1]

    yield connect
    for socket in sockets:
        socket.close()


async def submit(browser, path, **fields):
    """Sends the shop's form for *path*."""
    token = re.search(r'name="_xsrf" value="([^"]+)"', await browser.text())[1]
    response = await browser.post(path, body=urlencode({"_xsrf": token, **fields}))
    assert response.code == 303
    return response


async def take(browser, item):
    await submit(browser, "/cart", item=item)


async def sign_in(browser, name):
    await submit(browser, "/login", name=name, password=PASSWORDS[name])


async def shown(browser):
    """Returns whose page it is, and what is in the cart."""
    return re.match("<p>(.*?)</p>", await browser.text())[1]


async def has_ended(site, secret):
    return await record_of(site.manager, id_of_secret(secret)) is None


async def test_a_visitor_takes_his_cart_along_into_his_login(site):
    browser = site.browser()
    await take(browser, "a book")
    before = browser.secret
    await sign_in(browser, "alice")
    assert await shown(browser) == "alice: a book"
    assert browser.secret != before
    assert await has_ended(site, before)


async def test_another_user_inherits_nothing(site):
    browser = site.browser()
    await sign_in(browser, "alice")
    await take(browser, "a gift for bob")
    before = browser.secret
    await sign_in(browser, "bob")
    assert await shown(browser) == "bob: "
    assert browser.secret != before
    assert await has_ended(site, before)
    record = await record_of(site.manager, id_of_secret(browser.secret))
    assert (record.owner, record.data) == ("bob", {})


async def test_the_same_user_keeps_his_cart_when_he_signs_in_again(site):
    browser = site.browser()
    await sign_in(browser, "alice")
    await take(browser, "a book")
    before = browser.secret
    await sign_in(browser, "alice")
    assert await shown(browser) == "alice: a book"
    assert browser.secret != before
    assert await has_ended(site, before)


async def test_who_comes_after_a_logout_inherits_nothing(site):
    browser = site.browser()
    await sign_in(browser, "alice")
    await take(browser, "a gift for bob")
    await submit(browser, "/logout")
    assert await shown(browser) == "nobody: "
    await sign_in(browser, "bob")
    assert await shown(browser) == "bob: "


async def test_the_first_users_other_devices_stay_signed_in(site):
    tablet, phone = site.browser(), site.browser()
    await sign_in(tablet, "alice")
    await sign_in(phone, "alice")
    await take(phone, "a book")
    await sign_in(tablet, "bob")
    assert await shown(phone) == "alice: a book"


@pytest.mark.parametrize(("name", "password"), [("bob", "wonderland"), ("mallory", ""), ("bob", "")])
async def test_a_wrong_password_changes_nothing(site, name, password):
    browser = site.browser()
    await sign_in(browser, "alice")
    await take(browser, "a book")
    cookies = dict(browser.cookies)
    token = re.search(r'name="_xsrf" value="([^"]+)"', await browser.text())[1]
    response = await browser.post("/login", body=urlencode({"_xsrf": token, "name": name, "password": password}))
    assert response.code == 403
    assert browser.cookies == cookies
    assert await shown(browser) == "alice: a book"


@pytest.mark.parametrize("path", ["/cart", "/login", "/logout"])
async def test_other_sites_forms_are_refused(site, path):
    browser = site.browser()
    await sign_in(browser, "alice")
    body = urlencode({"item": "a bomb", "name": "bob", "password": PASSWORDS["bob"]})
    assert (await browser.post(path, body=body)).code == 403
    assert (await browser.get(path)).code == 405
    assert await shown(browser) == "alice: "


async def test_what_the_first_user_still_does_late_is_not_in_the_next_ones_session(site, slowly):
    browser, elsewhere = site.browser(), site.browser()
    await sign_in(browser, "alice")
    await take(browser, "a gift for bob")
    elsewhere.cookies = dict(browser.cookies)  # another tab, whose request was sent before the login
    late = asyncio.create_task(elsewhere.get("/slow"))
    await slowly["reading"].wait()
    await sign_in(browser, "bob")
    slowly["going_on"].set()
    response = await late
    assert response.code == 200
    assert response.body == b"alice: a gift for bob"
    assert response.headers.get_list("Set-Cookie") == []  # so the browser stays bob's
    assert await shown(browser) == "bob: "
    assert [record.owner async for record in site.manager.records()] == ["bob"]


@pytest.mark.parametrize("first_cart", ["a gift for bob", None])
async def test_a_login_that_waits_while_another_user_signs_in_inherits_nothing(site, slowly, first_cart):
    """The visitor was nobody when it began."""
    browser, elsewhere = site.browser(), site.browser()
    await take(browser, "a book")
    elsewhere.cookies = dict(browser.cookies)
    body = urlencode({"name": "bob", "password": ""})
    waiting = asyncio.create_task(elsewhere.post("/slow-login", body=body))
    await slowly["reading"].wait()
    await sign_in(browser, "alice")
    if first_cart:
        await take(browser, first_cart)
    slowly["going_on"].set()
    assert (await waiting).code == 303
    assert (await shown(elsewhere)).startswith("bob: ")
    assert "gift" not in await shown(elsewhere)
    assert (await shown(browser)).startswith("alice: a book")


async def test_the_first_users_open_pages_are_closed(site, connect):
    browser = site.browser()
    await sign_in(browser, "alice")
    socket = await connect(browser)
    assert json.loads(await socket.read_message()) == {"user": "alice", "cart": []}
    await take(browser, "a book")
    assert json.loads(await socket.read_message()) == {"user": "alice", "cart": ["a book"]}
    await sign_in(browser, "bob")
    await take(browser, "a hammer")
    assert await socket.read_message() is None  # nothing of what is bob's
    assert socket.close_code == 1008
    again = await connect(browser)
    assert json.loads(await again.read_message()) == {"user": "bob", "cart": ["a hammer"]}


async def test_a_page_from_before_a_login_has_to_connect_again(site, connect):
    browser = site.browser()
    await take(browser, "a book")
    socket = await connect(browser)
    assert json.loads(await socket.read_message()) == {"user": None, "cart": ["a book"]}
    await sign_in(browser, "alice")
    assert await socket.read_message() is None
    assert socket.close_code == 1008
    again = await connect(browser)
    assert json.loads(await again.read_message()) == {"user": "alice", "cart": ["a book"]}
