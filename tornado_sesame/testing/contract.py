"""What every store does, whatever it keeps sessions in, as tests."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp

from ..changes import Changes, Create, Inc, Op, Push, Set, Unset
from ..errors import SessionRecordError
from ..stores import (
    Conflict,
    Outcome,
    SaveResult,
    SessionEnd,
    SessionInsert,
    SessionRecord,
    SessionStore,
    SessionUpdate,
    SessionWatch,
    SessionWrite,
)
from ..values import MAX_DEPTH, Path, plain

__all__ = [
    "DATA",
    "LATER",
    "NOW",
    "StoreContract",
    "data",
    "end",
    "ending",
    "insert",
    "inserted",
    "load",
    "new_id",
    "pop",
    "records",
    "save",
    "stored",
    "update",
]

TIMEOUT = 60.0  # seconds, for each call of the store

NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
LATER = datetime(2096, 1, 2, 3, 4, 5, 678000, UTC)
EVEN_LATER = datetime(2097, 1, 2, 3, 4, 5, 678000, UTC)

DATA: dict[str, Any] = {"n": 1, "f": 0.5, "s": "text", "l": [1, {"a": 2}], "d": {"n": 1, "l": [], "d": {"n": 1}}}

Ops = Mapping[Path, Op]


class StoreContract:
    """The tests that every `SessionStore` has to pass. Run them on yours, in a file that pytest collects::

        class TestMyStore(StoreContract):
            @pytest.fixture
            async def store(self):
                store = MyStore(...)  # with nothing in it
                yield store
                await store.close()

    They need pytest-asyncio; in its strict mode, the fixture is a ``pytest_asyncio.fixture``. The docstring of a test
    that fails says what the store has to do.
    """

    pytestmark = pytest.mark.asyncio

    @pytest.fixture
    def store(self) -> SessionStore:
        """The store to be tested, with nothing in it."""
        raise NotImplementedError(f"{type(self).__name__} must override the fixture `store` and return its store")

    # Loading

    async def test_a_record_is_as_it_was_inserted(self, store: SessionStore) -> None:
        """A `SessionInsert` stores its record, with the times to the millisecond, and None for no owner."""
        id = await inserted(store)
        assert await load(store, id) == SessionRecord(id, DATA, NOW, NOW, LATER)

    async def test_what_does_not_exist_is_left_out(self, store: SessionStore) -> None:
        """`load` returns a mapping of what it found: no None for the others, no error."""
        one, other = await inserted(store, {"n": 1}), await inserted(store, {"n": 2})
        found = await loaded(store, [one, new_id(), other])
        assert {id: record.data for id, record in found.items()} == {one: {"n": 1}, other: {"n": 2}}
        assert await stored(store, [new_id()]) == {}

    async def test_a_record_belongs_to_whoever_loaded_it(self, store: SessionStore) -> None:
        """`load` returns copies: what a request does to its record must not reach the store."""
        id = await inserted(store)
        (await data(store, id))["d"]["l"].append("mine")
        assert await data(store, id) == DATA

    async def test_a_thousand_at_once(self, store: SessionStore) -> None:
        """A batch has no limit that a caller would know of, such as a number of SQL parameters."""
        writes = [insert({"n": n}) for n in range(1000)]
        assert await save(store, writes) == [Outcome.SAVED] * 1000
        found = await loaded(store, [write.id for write in writes])
        assert [found[write.id].data["n"] for write in writes] == list(range(1000))

    # Updating

    @pytest.mark.parametrize(
        ("ops", "expected"),
        [
            pytest.param({("n",): Set("one")}, DATA | {"n": "one"}, id="set"),
            pytest.param({("d", "d", "n"): Set(None)}, DATA | {"d": DATA["d"] | {"d": {"n": None}}}, id="set nested"),
            pytest.param({("d",): Set({"x": []})}, DATA | {"d": {"x": []}}, id="set a dict"),
            pytest.param({("new",): Set([{}])}, DATA | {"new": [{}]}, id="set what is new"),
            pytest.param({(): Set({"all": 1})}, {"all": 1}, id="replace"),
            pytest.param({(): Set({})}, {}, id="empty"),
            pytest.param({("n",): Unset(), ("nothing",): Unset(), ("l",): Unset()}, None, id="unset"),
            pytest.param({("no", "thing"): Unset(), ("s", "n"): Unset()}, DATA, id="unset in nothing"),
            pytest.param({("n",): Inc(2), ("f",): Inc(-0.25)}, DATA | {"n": 3, "f": 0.25}, id="add"),
            pytest.param({("n",): Inc(0.5), ("new",): Inc(7)}, DATA | {"n": 1.5, "new": 7}, id="add to int, to none"),
            pytest.param({("n",): Inc(2**63 - 2)}, DATA | {"n": 2**63 - 1}, id="add up to 64 bits"),
            pytest.param({("l",): Push([2, [3], {"b": 4}])}, DATA | {"l": [1, {"a": 2}, 2, [3], {"b": 4}]}, id="push"),
            pytest.param({("new",): Push([1])}, DATA | {"new": [1]}, id="push to none"),
            pytest.param({("new",): Push([]), ("l",): Push([])}, DATA | {"new": []}, id="push nothing"),
            pytest.param(
                {("n",): Inc(1), ("l",): Push([2]), ("s",): Unset(), ("d", "n"): Set(5), ("d", "d", "n"): Inc(1)},
                {"n": 2, "f": 0.5, "l": [1, {"a": 2}, 2], "d": {"n": 5, "l": [], "d": {"n": 2}}},
                id="all together",
            ),
        ],
    )
    async def test_it_does_what_the_operations_say(
        self, store: SessionStore, ops: Ops, expected: dict[str, Any] | None
    ) -> None:
        """`write.apply(record)` does it for stores that read, change and write."""
        expected = {"f": 0.5, "s": "text", "d": DATA["d"]} if expected is None else expected
        id = await inserted(store)
        assert await save(store, [update(id, ops)]) == [Outcome.SAVED]
        found = await data(store, id)
        assert found == expected
        assert {name: isinstance(value, float) for name, value in found.items()} == {
            name: isinstance(value, float) for name, value in expected.items()
        }

    async def test_dicts_that_the_change_set_created_are_made_or_used(self, store: SessionStore) -> None:
        """A `Create` makes an empty dict where nothing is, and leaves one that is there as it is."""
        ops: Ops = {
            ("new",): Create(),
            ("new", "a"): Create(),
            ("new", "a", "b"): Set(1),
            ("d",): Create(),
            ("d", "x"): Inc(1),
            ("empty",): Create(),
        }
        id = await inserted(store)
        assert await save(store, [update(id, ops)]) == [Outcome.SAVED]
        expected = DATA | {"new": {"a": {"b": 1}}, "d": DATA["d"] | {"x": 1}, "empty": {}}
        assert await data(store, id) == expected
        alone: Ops = {("d", "d"): Create(), ("new",): Create(), ("empty",): Create()}
        assert await save(store, [update(id, alone)]) == [Outcome.SAVED]
        assert await data(store, id) == expected

    @pytest.mark.parametrize(
        ("ops", "fields"),
        [
            ({("s", "x"): Set(1)}, {"s"}),
            ({("l", "0"): Set(1)}, {"l"}),
            ({("l", "a"): Set(1)}, {"l"}),
            ({("d", "d", "n", "x"): Set(1)}, {"d"}),
            ({("gone", "x"): Set(1), ("new",): Set(1)}, {"gone"}),
            ({("gone", "x"): Inc(1)}, {"gone"}),
            ({("d", "gone", "x"): Push([1])}, {"d"}),
            ({("s",): Inc(1), ("d",): Push([1]), ("n",): Push([]), ("f",): Inc(1)}, {"s", "d", "n"}),
            ({("l",): Inc(1)}, {"l"}),
            ({("n",): Inc(2**63 - 1)}, {"n"}),
            ({("s",): Create()}, {"s"}),
            ({("l",): Create()}, {"l"}),
            ({("f",): Create(), ("f", "x"): Set(1), ("new",): Create()}, {"f"}),
            ({("l",): Create(), ("l", "0"): Set(1)}, {"l"}),
            ({("l",): Create(), ("l", "0"): Inc(1)}, {"l"}),
            ({("l",): Create(), ("l", "1"): Create(), ("l", "1", "a"): Push([1])}, {"l"}),
        ],
    )
    async def test_what_does_not_fit_is_a_conflict_and_changes_nothing(
        self, store: SessionStore, ops: Ops, fields: set[str]
    ) -> None:
        """`write.apply(record)` returns the `Conflict`; a path never addresses the items of a list."""
        id, other = await inserted(store), await inserted(store)
        for batch in ([], [update(other, {("n",): Set(2)})]):
            *_, result = await save(store, [*batch, update(id, ops)])
            assert result == Conflict(frozenset(fields))
            assert await data(store, id) == DATA

    async def test_nothing_is_removed_from_a_list(self, store: SessionStore) -> None:
        """An `Unset` below what has become a list, or is gone, does nothing; all else in its write is done."""
        id, other = await inserted(store, {"a": ["one", "two"], "d": {"l": [{"x": 1}]}, "n": 1}), await inserted(store)
        ops: Ops = {("a", "0"): Unset(), ("d", "l", "0"): Unset(), ("d", "l", "1", "x"): Unset(), ("b", "0"): Unset()}
        for ops in ops, {**ops, ("n",): Inc(1)}:  # noqa: B020
            for batch in ([], [update(other, {("n",): Set(2)})]):
                assert set(await save(store, [*batch, update(id, ops)])) == {Outcome.SAVED}
        assert await data(store, id) == {"a": ["one", "two"], "d": {"l": [{"x": 1}]}, "n": 3}

    async def test_times(self, store: SessionStore) -> None:
        """An update sets `updated`; it sets `expires` only where the write has one, and never `created`."""
        id = await inserted(store)
        moment, end = NOW + timedelta(seconds=5), LATER + timedelta(seconds=5)
        await save(store, [update(id, {("n",): Set(2)}, at=moment)])
        assert await load(store, id) == SessionRecord(id, DATA | {"n": 2}, NOW, moment, LATER)
        await save(store, [update(id, {}, at=moment, expires=end)])
        assert await load(store, id) == SessionRecord(id, DATA | {"n": 2}, NOW, moment, end)

    async def test_a_use_knows_nothing_of_another_lifetime(self, store: SessionStore) -> None:
        """`expires` stays where the stored lifetime is not the write's, as another request has set it meanwhile."""
        day, week = timedelta(days=1), timedelta(days=7)
        ids = [await inserted(store, lifetime=lifetime) for lifetime in (None, day, week)]
        for known in None, day, week:
            changes = Changes({("n",): Inc(1), ("d", "n"): Inc(1)})
            uses = [SessionUpdate(id, changes, NOW, EVEN_LATER, known) for id in ids]
            assert await save(store, uses) == [Outcome.SAVED] * 3
            found = await loaded(store, ids)
            assert [found[id].expires for id in ids if found[id].lifetime == known] == [EVEN_LATER]
        assert {record.data["n"] for record in found.values()} == {4}
        await save(store, [SessionUpdate(id, Changes(), NOW, LATER, day) for id in ids])
        found = await loaded(store, ids)
        assert [found[id].expires for id in ids] == [EVEN_LATER, LATER, EVEN_LATER]

    async def test_since_when_a_session_has_its_owner(self, store: SessionStore) -> None:
        """`owned` is the time of the write that has set the owner; None without one."""
        moment = NOW + timedelta(seconds=5)
        ids = [await inserted(store, owner="alice", owned=NOW), await inserted(store)]
        assert [(await loaded(store, ids))[id].owned for id in ids] == [NOW, None]
        await save(store, [update(id, {("n",): Inc(1)}, at=moment) for id in ids])
        assert [(await loaded(store, ids))[id].owned for id in ids] == [NOW, None]
        await save(
            store, [update(ids[0], {}, at=moment, owner=Set(None)), update(ids[1], {}, at=moment, owner=Set("bob"))]
        )
        assert [(await loaded(store, ids))[id].owned for id in ids] == [None, moment]

    async def test_a_lifetime_decides_when_a_session_expires(self, store: SessionStore) -> None:
        """`Changes.lifetime` is None (leave it), Set(None) (none), or Set(timedelta); `expires` is set with it."""
        week = timedelta(days=7, milliseconds=1)
        ids = [await inserted(store, lifetime=week, expires=EVEN_LATER), await inserted(store, expires=EVEN_LATER)]
        others = update(ids[0], {}, lifetime=Set(None), expires=LATER), update(ids[1], {}, lifetime=Set(week))
        assert {id: record.lifetime for id, record in (await loaded(store, ids)).items()} == {
            ids[0]: week,
            ids[1]: None,
        }
        assert await save(store, others) == [Outcome.SAVED] * 2
        found = await loaded(store, ids)
        assert [(found[id].lifetime, found[id].expires) for id in ids] == [(None, LATER), (week, EVEN_LATER)]
        await save(store, [update(ids[1], {(): Set({})}, owner=Set("bob"))])
        assert {record.lifetime async for record in records(store, "bob")} == {week}
        popped = await pop(store, ids[1])
        assert isinstance(popped, SessionRecord)
        assert popped.lifetime == week

    async def test_overlapping_updates_are_all_done(self, store: SessionStore) -> None:
        """Read, change and write is one step: in a transaction, under a lock, or without an await in between."""
        id = await inserted(store, {"n": 0, "l": []})
        await asyncio.gather(
            *(save(store, [update(id, {("n",): Inc(1), ("l",): Push([n]), (f"f{n}",): Set(n)})]) for n in range(100))
        )
        found = await data(store, id)
        assert found.pop("n") == 100
        assert sorted(found.pop("l")) == list(range(100))
        assert found == {f"f{n}": n for n in range(100)}

    # Ending

    async def test_an_update_never_brings_a_session_back(self, store: SessionStore) -> None:
        """A `SessionUpdate` is for a session that is there and has not expired; else it is `Outcome.GONE`."""
        gone, expired = new_id(), await inserted(store, expires=NOW)
        alive = await inserted(store)
        updates = [update(id, {("n",): Inc(1)}, expires=LATER) for id in (gone, alive, expired)]
        assert await save(store, updates) == [Outcome.GONE, Outcome.SAVED, Outcome.GONE]
        assert await save(store, [update(gone, {("n",): Set(1)})]) == [Outcome.GONE]
        assert await save(store, [update(gone, {("n",): Set(1)}), update(alive, {})]) == [Outcome.GONE, Outcome.SAVED]
        assert await save(store, [update(expired, {("n",): Set(1)}, expires=LATER)]) == [Outcome.GONE]
        assert await load(store, gone) is None
        assert (await data(store, alive))["n"] == 2

    async def test_a_write_that_comes_when_a_session_has_expired_does_not_extend_it(self, store: SessionStore) -> None:
        """A store that still has an expired session may change it, or say that it is gone; nobody will see it."""
        expired = await inserted(store, expires=NOW)
        for writes in [update(expired, {("n",): Inc(1)})], [update(expired, {("n",): Set(1)}) for _ in range(2)]:
            assert set(await save(store, writes)) <= {Outcome.SAVED, Outcome.GONE}
        record = await load(store, expired)
        assert record is None or record.expires == NOW

    async def test_a_session_lives_until_it_expires(self, store: SessionStore) -> None:
        """A session is expired when its `expires` is not later than the write's `updated`, whatever the clock says."""
        id = await inserted(store, expires=LATER)
        late = LATER - timedelta(milliseconds=1)
        assert await save(store, [update(id, {("n",): Set(5)}, at=late)]) == [Outcome.SAVED]
        assert await save(store, [update(id, {("n",): Set(6)}, at=LATER, expires=EVEN_LATER)]) == [Outcome.GONE]

    async def test_an_end_takes_the_place_of_its_session_and_leaves_the_others_alone(self, store: SessionStore) -> None:
        """A `SessionEnd` is stored, also where no session is; `load` returns it, and `records` does not."""
        one, two, three = [await inserted(store) for _ in range(3)]
        await end(store, [one, new_id(), three])
        await end(store, [one])
        assert (await loaded(store, [one, two, three])).keys() == {two}
        assert (await stored(store, [one]))[one] == ending(one)
        assert [record.id async for record in records(store)] == [two]

    @pytest.mark.parametrize(
        ("ops", "owner"),
        [
            ({("n",): Set(2)}, None),
            ({("n",): Inc(1)}, None),
            ({("l",): Push([2])}, None),
            ({("new",): Create()}, None),
            ({("d", "n"): Inc(1)}, None),
            ({("n",): Unset()}, None),
            ({("d", "n"): Unset()}, None),
            ({(): Set({"n": 1})}, None),
            ({}, Set("alice")),
            ({}, Set(None)),
            ({}, None),
        ],
    )
    async def test_an_update_leaves_an_end_as_it_is(self, store: SessionStore, ops: Ops, owner: Set | None) -> None:
        """Whatever the update does, and however long it makes the session live."""
        id, other = await inserted(store, owner="bob"), await inserted(store)
        await end(store, [id])
        for expires in (None, LATER):
            if not ops and owner is None and expires is None:
                continue  # there is no such write
            late = update(id, ops, owner=owner, expires=expires)
            assert await save(store, [late]) == [Outcome.GONE]
            assert await save(store, [update(other, {}, expires=LATER), late]) == [Outcome.SAVED, Outcome.GONE]
        assert (await stored(store, [id]))[id] == ending(id)
        assert [record.id async for record in records(store, "alice")] == []

    async def test_pop_returns_what_it_deletes(self, store: SessionStore) -> None:
        """`pop` returns the session as the last save left it, and it is gone after."""
        id = await inserted(store)
        await save(store, [update(id, {("n",): Set(2)})])
        assert await pop(store, id) == SessionRecord(id, DATA | {"n": 2}, NOW, NOW, LATER)
        assert await pop(store, id) == ending(id)
        assert await pop(store, new_id()) is None
        assert await load(store, id) is None

    async def test_an_end_keeps_its_reason(self, store: SessionStore) -> None:
        """So that whoever finds it knows whether the session goes on under another id."""
        one, other = await inserted(store), await inserted(store)
        ends = [replace(ending(one), reason="rotated"), ending(other)]
        await store.pop(ends[0], timeout=TIMEOUT)
        await save(store, [ends[1]])
        assert [(await stored(store, [id]))[id] for id in (one, other)] == ends

    async def test_the_first_end_stays(self, store: SessionStore) -> None:
        """Who has ended a session, and got no answer, finds out by its end, which nothing replaces."""
        id, unknown = await inserted(store), new_id()
        first = SessionEnd(id, NOW, NOW + timedelta(minutes=1))
        later = SessionEnd(id, NOW + timedelta(seconds=1), NOW + timedelta(minutes=2))
        assert isinstance(await store.pop(first, timeout=TIMEOUT), SessionRecord)
        assert await store.pop(later, timeout=TIMEOUT) == first
        assert await save(store, [later, ending(unknown)]) == [Outcome.SAVED] * 2
        assert await store.pop(replace(later, id=unknown), timeout=TIMEOUT) == ending(unknown)
        found = await stored(store, [id, unknown])
        assert found == {id: first, unknown: ending(unknown)}

    async def test_of_many_pops_one_gets_the_session(self, store: SessionStore) -> None:
        """`pop` reads and deletes in one step, or two rotations would make two sessions of one."""
        id = await inserted(store)
        popped = await asyncio.gather(*(pop(store, id) for _ in range(20)))
        assert sum(isinstance(stored, SessionRecord) for stored in popped) == 1
        assert popped.count(ending(id)) == 19

    # Owners and records

    async def test_a_session_has_one_from_the_start_or_later_or_never(self, store: SessionStore) -> None:
        """`Changes.owner` is None (leave it), Set(None) (no owner), or Set(owner)."""
        alices, later, nobodys = await inserted(store, owner="alice"), await inserted(store), await inserted(store)
        assert await save(store, [update(later, {("n",): Set(5)}, owner=Set("bob"))]) == [Outcome.SAVED]
        found = await loaded(store, [alices, later, nobodys])
        assert [found[id].owner for id in (alices, later, nobodys)] == ["alice", "bob", None]
        await save(store, [update(alices, {}, owner=Set(None)), update(later, {("n",): Set(6)})])
        found = await loaded(store, [alices, later])
        assert [found[id].owner for id in (alices, later)] == [None, "bob"]
        assert found[later].data["n"] == 6
        popped = await pop(store, later)
        assert isinstance(popped, SessionRecord)
        assert popped.owner == "bob"

    async def test_an_owner_stays_when_the_content_is_replaced(self, store: SessionStore) -> None:
        """The owner is not part of the data."""
        id = await inserted(store, owner="alice")
        await save(store, [update(id, {(): Set({})})])
        assert (await loaded(store, [id]))[id].owner == "alice"

    async def test_records_lists_all_sessions_or_those_of_an_owner(self, store: SessionStore) -> None:
        """`records` compares owners as they are: they are no patterns, paths or operators."""
        alices = {await inserted(store, {"n": n}, owner="alice") for n in range(3)}
        others = {
            await inserted(store, {"a.b": 1}, owner="$ne"),
            await inserted(store, owner="alice.b"),
            await inserted(store),
        }
        listed = {record.id: record async for record in records(store)}
        assert listed.keys() == alices | others
        assert {record.id async for record in records(store, "alice")} == alices
        assert [record.data async for record in records(store, "$ne")] == [{"a.b": 1}]
        assert [record async for record in records(store, "nobody")] == []
        assert listed[next(iter(alices))] == await load(store, next(iter(alices)))

    async def test_listing_goes_on_while_sessions_come_and_go(self, store: SessionStore) -> None:
        """`records` neither fails nor loses its place when sessions are saved or deleted meanwhile."""
        ids = [await inserted(store) for _ in range(20)]
        seen = 0
        async for record in records(store):
            record.data["n"] = "changed"
            if seen == 0:
                await end(store, ids[10:])
                await inserted(store)
            seen += 1
        assert seen >= 10
        assert await data(store, ids[0]) == DATA

    # Coming late or twice

    @pytest.mark.parametrize("alone", [True, False])
    async def test_an_insert_that_comes_twice_does_not_undo_what_came_after(
        self, store: SessionStore, alone: bool
    ) -> None:
        """An insert of an id that is there came twice: it changes nothing and is `Outcome.SAVED`."""
        write = insert({"n": 0})
        batch: list[SessionWrite] = [write] if alone else [insert({}), write]
        await save(store, batch)
        await save(store, [update(write.id, {("n",): Inc(1)})])
        assert set(await save(store, batch)) == {Outcome.SAVED}
        assert await data(store, write.id) == {"n": 1}

    @pytest.mark.parametrize("alone", [True, False])
    @pytest.mark.parametrize("by", ["end", "pop"])
    async def test_an_insert_that_comes_late_or_twice_does_not_bring_a_session_back(
        self, store: SessionStore, alone: bool, by: str
    ) -> None:
        """The end of a session is stored under its id, also where no session is yet; inserts are `Outcome.GONE` then.

        That is so, for instance, when a database hung with the insert.
        """
        late, twice, other = insert({"n": 1}), insert({"n": 2}), insert({"n": 3})
        await save(store, [twice])
        for write in (late, twice):
            await (end(store, [write.id]) if by == "end" else pop(store, write.id))
        for batch in [[late], [twice]] if alone else [[late, other, twice]]:
            results = await save(store, batch)
            assert results == [Outcome.SAVED if write is other else Outcome.GONE for write in batch]
        assert await loaded(store, [late.id, twice.id]) == {}

    # Batches

    async def test_each_write_has_its_own_result(self, store: SessionStore) -> None:
        """`save` returns one result for each write, in their order."""
        alive, also, odd = [await inserted(store) for _ in range(3)]
        new = insert({"n": 9})
        writes: list[SessionWrite] = [
            update(alive, {("n",): Inc(1)}),
            update(new_id(), {("n",): Inc(1)}),
            update(odd, {("s",): Inc(1), ("n",): Inc(1)}),
            new,
            update(also, {("s",): Set("x")}),
        ]
        results = await save(store, writes)
        assert results == [Outcome.SAVED, Outcome.GONE, Conflict(frozenset({"s"})), Outcome.SAVED, Outcome.SAVED]
        assert [(await data(store, id))["n"] for id in (alive, odd, new.id, also)] == [2, 1, 9, 1]
        assert (await data(store, also))["s"] == "x"

    async def test_several_writes_for_one_session(self, store: SessionStore) -> None:
        """Each of them builds on what the others did."""
        id = await inserted(store, {"n": 0, "l": []})
        writes = [update(id, {("n",): Inc(n), ("l",): Push([n]), (f"f{n}",): Set(n)}) for n in range(5)]
        assert await save(store, writes) == [Outcome.SAVED] * 5
        found = await data(store, id)
        assert sorted(found.pop("l")) == list(range(5))
        assert found == {"n": 10, **{f"f{n}": n for n in range(5)}}

    # Data

    @pytest.mark.parametrize(
        "value",
        [
            *(None, True, False, 0, -1, 2**31, 2**63 - 1, -(2**63), Int64(5), 0.0, -0.0, 1.5, 1e300, float("inf")),
            *("", "text", "a\0b", "ключ 🔑", b"", b"\0\xff", Binary(b"x", 5), uuid.UUID(int=5), ObjectId("0" * 24)),
            *(NOW, datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)),
            *(
                Decimal128("1.10"),
                Regex("a.*", "i"),
                Timestamp(1, 2),
                MinKey(),
                MaxKey(),
                Code("x"),
                Code("x", {"a": 1}),
            ),
            *(DBRef("users", 1), {}, [], [[]], [{}], {"a": {"b": [{"c": [1, "2", None]}]}}),
            *(
                {"$ref": "users", "$id": 1},
                {"$where": "sleep(1000)"},
                {"$ne": None},
                "$where",
                "$$ROOT",
                {"$set": {"data": 1}},
            ),
        ],
        ids=repr,
    )
    async def test_every_value_comes_back_as_it_was(self, store: SessionStore, value: Any) -> None:
        """Data are BSON values.

        Where a format has fewer types (JSON has no bytes), encode them: with `bson.json_util`, or
        `bson.encode`, and `tornado_sesame.values.CODEC_OPTIONS`.
        """
        id = await inserted(store, {"inserted": value, "list": [value]})
        await save(store, [update(id, {("set",): Set(value), ("list",): Push([value]), ("pushed",): Push([value])})])
        found = await data(store, id)
        assert found == {"inserted": value, "list": [value, value], "set": value, "pushed": [value]}
        assert isinstance(found["inserted"], type(value))
        assert isinstance(found["set"], type(value))

    @pytest.mark.parametrize(
        "key", ["", ".", "a.b", ".a", "$", "$x", "$inc", "a$", "\0", "a\0b", "%", "%2E", "%00", "_id", "é", "0", "a b"]
    )
    async def test_every_str_is_a_key(self, store: SessionStore, key: str) -> None:
        """Any str is a key.

        What the format cannot have as one (BSON: a NUL) is to be escaped, and told apart from what looks
        escaped.
        """
        id = await inserted(store, {key: {key: 1}, "list": [{key: 1}]})
        assert await data(store, id) == {key: {key: 1}, "list": [{key: 1}]}
        ops: Ops = {
            (key, key): Inc(1),
            (key, "n" + key): Set({key: [key]}),
            ("list",): Push([{key: 2}]),
            (key + "l",): Push([1]),
        }
        assert await save(store, [update(id, ops)]) == [Outcome.SAVED]
        expected = {key: {key: 2, "n" + key: {key: [key]}}, "list": [{key: 1}, {key: 2}], key + "l": [1]}
        assert await data(store, id) == expected
        await save(store, [update(id, {(key, key): Unset(), (key, "n" + key): Unset(), (key + "l",): Unset()})])
        assert await data(store, id) == {key: {}, "list": [{key: 1}, {key: 2}]}

    async def test_keys_keep_their_order(self, store: SessionStore) -> None:
        """Dicts come back in the order in which they were saved."""
        content = {"z": 1, "a.b": 2, "": 3, "a": {"y": 1, "x": 2}}
        id = await inserted(store, content)
        found = await data(store, id)
        assert (list(found), list(found["a"])) == (list(content), ["y", "x"])

    async def test_the_deepest_nesting_that_a_session_can_have(self, store: SessionStore) -> None:
        """Data may nest as deep as MongoDB takes them."""
        id = await inserted(store, nested(MAX_DEPTH - 1))
        await save(store, [update(id, {("d",): Set(nested(MAX_DEPTH - 2)), ("e",): Push([nested(MAX_DEPTH - 3)])})])
        assert await data(store, id) == {"d": nested(MAX_DEPTH - 2), "e": [nested(MAX_DEPTH - 3)]}

    async def test_what_was_written_belongs_to_the_store(self, store: SessionStore) -> None:
        """A value that was saved may be changed by the store, and no later save works on a copy that is stale."""
        id = await inserted(store)
        await save(store, [update(id, {("d",): Set({"a": [1]})})])
        await save(store, [update(id, {("d", "a"): Push([2])})])
        assert (await data(store, id))["d"] == {"a": [1, 2]}

    async def test_what_cannot_be_stored_fails_alone(self, store: SessionStore) -> None:
        """A write that cannot be encoded gives its exception as its result; `save` itself does not raise.

        Others in the batch are done. The exception goes to the log, so its text must not quote the value.
        """
        one, bad, other = [await inserted(store) for _ in range(3)]
        new = insert({"s": "new"})
        writes: list[SessionWrite] = [
            update(one, {("n",): Inc(1)}),
            update(bad, {("s",): Set(Unstorable())}),
            update(other, {("n",): Inc(1)}),
            new,
        ]
        results = await save(store, writes)
        assert [results[index] for index in (0, 2, 3)] == [Outcome.SAVED] * 3
        assert [(await data(store, id))["n"] for id in (one, other)] == [2, 2]
        assert await data(store, new.id) == {"s": "new"}
        if results[1] is not Outcome.SAVED:  # as in memory, which takes everything
            assert isinstance(results[1], Exception)
            assert "secret" not in str(results[1]), "the error quotes the session's content"
            assert await data(store, bad) == DATA, "a write that failed has left something behind"

    # Watching, for stores that can

    async def test_a_watch_tells_of_writes_to_what_it_follows(self, store: SessionStore) -> None:
        """Whatever the write is: an update, an end, or an insert of what was not there."""
        async with watching(store) as watch:
            updated, ended, new, other = [await inserted(store), await inserted(store), new_id(), await inserted(store)]
            await watch.follow([updated, ended, new])
            await save(store, [update(other, {("n",): Inc(1)}), update(updated, {("n",): Inc(1)})])
            await told(watch, updated)
            await end(store, [ended])
            await told(watch, ended)
            write = insert(DATA)
            await save(store, [SessionInsert(replace(write.record, id=new))])
            await told(watch, new)

    async def test_a_watch_misses_nothing_when_it_follows_others(self, store: SessionStore) -> None:
        """`SessionWatch.follow` may be called at any moment, also while `SessionWatch.changed` waits."""
        async with watching(store) as watch:
            ids = [await inserted(store) for _ in range(20)]
            await watch.follow(ids[:1])
            for number, id in enumerate(ids, 1):
                waiting = asyncio.ensure_future(told(watch, ids[0]))
                await asyncio.sleep(0)
                await save(store, [update(ids[0], {("n",): Set(100 + number)})])
                await watch.follow(ids[:number])
                await waiting
                await save(store, [update(id, {("n",): Set(200 + number)})])
                await told(watch, id)

    # Closing

    async def test_it_can_be_closed(self, store: SessionStore) -> None:
        """`close` waits for what is under way, and closing twice is no error."""
        await inserted(store)
        await store.close()
        await store.close()


