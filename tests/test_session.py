"""The session and what nests in it behave as the dicts and lists that they look like, until they are taken out."""

import asyncio
import copy
import dataclasses
import gc
import json
import operator
import pickle

import pytest
from tornado.escape import json_encode

from tornado_sesame import Session, SessionDataError, SessionDict, SessionList, SessionNotLoaded
from tornado_sesame.values import SessionContainer

from .local import Local


def opened(data, changed=None):
    return Local(data, lambda: changed.append(True) if changed is not None else None)


def plain(value):
    """Returns *value* without nodes, views and iterators, with its type where that can be told apart."""
    if isinstance(value, SessionContainer):
        return value.copy()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(item) for item in value)
    if isinstance(value, bool | int | float | str | None):
        return value
    return [plain(item) for item in value]


def run(code, **names):
    """Returns the value of an expression; executes anything else."""
    try:
        code = compile(code, code, "eval")
    except SyntaxError:
        code = compile(code, code, "exec")
    return eval(code, dict(names, **HELPERS))


def outcome(code, **names):
    """Returns the result of *code*, or the type of what it raises; and what is in its names then, in its order."""
    try:
        result = plain(run(code, **names))
    except Exception as error:
        result = type(error)
    return repr(result), repr(plain(names))


DICT = {"b": 1, "a": {"x": [1, {"y": 2}]}, "l": [3, 1, 2], "s": "text", "t": True, "none": None, "f": 1.5}
LIST = [3, 1, {"x": [1]}, [2, [3]], "text", None, True, 1, 1.5]
HELPERS = {"DICT": DICT, "LIST": LIST, "json": json, "copy": copy, "pickle": pickle, "json_encode": json_encode}

DICT_USES = [
    *("len(d)", "bool(d)", "str(d)", "repr(d)", "hash(d)", "list(d)", "dict(d)", "sorted(d)", "reversed(d)", "f'{d}'"),
    *("'a' in d", "'x' in d", "1 in d", "None in d", "[] in d", "[1][d]", "d()", "d < {}", "d + {}", "d[:]", "d[1]"),
    *("d['a']", "d['l']", "d['none']", "d['a']['x'][1]['y']", "d['x']", "d['a']['y']", "d[[]]"),
    *("[d[key] for key in d]",),
    *("d.get('a')", "d.get('x')", "d.get('x', 5)", "d.get('none', 5)", "d.get('x', 0)", "d.get('b', 0)", "d.get(1)"),
    *("d.get([])", "d.get()", "d.get('x', 1, 2)", "d.keys()", "d.values()", "d.items()", "d.copy()", "{**d}"),
    *("len(d.keys())", "1 in d.values()", "('b', 1) in d.items()", "('b', 2) in d.items()", "d.keys() == set(d)"),
    *("sorted(d.keys() & {'a', 'x'})", "sorted(d.keys() - {'a'})", "sorted(d.keys() ^ {'a', 'x'})"),
    *("[[d == o, o == d, d != o] for o in (DICT, {}, DICT | {'b': 2}, DICT | {'x': 1}, [*DICT], None, d)]",),
    *("[[d['l'] == o, o == d['l'], d['a'] == o] for o in ([3, 1, 2], (3, 1, 2), [3, 1], DICT['a'], {})]",),
    *("d | {'b': 2, 'x': {}}", "{'b': 2, 'x': {}} | d", "d | []", "d | None", "json.dumps(d.copy())"),
    *("d['x'] = 1", "d['b'] = 2", "d['x'] = {'y': [{}]}", "d[[]] = 1", "d['b'] = d['b']", "d['b'] += 1", "d['t'] += 1"),
    *("d['a']['x'][1]['y'] = 3", "d['a']['x'] += [1]", "d['x'] += 1", "d['s'] += 1", "d['s'] += '!'"),
    *("del d['a']", "del d['x']", "del d[[]]", "del d['b']; d['b'] = 1", "d.pop('a')", "d.pop('s')", "d.pop('b', 5)"),
    *("d.pop('x')", "d.pop('x', None)", "d.pop('x', 5)", "d.pop([])", "d.pop()", "d.pop('x', 1, 2)", "d.popitem()"),
    *("[d.popitem() for _ in range(7)]", "[d.popitem() for _ in range(8)]", "d.clear()", "d.clear(); d.clear()"),
    *("d.setdefault('b', 5)", "d.setdefault('x', 5)", "d.setdefault('none', 1)", "d.setdefault('y')"),
    *("d.setdefault('x', []).append({'y': 1})", "d.setdefault('x', {}).setdefault('y', {}).update(z=1)"),
    *("d.update({'b': 2, 'x': 3})", "d.update([('b', 2), ('x', 3)])", "d.update({'b': 2}, x=3)", "d.update()"),
    *("d.update(d)", "d.update(d['a'])", "d.update(1)", "d.update(['a'])", "d.update({}, {})", "d.update([])"),
    *("d |= {'b': 2, 'x': [1]}", "d |= [('x', 1)]", "d |= 1", "for key in d: d[key * 2] = 1"),
    *("for key in d: d[key] = 1",),
    *("match d:\n  case {'b': b, 'a': {'x': [_, {'y': y}]}, 'l': [*_, last]}: d['found'] = [b, y, last]",),
]

