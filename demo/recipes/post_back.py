"""This recipe signs visitors in with an identity provider that POSTs its answer back from its own site.

SAML's HTTP-POST binding does so, OpenID Connect's ``response_mode=form_post``, and the pages of many payment services.
Browsers send no ``SameSite=Lax`` cookie with such a POST, so the visitor seems to have no session. What seems to help
does harm. A callback that touches ``self.session`` begins a new session, whose cookie takes the place of the visitor's:
his cart is gone. A session cookie with ``SameSite=None`` comes along, and so it does with what any other site sends.

So the answer takes two steps, and no further cookie:

1. `Callback` has no session. It checks the provider's signature, and sends the browser on with a 303, to a URL that
   carries what it has found, signed by the site and good for a minute.
2. `Finish` is a top-level GET, with which browsers do send the session's cookie, also when another site has caused it.
   It takes the answer only if this very session has asked for it: the answer has to name a nonce that is in the
   session, and that is taken out, so it counts once. An answer that somebody else has got, and makes the visitor's
   browser send, is refused here.

The nonce has to be within what the provider signs. SAML calls it ``InResponseTo``, OpenID Connect ``nonce``; SAML's
``RelayState`` and OAuth's ``state`` are not signed. An HMAC stands here for the provider's signature: in its place,
verify the assertion or the ID token with a library, with its issuer, its audience and its times.

The URL in between is in the browser's history, but useless to whoever finds it: the nonce is spent. Don't put secrets
into it. Don't redirect with a 307, which would repeat the POST. If your session's cookie is ``SameSite=Strict``, a
redirect does not bring it along; answer the POST with a page that goes on by itself (``<meta http-equiv="refresh">``).
And don't ship anything because a browser said that it is paid: ask the payment service.

Run it: ``SITE_SECRET=... PROVIDER_KEY=... python -m demo.recipes.post_back``
"""

import asyncio
import hmac
import os
import secrets
import time
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from tornado.escape import json_decode, json_encode, xhtml_escape
from tornado.httputil import url_concat
from tornado.web import Application, HTTPError, RequestHandler

from tornado_sesame import SessionMixin, TypedSession, TypedSessionDict

PROVIDER_URL = "https://identity.example.com/sign-in"

LONGEST_LOGIN = timedelta(minutes=10)
MOST_LOGINS = 10  # at a time, so that a session does not grow with those that are given up
LONGEST_ANSWER_SECONDS = 120  # from the provider to here, with clocks that differ somewhat
LONGEST_STEP = timedelta(minutes=1)


class Login(TypedSessionDict):
    begun: datetime


class Visit(TypedSession):
    cart: list[str]
    logins: dict[str, Login]  # those that have begun, one for each tab, by their nonce


class Page(SessionMixin[Visit], RequestHandler):
    def set_default_headers(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.set_header("Referrer-Policy", "no-referrer")


class Shop(Page):
    async def get(self) -> None:
        session = await self.session
        self.write(f"<p>{xhtml_escape(self.session_owner or 'nobody')}: {xhtml_escape(', '.join(session.cart))}</p>")
        for path, button in ("/cart", "Take a book"), ("/login", "Sign in"), ("/logout", "Sign out"):
            self.write(f'<form method="post" action="{path}">{self.xsrf_form_html()}<button>{button}</button></form>')

    async def post(self) -> None:
        (await self.session).cart.append("a book")
        self.redirect("/", status=303)


class BeginLogin(Page):
    async def post(self) -> None:
        logins, nonce = (await self.session).logins, secrets.token_urlsafe(32)
        for old in sorted(logins, key=lambda nonce: logins[nonce].begun)[: 1 - MOST_LOGINS]:
            del logins[old]
        logins[nonce] = Login(begun=datetime.now(UTC))
        self.redirect(url_concat(self.settings["provider_url"], {"nonce": nonce}), status=303)


class Callback(RequestHandler):
    """Takes the provider's POST. It is no `Page`: who has no session cannot overwrite the visitor's."""

    def check_xsrf_cookie(self) -> None:
        pass  # it does not come along, either; the provider's signature and `Finish` stand for it

    def post(self) -> None:
        answer, signature = self.get_body_argument("answer", strip=False), self.get_body_argument("signature")
        right = hmac.new(self.settings["provider_key"].encode(), answer.encode(), sha256).hexdigest()
        if not hmac.compare_digest(right.encode(), signature.encode()):
            raise HTTPError(403, reason="This answer is not the provider's")
        claims = json_decode(answer)
        if abs(time.time() - claims["issued"]) > LONGEST_ANSWER_SECONDS:
            raise HTTPError(403, reason="This answer is too old")
        found = json_encode({"nonce": claims["nonce"], "subject": claims["subject"]})
        self.set_header("Cache-Control", "no-store")
        self.set_header("Referrer-Policy", "no-referrer")
        signed = self.create_signed_value("answer", found).decode()
        self.redirect(url_concat("/finish", {"answer": signed}), status=303)


class Finish(Page):
    async def get(self) -> None:
        session, answer = await self.session, self.answer()
        login = session.logins.pop(answer["nonce"], None)
        if login is None or datetime.now(UTC) - login.begun > LONGEST_LOGIN:
            raise HTTPError(403, reason="This login was not begun here, or too long ago")
        if self.session_owner not in (None, answer["subject"]):
            await self.destroy_session()  # what another user has left here is none of this one's business
        await self.rotate_session_id()
        self.session_owner = answer["subject"]
        self.redirect("/", status=303)

    def answer(self) -> dict[str, Any]:
        """Returns what `Callback` has found, if it has."""
        signed = self.get_query_argument("answer", "")
        days = LONGEST_STEP / timedelta(days=1)
        value = self.get_signed_cookie("answer", signed, max_age_days=days, min_version=2)  # it is no cookie
        if value is None:
            raise HTTPError(403, reason="This answer is not the provider's, or too old")
        return dict(json_decode(value))


class Logout(Page):
    async def post(self) -> None:
        await self.destroy_session()
        self.redirect("/", status=303)


def make_application(site_secret: str, provider_key: str, provider_url: str = PROVIDER_URL) -> Application:
    pages: list[Any] = [("/", Shop), ("/cart", Shop), ("/login", BeginLogin), ("/logout", Logout)]
    return Application(
        [*pages, ("/callback", Callback), ("/finish", Finish)],
        cookie_secret=site_secret,
        provider_key=provider_key,
        provider_url=provider_url,
        xsrf_cookies=True,
        xsrf_cookie_kwargs={"httponly": True, "samesite": "Lax"},
    )


async def main() -> None:
    make_application(os.environ["SITE_SECRET"], os.environ["PROVIDER_KEY"]).listen(9090, "localhost")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
