"""Typed sessions: declared fields, their defaults, and what is said when a class or a name cannot be meant."""

import asyncio
import copy
import gc
import json
import sys
import textwrap
import types
import weakref
from abc import ABC
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final, Generic, NewType, Optional, Self, TypeVar, Union

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tornado.web import RequestHandler
from tornado.websocket import WebSocketHandler

from tornado_sesame import (
    Create,
    Inc,
    Push,
    Session,
    SessionDataError,
    SessionDict,
    SessionList,
    SessionMixin,
    SessionNotLoaded,
    Set,
    TypedSession,
    TypedSessionDict,
)
from tornado_sesame.values import MAX_DEPTH

from .local import Local
from .test_session import DICT, DICT_USES, LIST, LIST_USES, outcome, plain, run


class Item(TypedSessionDict):
    sku: str
    count: int = 1
    tags: list[str]


class Place(TypedSessionDict):
    lat: float = 0.0
    names: list[str] = []


class Address(TypedSessionDict):
    city: str = ""
    visits: int = 0
    place: Place


class Visit(TypedSession):
    times: int = 0
    total: float = 0.0
    lives: int = 3
    name: str = "nobody"
    cart: list[Item] = []
    by_sku: dict[str, Item]
    address: Address
    since: datetime | None = None
    colors: list[str] = ["red"]
    settings: dict[str, Any] = {"dark": True}


def opened(data=None, kind=Visit):
    return Local(data, kind=kind)


def changes(local):
    return dict(local.take_changes().ops)


# Defaults


def read_all(session):
    return [getattr(session, name) for name in Visit._fields]


def test_what_is_absent_reads_as_its_default_and_stores_nothing():
    local = opened({})
    for _ in range(2):
        values = read_all(local.session)
        assert values == [0, 0.0, 3, "nobody", [], {}, {}, None, ["red"], {"dark": True}]
    assert local.session.address.place.names == []
    assert (local.session, changes(local)) == ({}, {})
    assert [*map(type, values)][4:7] == [type(local.session.cart), type(local.session.by_sku), Address]


def test_defaults_are_each_sessions_own():
    one, other = opened({}), opened({})
    one.session.colors.append("blue")
    one.session.settings["dark"] = False
    one.session.cart.append(Item(sku="x"))
    assert read_all(other.session) == read_all(opened({}).session)
    assert (one.session.colors, one.session.settings) == (["red", "blue"], {"dark": False})
    assert (Visit.colors, repr(Visit.colors)) == (Visit._fields["colors"], "<field Visit.colors>")


CHANGES = [
    ("s.times += 1", {("times",): Inc(1)}),
    ("s.times -= 2; s.times += 1", {("times",): Inc(-1)}),
    ("s.times = s.times + 1", {("times",): Inc(1)}),
    ("s.total += 0.5", {("total",): Inc(0.5)}),
    ("s.lives -= 1", {("lives",): Set(2)}),  # an increment starts from 0 in MongoDB
    ("s.times = 5", {("times",): Set(5)}),
    ("s.times *= 2", {("times",): Set(0)}),
    ("s.name = 'Alice'", {("name",): Set("Alice")}),
    ("s.name += '!'", {("name",): Set("nobody!")}),
    ("s.cart.append({'sku': 'x'})", {("cart",): Push([{"sku": "x"}])}),
    ("s.cart.append(Item(sku='x', tags=['t']))", {("cart",): Push([{"sku": "x", "tags": ["t"]}])}),
    ("s.cart += [Item(sku='x')]; s.cart.extend([])", {("cart",): Push([{"sku": "x"}])}),
    ("s.cart += []; s.cart.extend([]); s.cart.sort(); s.cart.reverse(); s.cart.clear()", {}),
    ("s.cart = s.cart; s.address = s.address; s.settings |= {}; s.settings.update()", {}),
    ("s.cart.append({'sku': 'x'}); s.cart.pop()", {("cart",): Set([])}),
    ("s.cart[0:0] = [{'sku': 'x'}]", {("cart",): Set([{"sku": "x"}])}),
    ("s.colors.append('blue')", {("colors",): Set(["red", "blue"])}),
    ("s.settings['big'] = True", {("settings",): Set({"dark": True, "big": True})}),
    ("s.settings.pop('dark')", {("settings",): Set({})}),
    ("s.address.city = 'Berlin'", {("address",): Create(), ("address", "city"): Set("Berlin")}),
    ("s.address.visits += 1", {("address",): Create(), ("address", "visits"): Inc(1)}),
    (
        "s.address.place.names.append('home'); s.address.place.lat += 1.5",
        {
            ("address",): Create(),
            ("address", "place"): Create(),
            ("address", "place", "names"): Push(["home"]),
            ("address", "place", "lat"): Inc(1.5),
        },
    ),
    (
        "s.by_sku['x'] = Item(sku='x'); s.by_sku['x'].count += 1",
        {("by_sku",): Create(), ("by_sku", "x"): Set({"sku": "x", "count": 2})},
    ),
    ("s.since = None", {("since",): Set(None)}),
    ("s.address = {}", {("address",): Set({})}),
    ("a = s.address; s.address = Address(city='x'); a.city = 'y'", {("address",): Set({"city": "x"})}),
    ("a = s.address; s['address'] = {}; a.city = 'y'", {("address",): Set({})}),
    ("a = s.address; s.setdefault('address', {}); a.city = 'y'", {("address",): Create()}),
    ("a = s.address; s.clear(); a.city = 'y'", {("address",): Create(), ("address", "city"): Set("y")}),
    ("a = s.address.place; s.address = {}; a.lat = 1.0", {("address",): Set({})}),
    ("a, b = s.address, s.address; a.city = 'x'; b.visits += 1; assert a is b is s.address", None),
    ("c = s.cart; c.append({'sku': 'x'}); s.cart.append({'sku': 'y'}); assert c is s.cart; assert len(c) == 2", None),
    ("s['other'] = 1", {("other",): Set(1)}),
    ("s.update(times=1, other=2)", {("times",): Set(1), ("other",): Set(2)}),
]


