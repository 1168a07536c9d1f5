"""The settings of a manager, and what its sessions do when they end, move, or cannot be saved."""

import asyncio
import contextlib
import logging
from datetime import UTC, datetime, timedelta

import pytest

from tornado_sesame import (
    Conflict,
    MemoryStore,
    Outcome,
    SessionError,
    SessionGone,
    SessionInsert,
    SessionManager,
    SessionNotLoaded,
    SessionNotSaved,
    SessionStoreError,
    SessionTooLarge,
)
from tornado_sesame.coalescer import MAX_CALLS
from tornado_sesame.cookie import Secret

from .support import record_of, secret_in


class Broken(MemoryStore):
    """A store that fails as often as it is told to."""

    failures = 0
    error = SessionNotSaved("down")
    does_it_all_the_same = False
    gate = None  # it waits there before it fails

    async def save(self, writes, *, timeout):
        return await self.fail(super().save(writes, timeout=timeout))

    async def load(self, ids, *, timeout):
        return await self.fail(super().load(ids, timeout=timeout))

    async def pop(self, end, *, timeout):
        return await self.fail(super().pop(end, timeout=timeout))

    async def fail(self, call):
        if not self.failures:
            return await call
        self.failures -= 1
        if self.gate is not None:
            await self.gate.wait()
        if self.does_it_all_the_same:
            await call
        call.close()
        raise self.error


@pytest.fixture
def manager(database):
    return SessionManager(database.new_store())


@pytest.fixture
def broken():
    return SessionManager(Broken())


async def started(manager, **content):
    """Returns a new session that is saved, and the secret that its client was given."""
    live = manager.open()
    live.open_empty()
    live.session.update(n=0, **content)
    await live.save()
    return live, secret_in(live.response_header(https=False)[1])


async def opened(manager, secret):
    live = manager.open([Secret(secret)])
    await live.load()
    return live


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "error", "problem"),
        [
            (
                {"store": object()},
                TypeError,
                "store must be a SessionStore such as MongoStore(collection), not object",
            ),
            ({"cookie": "session_id"}, TypeError, "cookie must be a SessionCookie, not str"),
            ({"idle_timeout": 60}, TypeError, "idle_timeout must be a datetime.timedelta, not int"),
            ({"idle_timeout": timedelta(0)}, ValueError, "must be at least a second"),
            ({"touch_interval": 60}, TypeError, "touch_interval must be a datetime.timedelta, not int"),
            ({"touch_interval": timedelta(days=14)}, ValueError, "must be shorter than idle_timeout"),
            ({"touch_interval": timedelta(-1)}, ValueError, "must be shorter than idle_timeout"),
            ({"absolute_timeout": 60}, TypeError, "absolute_timeout must be a datetime.timedelta, not int"),
            ({"absolute_timeout": timedelta(0)}, ValueError, "must be at least a second"),
            ({"idle_timeout": timedelta.max}, ValueError, "must be at least a second and at most 365,000 days"),
            ({"absolute_timeout": timedelta.max}, ValueError, "at least a second and at most 365,000 days"),
            ({"max_bytes": 0}, ValueError, "max_bytes=0: must be a positive number of bytes"),
            ({"timeout": "15"}, TypeError, "timeout must be a number of seconds, not str"),
            ({"timeout": 0}, ValueError, "timeout=0: must be a positive number of seconds"),
            ({"timeout": float("nan")}, ValueError, "must be a positive number of seconds"),
        ],
    )
    def test_those_that_cannot_be_meant_are_refused(self, settings, error, problem):
        with pytest.raises(error) as caught:
            SessionManager(**settings)
        assert problem in str(caught.value)

    async def test_the_longest_timeouts_can_be_used(self, database):
        longest = timedelta(days=365_000)
        manager = SessionManager(database.new_store(), idle_timeout=longest, absolute_timeout=longest)
        live, secret = await started(manager)
        live.session.n += 1
        await live.save()
        assert (await opened(manager, secret)).session == {"n": 1}

    async def test_each_manager_gives_a_store_its_own_time(self):
        class Slow(MemoryStore):
            async def load(self, ids, *, timeout):
                timeouts.append(timeout)
                return await super().load(ids, timeout=timeout)

        timeouts = []
        store = Slow()
        managers = [SessionManager(store, timeout=timeout) for timeout in (3, 60)]
        for manager in managers * 2:
            await opened(manager, "x" * 43)
        assert [round(timeout, 3) for timeout in timeouts] == [2, 59, 2, 59]

    def test_max_sessions(self):
        with pytest.raises(ValueError, match="max_sessions=0: must be at least 1"):
            MemoryStore(max_sessions=0)

    async def test_a_memory_store_drops_what_was_saved_least_recently(self):
        manager = SessionManager(MemoryStore(max_sessions=3))
        sessions = [await started(manager) for _ in range(3)]
        sessions[0][0].session.n += 1
        await sessions[0][0].save()
        await started(manager)
        found = [(await opened(manager, secret)).id is not None for _, secret in sessions]
        assert found == [True, False, True]


