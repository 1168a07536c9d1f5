"""What attackers try, on a running server and on every store, and whether SECURITY.md says what is true."""

import ast
import asyncio
import base64
import copy
import json
import pickle
import re
import traceback
from pathlib import Path
from urllib.parse import urlencode

import pytest
from tornado.web import RequestHandler

from tornado_sesame import SessionCookie, SessionManager, SessionMixin, SessionStoreError
from tornado_sesame.cookie import Secret

from .fuzz import Fuzz
from .support import serve

ROOT = Path(__file__).parent.parent
CHECKLIST = (ROOT / ".github" / "SECURITY.md").read_text()


class Handler(SessionMixin, RequestHandler):
    session_autoload = True


class Counter(Handler):
    def get(self):
        self.session.times = self.session.get("times", 0) + 1
        self.write(f"{self.session.times} times!")


class Show(Handler):
    def get(self):
        self.write({"owner": self.session_owner, **self.session.copy()})

    post = get


class Login(Handler):
    async def post(self):
        await self.rotate_session_id()
        self.session_owner = self.get_argument("name", "alice")


class Logout(Handler):
    async def post(self):
        await self.destroy_session()


class Put(Handler):
    """Does what careless handlers do: what the client sent goes into the session."""

    def post(self):
        for key, value in json.loads(self.request.body).items():
            self.session[key] = value


class Fail(Handler):
    def get(self):
        self.session[self.get_query_argument("key", "times")] = {1, 2}


PAGES = [
    *(("/", Counter), ("/show", Show), ("/login", Login), ("/logout", Logout)),
    *(("/put", Put), ("/fail", Fail)),
]


@pytest.fixture
async def running(site):
    return await site(PAGES)


class TestFixation:
    async def test_an_id_that_an_attacker_made_up_is_not_adopted(self, running, database):
        victim = running.browser()
        planted = victim.cookies["_session"] = Secret().value
        await victim.post("/login")
        assert victim.secret != planted
        assert await database.data(planted) is None

    async def test_an_attackers_own_session_is_worth_nothing_after_the_login(self, running):
        attacker, victim = running.browser(), running.browser()
        await attacker.text()
        victim.cookies = dict(attacker.cookies)
        await victim.post("/login")
        assert json.loads(await victim.text("/show"))["owner"] == "alice"
        assert json.loads(await attacker.text("/show")) == {"owner": None}

    @pytest.mark.parametrize("path", ["/", "/show", "/login"])
    async def test_nor_is_one_that_a_subdomain_planted_beside_the_victims(self, running, path):
        """Browsers send a cookie of the parent domain, or of a longer path, under the same name; even before ours."""
        attacker, victim = running.browser(), running.browser()
        await attacker.text()
        await victim.text()
        both = f"_session={attacker.secret}; _session={victim.secret}"
        response = await victim.fetch("POST", "/login", headers={"Cookie": both})
        assert response.code == 200
        await victim.fetch("POST" if path == "/login" else "GET", path)
        assert json.loads(await attacker.text("/show")) == {"owner": None}

    @pytest.mark.parametrize(
        "carrier",
        [
            lambda secret: {"path": f"/show?_session={secret}"},
            lambda secret: {"path": f"/show;_session={secret}?"},
            lambda secret: {"body": f"_session={secret}"},
            lambda secret: {"headers": {"Session-Id": secret, "X-Session-Id": secret}},
            lambda secret: {"headers": {"Authorization": f"Bearer {secret}"}},
            lambda secret: {"headers": {"Cookie": f"session={secret}; sid={secret}; Session_Id={secret}"}},
        ],
        ids=["query", "path", "body", "header", "authorization", "other cookies"],
    )
    async def test_a_secret_counts_in_its_cookie_only(self, running, carrier):
        alice, other = running.browser(), running.browser()
        await alice.post("/login")
        response = await other.post(**{"path": "/show", **carrier(alice.secret)})
        assert response.code == 404 or json.loads(response.body) == {"owner": None}


