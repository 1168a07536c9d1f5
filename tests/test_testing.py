"""What `tornado_sesame.testing` gives to the tests of others."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from tornado.testing import AsyncHTTPTestCase
from tornado.web import Application, RequestHandler

from tornado_sesame import (
    MemoryStore,
    SessionCookie,
    SessionGone,
    SessionManager,
    SessionMixin,
    SessionNotSaved,
    SessionRecordError,
)
from tornado_sesame.testing import (
    Site,
    authenticated_cookie,
    edit_session,
    expire_session,
    stored_session,
)

from .support import CLIENTS

ROOT = Path(__file__).parent.parent


class Profile(SessionMixin, RequestHandler):
    def get(self):
        if "user" not in self.session:
            self.send_error(403)
            return
        self.session.visits = self.session.get("visits", 0) + 1
        self.write(f"{self.session.user}, {self.session_owner}, {self.session.visits}")


class TestWithTornadosTestCase(AsyncHTTPTestCase):
    def get_app(self):
        self.sessions = SessionManager()
        return Application([("/", Profile)], sessions=self.sessions)

    def test_who_has_the_cookie_is_logged_in(self):
        cookie = self.io_loop.run_sync(lambda: authenticated_cookie(self.sessions, {"user": "alice"}, owner="a1"))
        assert self.fetch("/").code == 403
        for visits in (1, 2):
            response = self.fetch("/", headers={"Cookie": cookie})
            assert response.body.decode() == f"alice, a1, {visits}"
            assert "Set-Cookie" not in response.headers


@pytest.mark.parametrize("cookie", [SessionCookie(name="sid"), SessionCookie(name="__Host-sid", secure=True)])
async def test_each_cookie_is_of_a_session_of_its_own(site, cookie):
    running = await site([("/", Profile)], cookie=cookie)
    for user in "alice", "bob":
        header = await authenticated_cookie(running.manager, {"user": user})
        assert header.startswith(f"{cookie.name}=")
        response = await running.browser().get(headers={"Cookie": header})
        assert response.body.decode() == f"{user}, None, 1"


async def test_an_owner_is_enough():
    sessions = SessionManager()
    await authenticated_cookie(sessions, {}, owner="alice")
    assert [record.owner async for record in sessions.records("alice")] == ["alice"]


async def test_a_session_with_nothing_in_it_is_refused():
    with pytest.raises(ValueError, match="put something into it"):
        await authenticated_cookie(SessionManager(), {})


def test_pytest_is_imported_for_the_contract_only():
    program = (
        "import sys, tornado_sesame, tornado_sesame.testing as testing\n"
        "assert 'pytest' not in sys.modules\n"
        "testing.StoreContract\n"
        "assert 'pytest' in sys.modules\n"
        "try: testing.Contract\n"
        "except AttributeError: print('fine')\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (result.stdout, result.stderr) == ("fine\n", "")


FAILING = """
import pytest
from tornado_sesame import MemoryStore
from tornado_sesame.testing import StoreContract

class Forgetful(MemoryStore):
    async def save(self, writes, *, timeout):
        return await super().save(writes[:1], timeout=timeout)

class TestForgetful(StoreContract):
    @pytest.fixture
    async def store(self):
        return Forgetful()

class TestNothing(StoreContract):
    pass
