"""This recipe signs visitors in with an OAuth2 provider, through Tornado's ``OAuth2Mixin``.

A login leaves the site and comes back by a URL that anybody can make, so the site has to know that it is the same
browser that left. It keeps a random ``state`` in the session, takes it out when it comes back, and refuses whatever it
did not expect; else an attacker could sign a visitor in as himself, and read later what the visitor has left there. The
code is bound to the login, too, by PKCE: only who has the verifier, which stays in the session, can redeem it.

The session remembers several logins that have begun, as people open several tabs. Don't keep a single ``state``: the
second tab would break the first one's login.

The way back is a top-level GET, with which browsers send cookies that are ``SameSite=Lax``, as the session's is. With
``SameSite=Strict`` a visitor to whom the provider has shown a page comes back without his session, and cannot sign in.
Providers that POST back are another matter; see `demo.recipes.post_back`.

Don't take the address to come back to from the request, as its ``Host`` is the client's word. With several providers,
give each a callback of its own, so that none can pass off another's code as its own (RFC 9700, 4.4). Who signs out here
is still signed in there, so on a shared computer the next one may be greeted as him, unless the provider is told to ask
(OpenID Connect has ``prompt=select_account`` for that).

Fill in `PROVIDER` and `CLIENT_ID`, and run it: ``OAUTH2_CLIENT_SECRET=... python -m demo.recipes.oauth2``
"""

import asyncio
import hashlib
import os
import secrets
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

from tornado.auth import OAuth2Mixin
from tornado.escape import json_decode, url_escape, xhtml_escape
from tornado.httpclient import HTTPClientError
from tornado.web import Application, HTTPError, RequestHandler, authenticated

from tornado_sesame import SessionMixin, TypedSession, TypedSessionDict

PROVIDER = "https://accounts.example.com"
CLIENT_ID = "my-site"

LONGEST_LOGIN = timedelta(minutes=10)
MOST_LOGINS = 10  # at a time, so that a session does not grow with those that are given up
PRIVATE = ["/account", "/orders"]  # pages for those who are signed in


class Login(TypedSessionDict):
    """A login that has begun."""

    verifier: str
    next: str
    begun: datetime


class Visit(TypedSession):
    logins: dict[str, Login]  # by their state
    name: str = ""


class Page(SessionMixin[Visit], RequestHandler):
    session_autoload = True  # since `@authenticated` asks who it is before an `async def` could await the session

    def get_current_user(self) -> str | None:
        return self.session_owner

    def set_default_headers(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.set_header("Referrer-Policy", "no-referrer")  # the callback's URL has the code in it


class Account(Page):
    @authenticated
    def get(self) -> None:
        self.write(f"<p>Hello, {xhtml_escape(self.session.name)}!</p>")
        self.write(f'<form method="post" action="/logout">{self.xsrf_form_html()}<button>Sign out</button></form>')


class BeginLogin(OAuth2Mixin, Page):
    @property
    def _OAUTH_AUTHORIZE_URL(self) -> str:  # where the mixin looks for it
        return f"{self.settings['provider']}/authorize"

    def get(self) -> None:
        wanted = url_escape(self.get_query_argument("next", ""))
        self.write(f'<form method="post" action="/login?next={wanted}">{self.xsrf_form_html()}')
        self.write("<button>Sign in</button></form>")

    def post(self) -> None:
        # By a form, as a link on another site would sign in whom the provider knows without a word.
        now, wanted = datetime.now(UTC), self.get_query_argument("next", "")
        state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        logins = self.session.logins
        for old in sorted(logins, key=lambda state: logins[state].begun)[: 1 - MOST_LOGINS]:
            del logins[old]
        # A link to the login could name another site as the next page, so it is one of ours or none.
        logins[state] = Login(verifier=verifier, next=wanted if wanted in PRIVATE else PRIVATE[0], begun=now)
        challenge = urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        self.authorize_redirect(
            redirect_uri=self.settings["callback_url"],
            client_id=CLIENT_ID,
            scope=["profile"],
            extra_params={"state": state, "code_challenge": challenge, "code_challenge_method": "S256"},
        )


class Callback(OAuth2Mixin, Page):
    async def get(self) -> None:
        # Taken out before anything else is looked at, so that no state is good for a second attempt.
        login = self.session.logins.pop(self.get_query_argument("state", ""), None)
        if login is None or datetime.now(UTC) - login.begun > LONGEST_LOGIN:
            raise HTTPError(403, reason="This login was not begun here, or too long ago")
        code = self.get_query_argument("code", None)
        if code is None:
            error = self.get_query_argument("error", "")
            raise HTTPError(403, "the provider says %r", error, reason="The provider did not sign you in")
        next_page, verifier = login.next, login.verifier
        try:
            user = await self.ask_provider(code, verifier)
            # What never changes and is never given to anybody else, which is not so of names and mail addresses.
            owner, name = user["sub"], str(user["name"])
            if not (isinstance(owner, str) and owner):
                raise ValueError("it does not say who it is")
        except (HTTPClientError, OSError, ValueError, LookupError, TypeError) as failure:
            raise HTTPError(
                502, "the provider failed: %r", failure, reason="The provider did not confirm who you are"
            ) from failure
        if self.session_owner not in (None, owner):
            await self.destroy_session()  # what another user has left here is none of this one's business
        await self.rotate_session_id()
        self.session_owner = owner
        self.session.name = name
        self.redirect(next_page, status=303)

    async def ask_provider(self, code: str, verifier: str) -> Any:
        provider = self.settings["provider"]
        token = await self.oauth2_request(
            f"{provider}/token",
            post_args={
                "grant_type": "authorization_code",
                "code": code,
                "code_verifier": verifier,
                "redirect_uri": self.settings["callback_url"],
                "client_id": CLIENT_ID,
                "client_secret": self.settings["client_secret"],
            },
        )
        # Not by `oauth2_request`, which puts the token into the URL, from where it gets into logs (RFC 9700, 4.3.2).
        headers = {"Authorization": f"Bearer {token['access_token']}"}
        response = await self.get_auth_http_client().fetch(f"{provider}/userinfo", headers=headers)
        return json_decode(response.body)


class Logout(Page):
    async def post(self) -> None:
        await self.destroy_session()
        self.redirect("/login", status=303)


def make_application(client_secret: str, provider: str = PROVIDER, site: str = "http://localhost:9090") -> Application:
    return Application(
        [*((page, Account) for page in PRIVATE), ("/login", BeginLogin), ("/callback", Callback), ("/logout", Logout)],
        provider=provider,
        client_secret=client_secret,
        callback_url=f"{site}/callback",
        login_url="/login",
        xsrf_cookies=True,
        xsrf_cookie_kwargs={"httponly": True, "samesite": "Lax"},
    )


async def main() -> None:
    make_application(os.environ["OAUTH2_CLIENT_SECRET"]).listen(9090, "localhost")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
