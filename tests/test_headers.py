"""What leaves the server, as caches, browsers and error trackers see it."""

import asyncio
import itertools
import json
import sys

import pytest
from tornado.web import RequestHandler, authenticated

from tornado_sesame import SessionCookie, SessionMixin
from tornado_sesame.cookie import Secret

from .support import COOKIE


class Page(SessionMixin, RequestHandler):
    session_autoload = True

    def get_current_user(self):
        return self.session_owner


class Login(Page):
    async def post(self):
        await self.rotate_session_id()
        self.session_owner = self.get_argument("name", "alice")


class Logout(Page):
    async def post(self):
        await self.destroy_session()


class Account(Page):
    @authenticated
    async def get(self):
        self.write(f"Hello, {self.current_user}!")


class Id(Page):
    def get(self):
        self.write(self.session_id or "")


class Untouched(Page):
    def get(self):
        self.set_header("Cache-Control", "public, max-age=60")
        self.write("the same for everybody")


class Cached(Page):
    def get(self):
        for value in self.get_arguments("cache-control"):
            self.add_header("Cache-Control", value)
        for value in self.get_arguments("vary"):
            self.add_header("Vary", value)
        self.session.times = self.session.get("times", 0) + 1


class Clears(Page):
    async def post(self):
        await self.rotate_session_id()
        self.session_owner = "alice"
        self.clear_all_cookies(path=self.get_argument("path", "/"))
        self.set_cookie("other", "1")


class Count(Page):
    def get(self):
        self.session.times = self.session.get("times", 0) + 1
        self.write(str(self.session.times))


PAGES = [
    ("/login", Login),
    ("/logout", Logout),
    ("/account", Account),
    ("/id", Id),
    ("/untouched", Untouched),
    ("/cached", Cached),
    ("/clears", Clears),
    ("/count", Count),
    ("/shop/count", Count),
    ("/shop/logout", Logout),
]


@pytest.fixture
async def running(site):
    return await site(PAGES, settings={"login_url": "/login"})


class Cache:
    """A shared cache that honours Vary and Cache-Control (RFC 9111), as far as it takes to be wrong."""

    def __init__(self):
        self.kept = {}

    async def get(self, browser, path, **options):
        cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
        for key in ((path, None), (path, cookies)):
            if key in self.kept:
                return self.kept[key]
        response = await browser.get(path, **options)
        if not {"no-store", "private"} & set(response.headers.get("Cache-Control", "").split(", ")):
            varies = "Cookie" in response.headers.get("Vary", "")
            self.kept[path, cookies if varies else None] = response
        return response


class TestCaches:
    async def test_no_user_sees_the_page_of_another(self, running):
        cache = Cache()
        for name in "alice", "bob":
            browser = running.browser()
            await browser.post(f"/login?name={name}")
            assert (await cache.get(browser, "/account")).body == f"Hello, {name}!".encode()
        stranger = running.browser()
        assert (await cache.get(stranger, "/account")).code == 302
        assert (await cache.get(browser, "/account")).body == b"Hello, bob!"

    @pytest.mark.parametrize("path", ["/account", "/id"])
    async def test_all_that_depends_on_the_session_says_so(self, running, path):
        browser = running.browser()
        assert (await browser.get(path)).headers["Vary"] == "Cookie"
        await browser.post("/login")
        page = await browser.get(path)
        assert (page.code, page.headers["Vary"]) == (200, "Cookie")
        page = await browser.get(path, headers={"If-None-Match": page.headers["Etag"]})
        assert (page.code, page.headers["Vary"]) == (304, "Cookie")

    async def test_a_page_that_does_not_touch_the_session_can_be_cached(self, running):
        browser = running.browser()
        await browser.post("/login")
        page = await browser.get("/untouched")
        assert page.headers["Cache-Control"] == "public, max-age=60"
        assert not {"Set-Cookie", "Vary"} & page.headers.keys()

    @pytest.mark.parametrize(
        ("query", "sent"),
        [
            ("", "no-store"),
            ("cache-control=public", "no-store"),
            ("cache-control=max-age=60", "no-store"),
            ("cache-control=no-cache", "no-store"),
            ("cache-control=public, no-store", "no-store"),
            ("cache-control=private&cache-control=public", "no-store"),
            ('cache-control=private="x-field"', "no-store"),
            ("cache-control=private", "private"),
            ("cache-control=max-age=60, Private", "max-age=60, Private"),
            ("cache-control=No-Store", "No-Store"),
            ("cache-control=no-store&cache-control=max-age=0", "no-store,max-age=0"),
        ],
    )
    async def test_public_never_stands_beside_a_secret(self, running, query, sent):
        browser = running.browser()
        path = f"/cached?{query}".replace(" ", "%20").replace('"', "%22")
        first, second = await browser.get(path), await browser.get(path)
        assert "Set-Cookie" in first.headers
        assert first.headers["Cache-Control"] == sent
        own = ",".join(part.partition("=")[2] for part in query.split("&")) if query else None
        assert second.headers.get("Cache-Control") == own

    async def test_nor_beside_its_deletion(self, running):
        browser = running.browser()
        await browser.post("/login")
        response = await browser.post("/logout")
        assert response.headers["Set-Cookie"].startswith(f"{COOKIE}=; Max-Age=0")
        assert response.headers["Cache-Control"] == "no-store"

    @pytest.mark.parametrize(
        ("query", "sent"),
        [
            ("", ["Cookie"]),
            ("vary=Accept", ["Accept", "Cookie"]),
            ("vary=cookie", ["cookie"]),
            ("vary=Accept, COOKIE", ["Accept, COOKIE"]),
            ("vary=*", ["*"]),
            ("vary=Cookie2", ["Cookie2", "Cookie"]),
        ],
    )
    async def test_vary_is_given_once(self, running, query, sent):
        page = await running.browser().get(f"/cached?{query}".replace(" ", "%20"))
        assert page.headers.get_list("Vary") == sent