@pytest.mark.parametrize(("code", "expected"), CHANGES)
def test_a_change_of_what_is_absent_is_saved_as_of_what_is_there(code, expected):
    local = opened({})
    exec(code, {"s": local.session, "Item": Item, "Address": Address})
    ops = changes(local)
    assert expected is None or ops == expected
    read_all(local.session)
    assert not local.changes


def test_items_of_lists_and_dicts_are_typed():
    local = opened({"cart": [{"sku": "a"}], "by_sku": {"x": {"sku": "x", "tags": ["t"]}}})
    session = local.session
    assert [type(node) for node in (*session.cart, *session.by_sku.values(), session.cart[0])] == [Item] * 3
    assert (session.cart[0].count, session.cart[0].tags, session.by_sku["x"].tags) == (1, [], ["t"])
    session.cart[0].tags.append("new")
    session.by_sku["x"].count += 1
    assert changes(local) == {
        ("cart",): Set([{"sku": "a", "tags": ["new"]}]),
        ("by_sku", "x", "count"): Set(2),
    }


def test_a_field_that_holds_something_else_is_what_it_is():
    session = opened({"cart": {"a": 1}, "address": [{}], "times": "x", "since": [1]}).session
    assert [session.cart, session.address, session.times, session.since] == [{"a": 1}, [{}], "x", [1]]
    assert (type(session.cart), type(session.address)) == (SessionDict, SessionList)


def test_what_is_stored_is_what_was_assigned():
    session = opened({}).session
    session.address.city = "Berlin"
    assert (len(session), "times" in session, session.get("times"), [*session]) == (1, False, None, ["address"])
    assert json.dumps(session) == json.dumps(session.copy()) == '{"address": {"city": "Berlin"}}'
    with pytest.raises(KeyError):
        session["times"]


def test_a_change_that_cannot_be_stored_changes_nothing():
    local = opened({})
    for code in ("s.cart.append({1})", "s.address.city = {1}", "s.address.place.names.append(object())", "s.cart += 5"):
        with pytest.raises(TypeError):
            exec(code, {"s": local.session})
    assert (local.session, changes(local)) == ({}, {})
    with pytest.raises(SessionDataError, match=r"^session\['address'\]\['place'\]\['names'\]\[0\]: a set cannot"):
        local.session.address.place.names.append({1})


def test_a_change_that_cannot_be_made_changes_nothing():
    class Refused(Exception):
        pass

    def refuse():
        raise Refused

    session = Local({}, refuse, Visit).session
    for change in (
        lambda: session.cart.append(1),
        lambda: setattr(session.address.place, "lat", 1.0),
        lambda: session.settings.clear(),
    ):
        with pytest.raises(Refused):
            change()
    assert (session, session.address, session.settings) == ({}, {}, {"dark": True})


