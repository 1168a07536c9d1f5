"""This recipe is a shop in which another user may sign in on the same browser without signing out first.

A visitor fills a cart and signs in: he expects to find the cart, so the session goes on under a new id. On the family's
tablet somebody signs in while another one is signed in still: nothing of what the other one left may be there. So it is
the session's owner that decides. When it has none, or the same, ``rotate_session_id`` keeps what is in it. When it is
somebody else's, ``destroy_session`` ends it first, and what the new user gets is a new session.

Both end the session that was there. So requests of the first user that are still under way change nothing any more, and
the WebSockets of his open pages are closed, with code 1008. The same happens to sockets from before a login, since what
they showed was nobody's; a page connects again then, and is the user's.

Don't remove the first user's data key by key, as the key that somebody adds next year will not be among them. Don't
sign out by ``session_owner = None``: the session would be an anonymous one with a user's data in it. And don't let the
form be sent twice, by a double click: the second login finds no session any more, and begins one without the cart.

Run it: ``python -m demo.recipes.another_user``, and sign in as alice (wonderland) or bob (builder).
"""

import asyncio
from hmac import compare_digest

from tornado.escape import xhtml_escape
from tornado.web import Application, HTTPError, RequestHandler
from tornado.websocket import WebSocketHandler

from tornado_sesame import SessionMixin, TypedSession

PASSWORDS = {"alice": "wonderland", "bob": "builder"}  # of which a real site keeps hashes only, such as Argon2's

MAX_CART, MAX_ITEM = 100, 50


class Visit(TypedSession):
    cart: list[str]


class Page(SessionMixin[Visit], RequestHandler):
    def set_default_headers(self) -> None:
        self.set_header("Cache-Control", "no-store")  # so that "back" does not show the first user's pages to the next

    def form(self, action: str, fields: str, button: str) -> str:
        return f'<form method="post" action="{action}">{self.xsrf_form_html()}{fields}<button>{button}</button></form>'


class Shop(Page):
    async def get(self) -> None:
        session = await self.session
        self.write(f"<p>{xhtml_escape(self.session_owner or 'nobody')}: {xhtml_escape(', '.join(session.cart))}</p>")
        self.write(self.form("/cart", '<input name="item">', "Put into the cart"))
        self.write(self.form("/login", '<input name="name"><input name="password" type="password">', "Sign in"))
        self.write(self.form("/logout", "", "Sign out"))


class Cart(Page):
    async def post(self) -> None:
        session = await self.session
        if len(session.cart) < MAX_CART:
            session.cart.append(self.get_body_argument("item")[:MAX_ITEM])
        self.redirect("/", status=303)


class Login(Page):
    async def post(self) -> None:
        user = await self.check_password(self.get_body_argument("name"), self.get_body_argument("password"))
        if user is None:
            raise HTTPError(403, reason="The name or the password is wrong")
        await self.sign_in(user)
        self.redirect("/", status=303)

    async def sign_in(self, user: str) -> None:
        await self.session
        if self.session_owner not in (None, user):
            await self.destroy_session()
        await self.rotate_session_id()
        self.session_owner = user

    async def check_password(self, name: str, password: str) -> str | None:
        is_right = compare_digest(PASSWORDS.get(name, "").encode(), password.encode())
        return name if is_right and name in PASSWORDS else None


class Logout(Page):
    async def post(self) -> None:
        await self.destroy_session()
        self.redirect("/", status=303)


class LiveCart(SessionMixin[Visit], WebSocketHandler):
    """Shows the cart in all of a user's tabs. It needs nothing to be closed when the session ends."""

    def open(self) -> None:
        self.on_session_change()

    def on_session_change(self) -> None:
        self.write_message({"user": self.session_owner, "cart": self.session.cart})

    def on_message(self, message: str | bytes) -> None:
        pass  # the page has nothing to say


def make_application() -> Application:
    return Application(
        [("/", Shop), ("/cart", Cart), ("/login", Login), ("/logout", Logout), ("/live", LiveCart)],
        xsrf_cookies=True,
        xsrf_cookie_kwargs={"httponly": True, "samesite": "Lax"},
    )


async def main() -> None:
    make_application().listen(9090, "localhost")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
