"""Responses wait for the save, and are otherwise what plain Tornado sends."""

import asyncio
import contextlib
import gc
import inspect
import logging
import re
import types
import weakref
from typing import ClassVar

import pytest
from tornado.web import Finish, HTTPError, RequestHandler, StaticFileHandler, stream_request_body

from tornado_sesame import MemoryStore, SessionManager, SessionMixin
from tornado_sesame.cookie import Secret, id_of_secret
from tornado_sesame.stores import SessionStore

from .support import eventually, serve


class Gate(SessionStore):
    """A memory store whose saves wait until it is opened, and fail when it is told to."""

    def __init__(self):
        self.memory = MemoryStore()
        self.open = asyncio.Event()
        self.saving = asyncio.Event()
        self.error = None

    async def load(self, ids, *, timeout):
        return await self.memory.load(ids, timeout=timeout)

    async def save(self, writes, *, timeout):
        self.saving.set()
        await self.open.wait()
        if self.error:
            raise self.error
        return await self.memory.save(writes, timeout=timeout)

    async def pop(self, end, *, timeout):
        return await self.memory.pop(end, timeout=timeout)

    def records(self, owner=None, *, timeout):
        return self.memory.records(owner, timeout=timeout)


class Responses(RequestHandler):
    """Every way to answer. Where there is a session, each changes it first."""

    SUPPORTED_METHODS = (*RequestHandler.SUPPORTED_METHODS, "CHANGE")

    def change(self):
        pass

    def initialize(self):
        self.finished = []

    def on_finish(self):
        self.application.settings["finished"].append((type(self).__name__, self.get_status()))

    def write_error(self, status_code, **kwargs):
        self.set_header("X-Error", status_code)
        super().write_error(status_code, **kwargs)

    # The pages

    def page_nothing(self):
        self.change()

    def page_write(self):
        self.write("one ")
        self.change()
        self.write("two")

    def page_json(self):
        self.change()
        self.finish({"a": [1, 2]})

    def page_finish(self):
        self.change()
        self.finish("done")

    async def page_await_finish(self):
        self.change()
        await self.finish("done")
        self.application.settings["finished"].append("after finish")

    async def page_async(self):
        self.change()
        await asyncio.sleep(0)
        self.write("async")

    def page_redirect(self):
        self.change()
        self.redirect("/elsewhere", status=303)

    def page_render(self):
        self.change()
        self.finish(self.render_string("page.html", name="<Alice>"))

    def page_no_content(self):
        self.change()
        self.set_status(204)

    def page_send_error(self):
        self.change()
        self.send_error(404, reason="Not Here")

    def page_http_error(self):
        self.change()
        raise HTTPError(403)

    def page_exception(self):
        self.change()
        raise ValueError("broken")

    def page_raise_finish(self):
        self.change()
        raise Finish("finished")

    def page_exception_after_write(self):
        self.write("half a page")
        self.change()
        raise ValueError("broken")

    def page_exception_after_finish(self):
        self.change()
        self.finish("done")
        raise ValueError("broken")

    def page_finish_twice(self):
        self.change()
        self.finish("done")
        self.finish("again")

    def page_write_after_finish(self):
        self.change()
        self.finish("done")
        self.write("more")

    def page_redirect_twice(self):
        self.change()
        self.redirect("/first")
        self.redirect("/second")

    def page_send_error_after_finish(self):
        self.change()
        self.finish("done")
        self.send_error(500)

    async def page_impatient_finish(self):
        self.change()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await self.finish("done")

    async def page_impatient_flush(self):
        self.change()
        self.write("one ")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await self.flush()
        self.write("two")

    def page_body_with_204(self):
        self.change()
        self.set_status(204)
        self.finish("content")

    async def page_stream(self):
        self.change()
        self.write("one ")
        await self.flush()
        self.write("two ")
        await self.flush()
        self.write("three")

    def page_flush(self):
        self.change()
        self.write("one ")
        self.flush()
        self.write("two")

    async def page_flush_and_change(self):
        self.change()
        self.write("one ")
        await self.flush()
        self.change()
        self.write("two")

    async def page_stream_and_exception(self):
        self.change()
        self.write("one ")
        await self.flush()
        raise ValueError("broken")

    def page_length(self):
        self.change()
        self.set_header("Content-Length", "4")
        self.finish("four")

    def page_status(self):
        self.change()
        self.set_status(418, "Teapot")
        self.set_header("Content-Type", "text/tea")
        self.finish("tea")

    def get(self, page):
        return getattr(self, f"page_{page}")()

    head = post = get


