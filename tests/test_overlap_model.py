"""Two sessions over one stored document, in any interleaving, against a model of what overlapping requests do."""

import asyncio
import itertools
import os
from contextlib import suppress

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tornado_sesame import SessionGone, SessionManager
from tornado_sesame.cookie import Secret

from .support import CLIENTS, open_database, secret_in

EXAMPLES = int(os.environ.get("SESAME_EXAMPLES", "60"))

START = {"n": 0, "s": "start", "l": ["start"], "d": {"n": 0, "s": "start", "l": [], "d": {"n": 0}}}

SESSIONS = st.integers(0, 1)
NUMBERS = st.sampled_from([("n",), ("new",), ("d", "n"), ("d", "d", "n"), ("d", "new")])
LISTS = st.sampled_from([("l",), ("d", "l")])
FIELDS = st.sampled_from(
    [("s",), ("n",), ("l",), ("other",), ("d",), ("d", "s"), ("d", "n"), ("d", "d"), ("d", "d", "s")]
)
STEPS = st.one_of(
    st.tuples(st.just("add"), NUMBERS),
    st.tuples(st.sampled_from(["push", "insert"]), LISTS),
    st.tuples(st.sampled_from(["set int", "set str", "set list", "set dict", "delete"]), FIELDS),
)


class Model:
    """What one session sees, and what it will send with its next save: by path, and from the outside in."""

    def __init__(self, data):
        self.local = copied(data)
        self.pending = {}
        self.absent = set()  # pending paths where nothing was before

    def note(self, kind, path, amount=None):
        if any(self.pending.get(path[:depth], [None])[0] == "set" for depth in range(1, len(path))):
            return  # what is around it is saved whole
        if path not in self.pending and at(self.local, path) is None:
            self.absent.add(path)
        before = self.pending.pop(path, None)
        if kind in ("set", "unset"):
            self.pending = {other: op for other, op in self.pending.items() if other[: len(path)] != path}
            if kind == "unset" and path in self.absent:
                self.absent.discard(path)
                return  # it came and went
            self.pending[path] = (kind, None)
        elif before is None:
            self.pending[path] = (kind, amount)
        else:
            self.pending[path] = (kind, before[1] + amount) if before[0] == kind else ("set", None)

    def save(self, stored):
        """Returns what is stored after this session has saved."""
        for top in {path[0] for path in self.pending}:
            ops = {path: op for path, op in self.pending.items() if path[0] == top}
            if all(fits(stored, path, kind) for path, (kind, _) in ops.items()):
                for path, op in ops.items():
                    self.apply(stored, path, *op)
            elif top in self.local:
                stored[top] = copied(self.local[top])
            else:
                stored.pop(top, None)
        self.pending, self.absent = {}, set()
        return stored

    def apply(self, stored, path, kind, amount):
        holder, key = at(stored, path[:-1]), path[-1]
        match kind:
            case "set":
                holder[key] = copied(at(self.local, path))
            case "unset" if isinstance(holder, dict):
                holder.pop(key, None)
            case "add":
                holder[key] = holder.get(key, 0) + amount
            case "push":
                holder[key] = holder.get(key, []) + amount


def fits(stored, path, kind):
    if kind == "unset":
        return True
    current = at(stored, path)
    expected = {"set": object, "add": int, "push": list}[kind]
    return isinstance(at(stored, path[:-1]), dict) and (current is None or isinstance(current, expected))


def at(data, path):
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def copied(data):
    if isinstance(data, dict):
        return {key: copied(value) for key, value in data.items()}
    return list(data) if isinstance(data, list) else data


