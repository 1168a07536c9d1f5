"""Visitors with sessions of torndsession, which are in files as it makes them."""

import asyncio
import pickle
import re
from base64 import b64decode
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from demo.recipes.from_torndsession import OldFiles, make_application
from tests.support import COOKIE, Site
from tornado_sesame import MemoryStore, SessionManager, SessionNotSaved

# What torndsession 1.1.5.1 has made on Python 3.11, with the file driver and `cookie_config={"expires_days": 36500}`.
SID = "xRoOzExn6GOgPFB_kH9wKGSALwJEuByaT4S887ey"
STORED = b64decode(
    "gASVrgAAAAAAAAB9lCiMBHVzZXKUjAVhbGljZZSMC19fZXhwaXJlc19flIwIZGF0ZXRpbWWUjAhkYXRldGltZZSTlEMKCE4LBAs6FwRnL5SFlFKU"
    "jARjYXJ0lF2UjAN0ZWGUYYwGdmlzaXRzlEsDjAVzaW5jZZRoBkMKB+oBAgAAAAAAAJRoBIwIdGltZXpvbmWUk5RoBIwJdGltZWRlbHRhlJOUSwBL"
    "AEsAh5RSlIWUUpSGlFKUdS4="
)


class Old:
    """A directory of torndsession's file driver."""

    def __init__(self, directory):
        self.directory = directory
        self.path(SID).write_bytes(STORED)

    def path(self, sid):
        return self.directory / f"default{sid}"

    def write(self, *, expires=timedelta(minutes=20), **content):
        """Stores a session as `FileSession.save` does."""
        content["__expires__"] = (datetime.now(UTC) + expires).replace(tzinfo=None)
        self.path(SID).write_bytes(pickle.dumps(content))


@pytest.fixture
def old(tmp_path):
    directory = tmp_path / "#_sessions"
    directory.mkdir()
    return Old(directory)


@asynccontextmanager
async def open_site(old, store=None):
    files = OldFiles(old.directory)
    application = make_application(files.read, files.end)
    application.settings["sessions"] = SessionManager(store)
    site = Site(application)
    try:
        yield site
    finally:
        await site.close()


def visitor(site, sid=SID):
    browser = site.browser()
    browser.cookies["msid"] = sid
    return browser


async def said_to(browser):
    return re.search(r"Hello, .+\.", await browser.text())[0]


ALICE, NOBODY = "Hello, alice! In your cart is tea.", "Hello, nobody! In your cart is nothing."


async def records(site):
    return [record async for record in site.manager.records()]


async def test_the_first_visit_takes_the_old_session_along(old):
    async with open_site(old) as site:
        assert await said_to(visitor(site)) == ALICE
        (record,) = await records(site)
        assert record.owner == "alice"
        assert record.data == {"cart": ["tea"], "visits": 3, "since": datetime(2026, 1, 2, tzinfo=UTC)}


async def test_the_second_visit_ends_the_old_session_and_its_cookie(old):
    async with open_site(old) as site:
        alice = visitor(site)
        first = await alice.get()
        assert COOKIE in alice.cookies
        assert "msid=" not in str(first.headers.get_list("Set-Cookie"))
        assert old.path(SID).exists()

        second = await alice.get()
        (deletion,) = (h for h in second.headers.get_list("Set-Cookie") if h.startswith("msid="))
        assert re.fullmatch(r'msid=""; expires=.+; Path=/', deletion)
        assert not old.path(SID).exists()

        assert await said_to(alice) == ALICE
        assert await said_to(visitor(site)) == NOBODY


async def test_a_response_that_is_lost_loses_nothing(old):
    async with open_site(old) as site:
        await visitor(site).get()
        assert await said_to(visitor(site)) == ALICE


async def test_tabs_that_are_opened_at_once_are_all_signed_in(old):
    async with open_site(old) as site:
        tabs = [visitor(site) for _ in range(5)]
        assert await asyncio.gather(*map(said_to, tabs)) == [ALICE] * 5
        for tab in tabs:  # whichever of these cookies comes last is the browser's
            assert await said_to(tab) == ALICE