"""


def test_a_failure_says_what_the_store_has_to_do(tmp_path):
    (tmp_path / "test_it.py").write_text(FAILING)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", tmp_path]
    command += ["-k", "each_write_has_its_own_result"]
    output = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=100).stdout
    assert "TestForgetful::test_each_write_has_its_own_result" in output
    assert "`save` returns one result for each write, in their order." in output
    assert "assert [<Outcome.SAVED" in output  # with the values
    assert "TestNothing must override the fixture `store` and return its store" in output


class TestAVisitorsSession:
    async def test_is_read_back(self, site):
        running = await site([("/", Profile)])
        cookie = await authenticated_cookie(running.manager, {"user": "alice"}, owner="a1")
        await running.browser().get(headers={"Cookie": cookie})
        record = await stored_session(running.manager, cookie)
        assert (record.data, record.owner) == ({"user": "alice", "visits": 1}, "a1")

    async def test_is_found_by_what_a_response_has_set(self, site):
        running = await site([("/", Begin)])
        header = (await running.browser().get()).headers["Set-Cookie"]
        assert (await stored_session(running.manager, header)).data == {"begun": True}

    async def test_is_changed(self, site):
        running = await site([("/", Profile)])
        cookie = await authenticated_cookie(running.manager, {"user": "alice"})
        async with edit_session(running.manager, cookie) as session:
            session.visits = 41
        response = await running.browser().get(headers={"Cookie": cookie})
        assert response.body.decode() == "alice, None, 42"

    @pytest.mark.parametrize("lifetime", [None, timedelta(days=30)])
    async def test_expires(self, site, lifetime):
        running = await site([("/", Profile), ("/remember", Remember)])
        cookie = await authenticated_cookie(running.manager, {"user": "alice"})
        if lifetime:
            await running.browser().get("/remember", headers={"Cookie": cookie})
        await expire_session(running.manager, cookie)
        assert (await running.browser().get(headers={"Cookie": cookie})).code == 403
        assert await stored_session(running.manager, cookie) is None
        with pytest.raises(SessionGone):
            await expire_session(running.manager, cookie)

    async def test_is_an_error_while_the_store_fails(self):
        class Failing(MemoryStore):
            async def save(self, writes, *, timeout):
                return [SessionNotSaved("down") for _ in writes]

            async def load(self, ids, *, timeout):
                return {id: SessionRecordError(id, "damaged") for id in ids}

        store = MemoryStore()
        cookie = await authenticated_cookie(SessionManager(store), {"user": "alice"})
        sessions = SessionManager(Failing())
        with pytest.raises(SessionRecordError, match="damaged"):
            await stored_session(sessions, cookie)
        sessions.store.load = store.load
        with pytest.raises(SessionNotSaved, match="down"):
            await expire_session(sessions, cookie)

    @pytest.mark.parametrize("header", ["", "other=1", "_session=x"])
    async def test_is_not_looked_for_without_its_cookie(self, header):
        sessions = SessionManager()
        for use in (stored_session, expire_session):
            with pytest.raises(ValueError, match="there is no cookie _session in it"):
                await use(sessions, header)
        with pytest.raises(ValueError, match="there is no cookie _session in it"):
            edit_session(sessions, header)


class Begin(SessionMixin, RequestHandler):
    def get(self):
        self.session.begun = True


class Remember(SessionMixin, RequestHandler):
    def get(self):
        self.session_lifetime = timedelta(days=30)


class Leave(SessionMixin, RequestHandler):
    async def post(self):
        self.clear_cookie("other")
        self.set_cookie("third", "3", expires_days=1)
        await self.destroy_session()
        self.redirect("/", status=303)


class TestAVisitor:
    @pytest.fixture
    async def visitor(self, database):
        pages = [("/", Profile), ("/leave", Leave), ("/begin", Begin)]
        site = Site(Application(pages, sessions=SessionManager(database.new_store())))
        yield site.visitor()
        await site.close()

    async def test_signs_in_and_is_seen_by_the_application(self, visitor):
        assert (await visitor.fetch()).code == 403
        assert await visitor.session() is None
        await visitor.sign_in("a1", {"user": "alice"})
        for visits in (1, 2):
            assert (await visitor.fetch()).body.decode() == f"alice, a1, {visits}"
        assert (await visitor.session()).data == {"user": "alice", "visits": 2}

    async def test_has_a_session_that_tests_change_and_expire(self, visitor):
        await visitor.sign_in("a1", {"user": "alice"})
        async with visitor.edit_session() as session:
            session.user = "bob"
        assert (await visitor.fetch()).body.decode() == "bob, a1, 1"
        await visitor.expire_session()
        assert (await visitor.fetch()).code == 403
        assert await visitor.session() is None

    async def test_keeps_the_cookies_that_he_is_given_until_they_are_deleted(self, visitor):
        await visitor.fetch("/begin")
        visitor.cookies["other"] = "x"
        assert (await visitor.session()).data == {"begun": True}
        response = await visitor.fetch("/leave", method="POST")
        assert (response.code, response.headers["Location"]) == (303, "/")
        assert visitor.cookies == {"third": "3"}

    @pytest.mark.parametrize(
        ("attributes", "is_kept"),
        [
            ("", True),
            ("; Max-Age=0", False),
            ("; max-age=100; Expires=Thu, 01 Jan 1970 00:00:00 GMT", True),
            ("; Expires=Thu, 01 Jan 1970 00:00:00 GMT", False),
            ("; expires=Thu, 01 Jan 1970 00:00:00 -0000", False),
            ("; Expires=Fri, 31 Dec 2100 00:00:00 GMT; Path=/", True),
            ("; Expires=soon", True),
        ],
    )
    async def test_keeps_a_cookie_as_its_attributes_say(self, attributes, is_kept):
        class Set(RequestHandler):
            def get(self):
                self.add_header("Set-Cookie", f"c=1{attributes}")

        site = Site(Application([("/", Set)], sessions=SessionManager()))
        visitor = site.visitor()
        visitor.cookies["c"] = "0"
        await visitor.fetch()
        assert visitor.cookies == ({"c": "1"} if is_kept else {})
        await site.close()


def test_an_application_without_sessions_is_no_site():
    with pytest.raises(TypeError, match="this application has no setting `sessions`"):
        Site(Application([]))


WITH_FIXTURES = """
import pytest
from tornado.web import Application, RequestHandler
from tornado_sesame import SessionMixin

