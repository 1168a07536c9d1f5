"""Customers and staff in one application, with sessions that have nothing to do with each other."""

import asyncio
import re
from contextlib import asynccontextmanager
from datetime import timedelta
from urllib.parse import urlencode

import pytest
from tornado.web import RequestHandler

from demo.recipes.several_managers import close_sessions, make_application
from tests.support import Site, eventually
from tornado_sesame import MemoryStore, SessionMixin


@asynccontextmanager
async def open_site(*arguments):
    site = Site(make_application(*arguments))
    try:
        yield site
    finally:
        await site.close()
        await close_sessions(site.application)


async def submit(browser, path, **fields):
    """Sends the form on the page at *path*, with the token that is in it."""
    token = re.search(r'name="_xsrf" value="([^"]+)"', await browser.text(path))[1]
    response = await browser.post(path, body=urlencode({"_xsrf": token, **fields}))
    assert response.code == 303
    return response


async def user_of(browser, path):
    """Returns who is signed in, as the page says."""
    return re.search(r": (.+?)(, \d+ pages)? <form", await browser.text(path))[1]


async def test_both_sessions_live_side_by_side():
    async with open_site() as site:
        browser = site.browser()
        await submit(browser, "/", user="alice")
        await submit(browser, "/staff", user="colleague")
        assert ": alice, 1 pages " in await browser.text("/")
        assert ": alice, 2 pages " in await browser.text("/")
        assert ": colleague, 1 pages " in await browser.text("/staff")


@pytest.mark.parametrize(("left", "other"), [("/", "/staff"), ("/staff", "/")])
async def test_destroying_one_leaves_the_other(left, other):
    async with open_site() as site:
        browser = site.browser()
        await submit(browser, left, user="alice")
        await submit(browser, other, user="alice")
        await submit(browser, left)
        assert await user_of(browser, left) == "nobody"
        assert await user_of(browser, other) == "alice"


async def test_the_staffs_session_expires_sooner():
    async with open_site(timedelta(seconds=1)) as site:
        browser = site.browser()
        await submit(browser, "/", user="alice")
        await submit(browser, "/staff", user="alice")
        await asyncio.sleep(1.1)
        assert await user_of(browser, "/staff") == "nobody"
        assert await user_of(browser, "/") == "alice"


async def test_the_timeouts_are_months_and_minutes():
    async with open_site() as site:
        browser = site.browser()
        lifetimes = {}
        for path, name in ("/", "customers"), ("/staff", "staff"):
            await submit(browser, path, user="alice")
            (record,) = [record async for record in site.application.settings[name].records()]
            lifetimes[name] = record.expires - record.updated
        assert lifetimes == {"customers": timedelta(days=90), "staff": timedelta(minutes=15)}


async def test_the_stores_are_apart():
    async with open_site() as site:
        browser, settings = site.browser(), site.application.settings
        await submit(browser, "/", user="alice")
        await submit(browser, "/staff", user="alice")
        assert await settings["customers"].destroy_all("alice") == 1
        assert await user_of(browser, "/") == "nobody"
        assert await user_of(browser, "/staff") == "alice"


async def test_a_customer_cannot_pass_his_cookie_off_as_the_staffs():
    async with open_site() as site:
        browser = site.browser()
        await submit(browser, "/", user="alice")
        browser.cookies["staff"] = browser.cookies["customer"]
        assert await user_of(browser, "/staff") == "nobody"


async def test_the_staffs_cookie_ends_with_the_browser_and_stays_on_the_staffs_pages():
    async with open_site() as site:
        header = (await submit(site.browser(), "/staff", user="alice")).headers["Set-Cookie"]
        assert re.fullmatch(r"staff=[\w-]{43}; Path=/staff; HttpOnly; SameSite=Strict", header)


async def test_a_handler_that_has_forgotten_to_choose_fails():
    class Forgetful(SessionMixin, RequestHandler):
        def get(self):
            self.write(f"{self.session_owner}")

    async with open_site() as site:
        site.application.add_handlers(".*", [("/forgetful", Forgetful)])
        assert (await site.browser().get("/forgetful")).code == 500


class SlowStore(MemoryStore):
    """Takes its time to save, until it is closed."""

    def __init__(self):
        super().__init__()
        self.saving = self.is_closed = False

    async def save(self, writes, *, timeout):
        self.saving = True
        await asyncio.sleep(0.2)
        return await super().save(writes, timeout=timeout)

    async def close(self):
        self.is_closed = True


async def test_closing_waits_for_both_managers(monkeypatch):
    monkeypatch.setattr("demo.recipes.several_managers.MemoryStore", SlowStore)
    async with open_site() as site:
        managers = [site.application.settings[name] for name in ("customers", "staff")]
        forms = [asyncio.create_task(submit(site.browser(), path, user="alice")) for path in ("/", "/staff")]

        async def are_saving():
            return all(manager.store.saving for manager in managers)

        await eventually(are_saving)
        await close_sessions(site.application)
        for manager in managers:
            assert manager.store.is_closed
            assert [record.owner async for record in MemoryStore.records(manager.store, timeout=1)] == ["alice"]
        await asyncio.gather(*forms)
