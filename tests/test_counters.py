"""A number read from a session is the int or float that it looks like, wherever it is put."""

import copy
import json
import math
import numbers
import operator
import pickle
import struct
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from urllib.parse import urlencode

import bson
import pytest
from tornado.escape import json_encode

from tornado_sesame.changes import Inc, Set
from tornado_sesame.counters import origin_of, same_float

from .local import Local


def outcome(code, number):
    """Returns what *code* makes of the number ``n``, its type included, or the type of what it raises."""
    try:
        return exact(eval(code, dict(TOOLS, n=number)))
    except Exception as error:
        return type(error)


def exact(value):
    if isinstance(value, list | tuple):
        return type(value), [exact(item) for item in value]
    return type(value), repr(value)


def plain(value):
    return int(value) if isinstance(value, int) else value


def matched(number):
    match number:
        case 7 | 2.5:
            return "literal"
        case int(value):
            return "int", str(value)
        case float(value):
            return "float", str(value)


MODULES = {"bson": bson, "copy": copy, "json": json, "math": math, "numbers": numbers, "operator": operator}
TOOLS = MODULES | {"pickle": pickle, "struct": struct, "urlencode": urlencode, "json_encode": json_encode}
TOOLS |= {"Decimal": Decimal, "Fraction": Fraction, "timedelta": timedelta, "matched": matched}

NUMBERS = [7, 0, -3, 1000, 2**63 - 1, -(2**63), bson.Int64(7), 2.5, 0.1, -0.0, 1e300, math.inf, math.nan]

