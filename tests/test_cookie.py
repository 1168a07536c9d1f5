"""The session's cookie: what is sent to browsers, what is taken from them, and what is refused when it is set up."""

import copy
import dataclasses
import hashlib
import pickle
import re
from datetime import timedelta
from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tornado.httputil import parse_cookie

from tornado_sesame import SessionCookie
from tornado_sesame.cookie import Secret, id_of_secret

SECRET, OTHER = "aA0_-" * 8 + "xyz", "b" * 43
DAY = timedelta(days=1)


def secrets_in(*headers, **options):
    return [secret.value for secret in SessionCookie(**options).secrets_in(headers)]


SCOPES = [
    ({}, False, "Path=/; HttpOnly; SameSite=Lax"),
    ({}, True, "Path=/; Secure; HttpOnly; SameSite=Lax"),
    ({"secure": True}, False, "Path=/; Secure; HttpOnly; SameSite=Lax"),
    ({"secure": True}, True, "Path=/; Secure; HttpOnly; SameSite=Lax"),
    ({"secure": False}, True, "Path=/; HttpOnly; SameSite=Lax"),
    ({"path": "/shop"}, False, "Path=/shop; HttpOnly; SameSite=Lax"),
    ({"domain": "example.com"}, False, "Path=/; Domain=example.com; HttpOnly; SameSite=Lax"),
    ({"httponly": False}, False, "Path=/; SameSite=Lax"),
    ({"samesite": "Strict"}, False, "Path=/; HttpOnly; SameSite=Strict"),
    ({"samesite": None}, False, "Path=/; HttpOnly"),
    ({"samesite": "None", "secure": True}, False, "Path=/; Secure; HttpOnly; SameSite=None"),
    ({"samesite": "Lax", "secure": False, "httponly": False}, True, "Path=/; SameSite=Lax"),
    ({"partitioned": True, "secure": True}, False, "Path=/; Secure; HttpOnly; SameSite=Lax; Partitioned"),
    (
        {"path": "/a", "domain": "a.b", "secure": True, "httponly": False, "samesite": "None", "partitioned": True},
        False,
        "Path=/a; Domain=a.b; Secure; SameSite=None; Partitioned",
    ),
    ({"name": "__Host-id", "secure": True}, False, "Path=/; Secure; HttpOnly; SameSite=Lax"),
    (
        {"name": "__Secure-id", "secure": True, "path": "/a", "domain": "a.b"},
        False,
        "Path=/a; Domain=a.b; Secure; HttpOnly; SameSite=Lax",
    ),
]


@pytest.mark.parametrize(("options", "https", "attributes"), SCOPES)
def test_it_is_set_and_deleted_in_the_same_scope(options, https, attributes):
    cookie = SessionCookie(**options)
    gone = "Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
    assert (
        cookie.set_header(Secret(SECRET), https=https, lifetime=DAY)
        == f"{cookie.name}={SECRET}; Max-Age=86400; {attributes}"
    )
    assert cookie.delete_header(https=https) == f"{cookie.name}=; {gone}; {attributes}"
    until_closed = cookie.set_header(Secret(SECRET), https=https, lifetime=None)
    assert until_closed == f"{cookie.name}={SECRET}; {attributes}"


@pytest.mark.parametrize(
    ("lifetime", "max_age"),
    [(timedelta(days=14), 1209600), (timedelta(seconds=1.9), 2), (timedelta(weeks=520), 314496000)],
)
def test_its_lifetime_is_in_whole_seconds(lifetime, max_age):
    assert f"; Max-Age={max_age};" in SessionCookie().set_header(Secret(SECRET), https=True, lifetime=lifetime)


def test_the_defaults():
    assert dataclasses.asdict(SessionCookie()) == {
        "name": "_session",
        "path": "/",
        "domain": None,
        "secure": "auto",
        "httponly": True,
        "samesite": "Lax",
        "max_age": timedelta(days=400),
        "partitioned": False,
    }


