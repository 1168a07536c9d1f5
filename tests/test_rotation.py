"""A rotation loses no session, whatever comes between."""

import asyncio
import contextlib
import json
import random
import traceback
from datetime import timedelta
from typing import ClassVar

import pytest
from tornado.web import RequestHandler

from tornado_sesame import (
    Changes,
    Inc,
    Push,
    SessionManager,
    SessionMixin,
    SessionRecord,
    SessionStoreError,
    SessionUpdate,
    Set,
)
from tornado_sesame.cookie import Secret, id_of_secret
from tornado_sesame.errors import SessionNotSaved
from tornado_sesame.settings import now
from tornado_sesame.stores import MemoryStore

from .proxy import Proxy
from .support import CLIENTS, eventually, open_database, record_of, secret_in, serve

CONTENT = {"user": "alice", "nested": {"cart": ["apple"], "n": 1}}


class Handler(SessionMixin, RequestHandler):
    pass


class Visit(Handler):
    def post(self):
        self.session = CONTENT
        self.session_owner = "alice"


class Show(Handler):
    def get(self):
        self.write({"data": self.session.copy(), "owner": self.session_owner})


class Rotate(Handler):
    async def post(self):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(float(self.get_argument("seconds", "100"))):
                await self.rotate_session_id()
        self.write("answered")


class NotAwaited(Handler):
    tasks: ClassVar = set()

    async def post(self):
        await self.session
        task = asyncio.ensure_future(self.rotate_session_id())
        self.tasks.add(task)
        for _ in range(int(self.get_argument("turns"))):
            await asyncio.sleep(0)


class Change(Handler):
    async def post(self):
        session = await self.session
        if not session:  # it is late
            return
        await asyncio.sleep(random.random() * 0.01)
        session.nested.n += 1
        session.nested.cart.append("pear")


PAGES = [
    ("/visit", Visit),
    ("/show", Show),
    ("/rotate", Rotate),
    ("/not-awaited", NotAwaited),
    ("/change", Change),
]


async def visited(running):
    browser = running.browser()
    assert (await browser.post("/visit")).code == 200
    return browser


async def shown(browser):
    return json.loads(await browser.text("/show"))


async def living(manager, owner="alice"):
    return [record async for record in manager.records(owner)]


@pytest.fixture
async def running(site):
    return await site(PAGES)


class Hooked(MemoryStore):
    """A store that calls a hook around each of its writes, and fails as it is told."""

    def __init__(self):
        super().__init__()
        self.steps = []  # what each of the next writes does: None, or what it raises before or after it was done

    async def save(self, writes, *, timeout):
        return await self._step(super().save(writes, timeout=timeout))

    async def pop(self, end, *, timeout):
        return await self._step(super().pop(end, timeout=timeout))

    async def _step(self, call):
        when, error = self.steps.pop(0) if self.steps else (None, None)
        await asyncio.sleep(0.001)
        if when == "before":
            call.close()
            raise error
        result = await call
        await asyncio.sleep(0.001)
        if when == "after":
            raise error
        return result


async def test_the_content_the_owner_and_when_it_began_stay(running):
    browser = await visited(running)
    (before,) = await living(running.manager)
    old = browser.secret
    response = await browser.post("/rotate")
    assert response.headers["Cache-Control"] == "no-store"
    assert browser.secret != old
    (after,) = await living(running.manager)
    assert (after.data, after.owner, after.created) == (CONTENT, "alice", before.created)
    assert after.id == id_of_secret(browser.secret)
    assert after.expires - now() > timedelta(days=13)


@pytest.mark.parametrize("moment", range(12))
async def test_a_cancelled_rotation_leaves_the_session_here_or_there(running, moment):
    for attempt in range(3):
        browser = await visited(running)
        response = await browser.post(f"/rotate?seconds={(moment * 3 + attempt) * 0.0004}")
        assert response.body == b"answered"
        assert await shown(browser) == {"data": CONTENT, "owner": "alice"}
        ids = {record.id for record in await living(running.manager) if record.expires - now() > timedelta(minutes=1)}
        assert id_of_secret(browser.secret) in ids
        await running.manager.destroy_all("alice")