def test_what_was_absent_cannot_lie_too_deep():
    class Node(TypedSessionDict):
        parent: "Node"
        n: int = 0

    local = opened({}, type("Tree", (TypedSession,), {"__annotations__": {"tree": Node}}))
    node = local.session.tree
    for _ in range(MAX_DEPTH - 2):
        node = node.parent
    for way in (lambda: setattr(node.parent, "n", 1), lambda: node.parent.setdefault("parent", {})):
        with pytest.raises(SessionDataError, match="nested deeper than the 98 levels"):
            way()
    assert (local.session, changes(local)) == ({}, {})
    node.n = 1
    assert len(changes(local)) == MAX_DEPTH


def test_what_was_absent_is_cut_off_when_the_session_is_read_again():
    local = opened({})
    kept = [local.session.address, local.session.address.place, local.session.cart]
    local.open({"address": {"city": "Paris"}})
    kept[0].city, kept[1].lat = "Berlin", 1.0
    kept[2].append(1)
    assert (local.session, changes(local)) == ({"address": {"city": "Paris"}}, {})
    local.replace({})
    assert local.session.address == {}


def test_what_is_held_of_a_field_reads_as_its_default_when_others_have_removed_that():
    class Kind(TypedSession):
        plan: dict[str, int] = {"days": 30}
        cart: SessionList

    local = opened({"plan": {"days": 1}, "cart": ["book"], "other": {"n": 1}}, Kind)
    session = local.session
    kept = [session.plan, session.cart, session["other"]]
    local.refresh({}, None, None)
    assert kept == [{"days": 30}, [], {}]
    kept[0]["days"] += 1
    kept[1].append("pen")
    kept[2]["n"] = 2
    assert session == {"plan": {"days": 31}, "cart": ["pen"], "other": {"n": 2}}


def test_a_deleted_field_is_its_default_again():
    local = opened({"times": 5, "address": {"city": "Paris"}})
    session = local.session
    taken = session.address
    del session.times, session.address
    taken.city = "Berlin"
    assert (session.times, session.address.city, session) == (0, "", {})
    with pytest.raises(AttributeError, match=r"^Visit\.times is not set$"):
        del session.times
    assert changes(local).keys() == {("times",), ("address",)}


# One that is in no session


def test_one_can_be_made_to_be_put_into_a_session():
    item = Item(sku="x", tags=["a"])
    item.tags.append("b")
    item.count += 1
    place = Place()
    place.names.append("home")
    assert (item, place) == ({"sku": "x", "tags": ["a", "b"], "count": 2}, {"names": ["home"]})
    local = opened({})
    local.session.cart.append(item)
    item.count = 9
    assert local.session.cart == [{"sku": "x", "tags": ["a", "b"], "count": 2}]
    assert Item({"sku": "y", "more": 1})["more"] == 1

    @dataclass
    class Order:
        item: Item

    assert asdict(Order(local.session.cart[0])) == {"item": local.session.cart[0].copy()}
    assert copy.deepcopy(item) == copy.copy(item) == item.copy()
    assert type(copy.copy(item)) is dict


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Item(), "Item() needs 'sku'"),
        (lambda: Item(sku="x", cuont=1), "Item() takes no 'cuont': did you mean 'count'?"),
        (lambda: Place(xyz=1), "Place() takes no 'xyz': its fields are 'lat', 'names'"),
        (lambda: Item(sku={1}), "session['sku']: a set cannot be stored"),
    ],
)
def test_one_that_cannot_be_made_says_why(make, text):
    with pytest.raises(TypeError) as caught:
        make()
    assert str(caught.value).startswith(text)


# Names that are not declared


def test_a_name_that_is_not_declared_is_an_error_that_says_what_is():
    session = opened({"stored": 1}).session
    for touch in (lambda: session.tims, lambda: setattr(session, "tims", 1), lambda: delattr(session, "tims")):
        with pytest.raises(
            AttributeError, match=r"^Visit declares no 'tims': did you mean 'times'\? .*session\['tims'\]"
        ):
            touch()
    with pytest.raises(AttributeError, match=r"Address declares no 'town': its fields are 'city', 'visits', 'place'"):
        session.address.town  # noqa: B018
    with pytest.raises(AttributeError, match=r"declares no '_x'$"):
        session._x = 1
    assert not hasattr(session, "stored")
    assert not hasattr(session, "__array__")
    assert (session["stored"], session) == (1, {"stored": 1})
    with pytest.raises(AttributeError, match=r"^Item\.sku is not set, and has no default$"):
        opened({"cart": [{}]}).session.cart[0].sku  # noqa: B018


