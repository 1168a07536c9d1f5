"""How long a session lives, and what extends it. Two servers with other timeouts take the place of waiting."""

import asyncio
import json
from datetime import timedelta

import pytest
from tornado.web import RequestHandler

from tornado_sesame import MemoryStore, SessionCookie, SessionManager, SessionMixin
from tornado_sesame.cookie import id_of_secret
from tornado_sesame.settings import now

from .support import eventually, serve


class Write(SessionMixin, RequestHandler):
    def get(self):
        self.session.times = self.session.get("times", 0) + 1
        self.write(f"{self.session.times} times!")


class Read(SessionMixin, RequestHandler):
    def get(self):
        self.write(self.session.copy())


class Poll(SessionMixin, RequestHandler):
    """Is asked by the page, and not by its user."""

    session_touch = False

    def get(self):
        expires = self.session_expires
        self.write({"left": expires and (expires - now()).total_seconds()})

    async def post(self):
        (await self.session).polled = True


class Until(Read):
    session_autoload = True

    def get(self):
        expires = self.session_expires
        self.write({"left": expires and (expires - now()).total_seconds()})


PAGES = [("/", Write), ("/read", Read), ("/poll", Poll), ("/until", Until)]
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
async def visit(site):
    """Makes a session on a site with an idle timeout of an hour; gives a visitor of one with a day."""

    async def visit(**options):
        first = (await site(PAGES, idle_timeout=HOUR)).browser()
        await first.text()
        second = (await site(PAGES, idle_timeout=DAY, **options)).browser()
        second.cookies = first.cookies
        return second

    return visit


async def lifetime(database, browser):
    id = id_of_secret(browser.secret)
    record = (await database.new_store().load([id], timeout=60))[id]
    return (record.expires - now()).total_seconds()


async def test_a_session_that_is_not_used_is_gone(site, database):
    browser = (await site(PAGES, idle_timeout=timedelta(seconds=1))).browser()
    await browser.text()
    assert (await browser.get("/read")).body == b'{"times": 1}'
    await asyncio.sleep(1.1)
    assert (await browser.get("/read")).body == b"{}"
    before = browser.secret
    assert await browser.text() == "1 times!"
    assert browser.secret != before


@pytest.mark.parametrize("path", ["/", "/read"])
async def test_a_use_extends_the_session_and_leaves_the_cookie_alone(visit, database, path):
    browser = await visit()
    for _ in range(2):
        assert not {"Set-Cookie", "Cache-Control"} & (await browser.get(path)).headers.keys()
    while await lifetime(database, browser) < HOUR.total_seconds() + 60:
        await asyncio.sleep(0.01)


async def test_no_response_waits_for_it():
    class Slow(SessionMixin, RequestHandler):
        async def get(self):
            self.write(await self.session)
            await asyncio.sleep(0.05)  # so that it is under way

    class Gated(MemoryStore):
        gate = asyncio.Event()

        async def save(self, writes, *, timeout):
            await self.gate.wait()
            return await super().save(writes, timeout=timeout)

    store = Gated()
    store.gate.set()
    async with serve([*PAGES, ("/slow", Slow)], sessions=SessionManager(store, touch_interval=timedelta(0))) as site:
        browser = site.browser()
        await browser.text()
        store.gate.clear()
        assert [await browser.text(path) for path in ("/read", "/slow")] == ['{"times": 1}'] * 2
        store.gate.set()


async def test_extending_is_one_write_per_touch_interval(visit, database):
    browser = await visit()
    await browser.get("/read")
    while await lifetime(database, browser) < HOUR.total_seconds() + 60:
        await asyncio.sleep(0.01)
    database.commands.take()
    for _ in range(3):
        await browser.get("/read")
    assert set(database.commands.take()) <= {"find"}


async def test_nothing_is_extended_before_the_interval_has_passed(visit, database):
    browser = await visit(touch_interval=timedelta(hours=23, minutes=30))
    for path in "/", "/read":
        assert "Set-Cookie" not in (await browser.get(path)).headers
    assert await lifetime(database, browser) <= HOUR.total_seconds()