LIST_USES = [
    *("len(l)", "bool(l)", "str(l)", "repr(l)", "hash(l)", "list(l)", "tuple(l)", "min(l)", "f'{l}'", "[*reversed(l)]"),
    *("[value in l for value in (3, {'x': [1]}, [2, [3]], [2], 'text', None, 5, {}, 1.5)]", "[*zip(l, 'abc')]"),
    *("[l.count(value) for value in (1, {'x': [1]}, 'x', None, [2, [3]])]", "l.index({'x': [1]})", "l.index(1)"),
    *("l.index(1, 2)", "l.index(None, -6, -1)", "l.index(99)", "l.index(3, 1)", "l.index(1, 0, 1)", "l.index()"),
    *("l[0]", "l[-1]", "l[2]", "l[2]['x']", "l[3][1][0]", "l[True]", "l[99]", "l[-99]", "l['x']", "l[1.0]", "l[None]"),
    *("l[1:3]", "l[:]", "l[::-1]", "l[-2:]", "l[5:2]", "l[::2]", "l[99:]", "l['a':]", "l[::0]", "l < 1", "l + None"),
    *("[[l == o, o == l, l != o] for o in (LIST, [], tuple(LIST), LIST[:1], None, l)]", "l < [4], l < [3, 0], l < l"),
    *("l + [1, {}]", "[1, {}] + l", "l * 2", "2 * l", "l * 0", "l * 1.5", "l.copy()", "l.name", "l.name = 1", "l()"),
    *("l.append(1)", "l.append({'a': []}); l[-1]['a'].append(1)", "l.append([1, [2]])", "l.append()", "l.append(1, 2)"),
    *("l.extend([1, {}, []])", "l.extend(n for n in range(3))", "l.extend('ab')", "l.extend([])", "l.extend(l)"),
    *("l.extend(1)", "l += (1, {})", "l += 1", "l *= 2", "l *= 0", "l *= 'x'", "l.insert(0, {})", "l.insert(-1, [])"),
    *(
        "l.insert(99, 1)",
        "l.insert(10**30, 1)",
        "l.insert(-99, 2)",
        "l.insert('x', 1)",
        "l[0] = {}",
        "l[-1] = [1]",
        "l[2] = l[2]",
    ),
    *("l[0] = l[0]",),
    *("l[99] = 1", "l['x'] = 1", "l[2]['x'] = 2; l[3][1][0] = 4", "l[0] += 1", "l[3] += [1]", "l[1:3] = [{}, 2, 3]"),
    *("l[1:] = []", "l[:] = l", "l[:1] = 'ab'", "l[:1] = 1", "l[::4] = [1, {}, 3]", "l[::2] = [1]", "l[::-1] = [*l]"),
    *("del l[0]; del l[-1]", "del l[99]", "del l[1:-1]", "del l[::2]", "del l['x']", "l.pop()", "l.pop(0)"),
    *("l.pop(-2)",),
    *("[l.pop() for _ in range(9)]", "[l.pop() for _ in range(10)]", "l.pop(99)", "l.pop('x')", "l.pop(2)['x'].pop()"),
    *("l.remove(1)", "l.remove({'x': [1]})", "l.remove([2, [3]])", "l.remove(99)", "l.clear()", "l.clear(); l.clear()"),
    *("l.reverse()", "l.sort(key=repr)", "l.sort(key=str, reverse=True)", "l.sort()", "l.sort(None)"),
    *("l.sort(key=lambda item: item['x'])", "l[:] = [[2], [1, 5], [1]]; l.sort()", "l[3].sort(key=repr)"),
]


