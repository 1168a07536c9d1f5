"""Visitors with cookies of an application that had no sessions, and those who have kept copies of them."""

import asyncio
import re
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest
from tornado.escape import json_encode
from tornado.web import create_signed_value

from demo.recipes.from_signed_cookie import OLD_DAYS, OLD_NAME, make_application
from tests.support import COOKIE, Site, eventually
from tornado_sesame import MemoryStore, SessionManager, SessionNotSaved

SECRET = "the old application's secret"

HOUR = timedelta(hours=1)


@asynccontextmanager
async def open_site(*, store=None, until=HOUR):
    site = Site(make_application(SECRET, datetime.now(UTC) + until, SessionManager(store)))
    try:
        yield site
    finally:
        await site.close()


def old_cookie(user="alice", *, age=HOUR, secret=SECRET, **options):
    """Returns what the old application has made some time ago."""
    content = json_encode({"user": user, "theme": "dark"})
    made = time.time() - age.total_seconds()
    return create_signed_value(secret, OLD_NAME, content, clock=lambda: made, **options).decode()


def visitor(site, cookie):
    browser = site.browser()
    browser.cookies[OLD_NAME] = cookie
    return browser


async def user_of(browser):
    return re.search(r"Hello, (.+)! Your theme", await browser.text())[1]


async def sign_out(browser, **fields):
    token = re.search(r'name="_xsrf" value="([^"]+)"', await browser.text())[1]
    response = await browser.post("/sign-out", body=urlencode({"_xsrf": token, **fields}))
    assert response.code == 303


async def records(site):
    return [record async for record in site.manager.records()]


async def test_the_first_visit_takes_the_old_cookies_content_along():
    async with open_site() as site:
        alice = visitor(site, old_cookie())
        response = await alice.get()
        assert b"Hello, alice! Your theme is dark." in response.body
        (record,) = await records(site)
        assert (record.owner, record.data["theme"]) == ("alice", "dark")

        (deletion,) = (h for h in response.headers.get_list("Set-Cookie") if h.startswith(f"{OLD_NAME}="))
        assert re.fullmatch(r'user=""; expires=.+; Path=/', deletion)
        del alice.cookies[OLD_NAME]
        assert await user_of(alice) == "alice"
        assert len(await records(site)) == 1


async def test_an_old_cookie_beside_a_users_session_is_spent():
    async with open_site() as site:
        alice, bobs = visitor(site, old_cookie("alice")), old_cookie("bob")
        await alice.get()
        alice.cookies[OLD_NAME] = bobs
        assert await user_of(alice) == "alice"
        assert await user_of(visitor(site, bobs)) == "nobody"


async def test_a_copy_is_of_no_use_when_its_user_has_come_back():
    async with open_site() as site:
        cookie = old_cookie()
        alice = visitor(site, cookie)
        await alice.get()
        await alice.get()
        response = await visitor(site, cookie).get()
        assert b"Hello, nobody!" in response.body
        assert COOKIE not in str(response.headers.get_list("Set-Cookie"))  # neither a new one nor a deletion
        assert await user_of(alice) == "alice"


@pytest.mark.parametrize("everywhere", ["", "yes"])
async def test_after_signing_out_the_old_cookie_signs_nobody_in(everywhere):
    async with open_site() as site:
        cookie = old_cookie()
        alice = visitor(site, cookie)
        await sign_out(alice, everywhere=everywhere)
        assert await user_of(alice) == "nobody"
        assert await user_of(visitor(site, cookie)) == "nobody"
        alice.cookies[OLD_NAME] = cookie
        assert await user_of(alice) == "nobody"
        assert await records(site) == []


@pytest.mark.parametrize("everywhere", ["", "yes"])
async def test_signing_out_may_be_the_first_request(everywhere):
    async with open_site() as site:
        cookie = old_cookie()
        alice = site.browser()
        await alice.get()  # for the form
        token = alice.cookies["_xsrf"]
        alice.cookies[OLD_NAME] = cookie
        body = urlencode({"_xsrf": token, "everywhere": everywhere})
        assert (await alice.post("/sign-out", body=body)).code == 303
        assert await user_of(visitor(site, cookie)) == "nobody"
        assert await records(site) == []