class Unstorable:
    """What no session can have in it."""

    def __repr__(self) -> str:
        return "secret"


# What the tests do with a store


def new_id() -> str:
    """Returns an id that no session has."""
    return uuid.uuid4().hex * 2


def insert(content: Mapping[str, Any], *, expires: datetime = LATER, **attributes: Any) -> SessionInsert:
    """Returns a write that makes a new session."""
    return SessionInsert(SessionRecord(new_id(), plain(content), NOW, NOW, expires, **attributes))


def update(
    id: str, ops: Ops, *, at: datetime = NOW, expires: datetime | None = None, **attributes: Set | None
) -> SessionUpdate:
    """Returns a write that changes a session."""
    return SessionUpdate(id, Changes(ops, **attributes), at, expires)


def ending(id: str) -> SessionEnd:
    """Returns a write that ends a session."""
    return SessionEnd(id, NOW, NOW + timedelta(minutes=1))


async def save(store: SessionStore, writes: Sequence[SessionWrite]) -> list[SaveResult]:
    """Has *writes* saved, and returns their results."""
    return list(await store.save(writes, timeout=TIMEOUT))


async def stored(
    store: SessionStore, ids: Sequence[str]
) -> Mapping[str, SessionRecord | SessionEnd | SessionRecordError]:
    """Returns what is stored under *ids*."""
    return await store.load(ids, timeout=TIMEOUT)