def test_methods_and_properties_of_the_class_are_its_own():
    class Account(TypedSession):
        LIMIT: ClassVar[int] = 3
        role: str = ""
        _cache = ()

        @property
        def is_admin(self):
            return self.role == "admin"

        @is_admin.setter
        def is_admin(self, value):
            self.role = "admin" if value else ""

        def promote(self):
            self.is_admin = True

    session = opened({}, Account).session
    assert not session.is_admin
    session.promote()
    assert (session.is_admin, session, session.LIMIT) == (True, {"role": "admin"}, 3)
    with pytest.raises(SessionNotLoaded):
        opened(None, Account).session.is_admin  # noqa: B018


def test_an_attribute_error_in_a_property_is_its_own():
    class Account(TypedSession):
        role: str

        @property
        def wrong(self):
            return self.role.nothing

    with pytest.raises(AttributeError, match=r"^'str' object has no attribute 'nothing'"):
        opened({"role": "x"}, Account).session.wrong  # noqa: B018
    with pytest.raises(AttributeError, match=r"^Account\.role is not set, and has no default$"):
        opened({}, Account).session.wrong  # noqa: B018


def touched(session, code):
    """Tells whether *code* does anything else with a session that is not loaded than to raise that."""
    try:
        run(code, d=session)
    except SessionNotLoaded:
        return False
    except TypeError:
        pass
    return True


def test_one_that_is_not_loaded_says_so_on_any_touch():
    local = opened()
    session = local.session
    assert (isinstance(session, Visit), repr(session)) == (True, "<Visit: not loaded>")
    for name in Visit._fields:
        for touch in (
            lambda name=name: getattr(session, name),
            lambda name=name: setattr(session, name, 1),
            lambda name=name: delattr(session, name),
            lambda name=name: session[name],
        ):
            with pytest.raises(SessionNotLoaded):
                touch()
    silent = {code for code in DICT_USES if touched(session, code)}
    assert silent == {code for code in DICT_USES if touched(opened(kind=Session).session, code)}
    local.open({"times": 4})
    assert (session.times, session.name, type(session)) == (4, "nobody", Visit)
    local._content.unload()
    with pytest.raises(SessionNotLoaded):
        session.times  # noqa: B018


# Typed dicts and lists are dicts and lists


class Any_(TypedSessionDict):
    a: "Any_"
    b: int = 7
    l: list["Any_"] = [{}]  # noqa: E741
    s: str = "default"
    x: dict[str, "Any_"]


class Root(TypedSession):
    d: Any_
    l: list[Any_]  # noqa: E741


def typed_dict():
    return opened({"d": copy.deepcopy(DICT)}, Root).session.d


def typed_list():
    return opened({"l": copy.deepcopy(LIST)}, Root).session.l


@pytest.mark.parametrize("code", DICT_USES)
def test_a_typed_dict_is_as_a_dict(code):
    expected = outcome(code, d=copy.deepcopy(DICT))
    assert outcome(code, d=typed_dict()) == expected
    root = opened(copy.deepcopy(DICT), type("AsRoot", (Any_, TypedSession), {}))
    assert outcome(code, d=root.session) == expected


@pytest.mark.parametrize("code", LIST_USES)
def test_a_list_of_typed_dicts_is_as_a_list(code):
    assert outcome(code, l=typed_list()) == outcome(code, l=copy.deepcopy(LIST))


@given(st.lists(st.sampled_from(DICT_USES), max_size=8), st.integers(0, 8))
def test_a_typed_dict_is_as_a_dict_after_anything(codes, read):
    expected, node = copy.deepcopy(DICT), typed_dict()
    for position, code in enumerate(codes):
        if position == read:
            [getattr(node, name) for name in Any_._fields]
        assert outcome(code, d=node) == outcome(code, d=expected)
        expected = plain(expected)  # what is in two places is two copies in a session


