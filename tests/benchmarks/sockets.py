"""What open WebSockets cost: memory for each, and processor time while others write to other sessions.

``python -m tests.benchmarks.sockets KIND URI COLLECTION`` serves sockets on loopback and prints its port; KIND is
"plain" or "sesame".
"""

import asyncio
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from pymongo import AsyncMongoClient
from tornado.httpclient import HTTPRequest
from tornado.web import Application
from tornado.websocket import WebSocketClientConnection, WebSocketHandler, websocket_connect

from tornado_sesame import MongoStore, SessionInsert, SessionManager, SessionMixin, SessionRecord, SessionUpdate
from tornado_sesame.changes import Changes, Inc
from tornado_sesame.cookie import Secret
from tornado_sesame.settings import now, truncated_to_ms

__all__ = ["SocketCosts", "socket_costs"]

AT_ONCE = 200
OTHERS = 1_000
SECONDS = 5.0
WRITES_A_SECOND = 5_000
TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class SocketCosts:
    """Of a server with as many open sockets.

    :arg bytes: for each socket.
    :arg idle: processor time in percent, while nothing happens.
    :arg busy: likewise, while others write.
    :arg writes: of others, a second.
    """

    bytes: float
    idle: float
    busy: float
    writes: float


class PlainSocket(WebSocketHandler):
    def on_message(self, message: str | bytes) -> None:
        pass


class SessionSocket(SessionMixin, PlainSocket):
    pass


class Site:
    def __init__(self, kind: str, uri: str, collection: str) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.sockets", kind, uri, collection]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE)
        assert self.process.stdout is not None
        self.url = f"ws://127.0.0.1:{int(self.process.stdout.readline())}/"

    def memory(self) -> int:
        """Returns the bytes that it has in memory."""
        with open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    async def load(self, seconds: float) -> float:
        """Returns the percentage of a processor that it uses for some time."""
        began, used = time.monotonic(), self._used()
        await asyncio.sleep(seconds)
        return 100 * (self._used() - used) / (time.monotonic() - began)

    def _used(self) -> float:
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


async def socket_costs(uri: str, number: int) -> dict[str, SocketCosts]:
    """Returns what so many sockets cost without a session and each with one of its own, by kind."""
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(uri)
    collection = f"sockets_{os.getpid()}"
    store = MongoStore(client.sesame_benchmark[collection])
    try:
        secrets = await _insert(store, number)
        others = [secret.id for secret in await _insert(store, OTHERS)]
        return {kind: await _costs(Site(kind, uri, collection), secrets, store, others) for kind in ("plain", "sesame")}
    finally:
        await client.sesame_benchmark.drop_collection(collection)
        await client.close()


async def _insert(store: MongoStore, number: int) -> list[Secret]:
    manager = SessionManager(store)
    moment = truncated_to_ms(now())
    secrets = [Secret() for _ in range(number)]
    expires = manager.settings.expiry(moment, moment, None)
    data = {"times": 1, "user": {"name": "Alice"}}
    for start in range(0, number, AT_ONCE):
        some = secrets[start : start + AT_ONCE]
        records = [SessionRecord(secret.id, data, moment, moment, expires) for secret in some]
        await store.save(list(map(SessionInsert, records)), timeout=60)
    return secrets


async def _costs(site: Site, secrets: list[Secret], store: MongoStore, others: list[str]) -> SocketCosts:
    sockets: list[WebSocketClientConnection] = []
    try:
        before = site.memory()
        for start in range(0, len(secrets), AT_ONCE):
            requests = [
                HTTPRequest(site.url, headers={"Cookie": f"_session={secret.value}"})
                for secret in secrets[start : start + AT_ONCE]
            ]
            sockets += await asyncio.gather(*map(websocket_connect, requests))
        await asyncio.sleep(2)
        memory = (site.memory() - before) / len(secrets)
        idle = await site.load(SECONDS)
        writing = asyncio.ensure_future(_write(store, others))
        busy = await site.load(SECONDS)
        return SocketCosts(memory, idle, busy, await writing / SECONDS)
    finally:
        for socket in sockets:
            socket.close()
        site.close()


async def _write(store: MongoStore, ids: list[str]) -> int:
    """Writes to sessions for some time, and returns how often."""
    began, written = time.monotonic(), 0
    while (passed := time.monotonic() - began) < SECONDS:
        if written > WRITES_A_SECOND * passed:
            await asyncio.sleep(0.001)
            continue
        some = ids[written % len(ids) :][:100]
        changes = Changes({("times",): Inc(1)})
        await store.save([SessionUpdate(id, changes, truncated_to_ms(now())) for id in some], timeout=60)
        written += len(some)
    return written


async def main(kind: str, uri: str, collection: str) -> None:
    handler = {"plain": PlainSocket, "sesame": SessionSocket}[kind]
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(uri)
    sessions = SessionManager(MongoStore(client.sesame_benchmark[collection]))
    server = Application([("/", handler)], sessions=sessions).listen(0, "127.0.0.1")
    (socket,) = server._sockets.values()
    print(socket.getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
