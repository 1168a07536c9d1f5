"""An API for clients that have no cookies, such as apps and scripts of other sites, beside pages for browsers.

A client sends ``X-Session-Token:``, empty at first, and gets a secret in the response's header of the same name. It
sends that with each request, and replaces it whenever a response has another one; an empty one says that the session
is over. A request with this header has no other session: its cookies do not count, and none is set.

Such a request needs no XSRF token. Forging works because a browser adds cookies to what another site makes it send.
This header no browser adds by itself, and a script of another site may only set it if the API's answer to a preflight
request allows that site to. Whoever knows the secret is the user, so it belongs where a password would: in an app's
keychain, not in a page's ``localStorage``, where each script of the page finds it. For pages of your own, cookies are
better.

For scripts of other sites, the API answers in CORS's terms (https://fetch.spec.whatwg.org/#http-cors-protocol):
``Access-Control-Allow-Headers`` lets them send the header, ``Access-Control-Expose-Headers`` lets them read it. There
is no ``Access-Control-Allow-Credentials``, as there are no cookies.

Error trackers know that ``Cookie`` is a secret, but not this header: with Sentry, add it to the `EventScrubber`'s
denylist.

    python -m demo.recipes.api_clients

    $ curl -i -H 'X-Session-Token;' -d name=Ada localhost:9090/api/login
    $ curl -H 'X-Session-Token: ...' localhost:9090/api/account
"""

import asyncio
from collections.abc import Collection

from tornado.web import Application, HTTPError, RequestHandler

from tornado_sesame import SessionManager, SessionMixin, SessionStore

HEADER = "X-Session-Token"


class API(SessionMixin, RequestHandler):
    def set_default_headers(self) -> None:
        origin = self.request.headers.get("Origin", "")
        if origin in self.settings["allowed_origins"]:
            self.set_header("Access-Control-Allow-Origin", origin)
            self.set_header("Access-Control-Expose-Headers", HEADER)
        self.add_header("Vary", "Origin")

    def check_xsrf_cookie(self) -> None:
        if HEADER not in self.request.headers:
            super().check_xsrf_cookie()

    def options(self) -> None:
        """Answers a browser that asks whether a script of another site may send a request."""
        if self.request.headers.get("Origin") in self.settings["allowed_origins"]:
            self.set_header("Access-Control-Allow-Methods", "GET, POST")
            self.set_header("Access-Control-Allow-Headers", HEADER)
            self.set_header("Access-Control-Max-Age", "600")
        self.set_status(204)


class Login(API):
    async def post(self) -> None:
        name = self.get_body_argument("name")  # a real site checks a password here
        await self.session
        if self.session_owner not in (None, name):
            await self.destroy_session()  # whose content is none of the next user's business
        await self.rotate_session_id()
        self.session_owner = name


class Logout(API):
    async def post(self) -> None:
        await self.destroy_session()


class Account(API):
    async def get(self) -> None:
        session = await self.session
        if self.session_owner is None:
            raise HTTPError(401)
        session.times = session.get("times", 0) + 1
        self.write({"name": self.session_owner, "times": session.times})


def make_application(store: SessionStore | None = None, allowed_origins: Collection[str] = ()) -> Application:
    return Application(
        [("/api/login", Login), ("/api/logout", Logout), ("/api/account", Account)],
        sessions=SessionManager(store, header=HEADER),
        allowed_origins=allowed_origins,
        xsrf_cookies=True,
        xsrf_cookie_kwargs={"httponly": True, "samesite": "Lax"},
    )


async def main() -> None:
    make_application(allowed_origins=["https://app.example.com"]).listen(9090, "localhost")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