@pytest.mark.parametrize("code", DICT_USES)
def test_a_dict_in_a_session_and_the_session_itself_are_as_a_dict(code):
    session = opened({"d": copy.deepcopy(DICT), "l": [copy.deepcopy(DICT)]}).session
    expected = outcome(code, d=copy.deepcopy(DICT))
    for node in opened(copy.deepcopy(DICT)).session, session.d, session.l[0]:
        assert outcome(code, d=node) == expected


@pytest.mark.parametrize("code", LIST_USES)
def test_a_list_in_a_session_is_as_a_list(code):
    session = opened({"l": copy.deepcopy(LIST), "d": {"l": [copy.deepcopy(LIST)]}}).session
    expected = outcome(code, l=copy.deepcopy(LIST))
    for node in session.l, session.d.l[0]:
        assert outcome(code, l=node) == expected


def test_sorting_gives_the_key_function_what_iterating_gives():
    session = opened({"l": [{"name": "b", "n": {"x": 1}}, {"name": "a", "n": {"x": 2}}]}).session
    first = session.l[0]
    session.l.sort(key=lambda item: item.name)
    assert [item.name for item in session.l] == ["a", "b"]
    assert session.l[1] is first
    session.l.sort(key=lambda item: -item.n.x)
    session.l[0].name = "c"
    assert session == {"l": [{"name": "c", "n": {"x": 2}}, {"name": "b", "n": {"x": 1}}]}


@pytest.mark.parametrize("change", ["l.append({})", "del l[1:]", "l[0] = {}"])
def test_a_list_that_changes_while_it_is_sorted(change):
    content = opened({"l": [{"n": 2}, {"n": 1}]})
    with pytest.raises(ValueError, match="list modified during sort"):
        run("l.sort(key=lambda item: run(change, l=l) or repr(item))", l=content.session.l, run=run, change=change)
    before = content.session.copy()
    content.take_changes()
    content.session.l[0].x = 1
    assert content.take_changes().apply(before) == content.session


@pytest.mark.parametrize(
    "code", ["s.l[:] = (kept.append(i) or 1 for i in s.l)", "s.l[0] = Reading()", "s.d = Reading()"]
)
def test_what_is_read_while_it_is_replaced_is_on_its_own(code):
    content = opened({"l": [{}], "d": {}})
    kept = []

    class Reading:
        def __index__(self):
            kept.append(content.session.d if code.startswith("s.d") else content.session.l[0])
            return 1

    run(code, s=content.session, kept=kept, Reading=Reading)
    content.take_changes()
    for node in kept:
        node.x = 1
    assert not content.take_changes()
    assert content.session in ({"l": [1], "d": {}}, {"l": [{}], "d": 1})


# Attributes


def test_items_are_attributes_at_any_depth():
    content = opened({"foo": {"bar": {"baz": 2}}})
    session = content.session
    session.foo.bar.baz *= 2
    session.name = "Alice"
    session.foo.cart = []
    session.foo.cart += [1]
    session["foo"].bar["new"] = {"x": {}}
    session.foo.bar.new.x.y = None
    del session.foo.bar.baz
    assert session == {"foo": {"bar": {"new": {"x": {"y": None}}}, "cart": [1]}, "name": "Alice"}
    assert (session.name, hasattr(session, "name"), getattr(session, "none", 5)) == ("Alice", True, 5)


OWN = ["items", "get", "keys", "values", "pop", "popitem", "update", "setdefault", "clear", "copy"]
UNDERSCORED = ["_x", "_", "__x", "__class__", "__dict__", "_data", "_parent", "_key", "_changes", "_load", "_replace"]
FREE = ["name", "id", "key", "data", "parent", "path", "index", "append", "sort", "changes", "load", "open"]


