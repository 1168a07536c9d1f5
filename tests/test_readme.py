"""The programs in README.md and GUIDE.md do what these say; each is run as it would be pasted."""

import http.cookiejar
import inspect
import re
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import pytest
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

import tornado_sesame
from tornado_sesame import SessionCookie, SessionManager, SessionMixin, SQLiteStore, testing

from .mongod import free_port
from .support import DATABASE, serve

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
GUIDE = (ROOT / ".github" / "GUIDE.md").read_text()
RECIPES = (ROOT / "demo" / "recipes" / "README.md").read_text()

BLOCKS = re.findall(r"```python\n(.*?)```", README + GUIDE, re.DOTALL)
PROGRAMS = {block.split()[1]: block for block in BLOCKS}


def test_each_block_says_which_file_it_is_and_what_it_goes_on_from():
    for block in BLOCKS:
        first = re.match(r"# (\w+\.py)(?: goes on from (\w+\.py))?\n", block)
        assert first, block
        imported = {f"{name}.py" for name in re.findall(r"^(?:from|import) (\w+)", block, re.MULTILINE)}
        assert imported & PROGRAMS.keys() == ({first[2]} if first[2] else set())
    assert len(PROGRAMS) == len(BLOCKS)


class Folder:
    """Where all programs have been pasted, with another port, and with MongoDB where that is."""

    def __init__(self, path, mongodb_uri):
        self.path = path
        self.port = free_port()
        self.url = f"http://localhost:{self.port}"
        for name, program in PROGRAMS.items():
            program = program.replace("9090", str(self.port)).replace("mysite", f"{DATABASE}.{path.name}")
            (path / name).write_text(program.replace("mongodb://localhost:27017", mongodb_uri))

    @contextmanager
    def running(self, name):
        with subprocess.Popen([sys.executable, name], cwd=self.path) as process:
            try:
                while True:
                    try:
                        urllib.request.urlopen(self.url).close()
                        break
                    except urllib.error.HTTPError as error:
                        error.close()
                        break
                    except OSError:
                        assert process.poll() is None
                        time.sleep(0.01)
                yield
            finally:
                process.kill()

    def output(self, *command):
        options = {"cwd": self.path, "capture_output": True, "text": True, "timeout": 300}
        return subprocess.run([sys.executable, *command], check=False, **options).stdout


@pytest.fixture
def folder(tmp_path, mongodb_uri):
    return Folder(tmp_path, mongodb_uri)


class Visitor:
    """A browser without pictures."""

    def __init__(self, url):
        self.url = url
        self.jar = http.cookiejar.CookieJar()
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.jar))

    def get(self, path="/"):
        with self.opener.open(self.url + path) as response:
            return response.read().decode()

    def post(self, path, **fields):
        """Sends a form as a page has it, with its token."""
        page = self.get("/login" if path == "/logout" else path)
        token = re.search(r'name="_xsrf" value="([^"]+)"', page)
        if token:
            fields["_xsrf"] = token[1]
        with self.opener.open(self.url + path, urllib.parse.urlencode(fields).encode()) as response:
            return response.read().decode()

    @property
    def cookie(self):
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in self.jar)


@contextmanager
def refused(status):
    with pytest.raises(urllib.error.HTTPError) as refusal:
        yield
    refusal.value.close()
    assert refusal.value.code == status


