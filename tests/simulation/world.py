"""One simulated run: processes with the real library, visitors who use them, and what goes wrong."""

import asyncio
import base64
import gc
import json
import logging
import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from unittest.mock import patch

from tornado.web import Application

from tornado_sesame import SessionCookie, SessionManager, calls, cookie, settings
from tornado_sesame.cookie import id_of_secret

from .loop import Choices, Process, SimulatedLoop, Stuck
from .network import DELAYS, Connection, RemoteStore, Request, Server
from .promises import BrokenPromise, Lineage, Promises
from .site import PAGES
from .sockets import UPGRADE

__all__ = ["Case", "simulate"]

COOKIE = SessionCookie().name
TIMEOUT = 2.0

# No request waits longer: a load, a save, and the steps of a rotation, each with its time limit.
ANSWERED_WITHIN = 12 * TIMEOUT

# After so long all is settled: late commands are done, rotations completed, copies and markers expired.
REST = 200.0


@dataclass(frozen=True)
class Case:
    """How large a run is.

    :arg visitors: each with a lineage, as long as he has a cookie.
    :arg requests: of each visitor.
    :arg tabs: how many of these are under way at once.
    :arg processes: with clocks that differ.
    :arg faults: calls that go wrong by themselves.
    :arg disasters: times that the server stops or hangs, a process dies or is stopped, or a visitor goes away.
    :arg pages: what is asked for.
    """

    visitors: int = 2
    requests: int = 5
    tabs: int = 1
    processes: int = 2
    faults: int = 2
    disasters: int = 1
    pages: tuple[str, ...] = tuple(path[1:] for path, _ in PAGES if path != "/start")
    waits: bool = True
    delays: tuple[float, ...] = DELAYS
    script: tuple[str, ...] = ()  # what the tabs of the first visitor ask for, in place of what is chosen


def simulate(case: Case, choices: Choices) -> list[str]:
    """Runs *case* and returns its story.

    :raises BrokenPromise: with the story as a note.
    """
    story: list[str] = []
    loop = SimulatedLoop(choices)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2026, 1, 1, tzinfo=tz) + timedelta(seconds=loop.time() + loop.process.offset)

    logging.disable(logging.CRITICAL)
    collects = gc.isenabled()
    gc.disable()
    try:
        numbers = random.Random(0)
        with (
            patch.object(settings, "datetime", Clock),
            patch.object(calls, "random", numbers),
            patch.object(cookie.secrets, "token_urlsafe", lambda size: _token(numbers, size)),
        ):
            world = World(case, choices, loop, story)
            try:
                loop.run_until_complete(world.run())
            except Stuck:
                raise BrokenPromise("something waits for what never happens") from None
            finally:
                for task in asyncio.all_tasks(loop):
                    task._log_destroy_pending = False  # type: ignore[attr-defined]  # of dead processes
                loop.close()
    except BrokenPromise as broken:
        broken.add_note("\n".join(story))
        raise
    finally:
        logging.disable(logging.NOTSET)
        if collects:
            gc.enable()
    return story


def _token(numbers: random.Random, size: int) -> str:
    return base64.urlsafe_b64encode(numbers.randbytes(size)).rstrip(b"=").decode()


