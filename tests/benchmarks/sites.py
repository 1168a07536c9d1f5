"""The contenders that are written in Python: the same pages with each kind of session.

``python -m tests.benchmarks.sites NAME URI COLLECTION`` serves one of them on loopback and prints its port. Every site
has these pages:

``/seed`` and ``/seed?size=N&nested=1``
    starts a session, with N more bytes in it, in one long text each or (nested) in small dicts
``/untouched``
    does not use the session
``/read``
    shows a number of the session
``/count``
    adds one to it
"""

import asyncio
import atexit
import secrets
import sys
from datetime import UTC, datetime, timedelta
from tempfile import TemporaryDirectory
from typing import Any

from motor.motor_tornado import MotorClient
from pymongo import AsyncMongoClient
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from tornado_sesame import MongoStore, SessionManager, SessionMixin, SQLiteStore

FIELDS = 100  # over which the bytes of a large session are spread
ITEM = {"name": "book", "price": {"amount": 1250, "currency": "EUR"}, "count": 1}
ITEM_BYTES = 78  # as BSON, in a list


def filling(page: RequestHandler) -> dict[str, Any]:
    """Returns what the session that *page* starts has in it besides a number."""
    size = int(page.get_argument("size", "0"))
    if page.get_argument("nested", ""):
        return {f"field{number}": [ITEM] * max(1, size // FIELDS // ITEM_BYTES) for number in range(FIELDS)}
    return {f"field{number}": "x" * (size // FIELDS) for number in range(FIELDS)} if size else {}


# Without a session


class PlainPage(RequestHandler):
    def get(self) -> None:
        self.write("1 times!")


# Written by hand: as short as it can be, and without the secret's hash, checks, and saving only when needed.


class HandPage(RequestHandler):
    def initialize(self) -> None:
        self.sessions = self.settings["collection"]

    async def load(self) -> dict[str, Any]:
        self.session_id = self.get_cookie("session_id")
        document: dict[str, Any] = await self.sessions.find_one({"_id": self.session_id})
        return document


class HandSeed(HandPage):
    async def get(self) -> None:
        session_id = secrets.token_urlsafe(32)
        data = {"times": 1, **filling(self)}
        await self.sessions.insert_one({"_id": session_id, **data})
        self.set_cookie("session_id", session_id)


class HandRead(HandPage):
    async def get(self) -> None:
        session = await self.load()
        self.write(f"{session['times']} times!")


class HandCount(HandPage):
    async def get(self) -> None:
        session = await self.load()
        times = session["times"] + 1
        expires = datetime.now(UTC) + timedelta(days=14)
        await self.sessions.update_one({"_id": self.session_id}, {"$set": {"times": times, "expires": expires}})
        self.write(f"{times} times!")


# This library


class SesamePage(SessionMixin, RequestHandler):
    pass


class SesameSeed(SesamePage):
    async def get(self) -> None:
        (await self.session).update(times=1, **filling(self))


class SesameUntouched(SesamePage):
    async def get(self) -> None:
        self.write("1 times!")


class SesameRead(SesamePage):
    async def get(self) -> None:
        session = await self.session
        self.write(f"{session.times} times!")


class SesameCount(SesamePage):
    async def get(self) -> None:
        session = await self.session
        session.times += 1
        self.write(f"{session.times} times!")


PLAIN = [(f"/{page}", PlainPage) for page in ("seed", "untouched", "read", "count")]
HAND = [("/seed", HandSeed), ("/untouched", PlainPage), ("/read", HandRead), ("/count", HandCount)]
SESAME = [("/seed", SesameSeed), ("/untouched", SesameUntouched), ("/read", SesameRead), ("/count", SesameCount)]


def application(name: str, uri: str, collection: str) -> Application:
    def connected(client: type[Any]) -> Any:
        return client(uri).sesame_benchmark[collection]

    match name:
        case "none":
            return Application(PLAIN, log_function=_silence)
        case "hand-motor" | "hand-pymongo":
            client = MotorClient if name == "hand-motor" else AsyncMongoClient
            return Application(HAND, collection=connected(client), log_function=_silence)
        case "sesame-memory":
            return Application(SESAME, sessions=SessionManager(), log_function=_silence)
        case "sesame-sqlite":
            directory = TemporaryDirectory()
            atexit.register(directory.cleanup)
            sessions = SessionManager(SQLiteStore(f"{directory.name}/sessions.db"))
            return Application(SESAME, sessions=sessions, log_function=_silence)
        case "sesame-motor" | "sesame-pymongo":
            client = MotorClient if name == "sesame-motor" else AsyncMongoClient
            sessions = SessionManager(MongoStore(connected(client)))
            return Application(SESAME, sessions=sessions, log_function=_silence)
    raise ValueError(name)


def _silence(handler: RequestHandler) -> None:
    pass


async def main(name: str, uri: str, collection: str) -> None:
    (socket,) = bind_sockets(0, "127.0.0.1")
    HTTPServer(application(name, uri, collection)).add_sockets([socket])
    sys.stdout.write(f"{socket.getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
