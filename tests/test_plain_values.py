"""What is read out of a session goes wherever a plain dict or list goes, and is a live part of the session there."""

import copy
import json
from typing import Any

import bson
import jinja2
import msgspec
import orjson
import pydantic
import pytest
import ujson
from hypothesis import given
from hypothesis import strategies as st
from tornado.web import RequestHandler

from tornado_sesame import Session, SessionDict, SessionList, SessionMixin, SessionNotLoaded

from .local import Local
from .test_session import DICT, DICT_USES, LIST, LIST_USES, opened, outcome, plain

DATA = {
    "user": {"name": "Alice", "tags": ["a", {"b": [1, {"c": None}]}], "n": {"m": True}},
    "cart": [{"id": "x", "sizes": ["s", "m"]}, ["y"], "z"],
}


class Model(pydantic.BaseModel):
    user: dict[str, Any]
    cart: list[Any]


CONSUMERS = {
    "json": json.dumps,
    "json, indented": lambda value: json.dumps(value, indent=1, sort_keys=True),
    "orjson": orjson.dumps,
    "msgspec": msgspec.json.encode,
    "msgpack": msgspec.msgpack.encode,
    "ujson": ujson.dumps,
    "bson": lambda value: bson.encode({"": value}),
    "tojson": lambda value: jinja2.Environment(autoescape=True).from_string("{{ v|tojson }}").render(v=value),
    "jinja": lambda value: (
        jinja2.Environment(autoescape=True).from_string("{% for i in v %}{{i}}{% endfor %}").render(v=value)
    ),
    "copy": copy.deepcopy,
    "f-string": lambda value: f"{value}",
    "sorted": lambda value: sorted(value, key=repr),
    "==": lambda value: value,
}


def session(depth=0):
    """Returns a session whose containers have been reached down to some *depth*."""

    def reach(value, depth):
        if depth and isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                reach(item, depth - 1)

    content = opened(copy.deepcopy(DATA))
    reach(content.session, depth)
    return content.session


@pytest.mark.parametrize("depth", range(4))
@pytest.mark.parametrize("consumer", CONSUMERS)
def test_whoever_takes_plain_values_takes_those_of_a_session(consumer, depth):
    consume = CONSUMERS[consumer]
    for path in ((), ("user",), ("cart",), ("user", "tags"), ("cart", 0)):
        node, expected = session(depth), DATA
        for key in path:
            node, expected = node[key], expected[key]
        assert consume(node) == consume(expected)
        assert isinstance(node, type(expected))
        assert consume({"outer": [node]}) == consume({"outer": [expected]})


@pytest.mark.parametrize("depth", range(4))
def test_pydantic_takes_them(depth):
    found = session(depth)
    assert Model(**found) == Model(user=found.user, cart=found.cart) == Model(**DATA)
    assert Model.model_validate(found).model_dump_json() == Model(**DATA).model_dump_json()


@pytest.mark.parametrize("depth", range(4))
@pytest.mark.parametrize(
    "code",
    [
        *("dict(s)['cart']", "{**s}['cart']", "dict(**s)['cart']", "(lambda **k: k)(**s)['cart']", "[*s.values()][1]"),
        *("dict(s.items())['cart']", "list(s.items())[1][1]", "{}.__class__(s)['cart']", "s.get('cart')"),
        *("next(reversed(s.values()))", "next(reversed(s.items()))[1]", "copy_of(s)['cart']"),
    ],
)
def test_a_shallow_copy_of_a_dict_has_live_parts(code, depth):
    content = opened(copy.deepcopy(DATA))
    taken = eval(code, {"s": content.session, "copy_of": lambda value: {key: value[key] for key in value}})
    taken.append("new")
    taken[0]["sizes"].append("l")
    assert content.take_changes().apply(copy.deepcopy(DATA)) == content.session
    assert content.session.cart[-1] == "new"
    assert content.session.cart[0].sizes == ["s", "m", "l"]


@pytest.mark.parametrize(
    "code",
    ["list(l)", "[*l]", "tuple(l)", "l[:]", "[i for i in l]", "sorted(l, key=len)", "[] + [*l]", "list(iter(l))"],
)
def test_a_shallow_copy_of_a_list_has_live_parts(code):
    content = opened({"l": [{"a": 1}, {"b": [1]}]})
    for item in eval(code, {"l": content.session.l}):
        item.new = 1
    assert content.session.l == [{"a": 1, "new": 1}, {"b": [1], "new": 1}]
    assert content.take_changes().apply({"l": [{"a": 1}, {"b": [1]}]}) == content.session