@pytest.mark.parametrize("turns", [*range(8), 12, 16, 24])
async def test_one_that_nobody_awaits_does_as_well(running, turns):
    for _ in range(3):
        browser = await visited(running)
        assert (await browser.post(f"/not-awaited?turns={turns}")).code == 200
        assert await shown(browser) == {"data": CONTENT, "owner": "alice"}
        await asyncio.gather(*NotAwaited.tasks, return_exceptions=True)
        NotAwaited.tasks.clear()
        assert await shown(browser) == {"data": CONTENT, "owner": "alice"}
        await running.manager.destroy_all("alice")


async def test_what_others_save_meanwhile_is_carried_over(running):
    browser = await visited(running)
    for round in range(10):
        others = [running.browser() for _ in range(8)]
        for other in others:
            other.cookies = dict(browser.cookies)
        before = (await shown(browser))["data"]["nested"]
        manager, saves = running.manager, []
        record = await record_of(manager, id_of_secret(browser.secret))

        async def change(other, saves=saves):
            assert (await other.post("/change")).code == 200
            saves.append(other)

        changes = [asyncio.create_task(change(other)) for other in others]
        await asyncio.sleep(random.random() * 0.01)
        assert (await browser.post("/rotate")).code == 200
        await asyncio.gather(*changes)
        nested = (await shown(browser))["data"]["nested"]
        done = nested["n"] - before["n"]
        assert 0 <= done <= len(others)
        assert nested["cart"].count("pear") == before["cart"].count("pear") + done, round
        assert record.id != id_of_secret(browser.secret)
        assert await record_of(manager, record.id) is None


async def test_no_session_escapes_a_destroy_all(running):
    for round in range(40):
        browser = await visited(running)
        rotating = asyncio.create_task(browser.post("/rotate"))
        await asyncio.sleep(random.random() * 0.012)
        await running.manager.destroy_all("alice")
        assert (await rotating).code == 200
        assert (await shown(browser))["data"] == {}, round
        assert await living(running.manager) == []


UNKNOWN, REFUSED = ConnectionError("lost"), SessionNotSaved("refused")


@pytest.mark.parametrize(
    ("steps", "code", "is_new"),
    [
        ([("before", REFUSED)], 503, False),
        ([("before", UNKNOWN)], 503, False),
        ([("after", UNKNOWN)], 503, False),
        ([(None, None), ("before", REFUSED)], 503, False),
        ([(None, None), ("before", UNKNOWN)], 200, True),  # it looks again at once
        ([(None, None), ("after", UNKNOWN)], 200, True),
        ([(None, None), ("before", UNKNOWN), ("before", REFUSED)], 503, True),
        ([(None, None), ("before", UNKNOWN), ("after", UNKNOWN)], 503, True),
        ([(None, None), ("before", UNKNOWN), ("before", UNKNOWN), ("before", REFUSED)], 503, True),
        ([(None, None), ("after", UNKNOWN), ("before", UNKNOWN)], 503, True),
        ([(None, None), (None, None), ("before", REFUSED)], 503, True),
        ([(None, None), (None, None), ("before", UNKNOWN)], 503, True),
        ([(None, None), (None, None), ("after", UNKNOWN)], 503, True),
        ([(None, None), (None, None), ("after", UNKNOWN), ("before", UNKNOWN)], 503, True),
    ],
)
async def test_whichever_step_fails_the_session_is_where_the_client_looks_for_it(steps, code, is_new):
    manager = SessionManager(Hooked())
    async with serve(PAGES, sessions=manager) as running:
        browser = await visited(running)
        old = browser.secret
        manager.store.steps = list(steps)
        assert (await browser.post("/rotate")).code == code
        assert (browser.secret != old) is is_new

        async def is_settled():
            records = await living(manager)
            lasting = [record.id for record in records if record.expires - now() > timedelta(minutes=1)]
            return lasting == [id_of_secret(browser.secret)]

        await eventually(is_settled)
        assert await shown(browser) == {"data": CONTENT, "owner": "alice"}
        if is_new:
            assert await record_of(manager, id_of_secret(old)) is None


async def test_one_that_was_ended_while_nobody_knew_stays_ended():
    manager = SessionManager(Hooked())
    async with serve(PAGES, sessions=manager) as running:
        browser = await visited(running)
        old = id_of_secret(browser.secret)
        manager.store.steps = [(None, None), ("before", UNKNOWN), ("before", UNKNOWN)]
        assert (await browser.post("/rotate")).code == 503
        await manager.destroy(old)

        async def is_over():
            return await living(manager) == []

        await eventually(is_over)
        assert await shown(browser) == {"data": {}, "owner": None}