class Counter(SessionMixin, RequestHandler):
    def get(self):
        self.session.times = self.session.get("times", 0) + 1
        self.write(str(self.session.times))

@pytest.fixture
def sesame_application():
    return lambda sessions: Application([("/", Counter)], sessions=sessions)

@pytest.mark.parametrize("round", [1, 2])
async def test_each_has_a_store_of_its_own(sesame_site, round):
    visitor = sesame_site.visitor()
    assert [(await visitor.fetch()).body for _ in range(2)] == [b"1", b"2"]
    assert [record.data async for record in sesame_site.sessions.records()] == [{"times": 2}]
"""


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_the_fixtures_give_each_test_an_application_and_a_store_of_its_own(tmp_path, mode):
    program = WITH_FIXTURES.replace("@pytest.mark.parametrize", "@pytest.mark.asyncio\n@pytest.mark.parametrize")
    (tmp_path / "test_it.py").write_text(program)
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["tornado_sesame.testing.fixtures"]\n')
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", f"asyncio_mode={mode}", tmp_path]
    output = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=100).stdout
    assert "2 passed" in output, output


def test_who_has_not_said_which_application_is_told_how(tmp_path):
    (tmp_path / "test_it.py").write_text("async def test_it(sesame_site): pass\n")
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["tornado_sesame.testing.fixtures"]\n')
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", tmp_path]
    output = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=100).stdout
    assert "override the fixture `sesame_application`: it returns a function" in output


OF_A_MODULE = """
import sys, unittest
from tornado.testing import AsyncHTTPTestCase
from tornado.web import Application
from tests.support import CLIENTS, DATABASE
from tests.test_testing import Begin
from tornado_sesame import MemoryStore, MongoStore, SessionManager

kind, uri = sys.argv.pop(), sys.argv.pop()
store = MemoryStore() if kind == "memory" else MongoStore(CLIENTS[kind](uri)[DATABASE].of_a_module)
application = Application([("/", Begin)], sessions=SessionManager(store))

class Tests(AsyncHTTPTestCase):
    def get_app(self):
        return application

    def test_1(self):
        response = self.fetch("/")
        print(response.code)
        print(self.fetch("/", headers={"Cookie": response.headers.get("Set-Cookie", "")}).code)

    test_2 = test_1

unittest.main()
"""


@pytest.mark.parametrize("kind", ["memory", *CLIENTS])
def test_an_application_of_a_module_whose_tests_have_a_loop_each_works_or_says_what_to_do(kind, mongodb_uri, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", OF_A_MODULE, mongodb_uri, kind]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment, check=False)
    if kind == "memory":
        assert ended.stdout.split() == ["200"] * 4
        return
    assert ended.stdout.split() == ["200", "200", "500", "500"]
    assert "a MongoDB client works in the event loop only in which it was used first: make the client" in ended.stderr
    assert "in `get_app()`" in ended.stderr
