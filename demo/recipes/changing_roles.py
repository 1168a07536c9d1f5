"""Roles that change while their users are signed in: what an administrator takes away is gone with the next click.

The role lies in the session, so no page has to ask the users' database for it. When an administrator changes it, he
changes it in the database first and then, with ``sessions.edit``, in each session of the user: on his laptop, on his
phone, on whichever server. A page that is open hears of it through its WebSocket.

Three things make it certain. A login asks for the role once more after it has saved the session with it, as somebody
may have changed it at the same moment; who does so later finds the session. A session that is gone when it is to be
changed may have been rotated, and goes on under another id, so the sessions are listed again. And a session whose
role has changed gets a new secret with the next request (OWASP, Session Management: "Renew the Session ID After Any
Privilege Level Change").

    python -m demo.recipes.changing_roles

Sign in as "root" in one browser, and as anybody else in another one.
"""

import asyncio
from typing import Any

from tornado.escape import xhtml_escape
from tornado.web import Application, HTTPError, RequestHandler, authenticated
from tornado.websocket import WebSocketHandler

from tornado_sesame import SessionGone, SessionManager, SessionMixin, SessionStore, TypedSession

ROLES = "reader", "editor", "administrator"


class Visit(TypedSession):
    role: str = "reader"
    is_new_role: bool = False


class Users:
    """Stands for the users' database."""

    def __init__(self) -> None:
        self._roles = {"root": "administrator"}

    async def role(self, name: str) -> str:
        return self._roles.get(name, "reader")

    async def set_role(self, name: str, role: str) -> None:
        self._roles[name] = role


class Page(SessionMixin[Visit], RequestHandler):
    session_autoload = True

    async def prepare(self) -> None:
        if self.session.is_new_role:
            self.session.is_new_role = False
            await self.rotate_session_id()

    def get_current_user(self) -> str | None:
        return self.session_owner

    @property
    def users(self) -> Users:
        users: Users = self.settings["users"]
        return users


class Login(Page):
    def get(self) -> None:
        self.write(f"<form method=post>{self.xsrf_form_html()}<input name=name><button>Sign in</button></form>")

    async def post(self) -> None:
        name = self.get_body_argument("name")  # a real site checks a password here
        role = await self.users.role(name)
        if self.session_owner not in (None, name):
            await self.destroy_session()  # whose role is none of the next user's business
        await self.rotate_session_id()
        self.session_owner, self.session.role = name, role
        await self.save_session()
        while (role := await self.users.role(name)) != self.session.role:
            self.session.role = role
            await self.save_session()
        self.redirect("/", status=303)


class Home(Page):
    @authenticated
    def get(self) -> None:
        self.write(f"<p>{xhtml_escape(self.current_user)}, {self.session.role}</p>")
        if self.session.role == "administrator":
            roles = "".join(f"<option>{role}</option>" for role in ROLES)
            self.write(f"<form method=post action=/roles>{self.xsrf_form_html()}<input name=name>")
            self.write(f"<select name=role>{roles}</select><button>Change</button></form>")


class Roles(Page):
    @authenticated
    async def post(self) -> None:
        """Gives a user another role, wherever he is signed in."""
        if self.session.role != "administrator":
            raise HTTPError(403)
        name, role = self.get_body_argument("name"), self.get_body_argument("role")
        if role not in ROLES:
            raise HTTPError(400)
        await self.users.set_role(name, role)
        while not await self.has_role_everywhere(name, role):
            pass
        self.redirect("/", status=303)

    async def has_role_everywhere(self, name: str, role: str) -> bool:
        """Gives a user's sessions this role; returns False when one of them may go on under another id without it."""
        sessions: SessionManager[Visit] = self.session_manager
        are_all_there = True
        async for record in sessions.records(name):
            if record.data.get("role") != role:
                try:
                    async with sessions.edit(record.id) as visit:
                        visit.role = role
                        visit.is_new_role = True
                except SessionGone:  # he has signed out there meanwhile, or it was rotated
                    are_all_there = False
        return are_all_there


class Open(SessionMixin[Visit], WebSocketHandler):
    """Tells an open page which role its user has."""

    def open(self) -> None:
        self.on_session_change()

    def on_session_change(self) -> None:
        self.write_message(self.session.role)

    def on_message(self, message: str | bytes) -> Any:
        pass


def make_application(store: SessionStore | None = None, users: Users | None = None) -> Application:
    return Application(
        [("/", Home), ("/login", Login), ("/roles", Roles), ("/open", Open)],
        sessions=SessionManager[Visit](store),
        users=users or Users(),
        login_url="/login",
        xsrf_cookies=True,
        xsrf_cookie_kwargs={"httponly": True, "samesite": "Lax"},
    )


async def main() -> None:
    make_application().listen(9090, "localhost")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