USES = [
    # What it is
    *("isinstance(n, int)", "isinstance(n, float)", "isinstance(n, bool)", "isinstance(n, numbers.Integral)"),
    *("isinstance(n, (str, complex))", "isinstance(n, numbers.Real)", "bool(n)", "not n", "matched(n)", "n is n"),
    *("hash(n) if n == n else 'NaNs have hashes of their own'", "callable(n)", "n.name", "n()", "n[0]", "iter(n)"),
    # Comparing
    *("n == 7", "7 == n", "n == 2.5", "2.5 == n", "n == '7'", "n == None", "n == Decimal(7)", "Decimal(7) == n"),
    *("n == n", "n != n", "n == True", "n == Fraction(5, 2)", "n != 7", "7 != n", "n != 'x'", "n < 7"),
    *("n <= 7", "n > 7"),
    *("n >= 7", "2.5 < n", "2.5 <= n", "2.5 > n", "2.5 >= n", "n < Decimal('2.6')", "Fraction(5, 2) >= n", "n < '7'"),
    *("{n: 'x'}.get(7)", "{7: 'x', 2.5: 'y'}.get(n)", "n in {7, 2.5}", "n in [7, 2.5]", "[7, 2.5, n].index(n)"),
    *("[*map(str, sorted([5, n, 3]))]", "str(max(n, 5))", "len({n, 7, 2.5})", "math.isclose(n, 7)"),
    # As text
    *("str(n)", "repr(n)", "ascii(n)", "format(n)", "f'{n} {n!r} {n!s:>5}'", "f'{n:>8}'", "f'{n:+}'", "f'{n:08.3f}'"),
    *("f'{n:,}'", "f'{n:%}'", "f'{n:d}'", "f'{n:#x}'", "'{0} {0:.2e}'.format(n)", "'%s' % n", "'%r' % n", "'%d' % n"),
    *("'%.2f|%5g' % (n, n)", "'%(n)s' % {'n': n}", "''.join([n])", "'x' + n", "n + 'x'", "hex(n)", "bin(n)", "chr(n)"),
    # Serialized
    *("json.dumps(n)", "json.dumps({'n': n, 'l': [n]}, indent=1)", "json.dumps({n: 1})", "json.loads(json.dumps(n))"),
    *("json_encode({'n': n})", "bson.encode({'n': n, 'l': [n], 'd': {'n': n}})", "urlencode({'n': n})"),
    *("[pickle.loads(pickle.dumps(n, version)) for version in range(6)]", "pickle.loads(pickle.dumps([n, n]))"),
    *("copy.copy(n)", "copy.deepcopy(n)", "copy.deepcopy([n])", "struct.pack('<d', n)", "struct.pack('<q', n)"),
    # Converted
    *("int(n)", "float(n)", "complex(n)", "Decimal(n)", "Fraction(n)", "round(n)", "round(n, 1)", "round(n, -1)"),
    *("math.trunc(n)", "math.floor(n)", "math.ceil(n)", "operator.index(n)", "timedelta(seconds=n)", "n.real"),
    *("n.imag",),
    *("n.conjugate()", "n.as_integer_ratio()", "n.numerator", "n.denominator", "n.bit_length()", "n.hex()"),
    *("n.to_bytes(8, 'big', signed=True)", "n.is_integer() if isinstance(n, float) else None"),
    # Calculated with
    *("-n", "+n", "abs(n)", "~n", "n * 2", "2 * n", "n * 1.5", "1.5 * n", "n * n", "n / 2", "2.5 / n"),
    *("n // 2", "9 // n"),
    *("n % 3", "100 % n", "divmod(n, 3)", "divmod(100, n)", "n**2", "n**0", "pow(n, 2, 5)", "10 - n", "2.5 - n"),
    *("n & 3", "n | 8", "n ^ 1", "n << 2", "n >> 1", "3 & n", "n + 1j", "1j + n", "n - 1j", "n * timedelta(seconds=1)"),
    *("n + Decimal('0.5')", "Decimal('0.5') + n", "n - Decimal(1)", "Decimal(1) - n", "n * Decimal(2)", "n + None"),
    *("n + Fraction(1, 2)", "n - Fraction(1, 2)", "n * Fraction(1, 2)", "Fraction(1, 2) - n", "n - []", "[] + n"),
    *("math.sqrt(n)", "math.fsum([n, 1])", "abs(n - n) < 1", "float(Fraction(1, 2) + n)"),
    # As an index or a size
    *("'abcdefgh'[n]", "[*'abcdefgh'][n]", "'abcdefgh'[n:]", "'abcdefgh'[:n]", "'abcdefgh'[::n]", "repr(range(n))"),
    *("[*range(n, 3)] if abs(n) < 9 else 0", "'ab' * n if abs(n) < 9 else 0"),
    *("[str(i) for i, _ in enumerate('ab', n)]",),
]


@pytest.mark.parametrize("code", USES)
def test_it_behaves_as_the_plain_number(code):
    outcomes = [outcome(code, Local({"n": value}).session.n) for value in NUMBERS]
    assert outcomes == [outcome(code, plain(value)) for value in NUMBERS]


@pytest.mark.parametrize("code", USES)
def test_the_default_zero_behaves_as_zero(code):
    zeros = [0, 0.0, -0.0, bson.Int64(0)]
    outcomes = [outcome(code, Local({}).session.get("n", zero)) for zero in zeros]
    assert outcomes == [outcome(code, plain(zero)) for zero in zeros]


SUMS = ["n + 1", "1 + n", "n - 1", "n + 0", "n + 0.1", "n - 2.5", "n + True", "n + 2**70", "n + math.inf"]


@pytest.mark.parametrize("code", [*SUMS, "sum([n, 1, 2.5])", "n + 1 - 3 + 0.5"])
def test_a_sum_behaves_as_the_plain_sum(code):
    for value in NUMBERS:
        expected, total = (
            eval(code, dict(TOOLS, n=plain(value))),
            eval(code, dict(TOOLS, n=Local({"n": value}).session.n)),
        )
        assert origin_of(total)
        for use in ("str(n)", "json.dumps(n)", "copy.copy(n)", "pickle.loads(pickle.dumps(n))", "[n * 2, -n, n < 3]"):
            assert outcome(use, total) == outcome(use, expected)


