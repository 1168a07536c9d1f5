"""Whatever the classes beside, above and below the mixin do, the session is there."""

import asyncio
import json
import logging

import pytest
from tornado import gen
from tornado.web import Application, ErrorHandler, HTTPError, RequestHandler
from tornado.websocket import WebSocketHandler

from tornado_sesame import MemoryStore, SessionError, SessionManager, SessionMixin, SessionNotSaved
from tornado_sesame.cookie import Secret

from .support import COOKIE, serve


class Counter(SessionMixin, RequestHandler):
    def get(self):
        self.session.times = self.session.get("times", 0) + 1
        self.write(str(self.session.times))


class WithoutSuper(Counter):
    def prepare(self):
        self.prepared = True


class ResultDropped(Counter):
    def prepare(self):
        super().prepare()


class Returned(Counter):
    async def prepare(self):
        return super().prepare()


class Awaited(Counter):
    async def prepare(self):
        if (result := super().prepare()) is not None:
            await result


class AwaitedAlways(Counter):
    async def prepare(self):
        await asyncio.sleep(0)
        super().prepare()


class UsesIt(Counter):
    def prepare(self):
        self.session.prepared = self.session.get("prepared", 0) + 1


class UsesItAsync(Counter):
    async def prepare(self):
        (await self.session).prepared = 1


class Coroutine(Counter):
    @gen.coroutine
    def prepare(self):
        yield gen.sleep(0)


class Base(RequestHandler):
    async def prepare(self):
        self.steps = ["base"]


class AboveABase(SessionMixin, Base):
    def get(self):
        assert self.steps == ["base"]
        self.session.times = self.session.get("times", 0) + 1
        self.write(str(self.session.times))


class BelowItsOwnMixin(UsesIt, WithoutSuper):
    pass


IDIOMS = [
    Counter,
    WithoutSuper,
    ResultDropped,
    Returned,
    Awaited,
    AwaitedAlways,
    UsesIt,
    UsesItAsync,
    Coroutine,
    AboveABase,
    BelowItsOwnMixin,
]


