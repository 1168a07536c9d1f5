"""The README's examples do what it says."""

import ast
import asyncio
import http.cookiejar
import inspect
import json
import re
import subprocess
import sys
import time
import urllib.request
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import pytest
from tornado.httpclient import AsyncHTTPClient
from tornado.template import Template
from tornado.web import Application, RequestHandler

from tornado_sesame import SessionCookie, SessionManager, SessionMixin

from .mongod import free_port
from .support import DATABASE, Browser, Site

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


PROGRAMS = blocks("python")[:2]
PROGRAM = PROGRAMS[0]
STORES = [block for block in blocks("python") if "MongoStore(" in block and "copy_sessions" not in block]


def answers(program, visits, tmp_path):
    """Runs *program* and returns what a visitor gets."""
    port = free_port()
    (tmp_path / "program.py").write_text(program.replace("9090", str(port)))
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    with subprocess.Popen([sys.executable, tmp_path / "program.py"]) as process:
        try:
            for _ in range(1000):
                try:
                    first = opener.open(f"http://localhost:{port}/").read().decode()
                    break
                except OSError:
                    assert process.poll() is None
                    time.sleep(0.01)
            return first + "".join(opener.open(f"http://localhost:{port}/").read().decode() for _ in range(visits - 1))
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("program", "console"), list(zip(PROGRAMS, blocks("console"), strict=True)), ids=["counter", "typed"]
)
def test_a_program_prints_what_curl_shows(program, console, tmp_path):
    shown = [line for line in console.splitlines() if not line.startswith("$")]
    assert answers(program, len(shown), tmp_path).splitlines() == shown


@pytest.mark.parametrize("example", STORES, ids=["motor", "pymongo"])
def test_the_stores_are_used_as_shown(example, mongodb_uri, tmp_path):
    """Each example, put into the first program in the place of its `Application`."""
    *imports, store, application = example.strip().splitlines()
    store = store.replace("mongodb://localhost:27017", mongodb_uri).replace("mysite", DATABASE)
    listening = f"    {store}\n    {application}.listen("
    program = PROGRAM.replace('    Application([("/", Counter)]).listen(', listening)
    assert listening in program
    assert answers("\n".join(imports) + "\n" + program, 2, tmp_path) == "1 times!\n2 times!\n"


@pytest.mark.parametrize("example", blocks("python"))
def test_every_example_is_python(example):
    ast.parse(example)


def test_the_api_tables_say_what_there_is():
    tables = README.partition("## API")[2]
    members = {name for name in re.findall(r"`(?:await )?self\.(\w+)", tables) if name != "session"}
    assert members <= vars(SessionMixin).keys()
    settings = re.findall(r"^\| `(\w+)=([^`]+)` \|", tables, re.MULTILINE)
    parameters = inspect.signature(SessionManager).parameters
    assert len(settings) == len(parameters) - 1  # the store
    for name, default in settings:
        assert parameters[name].default == eval(default)  # the README is ours
    attributes = dict(re.findall(r"`(\w+)=([^`]+)`", tables.partition("| the cookie:")[2].partition("\n")[0]))
    assert {name: eval(default) for name, default in attributes.items()} == asdict(SessionCookie())


