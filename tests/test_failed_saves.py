"""Acknowledged is stored, once; not acknowledged is stored at most once.

Every request appends a name of its own below a dict, adds one there, and assigns its number to a field of its
visitor's. What the visitor is told is held against what is stored in the end.
"""

import asyncio
import json
import random
from collections import Counter
from contextlib import AsyncExitStack, ExitStack

import pytest
from pymongo import MongoClient
from tornado.httpclient import HTTPRequest
from tornado.web import RequestHandler
from tornado.websocket import WebSocketHandler, websocket_connect

from tornado_sesame import MongoStore, SessionManager, SessionMixin, SessionNotSaved, SessionStoreError

from .mongod import Mongod, ReplicaSet
from .proxy import Proxy
from .support import CLIENTS, DATABASE, eventually, open_database, serve

pytestmark = [pytest.mark.mongodb, pytest.mark.stores("motor_asyncio", "pymongo")]

VISITORS = 24


class Start(SessionMixin, RequestHandler):
    async def post(self):
        session = await self.session
        session.d = {"n": 0, "log": []}


class Step(SessionMixin, RequestHandler):
    """Changes the session, one time or several times with saves in between, and answers when that is saved."""

    async def post(self, way):
        session = await self.session
        await asyncio.sleep(random.random() * 0.01)
        change(session, self.get_argument("visitor"), self.get_argument("name"), 0)
        if way == "again":
            # A handler that does not give up: what was not done goes out with the next save, and the rest it reads.
            for part in (1, 2):
                try:
                    await self.save_session()
                except SessionStoreError:
                    session = await self.session
                change(session, self.get_argument("visitor"), self.get_argument("name"), part)
        self.write("done")


class Socket(SessionMixin, WebSocketHandler):
    """Changes the session with each message, and tells how its save ended."""

    async def open(self):
        await self.session

    async def on_message(self, message):
        visitor, name = message.split()
        try:
            session = await self.session
            change(session, visitor, name, 0)
            await self.save_session()
        except SessionStoreError as error:
            await self.write_message("not done" if isinstance(error, SessionNotSaved) else "unknown")
        else:
            await self.write_message("done")


def change(session, visitor, name, part):
    session.d.log.append(f"{name}.{part}")
    session.d.n += 1
    session[f"last_{visitor}"] = int(name.rpartition("-")[2])


class Rotate(SessionMixin, RequestHandler):
    """Rotates a session, and counts that in it before or after."""

    async def post(self, when):
        session = await self.session
        if when == "before":
            session.d.n += 1
        await self.rotate_session_id()
        if when == "after":
            self.session.d.n += 1


class Show(SessionMixin, RequestHandler):
    def get(self):
        self.write(self.session.copy())


PAGES = [("/start", Start), ("/step/(.*)", Step), ("/socket", Socket), ("/rotate/(.*)", Rotate), ("/show", Show)]


class Crowd:
    """Visitors who share one session, each with one request after the other, and what they were told."""

    def __init__(self, sites, way="once"):
        self.sites = sites
        self.way = way
        self.done, self.failed = [], []
        self.statuses = []
        self.stop = False
        self.cookies = {}

    async def start(self):
        browser = self.sites[0].browser()
        assert (await browser.post("/start")).code == 200
        self.cookies = browser.cookies
        self.visits = [asyncio.ensure_future(self.visit(number)) for number in range(VISITORS)]

    async def visit(self, visitor):
        browser = self.sites[visitor % len(self.sites)].browser()
        browser.cookies = dict(self.cookies)
        number = 0
        while not self.stop:
            number += 1
            name = f"{visitor}-{number}"
            response = await browser.post(f"/step/{self.way}?visitor={visitor}&name={name}", request_timeout=120)
            assert response.code in (200, 503), response.body
            (self.done if response.code == 200 else self.failed).append(name)

    async def more(self, number):
        """Returns when as many more requests were told that they are done."""
        before = len(self.done)
        while len(self.done) < before + number:
            await asyncio.sleep(0.01)
            for visit in self.visits:
                if visit.done():
                    visit.result()

    async def end(self):
        self.stop = True
        await asyncio.gather(*self.visits)

    def check(self, data):
        """Asserts that *data* are what the visitors were told."""
        parts = 1 if self.way == "once" else 3
        log = data["d"]["log"]
        assert data["d"]["n"] == len(log)
        assert len(log) == len(set(log)), "something was done twice"
        named = [name.partition(".")[0] for name in log]
        assert not [name for name in self.done if named.count(name) != parts], "something acknowledged is not there"
        assert set(named) <= {*self.done, *self.failed}
        for visitor in range(VISITORS):
            acknowledged = max(int(name.partition("-")[2]) for name in self.done if name.startswith(f"{visitor}-"))
            assert data[f"last_{visitor}"] >= acknowledged, "an earlier save has overwritten a later one"


