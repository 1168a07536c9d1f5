"""The cookie that carries a session's secret, and the id that is made of it."""

import hashlib
import math
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Literal, NoReturn

__all__ = ["LONGEST_MAX_AGE", "Secret", "SessionCookie", "check_header", "id_of_secret", "is_id", "secrets_among"]

SECRET_BYTES = 32

# What a secret looks like, and a token of RFC 9110, 5.6.2: regular expressions.
_SECRET = "[A-Za-z0-9_-]{43}"  # noqa: S105
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105

LONGEST_MAX_AGE = timedelta(days=400)
"""The longest that browsers keep a cookie (RFC 6265bis, 5.5); Chrome and others cut what is longer."""


class Secret:
    """What the cookie carries. It shows itself to nobody who does not ask for `value`, such as an error report.

    :arg value: one that a client sent; None for a new one, of 256 random bits as 43 characters of url-safe base64.
    """

    __slots__ = ("id", "value")

    def __init__(self, value: str | None = None) -> None:
        self.value = value or secrets.token_urlsafe(SECRET_BYTES)
        self.id = id_of_secret(self.value)

    def __repr__(self) -> str:
        return f"<Secret of session {self.id}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a cookie's secret is its request's alone: it cannot be pickled or copied")


def id_of_secret(secret: str) -> str:
    """Returns the id under which the session with this secret is stored: its SHA-256 in hex.

    The secret has 256 random bits, so a fast hash without a salt is enough to keep whoever reads the database from
    using what is in it (OWASP ASVS 5.0, 7.2.3 and 11.4).
    """
    return hashlib.sha256(secret.encode("ascii")).hexdigest()


def is_id(value: str) -> bool:
    """Tells whether *value* has the form of an id."""
    return re.fullmatch(r"[0-9a-f]{64}", value) is not None


def secrets_among(values: Iterable[str]) -> list[Secret]:
    """Returns the secrets among the *values* of a request's header, each once; none that is not well formed."""
    return [Secret(value) for value in dict.fromkeys(map(str.strip, values)) if re.fullmatch(_SECRET, value)]


def check_header(name: object) -> None:
    """Makes sure that *name* can be that of a header in which clients without cookies send their secret.

    :raises TypeError, ValueError: when it cannot.
    """
    if not isinstance(name, str):
        raise TypeError(f"header must be a str such as 'X-Session-Token', or None, not {type(name).__name__}")
    if not re.fullmatch(_TOKEN, name) or name.lower() in {"authorization", "cookie", "set-cookie"}:
        raise ValueError(f"header={name!r}: must be a header of your own such as 'X-Session-Token'")


