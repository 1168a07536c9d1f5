"""What goes wrong: one thing after the other, at random."""

import asyncio
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from tests.mongod import ReplicaSet
from tests.proxy import Proxy

__all__ = ["Databases", "Server", "databases_nemesis", "servers_nemesis"]


class Server:
    """One process of the site.

    :arg address: what `tests.support.open_database` takes.
    """

    def __init__(self, address: tuple[str, str, str]) -> None:
        self._address = address
        self.url = ""

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.torture.site",
            *self._address,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(await self._process.stdout.readline())}"

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def end(self, number: signal.Signals) -> None:
        """Ends it, and fails when it does not end by itself within a minute."""
        self.send(number)
        async with asyncio.timeout(60):
            await self._process.wait()


class Databases:
    """Three mongods, each behind a proxy by which the others and the drivers reach it."""

    def __init__(self, directory: Path) -> None:
        self._stack = ExitStack()
        self.proxies: list[Proxy] = []
        self.set = ReplicaSet(directory, self._through)
        self.uri = self.set.uri

    def _through(self, port: int) -> str:
        self.proxies.append(self._stack.enter_context(Proxy(port)))
        return self.proxies[-1].address

    def heal(self) -> None:
        for proxy in self.proxies:
            proxy.delay = 0.0
        for member in self.set.members:
            member.resume()
            member.start()

    def close(self) -> None:
        self.set.kill()
        self._stack.close()


async def databases_nemesis(databases: Databases, until: float, tell: Callable[[str], None]) -> None:
    """Kills, pauses, cuts off and delays mongods, one at a time."""
    while time.monotonic() < until:
        primary = await asyncio.to_thread(databases.set.primary)
        proxy = databases.proxies[databases.set.members.index(primary)]
        seconds = random.uniform(0.5, 6)
        what = random.choice(("kill", "kill", "pause", "pause", "step down", "cut", "delay", "kill another"))
        tell(f"mongod: {what}, {seconds:.1f} s")
        match what:
            case "kill" | "kill another":
                others = [member for member in databases.set.members if member is not primary]
                member = primary if what == "kill" else random.choice(others)
                await asyncio.to_thread(member.kill)
                await asyncio.sleep(seconds)
                await asyncio.to_thread(member.start)
            case "pause":
                await asyncio.to_thread(primary.pause)
                await asyncio.sleep(seconds * 2)
                primary.resume()
            case "step down":
                await asyncio.to_thread(_step_down, proxy.uri)
            case "cut":
                for _ in range(5):
                    proxy.cut()
                    await asyncio.sleep(seconds / 5)
            case "delay":
                proxy.delay = random.uniform(0.05, 0.5)
                await asyncio.sleep(seconds)
                proxy.delay = 0.0
        await asyncio.sleep(random.uniform(0, 4))


def _step_down(uri: str) -> None:
    try:
        with MongoClient[dict[str, Any]](uri, timeoutMS=10_000) as client:
            client.admin.command("replSetStepDown", 5, secondaryCatchUpPeriodSecs=2, force=True)
    except PyMongoError:
        pass  # it is not the primary any more


async def servers_nemesis(
    servers: list[Server], urls: list[str], until: float, killed: list[float], tell: Callable[[str], None]
) -> None:
    """Ends server processes in either way, pauses them, and starts them again."""
    while time.monotonic() < until:
        await asyncio.sleep(random.uniform(1, 6))
        number = random.randrange(len(servers))
        server = servers[number]
        what = random.choice(("SIGTERM", "SIGKILL", "pause"))
        tell(f"server {number}: {what}")
        if what == "pause":
            server.send(signal.SIGSTOP)
            await asyncio.sleep(random.uniform(0.5, 3))
            server.send(signal.SIGCONT)
            continue
        if what == "SIGKILL":
            killed.append(time.monotonic())
        await server.end(signal.Signals[what])
        await server.start()
        urls[number] = server.url