class WithSession(SessionMixin, Responses):
    session_autoload = True

    def change(self):
        self.session.times = self.session.get("times", 0) + 1


PAGES = sorted(name.removeprefix("page_") for name in dir(Responses) if name.startswith("page_"))


@pytest.fixture
async def gate():
    return Gate()


@pytest.fixture
async def site(gate, tmp_path):
    (tmp_path / "page.html").write_text("<p>Hello, {{ name }}!</p>")
    manager = SessionManager(gate, timeout=5)
    pages = [(r"/plain/(\w+)", Responses), (r"/session/(\w+)", WithSession)]
    async with serve(pages, sessions=manager, finished=[], template_path=str(tmp_path)) as site:
        yield site
        gate.open.set()


def what_matters(response):
    """Returns what of a response must be as in plain Tornado."""
    ignored = {"Date", "Vary", "Set-Cookie", "Cache-Control"}
    headers = {name: value for name, value in response.headers.get_all() if name not in ignored}
    return response.code, response.reason, headers, response.body


class TestAsInTornado:
    async def answer(self, site, method, path, **options):
        browser = site.browser()
        site.application.settings["finished"].clear()
        response = await browser.fetch(method, path, **options)
        await asyncio.sleep(0.01)
        return what_matters(response), [
            entry if isinstance(entry, str) else entry[1] for entry in site.application.settings["finished"]
        ]

    @pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
    @pytest.mark.parametrize("page", PAGES)
    async def test_a_response_is_the_same(self, site, gate, method, page):
        gate.open.set()
        plain = await self.answer(site, method, f"/plain/{page}")
        assert await self.answer(site, method, f"/session/{page}") == plain
        assert gate.saving.is_set()

    async def test_an_etag_that_matches_gives_304(self, site, gate):
        gate.open.set()
        browser = site.browser()
        etag = (await browser.get("/session/write")).headers["Etag"]
        plain = await self.answer(site, "GET", "/plain/write", headers={"If-None-Match": etag})
        held = await self.answer(site, "GET", "/session/write", headers={"If-None-Match": etag})
        assert held == plain
        assert plain[0][0] == 304

    async def test_the_first_cookie_comes_with_a_304_too(self, site, gate):
        gate.open.set()
        etag = (await site.browser().get("/plain/write")).headers["Etag"]
        browser = site.browser()
        assert (await browser.get("/session/write", headers={"If-None-Match": etag})).code == 304
        assert browser.cookies

    async def test_errors_are_logged_the_same(self, site, gate, caplog):
        gate.open.set()
        logs = []
        for kind in "plain", "session":
            caplog.clear()
            for page in (
                *("exception", "exception_after_finish", "http_error", "finish_twice", "write_after_finish"),
                *("redirect_twice", "send_error_after_finish", "body_with_204"),
            ):
                await site.browser().get(f"/{kind}/{page}")
            await asyncio.sleep(0.01)
            logs.append([(r.name, r.levelno, r.exc_info and str(r.exc_info[1])) for r in caplog.records])
        assert logs[0] == logs[1]
        assert len(logs[0]) >= 5

    async def test_pipelined_requests_are_answered_in_order(self, site, gate):
        gate.open.set()
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        for page in "write", "finish", "redirect":
            writer.write(f"GET /session/{page} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        writer.write(b"GET /session/json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        positions = [answer.index(text) for text in (b"one two", b"done", b"/elsewhere", b'{"a": [1, 2]}')]
        assert positions == sorted(positions)
        assert answer.count(b"Set-Cookie") == 4

    async def test_a_connection_is_kept_alive(self, site, gate):
        gate.open.set()
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        for _ in range(3):
            writer.write(b"GET /session/write HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(7) == b"one two"
        writer.close()

    async def test_files_are_served(self, tmp_path):
        class Files(SessionMixin, StaticFileHandler):
            async def prepare(self):
                (await self.session).seen = self.request.path

        (tmp_path / "a.txt").write_text("content" * 100_000)
        async with serve([(r"/(.*)", Files, {"path": str(tmp_path)})]) as site:
            browser = site.browser()
            response = await browser.get("/a.txt")
            assert response.body == b"content" * 100_000
            assert browser.cookies
            etag = response.headers["Etag"]
            assert (await browser.get("/a.txt", headers={"If-None-Match": etag})).code == 304
            assert (await browser.get("/none.txt")).code == 404

    async def test_a_body_can_be_streamed_in(self):
        @stream_request_body
        class Upload(SessionMixin, RequestHandler):
            def data_received(self, chunk):
                self.session.received = self.session.get("received", 0) + len(chunk)

            def put(self):
                self.write(str(self.session.received))

        async with serve([("/", Upload)]) as site:
            browser = site.browser()
            response = await browser.fetch("PUT", "/", body=b"x" * 1_000_000)
            assert response.body == b"1000000"

    async def test_an_exception_in_on_finish_leaves_the_response_alone(self, gate, caplog):
        class Fails(SessionMixin, RequestHandler):
            def get(self):
                self.session.here = True
                self.finish(b"x" * 20_000_000)

            def on_finish(self):
                raise ValueError("broken")

        gate.open.set()
        async with serve([("/", Fails)], sessions=SessionManager(gate)) as site:
            assert len((await site.browser().get()).body) == 20_000_000
        assert caplog.text.count("ValueError: broken") == 1

    @pytest.mark.parametrize("expect", ["", "Expect: 100-continue\r\n"], ids=["unasked", "asked"])
    @pytest.mark.parametrize("base", [(), (SessionMixin,)], ids=["plain", "session"])
    async def test_a_refused_upload_is_not_delivered_nor_asked_for(self, gate, base, expect):
        received = []

        @stream_request_body
        class Refuses(*base, RequestHandler):
            async def prepare(self):
                if base:
                    (await self.session).refused = True
                asyncio.get_running_loop().call_later(0.05, gate.open.set)
                self.send_error(403)

            def data_received(self, chunk):
                received.append(chunk)

        async with serve([("/", Refuses)], sessions=SessionManager(gate)) as site:
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            writer.write(f"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n{expect}\r\n".encode())
            if not expect:
                writer.write(b"forbidden")
            assert b" 403 " in await reader.readline()
            writer.close()
        assert not received

    async def test_nobody_is_asked_for_an_upload_in_the_middle_of_a_response(self):
        class Slow(MemoryStore):
            async def save(self, writes, *, timeout):
                await asyncio.sleep(0.2)
                return await super().save(writes, timeout=timeout)

        @stream_request_body
        class Streams(SessionMixin, RequestHandler):
            async def prepare(self):
                (await self.session).one = 1
                self.write("one,")
                self.flush()
                await asyncio.sleep(0.05)
                self.session.two = 2
                self.write("two")
                self.finish()

        async with serve([("/", Streams)], sessions=SessionManager(Slow())) as site:
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            writer.write(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
            response = await reader.readuntil(b"0\r\n\r\n")
            writer.close()
        assert response.endswith(b"\r\n\r\n4\r\none,\r\n3\r\ntwo\r\n0\r\n\r\n")

    async def test_nor_when_the_save_fails_below_a_base_class_of_others(self):
        class Failing(MemoryStore):
            async def save(self, writes, *, timeout):
                await asyncio.sleep(0.1)
                raise ConnectionError("down")

        class Base(RequestHandler):
            async def prepare(self):
                self.write("no")
                self.finish()

        @stream_request_body
        class Refuses(SessionMixin, Base):
            async def prepare(self):
                (await self.session).setdefault("refused", {}).times = 1
                await super().prepare()

        async with serve([("/", Refuses)], sessions=SessionManager(Failing())) as site:
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            writer.write(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
            assert b" 503 " in await reader.readline()
            writer.close()

    @pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="Python 3.11 has no eager tasks")
    @pytest.mark.parametrize("base", [(), (SessionMixin,)], ids=["plain", "session"])
    async def test_nor_when_tasks_are_eager(self, base):
        @stream_request_body
        class Refuses(*base, RequestHandler):
            def prepare(self):
                if base:
                    self.session.refused = True
                self.set_status(403)
                self.finish("no")

            def put(self):
                pass

        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        async with serve([("/", Refuses)], sessions=SessionManager()) as site:
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            writer.write(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
            assert b" 403 " in await reader.readline()
            writer.close()

    @pytest.mark.parametrize("base", [(), (SessionMixin,)], ids=["plain", "session"])
    async def test_nothing_more_of_an_upload_is_delivered_once_it_is_answered(self, gate, base):
        received, has_begun = [], asyncio.Event()

        @stream_request_body
        class Refuses(*base, RequestHandler):
            session_autoload = True

            def data_received(self, chunk):
                received.append(chunk)
                has_begun.set()
                if base:
                    self.session.refused = True
                self.send_error(413)

        async with serve([("/", Refuses)], sessions=SessionManager(gate)) as site:
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            writer.write(b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
            await has_begun.wait()
            writer.write(b"3\r\ntwo\r\n")
            await asyncio.sleep(0.1)
            gate.open.set()
            assert b" 413 " in await reader.readline()
            writer.close()
        assert received == [b"one"]

    async def test_a_verb_that_is_not_implemented_loads_nothing(self, gate):
        class Loads(Gate):
            async def load(self, ids, *, timeout):
                raise AssertionError

        async with serve([(r"/(\w+)", WithSession)], sessions=SessionManager(Loads())) as site:
            browser = site.browser()
            browser.cookies["_session"] = Secret().value
            WithSession.session_autoload = None
            try:
                assert (await browser.fetch("DELETE", "/write")).code == 405
            finally:
                WithSession.session_autoload = True

    async def test_handlers_are_freed_without_the_garbage_collector(self, site, gate):
        class Loads(WithSession):
            alive: ClassVar = weakref.WeakSet()

            async def get(self):
                self.alive.add(self)
                await self.session
                self.change()

        gate.open.set()
        site.application.add_handlers(".*", [("/loads", Loads)])
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                await site.browser().get("/loads")
            await asyncio.sleep(0.01)
            assert len(Loads.alive) == 0
        finally:
            gc.enable()


class TestHolding:
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize("page", PAGES)
    async def test_nothing_is_sent_before_the_save(self, site, gate, page, method):
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(f"{method} /session/{page} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        async with asyncio.timeout(5):
            await gate.saving.wait()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await reader.read(1)
            gate.open.set()
            assert await reader.read(8) == b"HTTP/1.1"
        writer.close()

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize("page", PAGES)
    async def test_a_failed_save_is_a_503_and_never_the_success(self, site, gate, page, method, caplog):
        gate.error = OSError("disk full")
        gate.open.set()
        browser = site.browser()
        response = await browser.fetch(method, f"/session/{page}")
        assert response.code == 503
        assert "Set-Cookie" not in response.headers
        assert b"one" not in response.body
        assert b"done" not in response.body
        assert response.headers["X-Error"] == "503"
        assert "OSError: disk full" in caplog.text

    async def test_a_failure_is_logged_once_and_ends_a_handler_that_waits(self, site, gate, caplog):
        class Waits(SessionMixin, RequestHandler):
            async def get(self, method):
                (await self.session).here = True
                self.write("done")
                await getattr(self, method)()
                raise AssertionError("this is never reached")

        gate.error = OSError("disk full")
        gate.open.set()
        site.application.add_handlers(".*", [("/waits/(.*)", Waits)])
        for method in "flush", "finish":
            caplog.clear()
            assert (await site.browser().get(f"/waits/{method}")).code == 503
            await asyncio.sleep(0.01)
            (record,) = [record for record in caplog.records if record.name != "tornado.access"]
            assert (record.name, record.levelname) == ("tornado_sesame", "ERROR")
            assert record.message.endswith("OSError: disk full")
            assert "never reached" not in caplog.text

    @pytest.mark.parametrize("page", ["write", "finish", "stream"])
    async def test_a_store_that_breaks_its_contract_is_a_503(self, page):
        class Broken(Gate):
            calls = 0

            async def save(self, writes, *, timeout):
                self.calls += 1
                return []

        store = Broken()
        async with serve([(r"/(\w+)", WithSession)], sessions=SessionManager(store), finished=[]) as site:
            assert (await site.browser().get(f"/{page}")).code == 503
        assert store.calls == 1

    async def test_a_logger_that_fails_does_not_keep_the_client_waiting(self, gate):
        class Logs(SessionMixin, RequestHandler):
            def get(self):
                self.session.here = True

            def log_exception(self, *args):
                raise ValueError("no more paper")

        gate.error = OSError("disk full")
        gate.open.set()
        async with serve([("/", Logs)], sessions=SessionManager(gate)) as site:
            assert (await site.browser().get()).code == 503

    async def test_a_failure_after_a_rotation_still_gives_the_new_cookie(self, gate):
        class Login(SessionMixin, RequestHandler):
            async def post(self):
                (await self.session).user = "alice"
                await self.rotate_session_id()
                gate.error = OSError("disk full")
                self.session.last_login = "now"

        gate.open.set()
        async with serve([("/", Login), (r"/(\w+)", WithSession)], sessions=SessionManager(gate), finished=[]) as site:
            browser = site.browser()
            await browser.get("/write")
            assert (await browser.post()).code == 503
            (id,) = gate.memory._ownerless
            assert id == id_of_secret(browser.secret)

    async def test_a_response_does_not_wait_for_what_others_change_after_it(self, gate):
        class Restless(SessionMixin, RequestHandler):
            async def get(self):
                session = await self.session
                session.times = 0
                self.tasks = asyncio.create_task(self.change(session))

            async def change(self, session):
                while not gone.is_set():
                    session.times += 1
                    await asyncio.sleep(0)

        gone = asyncio.Event()
        gate.open.set()
        async with serve([("/", Restless)], sessions=SessionManager(gate)) as site:
            async with asyncio.timeout(5):
                assert (await site.browser().get()).code == 200
            gone.set()

    async def test_a_save_that_fails_after_the_headers_breaks_the_response_off(self, site, gate):
        class Late(SessionMixin, RequestHandler):
            async def get(self):
                (await self.session).early = True
                self.write("one")
                await self.flush()
                gate.error = OSError("disk full")
                self.session.late = True
                self.write("two")

        gate.open.set()
        site.application.add_handlers(".*", [("/late", Late)])
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(b"GET /late HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"two" not in answer
        assert not answer.endswith(b"0\r\n\r\n")

    @pytest.mark.parametrize("waits", [True, False], ids=["awaited", "not_awaited"])
    async def test_each_part_of_a_streamed_response_waits_for_its_own_changes(self, site, gate, waits):
        class Steps(SessionMixin, RequestHandler):
            async def get(self):
                session = await self.session
                for number in range(4):
                    session.step = number
                    self.write(f"<{number} is done>")
                    flushed = self.flush()
                    if waits:
                        await flushed
                    self.write("<between>")
                    self.flush()

        site.application.add_handlers(".*", [("/steps", Steps)])
        gate.open.set()
        plain = b"".join(b"<%d is done><between>" % number for number in range(4))
        assert (await site.browser().get("/steps")).body == plain
        gate.open.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(b"GET /steps HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        seen = b""
        for number in range(4 if waits else 1):
            await gate.saving.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    while data := await reader.read(2**16):
                        seen += data
            assert b"<%d is done>" % number not in seen
            gate.saving.clear()
            gate.open.set()
            await asyncio.sleep(0)
            if waits:
                gate.open.clear()
        gate.open.set()
        seen += await reader.read()
        writer.close()
        parts = re.findall(rb"<[^>]*>", seen)
        assert b"".join(parts) == plain

    async def test_no_part_is_sent_whose_change_was_not_stored(self, site, gate):
        class Steps(SessionMixin, RequestHandler):
            async def get(self):
                session = await self.session
                for number in range(4):
                    if number == 2:
                        gate.error = OSError("disk full")
                    session.step = number
                    self.write(f"<{number} is done>")
                    self.flush()
                    await asyncio.sleep(0.01)

        gate.open.set()
        site.application.add_handlers(".*", [("/steps", Steps)])
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(b"GET /steps HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await reader.read()
        writer.close()
        assert b"<1 is done>" in answer
        assert b"<2 is done>" not in answer
        assert not answer.endswith(b"0\r\n\r\n")

    async def test_the_end_of_a_response_waits_for_all_of_its_parts(self, site, gate):
        class Steps(SessionMixin, RequestHandler):
            async def get(self):
                session = await self.session
                session.step = 0
                self.write("<0>")
                self.flush()
                await asyncio.sleep(0)
                self.write("<1>")
                self.finish("<2>")

        site.application.add_handlers(".*", [("/steps", Steps)])
        asyncio.get_running_loop().call_later(0.05, gate.open.set)
        assert (await site.browser().get("/steps")).body == b"<0><1><2>"

    async def test_a_new_session_after_the_headers_is_an_error(self, site, gate, caplog):
        class Late(SessionMixin, RequestHandler):
            async def get(self):
                session = await self.session
                self.write("one")
                await self.flush()
                session.late = True

        gate.open.set()
        site.application.add_handlers(".*", [("/late", Late)])
        await site.browser().get("/late")
        assert "put something into the session before flush()" in caplog.text
        assert not gate.saving.is_set()

    async def test_changes_during_a_save_are_saved_before_the_response(self, site, gate):
        class During(SessionMixin, RequestHandler):
            async def get(self):
                session = await self.session
                session.first = 1
                await gate.saving.wait()
                session.second = 2
                asyncio.get_running_loop().call_later(0.01, gate.open.set)
                self.write("done")

        site.application.add_handlers(".*", [("/during", During)])
        browser = site.browser()
        assert await browser.text("/during") == "done"
        (record,) = (await gate.load(list(gate.memory._ownerless), timeout=60)).values()
        assert record.data == {"first": 1, "second": 2}

    async def test_a_client_that_leaves_does_not_keep_the_change_from_being_saved(self, site, gate, caplog):
        _, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(b"GET /session/write HTTP/1.1\r\nHost: x\r\n\r\n")
        await gate.saving.wait()
        writer.close()
        await asyncio.sleep(0.02)
        gate.open.set()

        async def is_finished():
            return bool(site.application.settings["finished"])

        await eventually(is_finished)
        assert len(gate.memory._ownerless) == 1
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR]

    async def test_without_waiting_the_response_goes_out_at_once(self, gate, tmp_path):
        manager = SessionManager(gate, wait_for_save=False)
        async with serve([(r"/(\w+)", WithSession)], sessions=manager, finished=[]) as site:
            browser = site.browser()
            assert await browser.text("/write") == "one two"
            assert browser.cookies
            assert not gate.memory._ownerless
            gate.open.set()
        assert len(gate.memory._ownerless) == 1


def test_tornado_still_has_the_private_names_that_the_mixin_uses():
    """It runs requests by `_execute`, and changes what the others say; the workflow tests the oldest Tornado, too."""

    class Connection:
        def set_close_callback(self, callback):
            pass

    class Request:
        connection = Connection()

    class Application:
        ui_methods = ui_modules = types.MappingProxyType({})

    handler = RequestHandler(Application(), Request())
    assert handler._finished is False
    assert handler._headers_written is False
    handler.set_header("Cache-Control", "no-store")
    assert "Cache-Control" in handler._headers
    handler.write("one")
    assert handler._write_buffer == [b"one"]
    handler.set_cookie("name", "value")
    assert (handler._new_cookie["name"]["path"], handler._new_cookie["name"]["domain"]) == ("/", "")
    assert list(inspect.signature(RequestHandler._execute).parameters) == ["self", "transforms", "args", "kwargs"]
    assert asyncio.iscoroutinefunction(RequestHandler._execute)
