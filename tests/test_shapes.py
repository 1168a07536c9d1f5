"""When an overlapping request gives a field another shape: on every store, what is stored is what the README says."""

import asyncio
import random
import sys

import numpy
import pytest
from bson import Code
from hypothesis import given, settings
from hypothesis import strategies as st

from tornado_sesame import SessionManager, SessionTooLarge
from tornado_sesame.cookie import Secret
from tornado_sesame.stores.keys import _cached_key, escaped_key

from .local import Local
from .support import secret_in


@pytest.fixture
def manager(database):
    return SessionManager(database.new_store())


async def two(manager, content):
    """Returns a session twice, as two requests have it that overlap."""
    live = manager.open()
    live.open_empty()
    live.replace(content)
    await live.save()
    secret = secret_in(live.response_header(https=False)[1])
    sessions = [manager.open([Secret(secret)]) for _ in range(2)]
    await asyncio.gather(*(session.load() for session in sessions))
    return sessions


def delete_an_item(session):
    del session.a["0"]


def assign_below(session):
    session.a["0"] = "A"


def add_below(session):
    session.a["0"] += 1


def assign_below_default(session):
    session.setdefault("a", {})["0"] = "A"


def add_below_default(session):
    inner = session.setdefault("a", {})
    inner["0"] = inner.get("0", 0) + 1


def append_below_default(session):
    session.setdefault("a", {}).setdefault("0", []).append("A")


def default_alone(session):
    session.setdefault("a", {})


def defaults_alone(session):
    session.setdefault("a", {}).setdefault("kept", {})


LIST = ["one", "two"]


@pytest.mark.parametrize("is_crowded", [False, True])
@pytest.mark.parametrize(
    ("before", "change", "meanwhile", "stored"),
    [
        ({"a": {"0": 1}}, delete_an_item, {"a": LIST}, LIST),
        ({"a": {"0": 1}}, delete_an_item, {"a": [{"0": 1}]}, [{"0": 1}]),
        ({"a": {"0": 1}}, delete_an_item, {"a": "text"}, "text"),
        ({"a": {"0": 1}}, delete_an_item, {}, None),
        ({"a": {"0": 1}}, delete_an_item, {"a": {"0": 2, "1": 3}}, {"1": 3}),
        # What does not fit is set whole, as it is seen.
        ({"a": {"0": 1}}, assign_below, {"a": LIST}, {"0": "A"}),
        ({"a": {"0": 1}}, add_below, {"a": LIST}, {"0": 2}),
        ({"a": {"0": 1}}, add_below, {"a": [5, 6]}, {"0": 2}),
        ({}, assign_below_default, {"a": LIST}, {"0": "A"}),
        ({}, assign_below_default, {"a": []}, {"0": "A"}),
        ({}, add_below_default, {"a": [5, 6]}, {"0": 1}),
        ({}, append_below_default, {"a": [["x"]]}, {"0": ["A"]}),
        ({}, default_alone, {"a": LIST}, {}),
        ({}, default_alone, {"a": 5}, {}),
        # What fits leaves alone what is there.
        ({}, default_alone, {"a": {"kept": 1}}, {"kept": 1}),
        ({}, default_alone, {}, {}),
        ({}, defaults_alone, {"a": {"kept": {"x": 1}}}, {"kept": {"x": 1}}),
        ({}, defaults_alone, {"a": {"other": 1}}, {"other": 1, "kept": {}}),
        ({}, assign_below_default, {"a": {"kept": 1}}, {"kept": 1, "0": "A"}),
        ({}, append_below_default, {"a": {"0": ["B"]}}, {"0": ["B", "A"]}),
    ],
)
async def test_what_is_stored(manager, database, before, change, meanwhile, stored, is_crowded):
    one, other = await two(manager, {"n": 0, **before})
    crowd = [(await two(manager, {"n": 0, "d": {"n": 0}}))[0] for _ in range(10 if is_crowded else 0)]
    other.replace({"n": 0, **meanwhile})
    await other.save()
    for live in crowd:
        live.session.d.n += 1
    change(one.session)
    one.session.n += 1
    await asyncio.gather(one.save(), *(live.save() for live in crowd))
    data = await database.data(one.id)
    assert data == ({"n": 1} if stored is None else {"n": 1, "a": stored})
    for live in crowd:
        assert (await database.data(live.id))["d"] == {"n": 1}


async def test_a_code_with_a_scope_is_independent_of_its_original(manager, database):
    scope = {"x": [1]}
    code = Code("f", scope)
    one, _ = await two(manager, {"n": 0})
    one.session.code = code
    await one.save()
    scope["x"].append(2)
    code.scope["y"] = 1
    taken = one.session.copy()["code"]
    taken.scope["x"].append(3)
    assert (await database.data(one.id))["code"].scope == one.session.code.scope == {"x": [1]}
    (await database.data(one.id))["code"].scope["z"] = 1
    assert (await database.data(one.id))["code"].scope == {"x": [1]}


