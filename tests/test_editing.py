"""`SessionManager.edit`: a session is read and changed by somebody else than its visitor."""

import asyncio
import json
import logging
import multiprocessing
import random
from datetime import timedelta

import pytest
from tornado.httpclient import HTTPRequest
from tornado.web import RequestHandler
from tornado.websocket import WebSocketHandler, websocket_connect

from tornado_sesame import (
    SessionDataError,
    SessionError,
    SessionGone,
    SessionManager,
    SessionMixin,
    SessionStoreError,
    TypedSession,
    TypedSessionDict,
)

from .support import open_database, record_of, serve


class Job(TypedSessionDict):
    state: str = "waiting"
    steps: int = 0


class Visit(TypedSession):
    times: int = 0
    job: Job
    messages: list[str]


class Page(SessionMixin[Visit], RequestHandler):
    def get(self):
        self.session.times += 1
        self.write({"id": self.session_id, "data": self.session})


class Slow(SessionMixin[Visit], RequestHandler):
    async def get(self):
        visit = await self.session
        self.settings["read"].set()
        await self.settings["released"].wait()
        visit.job.steps += 1
        visit.messages.append("visitor")
        visit.times += 1


class Edit(SessionMixin, RequestHandler):
    """An administrator's request changes the session of somebody else."""

    async def post(self):
        async with self.session_manager.edit(self.get_argument("id")) as session:
            session.setdefault("job", {})["state"] = self.get_argument("state")
        self.write("done")


class Leave(SessionMixin, RequestHandler):
    async def post(self):
        await (self.rotate_session_id if self.get_argument("rotate", None) else self.destroy_session)()


class Socket(SessionMixin[Visit], WebSocketHandler):
    def open(self):
        self.on_session_change()

    def on_session_change(self):
        self.write_message(self.session.job.state)


PAGES = [("/", Page), ("/slow", Slow), ("/edit", Edit), ("/leave", Leave), ("/socket", Socket)]


@pytest.fixture
async def running(site):
    return await site(PAGES)


async def visited(browser):
    shown = json.loads(await browser.text())
    return shown["id"], shown["data"]


async def test_another_request_changes_it_and_its_visitor_finds_that(running):
    browser = running.browser()
    id, _ = await visited(browser)
    assert (await running.browser().post(f"/edit?id={id}&state=done")).body == b"done"
    assert await visited(browser) == (id, {"times": 2, "job": {"state": "done"}})


async def test_it_is_read_and_saved_when_the_block_ends(running, database):
    id, _ = await visited(running.browser())
    async with running.manager.edit(id) as session:
        assert session == {"times": 1}
        assert await session is session
        session.user = {"name": "Alice", "roles": ["reader"]}
        session.user.roles.append("editor")
    assert await database.data(id) == {"times": 1, "user": {"name": "Alice", "roles": ["reader", "editor"]}}


async def test_it_is_typed_when_the_manager_says_so(site, database):
    class Sessions(SessionManager[Visit]):
        pass

    class More(Sessions):
        pass

    id, _ = await visited((await site(PAGES)).browser())
    for times, kind in enumerate((SessionManager[Visit], Sessions, More), 1):
        manager = kind(database.new_store())
        async with manager.edit(id) as visit:
            assert type(visit) is Visit
            visit.job.steps += 1
            visit.messages.append("hello")
            with pytest.raises(AttributeError, match="times"):
                visit.time = 1
        assert await database.data(id) == {"times": 1, "job": {"steps": times}, "messages": ["hello"] * times}


def test_a_parameter_that_is_no_class_of_sessions_is_refused_at_once():
    with pytest.raises(TypeError, match="the parameter of SessionManager must be a subclass of TypedSession"):
        SessionManager[int]


async def test_a_parameter_that_is_only_a_name_is_refused_when_it_is_needed(running):
    id, _ = await visited(running.browser())
    with pytest.raises(TypeError, match="the class itself"):
        async with SessionManager["Visit"](running.manager.store).edit(id):
            raise AssertionError


