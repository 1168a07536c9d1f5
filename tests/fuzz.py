"""Hostile input, in any number: ``python -m tests.fuzz --inputs 1000000``.

An input is a ``Cookie`` header, a key with a value that is put into a session, or a request with such a header and such
a key. Of each it is demanded that

- a header gives the first well-formed secret in it, as a second, plain reading of the header finds it, or none;
- a key with a value is stored as the session shows it, to the bit, or is refused by a `SessionDataError` and changes
  nothing;
- a request is never answered with a 500.
"""

import argparse
import asyncio
import random
import re
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from urllib.parse import quote

from bson import Binary, Code, DatetimeMS, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from tornado.web import RequestHandler

from tornado_sesame import MemoryStore, SessionCookie, SessionDataError, SessionManager, SessionMixin
from tornado_sesame.nodes import SessionDict, SessionList
from tornado_sesame.values import bson_size

from .support import record_of, serve
from .test_stored_equals_local import exact

SECRET = "aA0_-" * 8 + "xyz"

# What headers are made of: whatever is special in them, and what nearly is.
PIECES = st.one_of(
    st.sampled_from(["_session", "=", "; ", ";", '"', SECRET, SECRET[::-1], f"_session={SECRET}"]),
    st.sampled_from([" ", "\t", "\v", "\xa0", "\x85", ",", "\\", "%0d%0a", "\r\n", "\0", "\x1b[2J", "é", "\udcff"]),
    st.sampled_from([SECRET[1:], SECRET + "x", "__Host-_session=", "Session_id=", "a=b; ", "$Version=1; ", "x" * 5000]),
    st.text(max_size=8),
)
PAIRS = st.tuples(
    st.sampled_from(["", " ", "\t", "  "]),
    st.sampled_from(["_session=", "_session=", "_session", "_session =", "a=", "x_session=", "_SESSION="]),
    st.sampled_from(["", "", '"', " "]),
    st.sampled_from([SECRET, SECRET, SECRET[::-1], SECRET[1:], SECRET + "x", SECRET[1:] + "é", ""]),
    st.sampled_from(["", "", '"', " ", ' "', "\n"]),
).map("".join)
HEADERS = st.one_of(
    st.lists(PIECES, max_size=12).map("".join),
    st.lists(PAIRS, min_size=1, max_size=6).map(";".join),
    st.lists(PAIRS, min_size=1, max_size=6).map(";".join),
    st.builds(lambda piece, times: piece * times, PIECES, st.integers(0, 300)),
)

