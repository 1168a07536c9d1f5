"""What can be put into a session and in which form it is kept, and what is refused at the assignment."""

import collections
import dataclasses
import enum
import operator
import re
import traceback
import types
import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import numpy
import pytest
from bson import (
    SON,
    Binary,
    Code,
    DatetimeMS,
    DBRef,
    Decimal128,
    Int64,
    MaxKey,
    MinKey,
    ObjectId,
    Regex,
    Timestamp,
    decode,
    encode,
)
from bson.raw_bson import RawBSONDocument

from tornado_sesame import SessionDataError, SessionError
from tornado_sesame.values import CODEC_OPTIONS, bson_size, identical

from .local import Local

Number = enum.IntEnum("Number", {"ONE": 1, "HUGE": 2**63})
Flag = enum.IntFlag("Flag", {"A": 1, "B": 2})
Colour = enum.StrEnum("Colour", {"RED": "red"})
Text, Raw, Real = type("Text", (str,), {}), type("Raw", (bytes,), {}), type("Real", (float,), {})
Point = collections.namedtuple("Point", "x y")
Class = dataclasses.make_dataclass("Class", ["name"])

ID, OID = uuid.UUID(int=5), ObjectId("0123456789abcdef01234567")
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
EAST = timezone(timedelta(hours=5, minutes=30))

START = {"n": 1, "d": {"n": 1}, "l": [0, {"n": 1}, [2]]}


def opened():
    changed = []
    return Local({"n": 1, "d": {"n": 1}, "l": [0, {"n": 1}, [2]]}, lambda: changed.append(True)), changed


def exact(value):
    """Returns what tells values apart that are equal but not of the same type."""
    if isinstance(value, dict):
        return type(value), [(type(key), key, exact(item)) for key, item in value.items()]
    if isinstance(value, list):
        return type(value), [exact(item) for item in value]
    return type(value), repr(value)


SAME = [
    *(None, True, False, 0, -1, 2**31, 2**63 - 1, -(2**63), Int64(5)),
    *(0.0, -0.0, 1.5, 1e308, float("inf"), float("-inf"), float("nan")),
    *("", "text", "é\0😀", "a.b", "$x", b"", b"\0\xff"),
    *(MOMENT, OID, Decimal128("1.10"), ID, [], {}, [[], {}, None], {"": {"a.b": {"$x": 1}}, "é": 2}),
    *(Binary(b"x", 128), Code("f()"), Code("f()", {"x": 1}), DBRef("users", OID), MinKey(), MaxKey()),
    *(Regex("^a", 2), Timestamp(5, 6)),
]

