"""An application moves from signed cookies to sessions, and nobody has to sign in again.

It used to say ``set_signed_cookie("user", json_encode({"user": "alice", "theme": "dark"}), expires_days=30)``. Such a
cookie is valid until its days are over, whatever its user does: deleting it deletes one copy, and whoever has kept
another is signed in with it. To move is a chance to end that, in three steps:

* The first visit with an old cookie and without a user's session is a sign-in. The content goes into a session, which
  has a new secret, and the browser is told to delete the old cookie. It is told so after the save: when that fails, the
  old cookie is still there for another try.
* The next visit shows that the browser has got the session. From then on the old cookie is spent, and all copies of it.
  It is not spent earlier, as several tabs may be sending it, and the response that brings the session may get lost.
  Such tabs get a session each, and the browser keeps one; signing out ends all that come from the same cookie.
* On the day ``until`` all of that ends. Choose the day on which the last cookie of the old application expires, or an
  earlier one. Then remove this code and the ``cookie_secret``, since whoever knows it can make old cookies.

A copy that is used before its owner comes back is as good as it was in the old application. And ``destroy_all`` knows
nothing of the old cookies of devices that have not come back yet: to sign a user out everywhere, and when he changes
his password, spend all of them, as `SignOut` does.

Take the old cookie's name, path and domain from the code that has set it, since a browser deletes a cookie only when
these are the same. Run it with ``python -m demo.recipes.from_signed_cookie``: http://localhost:9090/old gives you an
old cookie, and http://localhost:9090/ takes it.
"""

import asyncio
import hashlib
import secrets
from datetime import UTC, datetime, timedelta

from tornado.escape import json_decode, json_encode, xhtml_escape
from tornado.web import Application, RequestHandler

from tornado_sesame import SessionManager, SessionMixin, TypedSession

OLD_NAME, OLD_DAYS, OLD_PATH, OLD_DOMAIN = "user", 30, "/", None


class Visit(TypedSession):
    theme: str = "light"
    taken_from: str = ""  # This is the fingerprint of an old cookie.
    is_old_one_spent: bool = False


class Spent:
    """Remembers which old cookies are spent, and whose all are, until the application knows old cookies no more.

    This one is for one process that is never restarted. Others need a collection beside that of the sessions, with
    ``replace_one({"_id": name}, {}, upsert=True)`` and ``find_one({"_id": {"$in": names}})``.
    """

    def __init__(self) -> None:
        self._names: set[str] = set()

    async def add(self, name: str) -> None:
        self._names.add(name)

    async def has_any(self, *names: str) -> bool:
        return not self._names.isdisjoint(names)


class Page(SessionMixin[Visit], RequestHandler):
    session_autoload = True

    async def prepare(self) -> None:
        if self.session.taken_from and not self.session.is_old_one_spent:
            await self.settings["spent"].add(self.session.taken_from)
            self.session.is_old_one_spent = True
        old = self.get_cookie(OLD_NAME)
        if old is not None:
            await self.take(old)
            self.clear_cookie(OLD_NAME, path=OLD_PATH, domain=OLD_DOMAIN)

    async def take(self, old: str) -> None:
        # Version 1 is signed with SHA-1, and nothing has made it since Tornado 3.2.
        signed = self.get_signed_cookie(OLD_NAME, max_age_days=OLD_DAYS, min_version=2)
        if signed is None or datetime.now(UTC) >= self.settings["until"]:
            return
        content, fingerprint = json_decode(signed), hashlib.sha256(old.encode()).hexdigest()
        user, spent = content["user"], self.settings["spent"]
        if self.session_owner is not None:
            await spent.add(fingerprint)
        elif not await spent.has_any(fingerprint, all_of(user)):
            await self.rotate_session_id()  # This is a sign-in like any other.
            self.session_owner = user
            self.session.theme = content.get("theme", "light")
            self.session.taken_from, self.session.is_old_one_spent = fingerprint, False
            await self.save_session()
            if await spent.has_any(fingerprint, all_of(user)):  # He has signed out in another tab.
                await self.destroy_session()


class Home(Page):
    def get(self) -> None:
        user, theme = xhtml_escape(self.session_owner or "nobody"), xhtml_escape(self.session.theme)
        buttons = "<button>Sign out</button><button name=everywhere value=yes>Sign out everywhere</button>"
        form = f"<form method=post action=/sign-out>{self.xsrf_form_html()}{buttons}</form>"
        self.write(f"Hello, {user}! Your theme is {theme}. {form}")


class SignOut(Page):
    async def post(self) -> None:
        user, fingerprint, spent = self.session_owner, self.session.taken_from, self.settings["spent"]
        if user and self.get_body_argument("everywhere", ""):
            await spent.add(all_of(user))
            await self.session_manager.destroy_all(user)
        elif user and fingerprint:
            await spent.add(fingerprint)  # This very request may be the one that has taken it.
            async for record in self.session_manager.records(user):
                if record.data.get("taken_from") == fingerprint:
                    await self.session_manager.destroy(record.id)
        await self.destroy_session()
        self.redirect("/", status=303)


def all_of(user: str) -> str:
    return f"all of {user}"


def make_application(cookie_secret: str, until: datetime, sessions: SessionManager | None = None) -> Application:
    return Application(
        [("/", Home), ("/sign-out", SignOut)],
        cookie_secret=cookie_secret,
        until=until,
        spent=Spent(),
        sessions=sessions or SessionManager(),
        xsrf_cookies=True,
        xsrf_cookie_kwargs={"httponly": True, "samesite": "Lax"},
    )


class OldApplication(RequestHandler):
    """Signs in anybody as Alice, for you to try this out. Do not copy it."""

    def get(self) -> None:
        content = json_encode({"user": "alice", "theme": "dark"})
        self.set_signed_cookie(OLD_NAME, content, expires_days=OLD_DAYS, path=OLD_PATH, domain=OLD_DOMAIN)


async def main() -> None:
    # A real application has its old secret here, and a date.
    application = make_application(secrets.token_urlsafe(), until=datetime.now(UTC) + timedelta(days=OLD_DAYS))
    application.add_handlers(".*", [("/old", OldApplication)])
    application.listen(9090, "localhost")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
