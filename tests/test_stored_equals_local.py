"""Whatever is done to a session, what is stored is what its handler sees: for any mutations, with saves anywhere."""

import asyncio
import contextlib
import math
import os
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import Decimal128, Int64, ObjectId, encode
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tornado_sesame import Session, SessionDataError, SessionManager, TypedSession, TypedSessionDict
from tornado_sesame.nodes import DictNode, SessionList
from tornado_sesame.values import CODEC_OPTIONS

from .support import CLIENTS, open_database

EXAMPLES = int(os.environ.get("SESAME_EXAMPLES", "150"))

KEYS = st.sampled_from(
    ["a", "b", "c", "n", "f", "l", "d", "", ".", "a.b", "$x", "a\0b", "%", "%2E", "é", "_id", "items"]
)
INTS = st.one_of(st.integers(-3, 3), st.sampled_from([-(2**63), 2**63 - 1, 2**31, -(2**31) - 1]))
FLOATS = st.one_of(st.sampled_from([0.1, -0.1, 0.5, 1e300, -0.0, 1e-5]), st.floats())
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    INTS,
    FLOATS,
    st.text(max_size=3),
    st.binary(max_size=3),
    st.sampled_from([ObjectId("0" * 24), Decimal128("1.0"), datetime(2026, 1, 2, 3, 4, 5, 678901, UTC), Int64(5)]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=6,
)
CONTENTS = st.one_of(
    st.dictionaries(KEYS, VALUES, max_size=5),
    st.fixed_dictionaries(
        {
            "n": INTS,
            "f": FLOATS,
            "l": st.lists(VALUES, max_size=3),
            "d": st.fixed_dictionaries({"n": INTS, "l": st.lists(VALUES, max_size=3), "d": st.just({"n": 1})}),
        }
    ),
)


class Inner(TypedSessionDict):
    n: int = 0
    l: list[Any] = []  # noqa: E741
    d: "Inner"


class Typed(TypedSession):
    n: int = 0
    f: float = 0.0
    l: list[Inner] = []  # noqa: E741
    d: Inner
    a: dict[str, Inner]
    b: list[list[Inner]]
    c: list[str] = ["default"]


@st.composite
def steps(draw):
    """Returns one step: "save", new content, or a function that changes a session a few times in one place."""
    kind = draw(st.sampled_from(["save", "save", "replace", *["change"] * 9]))
    if kind != "change":
        return draw(CONTENTS) if kind == "replace" else kind
    way = draw(st.lists(st.integers(0, 3), max_size=2))
    changes = draw(st.lists(st.tuples(*ARGUMENTS), min_size=1, max_size=3))
    start = draw(st.integers(0, 3))

    def change(session, kept):
        node = kept[-start] if start and start <= len(kept) else session  # where an earlier step was
        for choice in way:
            below = [child for child in children(node) if isinstance(child, DictNode | SessionList)]
            if not below:
                break
            node = below[choice % len(below)]
        kept.append(node)
        for in_dict, in_list, key, index, value, values, number in changes:
            if isinstance(node, DictNode):
                in_dict(node, key, value, number, index)
            else:
                in_list(node, index, value, number, values)

    return change


def children(node):
    if not isinstance(node, DictNode):
        return list(node)
    return [node[key] for key in node] + [getattr(node, field) for field in node._fields if field not in node]


def existing(node, key, index):
    """Returns a key that is in the dict, if it has any."""
    keys = sorted(node)
    return keys[index % len(keys)] if keys else key


def add(node, key, value, number, index):
    key = existing(node, key, index)
    old = node.get(key)
    if isinstance(old, int | float) and not isinstance(old, bool):
        node[key] += number


def add_twice(node, key, value, number, index):
    add(node, key, value, number, index)
    add(node, key, value, 0.1, index)


def add_and_take_back(node, key, value, number, index):
    add(node, key, value, number, index)
    add(node, key, value, -number, index)


def add_to_default(node, key, value, number, index):
    zero = [0, 0.0, -0.0][index % 3]
    old = node.get(key, zero)
    if isinstance(old, int | float) and not isinstance(old, bool):
        node[key] = node.get(key, zero) + number


def setdefault(node, key, value, number, index):
    node.setdefault(key, value)


def setdefault_and_go_on(node, key, value, number, index):
    inner = node.setdefault(key, [{}, [], 0][index % 3])
    if isinstance(inner, SessionList):
        inner.append(value)
    elif isinstance(inner, DictNode):
        inner[key] = value


def assign(node, key, value, number, index):
    node[key] = value


def assign_existing(node, key, value, number, index):
    node[existing(node, key, index)] = value