def stored(uri, name):
    """Returns the content of the only session, as a client sees it that has nothing to do with the others."""
    with MongoClient(uri) as client:
        (document,) = client[DATABASE][name].find({"data": {"$type": "object"}})
        return document["data"]


@pytest.fixture
def proxied():
    """Gives what puts a proxy before a MongoDB; it is there until the drivers are closed."""
    with ExitStack() as stack:
        yield lambda server: stack.enter_context(Proxy(server.port))


@pytest.fixture
async def sites(proxied):
    """Gives what runs two sites, each with a driver of its own, on one database."""
    async with AsyncExitStack() as stack:

        async def start(kind, uri, timeout=60.0, **options):
            name = f"failed_saves_{random.randrange(2**32)}"
            running = []
            for _ in range(2):
                client = CLIENTS[kind](uri, **options)
                stack.callback(client.close) if kind != "pymongo" else stack.push_async_callback(client.close)
                manager = SessionManager(MongoStore(client[DATABASE][name], create_indexes=False), timeout=timeout)
                running.append(await stack.enter_async_context(serve(PAGES, sessions=manager)))
            return name, running

        yield start


@pytest.fixture(scope="module")
def three(needs_mongod, tmp_path_factory):
    servers = ReplicaSet(tmp_path_factory.mktemp("three"))
    yield servers
    servers.kill()


@pytest.fixture(scope="module")
def standalone(needs_mongod, tmp_path_factory):
    server = Mongod(tmp_path_factory.mktemp("standalone"), None)
    yield server
    server.kill()


class TestUnderLoad:
    @pytest.mark.parametrize("way", ["once", "again"])
    async def test_one_of_three_is_killed(self, sites, database_kind, three, way):
        """The driver repeats what was under way, for as long as there is time; nobody gets an error."""
        name, running = await sites(database_kind, three.uri)
        crowd = Crowd(running, way)
        await crowd.start()
        for _ in range(2):
            await crowd.more(VISITORS * 4)
            primary = await asyncio.to_thread(three.primary)
            await asyncio.to_thread(primary.kill)
            await crowd.more(VISITORS * 4)
            await asyncio.to_thread(primary.start)
        await crowd.end()
        crowd.check(await asyncio.to_thread(stored, three.uri, name))
        assert crowd.failed == []

    @pytest.mark.parametrize("way", ["once", "again"])
    async def test_the_primary_steps_down(self, sites, database_kind, mongod, way):
        name, running = await sites(database_kind, mongod.uri)
        crowd = Crowd(running, way)
        await crowd.start()
        for _ in range(2):
            await crowd.more(VISITORS * 4)
            await asyncio.to_thread(mongod.step_down)
        await crowd.more(VISITORS * 4)
        await crowd.end()
        # A set of one has no other primary to go to, so the driver now and then gives up before its time.
        crowd.check(await asyncio.to_thread(stored, mongod.uri, name))

    @pytest.mark.parametrize("way", ["once", "again"])
    @pytest.mark.parametrize("fault", ["killed", "paused"])
    async def test_it_is_away_for_longer_than_a_request_waits(self, sites, database_kind, mongod, way, fault):
        name, running = await sites(database_kind, mongod.uri, timeout=2.0)
        crowd = Crowd(running, way)
        await crowd.start()
        for _ in range(2):
            await crowd.more(VISITORS * 4)
            mongod.pause() if fault == "paused" else mongod.kill()
            failed = len(crowd.failed)
            while len(crowd.failed) < failed + VISITORS * 2:
                await asyncio.sleep(0.01)
            mongod.resume() if fault == "paused" else await asyncio.to_thread(mongod.start)
        await crowd.more(VISITORS * 4)
        await crowd.end()
        crowd.check(await asyncio.to_thread(stored, mongod.uri, name))

    @pytest.mark.parametrize("way", ["once", "again"])
    @pytest.mark.parametrize("server", ["replica set", "standalone"])
    @pytest.mark.parametrize("what", ["answers", "commands"])
    async def test_connections_break(self, sites, proxied, database_kind, mongod, standalone, server, what, way):
        """Of a replica set, the driver repeats it; of a standalone server, nobody does."""
        target = mongod if server == "replica set" else standalone
        proxy = proxied(target)
        # PyMongo now and then misses that a connection was closed, and waits for its answer until the time is up.
        name, running = await sites(database_kind, proxy.uri, timeout=5.0)
        crowd = Crowd(running, way)
        await crowd.start()
        for _ in range(10):
            await crowd.more(VISITORS)
            (proxy.lose_answer if what == "answers" else proxy.lose_command)("update")
        await crowd.more(VISITORS * 2)
        await crowd.end()
        crowd.check(await asyncio.to_thread(stored, target.uri, name))
        if server == "standalone":
            assert crowd.failed


