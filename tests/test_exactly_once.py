"""Saves that failed with nobody knowing whether MongoDB did them are repeated, and done once."""

import asyncio

import pytest

from tornado_sesame import SessionManager, SessionStoreError

from .proxy import Proxy
from .support import open_database

pytestmark = pytest.mark.mongodb

SESSIONS = 50
ROUNDS = 20


@pytest.fixture(params=[True, False], ids=["retryable writes", "no retryable writes"])
def retries(request):
    return request.param


@pytest.fixture
def proxy(mongod):
    with Proxy(mongod.port) as proxy:
        yield proxy


@pytest.fixture(params=["proxy"])
def uri(request, mongod, proxy):
    """The proxy's, or MongoDB's own, by which a driver sees the whole replica set."""
    return mongod.uri if request.param == "replica set" else proxy.uri


@pytest.fixture
async def manager(database_kind, uri, retries):
    async with open_database(database_kind, uri, "exactly_once", retryWrites=retries) as database:
        yield SessionManager(database.new_store())


async def started(manager):
    live = manager.open(None)
    live.open_empty()
    live.session.update(n=0, cart=[], nested={"n": 0})
    await live.save()
    return live


async def stored(manager, live):
    return (await manager.load(live.id)).data


def change(live, item):
    live.session.n += 1
    live.session.nested.n -= 2
    live.session.cart.append(item)


@pytest.mark.parametrize("number", [1, 3])
async def test_a_save_whose_answer_is_lost(manager, proxy, retries, number):
    sessions = [await started(manager) for _ in range(number)]
    proxy.lose_answer("update")
    for live in sessions:
        change(live, 1)
    results = await asyncio.gather(*(live.save() for live in sessions), return_exceptions=True)
    assert [isinstance(result, SessionStoreError) for result in results] == [not retries] * number
    for live in sessions:
        assert await stored(manager, live) == {"n": 1, "cart": [1], "nested": {"n": -2}}
        change(live, 2)
        await live.save()
        assert await stored(manager, live) == {"n": 2, "cart": [1, 2], "nested": {"n": -4}}


async def test_a_new_session_whose_insert_lost_its_answer(manager, proxy, retries):
    live = manager.open(None)
    live.open_empty()
    live.session.n = 1
    proxy.lose_answer("insert")
    if retries:
        await live.save()
    else:
        with pytest.raises(SessionStoreError):
            await live.save()
    live.session.n += 1
    await live.save()
    assert await stored(manager, live) == {"n": 2}


@pytest.mark.parametrize("uri", ["replica set"], indirect=True)
@pytest.mark.parametrize("fault", ["killed", "stepped down"])
async def test_saves_that_go_on_while_mongodb_is(manager, mongod, fault):
    sessions = [await started(manager) for _ in range(SESSIONS)]
    saved = 0

    async def visit(live):
        nonlocal saved
        for item in range(ROUNDS):
            change(live, item)
            while live.is_unsaved:
                try:
                    await live.save()
                except SessionStoreError:
                    await asyncio.sleep(0.1)
            saved += 1

    visits = asyncio.gather(*(visit(live) for live in sessions))
    while saved < SESSIONS * ROUNDS / 4:
        await asyncio.sleep(0)
    if fault == "killed":
        mongod.kill()
        await asyncio.sleep(0.5)
        await asyncio.to_thread(mongod.start)
    else:
        await asyncio.to_thread(mongod.step_down)
    await visits
    expected = {"n": ROUNDS, "cart": list(range(ROUNDS)), "nested": {"n": -2 * ROUNDS}}
    assert [await stored(manager, live) for live in sessions] == [expected] * SESSIONS