async def test_the_secret_leaves_the_server_in_set_cookie_only(running, database, caplog):
    browser = running.browser()
    secrets, seen = set(), []
    steps = [("GET", "/"), ("GET", "/show"), ("POST", "/login"), ("GET", "/"), ("GET", "/fail"), ("GET", "/nowhere")]
    for method, path in [*steps, ("HEAD", "/"), ("POST", "/put"), ("POST", "/logout"), ("GET", "/")]:
        before = browser.cookies.get("_session")
        response = await browser.fetch(method, path)
        secrets |= {before, browser.cookies.get("_session")} - {None}
        headers = [f"{name}: {value}" for name, value in response.headers.get_all() if name != "Set-Cookie"]
        seen += [response.effective_url, response.body.decode(), *headers]
    assert len(secrets) == 3
    stored = [repr(record) async for record in running.manager.records()]
    for secret in secrets:
        assert not [text for text in (*seen, *stored, caplog.text) if secret in text]


class TestFloods:
    async def test_a_cookie_header_of_60_kilobytes_does_not_reach_the_store(self, running):
        for junk in ("x" * 43, ";", " ", "_session=", f'_session="{"x" * 42};', f"_session={'x' * 43} y;"):
            before = running.manager.stats.commands
            response = await running.browser().get("/show", headers={"Cookie": (junk * 60_000)[:60_000]})
            assert json.loads(response.body) == {"owner": None}
            assert running.manager.stats.commands == before

    async def test_of_a_thousand_cookies_of_one_name_one_at_most_is_looked_up(self, running):
        browser = running.browser()
        await browser.text()
        for value, loads in (("planted", 0), (Secret().value, 1)):
            before = running.manager.stats.loads
            response = await browser.get("/show", headers={"Cookie": "; ".join([f"_session={value}"] * 1000)})
            assert json.loads(response.body) == {"owner": None}
            assert running.manager.stats.loads == before + loads
        many = "; ".join([*["_session=planted"] * 1000, f"_session={browser.secret}"])
        assert json.loads((await browser.get("/show", headers={"Cookie": many})).body)["times"] == 1

    async def test_unknown_ids_at_once_are_one_read(self, database):
        manager = SessionManager(database.new_store())
        sessions = [manager.open([Secret()]) for _ in range(200)]
        database.commands.take()
        await asyncio.gather(*(live.load() for live in sessions))
        assert (manager.stats.loads, manager.stats.commands) == (200, 1)
        assert database.commands.take() == ["find"] * database.is_mongo
        assert all(live.id is None for live in sessions)

    async def test_requests_with_unknown_ids_share_reads_and_leave_nothing(self, running):
        browsers = [running.browser() for _ in range(200)]
        for browser in browsers:
            browser.cookies["_session"] = Secret().value
        before = running.manager.stats.commands
        await asyncio.gather(*(browser.get("/show") for browser in browsers))
        assert running.manager.stats.commands - before <= 100
        assert [record async for record in running.manager.records()] == []


class TestStolenDatabase:
    async def test_nothing_in_it_opens_a_session(self, running):
        browser, thief = running.browser(), running.browser()
        await browser.post("/login")
        (record,) = [record async for record in running.manager.records("alice")]
        as_bytes = base64.urlsafe_b64encode(bytes.fromhex(record.id)).decode().rstrip("=")
        for stolen in record.id, record.id[:43], as_bytes:
            thief.cookies["_session"] = stolen
            assert json.loads(await thief.text("/show")) == {"owner": None}
        assert json.loads(await browser.text("/show")) == {"owner": "alice"}

    async def test_nor_does_what_is_nearly_a_secret(self, running):
        """The store compares hashes, so how long it takes says nothing about how much of a secret was right."""
        browser, thief = running.browser(), running.browser()
        await browser.post("/login")
        secret = browser.secret
        for guess in secret.swapcase(), secret[:-1] + ("A" if secret[-1] != "A" else "E"), secret[::-1]:
            thief.cookies["_session"] = guess
            assert json.loads(await thief.text("/show")) == {"owner": None}


