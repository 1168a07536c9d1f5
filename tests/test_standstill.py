"""Nothing stops the event loop for long, however large sessions are and however many."""

import asyncio
import sys
import time

from hypothesis import given
from hypothesis import strategies as st
from tornado.web import RequestHandler

from tornado_sesame import SessionInsert, SessionMixin, SessionRecord
from tornado_sesame.cookie import Secret
from tornado_sesame.session import SessionData
from tornado_sesame.settings import now, truncated_to_ms
from tornado_sesame.values import bson_size

from .local import Local
from .test_stored_equals_local import CONTENTS

ITEMS = [{"item": f"number {number}", "count": number, "tags": ["a", "b"]} for number in range(9000)]


class Fill(SessionMixin, RequestHandler):
    def get(self):
        self.session["items"] = ITEMS


class Append(SessionMixin, RequestHandler):
    def get(self):
        self.session["items"].append({"item": "one more"})


class Heart:
    """Beats every few milliseconds, and knows the longest time between two beats, in seconds."""

    def __init__(self):
        self.longest = 0.0

    async def __aenter__(self):
        self.longest = 0.0
        self._task = asyncio.ensure_future(self._beat())
        await asyncio.sleep(0.02)
        return self

    async def __aexit__(self, *error):
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _beat(self):
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.002)
            moment = time.monotonic()
            self.longest, last = max(self.longest, moment - last), moment


async def test_with_large_sessions_and_many_of_them(site, database):
    """With a limit that machines keep that are ten times slower."""
    running = await site([("/fill", Fill), ("/append", Append)])
    browser, heart = running.browser(), Heart()
    async with heart:
        assert (await browser.get("/fill")).code == 200
        assert (await browser.get("/append")).code == 200
    assert heart.longest < 5
    store, moment = database.new_store(), truncated_to_ms(now())
    expires = moment.replace(year=2090)
    for _ in range(10):
        records = [
            SessionRecord(Secret().id, {"text": "x" * 2000}, moment, moment, expires, "alice") for _ in range(200)
        ]
        await store.save([SessionInsert(record) for record in records], timeout=60)
    database.commands.take()
    async with heart:
        assert len([record async for record in running.manager.records("alice")]) == 2000
        if database.is_mongo:
            asked = [command for name, command in database.commands.sent if name in ("find", "getMore")]
            assert {command["batchSize"] for command in asked} == {100}
        assert await running.manager.destroy_all("alice") == 2000
    assert heart.longest < 5


def calls_of(function):
    """Returns how many functions *function* calls, at any depth."""
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


def test_the_size_of_what_was_not_reached_is_not_looked_into():
    content = SessionData()
    content.open({"items": [dict(item) for item in ITEMS], "name": "Alice"})
    assert calls_of(content.size) < 50
    session = content.session(Local({}))
    session["items"].append({"item": "one more"})
    assert calls_of(content.size) < len(ITEMS) + 100  # which of them are live is asked of each
    assert session["items"][5]["tags"] == ["a", "b"]
    assert content.size() == bson_size(content.whole())


@given(CONTENTS, st.data())
def test_the_size_is_that_of_the_whole_whatever_was_reached(data, draw):
    content = SessionData()
    content.open(data)
    session = content.session(Local({}))
    node = session
    while isinstance(node, (dict, list)) and node:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        node = node[draw.draw(st.sampled_from(keys))]
        assert content.size() == bson_size(content.whole())
    del session, node
    assert content.size() == bson_size(content.whole())
    assert calls_of(content.size) < 50 + 5 * len(str(data))
