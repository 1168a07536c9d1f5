"""`sessions.stats`: what was loaded and saved, and how long that took."""

import asyncio

import pytest
from tornado.web import RequestHandler

from tornado_sesame import MemoryStore, SessionManager, SessionMixin, SessionNotSaved, SessionStats

from .support import serve


class Counter(SessionMixin, RequestHandler):
    def get(self):
        self.session.times = self.session.get("times", 0) + 1
        self.write(str(self.session.times))


class Read(SessionMixin, RequestHandler):
    def get(self):
        self.write(str(self.session.get("times")))


class Streamed(SessionMixin, RequestHandler):
    async def get(self):
        session = await self.session
        for number in range(3):
            session.times = session.get("times", 0) + 1
            self.write(str(number))
            await self.flush()


class Rotate(SessionMixin, RequestHandler):
    async def post(self):
        await self.rotate_session_id()


PAGES = [("/", Counter), ("/read", Read), ("/streamed", Streamed), ("/rotate", Rotate)]


class Slow(MemoryStore):
    """A store that takes as long as it is told to, and may fail."""

    seconds = 0.0
    error = None

    async def load(self, ids, *, timeout):
        await asyncio.sleep(self.seconds)
        return await super().load(ids, timeout=timeout)

    async def save(self, writes, *, timeout):
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return await super().save(writes, timeout=timeout)


@pytest.fixture
async def slow():
    async with serve(PAGES, sessions=SessionManager(Slow())) as site:
        yield site


async def test_they_count_what_goes_to_the_store(site):
    running = await site(PAGES)
    browser, stats = running.browser(), running.manager.stats
    assert stats == SessionStats()
    await browser.text()
    assert (stats.loads, stats.saves, stats.commands, stats.holds) == (0, 1, 1, 1)
    await browser.text("/read")
    assert (stats.loads, stats.saves, stats.commands, stats.holds) == (1, 1, 2, 1)
    await browser.text()
    assert (stats.loads, stats.saves, stats.commands, stats.holds) == (2, 2, 4, 2)
    await browser.text("/streamed")
    assert (stats.loads, stats.saves, stats.holds) == (3, 5, 5)
    assert stats.failures == 0
    assert 0 < stats.longest_load <= stats.load_seconds
    assert 0 < stats.longest_save <= stats.save_seconds
    assert 0 < stats.longest_hold <= stats.hold_seconds


async def test_times_are_those_of_the_store_and_of_the_responses_that_waited(slow):
    browser, stats, store = slow.browser(), slow.manager.stats, slow.manager.store
    await browser.text()
    assert max(stats.longest_load, stats.longest_save, stats.longest_hold) < 0.2
    store.seconds = 0.2
    await browser.text()
    store.seconds = 0.0
    await browser.text()
    for total, longest in (
        (stats.load_seconds, stats.longest_load),
        (stats.save_seconds, stats.longest_save),
        (stats.hold_seconds, stats.longest_hold),
    ):
        assert longest >= 0.19
        assert longest <= total < longest + 0.19


async def test_a_call_counts_for_each_of_its_sessions(slow):
    browsers = [slow.browser() for _ in range(5)]
    for browser in browsers:
        await browser.text()
    stats = slow.manager.stats
    slow.manager.store.seconds = 0.2
    before, commands, loads = stats.load_seconds, stats.commands, stats.loads
    await asyncio.gather(*(browser.text("/read") for browser in browsers))
    assert stats.loads - loads == 5
    assert stats.commands - commands < 5
    assert stats.load_seconds - before >= 5 * 0.19


async def test_what_fails_counts_too(slow):
    store, stats = slow.manager.store, slow.manager.stats
    store.seconds, store.error = 0.2, SessionNotSaved("full")
    assert (await slow.browser().get()).code == 503
    assert (stats.saves, stats.failures, stats.holds) == (1, 1, 1)
    assert stats.longest_save >= 0.19


async def test_a_rotation_is_commands_as_well(site):
    running = await site(PAGES)
    browser, stats = running.browser(), running.manager.stats
    await browser.text()
    before = stats.commands
    assert (await browser.post("/rotate")).code == 200
    assert stats.commands - before == 4  # it is loaded, copied, ended under its old id, and settled


@pytest.mark.mongodb
async def test_mongodb_is_told_who_asks(site, database):
    running = await site(PAGES)
    browser = running.browser()
    await browser.text()
    await asyncio.gather(*(browser.text() for _ in range(3)))
    await browser.post("/rotate")
    assert [record async for record in running.manager.records()]
    comments = {(name, command.get("comment")) for name, command in database.commands.sent}
    assert comments == {
        ("find", "tornado-sesame load"),
        ("find", "tornado-sesame list"),
        ("insert", "tornado-sesame save"),
        ("update", "tornado-sesame save"),
        ("findAndModify", "tornado-sesame rotate"),
    }
