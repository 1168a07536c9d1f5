"""A site that is stopped by a signal, in the order that OPERATIONS.md gives.

``python -m tests.stopping_site KIND URI NAME WAITS`` (the first three are what `open_database` takes; ``memory - -``
for none) serves it in a process of its own and prints its port.
"""

import asyncio
import random
import signal
import sys
from typing import Any

from tornado.log import enable_pretty_logging
from tornado.web import Application, RequestHandler

from tornado_sesame import SessionManager, SessionMixin

from .support import open_database


class Handler(SessionMixin, RequestHandler):
    async def prepare(self):
        await self.session
        await asyncio.sleep(random.random() * 0.1)


class Start(Handler):
    async def post(self):
        self.session.n = 1
        await self.save_session()


class Count(Handler):
    async def post(self):
        self.session.n += 1


class Rotate(Handler):
    async def post(self):
        await self.rotate_session_id()
        self.session.n += 1


class Destroy(Handler):
    async def post(self):
        await self.destroy_session()
        self.session.n = 1


PAGES: list[Any] = [("/start", Start), ("/count", Count), ("/rotate", Rotate), ("/destroy", Destroy)]


async def main(kind: str, uri: str, name: str, waits: str, pages: list[Any] = PAGES, /, **settings: Any) -> None:
    enable_pretty_logging()
    async with open_database(kind, None if uri == "-" else uri, name) as database:
        sessions = SessionManager(database.new_store(), wait_for_save=waits == "True")
        server = Application(pages, sessions=sessions, **settings).listen(0, "127.0.0.1")
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        for number in signal.SIGINT, signal.SIGTERM:
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(ended.set))
        (port,) = {socket.getsockname()[1] for socket in server._sockets.values()}
        sys.stdout.write(f"{port}\n")
        sys.stdout.flush()
        await ended.wait()
        server.stop()
        await asyncio.sleep(1)
        await server.close_all_connections()
        await sessions.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