class TestLoading:
    async def test_sessions_that_are_asked_for_at_once_are_one_call(self, manager, database):
        secrets = [(await started(manager))[1] for _ in range(20)]
        database.commands.take()
        before = manager.stats.commands
        await asyncio.gather(*(opened(manager, secret) for secret in secrets * 3))
        assert manager.stats.commands == before + 1
        assert manager.stats.loads == 20
        assert database.commands.take() == ["find"] * database.is_mongo

    async def test_each_request_has_its_own_copy(self, manager):
        _, secret = await started(manager, nested={"list": [1]})
        one, other = await asyncio.gather(opened(manager, secret), opened(manager, secret))
        one.session.nested.list.append(2)
        assert other.session == {"n": 0, "nested": {"list": [1]}}
        await one.save()

    async def test_before_it_a_session_cannot_be_touched(self, manager):
        live = manager.open([Secret("x" * 43)])
        with pytest.raises(SessionNotLoaded):
            live.replace({})
        assert live.id is None


class Gated(MemoryStore):
    """A store whose saves need a permit each, once there is a gate."""

    gate = None
    saves = 0

    async def save(self, writes, *, timeout):
        self.saves += 1
        if self.gate is not None:
            await self.gate.acquire()
        return await super().save(writes, timeout=timeout)


