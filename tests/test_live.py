"""Open handlers hear of what happens to their session, in this process and in others, and show it."""

import asyncio
import copy
import gc
import json
import weakref
from contextlib import suppress
from datetime import timedelta

import pytest
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.web import RequestHandler
from tornado.websocket import WebSocketHandler, websocket_connect

from tornado_sesame import (
    Inc,
    MemoryStore,
    Session,
    SessionEnd,
    SessionInsert,
    SessionManager,
    SessionMixin,
    SessionNotLoaded,
    SessionNotSaved,
    SessionStoreError,
    Set,
)

from .local import Local
from .support import eventually, serve


class Page(SessionMixin, RequestHandler):
    session_autoload = True

    def get(self):
        self.write(self.session.copy())

    def post(self):
        for name, value in json.loads(self.request.body or "{}").items():
            self.session[name] = value

    def delete(self):
        for name in "d", "l":
            self.session.pop(name, None)

    def put(self):
        self.session.times = self.session.get("times", 0) + 1
        self.session.setdefault("log", []).append("page")


class Login(SessionMixin, RequestHandler):
    async def post(self):
        await self.rotate_session_id()
        self.session_owner = "alice"


class Logout(SessionMixin, RequestHandler):
    async def post(self):
        await self.destroy_session()


class Socket(SessionMixin, WebSocketHandler):
    """Tells what it hears, and does what it is told."""

    def open(self):
        self.tell("open")

    def tell(self, what):
        self.write_message(json.dumps([what, self.session, self.session_owner]))

    def on_session_change(self):
        self.tell("changed")

    def on_session_end(self, reason):
        self.tell(reason)
        super().on_session_end(reason)

    async def on_message(self, message):
        exec(message, {"self": self, "session": self.session})
        self.tell("done")


PAGES = [("/", Page), ("/login", Login), ("/logout", Logout), ("/socket", Socket)]


class Client:
    def __init__(self, socket):
        self.socket = socket

    async def heard(self):
        """Returns what is heard next: what happens, the session, and its owner."""
        async with asyncio.timeout(60):
            message = await self.socket.read_message()
        return None if message is None else json.loads(message)

    async def do(self, code):
        await self.socket.write_message(code)
        return await self.heard()

    async def is_quiet(self):
        """Makes sure that nothing is heard for a moment."""
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await asyncio.shield(self.later())
        return True

    def later(self):
        self.task = asyncio.ensure_future(self.socket.read_message())
        return self.task


@pytest.fixture
async def connect():
    sockets = []

    async def connect(site, browser, path="/socket"):
        headers = {"Cookie": f"_session={browser.secret}"} if browser.cookies else {}
        url = site.url.replace("http", "ws") + path
        socket = await websocket_connect(HTTPRequest(url, headers=headers))
        sockets.append(socket)
        return Client(socket)

    yield connect
    for socket in sockets:
        socket.close()


@pytest.fixture(params=["here", "elsewhere"])
async def sites(request, site, database):
    """Gives the site where sockets are open, and the one where pages are changed: the same, or another process."""
    here = await site(PAGES)
    if request.param == "here":
        yield here, here
        return
    if database.address is None:
        pytest.skip("nobody else has this memory")
    async with serve(PAGES, sessions=SessionManager(database.new_store())) as elsewhere:
        yield here, elsewhere


async def started(sites, connect, **data):
    here, elsewhere = sites
    browser = elsewhere.browser()
    await browser.post("/", body=json.dumps(data))
    browser._url = here.url
    client = await connect(here, browser)
    assert await client.heard() == ["open", data, None]
    browser._url = elsewhere.url
    return browser, client


async def test_a_change_is_heard_and_shown(sites, connect):
    browser, client = await started(sites, connect, n=1)
    await browser.post("/", body='{"n": 2, "user": {"name": "Alice"}}')
    assert await client.heard() == ["changed", {"n": 2, "user": {"name": "Alice"}}, None]
    await browser.fetch("PUT", body=b"")
    assert (await client.heard())[1]["log"] == ["page"]


@pytest.mark.parametrize(("path", "reason"), [("/login", "rotated"), ("/logout", "destroyed")])
async def test_an_end_closes_the_socket(sites, connect, path, reason):
    browser, client = await started(sites, connect, n=1)
    await browser.post(path)
    assert await client.heard() == [reason, {}, None]
    assert await client.heard() is None
    assert (client.socket.close_code, client.socket.close_reason) == (1008, f"session {reason}")


