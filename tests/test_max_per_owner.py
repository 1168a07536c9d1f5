"""`max_per_owner`: an owner who gets one session more loses those that were used longest ago."""

import asyncio
import logging
import multiprocessing
from datetime import timedelta

import pytest
from tornado.httpclient import HTTPRequest
from tornado.web import RequestHandler
from tornado.websocket import WebSocketHandler, websocket_connect

from tornado_sesame import MemoryStore, SessionManager, SessionMixin, SessionStoreError
from tornado_sesame.cookie import id_of_secret

from .support import open_database, serve


class Login(SessionMixin, RequestHandler):
    session_autoload = True

    async def post(self):
        await self.rotate_session_id()
        self.session_owner = self.get_argument("name", "alice")


class Page(SessionMixin, RequestHandler):
    def get(self):
        self.write(str(self.session_owner))

    def post(self):
        self.session.times = self.session.get("times", 0) + 1


class Rotate(SessionMixin, RequestHandler):
    async def post(self):
        await self.rotate_session_id()


class Socket(SessionMixin, WebSocketHandler):
    def open(self):
        self.write_message(str(self.session_owner))


PAGES = [("/login", Login), ("/", Page), ("/rotate", Rotate), ("/socket", Socket)]


async def signed_in(site, name="alice", path="/login"):
    browser = site.browser()
    assert (await browser.post(f"{path}?name={name}")).code == 200
    await asyncio.sleep(0.002)  # so that the next one is later, in milliseconds
    return browser


async def owners(browsers):
    return [await browser.text() for browser in browsers]


async def test_one_more_ends_the_one_that_was_used_longest_ago(site):
    running = await site(PAGES, max_per_owner=2)
    browsers = [await signed_in(running) for _ in range(4)]
    assert await owners(browsers) == ["None", "None", "alice", "alice"]
    assert len([record async for record in running.manager.records("alice")]) == 2


async def test_it_is_used_by_what_it_does_and_not_by_when_it_began(site):
    running = await site(PAGES, max_per_owner=2)
    first, second = [await signed_in(running) for _ in range(2)]
    await first.post()
    third = await signed_in(running)
    assert await owners([first, second, third]) == ["alice", "None", "alice"]


async def test_an_owner_that_comes_to_a_session_which_exists_counts_too(site):
    class Claim(SessionMixin, RequestHandler):
        def post(self):
            self.session_owner = "alice"

    running = await site([*PAGES, ("/claim", Claim)], max_per_owner=1)
    first, second = await signed_in(running), running.browser()
    await second.post()
    await second.post("/claim")
    assert await owners([first, second]) == ["None", "alice"]


async def test_others_are_left_alone(site):
    running = await site(PAGES, max_per_owner=1)
    bob, nobody = await signed_in(running, "bob"), running.browser()
    await nobody.post()
    alices = [await signed_in(running) for _ in range(2)]
    assert await owners([bob, nobody, *alices]) == ["bob", "None", "None", "alice"]
    assert [record.data async for record in running.manager.records() if record.owner is None] == [{"times": 1}]


async def test_signing_in_again_in_the_same_browser_is_no_session_more(site):
    running = await site(PAGES, max_per_owner=2)
    first, second = [await signed_in(running) for _ in range(2)]
    for _ in range(3):
        await second.post("/login")
    assert await owners([first, second]) == ["alice", "alice"]


async def test_the_response_of_the_login_waits_for_it(site, database):
    running = await site(PAGES, max_per_owner=1)
    first = await signed_in(running)
    await signed_in(running)
    assert await database.data(first.secret) is None


async def test_what_has_expired_does_not_count(site):
    running = await site(PAGES, max_per_owner=2, idle_timeout=timedelta(seconds=1))
    await signed_in(running)
    await asyncio.sleep(1.1)
    browsers = [await signed_in(running) for _ in range(2)]
    assert await owners(browsers) == ["alice", "alice"]


async def test_an_open_socket_of_it_is_closed(site):
    running = await site(PAGES, max_per_owner=1)
    first = await signed_in(running)
    headers = {"Cookie": f"_session={first.secret}"}
    socket = await websocket_connect(HTTPRequest(f"ws://127.0.0.1:{running.port}/socket", headers=headers))
    assert await socket.read_message() == "alice"
    await signed_in(running)
    assert await socket.read_message() is None
    assert (socket.close_code, socket.close_reason) == (1008, "session destroyed")
    socket.close()


