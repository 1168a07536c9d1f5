"""What a `MemoryStore` that is full drops, and what it says then."""

from datetime import UTC, datetime, timedelta

from tornado_sesame import MemoryStore, SessionEnd, SessionInsert, SessionRecord

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


async def insert(store, *ids, owner=None, moment=MOMENT, lifetime=HOUR):
    for id in ids:
        await store.save([SessionInsert(SessionRecord(id, {}, moment, moment, moment + lifetime, owner))], timeout=60)


async def ids(store):
    return {record.id async for record in store.records(timeout=60)}


async def test_what_has_expired_goes_first():
    store = MemoryStore(3)
    await insert(store, "old", lifetime=HOUR)
    await insert(store, "expired", owner="alice", lifetime=HOUR / 2)
    await insert(store, "ours", owner="alice")
    await insert(store, "new", moment=MOMENT + HOUR * 0.75)
    assert await ids(store) == {"old", "ours", "new"}


async def test_those_without_an_owner_go_next_and_loads_are_uses():
    store = MemoryStore(4)
    await insert(store, "alice", "bob", owner="someone")
    await insert(store, "first", "second")
    await store.load(["first"], timeout=60)
    await insert(store, "third")
    assert await ids(store) == {"alice", "bob", "first", "third"}
    await store.load(["alice"], timeout=60)
    await insert(store, "c", "d", "e", owner="someone")
    assert await ids(store) == {"alice", "c", "d", "e"}


async def test_ends_are_forgotten_when_they_expire():
    store = MemoryStore()
    for number in range(3):
        ended = MOMENT + HOUR * number
        await store.save([SessionEnd(f"{number}", ended, ended + HOUR * 1.5)], timeout=60)
    assert set(await store.load(["0", "1", "2"], timeout=60)) == {"1", "2"}


async def test_visitors_without_a_cookie_sign_nobody_out_and_it_warns_once(caplog):
    store = MemoryStore(1000)
    users = [f"user {number}" for number in range(20)]
    await insert(store, *users, owner="someone")
    await insert(store, *map(str, range(10_000)))
    assert set(users) <= await ids(store)
    assert [record.levelname for record in caplog.records if "MemoryStore is full" in record.message] == ["WARNING"]