async def test_an_administrator_closes_the_socket(sites, connect):
    _browser, client = await started(sites, connect, n=1)
    (record,) = [record async for record in sites[1].manager.records()]
    await sites[1].manager.destroy(record.id)
    assert await client.heard() == ["destroyed", {}, None]


async def test_own_changes_do_not_come_back(sites, connect):
    _browser, client = await started(sites, connect, n=1)
    assert await client.do("session.n += 1") == ["done", {"n": 2}, None]
    assert await client.do("session.user = {'name': 'Bob'}") == ["done", {"n": 2, "user": {"name": "Bob"}}, None]
    later = client.later()
    await asyncio.sleep(0.5)
    assert not later.done()
    later.cancel()


async def test_a_login_elsewhere_does_not_make_the_socket_the_users(sites, connect):
    browser, client = await started(sites, connect, n=1)
    await browser.post("/login")
    assert await client.heard() == ["rotated", {}, None]
    browser._url = sites[0].url
    again = await connect(sites[0], browser)
    assert await again.heard() == ["open", {"n": 1}, "alice"]


async def test_what_a_handler_holds_goes_on_with_what_others_have_stored(sites, connect):
    browser, client = await started(sites, connect, n=1, f=0.5, d={"n": 1}, l=["a"], gone={"x": 1})
    await client.do("self.kept = [session.n, session.f, session.d, session.l, session.gone, session.d.n]")
    changed = {"n": 5, "f": 1.5, "d": {"n": 10, "s": "new"}, "l": ["a", "b"], "gone": 7}
    await browser.post("/", body=json.dumps(changed))
    assert (await client.heard())[:2] == ["changed", changed]
    code = """
n, f, d, l, gone, dn = self.kept
session.n, session.f, d.n = n + 1, f + 0.25, dn + 1
l.append("c")
d.s += "er"
gone.x = 2
"""
    expected = {"n": 6, "f": 1.75, "d": {"n": 11, "s": "newer"}, "l": ["a", "b", "c"], "gone": 7}
    assert await client.do(code) == ["done", expected, None]
    assert json.loads(await eventually_text(browser, expected)) == expected


async def eventually_text(browser, expected):
    async def is_there():
        return json.loads(await browser.text()) == expected

    await eventually(is_there)
    return await browser.text()


async def test_what_is_gone_is_there_again_when_something_is_put_into_what_was_held(sites, connect):
    browser, client = await started(sites, connect, d={"n": 1, "d": {"n": 1}}, l=["a"], n=1)
    await client.do("self.kept = [session.d.d, session.l]")

    await browser.fetch("DELETE")
    assert (await client.heard())[:2] == ["changed", {"n": 1}]
    await client.do("self.kept[0].n = 2; self.kept[1].append('b')")
    expected = {"n": 1, "d": {"d": {"n": 2}}, "l": ["b"]}
    assert json.loads(await eventually_text(browser, expected)) == expected


async def test_increments_of_many_are_all_there(sites, connect):
    _here, _elsewhere = sites
    browser, client = await started(sites, connect, times=0)
    code = """
import asyncio
for _ in range(20):
    times = session.times
    await asyncio.sleep(0.01)
    session.times = times + 1
    session.setdefault("log", []).append("socket")
"""
    body = "async def run(self, session):" + code.replace("\n", "\n  ")
    await client.do(body + "\nimport asyncio; asyncio.ensure_future(run(self, session))")
    await asyncio.gather(*(browser.fetch("PUT", body=b"") for _ in range(20)))

    async def is_complete():
        data = json.loads(await browser.text())
        return data["times"] == 40 and len(data["log"]) == 40

    await eventually(is_complete)
    await client.socket.write_message("pass")
    while (heard := await client.heard())[0] != "done":
        pass
    assert (heard[1]["times"], len(heard[1]["log"])) == (40, 40)


class Later(Socket):
    """Hears by coroutines, one after the other."""

    async def on_session_change(self):
        self.tell("begins")
        await asyncio.sleep(0.05)
        self.tell("ends")

    async def on_session_end(self, reason):
        await asyncio.sleep(0.05)
        super().on_session_end(reason)


class Failing(Socket):
    def on_session_change(self):
        raise ValueError("my mistake")


class Deaf(Socket):
    session_live = False


class Untouched(SessionMixin, WebSocketHandler):
    session_autoload = False

    def open(self):
        self.write_message(json.dumps("open"))


