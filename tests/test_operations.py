"""What OPERATIONS.md tells those who run a site is so: its role, indexes, programs and table of messages."""

import ast
import asyncio
import json
import logging
import os
import re
import signal
import subprocess
import sys
import urllib.parse
from contextlib import AsyncExitStack, suppress
from dataclasses import fields
from pathlib import Path

import pytest
from pymongo import AsyncMongoClient, MongoClient
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.web import RequestHandler
from tornado.websocket import WebSocketHandler, websocket_connect

from tornado_sesame import MongoStore, SessionInsert, SessionManager, SessionMixin, SessionRecord, SessionStats
from tornado_sesame.cookie import Secret, id_of_secret
from tornado_sesame.testing import StoreContract
from tornado_sesame.testing.contract import LATER, NOW, load, new_id, save

from .mongod import NO_MONGODB, Mongod, find_mongod, free_port
from .support import Browser, eventually, serve

ROOT = Path(__file__).parent.parent
PAGE = ROOT / ".github" / "OPERATIONS.md"
TEXT = PAGE.read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def arguments(method):
    """Returns the arguments of each call of this method in the blocks for mongosh."""
    found = re.findall(rf"^db(?:\.sessions)?\.{method}\((.*?)\)$", "\n".join(blocks("js")), re.MULTILINE | re.DOTALL)
    quoted = (re.sub(r"([{,]\s*)([\w$]+):", r'\1"\2":', text) for text in found)
    return [json.loads("[" + re.sub(r",(\s*[}\]])", r"\1", text) + "]") for text in quoted]


((ROLE,),) = arguments("createRole")
((RESOURCE, ACTIONS),) = [(privilege["resource"], privilege["actions"]) for privilege in ROLE["privileges"]]


class WithUsers(Mongod):
    """A replica set of one that asks for passwords. ``root`` may do everything."""

    def __init__(self, directory):
        key = directory / "key"
        key.write_text("sesame" * 4)
        key.chmod(0o400)
        self._options = ["--auth", "--keyFile", str(key)]
        super().__init__(directory)
        with MongoClient(self.uri) as client:
            client.admin.command("createUser", "root", pwd="pw", roles=["root"])

    def start(self):
        self._command += self._options
        self._options = []
        super().start()

    def give(self, actions):
        """Makes a new user with the role, but these actions, and returns the URI that the site has then."""
        privileges = [{"resource": RESOURCE, "actions": actions}]
        with self.root() as client:
            database = client[RESOURCE["db"]]
            database.drop_collection(RESOURCE["collection"])
            for command in "dropAllUsersFromDatabase", "dropAllRolesFromDatabase":
                database.command(command)
            database.command("createRole", ROLE["role"], privileges=privileges, roles=ROLE["roles"])
            database.command("createUser", "site", pwd="pw", roles=[ROLE["role"]])
        return f"mongodb://site:pw@{self.address}/{RESOURCE['db']}?replicaSet=sesame"

    def root(self, kind=MongoClient):
        return kind(self.uri, username="root", password="pw")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if find_mongod() is None:
        pytest.skip(NO_MONGODB)
    server = WithUsers(tmp_path_factory.mktemp("operations"))
    yield server
    server.kill()


class TestTheRole(StoreContract):
    """Is all that a store needs."""

    @pytest.fixture
    async def store(self, server):
        async with AsyncMongoClient(server.give(ACTIONS)) as client:
            store = MongoStore(client.get_default_database()[RESOURCE["collection"]])
            yield store
            await store.close()


class Page(SessionMixin, RequestHandler):
    async def get(self):
        self.write({"n": (await self.session).n})

    async def post(self, what):
        await getattr(self, what)()

    async def begin(self):
        (await self.session).n = 1

    async def change(self):
        (await self.session).n += 1

    async def rotate(self):
        await self.rotate_session_id()

    async def destroy(self):
        await self.destroy_session()

    async def list(self):
        assert [record.owner async for record in self.session_manager.records("alice")] == ["alice"] * 5


class Tab(SessionMixin, WebSocketHandler):
    def open(self):
        self.write_message(str(self.session.n))

    def on_session_change(self):
        self.write_message("changed")


PAGES = [("/", Page), ("/(begin|change|rotate|destroy|list)", Page), ("/tab", Tab)]


async def hears(site, elsewhere, id, cookie, is_settled):
    """Tells whether an open page, which stays so until *is_settled*, hears of what another process does."""
    request = HTTPRequest(f"{site.url.replace('http', 'ws')}/tab", headers={"Cookie": cookie})
    tab = await websocket_connect(request)
    try:
        if await tab.read_message() != "1":
            return False
        async with elsewhere.edit(id) as session:
            session.n += 1
        heard = await tab.read_message() == "changed"
        await eventually(is_settled)
        return heard
    finally:
        tab.close()