class World:
    def __init__(self, case: Case, choices: Choices, loop: SimulatedLoop, story: list[str]) -> None:
        self.case = case
        self.choices = choices
        self.loop = loop
        self.story = story
        self.promises = Promises()
        self.server = Server(loop, choices, case.faults, self.tell, case.delays)
        self.sites: list[tuple[Process, Application]] = []
        self.names = 0
        self.is_over = False

    def tell(self, text: str) -> None:
        self.story.append(f"{self.loop.time():8.3f} {text}")

    def start_process(self, number: int) -> tuple[Process, Application]:
        process = Process(f"process {number}", (0.0, 2.0)[number % 2])
        manager = SessionManager(RemoteStore(self.server, process), timeout=TIMEOUT, wait_for_save=self.case.waits)
        application = Application(
            PAGES,  # type: ignore[arg-type]
            sessions=manager,
            log_function=lambda handler: None,
            wait=self.wait,
            waits=self.case.waits,
            patience=lambda: (0.0, 0.001, 0.02, 0.3, 1.0)[self.choices.pick(5)],
            open_connections={},  # as a set has no order that a seed could decide
            connections=[],
        )
        return process, application

    async def wait(self) -> None:
        """Takes some ticks, or some time."""
        number = self.choices.pick(4)
        if number == 3:
            await asyncio.sleep(self.server.delay())
        for _ in range(number % 3):
            await asyncio.sleep(0)

    async def run(self) -> None:
        case = self.case
        self.sites = [self.start_process(number) for number in range(case.processes)]
        disasters = asyncio.ensure_future(self.disasters())
        visitors = [Visitor(self, f"v{number}") for number in range(case.visitors)]
        await asyncio.gather(*(visitor.visit() for visitor in visitors))
        self.is_over = True
        await disasters
        self.server.is_up, self.server.hangs_until, self.server.faults = True, 0.0, 0
        if self.choices.pick(2):  # while something may go on that nobody waits for any more
            await self.stop(*self.sites.pop())
        await asyncio.sleep(REST)
        self.promises.at_rest(self.valid_records(), id_of_secret)
        if self.sites:
            for visitor in visitors:
                await visitor.look()
        for process, application in self.sites:
            await self.stop(process, application)
        self.tell("all is over")

    def valid_records(self) -> list[Any]:
        moment = settings.now()
        return [record for record in self.server.records() if record.expires > moment]

    async def stop(self, process: Process, application: Application) -> None:
        """Closes a manager when its handlers are done, and asserts that nothing is left of its process."""
        while any(connection.is_in_use for connection in application.settings["connections"]):
            await asyncio.sleep(0.01)
        began = self.loop.time()
        closed: asyncio.Future[None] = self.loop.create_future()

        async def close() -> None:
            await application.settings["sessions"].close()
            closed.set_result(None)

        self.loop.in_process(process, lambda: asyncio.ensure_future(close()))
        await closed
        if self.loop.time() - began > 2 * TIMEOUT + 0.001:
            raise BrokenPromise(f"closing took {self.loop.time() - began} s")
        if self.loop.time() - began > TIMEOUT - 0.001:  # it has given up what it had to find out
            self.excuse_unsettled(process)
        for _ in range(5):
            await asyncio.sleep(0)
        if self.server.faults == 0 and self.server.is_up and (left := self.loop.left_of(process)):
            raise BrokenPromise(f"{process} has still to do after its close(): {left}")

    async def disasters(self) -> None:
        for _ in range(self.case.disasters):
            await asyncio.sleep((0.01, 0.05, 0.4, 3.0)[self.choices.pick(4)])
            if self.is_over:
                return
            match self.choices.pick(5):
                case 0:
                    self.tell("the server stops")
                    self.server.is_up = False
                    await asyncio.sleep((0.1, 1.0, 5.0)[self.choices.pick(3)])
                    self.tell("the server is back")
                    self.server.is_up = True
                case 1:
                    seconds = (0.5, 3.0, 8.0)[self.choices.pick(3)]
                    self.tell(f"the server hangs for {seconds} s")
                    self.server.hangs_until = self.loop.time() + seconds
                case 2:
                    self.kill(self.choices.pick(len(self.sites)))
                case 3:
                    number = self.choices.pick(len(self.sites))
                    process, application = self.sites[number]
                    self.tell(f"{process} is stopped, and started again")
                    self.sites[number] = self.start_process(number)
                    await self.stop(process, application)
                case 4:
                    _, application = self.sites[self.choices.pick(len(self.sites))]
                    for connection in list(application.settings["open_connections"])[:1]:
                        self.tell("a visitor goes away")
                        connection.leave()

    def excuse_unsettled(self, process: Process) -> None:
        for lineage in self.promises.lineages.values():
            lineage.is_excused |= process in lineage.unsettled

    def kill(self, number: int) -> None:
        process, application = self.sites[number]
        self.tell(f"{process} dies")
        process.is_dead = True
        self.excuse_unsettled(process)
        for connection in list(application.settings["open_connections"]):
            connection.lose()
        self.sites[number] = self.start_process(number)


