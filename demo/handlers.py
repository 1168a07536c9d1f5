"""The demo's pages: a counter for everybody; notes and a list of their devices for those who sign in."""

from tornado.web import HTTPError, RequestHandler, authenticated

from tornado_sesame import SessionMixin, TypedSession, TypedSessionDict

__all__ = ["PAGES"]


class Bar(TypedSessionDict):
    baz: float = 1.0


class Foo(TypedSessionDict):
    bar: Bar


class Visit(TypedSession):
    """What the site keeps of a visitor."""

    times: int = 0
    foo: Foo
    notes: list[str]
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
        self.render("login.html")

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
        # Not where `next` says, which `@authenticated` adds, since a link could name another site in it.
        self.redirect("/notes", status=303)


class Logout(Page):
    async def post(self) -> None:
        await self.destroy_session()
        self.redirect("/login", status=303)


class Notes(Page):
    @authenticated
    def get(self) -> None:
        self.render("notes.html", notes=self.session.notes)

    @authenticated
    def post(self) -> None:
        note = self.get_body_argument("note")[:MAX_NOTE]
        if note:
            self.session.notes.append(note)
        self.redirect("/notes", status=303)


class Devices(Page):
    @authenticated
    async def get(self) -> None:
        records = [record async for record in self.session_manager.records(self.current_user)]
        records.sort(key=lambda record: record.updated, reverse=True)
        self.render("devices.html", records=records)

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


PAGES = [("/", Counter), ("/login", Login), ("/logout", Logout), ("/notes", Notes), ("/devices", Devices)]

MAX_NAME, MAX_NOTE = 50, 500

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