async def broken(server, actions, caplog, **options):
    """Returns what does not work on a site whose user may do no more than *actions*."""
    caplog.set_level(logging.WARNING, "tornado_sesame")
    uri = server.give(actions)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(AsyncMongoClient(uri))
        root = await stack.enter_async_context(server.root(AsyncMongoClient))
        collection = root[RESOURCE["db"]][RESOURCE["collection"]]
        elsewhere = SessionManager(MongoStore(collection, create_indexes=False))
        store = MongoStore(client.get_default_database()[RESOURCE["collection"]], **options)
        site = await stack.enter_async_context(serve(PAGES, sessions=SessionManager(store)))
        secrets = [Secret() for _ in range(5)]
        for secret in secrets:
            record = SessionRecord(secret.id, {"n": 1}, NOW, NOW, LATER, "alice")
            await save(elsewhere.store, [SessionInsert(record)])
        cookies = [f"_session={secret.value}" for secret in secrets]
        found = set()

        async def is_told_at_once_or_not():
            return "changeStream" in actions or "open sessions are loaded once a second" in caplog.text

        if not await hears(site, elsewhere, secrets[0].id, cookies[0], is_told_at_once_or_not):
            found.add("hear")
        visits = {"begin": None, "list": None, "": 1, "change": 2, "rotate": 3, "destroy": 4}
        codes = {}
        for path, number in visits.items():
            headers = {} if number is None else {"Cookie": cookies[number]}
            response = await site.browser().fetch("POST" if path else "GET", f"/{path}", headers=headers)
            codes[path or "read"] = response.code
        assert set(codes.values()) <= {200, 503}
        found |= {name for name, code in codes.items() if code == 503}

        async def is_indexed():
            there = "createIndex" in actions and len(await collection.index_information()) == 3
            return there or not options.get("create_indexes", True) or "could not create the indexes" in caplog.text

        await eventually(is_indexed)
    warnings = {"open sessions are loaded once a second": "hear at once", "could not create the indexes": "indexes"}
    return found | {what for text, what in warnings.items() if text in caplog.text}


class TestRights:
    """Each is needed for what the page says, and no other is."""

    WITHOUT = {
        "find": {"read", "change", "rotate", "list", "hear"},
        "insert": {"begin", "change", "rotate", "destroy"},
        "update": {"change", "rotate", "destroy"},
        "changeStream": {"hear at once"},
        "createIndex": {"indexes"},
    }

    def test_they_are_explained(self):
        table = TEXT.partition("| action | needed for |")[2].partition("\n\n")[0]
        assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == ACTIONS == list(self.WITHOUT)

    async def test_with_all_everything_works(self, server, caplog):
        assert await broken(server, ACTIONS, caplog) == set()
        assert [record for record in caplog.records if record.name == "tornado_sesame"] == []

    @pytest.mark.parametrize("action", ACTIONS)
    async def test_each_is_needed(self, action, server, caplog):
        actions = [other for other in ACTIONS if other != action]
        assert await broken(server, actions, caplog) == self.WITHOUT[action]

    async def test_with_indexes_made_by_hand_the_smaller_role_will_do(self, server, caplog):
        actions = [action for action in ACTIONS if action != "createIndex"]
        assert await broken(server, actions, caplog, create_indexes=False) == set()

    async def test_the_smallest_role(self, server, caplog):
        (text,) = re.findall(r"The\s+smallest\s+role\s+is\s+(`[^.]*`)\.", TEXT)
        smallest = re.findall(r"\w+", text.replace(" and ", " "))
        assert await broken(server, smallest, caplog, create_indexes=False) == {"hear at once"}

    @pytest.mark.parametrize("more", [[], ["collMod"]])
    async def test_another_index_on_expires_needs_one_more(self, more, server, caplog):
        uri = server.give(ACTIONS + more)
        async with AsyncMongoClient(uri) as client, server.root(AsyncMongoClient) as root:
            collection = root[RESOURCE["db"]][RESOURCE["collection"]]
            await collection.create_index("expires")
            store = MongoStore(client.get_default_database()[RESOURCE["collection"]])
            await load(store, new_id())

            async def is_done():
                has_ttl = "expireAfterSeconds" in (await collection.index_information())["expires_1"]
                return has_ttl or "could not create the indexes" in caplog.text

            await eventually(is_done)
            await store.close()
        assert ("could not create the indexes" in caplog.text) == (not more)