async def test_of_many_logins_at_once_as_many_stay_as_may(site, database):
    elsewhere = SessionManager(database.new_store(), max_per_owner=3)
    running = await site(PAGES, max_per_owner=3)
    async with serve(PAGES, sessions=elsewhere) as other:
        browsers = [place.browser() for place in (running, other) for _ in range(20)]
        assert {response.code for response in await asyncio.gather(*(b.post("/login") for b in browsers))} == {200}
        assert sorted(await owners(browsers)) == ["None"] * 37 + ["alice"] * 3


def _log_in(address, number):
    """In a process of its own: signs in a crowd at once."""

    async def crowd():
        kind, uri, name = address
        async with open_database(kind, uri, name) as database:
            sessions = SessionManager(database.new_store(), max_per_owner=3)
            async with serve(PAGES, sessions=sessions) as site:
                await asyncio.gather(*(site.browser().post("/login") for _ in range(number)))

    asyncio.run(crowd())


@pytest.mark.stores("sqlite", "pymongo")
async def test_processes_that_sign_in_at_once_leave_as_many_as_may(database):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_log_in, args=(database.address, 10)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        await asyncio.to_thread(process.join)
        assert process.exitcode == 0
    sessions = SessionManager(database.new_store())
    assert len([record async for record in sessions.records("alice")]) == 3


async def test_a_session_that_is_being_rotated_counts_once(site, database):
    """It is there twice for a moment; nobody is signed out for that."""
    running = await site(PAGES, max_per_owner=2)
    moving = await signed_in(running)
    for _ in range(20):
        rotated = asyncio.ensure_future(moving.post("/rotate"))
        await asyncio.sleep(0.001)
        newcomer = running.browser()
        assert (await newcomer.post("/login")).code == 200
        assert (await rotated).code == 200
        assert await moving.text() == "alice"
        assert await newcomer.text() == "alice"
        await moving.post()


async def test_the_new_one_stays_however_busy_the_others_are(site, database):
    running = await site(PAGES, max_per_owner=1)
    elsewhere = SessionManager(database.new_store())
    async with serve(PAGES, sessions=elsewhere) as other:
        for _ in range(5):
            busy = await signed_in(running)
            used = other.browser()
            used.cookies = dict(busy.cookies)
            is_over = asyncio.Event()

            async def use(used=used, is_over=is_over):
                while not is_over.is_set():
                    await used.post()

            using = asyncio.ensure_future(use())
            await asyncio.sleep(0.02)
            newcomer = running.browser()
            assert (await newcomer.post("/login")).code == 200
            is_over.set()
            await using
            assert await owners([busy, newcomer]) == ["None", "alice"]


async def test_the_log_says_which_ended(site, caplog):
    running = await site(PAGES, max_per_owner=1)
    first = await signed_in(running)
    with caplog.at_level(logging.INFO, "tornado_sesame"):
        await signed_in(running)
    ended = id_of_secret(first.secret)
    assert f"ended session {ended}, as its owner has more than max_per_owner=1" in caplog.text


class Listless(MemoryStore):
    """A store that cannot list."""

    async def records(self, owner=None, *, timeout):
        raise SessionStoreError("no list today")
        yield


@pytest.mark.stores("memory")
async def test_when_it_cannot_be_enforced_the_login_holds_and_the_log_says_so(database, caplog):
    async with serve(PAGES, sessions=SessionManager(Listless(), max_per_owner=1)) as running:
        browsers = [await signed_in(running) for _ in range(2)]
        assert await owners(browsers) == ["alice", "alice"]
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == ["could not list sessions: no list today"] * 2


@pytest.mark.stores("memory")
@pytest.mark.parametrize(
    ("wrong", "error"), [(0, ValueError), (-1, ValueError), (True, TypeError), (1.5, TypeError), ("5", TypeError)]
)
def test_a_limit_that_cannot_be_meant_is_refused(database_kind, wrong, error):
    with pytest.raises(error, match="max_per_owner"):
        SessionManager(max_per_owner=wrong)
