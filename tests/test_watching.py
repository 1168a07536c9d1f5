"""Open handlers miss nothing of what others write, whatever happens to the database and to what tells of writes."""

import asyncio
import logging
import os

import pytest
from pymongo import MongoClient

from tornado_sesame import SessionManager
from tornado_sesame.cookie import Secret

from .mongod import Mongod, ReplicaSet
from .support import DATABASE, eventually, open_database, serve
from .test_live import PAGES, Client, connect

__all__ = ["connect"]

pytestmark = pytest.mark.parametrize("kind", ["motor_asyncio", "pymongo"])


class Two:
    """A server with open sockets, and a manager of another one."""

    def __init__(self, here, elsewhere, database, connect):
        self.here, self.elsewhere, self.database, self._connect = here, elsewhere, database, connect

    async def open(self):
        """Returns a client of a new session, and its secret."""
        browser = self.here.browser()
        assert (await browser.post("/", body='{"n": 0}')).code == 200
        client = await self._connect(self.here, browser)
        assert await client.heard() == ["open", {"n": 0}, None]
        return client, browser.secret

    async def change(self, secret, n):
        """Changes a session elsewhere; tries again while the database is away."""

        async def is_done():
            live = self.elsewhere.open([Secret(secret)])
            try:
                await live.load()
                live.session.n = n
                await live.save()
            except Exception:
                return False
            return True

        await eventually(is_done)


async def hears(client: Client, n):
    while (heard := await client.heard()) != ["changed", {"n": n}, None]:
        assert heard[0] == "changed"


def two_of(kind, uri, connect):
    """Returns a context that gives a `Two` on this MongoDB."""

    class Context:
        async def __aenter__(self):
            self.opening = open_database(kind, uri, f"watching_{os.urandom(4).hex()}")
            database = await self.opening.__aenter__()
            self.serving = serve(PAGES, sessions=SessionManager(database.new_store()))
            here = await self.serving.__aenter__()
            self.elsewhere = SessionManager(database.new_store())
            return Two(here, self.elsewhere, database, connect)

        async def __aexit__(self, *error):
            await self.serving.__aexit__(*error)
            await self.elsewhere.close()
            await self.opening.__aexit__(*error)

    return Context()


def fail(uri, times, commands, code=None):
    """Has MongoDB answer the next of these commands with an error's *code*, or close the connection."""
    with MongoClient(uri) as client:
        data = {"failCommands": commands, **({"errorCode": code} if code else {"closeConnection": True})}
        client.admin.command("configureFailPoint", "failCommand", mode={"times": times}, data=data)


async def test_nothing_is_missed_while_others_are_opened(kind, mongodb_uri, connect):
    async with two_of(kind, mongodb_uri, connect) as two:
        opened = [await two.open()]
        for n in range(1, 30):
            opened.append(await two.open())
            for _, secret in opened[-3:]:
                await two.change(secret, n)
        for index, (client, _) in enumerate(opened):
            await hears(client, min(index + 2, 29) if index else 2)


async def test_what_others_write_to_other_sessions_is_not_even_looked_at(kind, mongodb_uri, connect):
    async with two_of(kind, mongodb_uri, connect) as two:
        client, secret = await two.open()
        secrets = []
        for _ in range(20):
            browser = two.here.browser()
            await browser.post("/", body='{"n": 0}')
            secrets.append(browser.secret)
        await two.change(secret, 1)
        await hears(client, 1)
        await asyncio.sleep(0.5)
        before = two.here.manager.stats.loads
        for n in range(10):
            await asyncio.gather(*(two.change(other, n + 1) for other in secrets))
        await asyncio.sleep(0.5)
        assert two.here.manager.stats.loads == before


async def test_a_lost_history_loses_nothing(kind, mongod, connect, caplog):
    async with two_of(kind, mongod.uri, connect) as two:
        client, secret = await two.open()
        await two.change(secret, 1)
        await hears(client, 1)
        fail(mongod.uri, 1, ["getMore"], 286)  # ChangeStreamHistoryLost
        await two.change(secret, 2)
        await hears(client, 2)
        await asyncio.sleep(2)
        await two.change(secret, 3)
        await hears(client, 3)


async def test_a_collection_that_is_dropped_ends_all(kind, mongodb_uri, connect):
    async with two_of(kind, mongodb_uri, connect) as two:
        client, secret = await two.open()
        await two.change(secret, 1)
        await hears(client, 1)
        with MongoClient(mongodb_uri) as client_of_mongodb:
            client_of_mongodb[DATABASE].drop_collection(two.database.collection.name)
        assert await client.heard() == ["destroyed", {}, None]
        client, secret = await two.open()
        await two.change(secret, 1)
        await hears(client, 1)


@pytest.mark.parametrize("code", [13, 40573])
async def test_who_may_not_follow_asks_once_a_second(kind, mongod, connect, caplog, code):
    caplog.set_level(logging.WARNING, "tornado_sesame")
    fail(mongod.uri, 1, ["aggregate"], code)
    async with two_of(kind, mongod.uri, connect) as two:
        opened = [await two.open() for _ in range(3)]
        await asyncio.sleep(0.2)
        for n in range(1, 3):
            for _, secret in opened:
                await two.change(secret, n)
            for client, _ in opened:
                await hears(client, n)
    (warning,) = [record for record in caplog.records if record.name == "tornado_sesame"]
    assert "loaded once a second" in warning.getMessage()


async def test_it_follows_when_mongodb_answers_again(kind, mongod, connect):
    fail(mongod.uri, 1, ["ping"])
    async with two_of(kind, mongod.uri, connect) as two:
        client, secret = await two.open()
        await two.change(secret, 1)
        await hears(client, 1)


async def test_a_standalone_server_is_asked_once_a_second(kind, needs_mongod, tmp_path, connect, caplog):
    caplog.set_level(logging.WARNING, "tornado_sesame")
    mongod = Mongod(tmp_path, None)
    try:
        async with two_of(kind, mongod.uri, connect) as two:
            client, secret = await two.open()
            await two.change(secret, 1)
            await hears(client, 1)
    finally:
        mongod.kill()
    (warning,) = [record for record in caplog.records if record.name == "tornado_sesame"]
    assert "a standalone MongoDB has no change streams" in warning.getMessage()


async def test_while_mongodb_is_away_hooks_come_late_and_not_never(kind, mongod, connect):
    async with two_of(kind, mongod.uri, connect) as two:
        opened = [await two.open() for _ in range(3)]
        for n, stop, go_on in (1, mongod.kill, mongod.start), (2, mongod.pause, mongod.resume):
            stop()
            await asyncio.sleep(2)
            go_on()
            for _, secret in opened:
                await two.change(secret, n)
            for client, _ in opened:
                await hears(client, n)


async def test_a_failover_loses_nothing(kind, needs_mongod, tmp_path, connect):
    replica_set = ReplicaSet(tmp_path)
    try:
        async with two_of(kind, replica_set.uri, connect) as two:
            client, secret = await two.open()
            for n, end in enumerate(["kill", "step_down"], 1):
                primary = await asyncio.to_thread(replica_set.primary)
                if end == "kill":
                    primary.kill()
                else:
                    with MongoClient(f"mongodb://{primary.address}/?directConnection=true") as direct:
                        direct.admin.command("replSetStepDown", 1, secondaryCatchUpPeriodSecs=0, force=True)
                await two.change(secret, n)
                await hears(client, n)
                await asyncio.to_thread(primary.start)
    finally:
        replica_set.kill()