class TestSaving:
    async def test_what_changes_when_a_batch_has_left_without_it_is_saved_before_anybody_goes_on(self):
        """Its batch is under way with another session's changes, and it had none that did not cancel out."""
        store = Gated()
        manager = SessionManager(store)
        (live, _), (other, _) = await started(manager), await started(manager)
        store.gate = asyncio.Semaphore(0)
        live.session.x = 1
        del live.session.x
        other.session.n = 5
        saving = asyncio.ensure_future(other.save())
        await asyncio.sleep(0.05)
        live.session.n = 7
        saved = asyncio.ensure_future(live.save())
        store.gate.release()
        await saving
        await asyncio.sleep(0.05)
        assert not saved.done()
        store.gate.release()
        await saved
        assert (await record_of(manager, live.id)).data == {"n": 7}

    async def test_sessions_that_change_at_once_are_one_call(self, manager, database):
        sessions = [(await started(manager))[0] for _ in range(20)]
        database.commands.take()
        before = manager.stats.commands
        for live in sessions:
            live.session.n += 1
        await asyncio.gather(*(live.save() for live in sessions))
        assert manager.stats.commands == before + 1
        assert database.commands.take() == ["update"] * database.is_mongo

    async def test_what_changes_during_a_save_goes_out_with_the_next(self, manager, database):
        live, secret = await started(manager)
        live.session.n += 1
        saving = live.saved()
        while live.is_unsaved and not saving.done():
            live.session.n += 1
            await asyncio.sleep(0)
        await live.save()
        assert not live.is_unsaved
        assert await database.data(secret) == {"n": live.session.n}

    async def test_a_conflict_sets_the_field_whole_and_keeps_what_changes_meanwhile(self, manager, database):
        live, secret = await started(manager, d={"a": 1, "b": {"c": 1}})
        other = await opened(manager, secret)
        other.session.d = "text"
        await other.save()
        live.session.d.b.c += 1
        live.session.n += 1
        saving = live.saved()
        while not saving.done():
            live.session.d.b.c += 1
            await asyncio.sleep(0)
        assert saving.result() is Outcome.SAVED
        await live.save()
        assert await database.data(secret) == {"n": 1, "d": {"a": 1, "b": {"c": live.session.d.b.c}}}

    async def test_a_conflict_that_is_found_when_nobody_waits_any_more_is_not_resolved(self):
        store = Gated()
        manager = SessionManager(store, timeout=1.0)
        live, secret = await started(manager, d={"a": 1})
        other = await opened(manager, secret)
        other.session.d = "text"
        await other.save()
        before, store.gate = store.saves, asyncio.Semaphore(0)
        live.session.d.a += 1
        with pytest.raises(SessionStoreError, match="no answer"):
            await live.save()
        (await live.session).n = 5
        saving = asyncio.ensure_future(live.save())
        await asyncio.sleep(0.1)
        for _ in range(3):
            store.gate.release()
        await saving
        await manager.close()
        assert (await record_of(manager, live.id)).data == {"n": 5, "d": "text"}
        assert store.saves == before + 2

    async def test_what_has_not_left_in_time_stays_pending(self):
        """As so many calls are stuck that no other one begins."""
        store = Gated()
        manager = SessionManager(store, timeout=2.0)
        sessions = [(await started(manager))[0] for _ in range(MAX_CALLS + 1)]
        before, store.gate = store.saves, asyncio.Semaphore(0)
        waiting = []
        for number, live in enumerate(sessions, 1):
            live.session.n += 1
            waiting.append(asyncio.ensure_future(live.save()))
            while number <= MAX_CALLS and store.saves < before + number:
                await asyncio.sleep(0.01)
        for failed in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(failed, SessionStoreError)
        assert [live.is_unsaved for live in sessions] == [False] * MAX_CALLS + [True]
        for _ in range(MAX_CALLS + 1):
            store.gate.release()
        await sessions[-1].save()
        assert (await record_of(manager, sessions[-1].id)).data == {"n": 1}

    async def test_who_waits_for_a_change_that_is_taken_back_does_not_wait_for_ever(self):
        store = Gated()
        manager = SessionManager(store)
        live, _ = await started(manager)
        store.gate = asyncio.Semaphore(0)
        live.session.n += 1
        first = asyncio.ensure_future(live.save())
        await asyncio.sleep(0.01)
        live.session.x = 1
        second = asyncio.ensure_future(live.save())
        await asyncio.sleep(0)
        del live.session.x
        store.gate.release()
        await asyncio.gather(first, second)
        assert (await record_of(manager, live.id)).data == {"n": 1}

    async def test_a_conflict_that_never_ends_is_an_error_and_the_change_goes_out_with_the_next_save(self, caplog):
        class Changing(MemoryStore):
            has_conflicts = True

            async def save(self, writes, *, timeout):
                if not self.has_conflicts or isinstance(writes[0], SessionInsert):
                    return await super().save(writes, timeout=timeout)
                return [Conflict(frozenset(["d"])) for _ in writes]

        manager = SessionManager(Changing())
        live, secret = await started(manager, d={"a": 1})
        live.session.d.a = 2
        with pytest.raises(SessionNotSaved, match="other requests change its shape all the time"):
            await live.save()
        manager.store.has_conflicts = False
        await live.save()
        assert (await opened(manager, secret)).session == {"n": 0, "d": {"a": 2}}

    async def test_saving_twice_saves_once(self, manager):
        live, _ = await started(manager)
        live.session.n += 1
        await asyncio.gather(live.save(), live.save())
        await live.save()
        assert manager.stats.saves == 2

    async def test_who_stops_waiting_does_not_stop_the_save(self, manager, database):
        live, secret = await started(manager)
        live.session.n += 1
        waiting = asyncio.ensure_future(live.save())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        await live.save()
        assert await database.data(secret) == {"n": 1}

    @pytest.mark.parametrize("failures", [1, 2, 3])
    async def test_what_was_not_saved_for_certain_goes_out_with_the_next_save(self, broken, failures, caplog):
        live, secret = await started(broken, name="secret", list=[])
        broken.store.failures = failures
        for number in range(failures):
            live.session.n += 1
            live.session.list.append(number)
            with pytest.raises(SessionNotSaved, match=r"could not save session [0-9a-f]{64}: down"):
                await live.save()
        live.session.n += 1
        await live.save()
        stored = {"n": failures + 1, "name": "secret", "list": list(range(failures))}
        assert (await opened(broken, secret)).session == live.session == stored
        assert broken.stats.failures == failures
        assert broken.stats.saves == failures + 2
        assert secret not in caplog.text
        assert "'secret'" not in caplog.text

    async def test_after_such_a_failure_the_next_change_saves_again_by_itself(self, broken):
        live, secret = await started(broken)
        broken.store.failures = 1
        live.session.n += 1
        assert isinstance(await live.saved(), SessionNotSaved)
        live.session.n += 1
        assert await live.saved() is Outcome.SAVED
        assert (await opened(broken, secret)).session == {"n": 2}

    async def test_what_the_store_refuses_can_be_taken_back(self, broken):
        live, secret = await started(broken)
        broken.store.failures = 1
        live.session.bad = 1
        with pytest.raises(SessionNotSaved):
            await live.save()
        del live.session.bad
        assert not live.is_unsaved
        live.session.n += 1
        await live.save()
        assert (await opened(broken, secret)).session == {"n": 1}

    @pytest.mark.parametrize("is_done", [True, False])
    async def test_what_may_have_been_saved_is_never_sent_again(self, broken, is_done):
        live, secret = await started(broken, list=[])
        live.owner = "alice"
        await live.save()
        saves = broken.stats.saves
        broken.store.failures, broken.store.error = 1, ConnectionError("lost")
        broken.store.does_it_all_the_same = is_done
        live.session.n += 1
        live.session.list.append("x")
        with pytest.raises(SessionStoreError, match=r"could not save session [0-9a-f]{64}: .*lost") as caught:
            await live.save()
        assert not isinstance(caught.value, SessionNotSaved)
        assert not live.is_unsaved
        with pytest.raises(SessionStoreError, match="lost"):  # however often it is asked
            await live.save()
        with pytest.raises(SessionNotLoaded):
            live.session.n += 1
        with pytest.raises(SessionNotLoaded):
            live.owner = "bob"
        assert (await opened(broken, secret)).session == {"n": int(is_done), "list": ["x"] * is_done}
        # One that lives on reads it again, and goes on with that.
        session = await live.session
        session.n += 1
        await live.save()
        again = await opened(broken, secret)
        assert (again.session, again.owner) == ({"n": 1 + is_done, "list": ["x"] * is_done}, "alice")
        assert broken.stats.saves == saves + 2
        assert live.lost is caught.value

    @pytest.mark.parametrize("is_done", [True, False])
    async def test_what_changed_while_it_was_under_way_shares_its_fate(self, broken, is_done):
        live, secret = await started(broken)
        broken.store.failures, broken.store.error, broken.store.gate = 1, ConnectionError("lost"), asyncio.Event()
        broken.store.does_it_all_the_same = is_done
        live.session.n += 1
        first = asyncio.ensure_future(live.save())
        while broken.store.failures:
            await asyncio.sleep(0)
        live.session.late = True
        second = asyncio.ensure_future(live.save())
        await asyncio.sleep(0)
        broken.store.gate.set()
        for saving in first, second:
            with pytest.raises(SessionStoreError, match="lost"):
                await saving
        assert not live.is_unsaved
        assert (await opened(broken, secret)).session == {"n": int(is_done)}
        (await live.session).late = False
        await live.save()
        assert (await opened(broken, secret)).session == {"n": int(is_done), "late": False}

    @pytest.mark.parametrize("is_done", [True, False])
    async def test_a_new_session_that_may_have_been_inserted_is_found_or_begun_anew(self, broken, is_done):
        live = broken.open()
        live.open_empty()
        broken.store.failures, broken.store.error = 1, ConnectionError("lost")
        broken.store.does_it_all_the_same = is_done
        live.session.n = 1
        with pytest.raises(SessionStoreError, match="lost"):
            await live.save()
        assert live.response_header(https=False) is None
        session = await live.session
        assert session == ({"n": 1} if is_done else {})
        session.m = 2
        await live.save()
        assert [record.data async for record in broken.records()] == [session]

    async def test_a_touch_that_may_have_been_done_costs_nothing(self, broken):
        manager = SessionManager(broken.store, touch_interval=timedelta(0))
        _, secret = await started(manager)
        await asyncio.sleep(0.01)
        broken.store.error = ConnectionError("lost")
        live = manager.open([Secret(secret)])
        await live.load()
        broken.store.failures = 1
        await live.saved()
        live.session.n += 1
        await live.save()
        assert live.lost is None
        assert (await opened(manager, secret)).session == {"n": 1}


