"""The README's examples do what it says."""

import ast
import http.cookiejar
import inspect
import re
import subprocess
import sys
import time
import urllib.request
from dataclasses import asdict
from datetime import timedelta  # noqa: F401 - in a default that the README shows
from pathlib import Path

import pytest

from tornado_sesame import SessionCookie, SessionManager, SessionMixin

from .mongod import free_port
from .support import DATABASE

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


PROGRAM = blocks("python")[0]
STORES = [block for block in blocks("python") if "MongoStore(" in block]


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


def test_the_first_program_prints_what_curl_shows(tmp_path):
    (console,) = blocks("console")
    shown = [line for line in console.splitlines() if not line.startswith("$")]
    assert answers(PROGRAM, 3, tmp_path).splitlines() == shown


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
