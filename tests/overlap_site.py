"""A site whose requests overlap: each handler waits between reading its session and changing it.

``python -m tests.overlap_site KIND URI NAME`` (what `open_database` takes) serves it in a process of its own and prints
its port.
"""

import asyncio
import random
import sys

from tornado.web import Finish, RequestHandler

from tornado_sesame import SessionManager, SessionMixin

from .support import open_database, serve


class Handler(SessionMixin, RequestHandler):
    async def loaded(self):
        """Returns the session, some time after it was loaded; ends the request when there is none any more."""
        session = await self.session
        if not session:
            raise Finish
        await asyncio.sleep(random.random() * 0.02)
        return session


class Start(Handler):
    async def post(self):
        session = await self.session
        session.update(times=0, total=0.5, cart=[], fields={"first": True}, nested={"a": {"n": 0}})


class Increment(Handler):
    async def post(self):
        session = await self.loaded()
        session.times += 1
        session.nested.a.n -= 2
        session.fresh = session.get("fresh", 0) + 1
        session.total += 0.5


class Append(Handler):
    async def post(self):
        session = await self.loaded()
        session.cart.append(self.get_argument("item"))
        session.setdefault("log", []).append({"item": self.get_argument("item")})


class Field(Handler):
    async def post(self):
        session = await self.loaded()
        session.fields[self.get_argument("item")] = True


class Login(Handler):
    async def post(self):
        session = await self.loaded()
        session.user = "alice"
        await self.rotate_session_id()


class Logout(Handler):
    async def post(self):
        await self.loaded()
        await self.destroy_session()


class Show(Handler):
    def get(self):
        self.write(self.session.copy())


PAGES = [
    ("/", Show),
    ("/start", Start),
    ("/increment", Increment),
    ("/append", Append),
    ("/field", Field),
    ("/login", Login),
    ("/logout", Logout),
]


async def main(kind: str, uri: str, name: str) -> None:
    async with (
        open_database(kind, uri, name) as database,
        serve(PAGES, sessions=SessionManager(database.new_store())) as site,
    ):
        sys.stdout.write(f"{site.port}\n")
        sys.stdout.flush()
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