class TestSize:
    @pytest.fixture
    def manager(self, database):
        return SessionManager(database.new_store(), max_bytes=1000)

    async def test_a_session_that_becomes_too_large_is_not_saved_and_the_others_are(self, manager, database):
        (live, secret), (other, _) = await started(manager), await started(manager)
        live.session.text = "x" * 1000
        other.session.text = "x" * 900
        for _ in range(2):
            other.session.n += 1
            with pytest.raises(SessionTooLarge, match=rf"{live.id}: it has 10\d\d bytes, and max_bytes .* is 1000"):
                await live.save()
            await other.save()
        assert await database.data(secret) == {"n": 0}
        assert (await database.data(other.id))["n"] == 2
        assert manager.stats.failures == 2

    async def test_it_can_become_smaller_and_is_saved(self, manager, database):
        live, secret = await started(manager)
        live.session.list = ["x" * 600]
        await live.save()
        live.session.list.append("y" * 600)
        live.session.n += 1
        with pytest.raises(SessionTooLarge):
            await live.save()
        live.session.list = ["z"]
        await live.save()
        assert await database.data(secret) == {"n": 1, "list": ["z"]}

    @pytest.mark.parametrize("is_done", [True, False])
    async def test_what_was_sent_before_counts_once(self, broken, is_done):
        """Be it done or pending again, when a later save is refused."""
        broken = SessionManager(broken.store, max_bytes=1000)
        live, secret = await started(broken, list=[], text="")
        broken.store.failures = int(not is_done)
        live.session.n += 1
        live.session.list.append("x")
        with contextlib.nullcontext() if is_done else pytest.raises(SessionNotSaved):
            await live.save()
        for _ in range(2):
            live.session.text = "x" * 1000
            with pytest.raises(SessionTooLarge):
                await live.save()
        live.session.text = ""
        await live.save()
        assert (await opened(broken, secret)).session == live.session == {"n": 1, "list": ["x"], "text": ""}

    async def test_a_new_one_can_be_too_large(self, manager):
        live = manager.open()
        live.open_empty()
        live.session.text = "x" * 1000
        with pytest.raises(SessionTooLarge):
            await live.save()

    async def test_one_that_was_larger_before_does_not_grow_by_counting_and_removing(self, manager, database):
        live, secret = await started(SessionManager(database.new_store()), text="x" * 1000, rest=[])
        live = await opened(manager, secret)
        live.session.n += 1
        del live.session.rest
        await live.save()
        assert await database.data(secret) == {"n": 1, "text": "x" * 1000}

    async def test_there_need_be_no_limit(self, database):
        manager = SessionManager(database.new_store(), max_bytes=None)
        live, secret = await started(manager)
        live.session.text = "x" * 2_000_000
        await live.save()
        assert len((await database.data(secret))["text"]) == 2_000_000


