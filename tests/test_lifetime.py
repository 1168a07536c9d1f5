"""`session_lifetime`, an idle timeout of one session's own."""

import asyncio
import json
import logging
from datetime import timedelta

import pytest
from tornado.httpclient import HTTPRequest
from tornado.web import RequestHandler
from tornado.websocket import WebSocketHandler, websocket_connect

from tornado_sesame import MemoryStore, SessionCookie, SessionManager, SessionMixin, SQLiteStore, copy_sessions
from tornado_sesame.settings import now

from .support import record_of, serve

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


class Page(SessionMixin, RequestHandler):
    def lifetime(self, name="lifetime"):
        seconds = self.get_argument(name, None)
        return None if seconds is None else timedelta(seconds=float(seconds))

    def show(self):
        expires = self.session_expires
        left = expires and (expires - now()).total_seconds()
        lifetime = self.session_lifetime and self.session_lifetime.total_seconds()
        self.write({"lifetime": lifetime, "left": left, "id": self.session_id})


class Show(Page):
    session_touch = False

    def get(self):
        self.show()


class Use(Page):
    def get(self):
        self.write(str(self.session.get("name")))


class Remember(Page):
    session_autoload = True

    async def post(self):
        self.session.name = "Alice"
        self.session_lifetime = self.lifetime()
        if self.get_argument("rotate", None):
            await self.rotate_session_id()
        await self.save_session()
        self.show()


PAGES = [("/", Show), ("/use", Use), ("/remember", Remember)]


async def shown(browser):
    response = await browser.get()
    assert response.code == 200
    return json.loads(response.body)


def attributes(response):
    return [header.partition("; ")[2] for header in response.headers.get_list("Set-Cookie")]


async def test_a_session_lives_for_its_own_lifetime(site):
    running = await site(PAGES, idle_timeout=HOUR)
    browser, other = running.browser(), running.browser()
    await browser.post("/remember?lifetime=86400")
    await other.post("/remember")
    assert (await shown(browser))["left"] == pytest.approx(86400, abs=60)
    assert (await shown(browser))["lifetime"] == 86400
    assert (await shown(other))["left"] == pytest.approx(3600, abs=60)
    assert (await shown(other))["lifetime"] is None


async def test_it_can_be_shorter_than_that_of_others(site):
    browser = (await site(PAGES, idle_timeout=DAY)).browser()
    await browser.post("/remember?lifetime=1.5")
    assert await browser.text("/use") == "Alice"
    await asyncio.sleep(1.6)
    assert await browser.text("/use") == "None"


@pytest.mark.parametrize("lifetime", [3600, 86400 * 30])
async def test_setting_it_takes_effect_at_once_in_a_session_that_exists(site, lifetime):
    running = await site(PAGES, idle_timeout=DAY)
    browser = running.browser()
    await browser.post("/remember")
    for seconds, left in (f"?lifetime={lifetime}", lifetime), ("", 86400):
        response = await browser.post(f"/remember{seconds}")
        assert response.code == 200
        assert (await shown(browser))["left"] == pytest.approx(left, abs=60)
        record = await record_of(running.manager, (await shown(browser))["id"])
        assert record.lifetime == (timedelta(seconds=lifetime) if seconds else None)


async def test_a_use_extends_it_by_its_own_lifetime(site, database):
    first = (await site(PAGES, idle_timeout=HOUR)).browser()
    await first.post("/remember")
    day = SessionManager(database.new_store(), idle_timeout=HOUR)
    async with serve(PAGES, sessions=day) as running:
        browser = running.browser()
        browser.cookies = first.cookies
        await browser.post("/remember?lifetime=7200")
        record = await record_of(day, (await shown(browser))["id"])
        await asyncio.sleep(0.1)
        database.commands.take()
        for _ in range(3):
            await browser.text("/use")
        assert set(database.commands.take()) <= {"find"}  # as nothing is due
        assert (await record_of(day, record.id)).expires == record.expires


async def test_a_short_lifetime_is_extended_more_often_than_a_long_one(site):
    browser = (await site(PAGES, idle_timeout=timedelta(days=14))).browser()
    await browser.post("/remember?lifetime=2")
    for _ in range(8):
        await asyncio.sleep(0.5)
        assert await browser.text("/use") == "Alice"