class Overlap(RuleBasedStateMachine):
    """Sessions 0 and 1 belong to two managers, as if they were in two processes.

    A save sends what changed since the last one, in one piece, so when exactly the changes were made does not matter.
    """

    def __init__(self, runner, database):
        super().__init__()
        self.run = runner.run
        self.database = database
        self.fresh = itertools.count(1000)  # no value is assigned twice, as that would not be a change
        self.managers = [SessionManager(database.new_store()) for _ in range(2)]
        self.live, self.models = [None, None], [None, None]
        self.begin()

    def begin(self):
        self.stored = copied(START)
        self.secret, self.id = self.run(self.start())
        self.load(0)
        self.load(1)

    async def start(self):
        live = self.managers[0].open()
        live.open_empty()
        live.replace(START)
        await live.save()
        return secret_in(live.response_header(https=False)[1]), live.id

    @precondition(lambda self: self.stored is not None)
    @rule(number=SESSIONS)
    def load(self, number):
        self.live[number] = self.run(self.loaded(number))
        self.models[number] = Model(self.stored)

    async def loaded(self, number):
        live = self.managers[number].open([Secret(self.secret)])
        await live.load()
        return live

    @rule(number=SESSIONS, steps=st.lists(STEPS, min_size=1, max_size=4))
    def change_and_save(self, number, steps):
        self.run(self.in_one_tick(number, steps))
        if self.stored is not None:
            self.stored = self.models[number].save(self.stored)

    async def in_one_tick(self, number, steps):
        live, model = self.live[number], self.models[number]
        for kind, path in steps:
            holder = at(model.local, path[:-1])
            if isinstance(holder, dict):
                node = live.session
                for key in path[:-1]:
                    node = node[key]
                self.change_both(model, holder, node, kind, path)
        with suppress(SessionGone):
            await live.save()

    def change_both(self, model, holder, node, kind, path):
        key = path[-1]
        current = holder.get(key)
        fresh = next(self.fresh)
        match kind:
            case "add" if current is None or isinstance(current, int):
                model.note("add", path, fresh)
                holder[key] = holder.get(key, 0) + fresh
                node[key] = node.get(key, 0) + fresh
            case "push" if isinstance(current, list):
                model.note("push", path, [fresh])
                holder[key] = [*current, fresh]
                node[key].append(fresh)
            case "insert" if isinstance(current, list):
                model.note("set", path)
                current.insert(0, fresh)
                node[key].insert(0, fresh)
            case "delete" if key in holder:
                model.note("unset", path)
                del holder[key]
                del node[key]
            case "set int" | "set str" | "set list" | "set dict":
                values = {"int": fresh, "str": str(fresh), "list": [fresh], "dict": {"n": fresh, "d": {"n": 0}}}
                value = values[kind.removeprefix("set ")]
                model.note("set", path)
                holder[key] = copied(value)
                node[key] = value

    @precondition(lambda self: self.stored is not None)
    @rule(number=SESSIONS, by_administrator=st.booleans())
    def end(self, number, by_administrator):
        self.run(self.ended(self.managers[number], by_administrator))
        self.stored = None

    async def ended(self, manager, by_administrator):
        await (manager.destroy(self.id) if by_administrator else manager.open([Secret(self.secret)]).destroy())

    @precondition(lambda self: self.stored is None)
    @rule()
    def begin_again(self):
        self.begin()

    @invariant()
    def what_is_stored_and_seen_is_what_the_model_says(self):
        assert self.run(self.database.data(self.id)) == self.stored
        for live, model in zip(self.live, self.models, strict=True):
            assert live.session == model.local


@pytest.fixture(params=["memory", "sqlite", "motor_asyncio", "pymongo"])
def place(request):
    """Gives a runner, and an empty place for sessions in its loop."""
    uri = request.getfixturevalue("mongodb_uri") if request.param in CLIENTS else None
    with asyncio.Runner() as runner:
        opening = open_database(request.param, uri, f"overlap_model_{os.getpid()}")
        database = runner.run(opening.__aenter__())
        yield runner, database
        runner.run(opening.__aexit__(None, None, None))


def test_overlapping_sessions_do_what_the_model_says(place):
    run_state_machine_as_test(lambda: Overlap(*place), settings=settings(max_examples=EXAMPLES, stateful_step_count=30))