# A list that could not be sorted is in another order then, and one in a session is not.
@given(st.lists(st.sampled_from([code for code in LIST_USES if "sort(" not in code]), max_size=8))
def test_a_list_of_typed_dicts_is_as_a_list_after_anything(codes):
    expected, node = copy.deepcopy(LIST), typed_list()
    for code in codes:
        assert outcome(code, l=node) == outcome(code, l=expected)
        expected = plain(expected)


def test_a_class_is_matched():
    match opened({"address": {"city": "Berlin"}}).session:
        case Visit(address=Address(city=city)):
            assert city == "Berlin"
        case _:
            pytest.fail("no match")


def test_a_read_leaves_nothing_for_the_garbage_collector():
    gc.collect()
    gc.disable()
    try:
        local = opened({"times": 1})
        session = local.session
        local.release()
        assert session.times + session.lives == 4
        reference = weakref.ref(session)
        del session
        assert reference() is None
    finally:
        gc.enable()


# Annotations

MODULE = """
from __future__ import annotations
import datetime as dt
import typing
from typing import Annotated, Any, ClassVar, Optional, TYPE_CHECKING
from tornado_sesame import TypedSession, TypedSessionDict
if TYPE_CHECKING:
    from collections.abc import Set

class Visit(TypedSession):
    LIMIT: ClassVar[Set] = 3
    OTHER: typing.ClassVar = 4
    times: int = 0
    since: Optional[dt.datetime] = None
    cart: list[Item]
    by: dict[str, Item | None] = {}
    one: Annotated[Item, "text"]
    maybe: Item | None = None
    tree: Node

    class Inner(TypedSessionDict):
        n: int = 0

    inner: Inner
    inners: list[Inner]

class Item(TypedSessionDict):
    sku: str = ""

class Node(TypedSessionDict):
    children: list[Node]
    parent: Node

def local():
    class Item(TypedSessionDict):
        name: str = ""
    class Visit(TypedSession):
        item: Item
        items_: list[Item]
    return Visit, Item
"""


def module(source):
    made = types.ModuleType("made_for_a_test")
    sys.modules[made.__name__] = made
    exec(textwrap.dedent(source), made.__dict__)
    return made


def test_annotations_may_be_strings_and_name_what_comes_later():
    made = module(MODULE)
    session = opened({"cart": [{}], "by": {"x": {}}, "one": {}, "maybe": {}, "inners": [{}]}, made.Visit).session
    found = [session.cart[0], session.by["x"], session.one, session.maybe]
    assert [type(node) for node in found] == [made.Item] * 4
    assert (session.since, session.LIMIT, session.OTHER) == (None, 3, 4)
    assert {"LIMIT", "OTHER"}.isdisjoint(made.Visit._fields)
    session.tree.children.append({"children": [{}]})
    assert type(session.tree.children[0].children[0].parent) is made.Node
    assert (type(session.inner), type(session.inners[0])) == (made.Visit.Inner, made.Visit.Inner)


def test_annotations_may_be_strings_in_a_function():
    visit, item = module(MODULE).local()
    session = opened({"items_": [{}]}, visit).session
    assert (type(session.item), type(session.items_[0])) == (item, item)

    class It(TypedSessionDict):
        n: int = 0

    class Hook(TypedSession):
        def __init_subclass__(cls):
            super().__init_subclass__()

    class Hooked(Hook):
        it: "It"

    class Abstract(TypedSession, ABC):
        it: "It"

    class Parameterized(Generic[T], TypedSession):
        it: "It"

    class Outer:
        class Visit(TypedSession):
            it: "It"

    for kind in Hooked, Abstract, Parameterized, Outer.Visit:
        assert type(opened({}, kind).session.it) is It


def test_an_annotation_that_names_nothing_is_an_error_when_it_is_needed():
    class Lost(TypedSession):
        n: "int" = 0
        cart: "list[Nowhere]"  # noqa: F821

    session = opened({}, Lost).session
    assert session.n == 0
    with pytest.raises(TypeError, match=r"^the annotation of Lost\.cart: name 'Nowhere' is not defined"):
        session.cart  # noqa: B018


T = TypeVar("T")


class Box(TypedSessionDict, Generic[T]):
    content: T | None = None
    name: str = "box"


