"""Tokens in sessions, and what is left of them for those who read the database; keys that come and go."""

import json
import os
import re
import subprocess
import sys
from contextlib import AsyncExitStack
from urllib.parse import urlencode

import pytest
from cryptography.fernet import Fernet, InvalidToken
from tornado.web import RequestHandler

from demo.recipes.encrypted_tokens import KeyRing, Page, make_application
from tests.support import COOKIE, Site
from tornado_sesame import MemoryStore, SessionManager, SessionMixin, SQLiteStore

OLD, NEW, OTHER = (Fernet.generate_key().decode() for _ in range(3))


async def get_tokens(code):
    return {"access": f"access-to-{code}", "refresh": f"refresh-of-{code}"}


async def call_provider(access):
    return f"Called with <{access}>"


class Elsewhere(Page):
    """A page that uses the session, and no tokens."""

    def get(self):
        pass


class Damage(SessionMixin, RequestHandler):
    def get(self):
        self.session.encrypted_tokens = self.get_argument("tokens")


@pytest.fixture
async def start():
    """Starts a server with some keys on the store that all of them have: ``await start([key], browser)``.

    It returns a browser that visits the server and has the other's cookies.
    """
    store = MemoryStore()
    async with AsyncExitStack() as stack:

        def start(keys, browser=None, store=store):
            site = Site(make_application(keys, get_tokens, call_provider, SessionManager(store)))
            stack.push_async_callback(site.close)
            site.application.add_handlers(".*", [("/elsewhere", Elsewhere), ("/damage", Damage)])
            successor = site.browser()
            successor.manager = site.manager
            successor.cookies |= browser.cookies if browser else {}
            return successor

        yield start


async def connect(browser):
    token = re.search(r'name="_xsrf" value="([^"]+)"', await browser.text())[1]
    response = await browser.post(body=urlencode({"_xsrf": token, "code": "calendar"}))
    assert response.code == 303


async def stored(browser):
    """Returns the ciphertext of the only session."""
    (record,) = [record async for record in browser.manager.records()]
    return record.data["encrypted_tokens"]


def opens(key, ciphertext):
    try:
        return json.loads(Fernet(key).decrypt(ciphertext)) == {
            "access": "access-to-calendar",
            "refresh": "refresh-of-calendar",
        }
    except InvalidToken:
        return False


CONNECTED = "Called with &lt;access-to-calendar&gt;"


async def test_the_tokens_are_used(start):
    browser = start([OLD])
    assert "Please connect" in await browser.text()
    await connect(browser)
    assert await browser.text() == CONNECTED


async def test_what_is_stored_shows_no_token(start, tmp_path):
    browser = start([OLD], store=SQLiteStore(tmp_path / "sessions.db"))
    await connect(browser)
    assert opens(OLD, await stored(browser))
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert (await stored(browser)).encode() in files
    assert b"to-calendar" not in files
    assert b"of-calendar" not in files
    assert OLD.encode() not in files


async def test_connecting_changes_the_sessions_secret(start):
    browser = start([OLD])
    await connect(browser)
    before = browser.cookies[COOKIE]
    token = browser.cookies["_xsrf"]
    assert (await browser.post(body=urlencode({"_xsrf": token, "code": "calendar"}))).code == 303
    assert browser.cookies[COOKIE] != before


async def test_a_new_key_takes_over_at_the_next_use_and_the_old_one_can_go(start):
    first = start([OLD])
    await connect(first)

    second = start([OLD, NEW], first)
    assert await second.text() == CONNECTED
    assert opens(OLD, await stored(second))

    third = start([NEW, OLD], second)
    assert await third.text() == CONNECTED
    assert opens(NEW, await stored(third))
    assert await second.text() == CONNECTED  # on a server that is still to be restarted,
    assert opens(OLD, await stored(third))  # which is why the old key can go no earlier
    assert await third.text() == CONNECTED

    fourth = start([NEW], third)
    assert await fourth.text() == CONNECTED


async def test_pages_that_need_no_tokens_renew_them_too(start):
    first = start([OLD])
    await connect(first)
    assert (await start([NEW, OLD], first).get("/elsewhere")).code == 200
    assert await start([NEW], first).text() == CONNECTED


async def test_a_visit_with_the_newest_key_changes_nothing(start):
    browser = start([NEW, OLD])
    await connect(browser)
    before, saves = await stored(browser), browser.manager.stats.saves
    assert await browser.text() == CONNECTED
    assert await stored(browser) == before
    assert browser.manager.stats.saves == saves


async def test_when_the_key_is_gone_the_user_connects_again(start, caplog):
    first = start([OLD])
    await connect(first)
    ciphertext = await stored(first)

    second = start([NEW], first)
    assert "Please connect" in await second.text()
    assert (await second.get("/elsewhere")).code == 200
    assert await stored(second) == ciphertext
    assert await first.text() == CONNECTED  # as the server with the wrong keys has broken nothing
    (record,) = [record async for record in second.manager.records()]
    assert f"no key opens the tokens of session {record.id}" in caplog.text

    await connect(second)
    assert await second.text() == CONNECTED
    assert opens(NEW, await stored(second))


@pytest.mark.parametrize("damage", ["é", "x", "x{}", "{:.100}"])
async def test_damaged_tokens_are_absent(start, damage):
    browser = start([NEW, OLD])
    await connect(browser)
    await browser.get("/damage?" + urlencode({"tokens": damage.format(await stored(browser))}))
    assert "Please connect" in await browser.text()


@pytest.mark.parametrize("damage", ["", "é", "=", "a" * 43])
def test_a_key_that_is_none_is_named_by_its_number_alone(damage):
    key = OTHER[:20] + damage
    with pytest.raises(ValueError, match=r"^key 2 is not one that Fernet.generate_key\(\) has made$") as caught:
        KeyRing([NEW, key])
    assert caught.value.__suppress_context__


async def test_keys_and_tokens_are_neither_logged_nor_shown(start, caplog, capsys):
    first = start([OLD])
    await connect(first)
    second = start([NEW, OTHER], first)
    pages = [await browser.text() for browser in (first, second)]
    shown = "".join([*pages[1:], caplog.text, *capsys.readouterr(), repr(KeyRing([NEW])), repr(vars(KeyRing([NEW])))])
    for secret in OLD, NEW, OTHER, "access-to", "refresh-of", await stored(first):
        assert secret not in shown


@pytest.mark.parametrize("keys", [f"{NEW},{OTHER[:30]}", OTHER[:30], None], ids=["the second", "the only one", "none"])
def test_the_program_does_not_start_with_wrong_keys_and_shows_none(keys):
    environment = {name: value for name, value in os.environ.items() if name != "TOKEN_KEYS"}
    if keys is not None:
        environment["TOKEN_KEYS"] = keys
    program = [sys.executable, "-m", "demo.recipes.encrypted_tokens"]
    ended = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "is not one that Fernet.generate_key() has made" in ended.stderr
    assert NEW not in ended.stderr
    assert OTHER[:30] not in ended.stderr