async def test_tabs_that_are_opened_at_once_are_all_signed_in():
    async with open_site() as site:
        cookie = old_cookie()
        tabs = [visitor(site, cookie) for _ in range(5)]
        assert await asyncio.gather(*map(user_of, tabs)) == ["alice"] * 5
        for tab in tabs:  # whichever of these cookies comes last is the browser's
            assert await user_of(tab) == "alice"


async def test_signing_out_ends_all_sessions_from_one_cookie_and_no_other():
    async with open_site() as site:
        cookie = old_cookie()
        alice, thief, phone = visitor(site, cookie), visitor(site, cookie), visitor(site, old_cookie(age=2 * HOUR))
        await asyncio.gather(alice.get(), thief.get(), phone.get())
        await sign_out(alice)
        assert await user_of(thief) == "nobody"
        assert await user_of(phone) == "alice"


async def test_signing_out_everywhere_reaches_devices_that_have_not_come_back():
    async with open_site() as site:
        alice, phone = visitor(site, old_cookie()), visitor(site, old_cookie(age=2 * HOUR))
        bob = visitor(site, old_cookie("bob"))
        await sign_out(alice, everywhere="yes")
        response = await phone.get()
        assert b"Hello, nobody!" in response.body
        assert COOKIE not in str(response.headers.get_list("Set-Cookie"))
        assert await user_of(bob) == "bob"


@pytest.mark.parametrize(
    "cookie",
    [
        old_cookie(secret="another secret"),
        old_cookie(age=timedelta(days=OLD_DAYS + 1)),
        old_cookie(version=1),
        old_cookie()[:-1],
        "alice",
        "",
    ],
    ids=["forged", "expired", "SHA-1", "cut", "unsigned", "empty"],
)
async def test_what_is_no_old_cookie_signs_nobody_in(cookie):
    async with open_site() as site:
        response = await visitor(site, cookie).get()
        assert b"Hello, nobody!" in response.body
        assert f'{OLD_NAME}=""' in str(response.headers.get_list("Set-Cookie"))
        assert await records(site) == []


async def test_on_the_day_it_ends_old_cookies_sign_nobody_in():
    async with open_site(until=timedelta(0)) as site:
        assert await user_of(visitor(site, old_cookie())) == "nobody"


async def test_nobody_knows_the_session_that_the_visitor_had_before():
    async with open_site() as site:
        planted = visitor(site, old_cookie("mallory"))
        await planted.get()
        secret = planted.cookies[COOKIE]
        (record,) = await records(site)
        await site.manager.destroy(record.id)
        alice = visitor(site, old_cookie())
        alice.cookies[COOKIE] = secret
        assert await user_of(alice) == "alice"
        assert alice.cookies[COOKIE] != secret


class FailingStore(MemoryStore):
    is_failing = True

    async def save(self, writes, *, timeout):
        if self.is_failing:
            raise SessionNotSaved("the store fails")
        return await super().save(writes, timeout=timeout)


async def test_when_the_store_fails_the_old_cookie_stays_good():
    store = FailingStore()
    async with open_site(store=store) as site:
        alice = visitor(site, old_cookie())
        response = await alice.get()
        assert response.code == 503
        assert response.headers.get_list("Set-Cookie") == []
        store.is_failing = False
        assert await user_of(alice) == "alice"


class SlowStore(MemoryStore):
    """Keeps the first save waiting."""

    def __init__(self):
        super().__init__()
        self.waiting, self.go_on = asyncio.Event(), asyncio.Event()

    async def save(self, writes, *, timeout):
        if not self.waiting.is_set():
            self.waiting.set()
            await self.go_on.wait()
        return await super().save(writes, timeout=timeout)


@pytest.mark.parametrize("everywhere", ["", "yes"])
async def test_a_tab_that_is_slow_brings_nobody_back_who_has_signed_out(everywhere):
    store = SlowStore()
    async with open_site(store=store) as site:
        cookie = old_cookie()
        slow = visitor(site, cookie)
        request = asyncio.create_task(slow.get())
        await store.waiting.wait()
        await sign_out(visitor(site, cookie), everywhere=everywhere)
        store.go_on.set()
        assert b"Hello, nobody!" in (await request).body
        assert COOKIE not in slow.cookies

        async def is_empty():
            return await records(site) == []

        await eventually(is_empty)
