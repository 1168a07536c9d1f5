"""What tests use to run a site with sessions and to visit it."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

from bson import encode
from motor.motor_asyncio import AsyncIOMotorClient
from motor.motor_tornado import MotorClient
from pymongo import AsyncMongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from tornado_sesame import (
    MemoryStore,
    MongoStore,
    SessionCookie,
    SessionManager,
    SessionRecord,
    SessionStore,
    SQLiteStore,
)
from tornado_sesame.cookie import id_of_secret

__all__ = [
    "CLIENTS",
    "DATABASE",
    "STORES",
    "Browser",
    "Commands",
    "Database",
    "Site",
    "eventually",
    "open_database",
    "record_of",
    "secret_in",
    "serve",
]

COOKIE = SessionCookie().name

# Of this run alone, also in the processes that it starts.
# One for each of the processes that share the tests, and for the servers that it starts.
DATABASE = os.environ.setdefault(
    "SESAME_TESTS_DATABASE_" + os.environ.get("PYTEST_XDIST_WORKER", "main"), f"sesame_tests_{os.getpid()}"
)

CLIENTS: dict[str, Any] = {
    "motor_tornado": MotorClient,
    "motor_asyncio": AsyncIOMotorClient,
    "pymongo": AsyncMongoClient,
}
STORES = ("memory", "sqlite", *CLIENTS)


class Commands(CommandListener):
    """The commands that a MongoDB client sent, without those that keep its connections alive."""

    IGNORED = frozenset({"hello", "ismaster", "ping", "endSessions", "saslStart", "saslContinue", "createIndexes"})

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name not in self.IGNORED:
            self.sent.append((event.command_name, dict(event.command)))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass

    def take(self) -> list[str]:
        """Returns the names of the commands since the last time, in their order."""
        names = [name for name, _ in self.sent]
        self.sent.clear()
        return names

    def sizes(self) -> list[int]:
        """Returns how many bytes of BSON each of the commands has."""
        return [len(encode(command)) for _, command in self.sent]


@dataclass
class Database:
    """A place for the sessions of one test.

    :arg kind: one of `STORES`.
    :arg new_store: makes a store on this place; each has the same sessions.
    :arg collection: None where it is not MongoDB.
    :arg commands: likewise empty.
    :arg address: what another process gives to `open_database` to open the same place; None in memory.
    """

    kind: str
    new_store: Callable[[], SessionStore]
    collection: Any
    commands: Commands
    address: tuple[str, str, str] | None = None
    _observer: SessionStore | None = None

    @property
    def is_mongo(self) -> bool:
        return self.collection is not None

    async def data(self, secret_or_id: str) -> dict[str, Any] | None:
        """Returns what is stored, as a later request will find it; None when nothing is."""
        id = secret_or_id if len(secret_or_id) == 64 else id_of_secret(secret_or_id)
        self._observer = self._observer or self.new_store()
        record = (await self._observer.load([id], timeout=60)).get(id)
        if isinstance(record, Exception):
            raise record
        return record.data if isinstance(record, SessionRecord) else None


@asynccontextmanager
async def open_database(kind: str, uri: str | None, name: str, **options: Any) -> AsyncIterator[Database]:
    """Opens an empty place for sessions.

    :arg kind: one of `STORES`.
    :arg uri: of the MongoDB, or the path of the SQLite file; None for a new file.
    :arg name: of the collection.
    :arg options: of the client.
    """
    commands = Commands()
    if kind == "memory":
        memory = MemoryStore()
        yield Database(kind, lambda: memory, None, commands)
        return
    if kind == "sqlite":
        async with AsyncExitStack() as stack:
            path = uri or f"{stack.enter_context(TemporaryDirectory())}/sessions.db"

            def new_store() -> SQLiteStore:
                store = SQLiteStore(path)
                stack.push_async_callback(store.close)
                return store

            yield Database(kind, new_store, None, commands, (kind, path, name))
        return
    client: Any = CLIENTS[kind](uri, event_listeners=[commands], **options)
    collection = client[DATABASE][name]
    try:
        yield Database(
            kind, lambda: MongoStore(collection, create_indexes=False), collection, commands, (kind, uri or "", name)
        )
    finally:
        closing = client.close()
        if closing is not None:
            await closing


class Site:
    """A running server.

    :arg url: without a slash at the end.
    :arg manager: its session manager.
    """

    def __init__(self, application: Application, https: bool = False) -> None:
        self.application = application
        (socket,) = bind_sockets(0, "127.0.0.1")
        self.port: int = socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._server = HTTPServer(application, xheaders=True)
        self._server.add_sockets([socket])
        self._client = AsyncHTTPClient(force_instance=True, max_clients=1000)

    @property
    def manager(self) -> SessionManager:
        manager: SessionManager = self.application.settings["sessions"]
        return manager

    def browser(self) -> "Browser":
        """Returns a visitor without cookies."""
        return Browser(self.url, self._client)

    async def close(self) -> None:
        self._client.close()
        self._server.stop()
        if "sessions" in self.application.settings:
            await self.manager.close()
        await self._server.close_all_connections()


class Browser:
    """A visitor who keeps the cookies that he is given.

    `latency` is how many seconds a request takes to the server, and the response back.
    """

    def __init__(self, url: str, client: AsyncHTTPClient) -> None:
        self._url = url
        self._client = client
        self.cookies: dict[str, str] = {}
        self.latency = 0.0

    @property
    def secret(self) -> str:
        return self.cookies[COOKIE]

    async def fetch(self, method: str, path: str = "/", **options: Any) -> HTTPResponse:
        headers = {**options.pop("headers", {})}
        if self.cookies:
            headers.setdefault("Cookie", "; ".join(f"{name}={value}" for name, value in self.cookies.items()))
        if method in {"POST", "PUT", "PATCH"}:
            options.setdefault("body", b"")
        request = HTTPRequest(self._url + path, method=method, headers=headers, follow_redirects=False, **options)
        await asyncio.sleep(self.latency)
        response = await self._client.fetch(request, raise_error=False)
        await asyncio.sleep(self.latency)
        for header in response.headers.get_list("Set-Cookie"):
            name, _, rest = header.partition("=")
            value, _, attributes = rest.partition(";")
            self.cookies[name] = value
            if "Max-Age=0" in attributes:
                self.cookies.pop(name)
        return response

    async def get(self, path: str = "/", **options: Any) -> HTTPResponse:
        return await self.fetch("GET", path, **options)

    async def post(self, path: str = "/", **options: Any) -> HTTPResponse:
        return await self.fetch("POST", path, **options)

    async def text(self, path: str = "/") -> str:
        """Returns the body of a page that must be there."""
        response = await self.get(path)
        assert response.code == 200, f"{response.code} {response.reason}: {response.error}"
        return response.body.decode()


@asynccontextmanager
async def serve(handlers: list[Any], **settings: Any) -> AsyncIterator[Site]:
    """Runs a site until the context is left."""
    site = Site(Application(handlers, **settings))
    try:
        yield site
    finally:
        await site.close()


def secret_in(header: str) -> str:
    """Returns the secret in a ``Set-Cookie`` or ``Cookie`` header with a single cookie."""
    return header.partition("=")[2].partition(";")[0]


async def record_of(manager: SessionManager, id: str) -> SessionRecord | None:
    """Returns a session as a manager's store has it; None when there is none."""
    record = (await manager.store.load([id], timeout=60)).get(id)
    return record if isinstance(record, SessionRecord) else None


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Returns when *condition* holds; fails after two minutes."""
    async with asyncio.timeout(120):
        while not await condition():
            await asyncio.sleep(0.01)