@pytest.mark.parametrize("name", [*FREE, "save", "session", "register", "mro", "é", "type", "is_loaded", "replace"])
def test_every_other_name_is_an_attribute(name):
    content = opened({"d": {}})
    for node in content.session, content.session.d:
        with pytest.raises(AttributeError):
            getattr(node, name)
        setattr(node, name, "here")
        assert getattr(node, name) == node[name] == "here"
        delattr(node, name)
        assert name not in node


@pytest.mark.parametrize("name", [*OWN, *UNDERSCORED])
def test_names_that_dicts_use_and_underscores_are_keys_only(name):
    changed = []
    content = opened({"d": {}}, changed)
    for node in content.session, content.session.d:
        before = getattr(node, name, None)
        for refused in (lambda: setattr(node, name, 1), lambda: delattr(node, name)):  # noqa: B023
            with pytest.raises(AttributeError) as caught:
                refused()
            assert f"session['{name}']" in str(caught.value)
        assert not changed
        node[name] = "here"
        assert node[name] == "here"
        assert getattr(node, name, None) == before
        del node[name]
        changed.clear()
    assert content.session == {"d": {}}


def test_what_is_missing():
    changed = []
    content = opened({"d": {}}, changed)
    for node in content.session, content.session.d:
        for attribute in "x", "_x", "d2":
            with pytest.raises(AttributeError, match=attribute):
                getattr(node, attribute)
            with pytest.raises(AttributeError, match=attribute):
                delattr(node, attribute)
        for missing in (lambda node: node["x"], lambda node: operator.delitem(node, "x"), lambda node: node.pop("x")):
            with pytest.raises(KeyError, match="x"):
                missing(node)
    assert not changed


# Copies


def nodes():
    session = opened({"d": {"x": [1, {"y": 2}], "n": 1}, "l": [[1], {"y": 2}]}).session
    return [session, session.d, session.d.x, session.d.x[1], session.l, session.l[0]]


@pytest.mark.parametrize(
    "code",
    [
        *("node.copy()", "copy.copy(node)", "copy.deepcopy(node)", "copy.deepcopy({'node': node})['node']"),
        *(f"pickle.loads(pickle.dumps(node, {version}))" for version in range(pickle.HIGHEST_PROTOCOL + 1)),
        *("json.loads(json_encode(node.copy()))", "json.loads(json_encode({'node': node.copy()}))['node']"),
    ],
)
def test_copies_are_plain_and_independent(code):
    for node in nodes():
        before = repr(node)
        result = run(code, node=node)
        assert type(result) is (list if isinstance(node, SessionList) else dict)
        assert repr(result) == before
        assert not any(isinstance(inner, SessionContainer) for inner in inside(result))
        for inner in inside(result):
            inner.clear()
        assert repr(node) == before


def inside(value):
    if not isinstance(value, dict | list | SessionContainer):
        return []
    below = value.values() if isinstance(value, dict) else value
    return [inner for item in below for inner in inside(item)] + [value]


def test_nodes_equal_each_other_by_content():
    session = opened({"a": {"x": [1]}, "b": {"x": [1]}, "c": {"x": [2]}}).session
    assert session.a == session.b != session.c
    assert session.a.x == session.b.x != session.c.x
    assert session == opened(session.copy()).session
    for node in nodes():
        assert node.copy() == node == node.copy()


def test_there_is_one_node_for_one_container():
    content = opened({"d": {"x": {}}, "l": [{}, []]})
    session = content.session
    d, x, l0, l1 = session.d, session.d.x, session.l[0], session.l[1]
    for again in (session.d, session["d"], session.get("d"), next(iter(session.values())), session.setdefault("d", 1)):
        assert again is d
    l1.append(1)
    d.new = 1
    content.take_changes()
    now = session.d, session.d.x, session.l[0], [*session.l][1], session.l[:][0]
    assert [id(node) for node in now] == [id(node) for node in (d, x, l0, l1, l0)]
    assert [type(node) for node in (session, d, l0, l1)] == [Session, SessionDict, SessionDict, SessionList]


# In-place operators assign a node to where it is