@pytest.mark.parametrize(
    ("max_age", "absolute_timeout", "attribute"),
    [
        (timedelta(days=400), None, "; Max-Age=34560000;"),
        (DAY, None, "; Max-Age=86400;"),
        (DAY, 2 * HOUR, "; Max-Age=7200;"),
        (HOUR, 2 * HOUR, "; Max-Age=3600;"),
        (timedelta(seconds=1), None, "; Max-Age=1;"),
        (None, None, ""),
        (None, HOUR, ""),
    ],
)
async def test_the_browser_keeps_the_cookie_for_max_age_or_until_the_absolute_timeout(
    site, max_age, absolute_timeout, attribute
):
    options = {"cookie": SessionCookie(max_age=max_age), "absolute_timeout": absolute_timeout}
    header = (await (await site(PAGES, **options)).browser().get()).headers["Set-Cookie"]
    assert attribute in header
    assert ("Max-Age" in header) is bool(attribute)


class TestAbsoluteTimeout:
    async def test_no_use_extends_a_session_beyond_it(self, site, database):
        options = {"idle_timeout": timedelta(seconds=1), "absolute_timeout": timedelta(seconds=2)}
        browser = (await site(PAGES, **options)).browser()
        began = now()
        while (text := await browser.text()) != "1 times!" or now() - began < timedelta(seconds=1):
            assert now() - began < timedelta(seconds=3)
            assert await lifetime(database, browser) <= (began + timedelta(seconds=2.1) - now()).total_seconds()
            await asyncio.sleep(0.05)
        assert text == "1 times!"
        assert now() - began >= timedelta(seconds=2)

    async def test_nor_does_a_rotation(self, site, database):
        class Rotate(SessionMixin, RequestHandler):
            async def get(self):
                await self.rotate_session_id()

        pages = [*PAGES, ("/rotate", Rotate)]
        first = (await site(pages, absolute_timeout=2 * HOUR)).browser()
        await first.text()
        await asyncio.sleep(1)
        response = await first.get("/rotate")
        age = int(response.headers["Set-Cookie"].partition("Max-Age=")[2].partition(";")[0])
        assert 7190 < age < 7200
        assert await lifetime(database, first) < 7199.1

    async def test_one_that_is_made_shorter_holds_for_the_sessions_that_exist(self, site):
        first = (await site(PAGES)).browser()
        await first.text()
        await asyncio.sleep(1)
        second = (await site(PAGES, absolute_timeout=timedelta(seconds=1))).browser()
        second.cookies = first.cookies
        assert (await second.get("/read")).body == b"{}"

    async def test_at_its_end_nothing_is_extended_in_vain(self, visit, database):
        browser = await visit(absolute_timeout=HOUR)
        database.commands.take()
        for _ in range(3):
            assert "Set-Cookie" not in (await browser.get("/read")).headers
        assert set(database.commands.take()) <= {"find"}


async def left(browser, path):
    return json.loads(await browser.text(path))["left"]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_handler_that_does_not_touch_extends_nothing(visit, database, method):
    browser = await visit()
    assert await left(browser, "/poll") == pytest.approx(3600, abs=60)
    assert (await browser.fetch(method, "/poll")).code == 200
    await asyncio.sleep(0.1)
    assert await lifetime(database, browser) == pytest.approx(3600, abs=60)
    assert await left(browser, "/poll") == pytest.approx(3600, abs=60)
    assert await left(browser, "/until") == pytest.approx(86400, abs=60)  # this one does, and says so

    async def is_extended():
        return await lifetime(database, browser) > 86_000

    await eventually(is_extended)
    assert await left(browser, "/poll") == pytest.approx(86400, abs=60)


async def test_polling_keeps_nobody_signed_in(site):
    browser = (await site(PAGES, idle_timeout=timedelta(seconds=1.5), touch_interval=timedelta(0))).browser()
    await browser.text()
    for _ in range(5):
        await asyncio.sleep(0.4)
        await browser.text("/poll")
    assert (await browser.get("/read")).body == b"{}"


async def test_a_session_expires_when_it_says(site):
    timeouts = {"idle_timeout": DAY, "absolute_timeout": HOUR}
    browser = (await site(PAGES, **timeouts)).browser()
    assert await left(browser, "/until") is None
    assert not browser.cookies
    await browser.text()
    assert await left(browser, "/until") == pytest.approx(3600, abs=60)
    assert await left(browser, "/poll") == pytest.approx(3600, abs=60)


async def test_a_new_session_of_a_handler_that_does_not_touch_lives_as_long_as_any(site):
    browser = (await site(PAGES, idle_timeout=DAY)).browser()
    assert (await browser.post("/poll")).code == 200
    assert await left(browser, "/poll") == pytest.approx(86400, abs=60)
    assert (await browser.get("/read")).body == b'{"polled": true}'