SHAPES = [
    (Item, Item),
    (NewType("NewItem", Item), Item),
    (Final[Item], Item),
    (Item | None, Item),
    (Optional[Item], Item),  # noqa: UP045
    (Union[None, int, Item], Item),  # noqa: UP007
    (Annotated[Item, "text"], Item),
    (Annotated[Item | None, "text"], Item),
    (Box[int], Box),
    (dict, SessionDict),
    (dict[str, Any], SessionDict),
    (dict[str, int], SessionDict),
    (SessionDict, SessionDict),
    (Any, SessionDict),
    (object, SessionDict),
    (T, SessionDict),
    (int | dict[str, Any], SessionDict),
]


@pytest.mark.parametrize(("annotation", "expected"), SHAPES)
def test_a_dict_is_of_the_class_that_the_annotation_says(annotation, expected):
    body = {
        "one": annotation,
        "many": list[annotation],
        "sequence": Sequence[annotation],
        "iterable": Iterable[annotation],
        "by": dict[str, annotation],
        "mapping": Mapping[str, annotation],
        "deep": dict[str, list[list[annotation]]],
    }
    kind = type("Kind", (TypedSession,), {"__annotations__": body})
    data = {
        "one": {},
        "many": [{}],
        "sequence": [{}],
        "iterable": [{}],
        "by": {"x": {}},
        "mapping": {"x": {}},
        "deep": {"x": [[{}]]},
    }
    session = opened(data, kind).session
    nodes = [
        session.one,
        session.many[0],
        session.sequence[0],
        session.iterable[0],
        session.by["x"],
        session.mapping["x"],
    ]
    assert [type(node) for node in (*nodes, session.deep["x"][0][0])] == [expected] * 7
    assert all(isinstance(node, SessionList) for node in (session.many, session.sequence, session.deep["x"]))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the type statement came with 3.12")
def test_a_type_statement_is_what_it_says():
    made = module("""
        from tornado_sesame import TypedSession, TypedSessionDict
        class Item(TypedSessionDict):
            n: int = 0
        type Items = list[Item]
        type Many[T] = list[T]
        class Visit(TypedSession):
            items_: Items
            many: Many[Item]
    """)
    session = opened({"items_": [{}], "many": [{}]}, made.Visit).session
    assert (type(session.items_[0]), type(session.many[0])) == (made.Item, made.Item)
    assert opened({}, made.Visit).session.items_ == []


def test_a_class_may_nest_in_itself():
    class Tree(TypedSessionDict):
        left: Self
        more: list[Self]

    tree = Tree({"more": [{}]})
    assert (type(tree.left), type(tree.more[0])) == (Tree, Tree)


# Classes of classes


class HasTimes(TypedSessionDict):
    times: int = 0
    label: str = "times"


class HasCart(TypedSessionDict):
    cart: list[Item]
    label: str = "cart"


class Plain:
    seen: datetime | None = None
    tags: list[str] = []
    _private: int = 0
    helper = 5

    def describe(self):
        return f"{self.label} {self.seen}"


def test_classes_are_mixed():
    class Both(HasTimes, HasCart, Plain, TypedSession):
        label = "both"

    class Sub(Both):
        times = 5
        extra: int = 0

    session = opened({"cart": [{}]}, Sub).session
    assert (session.times, session.label, session.extra, type(session.cart[0])) == (5, "both", 0, Item)
    assert session.describe() == "both None"
    session.seen = now = datetime(2026, 1, 1, tzinfo=UTC)
    session.tags.append("x")
    assert (session.seen, session["tags"], Plain.tags) == (now, ["x"], [])
    assert (opened({}, Both).session.times, HasTimes(times=1).label) == (0, "times")
    assert list(Sub._fields) == [*Both._fields, "extra"]


def test_a_mixin_that_is_nearer_counts():
    class Data:
        label = "nearer"

    class Method:
        def label(self):
            return "method"

    class WithData(Data, HasTimes, TypedSession):
        pass

    class WithMethod(Method, HasTimes, TypedSession):
        pass

    class Farther(HasTimes, Data, TypedSession):
        pass

    class Constant(HasTimes, TypedSession):
        label: ClassVar[str] = "constant"

    assert (opened({}, WithData).session.label, opened({}, Farther).session.label) == ("nearer", "times")
    assert (opened({}, WithMethod).session.label(), opened({}, Constant).session.label) == ("method", "constant")


def test_of_a_diamond_the_nearest_counts():
    class Left(HasTimes):
        label = "left"

    class Right(HasTimes):
        pass

    class Bottom(Right, Left):
        pass

    assert Bottom().label == "left"