class Visitor:
    """Somebody with a browser: its cookie, and one or several tabs that send requests."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.secret: str | None = None
        self.lineage: Lineage | None = None
        self.is_lost = False  # he has gone away from a request that moved his session

    async def visit(self) -> None:
        case = self.world.case
        await self.request("start")
        for _ in range(0, case.requests, case.tabs):
            pages = case.script or [None] * case.tabs
            await asyncio.gather(*(self.ask(page) for page in pages))

    async def ask(self, page: str | None) -> None:
        await asyncio.sleep(self.world.server.delay())
        if self.lineage is None or self.lineage.is_ending:
            if self.world.case.tabs == 1:
                await self.request("start")
            return
        pages = self.world.case.pages
        page = page or pages[self.world.choices.pick(len(pages))]
        await (self.talk() if page == "socket" else self.request(page))

    async def look(self) -> None:
        """Asks for the page once more, when all is over."""
        lineage = self.lineage
        if lineage is None or lineage.is_ending or lineage.is_excused or not lineage.secrets:
            return
        shown = await self.request("read")
        if shown is None or shown.get("lineage") != lineage.name:
            raise BrokenPromise(f"{self.name} is signed out, and nobody did it")

    async def talk(self) -> None:
        """Opens a WebSocket and sends some messages over it, one after the other."""
        world, loop, lineage = self.world, self.world.loop, self.lineage
        assert lineage is not None
        world.names += 1
        operation = f"socket{world.names}"
        process, application = world.sites[world.choices.pick(len(world.sites))]
        connection = Connection(loop, process, lambda *_: None)
        open_connections = application.settings["open_connections"]
        open_connections[connection] = None
        application.settings["connections"].append(connection)
        world.tell(f"{self.name} opens {operation} to {process} with {id_of_secret(self.secret)[:6]}")
        request = Request(loop, "GET", "/socket", f"{COOKIE}={self.secret}", connection, UPGRADE)
        loop.in_process(process, lambda: application(request))
        try:
            async with asyncio.timeout(ANSWERED_WITHIN):
                await connection.over
            for part in (f"{operation}.{part}" for part in range(3)):
                if connection.stream is None:
                    return
                await asyncio.sleep(world.server.delay())
                moves_before, is_quiet = lineage.moves, not lineage.moving
                expected = set(lineage.done) if world.case.tabs == 1 else set()
                lineage.tried.add(part)
                connection.stream.send(part)
                async with asyncio.timeout(ANSWERED_WITHIN):
                    answer = await connection.stream.answer()
                world.tell(f"{self.name} gets {answer} for {part}")
                if answer is None:
                    return
                shown = json.loads(answer)
                if shown["lineage"] == lineage.name:
                    world.promises.seen(lineage.name, shown["seen"], expected | {part})
                    self.acknowledge(lineage, [part], moves_before, is_quiet)
        except TimeoutError:
            raise BrokenPromise(f"{operation} is not answered") from None
        finally:
            open_connections.pop(connection, None)
            connection.leave()

    async def request(self, page: str) -> dict[str, Any] | None:
        world, loop, promises = self.world, self.world.loop, self.world.promises
        world.names += 1
        operation = f"{page}{world.names}"
        lineage = promises.of(operation) if page == "start" else self.lineage
        carried = self.secret if page != "start" else None
        parts = [f"{operation}.{part}" for part in range(3)] if page == "stream" else [operation]
        writes = page in ("plain", "change", "save", "stream", "fail", "impatient")
        moves = page in ("rotate", "impatientrotate", "destroy", "destroyall")
        if lineage is not None and writes:
            lineage.tried |= set(parts)
        expected = set(lineage.done) if lineage is not None and world.case.tabs == 1 and world.case.waits else set()
        moves_before = lineage.moves if lineage is not None else 0
        is_quiet = lineage is None or not lineage.moving
        if lineage is not None and moves:
            lineage.moves += 1
            lineage.moving += 1
            lineage.is_ending |= page in ("destroy", "destroyall")

        def sent(connection: Connection, chunk: bytes) -> None:
            if connection.status != 200 or not world.case.waits or not writes:
                return
            if page == "stream":
                name = connection.body.partition(b"\n")[0].decode()
                done = [part for part in parts if part.encode() in chunk]
            else:
                name, done = (lineage.name if lineage and b'"lineage": null' not in chunk else None), parts
            for part in done:
                promises.sent(
                    part, None if name == "None" else name, moves_before if is_quiet else -1, world.server.records()
                )

        await asyncio.sleep(world.server.delay())
        process, application = world.sites[world.choices.pick(len(world.sites))]
        connection = Connection(loop, process, sent)
        open_connections = application.settings["open_connections"]
        open_connections[connection] = None
        application.settings["connections"].append(connection)
        cookie = f"{COOKIE}={carried}" if carried else ""
        began = loop.time()
        id = id_of_secret(carried)[:6] if carried else "nothing"
        world.tell(f"{self.name} asks {process} for /{page} ({operation}) with {id}")
        request = Request(loop, "POST", f"/{page}?operation={operation}", cookie, connection)
        loop.in_process(process, lambda: application(request))
        try:
            async with asyncio.timeout(ANSWERED_WITHIN):
                await connection.over
        except TimeoutError:
            raise BrokenPromise(f"{operation} is not answered") from None
        finally:
            open_connections.pop(connection, None)
        await asyncio.sleep(world.server.delay())
        if lineage is not None and moves and connection.is_complete:  # else it may go on for as long as it likes
            lineage.moving -= 1
            if connection.status != 200:
                lineage.unsettled.add(process)
                if not is_quiet or lineage.moves != moves_before + 1:
                    lineage.is_excused = lineage.is_astray = True
        return self.answered(page, operation, parts, connection, lineage, expected, moves_before, is_quiet, began)

    def answered(
        self,
        page: str,
        operation: str,
        parts: list[str],
        connection: Connection,
        lineage: Lineage | None,
        expected: set[str],
        moves_before: int,
        is_quiet: bool,
        began: float,
    ) -> dict[str, Any] | None:
        world, promises = self.world, self.world.promises
        moves = page in ("rotate", "impatientrotate", "destroy", "destroyall")
        if not connection.is_complete or not connection.status:
            world.tell(f"{self.name} gets no answer to {operation}")
            if lineage is not None and (moves or page == "start" or lineage.moving):
                lineage.is_excused = True
            return None
        if connection.status == 503 and not world.case.faults and not world.case.disasters:
            raise BrokenPromise(f"{operation} gets a 503, and nothing has failed")
        header = connection.headers.get("Set-Cookie")
        world.tell(f"{self.name} gets {connection.status} for {operation}{', and a cookie' if header else ''}")
        shown: dict[str, Any] = {}
        if connection.status == 200 and page != "stream":
            shown = json.loads(connection.body)
            if "lineage" in shown:
                world.tell(f"    it shows {shown['lineage']}, {shown['seen']}")
        if header is not None:
            value = header.partition("=")[2].partition(";")[0]
            if lineage is not None:
                promises.cookie(page, 0.0 if page != "start" else None)
            if not value or "Max-Age=0" in header:
                self.secret = None
            else:
                self.secret = value
                if lineage is not None:
                    lineage.secrets.append(value)
        if page == "start":
            if connection.status == 200 and header is not None:
                self.lineage = lineage
                assert lineage is not None
            elif lineage is not None:
                lineage.is_excused = True
            return shown
        if lineage is None:
            return shown
        if connection.status == 200:
            if page in ("destroy", "destroyall"):
                # A logout that met a rotation on its way may have ended what the session has just left.
                is_met = not is_quiet or lineage.moves != moves_before + 1
                if page == "destroyall":
                    lineage.has_ended |= shown.get("lineage") == lineage.name
                else:
                    lineage.has_ended |= not is_met
            elif page == "stream":
                name = connection.body.partition(b"\n")[0].decode()
                done = name == lineage.name and world.case.waits
                self.acknowledge(lineage, parts if done else [], moves_before, is_quiet)
            elif not moves:
                promises.seen(shown["lineage"], shown["seen"], expected if shown["lineage"] == lineage.name else set())
                if page != "read" and shown["lineage"] == lineage.name and world.case.waits:
                    applied = [part for part in parts if part in shown["seen"]] if page != "save" else []
                    self.acknowledge(lineage, applied, moves_before, is_quiet)
        return shown

    def acknowledge(self, lineage: Lineage, parts: list[str], moves_before: int, is_quiet: bool) -> None:
        if is_quiet and lineage.moves == moves_before:
            lineage.done |= set(parts)
