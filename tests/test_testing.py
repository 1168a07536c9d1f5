"""What `tornado_sesame.testing` gives to the tests of others."""

import subprocess
import sys

import pytest
from tornado.testing import AsyncHTTPTestCase
from tornado.web import Application, RequestHandler

from tornado_sesame import SessionCookie, SessionManager, SessionMixin
from tornado_sesame.testing import authenticated_cookie


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
    output = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=100).stdout
    assert "TestForgetful::test_each_write_has_its_own_result" in output
    assert "`save` returns one result for each write, in their order." in output
    assert "assert [<Outcome.SAVED" in output  # with the values
    assert "TestNothing must override the fixture `store` and return its store" in output