def test_a_property_takes_the_place_of_a_field():
    class Computed(HasTimes):
        @property
        def label(self):
            return f"{self.times} times"

    class Again(Computed):
        pass

    assert (Computed(times=2).label, Again(times=3).label) == ("2 times", "3 times")
    assert "label" not in Again._fields


# What cannot be meant


class Status(StrEnum):
    NEW = "new"


def made(annotations=None, **values):
    return type("Visit", (TypedSession,), {"__annotations__": annotations or {}, **values})


MISUSES = [
    (lambda: made({"cart": list}, cart={1}), "the default of Visit.cart: a set cannot be stored"),
    (lambda: made({"cart": list}, cart=[{1: 2}]), "the default of Visit.cart: keys must be str, not int"),
    (lambda: made({"n": int}, n=2**64), "the default of Visit.n: this int does not fit"),
    (lambda: made({"d": datetime}, d=datetime(2026, 1, 1)), "the default of Visit.d: this datetime is naive"),
    (lambda: made({"items": list}), "Visit.items cannot be a field"),
    (lambda: made({"get": str}, get=""), "Visit.get cannot be a field"),
    (lambda: made({"_x": int}, _x=0), "Visit._x cannot be a field"),
    (lambda: made({"copy": int}), "Visit.copy cannot be a field"),
    (lambda: made(times=0), "Visit.times has no annotation: write `times: int = ...`"),
    (lambda: made({"v": Visit}), "the annotation of Visit.v: a session cannot lie in another"),
    (lambda: made({"v": Item | Address}), "the annotation of Visit.v: it is not known of which of several kinds"),
    (lambda: made({"v": list[Item] | list[Address]}), "the annotation of Visit.v: it is not known"),
    (
        lambda: made({"v": dict[int, str]}),
        "the annotation of Visit.v: the keys of a dict in a session are str",
    ),
    (lambda: made({"v": tuple[int, ...]}), "the annotation of Visit.v: what comes out of a session is no tuple"),
    (lambda: made({"v": list[set[str]]}), "the annotation of Visit.v: what comes out of a session is no set"),
    (lambda: made({"v": date | None}), "the annotation of Visit.v: what comes out of a session is no date"),
    (lambda: made({"v": timedelta}), "the annotation of Visit.v: what comes out of a session is no timedelta"),
    (lambda: made({"v": Decimal}), "the annotation of Visit.v: what comes out of a session is no Decimal"),
    (lambda: made({"v": Status}), "the annotation of Visit.v: what comes out of a session is no Status"),
    (lambda: made({"v": deque[int]}), "the annotation of Visit.v: what comes out of a session is no deque"),
    (lambda: made({"v": OrderedDict}), "the annotation of Visit.v: what comes out of a session is no OrderedDict"),
    (lambda: made({"v": Box[Item]}), "the annotation of Visit.v: the fields of Box do not learn"),
    (lambda: types.new_class("Sub", (Box[list[Item]],)), "the fields of Box do not learn"),
    (lambda: made({"v": "1 +"}), "the annotation of Visit.v: "),
    (lambda: type("Sub", (Visit,), {"times": {1}}), "the default of Sub.times: a set cannot be stored"),
]


@pytest.mark.parametrize(("make", "text"), MISUSES)
def test_a_class_that_cannot_be_meant_is_an_error(make, text):
    with pytest.raises(TypeError) as caught:
        make()
    assert text in str(caught.value)


# The handlers


class Typed(SessionMixin[Visit], RequestHandler):
    pass


V = TypeVar("V", bound=Visit)


class Base(SessionMixin[V], RequestHandler, Generic[V, T]):
    pass


class Longer(Visit):
    more: int = 0


def test_the_classes_of_the_application_hear_of_no_other():
    heard = []

    class Base(TypedSession):
        def __init_subclass__(cls, *, tag, **kwargs):
            super().__init_subclass__(**kwargs)
            heard.append((cls.__name__, tag))

    class Tagged(Base, tag="a"):
        n: int = 0

    local = opened(None, Tagged)
    with pytest.raises(SessionNotLoaded):
        local.session.n  # noqa: B018
    local.open({"n": 1})
    assert (local.session.n, type(local.session), heard) == (1, Tagged, [("Tagged", "a")])


