"""Two applications share one host, a shop and its administration, and neither signs the other's users out.

A browser sends a cookie to all applications of a host. It does not tell ports apart (RFC 6265, 8.5), so
``localhost:9090`` and ``localhost:9091`` have one jar of cookies, as have two applications behind one proxy. Two
cookies of the same name overwrite each other, and whoever signs in to one application is signed out of the other.

So each application gets three things of its own:

* The cookie has its own name. Tornado's XSRF cookie needs one, too.
* The store is its own, on MongoDB a collection. If the applications shared one, the shop's cookie would be valid in the
  administration under the administration's name, and customers could make themselves administrators.
* The administration's cookie has its own path, so that the shop's requests do not carry it around.

A path or a port is no security boundary. Scripts of the shop run in the administration's origin when only the path
differs, and can do what its user can; a server on another port is sent all cookies whose paths fit. Applications that
do not trust each other need different hosts, each with ``SessionCookie(name="__Host-...", secure=True)``.

When users should be signed in to both at once, do the opposite: give both applications the same cookie and the same
store. Then they have one session, and should declare the same fields for it.

Run it with ``python -m demo.recipes.two_applications``, and visit http://localhost:9090/ and
http://localhost:9091/admin/.
"""

import asyncio
from datetime import timedelta

from tornado.escape import xhtml_escape
from tornado.web import Application, RequestHandler

from tornado_sesame import MemoryStore, SessionCookie, SessionManager, SessionMixin, SessionStore

SHOP_COOKIE = SessionCookie(name="shop_session")
ADMIN_COOKIE = SessionCookie(name="admin_session", path="/admin", samesite="Strict")


class Home(SessionMixin, RequestHandler):
    session_autoload = True

    def get(self) -> None:
        title, form = self.settings["title"], self.xsrf_form_html()
        if self.session_owner:
            user = xhtml_escape(self.session_owner)
            self.write(f"{title}: {user} is signed in <form method=post>{form}<button>Sign out</button></form>")
        else:
            self.write(f"{title}: nobody is signed in <form method=post>{form}<input name=user></form>")

    async def post(self) -> None:
        """Signs in the user that the form names, and signs out when it names none."""
        user = self.get_body_argument("user", "")
        if user:  # A real site checks a password here, and in the administration whether the user may enter it.
            if self.session_owner not in (None, user):
                await self.destroy_session()  # whose content is none of the next user's business
            await self.rotate_session_id()
            self.session_owner = user
        else:
            await self.destroy_session()
        self.redirect(self.request.path, status=303)


def make_application(title: str, path: str, sessions: SessionManager) -> Application:
    cookie = sessions.settings.cookie
    return Application(
        [(path, Home)],
        title=title,
        sessions=sessions,
        xsrf_cookies=True,
        xsrf_cookie_name=f"{cookie.name}_xsrf",
        xsrf_cookie_kwargs={"path": cookie.path, "httponly": True, "samesite": "Lax"},
    )


def make_shop(store: SessionStore, cookie: SessionCookie = SHOP_COOKIE) -> Application:
    return make_application("Shop", "/", SessionManager(store, cookie=cookie))


def make_admin(store: SessionStore, cookie: SessionCookie = ADMIN_COOKIE) -> Application:
    sessions = SessionManager(store, cookie=cookie, idle_timeout=timedelta(minutes=30))
    return make_application("Administration", "/admin/", sessions)


async def main() -> None:
    make_shop(MemoryStore()).listen(9090, "localhost")
    make_admin(MemoryStore()).listen(9091, "localhost")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