def test_operators_in_place():
    content = opened({"cart": [1], "user": {"name": "x"}, "ll": [[1], {"a": 1}]})
    session = content.session
    cart, user, inner = session.cart, session.user, session.ll[0]
    session.cart += [2]
    session["cart"] += (3,)
    session.user |= {"name": "Alice"}
    session.ll[0] += [2]
    session.ll[1] |= {"b": 2}
    before = session
    session |= {"new": {}}
    assert session is before
    assert session.cart is cart
    assert session.user is user
    assert session.ll[0] is inner
    expected = {"cart": [1, 2, 3], "user": {"name": "Alice"}, "ll": [[1, 2], {"a": 1, "b": 2}], "new": {}}
    assert session == expected
    for node in cart, inner:
        node.append("still attached")
    assert content.take_changes().apply({"cart": [1], "user": {"name": "x"}, "ll": [[1], {"a": 1}]}) == session.copy()


# Nodes that were taken out


def tree():
    return {"n": 1, "d": {"n": 1, "d": {"n": 1}, "l": [1]}, "l": [0, {"n": 1, "d": {}}, [1, [2]]]}


REMOVALS = {
    ("s.d", "s.d.d", "s.d.l"): [
        *("del s.d", "del s['d']", "s.pop('d')", "s.d = 1", "s.d = {}", "s.d = s.d.copy()", "s.update(d=None)"),
        *("s |= {'d': {}}", "s.clear()", "s.popitem(); s.popitem()", "content.replace({})", "content.replace(tree())"),
        *("content.replace(s.copy())", "content.replace(s.d)", "content.open(tree())"),
    ],
    ("s.l", "s.l[1]", "s.l[1].d", "s.l[2]", "s.l[2][1]"): [
        *("del s.l", "s.pop('l')", "s.popitem()", "s.l = []", "s.l = s.l[:]", "s.clear()"),
        *("content.replace({'l': s.l})",),
    ],
    ("s.l[1]", "s.l[1].d", "s.l[2]", "s.l[2][1]"): [
        *("del s.l[1:]", "del s.l[1], s.l[1]", "s.l.pop(); s.l.pop()", "s.l.pop(1); s.l.pop(1)", "del s.l[::-1]"),
        *("s.l.remove({'n': 1, 'd': {}}); s.l.remove([1, [2]])", "s.l[1] = s.l[2] = 0", "s.l[1:] = []", "s.l[:] = s.l"),
        *("s.l[2:0:-1] = [1, 2]", "s.l.clear()", "s.l *= 0", "s.l *= 2", "content.open(tree())"),
    ],
}


@pytest.mark.parametrize(("nodes", "code"), [(nodes, code) for nodes, codes in REMOVALS.items() for code in codes])
def test_what_was_taken_out_is_on_its_own(nodes, code):
    changed = []
    content = opened(tree(), changed)
    taken = [run(node, s=content.session) for node in nodes]
    run(code, s=content.session, content=content, tree=tree)
    content.take_changes()
    changed.clear()
    before = content.session.copy()
    for node in taken:
        change(node)
        assert "changed" in node
    assert content.session == before
    assert not changed
    assert not content.take_changes()


def change(node):
    if isinstance(node, SessionList):
        node.append("changed")
        node.insert(0, 1)
        node.reverse()
        return
    node.update(changed=1, n=node.get("n", 0) + 1)
    node.setdefault("new", {}).x = 1
    node.pop("n")


def test_putting_it_back_puts_back_a_copy():
    content = opened(tree())
    session = content.session
    taken = session.pop("d")
    taken.n = 5
    session.d = taken
    taken.n = 6
    assert session.d.n == 5
    session.d.n = 7
    assert taken.n == 6
    with pytest.raises(SessionDataError):
        taken.bad = {1}


@pytest.mark.parametrize(
    "code",
    [
        *("l.pop(0)", "l.insert(0, 'new')", "l.reverse()", "l.sort(key=str)", "l[0] = 1", "l[:1] = []", "l.append(1)"),
        *("del l[0]", "l += [1]", "l[1] = l[1]", "l.sort(key=len)", "l.pop(99)", "l[::2] = [1]", "l.append({1})"),
    ],
)
def test_items_that_only_moved_stay_attached(code):
    content = opened(tree())
    item, inner = content.session.l[1], content.session.l[2][1]
    outcome(code, l=content.session.l)
    content.take_changes()
    item.n = 5
    inner.append(6)
    assert item in content.session.l
    assert content.take_changes().apply(tree())["l"] == content.session.copy()["l"]