async def pop(store: SessionStore, id: str) -> SessionRecord | SessionEnd | None:
    """Ends a session and returns it as it was."""
    return await store.pop(ending(id), timeout=TIMEOUT)


async def end(store: SessionStore, ids: Sequence[str]) -> None:
    """Ends sessions."""
    assert set(await save(store, [ending(id) for id in ids])) == {Outcome.SAVED}


async def records(store: SessionStore, owner: str | None = None) -> AsyncIterator[SessionRecord]:
    """Iterates over the sessions, or over those of an owner."""
    async for record in store.records(owner, timeout=TIMEOUT):
        if isinstance(record, Exception):
            raise record
        yield record


async def inserted(store: SessionStore, content: Mapping[str, Any] = DATA, **options: Any) -> str:
    """Makes a new session and returns its id."""
    write = insert(content, **options)
    assert await save(store, [write]) == [Outcome.SAVED], "a new session could not be inserted"
    return write.id


async def loaded(store: SessionStore, ids: Sequence[str]) -> dict[str, SessionRecord]:
    """Returns the sessions that exist, by id."""
    found = {}
    for id, record in (await stored(store, ids)).items():
        if isinstance(record, Exception):
            raise record
        if isinstance(record, SessionRecord):
            found[id] = record
    return found


async def load(store: SessionStore, id: str) -> SessionRecord | None:
    """Returns a session as it is stored."""
    return (await loaded(store, [id])).get(id)


async def data(store: SessionStore, id: str) -> Any:
    """Returns what is stored in a session; None when there is none."""
    record = await load(store, id)
    return None if record is None else record.data


@asynccontextmanager
async def watching(store: SessionStore) -> AsyncIterator[SessionWatch]:
    """Gives a watch of the store, if it has any."""
    watch = store.watch()
    if watch is None:
        pytest.skip("the manager loads what is open in this store once a second")
    try:
        yield watch
    finally:
        await watch.close()


async def told(watch: SessionWatch, id: str) -> None:
    """Returns when the watch has told that something was written to this session."""
    async with asyncio.timeout(TIMEOUT):
        while (changed := await watch.changed()) is not None:
            if id in changed:
                return


def nested(depth: int) -> dict[str, Any]:
    return {"d": nested(depth - 1)} if depth else {}
