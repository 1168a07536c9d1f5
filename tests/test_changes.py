"""Which operations mutations become, and what these operations do to a document."""

import contextlib
import math
import os

import pytest
from bson import Int64
from hypothesis import given, settings
from hypothesis import strategies as st

from tornado_sesame import SessionDataError
from tornado_sesame.changes import Changes, Create, Inc, Push, Set, Unset
from tornado_sesame.nodes import SessionList
from tornado_sesame.values import MISSING

from .local import Local

EXAMPLES = int(os.environ.get("SESAME_EXAMPLES", "200"))


def plain(value):
    """Returns a copy of *value*, dicts and lists of dicts and lists."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def exact(value):
    """Returns what tells 1, 1.0 and True apart, whatever the order of keys."""
    if isinstance(value, dict):
        return {key: exact(item) for key, item in value.items()}
    return repr([exact(item) for item in value]) if isinstance(value, list) else repr(value)


def mutate(session, statements):
    """Does *statements*, which call the session ``s``."""
    exec(statements, {"s": session, "other": Local(plain(START)).session})


SCALARS = {"n": 5, "f": 0.5, "s": "text", "b": True, "none": None, "big": Int64(2**62)}
START = SCALARS | {"d": {"n": 1, "s": "x", "d": {"n": 1, "l": []}}, "ll": [{"d": {"l": [{}]}}], "l": [1, {"n": 1}, [2]]}
INT64_MAX = 2**63 - 1

TABLE = [
    # Assigning: the smallest changed path
    ("s.x = 1", {"x": Set(1)}),
    ("s.s = 'new'", {"s": Set("new")}),
    ("s.s = 'a'; s.s = 'b'", {"s": Set("b")}),
    ("s['x'] = {'y': (1, {})}", {"x": Set({"y": [1, {}]})}),
    ("s.d.s = 'y'", {"d.s": Set("y")}),
    ("s.d.d.x = None", {"d.d.x": Set(None)}),
    ("s.d.s = 'y'; s.d.d.n = 5; s.s = 'z'", {"d.s": Set("y"), "d.d.n": Set(5), "s": Set("z")}),
    ("s.update(x=1, s='y')", {"x": Set(1), "s": Set("y")}),
    ("s.d |= {'s': 'y'}", {"d.s": Set("y")}),
    ("s.d = s.d.copy()", {"d": Set(START["d"])}),
    # ... also when only the type is another
    ("s.n = 5.0", {"n": Set(5.0)}),
    ("s.b = 1", {"b": Set(1)}),
    ("s.f = '0.5'", {"f": Set("0.5")}),
    # Deleting
    ("del s.s", {"s": Unset()}),
    ("del s['d']['d'].n", {"d.d.n": Unset()}),
    ("del s.d", {"d": Unset()}),
    ("s.pop('l')", {"l": Unset()}),
    ("s.popitem()", {"l": Unset()}),
    ("s.d.clear()", {"d": Set({})}),
    ("s.clear()", {"": Set({})}),
    ("del s.d; s.d = {'n': 1}", {"d": Set({"n": 1})}),
    ("s.d = 1; del s.d", {"d": Unset()}),
    ("s.clear(); s.x = 1; s.x += 1", {"": Set({"x": 2})}),
    ("s.clear(); s.x = 1; del s.x", {"": Set({})}),
    # Adding to a number that was read from the same field
    ("s.n += 1", {"n": Inc(1)}),
    ("s.n -= 2", {"n": Inc(-2)}),
    ("s.n += 0.5", {"n": Inc(0.5)}),
    ("s.n += 0.0", {"n": Inc(0.0)}),
    ("s.n += True", {"n": Inc(1)}),
    ("s.d.d.n += 1", {"d.d.n": Inc(1)}),
    ("s.n += 1; s.n += 2; s.n -= 4", {"n": Inc(-1)}),
    ("s.n += 1; s.n += 0.5", {"n": Inc(1.5)}),
    ("s.n += 0.5; s.n -= 0.5", {"n": Inc(0.0)}),
    ("s.n = s.n + 1 + 1 - 5", {"n": Inc(-3)}),
    ("s.n = 1 + s.n", {"n": Inc(1)}),
    ("s.n -= s.f", {"n": Inc(-0.5)}),
    ("s.update(n=s.n + 1, f=s.f + 1)", {"n": Inc(1), "f": Inc(1)}),
    ("old = s.n; s.n += 5; s.n = old + 1", {"n": Inc(1)}),
    ("s.big += 2**61", {"big": Inc(2**61)}),
    ("s.big -= 2**63", {"big": Inc(-(2**63))}),
    ("s.big -= 2**63; s.big -= 2**62", {"big": Set(-(2**63))}),
    ("s.f += 0.1", {"f": Inc(0.1)}),
    ("s.n += 0.1", {"n": Inc(0.1)}),
    ("s.f += 0.1; s.f += 0.2", {"f": Inc(0.1 + 0.2)}),
    ("s.f += 1e300", {"f": Inc(1e300)}),
    ("s.f += float('inf')", {"f": Inc(math.inf)}),
    ("old = s.f; s.f += 5; s.f = old - 0.5 + 1e-17", {"f": Inc(-0.5)}),
    # ... or to the default of one that is not there
    ("s.x = s.get('x', 0) + 1", {"x": Inc(1)}),
    ("s.x = s.get('x', 0) - 1", {"x": Inc(-1)}),
    ("s.x = s.get('x', 0) + (2**63 - 1)", {"x": Inc(2**63 - 1)}),
    ("s.x = s.get('x', 0) + 0.5", {"x": Inc(0.5)}),
    ("s.x = s.get('x', 0.0) + 0.5", {"x": Inc(0.5)}),
    ("s.x = s.get('x', 0.0) + 1", {"x": Inc(1.0)}),
    ("s.x = s.get('x', 0.0)", {"x": Inc(0.0)}),
    ("s.x = s.get('x', 0)", {"x": Inc(0)}),
    ("s.d.x = s.d.get('x', 0) + 1", {"d.x": Inc(1)}),
    ("s.x = s.get('x', 0) + 1; s.x += 1", {"x": Inc(2)}),
    ("s.x = s.get('x', 0) + 1; s.x -= 1", {"x": Inc(0)}),
    ("s.n = s.get('n', 0) + 1", {"n": Inc(1)}),
    # Any other number is assigned
    ("s.x = s.get('x', 1) + 1", {"x": Set(2)}),
    ("s.x = s.get('y', 0) + 1", {"x": Set(1)}),
    ("s.x = s.d.get('x', 0) + 1", {"x": Set(1)}),
    ("zero = s.get('x', 0); s.x = 5; s.x = zero + 1", {"x": Set(1)}),
    ("s.n *= 2", {"n": Set(10)}),
    ("s.n = int(s.n) + 1", {"n": Set(6)}),
    ("s.n = 10 - s.n + 1", {"n": Set(6)}),
    ("s.x = s.n + 1", {"x": Set(6)}),
    ("s.n = s.d.n + 1", {"n": Set(2)}),
    ("s.d.n = s.d.d.n + 1", {"d.n": Set(2)}),
    ("s.n = other.n + 1", {"n": Set(6)}),
    ("s.n = s.copy()['n'] + 1", {"n": Set(6)}),
    ("s.x = [s.n + 1]", {"x": Set([6])}),
    ("s.b += 1", {"b": Set(2)}),
    ("s.n = 1; s.n += 1", {"n": Set(2)}),
    ("s.n += 1; s.n = 1", {"n": Set(1)}),
    ("s.x = 1; s.x += 1; s.x += 1", {"x": Set(3)}),
    ("del s.n; s.n = 1; s.n += 1", {"n": Set(2)}),
    ("old = s.n; del s.n; s.n = old + 1", {"n": Set(6)}),
    ("old = s.d.n; s.d = {'n': 1}; s.d.n = old + 1", {"d": Set({"n": 2})}),
    # Appending
    ("s.l.append(3)", {"l": Push([3])}),
    ("s.l.extend((3, {}))", {"l": Push([3, {}])}),
    ("s.l += (3,)", {"l": Push([3])}),
    ("s.d.d.l.append(1)", {"d.d.l": Push([1])}),
    ("s.l.append(3); s.l += [[4]]; s.l.extend('ab')", {"l": Push([3, [4], "a", "b"])}),
    # Any other change of a list
    ("s.l.insert(0, 0)", {"l": Set([0, 1, {"n": 1}, [2]])}),
    ("s.l.insert(3, 0)", {"l": Set([1, {"n": 1}, [2], 0])}),
    ("s.l.append(3); s.l.insert(0, 0)", {"l": Set([0, 1, {"n": 1}, [2], 3])}),
    ("s.l.insert(0, 0); s.l.append(3)", {"l": Set([0, 1, {"n": 1}, [2], 3])}),
    ("s.l.append(3); s.l.pop()", {"l": Set(START["l"])}),
    ("s.l[0] = 5", {"l": Set([5, {"n": 1}, [2]])}),
    ("s.l[0] += 5", {"l": Set([6, {"n": 1}, [2]])}),
    ("del s.l[0]", {"l": Set([{"n": 1}, [2]])}),
    ("del s.l[1:]", {"l": Set([1])}),
    ("s.l[:1] = []", {"l": Set([{"n": 1}, [2]])}),
    ("s.l.remove(1)", {"l": Set([{"n": 1}, [2]])}),
    ("s.l.reverse()", {"l": Set([[2], {"n": 1}, 1])}),
    ("s.l.sort(key=repr)", {"l": Set([1, [2], {"n": 1}])}),
    ("s.l.clear()", {"l": Set([])}),
    ("s.d.d.l *= 2", {"d.d.l": Set([])}),
    ("s.d.d.l = [1]", {"d.d.l": Set([1])}),
    ("s.x = [1]; s.x.append(2)", {"x": Set([1, 2])}),
    ("s.x = {'l': [1]}; s.x.l.insert(0, 0)", {"x": Set({"l": [0, 1]})}),
    # Any change inside a list
    ("s.l[1].x = 2", {"l": Set([1, {"n": 1, "x": 2}, [2]])}),
    ("s.l[1].n += 1", {"l": Set([1, {"n": 2}, [2]])}),
    ("del s.l[1].n", {"l": Set([1, {}, [2]])}),
    ("s.l[2] += [3]", {"l": Set([1, {"n": 1}, [2, 3]])}),
    ("s.l[1].clear()", {"l": Set([1, {}, [2]])}),
    ("s.l[1].setdefault('l', []).append(1)", {"l": Set([1, {"n": 1, "l": [1]}, [2]])}),
    ("s.ll[0].d.x = 1", {"ll": Set([{"d": {"l": [{}], "x": 1}}])}),
    ("s.ll[0].d.l[0].x = 1", {"ll": Set([{"d": {"l": [{"x": 1}]}}])}),
    ("s.ll[0].d.l.append(1)", {"ll": Set([{"d": {"l": [{}, 1]}}])}),
    ("s.ll[0].d.clear()", {"ll": Set([{"d": {}}])}),
    ("s.l.append({}); s.l[3].x = 1", {"l": Set([*START["l"], {"x": 1}])}),
    # What is set or removed swallows what was changed below
    ("s.d.s = 'y'; s.d.n += 1; s.d = {}", {"d": Set({})}),
    ("s.d.d.n += 1; s.d.d.l.append(1); del s.d.d", {"d.d": Unset()}),
    ("s.d.d.n += 1; del s.d", {"d": Unset()}),
    ("s.d = {'n': 1}; s.d.n += 1; s.d.x = {}; s.d.x.y = 1", {"d": Set({"n": 2, "x": {"y": 1}})}),
    ("s.n += 1; s.d.n += 1; s.clear()", {"": Set({})}),
    ("s.d.d.n += 1; s.d.clear(); s.n += 1", {"d": Set({}), "n": Inc(1)}),
    ("s.d.d.l.append(1); s.d.d = 1", {"d.d": Set(1)}),
    ("s.d.n += 1; s.dd = 1", {"d.n": Inc(1), "dd": Set(1)}),
    # Defaults that leave alone what an overlapping request put there
    ("s.setdefault('x', 0)", {"x": Inc(0)}),
    ("s.setdefault('x', 0.0)", {"x": Inc(0.0)}),
    ("s.setdefault('x', [])", {"x": Push([])}),
    ("s.setdefault('x', ())", {"x": Push([])}),
    ("s.setdefault('x', {})", {"x": Create()}),
    ("s.setdefault('x', 0); s.x += 1", {"x": Inc(1)}),
    ("s.setdefault('x', 0.0); s.x += 1", {"x": Inc(1.0)}),
    ("s.setdefault('x', []).append(1)", {"x": Push([1])}),
    ("s.setdefault('x', []).extend([1, 2]); s.x += [3]", {"x": Push([1, 2, 3])}),
    ("s.setdefault('x', {}).y = 1", {"x": Create(), "x.y": Set(1)}),
    ("s.setdefault('x', {}).setdefault('y', {})", {"x": Create(), "x.y": Create()}),
    (
        "s.setdefault('x', {}).setdefault('y', {}).setdefault('z', []).append(1)",
        {"x": Create(), "x.y": Create(), "x.y.z": Push([1])},
    ),
    ("s.setdefault('x', {}).y = 1; del s.x.y", {"x": Create()}),
    ("s.setdefault('x', {}).y = 1; s.x = {}", {"x": Set({})}),
    ("s.setdefault('x', {}).y = 1; s.x.clear()", {"x": Set({})}),
    ("s.d.setdefault('x', {}).setdefault('y', 0)", {"d.x": Create(), "d.x.y": Inc(0)}),
    # ... and those that cannot
    ("s.setdefault('x')", {"x": Set(None)}),
    ("s.setdefault('x', 5)", {"x": Set(5)}),
    ("s.setdefault('x', False)", {"x": Set(False)}),
    ("s.setdefault('x', '')", {"x": Set("")}),
    ("s.setdefault('x', [1]).append(2)", {"x": Set([1, 2])}),
    ("s.setdefault('x', {'y': 1}).z = 2", {"x": Set({"y": 1, "z": 2})}),
    ("s.setdefault('x', []).insert(0, 1)", {"x": Set([1])}),
    ("del s.n; s.setdefault('n', 0)", {"n": Set(0)}),
    ("del s.l; s.setdefault('l', []).append(1)", {"l": Set([1])}),
    ("del s.d; s.setdefault('d', {}).setdefault('x', 0)", {"d": Set({"x": 0})}),
    # Nothing, or what cancels out
    ("s.n, s.d.d.l, s.copy(), [*s.items()], s.get('x', 0), s.l[1].n, s.l[:], 'x' in s, s == {}", {}),
    ("s.n = 5; s.s = 'text'; s.none = None; s.b = True; s.f = 0.5; s.big = 2**62", {}),
    ("s.n = 1; s.n = 5", {}),
    ("s.n += 1; s.n -= 1", {}),
    ("s.n += 1; s.n = 5", {}),
    ("s.f += 0.5; s.f -= 0.5", {}),
    ("s.n += 0; s.n = s.n", {}),
    ("del s.s; s.s = 'text'", {}),
    ("s.x = 1; del s.x", {}),
    ("s.x = {}; s.x.y = 1; del s.x", {}),
    ("s.x = s.get('x', 0) + 1; del s.x", {}),
    ("s.setdefault('x', {}).y = 1; del s.x", {}),
    ("s.setdefault('x', []).append(1); del s.x", {}),
    ("s.setdefault('n', 0); s.setdefault('d', {}); s.setdefault('none', 1); s.l[1].setdefault('n', 0)", {}),
    ("s.d = s.d; s.l = s.l; s.l[1] = s.l[1]; s.l += []; s.l.extend([])", {}),
    ("s.update(s); s |= {}; s.update()", {}),
    ("s.pop('x', None); s.d.d.l.clear()", {}),
]


def test_every_row_is_another():
    assert len(dict(TABLE)) == len(TABLE)


@pytest.mark.parametrize(("statements", "expected"), TABLE, ids=dict(TABLE))
def test_mutations_become_operations(statements, expected):
    content = Local(plain(START))
    mutate(content.session, statements)
    assert bool(content.changes) == bool(expected)
    changes = content.take_changes()
    ops = {tuple(path.split(".")) if path else (): op for path, op in expected.items()}
    assert exact(dict(changes.ops)) == exact(ops)
    assert bool(changes) == bool(expected)
    assert exact(changes.apply(plain(START))) == exact(content.session.copy())
    assert not content.take_changes()


def test_the_content_can_be_replaced():
    content = Local({"n": 1})
    content.session.n += 1
    content.replace({"x": [1]})
    content.session.x += [2]
    assert content.take_changes() == Changes({(): Set({"x": [1, 2]})})
    content.replace({})
    assert content.take_changes() == Changes({(): Set({})})
    content.replace({})
    assert not content.take_changes()
    content.replace({"z": 1})
    assert content.take_changes() == Changes({(): Set({"z": 1})})


def test_what_was_taken_does_not_change_any_more():
    content = Local({"l": [], "d": {}})
    mutate(content.session, "s.x = {'y': []}; s.l.append({'z': 1}); s.d.a = [1]")
    changes = content.take_changes()
    before = exact(dict(changes.ops))
    mutate(content.session, "s.x.y.append(1); s.l[0].z = 2; s.d.a += [2]")
    assert exact(dict(changes.ops)) == before
    assert content.take_changes().ops == {("x", "y"): Push([1]), ("l",): Set([{"z": 2}]), ("d", "a"): Push([2])}


@pytest.mark.parametrize("now", [None, "text", True, [], {}, 5.5, 7, Int64(7)], ids=repr)
def test_a_number_that_was_read_before_a_save_can_be_used_after_it(now):
    content = Local({"n": 5})
    old = content.session.n
    content.session.n = now
    content.take_changes()
    before = content.session.copy()
    content.session.n = old + 1
    assert content.session == {"n": 6}
    changes = content.take_changes()
    assert changes.conflicts(before) or changes.apply(before) == {"n": 6}


def test_loading_again_forgets_what_was_noted():
    content = Local({"n": 5})
    content.session.n += 1
    content.open({"n": 7})
    assert not content.take_changes()
    assert content.session == {"n": 7}


def test_what_is_saved_whole_after_a_conflict_is_no_change_any_more_and_whole_if_it_fails():
    for fails in (True, False):
        content = Local(plain(START))
        mutate(content.session, "s.d.n += 1; s.s = 'x'")
        content.take_changes()
        mutate(content.session, "s.d.n += 1; s.d.d.x = 1; s.l.append(3)")
        content.changes.widen(["d"])
        if fails:
            content.changes.restore()
            whole = {"n": 3, "s": "x", "d": {"n": 1, "l": [], "x": 1}}
            assert content.take_changes().ops == {("d",): Set(whole), ("s",): Set("x"), ("l",): Push([3])}
        else:
            content.changes.confirm()
            assert content.take_changes().ops == {("l",): Push([3])}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("s.n += 1", "s.n += 2", {"n": Inc(3)}),
        ("s.n += 1", "s.n = 9", {"n": Set(9)}),
        ("s.n = 9", "s.n += 2", {"n": Set(11)}),
        ("s.n = 9", "del s.n", {"n": Unset()}),
        ("s.n += 1", "del s.n", {"n": Unset()}),
        ("s.x = 1", "del s.x", {}),
        ("s.x = s.get('x', 0) + 1", "s.x += 1", {"x": Inc(2)}),
        ("s.x = s.get('x', 0) + 1", "del s.x", {}),
        (
            "s.big += 2**61",
            "s.big += 2**61 - 1; s.big -= 2**62 - 1; s.big -= 2**62; s.big -= 2**62; s.big -= 2**61",
            {"big": Set(-(2**62) - 2**61)},
        ),
        ("s.l.append(3)", "s.l.append(4)", {"l": Push([3, 4])}),
        ("s.l.append(3)", "s.l.insert(0, 0)", {"l": Set([0, 1, {"n": 1}, [2], 3])}),
        ("s.l.insert(0, 0)", "s.l.append(3)", {"l": Set([0, 1, {"n": 1}, [2], 3])}),
        ("del s.n", "s.setdefault('n', 0)", {"n": Set(0)}),
        ("del s.d", "s.setdefault('d', {}).x = 1", {"d": Set({"x": 1})}),
        ("del s.d", "s.d = {'x': 1}", {"d": Set({"x": 1})}),
        ("del s.s", "s.s = 'new'", {"s": Set("new")}),
        ("s.setdefault('x', {}).y = 1", "s.x.z = 2; s.x.y = 3", {"x": Create(), "x.y": Set(3), "x.z": Set(2)}),
        ("s.setdefault('x', {}).y = 1", "del s.x.y", {"x": Create()}),
        ("s.setdefault('x', {}).y = 1", "del s.x", {}),
        ("s.setdefault('x', {}).y = 1", "s.x = 5", {"x": Set(5)}),
        ("s.d.s = 'y'", "s.setdefault('x', {}).y = 1", {"d.s": Set("y"), "x": Create(), "x.y": Set(1)}),
        ("s.d.s = 'y'; s.d.d.n += 1", "s.d.d.n += 1; s.d.n = 7", {"d.s": Set("y"), "d.d.n": Inc(2), "d.n": Set(7)}),
        ("s.d.s = 'y'", "del s.d", {"d": Unset()}),
        ("s.d.s = 'y'", "s.d = {}", {"d": Set({})}),
        ("s.d = {}", "s.d.x = 1", {"d": Set({"x": 1})}),
        ("s.clear()", "s.x = 1", {"": Set({"x": 1})}),
        ("s.x = 1", "s.clear()", {"": Set({})}),
        ("", "s.x = 1", {"x": Set(1)}),
        ("s.x = 1", "", {"x": Set(1)}),
    ],
)
def test_what_was_not_saved_is_pending_together_with_what_came_later(before, after, expected):
    content = Local(plain(START))
    mutate(content.session, before)
    content.take_changes()
    mutate(content.session, after)
    content.changes.restore()
    assert bool(content.changes) == bool(expected)
    ops = {".".join(path): op for path, op in content.take_changes().ops.items()}
    assert ops == expected


def test_a_sum_from_nothing_that_was_not_saved_is_seen_as_the_store_will_have_it():
    content = Local({})
    content.session.f = content.session.get("f", 0.0) + 0.1
    content.take_changes()
    content.session.f += 0.1
    content.session.f += -0.7
    content.changes.restore()
    assert content.take_changes().apply({}) == content.session.copy()


def test_an_owner_is_a_change_like_any_other():
    content = Local({"n": 1})
    changes = content.changes
    changes.attribute_assigned("owner", None, "alice")
    changes.attribute_assigned("owner", "alice", None)
    assert not changes
    changes.attribute_assigned("owner", None, "alice")
    content.owner = "alice"
    assert content.take_changes() == Changes({}, Set("alice"))
    assert not changes
    changes.restore()
    assert content.take_changes() == Changes({}, Set("alice"))
    changes.attribute_assigned("owner", "alice", "bob")
    content.owner = "bob"
    changes.restore()
    assert content.take_changes() == Changes({}, Set("bob"))
    changes.confirm()
    assert not content.take_changes()


@pytest.mark.parametrize(
    ("start", "amounts", "seen", "op", "stored"),
    [
        (0.7, (3, 0.1), 3.8000000000000003, Inc(3.1), 3.8),
        (0.2, (0.7, 0.1), 0.9999999999999999, Inc(0.7 + 0.1), 1.0),
        (1.1, (1.1, 3), 5.2, Inc(4.1), 5.199999999999999),
        (0.1, (6, -7), -0.9000000000000004, Inc(-1), -0.9),
    ],
)
def test_a_sum_that_rounds_otherwise_at_once_is_seen_as_the_store_has_it(start, amounts, seen, op, stored):
    content = Local({"d": {"f": start}})
    for amount in amounts:
        content.session.d.f += amount
    assert content.session.d.f == seen
    changes = content.take_changes()
    assert changes.ops == {("d", "f"): op}
    assert changes.apply({"d": {"f": start}}) == content.session == {"d": {"f": stored}}
    assert not content.take_changes()


@pytest.mark.parametrize(("amounts", "op"), [((0.1, 1.3), Inc(1.4)), ((0.2, 0.6), Inc(0.7999999999999998))])
def test_what_is_added_is_what_comes_to_the_sum_that_was_seen_if_there_is_such_a_number(amounts, op):
    content = Local({"f": 0.5})
    for amount in amounts:
        content.session.f += amount
    seen = content.session.copy()
    changes = content.take_changes()
    assert changes.ops == {("f",): op}
    assert changes.apply({"f": 0.5}) == content.session == seen


@pytest.mark.parametrize(("start", "amount"), [(INT64_MAX, 1), (-INT64_MAX, -2), (0, 2**63), (INT64_MAX - 5, 2**62)])
def test_a_sum_that_overflows_64_bits_is_refused(start, amount):
    changed = []
    content = Local({"n": start, "d": {"d": {"n": start}}}, lambda: changed.append(True))
    before = content.session.copy()
    for node, path in ((content.session, ("n",)), (content.session.d.d, ("d", "d", "n"))):
        with pytest.raises(SessionDataError, match="does not fit into 64 bits") as caught:
            node.n += amount
        assert caught.value.path == path
    assert content.session == before
    assert not changed
    assert not content.take_changes()


class Refused(Exception):
    pass


def refuse():
    raise Refused


@pytest.mark.parametrize("statements", [statements for statements, expected in TABLE if expected])
def test_when_a_change_is_refused_it_does_not_happen(statements):
    content = Local(plain(START), refuse)
    with pytest.raises(Refused):
        mutate(content.session, statements)
    assert exact(content.session.copy()) == exact(START)
    assert not content.changes


def test_what_could_not_be_taken_out_stays_attached():
    refused = [True]
    content = Local(plain(START), lambda: refused and refuse())
    nodes = content.session.d, content.session.d.d, content.session.l[1], content.session.l
    for statements in (
        "del s.d",
        "s.d = 1",
        "s.clear()",
        "del s.l",
        "s.l.clear()",
        "s.l[1] = 0",
        "s.l.pop(1)",
        "s.l[:] = []",
    ):
        with pytest.raises(Refused):
            mutate(content.session, statements)
    refused.clear()
    for node in nodes:
        node.append(9) if isinstance(node, SessionList) else node.update(x=9)
    changed = {("d", "x"): Set(9), ("d", "d", "x"): Set(9), ("l",): Set([1, {"n": 1, "x": 9}, [2], 9])}
    assert content.take_changes().ops == changed


# What is done with changes

OPS = {
    ("n",): Inc(2),
    ("d", "x"): Set([1]),
    ("d", "gone"): Unset(),
    ("e", "l"): Push([1]),
    ("c",): Create(),
    ("c", "f"): Create(),
    ("c", "f", "n"): Inc(1),
}
CHANGES = Changes(OPS)


@pytest.mark.parametrize(
    ("data", "conflicts"),
    [
        ({"d": {}, "e": {}}, set()),
        ({"n": 1.5, "d": {"x": 1, "gone": {}}, "e": {"l": [0]}, "c": {"f": {"n": 1}}}, set()),
        ({"d": {}, "e": {}, "c": {}}, set()),
        *[({"n": n, "d": {}, "e": {}}, set()) for n in (INT64_MAX - 2, 1e300, math.inf)],
        ({}, {"d", "e"}),
        ({"d": 1, "e": {"l": {}}}, {"d", "e"}),
        ({"d": [], "e": None}, {"d", "e"}),
        *[({"n": n, "d": {}, "e": {}}, {"n"}) for n in (None, "1", True, [1], {}, INT64_MAX, INT64_MAX - 1)],
        *[({"c": c, "d": {}, "e": {}}, {"c"}) for c in (1, [], None, {"f": None}, {"f": {"n": "1"}}, {"f": []})],
    ],
)
def test_changes_know_what_they_do_not_fit_on(data, conflicts):
    assert CHANGES.conflicts(data) == conflicts


def test_conflicts_are_resolved_by_whole_fields():
    resolved = CHANGES.resolved({"d": {"x": [1]}, "e": MISSING, "c": 5})
    assert resolved == Changes({("n",): Inc(2), ("d",): Set({"x": [1]}), ("e",): Unset(), ("c",): Set(5)})
    assert Changes(OPS, Set("alice")).resolved({"d": 1}).owner == Set("alice")
    assert not resolved.conflicts({"n": 1, "d": "anything"})


@pytest.mark.parametrize(
    ("data", "after"),
    [
        ({"d": {}, "e": {}}, {"n": 2, "d": {"x": [1]}, "e": {"l": [1]}, "c": {"f": {"n": 1}}}),
        (
            {"n": 1, "o": 1, "d": {"x": 5, "gone": 1}, "e": {"l": [0]}, "c": {"g": 0, "f": {"n": 1}}},
            {"n": 3, "o": 1, "d": {"x": [1]}, "e": {"l": [0, 1]}, "c": {"g": 0, "f": {"n": 2}}},
        ),
    ],
)
def test_changes_apply(data, after):
    assert CHANGES.apply(plain(data)) == after


def test_the_whole_content_is_set_whatever_was_there():
    changes = Changes({(): Set({"x": 1})})
    assert changes.apply({"y": 2}) == {"x": 1}
    assert changes.conflicts({"y": 2}) == changes.required() == set()


@pytest.mark.parametrize("data", [{}, {"d": {}}, {"d": 1}, {"d": {"d": []}}, {"d": {"d": {}}}], ids=repr)
def test_removing_what_is_not_there_changes_nothing(data):
    changes = Changes({("d", "d", "x"): Unset()})
    assert not changes.conflicts(data)
    assert not changes.required()
    assert changes.apply(plain(data)) == data
    assert bool(changes.without_removals_from(data)) is (data == {"d": {"d": {}}})


def test_only_removals_are_left_out_where_there_is_nothing_to_remove_from():
    changes = Changes(OPS | {("x", "gone"): Unset()})
    assert changes.without_removals_from({"d": {}, "e": {}}) == CHANGES
    assert changes.without_removals_from({"d": {}, "e": {}, "x": {}}) == changes


def test_the_dicts_above_a_change_are_required_unless_setdefault_made_them():
    assert CHANGES.required() == {("d",), ("e",)}
    assert Changes({("a", "b", "c"): Inc(1)}).required() == {("a",), ("a", "b")}
    assert Changes({("a", "b"): Create(), ("a", "b", "c"): Inc(1)}).required() == {("a",)}
    content = Local({})
    content.session.setdefault("x", {}).setdefault("y", {})["z"] = 1
    changes = content.take_changes()
    assert [path for path, op in changes.ops.items() if op == Create()] == [("x",), ("x", "y")]
    assert not changes.required()


@settings(max_examples=EXAMPLES)
@given(st.lists(st.sampled_from([statements for statements, _ in TABLE]), max_size=6))
def test_only_what_is_created_stands_above_another_and_all_together_give_what_is_seen(mutations):
    content = Local(plain(START))
    mutate_as_far_as_possible(content.session, mutations)
    changes = content.take_changes()
    above = [path[:depth] for path in changes.ops for depth in range(len(path)) if path[:depth] in changes.ops]
    assert all(changes.ops[path] == Create() for path in above)
    assert not changes.conflicts(plain(START))
    assert exact(changes.apply(plain(START))) == exact(content.session.copy())


@settings(max_examples=EXAMPLES)
@given(st.lists(st.lists(st.sampled_from([statements for statements, _ in TABLE]), max_size=4), max_size=4))
def test_what_was_not_saved_gives_what_is_seen_together_with_what_came_later(tries):
    """However often that happens."""
    content = Local(plain(START))
    for mutations in tries:
        mutate_as_far_as_possible(content.session, mutations)
        content.changes.restore()
        content.take_changes()
    content.changes.restore()
    changes = content.take_changes()
    assert not changes.conflicts(plain(START))
    assert exact(changes.apply(plain(START))) == exact(content.session.copy())
    content.changes.confirm()
    assert not content.changes


def mutate_as_far_as_possible(session, mutations):
    for statements in mutations:
        with contextlib.suppress(LookupError, TypeError, AttributeError, ValueError):  # where others deleted things
            mutate(session, statements)


@pytest.mark.parametrize(
    ("stored", "code", "expected"),
    [
        (math.inf, "s.f = older + 1", 2.0),
        (-math.inf, "s.f = older - 1", 0.0),
        (math.inf, "s.f = s.f - math.inf", math.nan),
        (1.0, "s.f += math.inf", math.inf),
        (math.inf, "s.f -= 5", math.inf),
    ],
)
def test_what_is_stored_is_what_was_seen_beyond_infinity_too(stored, code, expected):
    local = Local({"f": 1.0})
    older = local.session.f
    local.session.f = stored
    local.take_changes()
    local.changes.confirm()
    exec(code, {"s": local.session, "older": older, "math": math})
    saved = local.take_changes().apply({"f": stored})
    assert repr(saved["f"]) == repr(float(local.session.f)) == repr(expected)
