"""What it costs to read and to change a session: the proxy and its change set alone, without a store."""

import timeit

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
}

DATA = {"name": "Bob", "times": 1, "user": {"address": {"city": "Paris"}}, "cart": []}


def microseconds() -> dict[str, float]:
    """Returns how long each case takes, the shortest of several runs."""
    result = {}
    for name, statement in CASES.items():
        local = Local({**DATA, "user": {"address": {"city": "Paris"}}, "cart": []})
        timer = timeit.Timer(statement, globals={"session": local.session})
        result[name] = min(timer.repeat(repeat=20, number=2_000)) / 2_000 * 1e6
    return result