@pytest.mark.parametrize(
    ("options", "text"),
    [
        *[
            ({"name": name}, "cookie name .*RFC 9110 token")
            for name in ("", " ", "a b", "a=b", "a;b", "a,b", "é", '"a"')
        ],
        *[
            ({"name": name}, "cookie name .*RFC 9110 token")
            for name in ("a\n", "a\0", "a(b)", "a:b", "a/b", "[a]", "\\")
        ],
        *[({"path": path}, "cookie path .*must start with '/'") for path in ("", "shop", "./", "http://a/")],
        *[({"path": path}, "cookie path .*no spaces, commas, semicolons") for path in ("/a;b", "/a b", "/\r\nX: y")],
        *[
            ({"path": path}, "cookie path .*other than ASCII")
            for path in ("/a,b", "/\0", "/\x7f", "/é", "/a; Domain=b")
        ],
        *[
            ({"domain": domain}, "cookie domain .*must be a host name such as")
            for domain in ("", "a b", "a;b", "a,b", "a\n", "a\t", "https://a.b", "a.b:80", "a..b", "é.example")
        ],
        *[
            ({"secure": secure}, "secure=.*must be True, False or 'auto'")
            for secure in (None, "yes", "Auto", "true", 2)
        ],
        *[
            ({"samesite": samesite}, "must be 'Lax', 'Strict', 'None' or None")
            for samesite in ("lax", "none", "", True)
        ],
        *[({"samesite": "None", "secure": secure}, "samesite='None' .*set secure=True") for secure in ("auto", False)],
        *[
            ({"partitioned": True, "secure": secure}, "partitioned=True .*set secure=True")
            for secure in ("auto", False)
        ],
        *[
            ({"name": name}, f"{name}.*set secure=True")
            for name in ("__Host-id", "__Secure-id", "__host-id", "__SECURE-id")
        ],
        *[({"name": name, "secure": False}, f"{name}.*set secure=True") for name in ("__Host-id", "__Secure-id")],
        *[
            ({"name": name, "secure": True, "path": "/a"}, "needs path='/' and no dom")
            for name in ("__Host-id", "__HOST-")
        ],
        *[({"name": "__Host-id", "secure": True, "domain": domain}, "and no domain") for domain in ("a.b", "b")],
        *[
            ({"max_age": max_age}, "max_age=.*at least a second and at most 400 days")
            for max_age in (timedelta(0), timedelta(seconds=0.9), timedelta(days=-1), timedelta(days=400, seconds=1))
        ],
    ],
)
def test_what_browsers_would_refuse_is_refused_at_construction(options, text):
    with pytest.raises(ValueError, match=text):
        SessionCookie(**options)


@pytest.mark.parametrize("name", ["a", "__Hostid", "x__Host-id", "__Secured", "!#$%&'*+-.^_`|~09azAZ", "session.id"])
def test_other_names_are_free(name):
    cookie = SessionCookie(name=name, path="/a-b/%20", domain="a.b")
    header = cookie.set_header(Secret(SECRET), https=False, lifetime=DAY)
    assert header.startswith(f"{name}={SECRET};")
    assert secrets_in(f"x=1; {name}={SECRET}", name=name) == [SECRET]


@pytest.mark.parametrize("max_age", [timedelta(seconds=1), timedelta(days=400), None])
def test_max_age_may_be_this(max_age):
    assert SessionCookie(max_age=max_age).max_age == max_age


@pytest.mark.parametrize("max_age", [60, 60.0, "1 day", True])
def test_max_age_is_a_timedelta(max_age):
    with pytest.raises(TypeError, match=r"cookie max_age must be a datetime\.timedelta, not "):
        SessionCookie(max_age=max_age)


@pytest.mark.parametrize(
    ("path", "inside", "outside"),
    [
        ("/", ["/", "/a", "//", "/a/b", "*", "http://example.com/a"], []),
        ("/shop", ["/shop", "/shop/", "/shop/a"], ["/", "/sho", "/shops", "/Shop", "/a/shop", ""]),
        ("/shop/", ["/shop/", "/shop/a"], ["/", "/shop", "/shop2"]),
    ],
)
def test_it_covers_what_browsers_send_it_with(path, inside, outside):
    cookie = SessionCookie(path=path)
    assert all(map(cookie.covers, inside))
    assert not any(map(cookie.covers, outside))


def test_its_settings_do_not_change():
    cookie = SessionCookie()
    with pytest.raises(dataclasses.FrozenInstanceError):
        cookie.secure = False
    assert cookie == SessionCookie()
    assert hash(cookie) == hash(SessionCookie())


@pytest.mark.parametrize(
    "header",
    [
        f"_session={SECRET}",
        f'_session="{SECRET}"',
        f"  _session={SECRET}  ",
        f"_session={SECRET};",
        f"a=b; _session={SECRET}; c=d",
        f"a=b;_session={SECRET};c=d",
        f"a=b;\t_session={SECRET}\t; c",
        f"a; =; ;; _session={SECRET}",
        f"x_session={OTHER}; _session={SECRET}",
        f"_session2={OTHER}; _session={SECRET}",
        f"_session={SECRET}; _session={SECRET}",
        f"_session=planted; _session={SECRET}; _session={OTHER}x",
        f"_session=; _session={SECRET}",
        f"_session={OTHER}x; _session={SECRET}",
        f'a="é\udcff\0"; _session={SECRET}',
        f"_session={'x' * 100_000}; _session={SECRET}",
        f"{'a=b; ' * 10_000}_session={SECRET}",
    ],
    ids=lambda header: header[:60],
)
def test_what_is_well_formed_is_a_secret(header):
    assert secrets_in(header) == [SECRET]