class TestOwners:
    async def owned(self, manager, *owners):
        sessions = []
        for owner in owners:
            live, _ = await started(manager)
            live.owner = owner
            await live.save()
            sessions.append(live.id)
        return sessions

    async def test_sign_out_everywhere(self, manager):
        here, there, elsewhere, bobs, nobodys = await self.owned(manager, "alice", "alice", "alice", "bob", None)
        assert await manager.destroy_all("alice", keep=here) == 2
        assert [await record_of(manager, id) is not None for id in (here, there, elsewhere, bobs, nobodys)] == [
            *(True, False, False, True, True)
        ]
        assert await manager.destroy_all("alice") == 1
        assert await manager.destroy_all("alice") == 0

    async def test_several_can_be_kept(self, manager):
        one, two, three = await self.owned(manager, *["alice"] * 3)
        assert await manager.destroy_all("alice", keep=[one, three]) == 1
        assert {record.id async for record in manager.records("alice")} == {one, three}
        assert await record_of(manager, two) is None

    async def test_records_leaves_out_what_has_expired(self, database):
        short = SessionManager(database.new_store(), idle_timeout=timedelta(seconds=1))
        await self.owned(short, "alice")
        (id,) = await self.owned(SessionManager(database.new_store()), "alice")
        await asyncio.sleep(1.01)
        assert [record.id async for record in short.records("alice")] == [id]
        assert [record.id async for record in short.records()] == [id]

    @pytest.mark.parametrize(
        ("owner", "error"), [(5, TypeError), (None, TypeError), ("", ValueError), ("\ud800", TypeError)]
    )
    async def test_what_is_no_owner_is_refused(self, manager, owner, error):
        with pytest.raises(error):
            await manager.destroy_all(owner)
        if owner is not None:
            with pytest.raises(error):
                await anext(manager.records(owner))

    async def test_it_survives_a_rotation_and_not_a_destruction(self, manager):
        live, _ = await started(manager)
        live.owner = "alice"
        await live.rotate()
        assert [record.id async for record in manager.records("alice")] == [live.id]
        await live.destroy()
        assert live.owner is None
        live.session.n = 1
        await live.save()
        assert [record async for record in manager.records("alice")] == []

    async def test_setting_it_is_enough_to_make_a_session(self, manager):
        live = manager.open()
        live.open_empty()
        live.owner = "alice"
        await live.save()
        (record,) = [record async for record in manager.records("alice")]
        assert (record.id, record.data) == (live.id, {})

    async def test_setting_what_it_is_saves_nothing(self, manager):
        live, _ = await started(manager)
        live.owner = None
        assert not live.is_unsaved

    async def test_one_that_could_not_be_saved_goes_out_with_the_next_save(self, broken, caplog):
        live, secret = await started(broken)
        broken.store.failures = 1
        live.owner = "alice"
        with pytest.raises(SessionStoreError):
            await live.save()
        live.session.n += 1
        await live.save()
        again = await opened(broken, secret)
        assert (again.owner, again.session) == ("alice", {"n": 1})

    async def test_it_cannot_be_read_before_it_is_loaded(self, manager):
        with pytest.raises(SessionNotLoaded):
            _ = manager.open([Secret("x" * 43)]).owner

    async def test_a_store_that_fails_while_it_lists_is_an_error_with_its_cause(self):
        class Failing(MemoryStore):
            async def records(self, owner=None, *, timeout):
                raise ConnectionError("secret")
                yield

        manager = SessionManager(Failing())
        with pytest.raises(SessionStoreError, match="could not list sessions: ConnectionError") as caught:
            await manager.destroy_all("alice")
        assert isinstance(caught.value.__cause__, ConnectionError)