@pytest.mark.parametrize(
    ("start", "code", "op"),
    [
        *[(5, code, Inc(1)) for code in ("n + 1", "1 + n", "n + True", "n + 3 - 2")],
        *[(5, code, Inc(-2)) for code in ("n - 2", "-2 + n", "n - 1 - 1")],
        *[(5, code, Inc(0.5)) for code in ("n + 0.5", "n + 1 - 0.5")],
        *[(5, code, Inc(6)) for code in ("sum([n, 1, 2, 3])", "sum([1, n, 5])")],
        *[(2.5, code, Inc(0.5)) for code in ("n + 0.5", "0.5 + n", "n - (-0.5)")],
        *[(2.5, code, Inc(1)) for code in ("n + 1", "1 + n")],
    ],
)
def test_plus_and_minus_remember_the_field(start, code, op):
    content = Local({"n": start})
    content.session.n = eval(code, {"n": content.session.n})
    assert repr(content.take_changes().ops) == repr({("n",): op})


@pytest.mark.parametrize("start", [5, 5.0])
@pytest.mark.parametrize(
    "code",
    [
        *("int(n)", "float(n)", "copy.copy(n)", "copy.deepcopy(n)", "round(n)", "abs(n)", "math.floor(n)", "+n", "-n"),
        *("n * 1", "1 * n", "n // 1", "n**1", "n / 1", "20 - n", "divmod(n, 1)[0]", "n.real", "float(f'{n}')", "-(-n)"),
        *("json.loads(json.dumps(n))", "pickle.loads(pickle.dumps(n))", "bson.decode(bson.encode({'n': n}))['n']"),
    ],
)
def test_nothing_else_does(start, code):
    content = Local({"n": start})
    total = eval(code, dict(TOOLS, n=content.session.n)) + 1
    assert origin_of(total) is None
    assert type(total) in (int, float)
    content.session.n = total
    assert repr(content.take_changes().ops) == repr({("n",): Set(total)})


def test_bools_are_bools():
    session = Local({"yes": True, "no": False}).session
    assert session.yes is True
    assert session["no"] is False
    assert session.get("yes") is True
    assert session.get("absent", False) is False
    assert session.setdefault("new", True) is True


@pytest.mark.parametrize("default", [5, 1, -0.5, True, "0", None, [], Decimal(0)], ids=repr)
def test_a_default_that_is_no_zero_is_returned_as_it_is(default):
    assert Local({}).session.get("n", default) is default


def test_copies_and_lists_hold_plain_numbers():
    session = Local({"n": 1, "f": 0.5, "d": {"n": 2}, "l": [3, 0.5]}).session
    copied = session.copy()
    plain = [copied["n"], copied["f"], copied["d"]["n"], *copied["l"], *session.l, session.l.pop(), session.l[0]]
    assert {type(number) for number in plain} == {int, float}
    assert [origin_of(number) for number in plain] == [None] * len(plain)


@pytest.mark.parametrize(
    "read",
    [
        *("s.n", "s['n']", "s.get('n')", "s.get('n', 0)", "s.setdefault('n', 0)", "[*s.values()][0]"),
        *("[*s.items()][0][1]",),
        *("dict(s)['n']", "{**s}['n']"),
    ],
)
def test_however_it_is_read_it_can_be_added_to(read):
    content = Local({"n": 5})
    content.session.n = eval(read, {"s": content.session}) + 1
    assert content.take_changes().ops == {("n",): Inc(1)}


@pytest.mark.parametrize("value", [None, True, "5", b"5", Decimal(5), 5, 5.0, [], bson.Int64(5)], ids=repr)
def test_what_was_not_read_from_a_session_has_no_origin(value):
    assert origin_of(value) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (0.5, 0.5, True),
        (0.0, -0.0, False),
        (math.nan, math.nan, True),
        (0.1 + 0.2, 0.3, False),
        (math.inf, 1e308, False),
    ],
)
def test_floats_are_the_same_when_every_bit_is(one, other, same):
    assert same_float(one, other) is same