KEYS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(["", ".", "a.b", "$where", "$set", "a\0b", "%", "%2E", "_id", "_data", "items", "__class__"]),
    st.sampled_from(["constructor", "__proto__", "é", "\ud800", "\r\nWARNING forged", "x" * 2000]),
)
NO_STR_KEYS = st.sampled_from([None, 1, 1.5, True, b"x", (), (1,), object()])
NUMBERS = st.one_of(
    st.integers(), st.floats(), st.sampled_from([2**63 - 1, -(2**63), 2**63, -(2**63) - 1, 10**400, -0.0])
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, KEYS, st.binary(max_size=20), st.datetimes())
BSON = st.one_of(
    st.builds(Int64, st.integers(-(2**63), 2**63 - 1)),
    st.builds(Binary, st.binary(max_size=20), st.integers(0, 255)),
    st.builds(Regex, KEYS, st.integers(0, 300)),
    st.builds(Code, KEYS, st.none() | st.dictionaries(KEYS, SCALARS, max_size=2)),
    st.builds(DBRef, KEYS, SCALARS),
    st.builds(DatetimeMS, st.integers(-(2**63), 2**63 - 1)),
    st.builds(Timestamp, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    st.sampled_from([ObjectId("0" * 24), Decimal128("sNaN"), MinKey(), MaxKey(), datetime(1, 1, 1, tzinfo=UTC)]),
    st.uuids(),
)
# Made anew for each input, since some of them are changed by what is done to them.
STRANGE = st.sampled_from(
    [
        *(set, object, bytearray, lambda: 1j, lambda: Decimal(1), lambda: date(2026, 1, 1), lambda: timedelta(1)),
        *(
            lambda: range(3),
            lambda: iter(()),
            lambda: len,
            lambda: int,
            lambda: memoryview(b"x"),
            lambda: NotImplemented,
        ),
        *(lambda: nested(90), lambda: nested(97), lambda: nested(98), lambda: nested(5000), lambda: cycle([])),
        *(
            lambda: {1: 2},
            lambda: {"a": [{"b": {1, 2}}]},
            lambda: Exception("x"),
            lambda: type("Text", (str,), {})("x"),
        ),
    ]
).map(lambda make: make())
VALUES = st.recursive(
    st.one_of(SCALARS, SCALARS, BSON, STRANGE),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=5,
)


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def cycle(items):
    items.append({"again": items})
    return items


# The ways in which keys and values get into a session.


def assign(session, key, value):
    session[key] = value


def update(session, key, value):
    session.update({"first": 1, key: value})


def setdefault(session, key, value):
    session.setdefault(key, value)


def set_attribute(session, key, value):
    if isinstance(key, str) and key.isidentifier():
        with suppress(AttributeError):  # for names that dicts use themselves
            setattr(session, key, value)


def assign_inside(session, key, value):
    inner = session.setdefault("inner", {})
    if isinstance(inner, SessionDict):
        inner[key] = value


def append(session, key, value):
    items = session.setdefault("items", [])
    if isinstance(items, SessionList):
        items.append(value)


def extend(session, key, value):
    items = session.setdefault("items", [])
    if isinstance(items, SessionList):
        items += [key, value]


def add(session, key, value):
    name = key if isinstance(key, str) and key in session else "times"
    if type(value) in (int, float) and isinstance(session.get(name), int | float):
        with suppress(OverflowError):  # Python's own: a float plus an int that is larger than any float
            session[name] += value


def delete(session, key, value):
    if isinstance(key, str):
        session.pop(key, None)


WAYS = st.sampled_from(
    [assign, assign, assign, update, setdefault, set_attribute, assign_inside, append, extend, add, delete]
)
CHANGES = st.tuples(WAYS, st.one_of(KEYS, KEYS, KEYS, NO_STR_KEYS), VALUES)
REQUESTS = st.tuples(HEADERS, KEYS, st.text(max_size=20))


class Echo(SessionMixin, RequestHandler):
    """Puts a client's key and value into its session."""

    def get(self):
        key = self.get_query_argument("key", strip=False)
        self.session[key] = self.get_query_argument("value", strip=False)
        self.session.times = self.session.times + 1 if isinstance(self.session.get("times"), int) else 1
        self.write(self.session.copy())


class Fuzz:
    """Runs until it has had enough inputs; what it finds is raised by hypothesis, as a small example.

    :arg seed: of the first inputs; the same one gives the same.
    """

    def __init__(self, seed=0):
        self.counts = Counter()
        self.outcomes = Counter()
        self._seed = seed
        self._manager = SessionManager(MemoryStore(max_sessions=100))

    def run(self, inputs, report=lambda fuzz: None):
        with asyncio.Runner() as runner:
            serving = serve([("/", Echo)], sessions=SessionManager(MemoryStore(max_sessions=1000)))
            self._port = runner.run(serving.__aenter__()).port
            try:
                share = min(inputs, 10_000) // 100
                while self.counts.total() < inputs:  # requests cost the most, so they are the fewest
                    self._throw("headers", 60 * share, 20, HEADERS, self._headers)
                    report(self)
                    self._throw("keys and values", 38 * share, 5, CHANGES, lambda some: runner.run(self._changes(some)))
                    report(self)
                    self._throw("requests", 2 * share, 5, REQUESTS, lambda some: runner.run(self._requests(some)))
            finally:
                runner.run(serving.__aexit__(None, None, None))

    def _throw(self, kind, number, batch, inputs, check):
        """Has hypothesis make *number* inputs, in lists of *batch*, and hands each list to *check*."""
        self._seed += 1

        @seed(self._seed)
        @settings(
            max_examples=number // batch,
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(inputs, min_size=batch, max_size=batch))
        def throw(inputs):
            check(inputs)
            self.counts[kind] += batch

        throw()

    def _headers(self, headers):
        for header in headers:
            secret = next((secret.value for secret in SessionCookie().secrets_in([header])), None)
            assert secret == first_secret(header)
            self.outcomes["headers with a secret" if secret else "headers without"] += 1

    async def _changes(self, changes):
        live = self._manager.open()
        live.open_empty()
        live.session.times = 1
        for way, key, value in changes:
            before = live.session.copy()
            try:
                way(live.session, key, value)
            except SessionDataError as error:
                self._check_refusal(error)
                # `setdefault` of the container that the value was to go into is a change of its own.
                after = {name: item for name, item in live.session.copy().items() if item or name in before}
                assert exact(after) == exact(before)
                self.outcomes["values refused"] += 1
            else:
                self.outcomes["values kept"] += 1
        await live.save()
        stored = (await record_of(self._manager, live.id)).data
        assert exact(stored) == exact(live.session.copy())
        assert bson_size(stored) > 0
        again = self._manager.open()
        again.open_empty()
        again.replace(stored)  # what comes from a store can be put into one
        assert exact(again.session.copy()) == exact(stored)
        again.session.clear()

    def _check_refusal(self, error):
        assert str(error).isprintable()  # it goes to the log

    async def _requests(self, requests):
        reader = writer = None
        for header, key, value in requests:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            cookie = re.sub(r"[\r\n]", " ", header).encode("latin-1", "replace")[:60_000]  # Tornado's limit is 64 KB
            query = f"key={quote(key, errors='replace')}&value={quote(value, errors='replace')}".encode()
            writer.write(b"GET /?" + query + b" HTTP/1.1\r\nHost: localhost\r\nCookie: " + cookie + b"\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head.split(b" ", 2)[1])
            assert status in (200, 400), (status, cookie, query)
            self.outcomes[f"requests answered with {status}"] += 1
            if status == 200:
                await reader.readexactly(int(re.search(rb"Content-Length: (\d+)", head)[1]))
            else:  # Tornado ends a connection on which something came that is not HTTP
                writer.close()
                writer = None
        if writer is not None:
            writer.close()


def first_secret(header):
    """Reads a header as one would explain it, to hold it against the pattern that `SessionCookie` uses."""
    for part in header.split(";"):
        name, _, value = part.strip(" \t\n\r\f\v").partition("=")
        if name == "_session":
            value = value.removeprefix('"').removesuffix('"')
            if len(value) == 43 and all(c.isascii() and (c.isalnum() or c in "-_") for c in value):
                return value
    return None


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="to repeat a run")
    arguments = parser.parse_args()
    began = shown = time.monotonic()

    def report(fuzz, last=False):
        nonlocal shown
        if last or time.monotonic() > shown + 10:
            shown = time.monotonic()
            print(f"{fuzz.counts.total():,} inputs in {shown - began:.0f} s: {dict(fuzz.counts)}", flush=True)

    fuzz = Fuzz(arguments.seed)
    print(f"seed {arguments.seed}", flush=True)
    fuzz.run(arguments.inputs, report)
    report(fuzz, last=True)
    print(dict(fuzz.outcomes))


if __name__ == "__main__":
    main()