@pytest.mark.parametrize(
    "headers",
    [
        [f"_session={SECRET}; _session={OTHER}"],
        [f"_session=planted; _session={SECRET}; a=b; _session={OTHER}; _session={SECRET}"],
        [f"_session={SECRET}", f"_session={OTHER}"],
        ["a=b", f"_session={SECRET}; c=d", "", f'e=f; _session="{OTHER}"'],
    ],
)
def test_all_that_a_request_carries_are_secrets_in_their_order(headers):
    assert secrets_in(*headers) == [SECRET, OTHER]


LOOK_ALIKES = [
    *(
        "x_session",
        "_session2",
        "_Session",
        "_SESSION",
        "Xsession",
        "id",
        "__Host-_session",
        "x _session",
    ),
    *("x=_session", "_session=_session", "a,_session", "a\n_session", "_session:", ""),
]
MALFORMED = [
    *("", '""', SECRET[1:], SECRET + "x", SECRET[1:] + "=", SECRET[1:] + "+", SECRET[1:] + "/", SECRET[1:] + "\0"),
    *("é" * 43, "٣" * 43, "%41" * 43, "x" * 1_000_000, f"x {SECRET}", f"{SECRET} x", f"{SECRET},", f"'{SECRET}'"),
    *(f"{SECRET[:20]} {SECRET[20:]}", f"{SECRET[:20]};{SECRET[20:]}"),
]


@pytest.mark.parametrize(
    "header",
    [
        *("", ";", "=", "_session", SECRET, f"_session:{SECRET}"),
        *(f"{name}={SECRET}" for name in LOOK_ALIKES),
        *(f"_session={value}" for value in MALFORMED),
    ],
    ids=lambda header: repr(header)[:60],
)
def test_nothing_else_is_a_secret(header):
    assert secrets_in(header) == []


def test_look_alikes_of_a_name_with_special_characters():
    for name, other in (("a.b", "axb"), ("a+", "aa"), ("a|b", "b"), ("$a^", "a"), ("a*", "")):
        assert secrets_in(f"{other}={SECRET}", name=name) == []
        assert secrets_in(f"{other}={OTHER}; {name}={SECRET}", name=name) == [SECRET]


PIECES = st.sampled_from(["_session", "=", ";", " ", '"', SECRET, OTHER, SECRET[1:], "x", "é", "\0", "\n", ","])


@given(st.one_of(st.text(), st.lists(PIECES, max_size=12).map("".join)))
@example(f"_session={SECRET}")
def test_whatever_a_client_sends_only_well_formed_secrets_are_found(header):
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", secret) and secret in header for secret in secrets_in(header))


@given(st.lists(st.tuples(st.sampled_from(["_session", "a", "x_session"]), st.sampled_from([SECRET, OTHER, "x", ""]))))
def test_it_finds_what_tornado_finds_when_there_is_one(cookies):
    header = "; ".join(f"{name}={value}" for name, value in dict(cookies).items())
    value = parse_cookie(header).get("_session")
    assert secrets_in(header) == ([value] if value in (SECRET, OTHER) else [])


def test_what_is_set_is_what_comes_back():
    for options, https in product([{}, {"name": "__Host-a.b", "secure": True}], [True, False]):
        cookie, secret = SessionCookie(**options), Secret()
        sent = cookie.set_header(secret, https=https, lifetime=DAY).split(";")[0]
        assert secrets_in(f"a=b; {sent}; c=d", **options) == [secret.value]
        assert secrets_in(cookie.delete_header(https=https).split(";")[0], **options) == []


def test_secrets_are_256_random_bits():
    secrets = [Secret().value for _ in range(1000)]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", secret) for secret in secrets)
    assert len(set(secrets)) == 1000
    assert all(len({secret[position] for secret in secrets}) > 10 for position in range(43))


def test_a_secret_shows_itself_to_nobody():
    secret = Secret(SECRET)
    for shown in (repr(secret), str(secret), f"{secret}", f"{[secret]}"):
        assert SECRET not in shown
        assert secret.id in shown
    for expose in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="its request's alone"):
            expose(secret)


def test_the_id_is_the_sha_256_of_the_secret():
    assert id_of_secret(SECRET) == hashlib.sha256(SECRET.encode()).hexdigest()
    assert id_of_secret("a" * 43) == "66d34fba71f8f450f7e45598853e53bfc23bbd129027cbb131a2f4ffd7878cd0"
