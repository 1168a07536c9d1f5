"""What users see while MongoDB is down, and after it is back: killed and paused for real."""

import asyncio
import time

import pytest
from tornado.web import RequestHandler

from tornado_sesame import SessionManager, SessionMixin, SessionStoreError

from .support import open_database, serve

pytestmark = pytest.mark.mongodb

TIMEOUT = 3.0  # seconds


class Handler(SessionMixin, RequestHandler):
    async def outage(self):
        """Returns when MongoDB is down."""
        self.application.settings["ready"].release()
        await self.application.settings["down"].wait()

    def log_exception(self, typ, value, tb):
        self.application.settings["errors"].append(value)
        super().log_exception(typ, value, tb)


class Counter(Handler):
    def get(self):
        self.session.times = self.session.get("times", 0) + 1
        self.write(f"{self.session.times} times!")


class Plain(Handler):
    async def get(self):
        self.write("plain")


class Interrupted(Handler):
    """Loads its session, sees MongoDB go down, and does what it is told in the path."""

    async def get(self, action):
        session = await self.session
        await self.outage()
        match action:
            case "save":
                session.times = session.get("times", 0) + 1
            case "rotate":
                await self.rotate_session_id()
            case "destroy":
                await self.destroy_session()
            case "reload":
                await self.reload_session()
        self.write("success")


@pytest.fixture
async def database(database_kind, mongod):
    async with open_database(database_kind, mongod.uri, f"failures_{database_kind}") as database:
        yield database


@pytest.fixture
async def running(database):
    manager = SessionManager(database.new_store(), timeout=TIMEOUT)
    pages = [("/", Counter), ("/plain", Plain), ("/interrupted/(.*)", Interrupted)]
    settings = {"errors": [], "ready": asyncio.Semaphore(0), "down": asyncio.Event()}
    async with serve(pages, sessions=manager, **settings) as site:
        yield site


async def fails(visitor, path):
    """Asserts that a request is answered with a 503, in time, and without giving a cookie or taking it away."""
    before = time.monotonic()
    response = await visitor.get(path)
    assert response.code == 503, response.body
    assert b"success" not in response.body
    assert b"times" not in response.body
    assert "Set-Cookie" not in response.headers
    return time.monotonic() - before


@pytest.mark.parametrize("outage", ["killed", "paused"])
async def test_while_mongodb_is_down_requests_fail_in_time_and_then_they_work_again(running, mongod, outage, caplog):
    settings = running.application.settings
    interrupted = {action: running.browser() for action in ("save", "rotate", "destroy", "reload")}
    for visitor in interrupted.values():
        assert await visitor.text() == "1 times!"
    new = running.browser()
    known = {action: visitor.secret for action, visitor in interrupted.items()}

    requests = [fails(visitor, f"/interrupted/{action}") for action, visitor in interrupted.items()]
    requests.append(fails(new, "/interrupted/save"))
    waiting = asyncio.gather(*requests)
    for _ in requests:
        await settings["ready"].acquire()
    mongod.kill() if outage == "killed" else mongod.pause()
    settings["down"].set()
    before = time.monotonic()
    await waiting
    assert time.monotonic() - before < TIMEOUT + 1

    crowd = [running.browser() for _ in range(50)]
    for visitor in crowd:
        visitor.cookies = dict(interrupted["reload"].cookies)
    assert max(await asyncio.gather(*(fails(visitor, "/") for visitor in crowd))) < TIMEOUT + 1
    assert await crowd[0].text("/plain") == "plain"

    mongod.start() if outage == "killed" else mongod.resume()
    assert await interrupted["reload"].text() == "2 times!"
    assert await new.text() == "1 times!"
    assert new.cookies
    # What a paused MongoDB had been sent, it does when it wakes; whether it was is not known to anybody.
    done = {"killed": {"2 times!"}, "paused": {"2 times!", "3 times!"}}[outage]
    assert await interrupted["save"].text() in done
    ended = {"killed": {"2 times!"}, "paused": {"1 times!", "2 times!"}}[outage]
    assert await interrupted["rotate"].text() in ended
    assert await interrupted["destroy"].text() in ended

    assert len(settings["errors"]) == 55
    assert all(isinstance(error, SessionStoreError) and error.__cause__ for error in settings["errors"])
    assert not [secret for secret in known.values() if secret in caplog.text]