async def test_what_has_an_index_is_an_int(manager, database):
    one, other = await two(manager, {"n": 1})
    one.session.x = numpy.int64(5)
    one.session.list = [numpy.int32(-1), numpy.uint8(7)]
    for live in one, other:
        live.session.n += numpy.int64(1)
    await asyncio.gather(one.save(), other.save())
    data = await database.data(one.id)
    assert data == {"n": 3, "x": 5, "list": [-1, 7]}
    assert {type(data["x"]), type(data["n"])} == {int}


async def test_increments_of_new_fields_count_for_the_limit(database):
    manager = SessionManager(database.new_store(), max_bytes=10_000)
    live, _ = await two(manager, {"hits": {}})
    for number in range(1000):
        url = f"/page/{number}"
        live.session.hits[url] = live.session.hits.get(url, 0) + 1
        if isinstance(await live.saved(), SessionTooLarge):
            break
    assert 500 < number < 900


class Steps:
    """Keys that no dict had before, in no order, and what is done with them."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.used = set()

    def key(self):
        while (key := "".join(self.random.choices("abcdefgh", k=3))) in self.used:
            pass
        self.used.add(key)
        return key

    def do(self, kind, session):
        node = self.random.choice([session, session.d, session.d.d])
        keys = [key for key in node if key != "d"]
        match kind:
            case "add":
                node[self.key()] = self.random.choice([1, {}, [1], {"z": 1, "a": 2}])
            case "count":
                key = self.key()
                node[key] = node.get(key, 0) + 1
            case "default":
                node.setdefault(self.key(), self.random.choice([{}, [], 0, 5]))
            case "change" if keys:
                node[self.random.choice(keys)] = "changed"
            case "delete" if keys:
                del node[self.random.choice(keys)]
            case "popitem" if keys and next(reversed(node)) != "d":
                node.popitem()


@settings(max_examples=40)
@given(
    st.integers(0, 2**32),
    st.lists(st.sampled_from(["add", "count", "default", "change", "delete", "popitem", "save"]), max_size=12),
)
async def test_keys_come_back_in_the_order_that_is_seen(manager, database, seed, kinds):
    """In MongoDB, of several that one save adds to a dict, it decides the order itself; so here each is saved alone."""
    steps = Steps(seed)
    live, _ = await two(manager, {"z": 1, "d": {"y": 1, "d": {"x": 1}}, "a": 1})
    for kind in [*kinds, "save"]:
        if kind != "save":
            steps.do(kind, live.session)
        if kind == "save" or database.is_mongo:
            await live.save()
    assert ordered(await database.data(live.id)) == ordered(live.session.copy())


def ordered(value):
    return [(key, ordered(item)) for key, item in value.items()] if isinstance(value, dict) else value


def test_long_keys_do_not_stay_in_memory():
    before = _cached_key.cache_info().currsize
    for number in range(300):
        assert escaped_key(f"{number}." + "x" * 5000) == f"{number}%2E" + "x" * 5000
    assert _cached_key.cache_info().currsize == before


def test_errors_cut_long_keys():
    session = Local({}).session
    for cause in (
        lambda: session.update({"k" * 10_000: object()}),
        lambda: session.setdefault("k" * 10_000, {"k" * 10_000: object()}),
        lambda: getattr(session, "k" * 10_000),
        lambda: delattr(session, "k" * 10_000),
        lambda: setattr(session, "_" * 10_000, 1),
    ):
        with pytest.raises((TypeError, AttributeError)) as caught:
            cause()
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "statement",
    [
        "s.setdefault(str(n), {})['x'] = 1",
        "s[str(n)] = {}; s[str(n)]['x'] = 1; s[str(n)] = 1",
        "s.d[str(n)].x = 1; s.d[str(n)] = {}",
        "s.d[str(n)].x = 1; del s.d[str(n)]",
        "s.d[str(n)].clear()",
        "s.d.popitem()",
        "s.l[n] = n",
        "s.l[0]",
        "s.l.insert(n, n)",
        "s.l.append(n)",
        "del s.l[-1]",
        "s.ll[n].x = n",
    ],
)
def test_no_mutation_looks_at_all_others(statement):
    """Counted by the lines that Python executes, as times depend on the machine."""

    def lines(number):
        content = {
            "d": {str(n): {"y": 1} for n in range(number)},
            "l": list(range(number)),
            "ll": [{} for _ in range(number)],
        }
        local = Local(content)
        code = compile(statement, "statement", "exec")
        count = 0

        def trace(frame, event, argument):
            nonlocal count
            count += 1
            return trace

        before = sys.gettrace()  # coverage's
        sys.settrace(trace)
        try:
            for n in range(number):
                exec(code, {"s": local.session, "n": n})
            local.take_changes()
        finally:
            sys.settrace(before)
        return count

    assert lines(400) < 5 * lines(100)
