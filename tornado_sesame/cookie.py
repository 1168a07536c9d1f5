"""The cookie that carries a session's secret, and the id that is made of it."""

import hashlib
import math
import re
import secrets
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Literal

__all__ = ["SessionCookie", "id_of_secret", "is_id", "new_secret"]

SECRET_BYTES = 32


def new_secret() -> str:
    """Returns a secret of 256 random bits, as 43 characters of url-safe base64."""
    return secrets.token_urlsafe(SECRET_BYTES)


def id_of_secret(secret: str) -> str:
    """Returns the id under which the session with this secret is stored: its SHA-256 in hex.

    The secret has 256 random bits, so a fast hash without a salt is enough to keep whoever reads the database from
    using what is in it (OWASP ASVS 5.0, 7.2.3 and 11.4).
    """
    return hashlib.sha256(secret.encode("ascii")).hexdigest()


def is_id(value: str) -> bool:
    """Tells whether *value* has the form of an id."""
    return re.fullmatch(r"[0-9a-f]{64}", value) is not None


@dataclass(frozen=True, slots=True)
class SessionCookie:
    """How the session's cookie is named and scoped. Values that browsers would ignore or refuse raise here.

    :arg name: with the prefix ``__Host-`` or ``__Secure-`` browsers hold the cookie to that prefix's rules.
    :arg path: the part of the site that gets the cookie.
    :arg domain: None keeps it to the host that set it; a domain shares it with all subdomains.
    :arg secure: whether it is sent over https only; "auto" is True when the request came by https, as
        ``request.protocol`` says, so behind a proxy start the server with ``xheaders=True``.
    :arg httponly: keeps it from scripts.
    :arg samesite: "Lax", "Strict", "None" (needs ``secure=True``), or None to leave the attribute out.
    :arg persistent: True makes it last as long as the session; False until the browser is closed.
    :arg partitioned: keeps it apart for each top-level site (CHIPS); needs ``secure=True``.
    :raises ValueError: naming the wrong combination.
    """

    name: str = "session_id"
    path: str = "/"
    domain: str | None = None
    secure: bool | Literal["auto"] = "auto"
    httponly: bool = True
    samesite: Literal["Lax", "Strict", "None"] | None = "Lax"
    persistent: bool = True
    partitioned: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", self.name):
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

    def secret_in(self, header: str | None) -> str | None:
        """Returns the secret that a request's ``Cookie`` header carries.

        None when there is none that is well formed; of several, the first that is.
        """
        if not header:
            return None
        match = _pattern(self.name).search(header)
        return match[1] if match else None

    def set_header(self, secret: str, *, https: bool, lifetime: timedelta) -> str:
        """Returns the ``Set-Cookie`` header that gives the browser *secret*."""
        # Rounded up, as 0 would make the browser drop it.
        max_age = f"; Max-Age={math.ceil(lifetime.total_seconds())}" if self.persistent else ""
        return f"{self.name}={secret}{max_age}{self._attributes(https)}"

    def delete_header(self, *, https: bool) -> str:
        """Returns the ``Set-Cookie`` header that makes the browser drop the cookie."""
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
    return re.compile(rf'(?:^|;)\s*{re.escape(name)}="?([A-Za-z0-9_-]{{43}})"?\s*(?=;|$)', re.ASCII)