@pytest.mark.mongodb
@pytest.mark.stores("pymongo")
class TestCommands:
    async def test_the_indexes_are_those_that_the_store_makes(self, database):
        by_store = database.collection
        by_hand = by_store.database[f"{by_store.name}_by_hand"]
        for keys, options in arguments("createIndex"):
            await by_hand.create_index(keys, **options)
        store = MongoStore(by_store)
        await load(store, new_id())

        async def are_there():
            return len(await by_store.index_information()) == 3

        await eventually(are_there)
        assert await by_hand.index_information() == await by_store.index_information()
        await store.close()
        await by_hand.drop()

    async def test_a_restored_backup_signs_users_in_again_until_they_are_deleted(self, site, database):
        class Account(SessionMixin, RequestHandler):
            def get(self):
                self.write(self.session_owner or "nobody")

            def post(self):
                self.session_owner = "alice"

            async def delete(self):
                await self.destroy_session()

        ((wanted,),) = arguments("deleteMany")
        alice = (await site([("/", Account)])).browser()
        await alice.post()
        kept = dict(alice.cookies)
        backup = await database.collection.find().to_list()
        await alice.fetch("DELETE")
        alice.cookies = dict(kept)
        assert await alice.text() == "nobody"
        await database.collection.delete_many({})
        await database.collection.insert_many(backup)
        alice.cookies = dict(kept)
        assert await alice.text() == "alice"
        await database.collection.delete_many(wanted)
        assert await alice.text() == "nobody"

    def test_the_id_of_a_cookie(self):
        (command,) = [block for block in blocks("sh") if "sha256sum" in block]
        secret = Secret()
        done = subprocess.run(
            ["sh", "-c", command],
            env={**os.environ, "COOKIE": secret.value},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split()[0] == secret.id == id_of_secret(secret.value)


PROGRAMS = {re.match(r"# (\w+\.py)\n", block)[1]: block for block in blocks("python")}


class TestPrograms:
    @pytest.mark.parametrize(
        ("program", "arguments"),
        [("fork.py", [[]]), ("start.py", [[]]), ("ports.py", [["8001"], ["8002"]]), ("ports.py", [["8001"], ["8001"]])],
        ids=["fork", "start", "one port for each", "one port for all"],
    )
    async def test_processes_share_sessions_and_stop_in_order(self, program, arguments, mongodb_uri, tmp_path):
        """Whichever of them answers."""
        ports = {"9090": free_port(), "8001": free_port(), "8002": free_port()}
        database = f"operations_{ports['9090']}"
        for name, text in PROGRAMS.items():
            for old, new in (
                ("9090", str(ports["9090"])),
                ("mongodb://localhost:27017", mongodb_uri),
                ("mysite", database),
            ):
                text = text.replace(old, new)
            (tmp_path / name).write_text(text)
        processes = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, program, *(str(ports[name]) for name in names)),
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
            for names in arguments
        ]
        client = AsyncHTTPClient(force_instance=True)
        used = dict.fromkeys(name for names in arguments for name in names or ["9090"])
        browsers = [Browser(f"http://localhost:{ports[name]}", client) for name in used]
        pids, times = set(), []
        try:
            async with asyncio.timeout(120):
                while len(pids) < 2 or len(times) < 10:
                    browser = browsers[len(times) % len(browsers)]
                    browser.cookies = browsers[0].cookies
                    try:
                        text = await browser.text()
                    except ConnectionRefusedError:
                        await asyncio.sleep(0.02)
                        continue
                    counted, pid = re.fullmatch(r"(\d+) times, this time in process (\d+)\n", text).groups()
                    pids.add(pid)
                    times.append(int(counted))
            assert times == list(range(1, len(times) + 1))
            for process in processes:
                os.killpg(process.pid, signal.SIGTERM)
            async with asyncio.timeout(120):
                logged = [(await process.communicate())[1].decode() for process in processes]  # when all have ended
            assert logged == [""] * len(processes)
            # A parent that has forked is ended by the signal itself.
            assert {process.returncode for process in processes} == {0 if program == "ports.py" else -signal.SIGTERM}
        finally:
            client.close()
            for process in processes:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            with MongoClient(mongodb_uri) as mongodb:
                mongodb.drop_database(database)

    def test_all_are_run(self):
        assert PROGRAMS.keys() == {"app.py", "fork.py", "start.py", "ports.py"}


def messages():
    """Returns the level of each message in the package's log, and how it begins or what it always contains."""
    found = {}
    for path in (ROOT / "tornado_sesame").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name("logger"), attr=level), args=[ast.Constant(text), *_]
                ) if text != "%s":
                    found[re.split(r"[%,:]", text)[0].strip()] = level.upper()
    calls = (ROOT / "tornado_sesame" / "calls.py").read_text()
    failing = re.findall(r'"((?:load|save|end|rotate|list) sessions?)\b', calls)
    assert len(set(failing)) == 5
    return found | {f"could not {what}": "ERROR" for what in failing}


@pytest.mark.parametrize(("text", "level"), sorted(messages().items()))
def test_each_message_in_the_log_is_explained(text, level):
    table = TEXT.partition("| level | message |")[2].partition("\n\n")[0]
    lines = [line for line in table.splitlines() if text in line or text in line.replace("`, `", " ")]
    assert [line.split("|")[1].strip() for line in lines] == [level]


def test_other_links_lead_to_mongodbs_documentation():
    """Those to files and headings here are looked at by `test_readme`."""
    links = re.findall(r"\]\((https://[^)\s]+)\)", TEXT)
    assert {urllib.parse.urlsplit(link).netloc for link in links} == {"www.mongodb.com"}


def test_the_contents_are_complete():
    contents, _, rest = TEXT.partition("\n## ")
    assert re.findall(r"\[([^]]*)\]\(#", contents) == re.findall(r"^## (.*)$", "## " + rest, re.MULTILINE)


def test_the_figures_to_watch_are_there():
    table = TEXT.partition("| watch | why |")[2].partition("\n\n")[0]
    figures = re.findall(r"[a-z_]+", " ".join(re.findall(r"^\| (.*?) \|", table, re.MULTILINE)))
    assert set(figures) == {field.name for field in fields(SessionStats)}
