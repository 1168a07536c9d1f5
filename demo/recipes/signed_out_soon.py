"""A page says in time that its user will be signed out, and lets him stay.

The page asks every quarter of a minute how much time is left. With ``session_touch = False`` such a question is no
use of the session, so a page that stays open keeps nobody signed in. A click on "Stay signed in" is one.

The page asks when the browser was asleep, too, and in all tabs: what one tab's user does, the others learn.

    python -m demo.recipes.signed_out_soon
"""

import asyncio
from datetime import UTC, datetime, timedelta

from tornado.web import Application, RequestHandler, authenticated

from tornado_sesame import SessionManager, SessionMixin, SessionStore

SCRIPT = """
const note = document.getElementById("note"), seconds = note.querySelector("output")

async function ask() {
  const response = await fetch("/remaining")
  const left = (await response.json()).seconds
  if (left === null) location = "/login"
  note.hidden = left > 120
  seconds.textContent = Math.round(left)
}

setInterval(ask, 15000)
document.addEventListener("visibilitychange", ask)
"""


class Page(SessionMixin, RequestHandler):
    session_autoload = True

    def get_current_user(self) -> str | None:
        return self.session_owner


class Login(Page):
    def get(self) -> None:
        self.write(f"<form method=post>{self.xsrf_form_html()}<input name=name><button>Sign in</button></form>")

    async def post(self) -> None:
        name = self.get_body_argument("name")  # a real site checks a password here
        if self.session_owner not in (None, name):
            await self.destroy_session()  # whose content is none of the next user's business
        await self.rotate_session_id()
        self.session_owner = name
        self.redirect("/", status=303)


class Home(Page):
    @authenticated
    def get(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.write(
            f"""
            <form id="note" method="post" hidden>
              {self.xsrf_form_html()}
              You will be signed out in <output></output> seconds. <button>Stay signed in</button>
            </form>
            <script src="/signed_out_soon.js"></script>
            """
        )

    @authenticated
    def post(self) -> None:
        self.redirect("/", status=303)  # that the session was used has extended it


class Remaining(Page):
    session_touch = False

    def get(self) -> None:
        expires = self.session_expires if self.session_owner else None
        self.write({"seconds": expires and (expires - datetime.now(UTC)).total_seconds()})  # null: he is signed out


class Script(RequestHandler):
    def get(self) -> None:
        self.set_header("Content-Type", "text/javascript")
        self.write(SCRIPT)


def make_application(store: SessionStore | None = None, idle_timeout: timedelta = timedelta(minutes=15)) -> Application:
    # A session that is extended at each use expires when the page says, to the second.
    sessions = SessionManager(store, idle_timeout=idle_timeout, touch_interval=timedelta(0))
    return Application(
        [("/", Home), ("/login", Login), ("/remaining", Remaining), ("/signed_out_soon.js", Script)],
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