CONVERTED = [
    (Number.ONE, 1),
    (Flag.A | Flag.B, 3),
    (Colour.RED, "red"),
    (Text("é"), "é"),
    (Raw(b"x"), b"x"),
    (Real(1.5), 1.5),
    ((1, (2, [3])), [1, [2, [3]]]),
    (Point(1, 2), [1, 2]),
    ({"a": (1,)}, {"a": [1]}),
    ({Colour.RED: Colour.RED, Text("x"): Number.ONE}, {"red": "red", "x": 1}),
    (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    (collections.ChainMap({"a": 1}), {"a": 1}),
    (collections.UserDict(a=1), {"a": 1}),
    (types.MappingProxyType({"a": (1,)}), {"a": [1]}),
    (SON([("b", 1), ("a", 2)]), {"b": 1, "a": 2}),
    (RawBSONDocument(encode({"a": {"b": 1}})), {"a": {"b": 1}}),
    (MOMENT.replace(microsecond=678999), MOMENT),
    (MOMENT.astimezone(EAST), MOMENT),
    (datetime(1969, 12, 31, 23, 59, 59, 999999, UTC), datetime(1969, 12, 31, 23, 59, 59, 999000, UTC)),
    (type("Later", (datetime,), {})(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)),
    (DatetimeMS(0), datetime(1970, 1, 1, tzinfo=UTC)),
    (DatetimeMS(2**62), DatetimeMS(2**62)),
    (Regex("^a", "i"), Regex("^a", 2)),
    (Binary(b"x"), b"x"),
    (Binary.from_uuid(ID), ID),
    (type("Id", (uuid.UUID,), {})(int=5), ID),
]


@pytest.mark.parametrize(("value", "kept"), [*zip(SAME, SAME, strict=True), *CONVERTED], ids=repr)
def test_what_is_put_in_is_kept_as_it_will_come_back_from_a_store(value, kept):
    content, _ = opened()
    content.session.update(x=value, y={"z": [value]})
    data = content.session.copy()
    assert exact(data["x"]) == exact(kept)
    assert exact(data["y"]) == exact({"z": [kept]})
    loaded = decode(encode({"x": kept}, codec_options=CODEC_OPTIONS), CODEC_OPTIONS)["x"]
    assert exact(loaded) == exact(Int64(kept) if type(kept) is int and abs(kept) >= 2**31 else kept)


@pytest.mark.parametrize("key", ["", ".", "a.b", "$x", "a\0b", "\0", "%2E", "é😀", "_id", "items", " "])
def test_any_str_is_a_key(key):
    content, _ = opened()
    content.session[key] = {key: [{key: 1}]}
    assert content.session[key][key][0][key] == 1
    assert content.session.copy()[key] == {key: [{key: 1}]}


WAYS = {
    "s['x'] = value": ("x",),
    "s.x = value": ("x",),
    "s.n = value": ("n",),
    "s.update({'n': 2, 'x': value, 'y': 3})": ("x",),
    "s.update(n=2, x=value)": ("x",),
    "s |= {'n': 2, 'x': value}": ("x",),
    "s.setdefault('x', value)": ("x",),
    "s.d.x = value": ("d", "x"),
    "s.d.setdefault('x', value)": ("d", "x"),
    "s.d = {'n': 2, 'x': [0, ({'y': value},)]}": ("d", "x", 1, 0, "y"),
    "s.l.append(value)": ("l", 3),
    "s.l.extend([5, value])": ("l", 4),
    "s.l += (5, value)": ("l", 4),
    "s.l.insert(1, value)": ("l", 1),
    "s.l[0] = value": ("l", 0),
    "s.l[1:2] = [5, value]": ("l", 2),
    "s.l[-2:] = [5, value]": ("l", 2),
    "s.l[1].x = value": ("l", 1, "x"),
    "s.l[2].append(value)": ("l", 2, 1),
}
every_way = pytest.mark.parametrize("way", WAYS)


def put(content, way, value):
    exec(way, {"s": content.session, "value": value})


@every_way
def test_a_refusal_names_the_path_and_changes_nothing(way):
    content, changed = opened()
    path = WAYS[way]
    with pytest.raises(SessionDataError) as caught:
        put(content, way, {1, 2})
    assert caught.value.path == path
    assert str(caught.value).startswith("session" + "".join(f"[{key!r}]" for key in path) + ": a set cannot be stored")
    assert content.session == START
    assert not changed
    assert not content.take_changes()


@pytest.mark.parametrize(("step", "position"), [(slice(0, 3, 2), 2), (slice(None, None, -1), 0)])
def test_a_refusal_in_an_extended_slice_names_the_position_too(step, position):
    content, _ = opened()
    with pytest.raises(SessionDataError) as caught:
        content.session.l[step] = [*content.session.l[step][:-1], {1, 2}]
    assert caught.value.path == ("l", position)
    assert content.session == START


@every_way
def test_the_path_goes_on_inside_the_value(way):
    content, _ = opened()
    with pytest.raises(SessionDataError) as caught:
        put(content, way, {"ok": 1, "bad": [0, {"worse": object()}]})
    assert caught.value.path == (*WAYS[way], "bad", 1, "worse")


def test_a_whole_content_is_refused_the_same_way():
    content, changed = opened()
    for data, path in (({"n": 2, "d": {"x": {1}}}, ("d", "x")), ({1: 2}, ()), ([], ()), (None, ()), ("text", ())):
        with pytest.raises(SessionDataError) as caught:
            content.replace(data)
        assert caught.value.path == path
    assert content.session == START
    assert not changed


def endless(container):
    if isinstance(container, dict):
        container["again"] = container
    else:
        container.append(container)
    return container


UNSTORABLE = "cannot be stored; convert it to dicts, lists and BSON values first"
REFUSED = [
    *[(value, f"a {type(value).__name__} {UNSTORABLE}") for value in (set(), frozenset(), object(), 1j, bytearray())],
    *[(value, f"a {type(value).__name__} {UNSTORABLE}") for value in (Decimal(1), date(2026, 1, 2), range(3), ...)],
    *[(value, f"a {type(value).__name__} {UNSTORABLE}") for value in (timedelta(1), collections.deque(), len, int)],
    *[(value, UNSTORABLE) for value in (iter([]), {}.keys(), collections.UserList(), re.compile("a"), Class("x"))],
    *[(value, "does not fit into 64 bits") for value in (2**63, -(2**63) - 1, 10**100, Number.HUGE)],
    (numpy.array([1, 2]), f"a ndarray {UNSTORABLE}"),
    (datetime(2026, 1, 2), "naive; make it aware, for instance with datetime.now(UTC)"),
    (datetime.min.replace(tzinfo=EAST), "out of range in UTC"),
    *[(value, "lone surrogate") for value in ("\ud800", "a\udfff", Text("\ud800"))],
    *[({key: 1}, f"keys must be str, not {type(key).__name__}") for key in (1, None, b"a", (), True, OID)],
    *[({key: 1}, "lone surrogate") for key in ("\ud800", Text("\udc80"))],
    *[(Regex(pattern), "BSON cannot encode this Regex") for pattern in ("a\0b", b"\xff", "\ud800")],
    (Code("\ud800"), "BSON cannot encode this Code"),
    (DBRef("c", object()), "['$id']: a object cannot be stored"),
    (DBRef("c", 2**64), "['$id']: this int does not fit into 64 bits"),
    (Code("f()", {"a": {1}}), "['a']: a set cannot be stored"),
]


@pytest.mark.parametrize(("value", "text"), REFUSED, ids=lambda value: re.sub(r" at 0x\w+", "", repr(value)))
def test_what_no_store_could_keep_is_refused(value, text):
    content, changed = opened()
    for way in "s.x = value", "s.l.append(value)", "s.d = {'n': 2, 'x': [0, ({'y': value},)]}":
        with pytest.raises(SessionDataError) as caught:
            put(content, way, value)
        assert text in str(caught.value)
        assert caught.value.path[: len(WAYS[way])] == WAYS[way]
        assert isinstance(caught.value, SessionError)
        assert isinstance(caught.value, TypeError)
    assert content.session == START
    assert not changed


@pytest.mark.parametrize("key", [1, None, b"a", (), True, "\ud800"], ids=repr)
def test_a_key_that_is_refused_names_the_dict(key):
    content, changed = opened()
    for node, path in ((content.session, ()), (content.session.d, ("d",)), (content.session.l[1], ("l", 1))):
        for put_in in operator.setitem, lambda node, key, value: node.setdefault(key, value):
            with pytest.raises(SessionDataError, match=r"keys must be str|lone surrogate") as caught:
                put_in(node, key, 1)
            assert caught.value.path == path
        with pytest.raises(SessionDataError):
            node.update({"n": 2, key: 1})
    assert content.session == START
    assert not changed


MAX_DEPTH = 98  # of the 100 levels that MongoDB takes, the document and its "data" are two


def nested(levels, kind):
    value = kind()
    for _ in range(levels - 1):
        value = {"a": value} if kind is dict else [value]
    return value


@pytest.mark.parametrize("kind", [dict, list])
@every_way
def test_nesting_goes_as_deep_as_mongodb_takes(way, kind):
    content, _ = opened()
    around = len(WAYS[way])
    with pytest.raises(SessionDataError, match=f"nested deeper than the {MAX_DEPTH} levels that MongoDB can store"):
        put(content, way, nested(MAX_DEPTH - around + 1, kind))
    assert content.session == START
    put(content, way, nested(MAX_DEPTH - around, kind))
    assert content.session != START


def test_a_whole_content_can_be_as_deep():
    content, _ = opened()
    content.session.x = nested(MAX_DEPTH - 1, dict)
    before = content.session.copy()
    content.replace(before)
    assert content.session == before
    with pytest.raises(SessionDataError, match="nested deeper"):
        content.replace({"x": before})


@pytest.mark.parametrize("value", [endless({}), endless([]), {"a": [endless({})]}], ids=["dict", "list", "below"])
@every_way
def test_what_contains_itself_is_refused(way, value):
    content, _ = opened()
    with pytest.raises(SessionDataError, match="contains itself") as caught:
        put(content, way, value)
    assert caught.value.path[: len(WAYS[way])] == WAYS[way]
    assert content.session == START


@pytest.mark.parametrize(
    "value",
    [DBRef("c", endless({})), Code("f()", nested(200, dict))],
    ids=["a cycle in a DBRef", "too deep in a Code"],
)
def test_bson_types_are_no_way_around_the_limit(value):
    content, _ = opened()
    with pytest.raises(SessionDataError):
        content.session.x = value
    assert content.session == START


SECRET = "hunter2"


class Secret:
    def __repr__(self):
        return SECRET


@pytest.mark.parametrize(
    "value",
    [
        {SECRET},
        [{"a": Secret()}],
        {Secret(): 1},
        {SECRET.encode(): 1},
        SECRET + "\ud800",
        {SECRET + "\ud800": 1},
        Regex(SECRET + "\0"),
        Code(SECRET + "\ud800"),
        Code("f()", {"a": Secret()}),
        DBRef("c", Secret()),
        DBRef("c", {SECRET}),
    ],
    ids=["set", "object", "key", "bytes key", "str", "str key", "Regex", "Code", "scope", "DBRef", "DBRef of a set"],
)
def test_errors_never_tell_the_value(value):
    content, _ = opened()
    with pytest.raises(SessionDataError) as caught:
        content.session.x = value
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@every_way
def test_assigning_copies(way):
    content, _ = opened()
    value = {"a": [{"b": 1}]}
    put(content, way, value)
    before = content.session.copy()
    value["c"] = 1
    value["a"].append(2)
    value["a"][0]["b"] = 3
    assert content.session == before


def test_nodes_are_copied_too():
    session, other = opened()[0].session, opened()[0].session
    session.update(mine=session.d, others=other.d, items=session.l, inside=[session.d])
    for node in (session.d, other.d, session.mine, session.inside[0]):
        node.n += 1
    session.l.append("x")
    session.l[0] = session.l[1]
    session.l[0].n = 5
    assert session == {
        "n": 1,
        "d": {"n": 2},
        "l": [{"n": 5}, {"n": 1}, [2], "x"],
        "mine": {"n": 2},
        "others": {"n": 1},
        "items": [0, {"n": 1}, [2]],
        "inside": [{"n": 2}],
    }
    assert session.mine is not session.d


def test_numbers_read_from_a_session_are_kept_as_plain_ones():
    content, _ = opened()
    session = content.session
    session.f = 1.5
    session.x = {"n": session.n, "f": session.f + 1, "l": [session.n - 1]}
    session.l[0] = session.n
    data = content.session.copy()
    assert exact(data["x"]) == exact({"n": 1, "f": 2.5, "l": [0]})
    assert type(data["l"][0]) is int


SCALARS = [0, 0.0, -0.0, False, 1, 1.0, True, "", "1", b"", b"1", None, OID, ID, MOMENT, Decimal128("1"), MinKey()]
SCALARS += [MaxKey(), Regex("1"), Code("1"), Code("1", {"a": 1}), DBRef("c", 1), DBRef("c", OID), Timestamp(1, 1)]
SCALARS += [DatetimeMS(1), DatetimeMS(2**52), Binary(b"1", 5), [], [MOMENT], {}, {"a": 1}]


def test_scalars_are_identical_when_mongodb_would_say_so():
    for row, one in enumerate(SCALARS):
        for column, other in enumerate(SCALARS):
            assert identical(one, other) is (row == column)
    assert identical(2**40, Int64(2**40))


@pytest.mark.parametrize(
    ("data", "stored"),
    [({}, {}), ({"a": [{"b": 1}]}, {"a": [{"b": 1}]}), ({"n": [{"a\0b": {"\0": 1}}]}, {"n": [{"a%00b": {"%00": 1}}]})],
)
def test_the_size_is_that_of_the_bson_that_is_stored(data, stored):
    assert bson_size(data) == len(encode(stored))