@pytest.mark.parametrize("visits", [0, 1, 2])
async def test_after_signing_out_the_old_cookie_signs_nobody_in(old, visits):
    async with open_site(old) as site:
        alice = site.browser()
        await alice.get()  # for the form
        alice.cookies["msid"] = SID
        for _ in range(visits):
            assert await said_to(alice) == ALICE
        assert (await alice.post("/sign-out", headers={"X-Xsrftoken": alice.cookies["_xsrf"]})).code == 303
        assert await said_to(alice) == NOBODY
        assert await said_to(visitor(site)) == NOBODY
        assert await records(site) == []


async def test_a_session_that_has_expired_stays_so(old):
    old.write(user="alice", expires=timedelta(seconds=-1))
    async with open_site(old) as site:
        assert await said_to(visitor(site)) == NOBODY
        assert not old.path(SID).exists()


async def test_numbers_become_owners_as_text(old):
    old.write(user=7)
    async with open_site(old) as site:
        assert await said_to(visitor(site)) == "Hello, 7! In your cart is nothing."


async def test_what_cannot_be_stored_is_left_behind_with_a_warning(old, caplog):
    old.write(user="alice", cart=["tea"], when=datetime(2026, 1, 1))
    async with open_site(old) as site:
        assert await said_to(visitor(site)) == ALICE
        (record,) = await records(site)
        assert record.data == {"cart": ["tea"]}
    (line,) = (record.message for record in caplog.records if record.name.startswith("demo"))
    assert line.startswith("a part of an old session is left behind: session['when']: ")


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('code of the pickle has run')",)


@pytest.mark.parametrize("stored", [pickle.dumps({"x": Evil()}), pickle.dumps({"x": {1}})[:-3], b""])
async def test_what_is_no_plain_data_is_not_loaded(old, stored, caplog):
    old.path(SID).write_bytes(stored)
    async with open_site(old) as site:
        assert await said_to(visitor(site)) == NOBODY
    assert "an old session is left behind" in caplog.text
    assert SID not in caplog.text


@pytest.mark.parametrize("sid", ["/../../stolen", "x/../../stolen", "", SID[:-1], SID + "x", SID[:-1] + "/"])
async def test_an_id_of_another_form_reaches_no_file(old, sid, tmp_path):
    # Directories that let the paths lead out, and files at their ends.
    (old.directory / "default").mkdir()
    (old.directory / "defaultx").mkdir()
    paths = [tmp_path / "stolen", old.path(SID[:-1]), old.path(SID + "x")]
    for path in paths:
        path.write_bytes(STORED)
    async with open_site(old) as site:
        response = await visitor(site, sid).get()
        assert NOBODY in response.body.decode()
        assert 'msid=""' in str(response.headers.get_list("Set-Cookie"))
    assert all(path.exists() for path in paths)


async def test_an_id_that_nobody_has_given_out_is_not_adopted(old):
    async with open_site(old) as site:
        browser = visitor(site, "x" * 40)
        assert await said_to(browser) == NOBODY
        assert COOKIE not in browser.cookies
        assert await records(site) == []


class FailingStore(MemoryStore):
    is_failing = True

    async def save(self, writes, *, timeout):
        if self.is_failing:
            raise SessionNotSaved("the store fails")
        return await super().save(writes, timeout=timeout)


async def test_when_the_store_fails_the_old_session_stays(old):
    store = FailingStore()
    async with open_site(old, store) as site:
        alice = visitor(site)
        assert (await alice.get()).code == 503
        store.is_failing = False
        assert await said_to(alice) == ALICE


async def test_a_visitor_without_an_old_cookie_gets_no_session(old):
    async with open_site(old) as site:
        assert await said_to(site.browser()) == NOBODY
        assert await records(site) == []