class TestInjection:
    @pytest.mark.parametrize(
        "sent",
        [
            {"$where": "sleep(10000) || true"},
            {"user": {"$ne": None}, "$set": {"owner": "admin"}, "$unset": {"data": 1}},
            {"data.user": "x", "..": 1, ".owner": "admin", "owner": "admin", "_id": "x", "expires": 0},
            {"a\0b": 1, "": {"": {"$inc": {"data.times": 5}}}, "%24where": 1, "__class__": "x", "__proto__": {}},
            {
                "$expr": {"$function": {"body": "function() {}", "args": [], "lang": "js"}},
                "list": ["$$ROOT", {"$ref": 1}],
            },
        ],
    )
    async def test_operators_and_paths_are_data(self, running, sent):
        browser = running.browser()
        await browser.post("/put", body=json.dumps(sent))
        for _ in range(2):  # inserted, then updated
            assert json.loads(await browser.text("/show")) == {"owner": None} | sent
            await browser.post("/put", body=json.dumps(sent | {"more": 1}))
            sent = sent | {"more": 1}
        assert [record.owner async for record in running.manager.records()] == [None]

    @pytest.mark.parametrize("owner", ["$ne", "{$ne: null}", ".*", "alice' OR '1'='1", "%"])
    async def test_an_owner_is_compared_as_it_is(self, running, owner):
        alice = running.browser()
        await alice.post("/login")
        assert await running.manager.destroy_all(owner) == 0
        assert json.loads(await alice.text("/show")) == {"owner": "alice"}

    @pytest.mark.parametrize("name", ["__class__", "_data", "__dict__", "__init__", "items", "copy"])
    async def test_no_key_replaces_a_method(self, running, name):
        browser = running.browser()
        assert (await browser.post("/put", body=json.dumps({name: "x", "a": {name: "x"}}))).code == 200
        assert json.loads(await browser.text("/show")) == {"owner": None, name: "x", "a": {name: "x"}}

    @pytest.mark.parametrize("id", ["a\r\nWARNING forged", {"$ne": None}, ["x"], None])
    async def test_an_id_that_is_none_is_not_asked_for(self, database, id):
        manager = SessionManager(database.new_store())
        if isinstance(id, str):
            await manager.destroy(id)
        else:
            with pytest.raises(TypeError):
                await manager.destroy(id)
        assert manager.stats.commands == 0

    async def test_what_is_logged_is_one_line_for_each_event(self, running, caplog):
        key = "a\r\nCRITICAL:root:forged \x1b[2J\u2028"
        response = await running.browser().get("/fail?" + urlencode({"key": key}))
        assert response.code == 500
        assert "forged" in caplog.text
        for record in caplog.records:
            text = traceback.format_exception(record.exc_info[1]) if record.exc_info else [record.getMessage()]
            (line,) = [line for part in text for line in part.splitlines() if "forged" in line] or [""]
            assert line.isprintable()
            assert not line.startswith("CRITICAL")


class TestSecrets:
    """What shows a secret would give the session to whoever reads logs, error reports or caches."""

    @pytest.fixture
    async def live(self, database):
        self.manager = SessionManager(database.new_store())
        live = self.manager.open()
        live.open_empty()
        live.session.password = "correct horse"
        await live.save()
        self.secret = live.response_header(https=True)[1].partition("=")[2].partition(";")[0]
        assert re.fullmatch(r"[\w-]{43}", self.secret)
        return live

    async def test_they_are_in_no_repr(self, live):
        for shown in (live, self.manager, self.manager.store, live.session):
            assert self.secret not in repr(shown)
        assert "correct horse" not in repr(live)

    @pytest.mark.parametrize("take", [pickle.dumps, copy.deepcopy])
    async def test_they_are_in_no_pickle(self, live, take):
        with pytest.raises(TypeError):
            take(live)
        assert self.secret.encode() not in pickle.dumps(live.session.copy())

    async def test_they_are_in_no_error(self, live, monkeypatch, caplog):
        """Not even in reports that show the variables of each frame, as many error trackers do."""

        async def fail(*args, **options):
            raise OSError("out of order")

        for name in "load", "save", "pop":
            monkeypatch.setattr(self.manager.store, name, fail)
        live.session.password = "battery staple"
        again = self.manager.open([Secret(self.secret)])
        for attempt in live.save, live.rotate, live.destroy, again.load:
            with pytest.raises(SessionStoreError) as failure:
                await attempt()
            assert "staple" not in f"{failure.value} {caplog.text}"
            report = traceback.TracebackException.from_exception(failure.value, capture_locals=True)
            frames = [line for line in "".join(report.format()).splitlines() if "TestSecrets object" not in line]
            assert live.id in str(frames)
            assert self.secret not in f"{frames} {caplog.text}"