async def test_what_the_visitor_changes_at_the_same_time_is_kept(running, database):
    browser = running.browser()
    id, _ = await visited(browser)
    read = running.application.settings["read"] = asyncio.Event()
    released = running.application.settings["released"] = asyncio.Event()
    slow = asyncio.ensure_future(browser.get("/slow"))
    await read.wait()
    async with running.manager.edit(id) as session:
        session.setdefault("job", {}).setdefault("steps", 0)
        session.job.steps += 10
        session.setdefault("messages", []).append("worker")
    released.set()
    assert (await slow).code == 200
    assert await database.data(id) == {"times": 2, "job": {"steps": 11}, "messages": ["worker", "visitor"]}


async def test_a_crowd_of_editors_loses_nothing(site, database):
    id, _ = await visited((await site(PAGES)).browser())
    managers = [SessionManager[Visit](database.new_store()) for _ in range(3)]

    async def work(manager, number):
        async with manager.edit(id) as visit:
            visit.job.steps += 1
            await asyncio.sleep(0)
            visit.messages.append(str(number))
            visit[f"own {number}"] = number

    await asyncio.gather(
        *(work(manager, number + 100 * place) for number in range(30) for place, manager in enumerate(managers))
    )
    stored = await database.data(id)
    assert stored["job"]["steps"] == len(stored["messages"]) == len(set(stored["messages"])) == 90
    assert len([name for name in stored if name.startswith("own ")]) == 90


def _edit_in_a_crowd(address, id, number, results):
    """In a process of its own: edits a session at once with all others, and gives up some edits at any moment."""

    async def crowd():
        kind, uri, name = address
        async with open_database(kind, uri, name) as database:
            sessions = SessionManager[Visit](database.new_store())

            async def work(count):
                async with sessions.edit(id) as visit:
                    visit.job.steps += 1
                    await asyncio.sleep(random.random() / 100)
                    visit.messages.append(f"{number}.{count}")

            edits = [asyncio.ensure_future(work(count)) for count in range(100)]
            for edit in edits[::4]:
                await asyncio.sleep(random.random() / 200)
                edit.cancel()
            ended = await asyncio.gather(*edits, return_exceptions=True)
            await sessions.close()
            results.put([f"{number}.{count}" for count, result in enumerate(ended) if result is None])

    asyncio.run(crowd())


@pytest.mark.stores("sqlite", "motor_asyncio", "pymongo")
async def test_a_crowd_over_two_processes_some_of_which_give_up_loses_nothing_that_was_confirmed(site, database):
    id, _ = await visited((await site(PAGES)).browser())
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [
        context.Process(target=_edit_in_a_crowd, args=(database.address, id, number, results)) for number in range(2)
    ]
    for process in processes:
        process.start()
    confirmed = [name for _ in processes for name in await asyncio.to_thread(results.get, timeout=300)]
    for process in processes:
        await asyncio.to_thread(process.join)
        assert process.exitcode == 0
    stored = await database.data(id)
    messages = stored["messages"]
    assert len(messages) == len(set(messages))
    assert set(confirmed) <= set(messages)
    assert len(messages) <= stored["job"]["steps"] <= 200
    assert len(confirmed) >= 150


async def test_an_open_socket_hears_of_it(running):
    browser = running.browser()
    id, _ = await visited(browser)
    headers = {"Cookie": f"_session={browser.secret}"}
    socket = await websocket_connect(HTTPRequest(f"ws://127.0.0.1:{running.port}/socket", headers=headers))
    assert await socket.read_message() == "waiting"
    async with running.manager.edit(id) as session:
        session.job = {"state": "done"}
    assert await socket.read_message() == "done"
    socket.close()


async def test_one_in_another_process_hears_of_it_too(running, database):
    if database.kind == "memory":
        return  # of which there is one in each process
    browser = running.browser()
    id, _ = await visited(browser)
    headers = {"Cookie": f"_session={browser.secret}"}
    socket = await websocket_connect(HTTPRequest(f"ws://127.0.0.1:{running.port}/socket", headers=headers))
    assert await socket.read_message() == "waiting"
    async with SessionManager[Visit](database.new_store()).edit(id) as visit:
        visit.job.state = "done"
    assert await socket.read_message() == "done"
    socket.close()