@pytest.mark.parametrize("lifetime", [timedelta(hours=1), timedelta(days=30)])
async def test_it_is_kept_by_a_rotation_and_by_a_copy_to_another_store(site, database, tmp_path, lifetime):
    running = await site(PAGES, idle_timeout=DAY)
    browser = running.browser()
    seconds = lifetime.total_seconds()
    await browser.post(f"/remember?lifetime={seconds}")
    before = browser.secret
    await browser.post(f"/remember?lifetime={seconds}&rotate=1")
    assert browser.secret != before
    assert (await shown(browser))["lifetime"] == seconds
    assert (await shown(browser))["left"] == pytest.approx(seconds, abs=60)
    (record,) = [record async for record in running.manager.records()]
    assert record.lifetime == lifetime
    other = SQLiteStore(tmp_path / "copy.db")
    await copy_sessions(running.manager.store, other)
    (copied,) = [copied async for copied in other.records(timeout=60)]
    assert copied == record
    await other.close()


async def test_it_never_goes_beyond_the_absolute_timeout(site):
    browser = (await site(PAGES, idle_timeout=HOUR, absolute_timeout=2 * HOUR)).browser()
    response = await browser.post("/remember?lifetime=86400")
    assert (await shown(browser))["left"] == pytest.approx(7200, abs=60)
    assert attributes(response)[0].startswith("Max-Age=7200;")


class TestTheCookie:
    @pytest.mark.parametrize("max_age", [None, timedelta(hours=1)])
    async def test_outlasts_the_browser_when_there_is_a_lifetime(self, site, max_age):
        browser = (await site(PAGES, cookie=SessionCookie(max_age=max_age))).browser()
        usual = "Path=/" if max_age is None else "Max-Age=3600;"
        assert attributes(await browser.post("/remember"))[0].startswith(usual)
        before = browser.secret
        assert attributes(await browser.post("/remember?lifetime=86400"))[0].startswith("Max-Age=34560000;")
        assert attributes(await browser.post("/remember?lifetime=86400")) == []
        assert browser.secret == before
        rotated = await browser.post("/remember?lifetime=86400&rotate=1")
        assert attributes(rotated)[0].startswith("Max-Age=34560000;")
        assert attributes(await browser.post("/remember"))[0].startswith(usual)
        assert (await shown(browser))["lifetime"] is None

    async def test_is_not_renewed_by_a_use(self, site):
        browser = (await site(PAGES, cookie=SessionCookie(max_age=None), idle_timeout=HOUR)).browser()
        await browser.post("/remember?lifetime=86400")
        assert attributes(await browser.get("/use")) == []


async def test_a_lifetime_alone_begins_no_session(site):
    class Alone(Page):
        def get(self):
            self.session_lifetime = DAY
            self.write("fine")

    running = await site([("/", Alone)])
    browser = running.browser()
    assert await browser.text() == "fine"
    assert not browser.cookies
    assert [record async for record in running.manager.records()] == []


async def test_one_that_is_set_before_there_is_content_is_stored_with_it(site):
    class Early(Page):
        async def get(self):
            await self.session
            self.session_lifetime = DAY
            await asyncio.sleep(0.01)
            self.session_owner = "alice"

    running = await site([("/", Early)])
    await running.browser().get()
    assert [record.lifetime async for record in running.manager.records("alice")] == [DAY]


@pytest.mark.parametrize("lifetime", [3600, 86400 * 30])
async def test_a_use_by_a_request_that_began_before_leaves_it_alone(site, database, lifetime):
    """It has loaded the session with another lifetime, and saves last that it is used."""
    released = asyncio.Event()

    class Slow(Page):
        async def get(self):
            session = await self.session
            await released.wait()
            session.seen = True

    first = (await site(PAGES, idle_timeout=HOUR)).browser()
    await first.post("/remember")
    sessions = SessionManager(database.new_store(), idle_timeout=DAY, touch_interval=timedelta(0))
    async with serve([*PAGES, ("/slow", Slow)], sessions=sessions) as running:
        browser = running.browser()
        browser.cookies = first.cookies
        slow = asyncio.ensure_future(browser.get("/slow"))
        await asyncio.sleep(0.2)
        await browser.post(f"/remember?lifetime={lifetime}")
        released.set()
        assert (await slow).code == 200
        record = await record_of(sessions, (await shown(browser))["id"])
        assert record.data == {"name": "Alice", "seen": True}
        assert (record.expires - now()).total_seconds() == pytest.approx(lifetime, abs=60)