async def test_no_frame_of_a_traceback_shows_a_secret():
    manager = SessionManager(Hooked())
    live = manager.open()
    live.open_empty()
    live.session.n = 1
    await live.save()
    secrets = [secret_in(live.response_header(https=True)[1])]
    shown = ""
    fine, lost = (None, None), ("before", UNKNOWN)
    for steps in ([lost], [fine, lost, lost], [fine, fine, lost]):
        again = manager.open([Secret(secrets[-1])])
        await again.load()
        manager.store.steps = steps
        with pytest.raises(SessionStoreError) as caught:
            await again.rotate()
        for error in (caught.value, caught.value.__cause__):
            frames = traceback.TracebackException.from_exception(error, capture_locals=True).stack
            shown += "".join(repr(frame.locals) for frame in frames if frame.filename != __file__)
        told = again.response_header(https=True)
        if told is not None:
            secrets.append(secret_in(told[1]))
            await asyncio.sleep(4)  # until it is settled
    assert "<Secret of session" in shown
    assert len(secrets) == 3
    assert not any(secret in shown for secret in secrets)


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("lose", ["lose_answer", "lose_command"])
@pytest.mark.parametrize("command", ["insert", "findAndModify", "update"])
async def test_a_lost_command_or_answer_of_mongodb_loses_no_session(mongodb_uri, kind, lose, command):
    port = int(mongodb_uri.rpartition(":")[2].partition("/")[0])
    with Proxy(port) as proxy:
        uri = proxy.uri + "&retryWrites=false"  # so that it is ours to find out
        async with open_database(kind, uri, f"rotation_{random.getrandbits(60)}") as database:
            manager = SessionManager(database.new_store())
            async with serve(PAGES, sessions=manager) as running:
                browser = await visited(running)
                old = browser.secret
                getattr(proxy, lose)(command)
                response = await browser.post("/rotate")
                assert response.code == (200 if command == "findAndModify" else 503)
                assert (browser.secret != old) is (command != "insert")

                async def is_settled():
                    lasting = [r.id for r in await living(manager) if r.expires - now() > timedelta(minutes=1)]
                    return lasting == [id_of_secret(browser.secret)]

                await eventually(is_settled)
                assert await shown(browser) == {"data": CONTENT, "owner": "alice"}


class LatePop(MemoryStore):
    """A server that hangs with the first `pop`, and does it just before the second one."""

    hung = None

    async def pop(self, end, *, timeout):
        if self.hung is None:
            self.hung = end
            raise ConnectionError("no answer")
        assert isinstance(await super().pop(self.hung, timeout=timeout), SessionRecord)
        return await super().pop(end, timeout=timeout)


async def test_a_command_that_is_done_late_is_known_as_our_own():
    manager = SessionManager(LatePop())
    async with serve(PAGES, sessions=manager) as running:
        browser = await visited(running)
        assert (await browser.post("/rotate")).code == 200

        async def is_settled():
            records = await living(manager)
            return [record.id for record in records if record.expires - now() > timedelta(minutes=1)] == [
                id_of_secret(browser.secret)
            ]

        await eventually(is_settled)
        assert await shown(browser) == {"data": CONTENT, "owner": "alice"}


class LateUpdate(MemoryStore):
    """A server that hangs with what completes a rotation, during which somebody else has saved something."""

    hung = None

    async def pop(self, end, *, timeout):
        ops = {("nested", "n"): Inc(1), ("nested", "cart"): Push(["plum"]), ("theme",): Set("dark")}
        await super().save([SessionUpdate(end.id, Changes(ops), now())], timeout=timeout)
        return await super().pop(end, timeout=timeout)

    async def save(self, writes, *, timeout):
        if self.hung is None and any(isinstance(write, SessionUpdate) and write.expires for write in writes):
            self.hung = writes
            raise ConnectionError("no answer")
        return await super().save(writes, timeout=timeout)


async def test_a_completion_that_is_done_late_takes_nothing_from_what_the_client_did_since():
    manager = SessionManager(LateUpdate())
    async with serve(PAGES, sessions=manager) as running:
        browser = await visited(running)
        assert (await browser.post("/rotate")).code == 503
        assert (await browser.post("/change")).code == 200
        await MemoryStore.save(manager.store, manager.store.hung, timeout=60)
        data = (await shown(browser))["data"]
        assert data == {"user": "alice", "nested": {"cart": ["apple", "pear", "plum"], "n": 3}, "theme": "dark"}
