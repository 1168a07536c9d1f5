"""What it costs to read and to change a session: the proxy and its change set alone, without a store."""

import timeit

from tornado_sesame import Session, TypedSession, TypedSessionDict

from ..local import Local

__all__ = ["CASES", "microseconds"]

CASES = {
    "read a str": "session.name",
    "read a str by its key": "session['name']",
    "read a number": "session.times",
    "read three levels down": "session.user.address.city",
    "assign": "session.name = 'Alice'",
    "assign three levels down": "session.user.address.city = 'Berlin'",
    "add to a number": "session.times += 1",
    "append to a list": "session.cart.append('x')",
    "read a declared str": "typed.name",
    "read a declared number": "typed.times",
    "read a default": "typed.city",
    "read three declared levels down": "typed.user.address.city",
    "assign to a declared field": "typed.name = 'Alice'",
    "add to a declared number": "typed.times += 1",
    "append to a declared list": "typed.cart.append('x')",
}


class Address(TypedSessionDict):
    city: str


class User(TypedSessionDict):
    address: Address


class Visit(TypedSession):
    name: str
    times: int
    user: User
    cart: list[str]
    city: str = "Berlin"


DATA = {"name": "Bob", "times": 1, "user": {"address": {"city": "Paris"}}, "cart": []}


def microseconds() -> dict[str, float]:
    """Returns how long each case takes, the shortest of several runs."""
    result = {}
    for name, statement in CASES.items():
        local, typed = (
            Local({**DATA, "user": {"address": {"city": "Paris"}}, "cart": []}, kind=kind) for kind in (Session, Visit)
        )
        timer = timeit.Timer(statement, globals={"session": local.session, "typed": typed.session})
        result[name] = min(timer.repeat(repeat=20, number=2_000)) / 2_000 * 1e6
    return result