@pytest.mark.stores("memory", "pymongo")
@pytest.mark.parametrize("handler", IDIOMS)
async def test_prepare_is_the_handlers_own(site, handler, caplog):
    browser = (await site([("/", handler)])).browser()
    assert [await browser.text() for _ in range(3)] == ["1", "2", "3"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


class Broken(MemoryStore):
    is_broken = True

    async def load(self, ids, *, timeout):
        if self.is_broken:
            raise SessionNotSaved("127.0.0.1:1: connection refused")
        return await super().load(ids, timeout=timeout)


class Layout(SessionMixin, RequestHandler):
    """A site whose error pages show who is signed in."""

    def write_error(self, status_code, **kwargs):
        text = f"{status_code} for {self.session_owner} with {self.session.get('times')} {len(self.session)}"
        try:
            self.session.times = 1
        except SessionError as error:
            text += f" {type(error).__name__}"
        self.finish(text)


class Untouched(Layout):
    def get(self):
        self.write("fine")


class Touched(Layout):
    def get(self):
        self.write(str(self.session.times))


class TouchedAsync(Layout):
    async def get(self):
        self.write(str((await self.session).times))

    async def post(self):
        raise HTTPError(403)


class NotFound(Layout, ErrorHandler):
    pass


LAYOUT = [("/untouched", Untouched), ("/touched", Touched), ("/async", TouchedAsync)]


class TestAFailedLoad:
    @pytest.fixture
    async def broken(self):
        async with serve(LAYOUT, sessions=SessionManager(Broken())) as running:
            yield running

    def visitor(self, running):
        browser = running.browser()
        browser.cookies[COOKIE] = Secret().value
        return browser

    async def test_is_nothing_to_pages_that_do_not_touch_their_session(self, broken, caplog):
        assert await self.visitor(broken).text("/untouched") == "fine"
        (record,) = caplog.records
        assert (record.name, record.levelname) == ("tornado_sesame", "ERROR")

    @pytest.mark.parametrize("path", ["/touched", "/async"])
    async def test_is_raised_where_the_session_is_touched(self, broken, path, caplog):
        response = await self.visitor(broken).get(path)
        assert response.code == 503
        assert response.headers["Retry-After"].isdigit()
        assert response.body == b"503 for None with None 0 SessionError"
        (record,) = [record for record in caplog.records if record.name != "tornado.access"]
        assert (record.name, record.levelname) == ("tornado_sesame", "ERROR")
        assert record.message.endswith(": 127.0.0.1:1: connection refused")

    async def test_can_be_tried_again(self, broken):
        class Again(Layout):
            session_autoload = True

            async def get(self):
                try:
                    self.session.get("times")
                except SessionNotSaved:
                    raise AssertionError("a load is no save") from None
                except SessionError as error:
                    broken.manager.store.is_broken = False
                    self.write(f"{type(error).__name__} {(await self.session).copy()} {self.session.get('times')}")

        broken.application.add_handlers(".*", [("/again", Again)])
        assert await self.visitor(broken).text("/again") == "SessionStoreError {} None"


@pytest.mark.stores("memory", "pymongo")
class TestErrorPages:
    @pytest.mark.parametrize(
        ("method", "path", "options", "code"),
        [
            ("POST", "/async", {}, 403),  # no _xsrf
            ("DELETE", "/touched", {"headers": {"X-Xsrftoken": "x"}}, 403),
            ("GET", "/nowhere", {}, 404),
            ("HEAD", "/touched", {}, 405),
            ("BREW", "/touched", {"allow_nonstandard_methods": True}, 405),
            ("GET", "/touched", {}, 500),
        ],
    )
    async def test_all_are_made_with_the_layout(self, site, method, path, options, code, caplog):
        running = await site(
            LAYOUT,
            settings={
                "xsrf_cookies": True,
                "default_handler_class": NotFound,
                "default_handler_args": {"status_code": 404},
            },
        )
        for cookies in {}, {COOKIE: Secret().value}:
            browser = running.browser()
            browser.cookies = dict(cookies)
            response = await browser.fetch(method, path, **options)
            assert response.code == code
            if method != "HEAD":
                assert response.body.startswith(f"{code} for None with None 0".encode())
            assert "write_error" not in caplog.text
        assert [record async for record in running.manager.records()] == [] or path == "/touched"

    async def test_one_whose_session_is_loaded_shows_it(self, site):
        class Fails(Layout):
            def get(self):
                self.session.times = 5
                self.session_owner = "alice"
                raise HTTPError(418)

        response = await (await site([("/", Fails)])).browser().get()
        assert response.body == b"418 for alice with 5 1"


class Taken(RequestHandler):
    """A base class that has the mixin's public names for itself, as Jupyter Server's and SQLAlchemy's users have."""

    @property
    def session_manager(self):
        return "kernels"

    session = None


class Renamed(SessionMixin, Taken):
    session_manager = Taken.session_manager
    session = None
    visitor = SessionMixin.session

    async def get(self):
        assert self.session_manager == "kernels"
        assert self.session is None
        session = await self.visitor
        session.times = session.get("times", 0) + 1
        self.session = "a database's"
        await self.save_session()
        await self.rotate_session_id()
        self.write(str(self.visitor.times))


class Underneath(SessionMixin, RequestHandler):
    pass


class OverTheMixin(Underneath):
    """The mixin is in a common base class, below the one that takes the name, as when a framework is patched."""

    @property
    def session_manager(self):
        return {"kernels": 1}

    def get(self):
        self.session.times = self.session.get("times", 0) + 1
        self.write(str(self.session.times))


class Elsewhere(Counter):
    """Several managers in one application."""

    @property
    def session_manager(self):
        return self.application.settings["other"]


@pytest.mark.stores("memory", "pymongo")
class TestNames:
    @pytest.mark.parametrize("handler", [Renamed, OverTheMixin])
    async def test_the_mixin_itself_does_without_its_public_names(self, site, handler):
        running = await site([("/", handler)])
        browser = running.browser()
        assert [await browser.text() for _ in range(3)] == ["1", "2", "3"]
        assert len([record async for record in running.manager.records()]) == 1

    async def test_there_can_be_several_managers(self, site):
        other = SessionManager()
        running = await site([("/", Counter), ("/elsewhere", Elsewhere)], settings={"other": other})
        here, there = running.browser(), running.browser()
        assert (await here.text(), await there.text("/elsewhere")) == ("1", "1")
        assert len([record async for record in running.manager.records()]) == 1
        assert len([record async for record in other.records()]) == 1


class Plain(RequestHandler):
    pass


class TestOrder:
    @pytest.mark.parametrize("base", [RequestHandler, WebSocketHandler, Plain, ErrorHandler])
    def test_the_wrong_one_is_refused_when_the_class_is_made(self, base):
        with pytest.raises(TypeError, match=rf"before {base.__name__} .* class Wrong\(SessionMixin, {base.__name__}\)"):
            type("Wrong", (base, SessionMixin), {})

    def test_also_when_it_comes_about_further_down(self):
        Half = type("Half", (SessionMixin,), {})
        with pytest.raises(TypeError, match="SessionMixin must come before"):
            type("Wrong", (Plain, Half), {})

    def test_all_right_ones_pass(self):
        Half = type("Half", (SessionMixin,), {})
        type("Mixin", (Half,), {})
        type("A", (Half, RequestHandler), {})
        type("B", (SessionMixin, Plain), {})
        type("Diamond", (type("C", (Counter,), {}), type("D", (Counter,), {})), {})
        type("Beside", (Plain, Counter), {})
        type("Socket", (SessionMixin, WebSocketHandler), {})


class TestSettings:
    @pytest.mark.parametrize("value", [SessionManager(), MemoryStore()], ids=["manager", "store"])
    @pytest.mark.parametrize("name", ["session", "session_manager", "sesssions"])
    async def test_a_misspelt_one_is_an_error(self, name, value, caplog):
        async with serve([("/", Counter)], **{name: value}) as running:
            assert (await running.browser().get()).code == 500
            assert f"the application setting `{name}` is a {type(value).__name__}" in caplog.text
            assert "use Application(..., sessions=SessionManager(store))" in caplog.text

    async def test_others_are_nobodys_business(self):
        async with serve([("/", Counter)], session="x", another=SessionManager(), sessions=SessionManager()) as running:
            assert await running.browser().text() == "1"

    def test_an_application_without_sessions_is_left_alone(self):
        assert "sessions" not in Application([("/", Counter)]).settings


class Gathers(SessionMixin, RequestHandler):
    async def get(self):
        session, other, again = await asyncio.gather(
            self.load_session(), asyncio.sleep(0, "other"), self.load_session()
        )
        assert session is again is self.session
        session.times = session.get("times", 0) + 1
        self.write({"times": session.times, "other": other})


@pytest.mark.stores("memory", "pymongo")
async def test_a_session_can_be_loaded_beside_other_things(site):
    running = await site([("/", Gathers)])
    browser = running.browser()
    for times in 1, 2:
        assert json.loads(await browser.text()) == {"times": times, "other": "other"}
    assert running.manager.stats.loads == 1