class Stream(SessionMixin, RequestHandler):
    """Server-sent events."""

    session_live = True

    async def get(self):
        self.heard = asyncio.Queue()
        await self.session
        self.write("open\n")
        await self.flush()
        while True:
            what = await self.heard.get()
            self.write(f"{what} {self.session}\n")
            await self.flush()
            if what != "changed":
                return

    def on_session_change(self):
        self.heard.put_nowait("changed")

    def on_session_end(self, reason):
        self.heard.put_nowait(reason)


MORE = [("/later", Later), ("/failing", Failing), ("/deaf", Deaf), ("/untouched", Untouched), ("/stream", Stream)]


async def opened(site, connect, path, **options):
    server = await site(PAGES + MORE, **options)
    browser = server.browser()
    await browser.post("/", body='{"n": 0}')
    client = await connect(server, browser, path)
    await client.heard()
    return server, browser, client


async def test_hooks_may_be_coroutines_and_come_one_after_the_other(site, connect):
    _server, browser, client = await opened(site, connect, "/later")
    for n in range(1, 4):
        await browser.post("/", body=json.dumps({"n": n}))
    heard = []
    while not heard or heard[-1] != ["ends", {"n": 3}, None]:
        heard.append(await client.heard())
    await asyncio.sleep(0.5)
    await browser.post("/logout")
    while heard[-1][0] != "destroyed":
        heard.append(await client.heard())
    assert [what for what, *_ in heard] == [*["begins", "ends"] * (len(heard) // 2), "destroyed"]
    assert await client.heard() is None


@pytest.mark.stores("memory")
async def test_a_hook_that_fails_is_logged_and_closes_the_socket(site, connect, caplog):
    _server, browser, client = await opened(site, connect, "/failing")
    await browser.post("/", body='{"n": 1}')
    assert await client.heard() is None
    assert client.socket.close_code == 1011
    assert "my mistake" in caplog.text


@pytest.mark.stores("memory")
async def test_who_does_not_want_to_hear_does_not(site, connect):
    _server, browser, client = await opened(site, connect, "/deaf")
    await browser.post("/", body='{"n": 1}')
    await browser.post("/logout")
    assert await client.do("pass") == ["done", {"n": 0}, None]


async def test_a_page_that_lasts_hears_too(site, connect):
    server = await site(PAGES + MORE)
    browser = server.browser()
    await browser.post("/", body='{"n": 0}')
    lines = asyncio.Queue()
    reading = asyncio.ensure_future(
        browser.get("/stream", streaming_callback=lambda chunk: lines.put_nowait(chunk.decode()))
    )
    async with asyncio.timeout(60):
        assert await lines.get() == "open\n"
        await browser.post("/", body='{"n": 1}')
        assert await lines.get() == "changed {'n': 1}\n"
        await browser.post("/logout")
        assert await lines.get() == "destroyed {}\n"
        await reading


async def test_a_session_expires_under_an_open_socket(site, connect):
    _server, _browser, client = await opened(
        site, connect, "/socket", idle_timeout=timedelta(seconds=1.5), touch_interval=timedelta(seconds=0.1)
    )
    for _ in range(4):  # using it extends it,
        await asyncio.sleep(0.5)
        assert (await client.do("session.get('n')"))[0] == "done"
    assert await client.heard() == ["expired", {}, None]  # and being open does not
    assert await client.heard() is None


async def test_nobody_is_followed_when_nobody_is_open(site, connect):
    server, browser, client = await opened(site, connect, "/socket")
    watching = server.manager._calls.watching
    task = watching._task
    client.socket.close()

    async def has_ended():
        return task.done() and not watching._listeners

    await eventually(has_ended)
    await browser.post("/", body='{"n": 1}')
    client = await connect(server, browser, "/untouched")
    assert await client.heard() == "open"
    assert not watching._listeners


async def test_a_thousand_open_sockets_share_their_reads(site, connect):
    server, browser, _client = await opened(site, connect, "/socket")
    others = [await connect(server, browser) for _ in range(50)]
    for other in others:
        await other.heard()
    await asyncio.sleep(1)
    before = server.manager.stats.loads
    await browser.post("/", body='{"n": 1}')
    for other in others:
        assert await other.heard() == ["changed", {"n": 1}, None]
    await asyncio.sleep(0.5)
    assert server.manager.stats.loads - before <= 4


async def test_a_new_session_of_a_socket_hears_too(site, connect):
    class Welcoming(Socket):
        async def prepare(self):
            (await self.session).n = 0

    server = await site([*PAGES, ("/welcoming", Welcoming)])
    browser = server.browser()
    client = await connect(server, browser, "/welcoming")
    assert await client.heard() == ["open", {"n": 0}, None]
    browser.cookies["_session"] = client.socket.headers["Set-Cookie"].partition("=")[2].partition(";")[0]
    await browser.post("/", body='{"n": 1}')
    assert await client.heard() == ["changed", {"n": 1}, None]


async def test_a_session_that_ends_before_the_socket_is_open_closes_it(site, connect):
    began, goes_on = asyncio.Event(), asyncio.Event()

    class Slow(Socket):
        async def prepare(self):
            await self.session
            began.set()
            await goes_on.wait()

    server = await site([*PAGES, ("/slow", Slow)])
    browser = server.browser()
    await browser.post("/", body='{"n": 0}')
    connecting = asyncio.ensure_future(connect(server, browser, "/slow"))
    await began.wait()
    await browser.post("/logout")
    await asyncio.sleep(0.1)
    goes_on.set()
    client = await connecting
    assert await client.heard() == ["open", {}, None]
    assert await client.heard() == ["destroyed", {}, None]
    assert await client.heard() is None
    assert client.socket.close_code == 1008


async def test_what_was_changed_is_saved_when_the_connection_breaks(site, connect, database):
    _server, browser, client = await opened(site, connect, "/socket")
    await client.socket.write_message("session.n = 7; self.ws_connection.stream.close()")
    assert await client.heard() is None

    async def is_saved():
        return json.loads(await browser.text()) == {"n": 7}

    await eventually(is_saved)


# What a review has tried


class Unreliable(MemoryStore):
    """Fails its next saves as it is told."""

    def __init__(self):
        super().__init__()
        self.failures = []
        self.is_done = False

    async def save(self, writes, *, timeout):
        if self.failures and not all(isinstance(write, SessionEnd) for write in writes):
            if self.is_done:
                await super().save(writes, timeout=timeout)
            raise self.failures.pop(0)
        return await super().save(writes, timeout=timeout)


@pytest.fixture
async def unreliable(connect):
    """Gives a store that may fail, a server on it, a browser with a session and its open socket."""
    store = Unreliable()

    class Large(Socket):
        async def on_message(self, message):
            self.session.large = "x" * 5000

    class Hanging(Socket):
        async def on_session_change(self):
            await asyncio.Event().wait()

    pages = [*PAGES, *MORE, ("/large", Large), ("/hanging", Hanging)]
    async with serve(pages, sessions=SessionManager(store, max_bytes=2000)) as server:
        browser = server.browser()
        await browser.post("/", body='{"n": 0}')

        async def opened(path="/socket"):
            client = await connect(server, browser, path)
            await client.heard()
            return client

        yield store, server, browser, opened


async def test_a_session_that_cannot_be_saved_still_ends(unreliable):
    _, _, browser, opened = unreliable
    client = await opened("/large")
    await client.socket.write_message("grow")
    await asyncio.sleep(0.1)
    await browser.post("/logout")
    assert (await client.heard())[0] == "destroyed"
    assert await client.heard() is None


async def test_a_hook_that_hangs_does_not_keep_a_session_alive(unreliable):
    _, _, browser, opened = unreliable
    client = await opened("/hanging")
    await browser.post("/", body='{"n": 1}')
    await asyncio.sleep(0.1)
    await browser.post("/logout")
    assert await client.heard() == ["destroyed", {}, None]
    assert await client.heard() is None


async def test_an_end_that_a_reload_finds_first_is_told(unreliable):
    _, server, browser, opened = unreliable
    client = await opened()
    watching, tell = server.manager._calls.watching, server.manager._calls.watching.tell
    watching.tell = lambda ids: None
    await browser.post("/logout")
    watching.tell = tell
    await client.socket.write_message("import asyncio; self.reloading = asyncio.ensure_future(self.reload_session())")
    heard = [(await client.heard())[0] for _ in range(2)]
    assert sorted(heard) == ["destroyed", "done"]
    assert await client.heard() is None


async def test_after_a_save_of_which_nobody_knows_changes_are_heard(unreliable):
    store, _, browser, opened = unreliable
    client = await opened()
    store.failures, store.is_done = [OSError("nobody knows")], True
    await client.do("session.n = 5")
    await asyncio.sleep(0.1)
    await browser.post("/", body='{"n": 6}')
    while (heard := await client.heard()) != ["changed", {"n": 6}, None]:
        assert heard[0] == "changed"


async def test_what_nobody_knows_of_is_told_though_the_session_was_read_again(unreliable):
    store, server, browser, opened = unreliable

    class Careful(Socket):
        async def on_message(self, message):
            session = await self.session
            store.failures, store.is_done = [OSError("nobody knows")], False
            session.n = 5
            await eventually(self.has_heard)
            self.session.m = 6
            try:
                await self.save_session()
            except SessionStoreError:
                await self.save_session()  # once
                self.tell("nobody knows")

        async def has_heard(self):
            with suppress(SessionStoreError, SessionNotLoaded):
                return self.session.get("n") == 7
            return False

    server.application.add_handlers(".*", [("/careful", Careful)])
    client = await opened("/careful")
    await client.socket.write_message("go")
    await asyncio.sleep(0.1)
    await browser.post("/", body='{"n": 7}')
    while (heard := await client.heard())[0] != "nobody knows":
        assert heard[0] == "changed"
    assert heard[1] == {"n": 7, "m": 6}


async def test_a_new_session_that_is_stored_by_its_second_save_hears(unreliable):
    store, server, _, _ = unreliable

    class Page(SessionMixin, RequestHandler):
        session_live = True
        heard = asyncio.Event()

        async def get(self):
            session = await self.session
            store.failures, store.is_done = [SessionNotSaved("not yet")], False
            session.n = 1
            with suppress(SessionNotSaved):
                await self.save_session()
            await self.save_session()
            await server.manager.destroy(self.session_id)
            await asyncio.wait_for(Page.heard.wait(), 60)

        def on_session_end(self, reason):
            Page.heard.set()

    server.application.add_handlers(".*", [("/page", Page)])
    assert (await server.browser().get("/page")).code == 200


async def test_an_own_rotation_of_which_nobody_knows_gives_the_client_its_cookie(unreliable):
    store, server, browser, _ = unreliable

    class Rotating(SessionMixin, RequestHandler):
        session_live = True

        async def post(self):
            await self.session
            store.failures, store.is_done = [OSError("nobody knows")] * 9, True
            real = store.save

            async def save(writes, *, timeout):  # the copy is stored, and what comes after the move fails
                if any(isinstance(write, SessionInsert) for write in writes):
                    return await MemoryStore.save(store, writes, timeout=timeout)
                return await real(writes, timeout=timeout)

            store.save = save
            try:
                await self.rotate_session_id()
            except SessionStoreError:
                await asyncio.sleep(0.1)
                raise
            finally:
                store.failures = []

        def on_session_end(self, reason):
            raise AssertionError(reason)

    server.application.add_handlers(".*", [("/rotate", Rotating)])
    before = browser.secret
    assert (await browser.post("/rotate")).code == 503
    assert browser.secret != before
    await asyncio.sleep(0.1)
    assert json.loads(await browser.text()) == {"n": 0}


async def test_a_handler_that_has_ended_is_freed_and_followed_no_more(unreliable):
    _, server, _, opened = unreliable
    gc.collect()
    gc.disable()
    try:
        client = await opened()
        (reference,) = [weakref.ref(thing) for thing in gc.get_objects() if type(thing) is Socket]
        client.socket.close()
        watching = server.manager._calls.watching

        async def is_freed():
            return reference() is None and not watching._listeners

        await eventually(is_freed)
    finally:
        gc.enable()


async def test_a_session_that_is_touched_after_the_socket_has_ended_is_not_followed(unreliable):
    _, server, browser, _ = unreliable
    done = asyncio.Event()

    class Bye(SessionMixin, WebSocketHandler):
        session_autoload = False

        def on_close(self):
            self.going = asyncio.ensure_future(self.say_goodbye())

        async def say_goodbye(self):
            await asyncio.sleep(0.05)
            (await self.session).left = True
            await self.save_session()
            done.set()

    server.application.add_handlers(".*", [("/bye", Bye)])
    headers = {"Cookie": f"_session={browser.secret}"}
    socket = await websocket_connect(HTTPRequest(server.url.replace("http", "ws") + "/bye", headers=headers))
    socket.close()
    await asyncio.wait_for(done.wait(), 60)
    await asyncio.sleep(0.05)
    assert not server.manager._calls.watching._listeners
    assert json.loads(await browser.text())["left"] is True


def refreshed(*contents, kind=Session):
    local = Local(contents[0], kind=kind)
    for content in contents[1:]:
        local._content.refresh(copy.deepcopy(content), None, None)
    return local


def test_a_number_that_was_deleted_and_set_anew_counts_from_there():
    local = refreshed({"n": 5})
    held = local.session.n
    for content in {}, {"n": 1}:
        local._content.refresh(dict(content), None, None)
    local.session.n = held + 1
    assert (local.session.n, local.take_changes().ops) == (2, {("n",): Inc(1)})
    local = refreshed({"n": 5})
    held = local.session.n
    local._content.refresh({}, None, None)
    local.session.n = held + 1
    assert (local.session.n, local.take_changes().ops) == (1, {("n",): Inc(1)})


@pytest.mark.parametrize(
    ("key", "held", "value", "op"),
    [
        ("n", "n", 8, Inc(1)),
        ("same", "same", 6, Inc(1)),
        ("absent", "absent", 4, Inc(1)),
        ("other", "n", 6, Set(6)),
        ("new", "n", 6, Set(6)),
    ],
)
def test_a_held_number_counts_what_others_have_added_to_its_own_field(key, held, value, op):
    local = refreshed({"n": 5, "same": 5, "other": 1})
    number = local.session.get(held, 0)
    local._content.refresh({"n": 7, "same": 5, "other": 4, "absent": 3}, None, None)
    local.session[key] = number + 1
    assert repr(local.session[key]) == repr(value)
    assert local.take_changes().ops == {(key,): op}


def test_what_others_remove_does_not_pile_up():
    local = refreshed({})
    for number in range(1000):
        local._content.refresh({f"k{number}": {"n": number}}, None, None)
        assert local.session[f"k{number}"].n == number
    assert len(local.session._absent) <= 101


def test_a_long_list_is_refreshed_in_linear_time():
    class Counting(str):
        comparisons = 0

        def __eq__(self, other):
            Counting.comparisons += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    items = [Counting(number) for number in range(2000)]
    local = refreshed({"l": list(items)})
    assert len(local.session.l) == 2000
    Counting.comparisons = 0
    local._content.refresh({"l": [*items, "one more"]}, None, None)
    assert Counting.comparisons <= 5000
    assert len(local.session.l) == 2001


async def test_a_shorter_absolute_timeout_counts_for_open_sockets(connect):
    store = MemoryStore()
    async with serve(PAGES, sessions=SessionManager(store)) as before:
        browser = before.browser()
        await browser.post("/", body='{"n": 0}')
        async with serve(PAGES, sessions=SessionManager(store, absolute_timeout=timedelta(seconds=2))) as now:
            client = await connect(now, browser)
            assert await client.heard() == ["open", {"n": 0}, None]
            assert await client.heard() == ["expired", {}, None]


async def test_a_session_that_memory_has_no_room_for_has_ended(connect):
    async with serve(PAGES, sessions=SessionManager(MemoryStore(max_sessions=1))) as server:
        browser = server.browser()
        await browser.post("/", body='{"n": 0}')
        client = await connect(server, browser)
        await client.heard()
        await server.browser().post("/", body='{"n": 1}')
        assert await client.heard() == ["destroyed", {}, None]


async def test_a_closed_manager_looks_at_nothing_any_more(connect, caplog):
    store = Unreliable()
    settings = {"idle_timeout": timedelta(seconds=1), "touch_interval": timedelta(0)}
    async with serve(PAGES, sessions=SessionManager(store, **settings)) as server:
        browser = server.browser()
        await browser.post("/", body='{"n": 0}')
        client = await connect(server, browser)
        await client.heard()
        await server.manager.close()
        before = server.manager.stats.loads
        await asyncio.sleep(2)
        assert server.manager.stats.loads == before


async def test_compression_and_the_check_of_origins_are_tornados(connect):
    class Compressed(Socket):
        def get_compression_options(self):
            return {}

    async with serve([*PAGES, ("/compressed", Compressed)], sessions=SessionManager()) as server:
        browser = server.browser()
        await browser.post("/", body=json.dumps({"text": "x" * 10_000}))
        url = server.url.replace("http", "ws") + "/compressed"
        headers = {"Cookie": f"_session={browser.secret}"}
        socket = await websocket_connect(HTTPRequest(url, headers=headers), compression_options={})
        assert socket.headers["Sec-WebSocket-Extensions"].startswith("permessage-deflate")
        assert json.loads(await socket.read_message())[0] == "open"
        await browser.post("/", body='{"n": 1}')
        assert json.loads(await socket.read_message())[:1] == ["changed"]
        socket.close()
        with pytest.raises(HTTPClientError) as caught:
            await websocket_connect(HTTPRequest(url, headers={**headers, "Origin": "https://evil.example"}))
        assert caught.value.code == 403