async def test_a_rotation_beside_it_gives_the_cookie_that_it_needs(site, database):
    class Rotate(Page):
        async def post(self):
            await self.session
            async with serve(PAGES, sessions=SessionManager(database.new_store(), cookie=cookie)) as elsewhere:
                other = elsewhere.browser()
                other.cookies = {"_session": self.get_cookie("_session")}
                await other.post("/remember?lifetime=86400")
            await self.rotate_session_id()

    cookie = SessionCookie(max_age=None)
    browser = (await site([*PAGES, ("/rotate", Rotate)], cookie=cookie)).browser()
    await browser.post("/remember")
    assert attributes(await browser.post("/rotate"))[0].startswith("Max-Age=34560000;")
    assert (await shown(browser))["lifetime"] == 86400


async def test_it_is_told_at_once_when_the_session_will_expire(site):
    class Both(Page):
        async def get(self):
            await self.session
            self.session_lifetime = self.lifetime()
            self.show()

    browser = (await site([*PAGES, ("/both", Both)], idle_timeout=DAY)).browser()
    await browser.post("/remember")
    for lifetime in 3600, 86400 * 30:
        left = json.loads(await browser.text(f"/both?lifetime={lifetime}"))["left"]
        assert left == pytest.approx(lifetime, abs=60)


async def test_one_without_content_gives_no_cookie_though_responses_do_not_wait(site):
    class Alone(Page):
        def get(self):
            self.session_lifetime = DAY

    browser = (await site([("/", Alone)], wait_for_save=False)).browser()
    assert (await browser.get()).code == 200
    assert not browser.cookies


class Failing(MemoryStore):
    """A store whose next save has an end that nobody knows."""

    fails = False

    async def save(self, writes, *, timeout):
        results = await super().save(writes, timeout=timeout)
        if self.fails:
            self.fails = False
            raise ConnectionError("lost")
        return results


@pytest.mark.stores("memory")
async def test_when_nobody_knows_whether_it_was_saved_the_browser_keeps_what_it_has(database):
    sessions = SessionManager(Failing(), cookie=SessionCookie(max_age=None))
    async with serve(PAGES, sessions=sessions) as running:
        browser = running.browser()
        assert attributes(await browser.post("/remember?lifetime=86400"))[0].startswith("Max-Age=34560000;")
        sessions.store.fails = True
        response = await browser.post("/remember?lifetime=172800")
        assert response.code == 503
        assert attributes(response) == []
        assert (await shown(browser))["lifetime"] == 172800


@pytest.mark.stores("memory")
@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (3600, "TypeError: session_lifetime must be a datetime.timedelta or None, not int"),
        (timedelta(0), "ValueError: session_lifetime=datetime.timedelta(0): must be at least a second"),
        (timedelta(days=999_999), "must be at least a second and at most 365,000 days"),
    ],
)
async def test_what_is_no_lifetime_is_refused_at_once(site, wrong, error, caplog):
    class Wrong(Page):
        def get(self):
            self.session_lifetime = wrong

    with caplog.at_level(logging.ERROR):
        assert (await (await site([("/", Wrong)])).browser().get()).code == 500
    assert error in caplog.text


@pytest.mark.stores("memory")
async def test_it_is_refused_when_the_browser_can_get_no_cookie_any_more(site):
    class Socket(SessionMixin, WebSocketHandler):
        def open(self):
            try:
                self.session_lifetime = DAY
            except Exception as error:
                self.write_message(f"{type(error).__name__}: {self.session_lifetime}")

    running = await site([*PAGES, ("/socket", Socket)])
    browser = running.browser()
    await browser.post("/remember")
    headers = {"Cookie": f"_session={browser.secret}"}
    socket = await websocket_connect(HTTPRequest(f"ws://127.0.0.1:{running.port}/socket", headers=headers))
    assert await socket.read_message() == "SessionError: None"
    socket.close()


async def test_an_open_socket_sees_a_new_lifetime(site):
    class Socket(SessionMixin, WebSocketHandler):
        def open(self):
            self.tell()

        def tell(self):
            self.write_message(str(self.session_lifetime))

        on_session_change = tell

    running = await site([*PAGES, ("/socket", Socket)])
    browser = running.browser()
    await browser.post("/remember")
    headers = {"Cookie": f"_session={browser.secret}"}
    socket = await websocket_connect(HTTPRequest(f"ws://127.0.0.1:{running.port}/socket", headers=headers))
    assert await socket.read_message() == "None"
    await browser.post("/remember?lifetime=86400")
    assert await socket.read_message() == "1 day, 0:00:00"
    socket.close()