CONSOLES = re.findall(r"```console\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize(("name", "console"), list(zip(["counter.py", "shop.py"], CONSOLES, strict=True)))
def test_a_program_prints_what_curl_shows(folder, name, console):
    shown = [line for line in console.splitlines() if not line.startswith("$")]
    with folder.running(name):
        visitor = Visitor(folder.url)
        assert "".join(visitor.get() for _ in shown).splitlines() == shown


@pytest.mark.parametrize("driver", [1, 2], ids=["pymongo", "motor"])
def test_in_mongodb_sessions_survive_the_server(folder, driver):
    """With the driver of one of the columns of the README's table."""
    file = folder.path / "durable.py"
    for row in re.findall(r"^\| (?:import|client) \| `(.*?)(?:\(.*)?` \| `(.*?)(?:\(.*)?` \|$", README, re.MULTILINE):
        file.write_text(file.read_text().replace(row[0], row[driver - 1]))
    assert ("motor" in file.read_text()) == (driver == 2)
    visitor = Visitor(folder.url)
    for times in range(1, 3):
        with folder.running("durable.py"):
            assert visitor.get() == f"{times} times!\n"


def test_signing_in_and_out(folder):
    with folder.running("login.py"):
        alice = Visitor(folder.url)
        assert 'name="password"' in alice.get()  # it was redirected
        with refused(403):
            alice.post("/login", name="alice", password="guessed")
        assert alice.post("/login", name="alice", password="wonderland").startswith("Hello, alice!")
        stolen = Visitor(folder.url)
        for cookie in alice.jar:
            stolen.jar.set_cookie(cookie)
        assert stolen.get().startswith("Hello, alice!")
        assert 'name="password"' in alice.post("/logout")
        assert 'name="password"' in stolen.get()


async def test_a_live_page(folder):
    with folder.running("live.py"):
        alice = Visitor(folder.url)
        assert "<script>" not in alice.get()
        assert "<script>" in alice.post("/login", name="alice", password="wonderland")
        address = f"ws://localhost:{folder.port}/socket"
        tabs = [await websocket_connect(HTTPRequest(address, headers={"Cookie": alice.cookie})) for _ in range(2)]
        assert [await tab.read_message() for tab in tabs] == ["0 clicks", "0 clicks"]
        await tabs[0].write_message("click")
        assert [await tab.read_message() for tab in tabs] == ["1 clicks", "1 clicks"]
        alice.post("/logout")
        assert [await tab.read_message() for tab in tabs] == [None, None]
        tabs.append(await websocket_connect(address))
        assert await tabs[-1].read_message() is None
        for tab in tabs:
            tab.close()


def test_a_form_of_another_site_is_refused(folder):
    with folder.running("forms.py"):
        visitor = Visitor(folder.url)
        with refused(403):
            visitor.opener.open(folder.url, b"")
        visitor.post("/")
        cookies = {cookie.name: cookie for cookie in visitor.jar}
        assert cookies.keys() == {"_xsrf", "_session"}
        assert cookies["_xsrf"].has_nonstandard_attr("HttpOnly")
        assert cookies["_xsrf"].get_nonstandard_attr("SameSite") == "Lax"


def test_a_message_is_shown_once(folder):
    with folder.running("flash.py"):
        visitor = Visitor(folder.url)
        assert "status" not in visitor.get()
        assert not list(visitor.jar)
        assert '<p role="status">Saved &lt;Berlin&gt;.</p>' in visitor.post("/", city="<Berlin>")
        assert "status" not in visitor.get()


async def test_a_worker_finishes_its_job_unless_the_session_is_gone(folder):
    sessions = SessionManager(SQLiteStore(folder.path / "sessions.db"))
    await testing.authenticated_cookie(sessions, {"job": {"number": 1}})
    (record,) = [record async for record in sessions.records()]
    assert folder.output("jobs.py", record.id) == ""
    (record,) = [record async for record in sessions.records()]
    assert record.data == {"job": {"number": 1, "state": "done"}}
    await sessions.destroy(record.id)
    assert folder.output("jobs.py", record.id) == "The visitor has signed out meanwhile.\n"
    await sessions.close()


@pytest.mark.parametrize("name", sorted(name for name in PROGRAMS if name.startswith("test_")))
def test_tests_pass_as_pasted(folder, name):
    output = folder.output("-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", name)
    assert re.search(r"\d+ passed", output), output
    assert "failed" not in output, output


async def test_a_changed_password_signs_out_everywhere_else(folder, monkeypatch):
    (call,) = re.findall(r"`await (sessions.destroy_all\(user_id, keep=.*?\))`", GUIDE)
    sign_out = eval(f"lambda self, sessions, user_id: {call}")  # the guide is ours
    monkeypatch.syspath_prepend(folder.path)
    login = __import__("login")

    class Password(login.Page):
        async def post(self):
            await sign_out(self, self.session_manager, self.current_user)

        def check_xsrf_cookie(self):
            pass

    sessions = SessionManager()
    pages = [*login.PAGES, ("/password", Password)]
    async with serve(pages, sessions=sessions, login_url="/login") as site:
        here, there = site.browser(), site.browser()
        for browser in here, there:
            await browser.post("/login", body="name=alice&password=wonderland")
        assert (await here.post("/password")).code == 200
        assert (await here.get("/")).code == 200
        assert (await there.get("/")).code == 302


def test_the_api_tables_say_what_there_is():
    tables = GUIDE.partition("## API")[2]
    members = {name for name in re.findall(r"`(?:await )?self\.(\w+)", tables) if name != "session"}
    assert members <= vars(SessionMixin).keys()
    settings = re.findall(r"^\| `(\w+)=([^`]+)` \|", tables, re.MULTILINE)
    parameters = inspect.signature(SessionManager).parameters
    assert len(settings) == len(parameters) - 1  # the store
    for name, default in settings:
        assert parameters[name].default == eval(default, {"timedelta": timedelta, "SessionCookie": SessionCookie})
    attributes = dict(re.findall(r"`(\w+)=([^`]+)`", tables.partition("| the cookie:")[2].partition("\n")[0]))
    assert {name: eval(default) for name, default in attributes.items()} == asdict(SessionCookie())


def test_the_readme_names_what_there_is():
    rows = dict(re.findall(r"^\| (.+?) \| (.+) \|$", README.partition("## API")[2], re.MULTILINE))
    names = {row: set(re.findall(r"`(\w+)", cells)) for row, cells in rows.items()}
    hidden = {"finish", "flush", "send_error", "log_exception", "get_websocket_protocol"}
    public = {name for name in vars(SessionMixin) if not name.startswith("_")} - hidden
    assert names["`self` in a handler"] | names["a handler's class"] == public
    assert names["`SessionManager(...)`"] == inspect.signature(SessionManager).parameters.keys()
    assert names["`sessions`"] <= set(dir(SessionManager))
    errors = {name for name in tornado_sesame.__all__ if isinstance(getattr(tornado_sesame, name), type)}
    errors = {name for name in errors if issubclass(getattr(tornado_sesame, name), Exception)}
    assert names["errors"] | {"SessionNotWatchable"} == errors
    assert names["stores"] <= set(tornado_sesame.__all__)
    assert names["`tornado_sesame.testing`"] - {"sesame_site"} == set(testing.__all__)


@pytest.mark.parametrize(
    "document",
    [*ROOT.glob("*.md"), *(ROOT / ".github").glob("*.md"), ROOT / "demo" / "recipes" / "README.md"],
    ids=lambda path: path.name if path.parent == ROOT else f"{path.parent.name}/{path.name}",
)
def test_links_lead_somewhere(document):
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for link in re.findall(r"(?<!\w)\[[^]]+\]\(([^)]+)\)", text):
        if re.match(r"https?://|mailto:", link):
            continue
        path, _, heading = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^\w\- ]", "", found.lower()).replace(" ", "-") for found in headings}, link


def test_each_recipe_is_listed_runs_as_it_says_and_has_tests():
    listed = re.findall(r"^\| \[(\w+)\.py\]\(\1\.py\)", RECIPES, re.MULTILINE)
    there = sorted(path.stem for path in (ROOT / "demo" / "recipes").glob("*.py") if path.stem != "__init__")
    assert sorted(listed) == there
    for name in there:
        assert f"python -m demo.recipes.{name}" in (ROOT / "demo" / "recipes" / f"{name}.py").read_text()
        assert (ROOT / "tests" / "recipes" / f"test_{name}.py").exists()