def assign_and_take_back(node, key, value, number, index):
    if key in node:
        old = node[key]
        node[key] = value
        node[key] = old


def delete(node, key, value, number, index):
    node.pop(existing(node, key, index), None)


def delete_and_put_back(node, key, value, number, index):
    key = existing(node, key, index)
    if key in node:
        node[key] = node.pop(key)


def move(node, key, value, number, index):
    source = existing(node, key, index)
    if source in node:
        node[key] = node[source]


def update(node, key, value, number, index):
    node.update({key: value, "n": number})


def clear(node, key, value, number, index):
    node.clear()


def popitem(node, key, value, number, index):
    if node:
        node.popitem()


def extend_below(node, key, value, number, index):
    for child in children(node):
        if isinstance(child, SessionList):
            child += [value]


def append(items, index, value, number, values):
    items.append(value)


def extend(items, index, value, number, values):
    items.extend(values)


def insert(items, index, value, number, values):
    items.insert(index, value)


def set_item(items, index, value, number, values):
    if items:
        items[index % len(items)] = value


def delete_item(items, index, value, number, values):
    if items:
        del items[index % len(items)]


def set_slice(items, index, value, number, values):
    items[index:] = values


def reverse(items, index, value, number, values):
    items.reverse()


def sort(items, index, value, number, values):
    items.sort(key=repr)


def double(items, index, value, number, values):
    if len(items) < 10:
        items *= 2


def empty(items, index, value, number, values):
    items.clear()


def change_inside(items, index, value, number, values):
    for item in items:
        if isinstance(item, DictNode):
            item["n"] = item.get("n", 0) if isinstance(item.get("n"), int) else 0
        elif isinstance(item, SessionList):
            item.append(value)


DICT_CHANGES = (
    *(add, add_twice, add_and_take_back, add_to_default, setdefault, setdefault_and_go_on, assign, assign_existing),
    *(assign_and_take_back, delete, delete_and_put_back, move, update, clear, popitem, extend_below),
)
LIST_CHANGES = (
    *(append, append, extend, insert, set_item, delete_item, set_slice, reverse, sort, double, empty, change_inside),
)


ARGUMENTS = (
    st.sampled_from(DICT_CHANGES),
    st.sampled_from(LIST_CHANGES),
    KEYS,
    st.integers(-2, 3),
    VALUES,
    st.lists(VALUES, max_size=3),
    st.one_of(INTS, FLOATS),
)


def exact(data):
    """Returns what tells contents apart to the bit, whatever the order of their keys."""
    if isinstance(data, dict):
        return {key: exact(value) for key, value in data.items()}
    if isinstance(data, list):
        return [exact(value) for value in data]
    if isinstance(data, float) and math.isnan(data):
        return "NaN"
    if isinstance(data, float) and data == 0:
        return "zero"  # to MongoDB the two are equal: it keeps the one when the other is set
    return type(data) is bool, encode({"": data}, codec_options=CODEC_OPTIONS)


@pytest.fixture(params=["memory", "sqlite", "pymongo"])
def new_places(request):
    """Gives a runner, and a function that opens an empty place for sessions in its loop."""
    uri = request.getfixturevalue("mongodb_uri") if request.param in CLIENTS else None
    with asyncio.Runner() as runner:
        place = open_database(request.param, uri, f"stored_equals_local_{os.getpid()}")
        database = runner.run(place.__aenter__())
        yield runner, database
        runner.run(place.__aexit__(None, None, None))


@pytest.mark.parametrize("kind", [Session, Typed])
def test_what_is_stored_is_what_is_seen(new_places, kind):
    runner, database = new_places

    @settings(max_examples=EXAMPLES)
    @given(CONTENTS, st.lists(steps(), max_size=10))
    @example({"f": 0.1}, [lambda session, kept: add_twice(session, "f", None, 0.1, 0)])
    def check(content, steps):
        runner.run(run(database, kind, content, steps))

    check()


async def run(database, kind, content, steps):
    manager = SessionManager(database.new_store())
    live = manager.open(kind=kind)
    kept = []
    live.open_empty()
    live.replace(content)
    await live.save()
    for step in steps:
        if step == "save":
            await live.save()
            await compare(database, live)
        elif isinstance(step, dict):
            live.replace(step)
        else:
            with contextlib.suppress(SessionDataError):  # an addition may not fit into 64 bits
                step(live.session, kept)
    await live.save()
    await compare(database, live)


async def compare(database, live):
    local = live.session.copy()
    stored = await database.data(live.id) if live.id else {}
    assert exact(stored) == exact(local)
