"""A login with a box "keep me signed in".

A session without it ends when the browser is closed, or after half an hour without use. With it, the session lives for
30 days after its last use, and its cookie outlasts the browser. Both end after half a year at the latest, and the user
has to prove again who he is.

Ask for the password again before what must not happen to somebody who has left his computer open, however long his
session lives.

    python -m demo.recipes.keep_me_signed_in
"""

import asyncio
from datetime import timedelta

from tornado.escape import xhtml_escape
from tornado.web import Application, RequestHandler, authenticated

from tornado_sesame import SessionCookie, SessionManager, SessionMixin, SessionStore

REMEMBERED = timedelta(days=30)


class Page(SessionMixin, RequestHandler):
    session_autoload = True  # since `@authenticated` asks who it is before an `async def` could await the session

    def get_current_user(self) -> str | None:
        return self.session_owner


class Login(Page):
    def get(self) -> None:
        self.write(
            f"""
            <form method="post">
              {self.xsrf_form_html()}
              <label>Name <input name="name" autocomplete="username" required></label>
              <label><input type="checkbox" name="remember"> Keep me signed in</label>
              <button>Sign in</button>
            </form>
            """
        )

    async def post(self) -> None:
        name = self.get_body_argument("name")  # a real site checks a password here
        if self.session_owner not in (None, name):
            await self.destroy_session()  # whose content is none of the next user's business
        await self.rotate_session_id()  # who knew the session before the login does not know it after
        self.session_owner = name
        self.session_lifetime = REMEMBERED if self.get_body_argument("remember", None) else None
        self.redirect("/", status=303)


class Logout(Page):
    async def post(self) -> None:
        await self.destroy_session()
        self.redirect("/login", status=303)


class Account(Page):
    @authenticated
    def get(self) -> None:
        kept = f"for {self.session_lifetime.days} days" if self.session_lifetime else "until you close the browser"
        self.write(
            f"""
            Hello, {xhtml_escape(self.current_user)}! You stay signed in {kept}.
            <form method="post" action="/logout">{self.xsrf_form_html()}<button>Sign out</button></form>
            """
        )


def make_application(store: SessionStore | None = None) -> Application:
    sessions = SessionManager(
        store,
        cookie=SessionCookie(max_age=None),  # until the browser is closed, unless a session has a lifetime of its own
        idle_timeout=timedelta(minutes=30),
        absolute_timeout=timedelta(days=180),
    )
    return Application(
        [("/", Account), ("/login", Login), ("/logout", Logout)],
        sessions=sessions,
        login_url="/login",
        xsrf_cookies=True,
        xsrf_cookie_kwargs={"httponly": True, "samesite": "Lax"},
    )


async def main() -> None:
    make_application().listen(9090, "localhost")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