def test_the_parameter_says_which_session_a_handler_has():
    class Under(Typed):
        pass

    class Given(Base[Longer, int]):
        pass

    class Twice(Given):
        pass

    class Socket(SessionMixin[Longer], WebSocketHandler):
        pass

    class Without(SessionMixin, RequestHandler):
        pass

    class Generic_(TypedSession, Generic[T]):
        n: int = 0

    class OfGeneric(SessionMixin[Generic_[int]], RequestHandler):
        pass

    class Fixed(SessionMixin[Longer], RequestHandler, Generic[T]):
        pass

    class OfFixed(Fixed[int]):
        pass

    handlers = [Typed, Under, Base, Given, Twice, Socket, Without, OfGeneric, OfFixed]
    kinds = [Visit, Visit, Visit, Longer, Longer, Longer, Session, Generic_, Longer]
    assert [handler._session_kind for handler in handlers] == kinds


@pytest.mark.skipif(sys.version_info < (3, 13), reason="defaults of type variables came with 3.13")
def test_a_type_variable_may_have_a_default():
    made = module("""
        from tornado.web import RequestHandler
        from tornado_sesame import SessionMixin, TypedSession
        class Visit(TypedSession):
            n: int = 0
        class Base[V: TypedSession = Visit, *Ts = *tuple[int]](SessionMixin[V], RequestHandler):
            pass
        class Page(Base):
            pass
        class Other(Base[Visit, int, str]):
            pass
    """)
    assert [made.Base._session_kind, made.Page._session_kind, made.Other._session_kind] == [made.Visit] * 3


@pytest.mark.parametrize("parameter", [int, Item, "Visit", dict[str, int], Visit | None])
def test_a_parameter_that_is_no_session_is_an_error(parameter):
    with pytest.raises(TypeError, match=r"^the parameter of SessionMixin in Wrong must be a subclass of TypedSession"):

        class Wrong(SessionMixin[parameter], RequestHandler):
            pass


class Page(SessionMixin[Visit], RequestHandler):
    async def get(self):
        session = await self.session
        assert type(session) is type(await self.load_session()) is Visit
        self.write({name: getattr(session, name) for name in Visit._fields if name != "since"})

    def post(self):
        self.session.times += 1
        self.session.cart.append(Item(sku="x"))
        self.session.address.place.names.append("home")

    def delete(self):
        self.session.tims = 1


async def test_a_page_with_a_typed_session(site, database):
    server = await site([("/", Page)])
    browser = server.browser()
    first = json.loads(await browser.text())
    assert (first["times"], first["lives"], first["address"], browser.cookies) == (0, 3, {}, {})
    for _ in range(2):
        assert (await browser.post()).code == 200
    found = json.loads(await browser.text())
    assert (found["times"], found["cart"], found["lives"]) == (2, [{"sku": "x"}] * 2, 3)
    (record,) = [record async for record in server.manager.records()]
    assert record.data == {
        "times": 2,
        "cart": [{"sku": "x"}] * 2,
        "address": {"place": {"names": ["home", "home"]}},
    }
    assert (await browser.fetch("DELETE")).code == 500


async def test_overlapping_changes_of_what_is_absent_are_all_there(site, database):
    entered = asyncio.Event()

    class Slow(SessionMixin[Visit], RequestHandler):
        waiting = 0

        async def post(self):
            session = await self.session
            Slow.waiting += 1
            if Slow.waiting == 20:
                entered.set()
            await entered.wait()  # all have read that there is nothing
            session.times += 1
            session.total += 0.5
            session.address.visits += 1
            session.address.place.names.append(self.get_argument("name"))
            session.cart.append(Item(sku="x"))
            session.by_sku[self.get_argument("name")] = Item(sku="y")

    class Start(SessionMixin[Visit], RequestHandler):
        def post(self):
            self.session.name = "Alice"

    server = await site([("/", Slow), ("/start", Start), ("/show", Page)])
    browser = server.browser()
    await browser.post("/start")
    await asyncio.gather(*(browser.post(f"/?name={n}") for n in range(20)))
    found = json.loads(await browser.text("/show"))
    assert (found["times"], found["total"], found["address"]["visits"], len(found["cart"])) == (20, 10.0, 20, 20)
    names = {str(n) for n in range(20)}
    assert set(found["address"]["place"]["names"]) == found["by_sku"].keys() == names
    assert found["name"] == "Alice"