@pytest.mark.parametrize("code", ["[] + l", "l + []", "l * 1", "1 * l", "s | {}", "{} | s", "s.copy()", "l.copy()"])
def test_what_makes_a_new_one_makes_a_plain_one(code):
    content = opened(copy.deepcopy(DATA))
    result = eval(code, {"s": content.session, "l": content.session.cart})
    (result["cart"] if isinstance(result, dict) else result)[0]["sizes"].append("l")
    assert content.session == DATA
    assert not content.take_changes()


@pytest.mark.parametrize("consumer", sorted(CONSUMERS.keys() - {"f-string", "=="}))
def test_a_session_that_is_not_loaded_goes_nowhere(consumer):
    with pytest.raises((SessionNotLoaded, TypeError, OverflowError, bson.InvalidDocument)):
        CONSUMERS[consumer](Local().session)


def test_numbers_that_remember_their_field_are_of_a_class_of_their_own():
    """As the README says; when one of these takes them one day, it may say less."""
    found = opened({"n": 1, "f": 0.5}).session
    refused = [(orjson.dumps, found.f), (msgspec.json.encode, found.n), (msgspec.json.encode, found.f)]
    for encode, number in refused:
        with pytest.raises(TypeError):
            encode(number)
        assert encode(found) == encode({"n": 1, "f": 0.5})
    for encode in json.dumps, ujson.dumps, lambda value: bson.encode({"": value}):
        assert [encode(found.n), encode(found.f)] == [encode(1), encode(0.5)]
    assert orjson.dumps(found.n) == msgspec.json.encode(int(found.n)) == b"1"


READING = {
    *("__class_getitem__", "__contains__", "__doc__", "__eq__", "__ge__", "__getattribute__", "__gt__", "__le__"),
    *("__len__", "__lt__", "__ne__", "__new__", "__repr__", "__reversed__", "__sizeof__", "count", "index", "keys"),
}


@pytest.mark.parametrize(("node", "base"), [(SessionDict, dict), (SessionList, list)])
def test_no_method_that_changes_or_copies_is_inherited(node, base):
    ours = {name for cls in node.__mro__[: node.__mro__.index(base)] for name in vars(cls)}
    assert vars(base).keys() - ours <= READING


@given(st.lists(st.sampled_from(DICT_USES), max_size=8))
def test_a_dict_is_as_a_dict_after_anything(codes):
    expected, node = copy.deepcopy(DICT), opened({"d": copy.deepcopy(DICT)}).session.d
    for code in codes:
        assert outcome(code, d=node) == outcome(code, d=expected)
        expected = plain(expected)  # as what is put into a session is copied, also when it comes from there


# A list that could not be sorted is in another order then, and one in a session is not.
@given(st.lists(st.sampled_from([code for code in LIST_USES if "sort(" not in code]), max_size=8))
def test_a_list_is_as_a_list_after_anything(codes):
    expected, node = copy.deepcopy(LIST), opened({"l": copy.deepcopy(LIST)}).session.l
    for code in codes:
        assert outcome(code, l=node) == outcome(code, l=expected)
        expected = plain(expected)  # as what is put into a session is copied, also when it comes from there


def test_their_types():
    found = session()
    assert isinstance(found, Session)
    assert isinstance(found, dict)
    match found:
        case {"user": {"name": name, "tags": [first, *_]}, "cart": [*_, last]}:
            assert (name, first, last) == ("Alice", "a", "z")
        case _:
            pytest.fail("it does not match")


class Page(SessionMixin, RequestHandler):
    async def get(self):
        session = await self.session
        if not session:
            session.update(copy.deepcopy(DATA))
        if self.get_argument("order", None):
            await self.settings["orders"].insert_one({"cart": session.cart, "by": session.user})
        self.write({"user": session.user, "all": session})


async def test_a_handler_writes_them(site):
    browser = (await site([("/", Page)])).browser()
    for _ in range(2):
        assert json.loads(await browser.text()) == {"user": DATA["user"], "all": DATA}


@pytest.mark.mongodb
async def test_another_collection_takes_them(site, database):
    orders = database.collection.database[database.collection.name + "_orders"]
    browser = (await site([("/", Page)], settings={"orders": orders})).browser()
    for _ in range(2):
        await browser.text("/?order=1")
    found = [order async for order in orders.find({}, {"_id": 0})]
    assert found == [{"cart": DATA["cart"], "by": DATA["user"]}] * 2
    await orders.drop()
