"""The demo, run as users run it: as a process that is ended, killed and started again."""

import asyncio
import html
import http.cookiejar
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

from demo.words import ago, device

from .mongod import free_port

pytestmark = pytest.mark.posix

ROOT = Path(__file__).parent.parent


class Demo:
    """A running demo.

    :arg options: of its command line.
    """

    def __init__(self, *options):
        self.port = free_port()
        self.command = [sys.executable, "-m", "demo", "--port", str(self.port), *options]
        self.url = f"http://localhost:{self.port}"
        self.visitor = Visitor(self.url)
        self.process = None
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            self.command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert "Listening" in self.process.stdout.readline(), self.process.stderr.read()

    def end(self, number):
        """Sends a signal and returns the exit status."""
        self.process.send_signal(number)
        self.errors = self.process.communicate(timeout=10)[1]
        return self.process.returncode

    def visit(self):
        """Visits the page and returns the two numbers on it, and the line on the store."""
        page = self.visitor.get("/")
        times, baz = (re.search(rf'<span data-show="{name}">([^<]+)<', page)[1] for name in ("times", "baz"))
        return int(times), int(baz), re.search(r"<footer>(.*)</footer>", page)[1]


class Visitor:
    """A browser that keeps its cookies and, as people do, sends only forms that it was shown."""

    def __init__(self, url):
        self.url = url
        self.jar = http.cookiejar.CookieJar()
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.jar))
        self.opener.addheaders = [("User-Agent", "Tester/1.0")]

    @property
    def secret(self):
        return {cookie.name: cookie.value for cookie in self.jar}.get("_session")

    def get(self, path):
        return self.opener.open(self.url + path).read().decode()

    def post(self, path, **fields):
        return self.opener.open(self.url + path, urllib.parse.urlencode(fields).encode()).read().decode()

    def send(self, page, path, **fields):
        """Sends the first form for *path* on *page* and returns the next page."""
        form = re.search(rf'<form method="post" action="{path}">(.*?)</form>', self.get(page), re.DOTALL)[1]
        hidden = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]+)"', form)
        return self.post(path, **dict(hidden), **fields)

    def sign_in(self, name="Alice"):
        return self.send("/login", "/login", name=name)

    def is_signed_in(self):
        return "<title>Notes</title>" in self.get("/notes")


def token_on(page):
    return re.search(r'name="_xsrf" value="([^"]+)"', page)[1]


def page_for(url, secret):
    """Returns the page that a thief of the cookie gets."""
    return urllib.request.urlopen(urllib.request.Request(url, headers={"Cookie": f"_session={secret}"})).read().decode()


@pytest.fixture
def start():
    demos = []

    def start(*options):
        demos.append(Demo(*options))
        return demos[-1]

    yield start
    for demo in demos:
        if demo.process.returncode is None:
            demo.end(signal.SIGKILL)


def test_it_counts_in_memory(start):
    demo = start()
    assert [demo.visit()[:2] for _ in range(3)] == [(1, 2), (2, 4), (3, 8)]
    assert "in memory" in demo.visit()[2]
    assert demo.end(signal.SIGTERM) == 0
    assert "Traceback" not in demo.errors


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
def test_it_counts_on_after_a_restart_and_after_a_kill(start, driver, mongodb_uri):
    demo = start("--mongo", mongodb_uri, "--driver", driver)
    assert demo.visit()[:2] == (1, 2)
    assert demo.end(signal.SIGTERM) == 0
    assert "Traceback" not in demo.errors
    demo.start()
    assert demo.visit()[:2] == (2, 4)
    assert demo.end(signal.SIGKILL) == -signal.SIGKILL
    demo.start()
    assert demo.visit()[:2] == (3, 8)
    assert {"motor": "Motor", "pymongo": "PyMongo Async"}[driver] in demo.visit()[2]


def test_it_counts_on_from_a_file(start, tmp_path):
    demo = start("--sqlite", str(tmp_path / "sessions.db"))
    assert demo.visit()[:2] == (1, 2)
    assert demo.end(signal.SIGTERM) == 0
    assert "Traceback" not in demo.errors
    demo.start()
    assert demo.visit()[:2] == (2, 4)
    assert demo.end(signal.SIGKILL) == -signal.SIGKILL
    demo.start()
    assert demo.visit()[:2] == (3, 8)
    assert "in the file" in demo.visit()[2]