def test_hostile_input_in_short():
    """`python -m tests.fuzz` in short: no exception outside of our own classes, no 500."""
    fuzz = Fuzz()
    fuzz.run(20_000)
    assert fuzz.counts.keys() == {"headers", "keys and values", "requests"}
    assert min(fuzz.outcomes.values()) > 10
    assert {
        "headers with a secret",
        "values kept",
        "values refused",
        "requests answered with 200",
    } <= fuzz.outcomes.keys()


def names_of_tests(path):
    """Returns the names of the tests in a file, as pytest writes them."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        inner = node.body if isinstance(node, ast.ClassDef) else []
        names |= {getattr(node, "name", None)} | {f"{node.name}::{getattr(item, 'name', None)}" for item in inner}
    return names


ROWS = re.findall(r"^\| (\d+\.\d+\.\d+) \|(.*)\|(.*)\|(.*)\|$", CHECKLIST, re.MULTILINE)


class Protocol(SessionMixin, RequestHandler):
    def get(self):
        self.session.here = True
        self.write(f"{self.request.protocol} {self.request.remote_ip}")


class TestBehindAProxy:
    @pytest.mark.parametrize(
        ("headers", "seen"),
        [
            ({}, "http 127.0.0.1"),
            ({"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7"}, "https 192.0.2.7"),
            ({"X-Scheme": "https", "X-Real-Ip": "192.0.2.8"}, "https 192.0.2.8"),
        ],
    )
    async def test_the_cookie_is_secure_and_its_hosts_alone_whatever_the_proxy_says(self, headers, seen):
        sessions = SessionManager(cookie=SessionCookie(name="__Host-session", secure=True))
        async with serve([("/", Protocol)], sessions=sessions) as site:
            response = await site.browser().get(headers=headers)
        assert response.body.decode() == seen
        cookie = response.headers["Set-Cookie"]
        assert cookie.startswith("__Host-session=")
        assert "; Path=/; Secure; HttpOnly; SameSite=Lax" in cookie
        assert "Domain" not in cookie


class TestChecklist:
    @pytest.mark.parametrize("row", ROWS, ids=[number for number, *_ in ROWS])
    def test_what_is_met_has_tests(self, row):
        _, _, verdict, tests = row
        assert verdict.strip().startswith(("met", "the application", "half", "not"))
        references = re.findall(r"`(test_\w+)::([\w:]+)`", tests)
        assert bool(references) == verdict.strip().startswith(("met", "half"))
        for module, test in references:
            assert test in names_of_tests(ROOT / "tests" / f"{module}.py"), f"{module}.py has no {test}"

    def test_no_requirement_is_left_out(self):
        numbers = [number for number, *_ in ROWS]
        assert numbers == sorted(set(numbers))
        assert {number for number in numbers if number.startswith("3.3")} == {f"3.3.{n}" for n in range(1, 6)}
        sections = {1: 3, 2: 4, 3: 2, 4: 5, 5: 3, 6: 2}
        of_sessions = {f"7.{section}.{n}" for section, last in sections.items() for n in range(1, last + 1)}
        assert {number for number in numbers if number.startswith("7.")} == of_sessions