class Movers:
    """Visitors who each have a session of their own, which moves with each request."""

    def __init__(self, sites):
        self.sites = sites
        self.done, self.failed = Counter(), Counter()
        self.stop = False

    async def start(self):
        self.browsers = [self.sites[number % len(self.sites)].browser() for number in range(VISITORS)]
        for browser in self.browsers:
            assert (await browser.post("/start")).code == 200
        self.visits = [asyncio.ensure_future(self.visit(browser)) for browser in self.browsers]

    async def visit(self, browser):
        while not self.stop:
            response = await browser.post(f"/rotate/{random.choice(['before', 'after'])}", request_timeout=120)
            assert response.code in (200, 503), response.body
            (self.done if response.code == 200 else self.failed)[browser] += 1

    async def more(self, number):
        before = self.done.total()
        while self.done.total() < before + number:
            await asyncio.sleep(0.01)
            for visit in self.visits:
                if visit.done():
                    visit.result()

    async def end(self):
        """Asserts that each has his session, and that what was acknowledged is counted in it, once."""
        self.stop = True
        await asyncio.gather(*self.visits)
        for browser in self.browsers:
            response = await browser.get("/show")
            counted = json.loads(response.body)["d"]["n"]
            assert self.done[browser] <= counted <= self.done[browser] + self.failed[browser]


class TestMovingUnderLoad:
    async def test_one_of_three_is_killed(self, sites, database_kind, three):
        _, running = await sites(database_kind, three.uri)
        movers = Movers(running)
        await movers.start()
        for _ in range(2):
            await movers.more(VISITORS * 4)
            primary = await asyncio.to_thread(three.primary)
            await asyncio.to_thread(primary.kill)
            await movers.more(VISITORS * 4)
            await asyncio.to_thread(primary.start)
        await movers.end()
        assert movers.failed.total() == 0

    @pytest.mark.parametrize("fault", ["killed", "paused"])
    async def test_it_is_away_for_longer_than_a_request_waits(self, sites, database_kind, mongod, fault):
        _, running = await sites(database_kind, mongod.uri, timeout=2.0)
        movers = Movers(running)
        await movers.start()
        for _ in range(2):
            await movers.more(VISITORS * 4)
            mongod.pause() if fault == "paused" else mongod.kill()
            failed = movers.failed.total()
            while movers.failed.total() < failed + VISITORS * 2:
                await asyncio.sleep(0.01)
            mongod.resume() if fault == "paused" else await asyncio.to_thread(mongod.start)
        await movers.more(VISITORS * 4)
        await movers.end()

    async def test_it_refuses(self, sites, database_kind, mongod):
        """As when the user of the database may only read: the session stays where it is."""
        _, running = await sites(database_kind, mongod.uri, timeout=5.0)
        browser = running[0].browser()
        await browser.post("/start")
        secret = browser.secret
        with MongoClient(mongod.uri) as client:
            for command in "insert", "findAndModify":
                fail = {"failCommands": [command], "errorCode": 13}
                client.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=fail)
                response = await browser.post("/rotate/none")
                assert (response.code, browser.secret) == (503, secret)
                assert json.loads((await browser.get("/show")).body) == {"d": {"n": 0, "log": []}}
        assert (await browser.post("/rotate/after")).code == 200
        assert browser.secret != secret


