"""A site with logins and polls, some of which are on their way when the session ends.

``python -m tests.late_site KIND URI NAME SECONDS`` (the first three are what `open_database` takes) serves it in a
process of its own, whose clock is so many seconds fast, and prints its port.
"""

import asyncio
import sys
from datetime import datetime, timedelta

from tornado.web import RequestHandler

from tornado_sesame import SessionManager, SessionMixin, settings

from .support import open_database, serve


class Handler(SessionMixin, RequestHandler):
    pass


class Visit(Handler):
    def post(self):
        self.session.update(visits=1, nested={"seen": 0})


class Poll(Handler):
    async def post(self):
        session = await self.session
        session.setdefault("nested", {"seen": 0}).seen += 1
        session.polled = True


class Read(Handler):
    def get(self):
        self.write(self.session.copy())


class Login(Handler):
    async def post(self):
        if self.get_argument("first", ""):
            await self.session
            self.session_owner = "alice"  # before the rotation, too
        await self.rotate_session_id()
        self.session_owner = "alice"
        self.session.nested = {"seen": 0}


class Move(Handler):
    async def post(self):
        (await self.session).moved = True
        await self.rotate_session_id()


class Logout(Handler):
    async def post(self):
        await self.destroy_session()


class Who(Handler):
    def get(self):
        self.write(self.session_owner or "")


PAGES = [
    *(("/visit", Visit), ("/poll", Poll), ("/read", Read), ("/login", Login), ("/move", Move), ("/logout", Logout)),
    ("/who", Who),
]


async def main(kind: str, uri: str, name: str, seconds: str) -> None:
    offset = timedelta(seconds=float(seconds))

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + offset

    settings.datetime = Clock
    async with (
        open_database(kind, uri, name) as database,
        serve(PAGES, sessions=SessionManager(database.new_store())) as site,
    ):
        sys.stdout.write(f"{site.port}\n")
        sys.stdout.flush()
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