@dataclass(frozen=True, slots=True)
class SessionCookie:
    """The name and the attributes of the session's cookie.

    :arg name: the cookie's name. With the prefix ``__Host-`` or ``__Secure-``, browsers enforce that prefix's rules.
    :arg path: the part of the site that gets the cookie, as ``request.path`` has it. A request outside of it has no
        session.
    :arg domain: None keeps the cookie to the host that set it; a domain shares it with all subdomains.
    :arg secure: whether the cookie is sent over https only. "auto" is True when the request came by https, as
        ``request.protocol`` says; so behind a proxy, start the server with ``xheaders=True``.
    :arg httponly: keeps the cookie from scripts.
    :arg samesite: "Lax", "Strict", "None" (needs ``secure=True``), or None to leave the attribute out.
    :arg max_age: how long the browser keeps the cookie once it has it, at most 400 days; None: until it is closed. The
        cookie is never renewed. When the session itself ends, the server alone decides.
    :arg partitioned: gives each top-level site its own cookie (CHIPS); needs ``secure=True``.
    :raises TypeError: when *max_age* is not a timedelta.
    :raises ValueError: when browsers would ignore or refuse such a cookie, saying why.
    """

    name: str = "_session"
    path: str = "/"
    domain: str | None = None
    secure: bool | Literal["auto"] = "auto"
    httponly: bool = True
    samesite: Literal["Lax", "Strict", "None"] | None = "Lax"
    max_age: timedelta | None = LONGEST_MAX_AGE
    partitioned: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(_TOKEN, self.name):
            raise ValueError(f"cookie name {self.name!r}: only the characters of an RFC 9110 token are allowed")
        if not re.fullmatch(r"/[!-+\--:<-~]*", self.path):
            raise ValueError(
                f"cookie path {self.path!r}: must start with '/', browsers ignore it otherwise, "
                "and have no spaces, commas, semicolons or characters other than ASCII"
            )
        if self.domain is not None and not re.fullmatch(r"\.?[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*", self.domain):
            raise ValueError(
                f"cookie domain {self.domain!r}: must be a host name such as 'example.com', without a port"
            )
        if self.secure not in (True, False, "auto"):
            raise ValueError(f"cookie secure={self.secure!r}: must be True, False or 'auto'")
        if self.samesite not in ("Lax", "Strict", "None", None):
            raise ValueError(f"cookie samesite={self.samesite!r}: must be 'Lax', 'Strict', 'None' or None")
        if self.max_age is not None:
            if not isinstance(self.max_age, timedelta):
                raise TypeError(f"cookie max_age must be a datetime.timedelta, not {type(self.max_age).__name__}")
            if not timedelta(seconds=1) <= self.max_age <= LONGEST_MAX_AGE:
                raise ValueError(
                    f"cookie max_age={self.max_age!r}: must be at least a second and at most "
                    f"{LONGEST_MAX_AGE.days} days, as browsers keep none longer; None: until the browser is closed"
                )
        if self.secure is not True:
            for needs, what in (
                (self.samesite == "None", "samesite='None'"),
                (self.partitioned, "partitioned=True"),
                (self._is_prefixed("__secure-", "__host-"), f"the name {self.name!r}"),
            ):
                if needs:
                    raise ValueError(f"browsers refuse a cookie with {what} that is not Secure: set secure=True")
        if self._is_prefixed("__host-") and (self.path != "/" or self.domain is not None):
            raise ValueError(f"cookie name {self.name!r}: a __Host- cookie needs path='/' and no domain")

    def covers(self, path: str) -> bool:
        """Tells whether browsers send the cookie with a request for *path* (RFC 6265, 5.1.4)."""
        return self.path == "/" or (
            path.startswith(self.path) and (self.path.endswith("/") or path[len(self.path) :][:1] in ("", "/"))
        )

    def secrets_in(self, headers: Iterable[str]) -> list[Secret]:
        """Returns each secret in a request's ``Cookie`` *headers* once. What is not well formed is left out.

        There are several when the browser has cookies of this name for several domains or paths. HTTP/2 allows several
        headers (RFC 9113, 8.2.3).
        """
        find = _pattern(self.name).findall
        values: list[str] = []
        for header in headers:
            values += find(header)
        return [Secret(values[0])] if len(values) == 1 else list(map(Secret, dict.fromkeys(values)))

    def set_header(self, secret: Secret, *, https: bool, lifetime: timedelta | None) -> str:
        """Returns the ``Set-Cookie`` header that gives the browser *secret*.

        :arg https: whether the request came by https.
        :arg lifetime: how long the browser is to keep it; None: until it is closed.
        """
        # Rounded up, as 0 would make the browser drop it.
        max_age = "" if lifetime is None else f"; Max-Age={math.ceil(lifetime.total_seconds())}"
        return f"{self.name}={secret.value}{max_age}{self._attributes(https)}"

    def delete_header(self, *, https: bool) -> str:
        """Returns the ``Set-Cookie`` header that makes the browser drop the cookie.

        :arg https: whether the request came by https.
        """
        return f"{self.name}=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT{self._attributes(https)}"

    def _attributes(self, https: bool) -> str:
        # Written by hand: `http.cookies` knows Partitioned from Python 3.14 on.
        return "".join(
            (
                f"; Path={self.path}",
                f"; Domain={self.domain}" if self.domain else "",
                "; Secure" if (https if self.secure == "auto" else self.secure) else "",
                "; HttpOnly" if self.httponly else "",
                f"; SameSite={self.samesite}" if self.samesite else "",
                "; Partitioned" if self.partitioned else "",
            )
        )

    def _is_prefixed(self, *prefixes: str) -> bool:
        return self.name.lower().startswith(prefixes)  # browsers do not tell case apart in these


@lru_cache
def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf'(?:^|;)\s*{re.escape(name)}="?({_SECRET})"?\s*(?=;|$)', re.ASCII)