class TestOne:
    """Session, and one fault: what it is told, and what is stored."""

    @pytest.fixture(params=["replica set", "no retryable writes", "standalone"])
    def server(self, request, mongod, standalone):
        return request.param, standalone if request.param == "standalone" else mongod

    @pytest.fixture
    async def fault(self, server, proxied, database_kind):
        kind, target = server
        proxy = proxied(target)
        options = {"retryWrites": False} if kind == "no retryable writes" else {}
        async with open_database(database_kind, proxy.uri, "one_fault", **options) as database:
            yield proxy, database, SessionManager(database.new_store()), kind == "replica set"

    @pytest.mark.parametrize("number", [1, 3])
    @pytest.mark.parametrize("what", ["answer", "command"])
    async def test_an_update(self, fault, number, what):
        proxy, database, manager, repeats = fault
        sessions = [await started(manager) for _ in range(number)]
        (proxy.lose_answer if what == "answer" else proxy.lose_command)("update")
        for live in sessions:
            live.session.n += 1
            live.session.d.l.append("x")
        results = await asyncio.gather(*(live.save() for live in sessions), return_exceptions=True)
        assert [type(result) for result in results] == [type(None) if repeats else SessionStoreError] * number
        is_done = repeats or what == "answer"
        for live in sessions:
            assert await database.data(live.id) == {"n": int(is_done), "d": {"l": ["x"] * is_done}}
            session = await live.session
            session.n += 10
            await live.save()
            assert await database.data(live.id) == {"n": is_done + 10, "d": {"l": ["x"] * is_done}}

    @pytest.mark.parametrize("what", ["answer", "command"])
    async def test_an_insert(self, fault, what):
        proxy, database, manager, repeats = fault
        live = manager.open()
        live.open_empty()
        live.session.n = 1
        id = live.id
        (proxy.lose_answer if what == "answer" else proxy.lose_command)("insert")
        if repeats:
            await live.save()
            assert live.response_header(https=True)
        else:
            with pytest.raises(SessionStoreError):
                await live.save()
            assert live.response_header(https=True) is None
        is_done = repeats or what == "answer"
        assert await database.data(id) == ({"n": 1} if is_done else None)

    @pytest.mark.parametrize("what", ["answer", "command"])
    async def test_an_end(self, fault, what):
        proxy, database, manager, repeats = fault
        live = await started(manager)
        id = live.id
        (proxy.lose_answer if what == "answer" else proxy.lose_command)("update")
        if repeats:
            await live.destroy()
        else:
            with pytest.raises(SessionStoreError):
                await live.destroy()
            await live.destroy()
        assert await database.data(id) is None