# Before it is loaded


@pytest.mark.parametrize(
    "code",
    [
        *("len(s)", "bool(s)", "list(s)", "dict(s)", "[*reversed(s)]", "{**s}", "'x' in s", "s == {}"),
        *("{} == s", "s != {}"),
        *("s.x", "s['x']", "s.get('x')", "s.get('x', 0)", "hasattr(s, 'x')", "getattr(s, 'x', None)", "s == s"),
        *("not s",),
        *("s.copy()", "copy.copy(s)", "copy.deepcopy(s)", "pickle.dumps(s)", "s | {}", "{} | s", "f'{s.x}'"),
        *("list(s.keys())", "list(s.items())", "list(s.values())", "len(s.keys())", "'x' in s.keys()"),
        *("s.x = 1", "s['x'] = 1", "s.setdefault('x', 1)", "del s.x", "del s['x']", "s.pop('x')", "s.pop('x', None)"),
        *("s.popitem()", "s.clear()", "s.update(x=1)", "s |= {'x': 1}", "s.update()", "s |= {}", "s.x.y = 1"),
        *("s.x += 1",),
        *("other.x = s", "other.update(x=[s])", "content.replace({})", "content.replace({'x': 1})"),
    ],
)
def test_every_touch_of_a_session_that_is_not_loaded_names_both_remedies(code):
    changed = []
    content = Local(on_change=lambda: changed.append(True))
    with pytest.raises(SessionNotLoaded) as caught:
        run(code, s=content.session, content=content, other=opened({}).session)
    assert "`session = await self.session`" in str(caught.value)
    assert "`session_autoload = True`" in str(caught.value)
    assert not content.is_loaded
    assert not changed


def test_only_its_repr_can_be_had_before_it_is_loaded():
    session = Local().session
    assert repr(session) == str(session) == "<Session: not loaded>"


def test_a_method_that_was_kept_from_before_it_was_loaded_works():
    content = Local()
    session = content.session
    update, get, pop = session.update, session.get, session.pop
    content.open({"x": 1})
    update(a=1)
    assert get("x") == pop("x") == 1
    assert session == {"a": 1}


@dataclasses.dataclass
class Order:
    what: object


def test_dataclasses_make_dicts_of_them():
    session = opened({"d": {"x": [{"y": 1}]}, "l": [[1]]}).session
    for node in session.d, session.l:
        result = dataclasses.asdict(Order(node))["what"]
        assert result == node
        result.clear()
        assert node


async def test_awaiting_loads_it_once():
    loads = []

    class Loading(Local):
        async def load(self):
            loads.append(True)
            await asyncio.sleep(0)
            self.open({"x": 1})

    content = Loading()
    assert await content.session is content.session
    assert await content.session == {"x": 1}
    assert len(loads) == 1


def test_nobody_needs_to_hold_it():
    content = Local({"d": {"l": [{}]}, "n": 0})
    for number in range(3):
        content.session.d.l[0][str(number)] = {}
        content.session.d.l[0][str(number)].x = number
        content.session.n += 1
        content.release()
        gc.collect()
    assert content.session == {"d": {"l": [{"0": {"x": 0}, "1": {"x": 1}, "2": {"x": 2}}]}, "n": 3}
    assert content.take_changes().apply({"d": {"l": [{}]}, "n": 0}) == content.session


# The whole content


def test_replacing_the_whole_content():
    content = opened(tree())
    data = {"x": {"y": (1, 2)}}
    session = content.session
    content.replace(data)
    data["x"]["y"] = 3
    assert content.session is session
    assert session == {"x": {"y": [1, 2]}}
    session.x.z = 1
    content.replace(session)
    content.replace(session.x)
    assert session == {"y": [1, 2], "z": 1}
    content.replace({})
    assert session == {}
    assert not session
    content.replace({"z": 1})
    assert session == {"z": 1}


def test_a_missing_attribute_is_an_error_that_says_how_to_read_what_may_be_absent():
    with pytest.raises(AttributeError) as error:
        opened({}).session.user  # noqa: B018
    assert str(error.value) == (
        "Session has no attribute or key 'user': where it may be absent, use get('user') or setdefault('user', ...)"
    )