class TestEnding:
    async def test_an_administrator_can_end_a_session_that_is_in_use(self, manager, database, caplog):
        live, secret = await started(manager)
        await manager.destroy(live.id)
        live.session.n += 1
        with caplog.at_level(logging.INFO, "tornado_sesame"), pytest.raises(SessionGone, match="has ended"):
            await live.save()
        assert await database.data(secret) is None
        assert f"dropped a late write to session {live.id}" in caplog.text

    async def test_destroying_what_is_not_there_is_no_error(self, manager):
        await manager.destroy("0" * 64)

    async def test_a_save_that_is_under_way_does_not_survive(self, manager, database):
        for turns in range(6):
            live, secret = await started(manager)
            live.session.n += 1
            for _ in range(turns):
                await asyncio.sleep(0)
            await live.destroy()
            assert live.session == {}
            await asyncio.sleep(0.02)
            assert await database.data(secret) is None

    async def test_a_new_session_that_is_destroyed_while_it_is_inserted_does_not_survive(self, manager, database):
        for turns in range(6):
            live = manager.open()
            live.open_empty()
            live.session.n = 1
            id = live.id
            for _ in range(turns):
                await asyncio.sleep(0)
            await live.destroy()
            await asyncio.sleep(0.02)
            assert await database.data(id) is None

    async def test_the_session_after_it_is_another(self, manager, database):
        live, secret = await started(manager)
        old = live.id
        await live.destroy()
        live.session.n = 7
        await live.save()
        assert live.id != old
        assert await database.data(live.id) == {"n": 7}
        assert await database.data(secret) is None

    async def test_it_stays_when_the_store_fails(self, broken):
        live, secret = await started(broken)
        broken.store.failures = 1
        with pytest.raises(SessionStoreError, match="could not end session"):
            await live.destroy()
        assert (await opened(broken, secret)).session == {"n": 0}


