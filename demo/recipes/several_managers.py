"""One application has two kinds of sessions: customers stay signed in for months, staff for a quarter of an hour.

One ``SessionManager`` has one cookie, one store and one set of timeouts. When people of two kinds need different ones,
give the application a manager for each, and choose it in the property ``session_manager`` of a base class. A person
can be signed in as both at once, and each session ends by itself.

Three rules keep the two apart:

* Each manager has a cookie name of its own, since cookies of one name overwrite each other.
* Each manager has a store of its own, on MongoDB a collection. With a shared one, a customer could send his cookie
  under the staff's name and be staff, and ``destroy_all("alice")`` would sign out a customer and a colleague.
* Neither manager is the setting ``sessions``, which is the default. A handler that has forgotten to choose fails then
  with a ``TypeError``, and does not serve the staff's pages to customers.

Do not derive the kind from what the client sends, such as a header: the handler's class decides.

Whoever stops the server closes both managers. Run it with ``python -m demo.recipes.several_managers``, and visit
http://localhost:9090/ and http://localhost:9090/staff.
"""

import asyncio
from datetime import timedelta

from tornado.escape import xhtml_escape
from tornado.web import Application, RequestHandler

from tornado_sesame import MemoryStore, SessionCookie, SessionManager, SessionMixin, TypedSession


class Visit(TypedSession):
    pages: int = 0


class Page(SessionMixin[Visit], RequestHandler):
    session_autoload = True
    sessions_setting: str

    @property
    def session_manager(self) -> SessionManager:
        manager: SessionManager = self.settings[self.sessions_setting]
        return manager

    def get(self) -> None:
        if self.session_owner:
            self.session.pages += 1
            state, field = f"{xhtml_escape(self.session_owner)}, {self.session.pages} pages", ""
        else:
            state, field = "nobody", "<input name=user>"
        form = f"<form method=post>{self.xsrf_form_html()}{field}<button>Sign in or out</button></form>"
        self.write(f"Of the {self.sessions_setting}: {state} {form}")

    async def post(self) -> None:
        """Signs in the user that the form names, and signs out when it names none."""
        user = self.get_body_argument("user", "")
        if user:  # A real site checks a password here, the staff's in another list than the customers'.
            if self.session_owner not in (None, user):
                await self.destroy_session()  # whose content is none of the next user's business
            await self.rotate_session_id()
            self.session_owner = user
        else:
            await self.destroy_session()
        self.redirect(self.request.path, status=303)


class Customers(Page):
    sessions_setting = "customers"


class Staff(Page):
    sessions_setting = "staff"


def make_application(staff_idle_timeout: timedelta = timedelta(minutes=15)) -> Application:
    customers = SessionManager(MemoryStore(), cookie=SessionCookie(name="customer"), idle_timeout=timedelta(days=90))
    staff = SessionManager(
        MemoryStore(),
        # Without a max_age, the browser forgets the cookie when it is closed.
        cookie=SessionCookie(name="staff", path="/staff", samesite="Strict", max_age=None),
        idle_timeout=staff_idle_timeout,
        absolute_timeout=timedelta(hours=8),
    )
    return Application(
        [("/", Customers), ("/staff", Staff)],
        customers=customers,
        staff=staff,
        xsrf_cookies=True,
        xsrf_cookie_kwargs={"httponly": True, "samesite": "Lax"},
    )


async def close_sessions(application: Application) -> None:
    """Closes all managers at once, as each may wait some seconds for what is under way."""
    managers = [value for value in application.settings.values() if isinstance(value, SessionManager)]
    await asyncio.gather(*(manager.close() for manager in managers))


async def main() -> None:
    application = make_application()
    server = application.listen(9090, "localhost")
    try:
        await asyncio.Event().wait()
    finally:
        server.stop()
        await server.close_all_connections()
        await close_sessions(application)


if __name__ == "__main__":
    asyncio.run(main())