class TestRecipes:
    """Each recipe is run as it stands in the README, on what the recipes before it defined."""

    RECIPES = README.partition("## Recipes\n")[2].partition("\n## ")[0]

    def run(self, *headings, **names):
        names |= {"Application": Application, "RequestHandler": RequestHandler, "SessionMixin": SessionMixin}
        for heading in headings:
            recipe = self.RECIPES.partition(f"### {heading}\n")[2].partition("\n### ")[0]
            for block in re.findall(r"```python\n(.*?)```", recipe, re.DOTALL):
                exec(block, names)  # the README is ours
        return names

    @pytest.fixture
    async def visit(self):
        sites = []

        def visit(application):
            application.settings.setdefault("sessions", SessionManager())
            sites.append(Site(application))
            return sites[-1].browser()

        yield visit
        for site in sites:
            await site.close()

    @staticmethod
    async def check_password(name, password):
        return name

    async def test_signing_in(self, visit):
        recipe = self.run("Signing in", check_password=self.check_password)
        alice = visit(recipe["application"])
        response = await alice.get("/account")
        assert (response.code, response.headers["Location"]) == (302, "/login?next=%2Faccount")
        response = await alice.post("/login", body="name=%3CAlice%3E&password=x")
        assert (response.code, response.headers["Location"]) == (303, "/account")
        assert await alice.text("/account") == "Hello, &lt;Alice&gt;!"
        before = alice.secret
        await alice.post("/login", body="name=Alice&password=x")
        assert alice.secret != before
        kept = dict(alice.cookies)
        assert (await alice.post("/logout")).headers["Location"] == "/login"
        assert not alice.cookies
        alice.cookies = kept
        assert (await alice.get("/account")).code == 302

    async def test_a_changed_password_signs_out_everywhere_else(self, visit):
        (call,) = re.findall(r"`await (self.session_manager.destroy_all\(.*?\))`", self.RECIPES)
        sign_out = eval(f"lambda self, user: {call}")
        recipe = self.run("Signing in", check_password=self.check_password)

        class Password(recipe["Page"]):
            async def post(self):
                await sign_out(self, self.current_user)

        recipe["application"].add_handlers(".*", [("/password", Password)])
        here = visit(recipe["application"])
        there = visit(recipe["application"])
        for browser in here, there:
            await browser.post("/login", body="name=Alice&password=x")
        assert (await here.post("/password")).code == 200
        assert (await here.get("/account")).code == 200
        assert (await there.get("/account")).code == 302

    async def test_you_will_be_signed_out_in_two_minutes(self, visit):
        recipe = self.run("You will be signed out in two minutes")

        class Page(SessionMixin, RequestHandler):
            def get(self):
                self.session.here = True

        pages = [("/", Page), ("/remaining", recipe["Remaining"])]
        sessions = SessionManager(idle_timeout=timedelta(seconds=2), touch_interval=timedelta(0))
        browser = visit(Application(pages, sessions=sessions))
        assert await browser.text("/remaining") == '{"seconds": null}'
        await browser.get()
        for _ in range(4):
            assert 0 < json.loads(await browser.text("/remaining"))["seconds"] < 2
            await asyncio.sleep(0.4)
        await asyncio.sleep(0.5)
        assert await browser.text("/remaining") == '{"seconds": null}'

    async def test_messages_for_the_next_page(self, visit):
        recipe = self.run("Messages for the next page")
        (template,) = re.findall(r"`({% for message.*?{% end %})`", self.RECIPES, re.DOTALL)

        class Form(recipe["Flashing"]):
            def post(self):
                self.flash("Saved.")
                self.flash("<Nearly.>")

            def get(self):
                self.write(Template(template).generate(handler=self))

        browser = visit(Application([("/", Form)]))
        assert await browser.text() == ""
        assert not browser.cookies
        await browser.post()
        assert await browser.text() == '<p role="status">Saved.</p><p role="status">&lt;Nearly.&gt;</p>'
        assert await browser.text() == ""

    async def test_forms_that_other_sites_cannot_send(self, visit):
        class Form(SessionMixin, RequestHandler):
            def get(self):
                self.write(Template("{% module xsrf_form_html() %}").generate(**self.get_template_namespace()))

            def post(self):
                self.session.sent = True

        recipe = self.run("Forms that other sites cannot send", pages=[("/", Form)])
        browser = visit(recipe["application"])
        page = await browser.get()
        assert "; HttpOnly" in page.headers["Set-Cookie"]
        assert "SameSite=Lax" in page.headers["Set-Cookie"]
        assert (await browser.post()).code == 403
        assert "_session" not in browser.cookies
        token = re.search(r'value="(.*)"', page.body.decode())[1]
        assert (await browser.post(body=f"_xsrf={token.replace('|', '%7C')}")).code == 200
        assert "_session" in browser.cookies

    def test_tests_of_your_handlers(self, tmp_path):
        """They pass as pasted, below the recipe that they are about."""
        signing_in, yours = (
            re.split(r"\n###? ", README.partition(f"### {heading}\n")[2])[0]
            for heading in ("Signing in", "Tests of your handlers")
        )
        program = [
            "from tornado.web import Application, RequestHandler",
            "from tornado_sesame import SessionManager, SessionMixin",
            *re.findall(r"```python\n(.*?)```", signing_in, re.DOTALL),
            'application.settings["sessions"] = SessionManager()',
            *re.findall(r"```python\n(.*?)```", yours, re.DOTALL),
        ]
        (tmp_path / "test_it.py").write_text("\n".join(program))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", tmp_path]
        output = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=100, check=False).stdout
        assert "2 passed" in output, output

    async def test_behind_a_proxy_that_ends_tls(self):
        port = free_port()
        names = {"Application": Application, "pages": [("/", Protocol)]}
        recipe = re.search(r"### Behind a proxy.*?```python\n(.*?)```", self.RECIPES, re.DOTALL)[1]
        exec(recipe.replace("8080", str(port)), names)
        client = AsyncHTTPClient(force_instance=True)
        try:
            browser = Browser(f"http://127.0.0.1:{port}", client)
            for headers, seen in (
                ({}, "http 127.0.0.1"),
                ({"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7"}, "https 192.0.2.7"),
                ({"X-Scheme": "https", "X-Real-Ip": "192.0.2.8"}, "https 192.0.2.8"),
            ):
                response = await browser.get(headers=headers)
                assert response.body.decode() == seen
                browser.cookies.clear()
                cookie = response.headers["Set-Cookie"]
                assert cookie.startswith("__Host-session=")
                assert "; Path=/; Secure; HttpOnly; SameSite=Lax" in cookie
                assert "Domain" not in cookie
        finally:
            client.close()
            names["server"].stop()
            await names["server"].close_all_connections()


class Protocol(SessionMixin, RequestHandler):
    def get(self):
        self.session.here = True
        self.write(f"{self.request.protocol} {self.request.remote_ip}")


def test_each_program_to_copy_from_is_listed_runs_as_it_says_and_has_tests():
    listed = re.findall(r"^\| \[(\w+)\.py\]\(demo/recipes/\1\.py\)", README, re.MULTILINE)
    there = sorted(path.stem for path in (ROOT / "demo" / "recipes").glob("*.py") if path.stem != "__init__")
    assert sorted(listed) == there
    for name in there:
        assert f"python -m demo.recipes.{name}" in (ROOT / "demo" / "recipes" / f"{name}.py").read_text()
        assert (ROOT / "tests" / "recipes" / f"test_{name}.py").exists()