class TestRotating:
    async def test_it_keeps_the_content_and_when_it_was_created(self, manager, database):
        live, old = await started(manager)
        before = await record_of(manager, live.id)
        live.session.n += 1
        await live.rotate()
        new = secret_in(live.response_header(https=False)[1])
        assert new != old
        assert await database.data(old) is None
        after = await record_of(manager, live.id)
        assert (after.data, after.created) == ({"n": 1}, before.created)

    async def test_twice_is_once_when_nobody_knows_the_new_secret(self, manager):
        live, _ = await started(manager)
        await live.rotate()
        id = live.id
        await live.rotate()
        assert live.id == id

    @pytest.mark.parametrize("turns", range(8))
    async def test_changes_meanwhile_are_kept(self, manager, database, turns):
        live, _ = await started(manager)

        async def change():
            for _ in range(turns):
                await asyncio.sleep(0)
            live.session.n += 1
            live.session.late = True

        await asyncio.gather(live.rotate(), change())
        await live.save()
        assert await database.data(live.id) == {"n": 1, "late": True}

    @pytest.mark.parametrize("turns", range(8))
    async def test_changes_meanwhile_are_saved_though_nobody_asks(self, manager, database, turns):
        live, _ = await started(manager)
        rotating = asyncio.ensure_future(live.rotate())
        for _ in range(turns):
            await asyncio.sleep(0)
        live.session.n += 1
        await rotating
        await manager.close()
        assert await database.data(live.id) == {"n": 1}

    async def test_at_once_with_destroying(self, manager, database):
        for first, second in (("rotate", "destroy"), ("destroy", "rotate")):
            live, secret = await started(manager)
            id = live.id
            await asyncio.gather(getattr(live, first)(), getattr(live, second)())
            assert live.session == {}
            assert await database.data(secret) is None
            assert live.id in (None, id)

    async def test_after_the_headers_it_is_refused_and_nothing_happens(self, manager, database):
        live, secret = await started(manager)
        live.headers_out = True
        with pytest.raises(SessionError, match="the response's headers are sent"):
            await live.rotate()
        assert await database.data(secret) == {"n": 0}

    async def test_it_is_where_it_was_when_the_store_fails(self, broken):
        live, secret = await started(broken)
        broken.store.failures = 1
        with pytest.raises(SessionNotSaved, match=r"could not save session [0-9a-f]{64}: down"):
            await live.rotate()
        assert (await opened(broken, secret)).session == {"n": 0}
        live.session.n += 1
        await live.save()
        assert (await opened(broken, secret)).session == {"n": 1}

    async def test_a_session_that_is_gone_has_nothing_to_keep(self, manager, database):
        live, secret = await started(manager)
        await manager.destroy(live.id)
        await live.rotate()
        assert live.session == {}
        assert await database.data(secret) is None


class TestClosing:
    async def test_it_waits_for_saves(self, manager, database):
        live, secret = await started(manager)
        live.session.n += 1
        await manager.close()
        assert await database.data(secret) == {"n": 1}

    async def test_it_waits_for_what_changed_during_a_save(self, manager, database):
        live, secret = await started(manager)
        live.session.n += 1
        await asyncio.sleep(0)
        live.session.n += 1
        closing = asyncio.ensure_future(manager.close())
        await closing
        assert await database.data(secret) == {"n": 2}


async def test_expired_is_expired_whatever_the_store_says(database):
    manager = SessionManager(database.new_store(), idle_timeout=timedelta(seconds=1))
    live, secret = await started(manager)
    record = await record_of(manager, live.id)
    assert record.expires > datetime.now(UTC)
    await asyncio.sleep(1.01)
    late = await opened(manager, secret)
    assert late.session == {}
    assert late.id is None
