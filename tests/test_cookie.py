"""The session's cookie: what is sent to browsers, what is taken from them, and what is refused when it is set up."""

import dataclasses
import hashlib
import re
from datetime import timedelta
from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tornado.httputil import parse_cookie

from tornado_sesame import SessionCookie
from tornado_sesame.cookie import id_of_secret, new_secret

SECRET, OTHER = "aA0_-" * 8 + "xyz", "b" * 43
DAY = timedelta(days=1)

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
        cookie.set_header(SECRET, https=https, lifetime=DAY) == f"{cookie.name}={SECRET}; Max-Age=86400; {attributes}"
    )
    assert cookie.delete_header(https=https) == f"{cookie.name}=; {gone}; {attributes}"
    session_only = dataclasses.replace(cookie, persistent=False)
    assert session_only.set_header(SECRET, https=https, lifetime=DAY) == f"{cookie.name}={SECRET}; {attributes}"
    assert session_only.delete_header(https=https) == cookie.delete_header(https=https)


@pytest.mark.parametrize(
    ("lifetime", "max_age"),
    [(timedelta(days=14), 1209600), (timedelta(seconds=1.9), 2), (timedelta(weeks=520), 314496000)],
)
def test_it_lasts_as_long_as_the_session_in_whole_seconds(lifetime, max_age):
    assert f"; Max-Age={max_age};" in SessionCookie().set_header(SECRET, https=True, lifetime=lifetime)


def test_the_defaults():
    assert dataclasses.asdict(SessionCookie()) == {
        "name": "session_id",
        "path": "/",
        "domain": None,
        "secure": "auto",
        "httponly": True,
        "samesite": "Lax",
        "persistent": True,
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
    ],
)
def test_what_browsers_would_refuse_is_refused_at_construction(options, text):
    with pytest.raises(ValueError, match=text):
        SessionCookie(**options)


@pytest.mark.parametrize("name", ["a", "__Hostid", "x__Host-id", "__Secured", "!#$%&'*+-.^_`|~09azAZ", "session.id"])
def test_other_names_are_free(name):
    cookie = SessionCookie(name=name, path="/a-b/%20", domain="a.b")
    header = cookie.set_header(SECRET, https=False, lifetime=DAY)
    assert header.startswith(f"{name}={SECRET};")
    assert cookie.secret_in(f"x=1; {name}={SECRET}") == SECRET


def test_its_settings_do_not_change():
    cookie = SessionCookie()
    with pytest.raises(dataclasses.FrozenInstanceError):
        cookie.secure = False
    assert cookie == SessionCookie()
    assert hash(cookie) == hash(SessionCookie())


@pytest.mark.parametrize(
    "header",
    [
        f"session_id={SECRET}",
        f'session_id="{SECRET}"',
        f"  session_id={SECRET}  ",
        f"session_id={SECRET};",
        f"a=b; session_id={SECRET}; c=d",
        f"a=b;session_id={SECRET};c=d",
        f"a=b;\tsession_id={SECRET}\t; c",
        f"a; =; ;; session_id={SECRET}",
        f"xsession_id={OTHER}; session_id={SECRET}",
        f"session_id2={OTHER}; session_id={SECRET}",
        f"session_id={SECRET}; session_id={OTHER}",
        f"session_id=planted; session_id={SECRET}; session_id={OTHER}",
        f"session_id=; session_id={SECRET}",
        f"session_id={OTHER}x; session_id={SECRET}",
        f'a="é\udcff\0"; session_id={SECRET}',
        f"session_id={'x' * 100_000}; session_id={SECRET}",
        f"{'a=b; ' * 10_000}session_id={SECRET}",
    ],
    ids=lambda header: header[:60],
)
def test_the_first_well_formed_secret_counts(header):
    assert SessionCookie().secret_in(header) == SECRET


LOOK_ALIKES = [
    *(
        "xsession_id",
        "session_id2",
        "Session_id",
        "SESSION_ID",
        "sessionXid",
        "id",
        "__Host-session_id",
        "x session_id",
    ),
    *("x=session_id", "session_id=session_id", "a,session_id", "a\nsession_id", "session_id:", ""),
]
MALFORMED = [
    *("", '""', SECRET[1:], SECRET + "x", SECRET[1:] + "=", SECRET[1:] + "+", SECRET[1:] + "/", SECRET[1:] + "\0"),
    *("é" * 43, "٣" * 43, "%41" * 43, "x" * 1_000_000, f"x {SECRET}", f"{SECRET} x", f"{SECRET},", f"'{SECRET}'"),
    *(f"{SECRET[:20]} {SECRET[20:]}", f"{SECRET[:20]};{SECRET[20:]}"),
]


@pytest.mark.parametrize(
    "header",
    [
        *(None, "", ";", "=", "session_id", SECRET, f"session_id:{SECRET}"),
        *(f"{name}={SECRET}" for name in LOOK_ALIKES),
        *(f"session_id={value}" for value in MALFORMED),
    ],
    ids=lambda header: repr(header)[:60],
)
def test_nothing_else_is_a_secret(header):
    assert SessionCookie().secret_in(header) is None


def test_look_alikes_of_a_name_with_special_characters():
    for name, other in (("a.b", "axb"), ("a+", "aa"), ("a|b", "b"), ("$a^", "a"), ("a*", "")):
        assert SessionCookie(name=name).secret_in(f"{other}={SECRET}") is None
        assert SessionCookie(name=name).secret_in(f"{other}={OTHER}; {name}={SECRET}") == SECRET


PIECES = st.sampled_from(["session_id", "=", ";", " ", '"', SECRET, OTHER, SECRET[1:], "x", "é", "\0", "\n", ","])


@given(st.one_of(st.text(), st.lists(PIECES, max_size=12).map("".join)))
@example(f"session_id={SECRET}")
def test_whatever_a_client_sends_is_a_well_formed_secret_or_none(header):
    secret = SessionCookie().secret_in(header)
    assert secret is None or (re.fullmatch(r"[A-Za-z0-9_-]{43}", secret) and secret in header)


@given(
    st.lists(st.tuples(st.sampled_from(["session_id", "a", "xsession_id"]), st.sampled_from([SECRET, OTHER, "x", ""])))
)
def test_it_finds_what_tornado_finds_when_there_is_one(cookies):
    header = "; ".join(f"{name}={value}" for name, value in dict(cookies).items())
    value = parse_cookie(header).get("session_id")
    assert SessionCookie().secret_in(header) == (value if value in (SECRET, OTHER) else None)


def test_what_is_set_is_what_comes_back():
    for options, https in product([{}, {"name": "__Host-a.b", "secure": True}], [True, False]):
        cookie, secret = SessionCookie(**options), new_secret()
        sent = cookie.set_header(secret, https=https, lifetime=DAY).split(";")[0]
        assert cookie.secret_in(f"a=b; {sent}; c=d") == secret
        assert cookie.secret_in(cookie.delete_header(https=https).split(";")[0]) is None


def test_secrets_are_256_random_bits():
    secrets = [new_secret() for _ in range(1000)]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", secret) for secret in secrets)
    assert len(set(secrets)) == 1000
    assert all(len({secret[position] for secret in secrets}) > 10 for position in range(43))


def test_the_id_is_the_sha_256_of_the_secret():
    assert id_of_secret(SECRET) == hashlib.sha256(SECRET.encode()).hexdigest()
    assert id_of_secret("a" * 43) == "66d34fba71f8f450f7e45598853e53bfc23bbd129027cbb131a2f4ffd7878cd0"