def test_it_loses_nothing_where_others_do(start, mongodb_uri):
    demo = start("--mongo", mongodb_uri)
    page = demo.visitor.send("/race", "/race")
    counts = [int(count) for count in re.findall(r'<td><span data-show="\w+">(\d+)</span> / 50</td>', page)]
    assert counts[:2] == [50, 50]
    assert counts[2] < 50


async def test_an_open_page_hears_of_the_others(start):
    demo = start()
    demo.visit()
    headers = {"Cookie": f"_session={demo.visitor.secret}"}
    socket = await websocket_connect(HTTPRequest(demo.url.replace("http", "ws") + "/live", headers=headers))
    assert json.loads(await socket.read_message())["times"] == 1
    assert await asyncio.to_thread(demo.visit)
    state = json.loads(await socket.read_message())
    assert (state["times"], json.loads(state["update"])["$inc"]) == (2, {"times": 1})
    assert json.loads(state["stored"])["data"]["times"] == 2
    await asyncio.to_thread(demo.visitor.sign_in)
    while await socket.read_message() is not None:
        pass
    assert socket.close_code == 1008
    socket.close()


def test_every_answered_visit_is_there_after_a_kill(start, mongodb_uri):
    demo = start("--mongo", mongodb_uri)
    for round in range(1, 6):
        for _ in range(5):
            times = demo.visit()[0]
        demo.end(signal.SIGKILL)
        assert times == 5 * round
        demo.start()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--mongo", "http://localhost"), "Invalid URI scheme"),
        (("--sqlite", str(ROOT)), "is a directory"),
        (("--sqlite", str(ROOT / "README.md")), "README.md"),
        (("--sqlite", "/proc/no/such/file"), "--sqlite /proc/no/such/file: "),
        (("--sqlite", "a", "--mongo", "b"), "not allowed with"),
        (("--driver", "mongoose"), "invalid choice: 'mongoose'"),
        (("--port", "http"), "invalid int value: 'http'"),
    ],
)
def test_wrong_options_are_explained(options, problem):
    command = [sys.executable, "-m", "demo", "--port", str(free_port()), *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert result.returncode != 0
    assert problem in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
@pytest.mark.parametrize("is_listening", [False, True])
def test_a_mongodb_that_cannot_be_reached_is_explained(driver, is_listening):
    """And in time, and without the password, which ends up in logs."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        if is_listening:
            reserved.listen(100)  # and never accept
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
        options = ("--mongo", f"mongodb://alice:hush@{address}/?authSource=admin", "--driver", driver)
        command = [sys.executable, "-m", "demo", "--port", str(free_port()), *options]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    reason = "did not answer in time" if is_listening else "connection refused"
    assert result.stderr == f"--mongo mongodb://{address}/: {address}: {reason}\n"
    assert result.stdout == ""
    assert result.returncode == 1


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://alice:hush@localhost:http/",
        "mongodb://alice:hush@hush@localhost/",
        "mongodb://alice:hush/hush@localhost/",
        "mongodb://alice:hush?hush@localhost/",
        "mongodb://alice:hush@",
        "http://alice:hush@localhost/",
        "alice:hush@localhost",
        "mongodb://localhost/?tlsCertificateKeyFilePassword=hush&x",
    ],
)
def test_a_password_in_a_wrong_uri_is_not_shown(uri):
    command = [sys.executable, "-m", "demo", "--port", str(free_port()), "--mongo", uri]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert "hush" not in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.strip()


def test_a_port_in_use_is_explained(start):
    command = start().command
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert result.returncode == 1
    assert "try another with --port" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.fixture(params=["memory", "sqlite", "mongodb"])
def demo(start, request, tmp_path):
    match request.param:
        case "memory":
            return start()
        case "sqlite":
            return start("--sqlite", str(tmp_path / "sessions.db"))
        case _:
            return start("--mongo", request.getfixturevalue("mongodb_uri"))


@pytest.fixture
def alice(demo):
    visitor = Visitor(demo.url)
    visitor.get("/")
    return visitor


@pytest.fixture
def other(demo):
    return Visitor(demo.url)


class TestSigningIn:
    @pytest.mark.parametrize("page", ["/notes", "/devices"])
    def test_who_is_not_is_asked_to(self, alice, page):
        assert "<title>Sign in</title>" in alice.get(page)

    def test_it_gives_the_session_a_new_secret_and_keeps_what_is_in_it(self, alice):
        planted = alice.secret
        assert "Welcome, Alice!" in alice.sign_in()
        assert alice.secret != planted
        assert "2 times!" in alice.get("/")
        assert "<title>Sign in</title>" in page_for(alice.url + "/notes", planted)
        assert "1 times!" in page_for(alice.url, planted)

    def test_a_message_is_shown_once(self, alice):
        assert '<p class="message" role="status">Welcome, Alice!</p>' in alice.sign_in()
        assert "Welcome" not in alice.get("/notes")

    def test_signing_out_is_final(self, alice):
        alice.sign_in()
        alice.send("/notes", "/notes", note="milk")
        kept = alice.secret
        assert "milk" in page_for(alice.url + "/notes", kept)
        assert "<title>Sign in</title>" in alice.send("/notes", "/logout")
        assert alice.secret is None
        assert "<title>Sign in</title>" in page_for(alice.url + "/notes", kept)
        assert "1 times!" in page_for(alice.url, kept)

    def test_the_next_user_of_a_browser_sees_nothing_of_the_one_before(self, alice):
        alice.sign_in()
        alice.send("/notes", "/notes", note="secret of Alice")
        before = alice.secret
        assert "secret of Alice" not in alice.sign_in("Bob")
        assert "Sign out Bob" in alice.get("/notes")
        assert alice.secret != before

    @pytest.mark.parametrize("name", ["", " "])
    def test_it_needs_a_name(self, alice, name):
        with pytest.raises(urllib.error.HTTPError, match="400: A name is needed"):
            alice.sign_in(name)

    def test_it_goes_to_no_other_site(self, alice):
        path = "/login?next=//example.com/"
        page = alice.post(path, name="Alice", _xsrf=token_on(alice.get(path)), next="//example.com/")
        assert "<title>Notes</title>" in page


class TestNotes:
    def test_they_are_kept_in_their_order(self, alice):
        alice.sign_in()
        for note in "milk", "bread", " ":
            page = alice.send("/notes", "/notes", note=note)
        assert re.findall("<li>(.*)</li>", page) == ["milk", "bread"]

    def test_html_in_them_is_text(self, alice):
        alice.sign_in()
        evil = """<script>alert("1")</script><img src=x onerror='alert(1)'>"""
        page = alice.send("/notes", "/notes", note=evil)
        assert "<script>" not in page
        assert "<img" not in page
        assert html.unescape(re.search("<li>(.*)</li>", page)[1]) == evil

    def test_so_is_html_in_names_and_browsers(self, alice):
        alice.opener.addheaders = [("User-Agent", "<b>Tester</b>")]
        alice.sign_in("<i>Alice</i>")
        page = alice.get("/devices")
        assert "&lt;i&gt;Alice&lt;/i&gt;" in page
        assert "&lt;b&gt;Tester&lt;/b&gt;" in page
        assert not re.search("<[bi]>", page)

    def test_what_was_written_before_a_sign_out_is_there_after_the_next_sign_in(self, alice):
        alice.sign_in()
        form = alice.get("/notes")
        alice.send("/notes", "/logout")
        page = alice.post("/notes", note="<not lost>", _xsrf=token_on(form))
        assert "<title>Sign in</title>" in page
        assert "Your note is kept until you are" in page
        assert 'name="next" value="/notes"' in page
        page = alice.sign_in()
        assert 'value="&lt;not lost&gt;"' in page
        assert 'value="&lt;not lost&gt;"' not in alice.get("/notes")

    def test_who_wants_to_go_elsewhere_goes_there_after_signing_in(self, alice):
        page = alice.get("/devices")
        assert 'name="next" value="/devices"' in page
        page = alice.post("/login", name="Alice", next="/devices", _xsrf=token_on(page))
        assert "<title>Where you are signed in</title>" in page


class TestDevices:
    @pytest.fixture
    def name(self):
        """A user of the test's own, as the demo's database is kept."""
        return f"Alice {uuid.uuid4()}"

    def test_they_are_listed_with_what_one_needs_to_know_them(self, alice, other, name):
        alice.sign_in(name)
        other.sign_in(name)
        page = alice.get("/devices")
        entries = re.findall("<li>(.*?)</li>", page, re.DOTALL)
        assert len(entries) == 2
        assert all("Tester/1.0" in entry for entry in entries)
        times = r'<time datetime="20\S+" title="20.*? UTC">just now</time>'
        assert [len(re.findall(times, entry)) for entry in entries] == [2, 2]
        assert ["This one" in entry for entry in entries] == [True, False]
        assert alice.secret not in page
        assert other.secret not in page

    def test_signing_out_everywhere_else_ends_the_other_browsers_session(self, alice, other, name):
        alice.sign_in(name)
        other.sign_in(name)
        page = alice.get("/devices")
        assert ">Sign out everywhere else</button>" in page
        page = alice.post("/devices", _xsrf=token_on(page))
        assert "Signed out everywhere else: 1." in page
        assert ">Sign out everywhere else</button>" not in page
        assert alice.is_signed_in()
        assert not other.is_signed_in()

    def test_signing_out_there_ends_that_session(self, alice, other, demo, name):
        third = Visitor(demo.url)
        for visitor in alice, other, third:
            visitor.sign_in(name)
        assert "Signed out there." in alice.send("/devices", "/devices")
        assert [visitor.is_signed_in() for visitor in (other, third)].count(False) == 1
        assert alice.is_signed_in()

    def test_nobody_elses_session_can_be_ended(self, alice, other, name):
        alice.sign_in(name)
        other.sign_in("Mallory")
        third = Visitor(alice.url)
        third.sign_in(name)
        id = re.search(r'name="id" value="([0-9a-f]{64})"', alice.get("/devices"))[1]
        assert "Signed out there." not in other.post("/devices", _xsrf=token_on(other.get("/notes")), id=id)
        assert third.is_signed_in()


class TestForgedForms:
    @pytest.mark.parametrize("path", ["/login", "/logout", "/notes", "/devices"])
    @pytest.mark.parametrize("fields", [{}, {"_xsrf": "2|00000000|00|1"}])
    def test_they_are_refused_and_change_nothing(self, alice, path, fields):
        alice.sign_in()
        with pytest.raises(urllib.error.HTTPError, match="403"):
            alice.post(path, name="Mallory", note="buy from Mallory", **fields)
        assert alice.is_signed_in()
        assert "Mallory" not in alice.get("/notes")


def test_pages_are_not_kept_or_framed_and_run_no_scripts(demo):
    response = urllib.request.urlopen(demo.url + "/login")
    assert response.headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
    assert "HttpOnly" in response.headers["Set-Cookie"]  # which is that of the forms


def test_pages_can_be_read_and_used_by_everybody(alice):
    """They name their language and title, fit small screens, and every field has a label."""
    alice.sign_in()
    for path in "/", "/race", "/login", "/notes", "/devices":
        page = alice.get(path)
        assert '<html lang="en">' in page
        assert '<meta name="viewport" content="width=device-width' in page
        assert re.search("<title>[^<]+</title>", page)
        assert len(re.findall("<h1>", page)) == 1
        fields = re.findall(r'<input id="(\w+)"', page)
        assert fields == re.findall(r'<label for="(\w+)">', page)
        assert len(re.findall('<input(?! type="hidden")', page)) == len(fields)
        assert re.findall("<script (.*?)=", page) == ["src"]  # as the policy allows no other


WINDOWS = "Mozilla/5.0 (Windows NT 10.0; Win64; x64"


@pytest.mark.parametrize(
    ("user_agent", "name"),
    [
        (f"{WINDOWS}; rv:145.0) Gecko/20100101 Firefox/145.0", "Firefox on Windows"),
        (f"{WINDOWS}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0 Safari/537.36", "Chrome on Windows"),
        (f"{WINDOWS}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0 Safari/537.36 Edg/142.0", "Edge on Windows"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) Version/26.0 Safari/605.1", "Safari on macOS"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) Version/26.0 Safari/604.1", "Safari on an iPhone"),
        ("Mozilla/5.0 (iPad; CPU OS 18_6 like Mac OS X) CriOS/142.0 Mobile Safari/604.1", "Chrome on an iPad"),
        ("Mozilla/5.0 (Linux; Android 10; K) Chrome/142.0 Mobile Safari/537.36", "Chrome on Android"),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Linux"),
        ("Firefox/1.0", "Firefox"),
        ("curl/8.1", "curl/8.1"),
        ("", "An unknown browser"),
    ],
)
def test_browsers_have_names(user_agent, name):
    assert device(user_agent) == name


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-5, "just now"), (59, "just now"), (61, "1 minute ago"), (7200, "2 hours ago"), (90_000, "1 day ago")],
)
def test_times_are_in_words(seconds, words):
    assert ago(datetime.now(UTC) - timedelta(seconds=seconds)) == words
