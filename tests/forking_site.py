"""A site of two processes, whose store was made, and perhaps used, before they were forked.

``python -m tests.forking_site WAY PATH PORT``: WAY is "memory" (made before the fork), "workers" (in memory, made by
each), "sqlite" (made before) or "used" (and used, too); PATH is that of the file.
"""

import asyncio
import os
import sys

from tornado.httpserver import HTTPServer
from tornado.log import enable_pretty_logging
from tornado.netutil import bind_sockets
from tornado.process import fork_processes
from tornado.web import Application, RequestHandler

from tornado_sesame import MemoryStore, SessionManager, SessionMixin, SQLiteStore


class Count(SessionMixin, RequestHandler):
    def get(self):
        self.session.times = self.session.get("times", 0) + 1
        self.session.setdefault("nested", {"n": 0}).n += 1
        self.write(f"{os.getpid()} {self.session.times}")


async def use(manager):
    """Leaves a thread and an open file behind."""
    live = manager.open()
    live.open_empty()
    live.session.before = True
    await live.save()
    assert len([record async for record in manager.records()]) >= 1


async def serve(manager, sockets):
    server = HTTPServer(Application([("/", Count)], sessions=manager))
    server.add_sockets(sockets)
    await asyncio.Event().wait()


def main(way: str, path: str, port: str) -> None:
    enable_pretty_logging()
    manager = SessionManager(SQLiteStore(path) if way in ("sqlite", "used") else MemoryStore())
    if way == "used":
        asyncio.run(use(manager))
    sockets = bind_sockets(int(port), "127.0.0.1", reuse_port=False)
    fork_processes(2, max_restarts=0)
    if way == "workers":
        manager = SessionManager()
    asyncio.run(serve(manager, sockets))


if __name__ == "__main__":
    main(*sys.argv[1:])