class TestSeveralCookies:
    async def counted(self, running, times=2):
        browser = running.browser()
        for _ in range(times):
            await browser.get("/count")
        return browser

    @pytest.mark.parametrize("order", [*itertools.permutations(range(3))])
    async def test_the_one_that_exists_counts(self, running, database, order):
        browser = await self.counted(running)
        dead = [Secret().value for _ in range(2)]
        values = [[browser.secret, *dead][position] for position in order]
        database.commands.take()
        page = await browser.get("/count", headers={"Cookie": "; ".join(f"{COOKIE}={value}" for value in values)})
        assert page.body == b"3"
        assert "Set-Cookie" not in page.headers
        assert database.commands.take() == ["find", "update"] * database.is_mongo

    async def test_signing_in_beside_a_dead_one_has_an_effect(self, running):
        browser = running.browser()
        dead = f"{COOKIE}={Secret().value}"
        await browser.post("/login", headers={"Cookie": dead})
        page = await browser.get("/account", headers={"Cookie": f"{dead}; {COOKIE}={browser.secret}"})
        assert page.body == b"Hello, alice!"

    async def test_they_may_come_in_several_fields(self, running):
        browser = await self.counted(running)
        request = (
            f"GET /count HTTP/1.1\r\nHost: x\r\nCookie: a=b\r\nCookie: {COOKIE}={browser.secret}\r\nCookie: c=d\r\n"
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(f"{request}Connection: close\r\n\r\n".encode())
        assert (await reader.read()).endswith(b"\r\n\r\n3")
        writer.close()

    @pytest.mark.parametrize("way", ["/logout", "/login"])
    async def test_signing_out_or_in_ends_all_of_them(self, running, database, way):
        one, other = await self.counted(running, 1), await self.counted(running, 2)
        both = f"{COOKIE}={one.secret}; {COOKIE}={other.secret}"
        old = one.secret, other.secret
        browser = running.browser()
        assert (await browser.post(way, headers={"Cookie": both})).code == 200
        for secret in old:
            assert await database.data(secret) is None
        if way == "/login":
            assert await database.data(browser.secret) == {"times": 1}


class TestBesideOtherCookies:
    async def test_clear_all_cookies_does_not_delete_the_logins(self, running):
        browser = running.browser()
        await browser.get("/count")
        browser.cookies["former"] = "x"
        response = await browser.post("/clears")
        names = [header.partition("=")[0] for header in response.headers.get_list("Set-Cookie")]
        assert sorted(names) == [COOKIE, "former", "other"]
        assert (await browser.get("/account")).body == b"Hello, alice!"

    async def test_one_of_another_path_is_another_cookie(self, running):
        browser = running.browser()
        await browser.get("/count")
        response = await browser.post("/clears?path=/elsewhere")
        headers = [header for header in response.headers.get_list("Set-Cookie") if header.startswith(COOKIE)]
        assert len(headers) == 2


class TestOutsideOfItsPath:
    async def test_a_request_has_no_session_and_replaces_none(self, site, database, caplog):
        running = await site(PAGES, cookie=SessionCookie(path="/shop"))
        inside, outside = running.browser(), running.browser()
        await inside.get("/shop/count")
        outside.cookies = dict(inside.cookies)  # as no browser would
        for browser in outside, running.browser():
            response = await browser.get("/count")
            assert response.code == 500
            assert "Set-Cookie" not in response.headers
            assert (await browser.get("/id")).body == b""
            assert (await browser.post("/logout")).code == 500
        assert "outside of the session cookie's path, '/shop', have no session" in caplog.text
        assert (await inside.get("/shop/count")).body == b"2"
        assert len([record async for record in running.manager.records()]) == 1
        assert (await inside.post("/shop/logout")).code == 200


async def test_sentry_sends_no_secret():
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.sentry_site", stdout=pipe)
    output, _ = await process.communicate()
    seen = json.loads(output)
    assert "on purpose" in seen["sent"]
    assert "biscuit" in seen["sent"]
    assert f'"{COOKIE}"' in seen["sent"]
    assert seen["secret"] not in seen["sent"]
