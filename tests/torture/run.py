"""One torture, from the start of its servers to its report."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tornado.httpclient import AsyncHTTPClient

from tests.support import CLIENTS, open_database

from .history import broken_promises
from .nemesis import Databases, Server, databases_nemesis, servers_nemesis
from .visitors import Visitor

__all__ = ["Report", "torture"]

VISITORS = 12

# After so many seconds without faults, what servers had still to find out about rotations is found out.
REST = 8.0


@dataclass
class Report:
    """How it went.

    :arg broken: promises, in words; empty when all is well.
    :arg requests: how many there were, by page and status.
    :arg lineages: how many sessions began.
    :arg faults: how many things the nemesis did.
    """

    broken: list[str] = field(default_factory=list)
    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    lineages: int = 0
    faults: int = 0

    def __str__(self) -> str:
        by_status: Counter[int] = Counter()
        for (_, status), number in self.requests.items():
            by_status[status] += number
        answers = ", ".join(f"{number} x {status}" for status, number in sorted(by_status.items()))
        text = f"{self.requests.total()} requests ({answers}), {self.lineages} sessions, {self.faults} faults: "
        return text + (f"{len(self.broken)} broken promises" if self.broken else "all promises kept")


async def torture(
    place: str, seconds: float, directory: Path, tell: Callable[[str], None] = lambda text: None
) -> Report:
    """Has visitors use a site while all that it runs on is tortured.

    :arg place: ``mongodb``, or ``sqlite``.
    :arg directory: an empty one, for the data.
    :arg tell: is told what goes wrong.
    """
    report, killed = Report(), list[float]()

    def note(fault: str) -> None:
        report.faults += 1
        tell(f"{time.monotonic() - began:7.1f} {fault}")

    with ExitStack() as stack:
        databases = None
        if place == "mongodb":
            databases = await asyncio.to_thread(Databases, directory)
            stack.callback(databases.close)
            addresses = [(kind, databases.uri, "torture") for kind in ("motor_tornado", "pymongo")] * 2
        else:
            addresses = [("sqlite", str(directory / "sessions.db"), "")] * 3
        servers = [Server(address) for address in addresses]
        for server in servers:
            stack.callback(_kill, server)
        await asyncio.gather(*(server.start() for server in servers))
        urls = [server.url for server in servers]
        client = AsyncHTTPClient(force_instance=True, max_clients=100)
        stack.callback(client.close)
        began = time.monotonic()
        until = began + seconds
        visitors = [Visitor(f"v{number}", 1 + number % 3, urls, client) for number in range(VISITORS)]
        nemeses = [servers_nemesis(servers, urls, until, killed, note)]
        if databases is not None:
            nemeses.append(databases_nemesis(databases, until, note))
        await asyncio.gather(*nemeses, *(visitor.visit(until) for visitor in visitors))
        if databases is not None:
            await asyncio.to_thread(databases.heal)
            await asyncio.to_thread(databases.set.primary)
        await asyncio.sleep(REST)
        opened = {visitor.lineage: await visitor.look() for visitor in visitors if visitor.lineage is not None}
        await asyncio.gather(*(server.end(signal.SIGTERM) for server in servers))
        history = [event for visitor in visitors for event in visitor.history]
        stored = await _stored(addresses[0])
    report.requests.update((event.page, event.status) for event in history)
    report.lineages = sum(event.page == "start" and event.status == 200 for event in history)
    report.broken = list(dict.fromkeys(broken_promises(history, stored, opened, killed)))
    return report


def _kill(server: Server) -> None:
    with suppress(AttributeError, ProcessLookupError):  # it never began, or has ended
        server.send(signal.SIGKILL)


async def _stored(address: tuple[str, str, str]) -> list[dict[str, Any]]:
    kind, uri, name = address
    async with open_database("pymongo" if kind in CLIENTS else kind, uri, name) as database:
        store = database.new_store()
        return [record.data async for record in store.records(timeout=60)]  # type: ignore[union-attr]
