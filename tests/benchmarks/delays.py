"""How long it takes until an open socket hears of a change and of a sign-out.

``python -m tests.benchmarks.delays KIND PLACE`` serves sockets and pages on loopback and prints its port.
"""

import asyncio
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler, websocket_connect

from tornado_sesame import MemoryStore, MongoStore, SessionManager, SessionMixin, SessionStore, SQLiteStore
from tornado_sesame.cookie import Secret

__all__ = ["KINDS", "Delays", "delays"]

KINDS = {
    "memory": "in memory",
    "sqlite": "SQLite",
    "motor": "MongoDB, Motor",
    "pymongo": "MongoDB, PyMongo Async",
}
ROUNDS = 200
BUSY_CONNECTIONS = 8  # that count, on the server with the sockets


@dataclass
class Delays:
    """In milliseconds, of changes and sign-outs."""

    change_p50: float
    change_p99: float
    end_p50: float
    end_p99: float


class Count(SessionMixin, RequestHandler):
    def post(self) -> None:
        self.session.times = self.session.get("times", 0) + 1

    async def delete(self) -> None:
        await self.destroy_session()


class Socket(SessionMixin, WebSocketHandler):
    def open(self) -> None:
        self.write_message("open")

    def on_session_change(self) -> None:
        self.write_message("changed")


def new_store(kind: str, place: str) -> SessionStore:
    match kind:
        case "memory":
            return MemoryStore()
        case "sqlite":
            return SQLiteStore(place)
        case "motor":
            from motor.motor_asyncio import AsyncIOMotorClient

            motor: Any = AsyncIOMotorClient(place)
            return MongoStore(motor.sesame_benchmark.delays)
    from pymongo import AsyncMongoClient

    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(place)
    return MongoStore(client.sesame_benchmark.delays)


async def delays(kind: str, uri: str, directory: Path) -> dict[str, Delays]:
    """Returns the delays within a process and between two, idle and busy, by a name of the case."""
    place = str(directory / "delays.db") if kind == "sqlite" else uri
    command = [sys.executable, "-m", "tests.benchmarks.delays", kind, place]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE)  # noqa: ASYNC220 - nothing waits
    assert process.stdout is not None
    url = f"http://127.0.0.1:{int(process.stdout.readline())}/"
    client = AsyncHTTPClient(force_instance=True, max_clients=100)
    elsewhere = None if kind == "memory" else SessionManager(new_store(kind, place))
    results = {}
    try:
        for case, connections in ("idle", 0), ("busy", BUSY_CONNECTIONS):
            load = [asyncio.ensure_future(_count(client, url)) for _ in range(connections)]
            results[f"{case}, within a process"] = await _measure(client, url, None)
            if elsewhere is not None:
                results[f"{case}, between two"] = await _measure(client, url, elsewhere)
            for task in load:
                task.cancel()
    finally:
        if elsewhere is not None:
            await elsewhere.close()
        client.close()
        process.kill()
        process.communicate()
    return results


async def _measure(client: AsyncHTTPClient, url: str, elsewhere: SessionManager | None) -> Delays:
    changes: list[float] = []
    ends: list[float] = []
    for _ in range(ROUNDS // 10):
        cookie = await _start(client, url)
        secret = Secret(cookie.partition("=")[2])
        socket = await websocket_connect(HTTPRequest(url.replace("http", "ws") + "socket", headers={"Cookie": cookie}))
        await socket.read_message()
        await asyncio.sleep(0.6)  # until it is followed
        for _ in range(10):
            began = time.perf_counter()
            if elsewhere is None:
                await client.fetch(HTTPRequest(url, "POST", headers={"Cookie": cookie}, body=b""))
            else:
                live = elsewhere.open([secret])
                await live.load()
                live.session["times"] += 1
                await live.save()
            while await socket.read_message() != "changed":
                pass
            changes.append(1000 * (time.perf_counter() - began))
        began = time.perf_counter()
        if elsewhere is None:
            await client.fetch(HTTPRequest(url, "DELETE", headers={"Cookie": cookie}))
        else:
            await elsewhere.destroy(secret.id)
        while await socket.read_message() is not None:
            pass
        ends.append(1000 * (time.perf_counter() - began))
    return Delays(statistics.median(changes), _p99(changes), statistics.median(ends), _p99(ends))


async def _start(client: AsyncHTTPClient, url: str) -> str:
    response = await client.fetch(HTTPRequest(url, "POST", body=b""))
    return response.headers["Set-Cookie"].partition(";")[0]


async def _count(client: AsyncHTTPClient, url: str) -> None:
    with suppress(asyncio.CancelledError):
        cookie = await _start(client, url)
        while True:
            await client.fetch(HTTPRequest(url, "POST", headers={"Cookie": cookie}, body=b""))


def _p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


async def main(kind: str, place: str) -> None:
    sessions = SessionManager(new_store(kind, place))
    server = Application([("/", Count), ("/socket", Socket)], sessions=sessions).listen(0, "127.0.0.1")
    (socket,) = server._sockets.values()
    print(socket.getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