class TestWhenThereIsNone:
    @pytest.mark.parametrize("id", ["0" * 64, "x", "", "A" * 43])
    async def test_it_is_gone(self, running, id, database):
        with pytest.raises(SessionGone) as raised:
            async with running.manager.edit(id):
                raise AssertionError
        assert not id or len(id) == 64 or id not in str(raised.value)
        if len(id) != 64:
            assert "no session's id" in str(raised.value)
            assert database.commands.take() == []

    @pytest.mark.parametrize("id", [None, 5, b"0" * 64])
    async def test_what_is_no_str_is_a_type_error(self, running, id):
        with pytest.raises(TypeError, match="session_id must be a str, not "):
            async with running.manager.edit(id):
                raise AssertionError

    async def test_one_that_has_expired_is_gone(self, site):
        running = await site(PAGES, idle_timeout=timedelta(seconds=1))
        id, _ = await visited(running.browser())
        await asyncio.sleep(1.1)
        with pytest.raises(SessionGone):
            async with running.manager.edit(id):
                raise AssertionError

    @pytest.mark.parametrize("how", ["", "?rotate=1"])
    async def test_one_that_ends_meanwhile_is_gone_and_stays_so(self, running, database, how, caplog):
        browser = running.browser()
        id, _ = await visited(browser)
        with caplog.at_level(logging.INFO), pytest.raises(SessionGone, match=id):  # noqa: PT012
            async with running.manager.edit(id) as session:
                await browser.post(f"/leave{how}")
                session.job = {"state": "too late"}
        assert await database.data(id) is None
        assert f"dropped a late write to session {id}" in caplog.text

    async def test_whoever_changes_nothing_need_not_know_of_an_end(self, running):
        browser = running.browser()
        id, _ = await visited(browser)
        async with running.manager.edit(id) as session:
            await browser.post("/leave")
            assert session.times == 1


async def test_it_does_not_extend_the_sessions_life(site, database):
    first = await site(PAGES, idle_timeout=timedelta(hours=1))
    id, _ = await visited(first.browser())
    before = await record_of(first.manager, id)
    day = SessionManager(database.new_store(), idle_timeout=timedelta(days=1), touch_interval=timedelta(0))
    async with day.edit(id) as session:
        session.changed = True
    after = await record_of(first.manager, id)
    assert (after.expires, after.data) == (before.expires, {"times": 1, "changed": True})


async def test_an_exception_does_not_undo_what_was_changed_before_it(running, database):
    id, _ = await visited(running.browser())
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with running.manager.edit(id) as session:
            session.changed = True
            session.changed = 1 / 0
    await running.manager.close()
    assert await database.data(id) == {"times": 1, "changed": True}


async def test_what_cannot_be_stored_is_refused_at_the_assignment(running, database):
    id, _ = await visited(running.browser())
    async with running.manager.edit(id) as session:
        session.fine = 1
        with pytest.raises(SessionDataError, match="user"):
            session.user = {1, 2}
    assert await database.data(id) == {"times": 1, "fine": 1}


async def test_after_the_block_it_can_be_read_but_not_be_changed(running, database):
    id, _ = await visited(running.browser())
    async with running.manager.edit(id) as session:
        session.user = {}
    with pytest.raises(SessionError, match="change it inside of the `async with` block"):
        session.user.name = "Alice"
    assert session == {"times": 1, "user": {}}
    assert await database.data(id) == {"times": 1, "user": {}}


async def test_it_can_be_awaited_as_in_a_handler(running):
    id, _ = await visited(running.browser())
    async with running.manager.edit(id) as session:
        session.n = 1
        assert await session is session
        assert session == {"times": 1, "n": 1}


async def test_a_change_from_another_thread_is_refused(running):
    id, _ = await visited(running.browser())
    async with running.manager.edit(id) as session:
        with pytest.raises(SessionError, match="another thread"):
            await asyncio.to_thread(session.update, {"n": 1})
    assert "n" not in session


@pytest.mark.mongodb
async def test_when_the_store_fails_whoever_edits_is_told(mongod, database_kind, caplog):
    async with open_database(database_kind, mongod.uri, "edited", serverSelectionTimeoutMS=500) as database:
        sessions = SessionManager(database.new_store(), timeout=2)
        async with serve(PAGES, sessions=sessions) as running:
            id, _ = await visited(running.browser())
            mongod.kill()
            with pytest.raises(SessionStoreError):
                async with sessions.edit(id):
                    raise AssertionError
            mongod.start()
            with pytest.raises(SessionStoreError):  # noqa: PT012
                async with sessions.edit(id) as session:
                    mongod.kill()
                    session.lost = True
            mongod.start()
            assert caplog.text.count("could not save session") == 1