class TestWhileItIsDown:
    @pytest.fixture
    async def database(self, database_kind, mongod):
        async with open_database(database_kind, mongod.uri, "while_it_is_down") as database:
            yield database

    async def test_what_was_not_sent_stays_pending_and_goes_out_with_the_next_save(self, database, mongod):
        manager = SessionManager(database.new_store(), timeout=2.0)
        live = await started(manager)
        mongod.kill()
        other = await started_or_none(manager)  # so that the driver has noticed
        assert other is None
        for number in range(2):
            live.session.n += 1
            live.session.d.l.append(number)
            with pytest.raises(SessionNotSaved, match=r"connection (refused|closed)"):
                await live.save()
        mongod.start()
        live.session.n += 1
        await live.save()
        assert await database.data(live.id) == live.session == {"n": 3, "d": {"l": [0, 1]}}

    async def test_a_session_that_was_destroyed_is_not_brought_back_by_an_insert_that_hung(self, database, mongod):
        manager = SessionManager(database.new_store(), timeout=1.0)
        await started(manager)
        mongod.pause()
        live = manager.open()
        live.open_empty()
        live.session.n = 1
        id = live.id
        with pytest.raises(SessionStoreError) as caught:
            await live.save()
        assert not isinstance(caught.value, SessionNotSaved)
        with pytest.raises(SessionStoreError):
            await live.destroy()
        mongod.resume()
        await live.destroy()
        assert await database.data(id) is None
        # However late it comes, and though it is given a second time.
        await asyncio.sleep(1)
        assert await database.data(id) is None

    async def test_a_request_answers_503_whatever_happens_later(self, database, mongod):
        class Stubborn(SessionMixin, RequestHandler):
            async def get(self):
                session = await self.session
                session.n = session.get("n", 0) + 1
                if self.get_argument("pause", None):
                    mongod.pause()
                    try:
                        await self.save_session()
                    except SessionStoreError:
                        mongod.resume()
                    session = await self.session
                    session.later = True
                    await self.save_session()
                self.write("success")

        manager = SessionManager(database.new_store(), timeout=1.0)
        async with serve([("/", Stubborn)], sessions=manager) as site:
            browser = site.browser()
            await browser.text()
            response = await browser.get("/?pause=1")
            assert response.code == 503
            assert b"success" not in response.body
            data = await database.data(browser.secret)
            assert data["later"] is True
            assert data["n"] in (1, 2)

    async def test_websockets_live_through_it(self, database, mongod):
        manager = SessionManager(database.new_store(), timeout=2.0)
        told = {"done": [], "not done": [], "unknown": []}
        is_over = asyncio.Event()
        async with serve(PAGES, sessions=manager) as site:
            browser = site.browser()
            assert (await browser.post("/start")).code == 200

            async def talk(visitor):
                cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
                socket = await websocket_connect(
                    HTTPRequest(f"ws://127.0.0.1:{site.port}/socket", headers={"Cookie": cookie})
                )
                number = 0
                while not is_over.is_set():
                    number += 1
                    await socket.write_message(f"{visitor} {visitor}-{number}")
                    told[await socket.read_message()].append(f"{visitor}-{number}")
                socket.close()

            talks = [asyncio.ensure_future(talk(visitor)) for visitor in range(VISITORS)]

            async def more(number, *kinds):
                def count():
                    return sum(len(told[kind]) for kind in kinds)

                before = count()

                async def has_more():
                    return count() >= before + number

                await eventually(has_more)

            await more(VISITORS * 3, "done")
            for fault in "killed", "paused":
                mongod.kill() if fault == "killed" else mongod.pause()
                await more(VISITORS * 2, "unknown", "not done")
                await asyncio.to_thread(mongod.start) if fault == "killed" else mongod.resume()
                await more(VISITORS * 3, "done")
            is_over.set()
            await asyncio.gather(*talks)
            data = await database.data(browser.secret)
        log = [name.partition(".")[0] for name in data["d"]["log"]]
        assert data["d"]["n"] == len(log) == len(set(log))
        assert {*told["done"]} <= {*log} <= {name for names in told.values() for name in names}
        for visitor in range(VISITORS):
            last = max(int(name.partition("-")[2]) for name in told["done"] if name.startswith(f"{visitor}-"))
            assert data[f"last_{visitor}"] >= last


async def started(manager):
    live = manager.open()
    live.open_empty()
    live.session.update(n=0, d={"l": []})
    await live.save()
    live.response_header(https=True)
    return live


async def started_or_none(manager):
    try:
        return await started(manager)
    except SessionStoreError:
        return None
