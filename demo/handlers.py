"""The demo's pages: a counter for everybody; notes and a list of their devices for those who sign in; and a race."""

import asyncio
import json
from typing import Any

from tornado.httpclient import AsyncHTTPClient
from tornado.web import HTTPError, RequestHandler, authenticated
from tornado.websocket import WebSocketHandler

from tornado_sesame import SessionMixin, TypedSession, TypedSessionDict

from .recording import RecordingStore
from .words import ago, device

__all__ = ["PAGES"]


class Bar(TypedSessionDict):
    baz: float = 1.0


class Foo(TypedSessionDict):
    bar: Bar


class Race(TypedSessionDict):
    times: int = 0
    by_hand: int = 0
    log: list[str]


class Visit(TypedSession):
    """What the site keeps of a visitor."""

    times: int = 0
    foo: Foo
    race: Race
    notes: list[str]
    draft: str = ""
    messages: list[str]
    browser: str = "an unknown browser"


class Page(SessionMixin[Visit], RequestHandler):
    """What all pages share: who is signed in, and messages that the next page shows once."""

    session_autoload = True  # since `@authenticated` asks who it is before an `async def` could await the session

    def get_current_user(self) -> str | None:
        return self.session_owner

    def flash(self, message: str) -> None:
        self.session.messages.append(message)

    def messages(self) -> list[str]:
        return list(self.session.pop("messages", []))

    def panel(self) -> dict[str, Any]:
        return panel_of(self)

    def set_default_headers(self) -> None:
        self.set_header("Cache-Control", "no-store")  # so that "back" shows nothing after signing out
        self.set_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")


class Counter(Page):
    def get(self) -> None:
        self.session.times += 1
        self.session.foo.bar.baz *= 2
        self.render("counter.html", times=self.session.times, baz=f"{self.session.foo.bar.baz:.15g}")


class Login(Page):
    def get(self) -> None:
        self.render("login.html", next=self.next_page(self.get_query_argument("next", "")))

    @staticmethod
    def next_page(wanted: str) -> str:
        """Returns one of our pages, as a link to the login could name another site in its place."""
        return wanted if wanted in PRIVATE else PRIVATE[0]

    async def post(self) -> None:
        name = self.get_body_argument("name")[:MAX_NAME]
        if not name:
            raise HTTPError(400, reason="A name is needed")
        # A real site checks a password here.
        if self.current_user:
            await self.destroy_session()  # whose notes are none of the next user's business
        await self.rotate_session_id()
        self.session_owner = name
        self.session.browser = self.request.headers.get("User-Agent", "an unknown browser")[:MAX_NOTE]
        self.flash(f"Welcome, {name}!")
        self.redirect(self.next_page(self.get_body_argument("next", "")), status=303)


class Logout(Page):
    async def post(self) -> None:
        await self.destroy_session()
        self.redirect("/login", status=303)


class Notes(Page):
    @authenticated
    def get(self) -> None:
        self.render("notes.html", notes=self.session.notes, draft=self.session.pop("draft", ""))

    def post(self) -> None:
        note = self.get_body_argument("note")[:MAX_NOTE]
        if not self.current_user:  # any more: the text waits for who signs in
            self.session.draft = note
            self.flash("You are not signed in any more. Your note is kept until you are.")
            self.redirect("/login?next=/notes", status=303)
            return
        if note:
            self.session.notes.append(note)
        self.redirect("/notes", status=303)


class Devices(Page):
    @authenticated
    async def get(self) -> None:
        records = [record async for record in self.session_manager.records(self.current_user)]
        records.sort(key=lambda record: record.updated, reverse=True)
        records.sort(key=lambda record: record.id != self.session_id)
        self.render("devices.html", records=records, ago=ago, device=device)

    @authenticated
    async def post(self) -> None:
        """Signs out one session, or all but this one when the form names none."""
        sessions, user = self.session_manager, self.current_user
        id = self.get_body_argument("id", None)
        if id is None:
            number = await sessions.destroy_all(user, keep=self.session_id)
            self.flash(f"Signed out everywhere else: {number}.")
        elif id in [record.id async for record in sessions.records(user)]:  # and nobody else's
            await sessions.destroy(id)
            self.flash("Signed out there.")
        self.redirect("/devices", status=303)


class LoseNothing(Page):
    """Requests that overlap, and what is left of what each of them did."""

    def get(self) -> None:
        self.session.race.setdefault("times", 0)  # so that there is a session for the requests that are sent next
        self.render("race.html", race=self.session.race)

    async def post(self) -> None:
        match self.get_body_argument("step", None):
            case "start":
                self.session.race = Race(times=0, by_hand=0, log=[])
            case "increment":
                await asyncio.sleep(WORK_SECONDS)
                self.session.race.times += 1
            case "append":
                await asyncio.sleep(WORK_SECONDS)
                self.session.race.log.append("x")
            case "by hand":
                times = int(self.session.race.by_hand)  # a plain number, which is saved as it is
                await asyncio.sleep(WORK_SECONDS)
                self.session.race.by_hand = times + 1
            case _:  # there is no JavaScript, so the server sends the requests
                await self.send("start")
                await asyncio.gather(*(self.send(step) for step in ["increment", "append", "by hand"] * 50))
                self.redirect("/race", status=303)

    async def send(self, step: str) -> None:
        headers = {"Cookie": self.request.headers["Cookie"], "X-Xsrftoken": self.xsrf_token.decode()}
        url = f"http://localhost:{self.settings['port']}/race"
        client = AsyncHTTPClient(force_instance=True)
        try:
            await client.fetch(url, method="POST", headers=headers, body=f"step={step.replace(' ', '+')}")
        finally:
            client.close()


class Live(SessionMixin[Visit], WebSocketHandler):
    """Keeps an open page up to date. It is closed when the session ends, and the page notices that."""

    def open(self) -> None:
        self.show()

    def on_session_change(self) -> None:
        self.show()

    def show(self) -> None:
        session = self.session
        self.write_message(
            {
                "times": session.times,
                "baz": f"{session.foo.bar.baz:.15g}",
                "notes": session.notes,
                "increments": session.race.times,
                "appends": len(session.race.log),
                "by_hand": session.race.by_hand,
                **panel_of(self),
            }
        )

    def on_message(self, message: str | bytes) -> None:
        pass  # the page has nothing to say


def panel_of(handler: SessionMixin[Visit]) -> dict[str, Any]:
    """Returns what lies beside each page: the session as it is stored, and what it was saved with last."""
    store = handler.session_manager.store
    command = store.last(handler.session_id) if isinstance(store, RecordingStore) else None
    panel = {"stored": shown({"_id": handler.session_id, "data": handler.session, "owner": handler.session_owner})}
    if command is None:
        return panel | {"update": "", "command": "nothing yet"}
    shared = f"{command.sessions} sessions" if command.sessions > 1 else "this session alone"
    return panel | {"update": shown(command.update), "command": f"{command.milliseconds:.1f} ms, for {shared}"}


def shown(value: Any) -> str:
    return json.dumps(value, indent=2, default=str)


PAGES = [
    ("/", Counter),
    ("/race", LoseNothing),
    ("/login", Login),
    ("/logout", Logout),
    ("/notes", Notes),
    ("/devices", Devices),
    ("/live", Live),
]

PRIVATE = ["/notes", "/devices"]  # for those who are signed in

MAX_NAME, MAX_NOTE = 50, 500

WORK_SECONDS = 0.02  # between reading a session and changing it

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
