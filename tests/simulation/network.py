"""The two ends of the simulated network: a store whose server is far away, and connections of visitors."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from tornado.concurrent import Future
from tornado.httputil import HTTPConnection, HTTPHeaders, HTTPServerRequest, RequestStartLine, ResponseStartLine

from tornado_sesame import MemoryStore, SessionNotSaved, SessionRecord, SessionStore, SessionStoreError
from tornado_sesame.stores import SaveResult, SessionEnd, SessionWrite

from .loop import Choices, Process, SimulatedLoop
from .sockets import SocketStream

__all__ = ["Connection", "RemoteStore", "Request", "Server"]

FATES = {1: "refused", 2: "command lost", 3: "answer lost", 4: "late", 5: "refused in part", 6: "never answered"}

ANSWERED = ("fine", "refused in part")

# How many seconds something takes on its way.
DELAYS = (0.0, 0.001, 0.002, 0.01, 0.05, 0.3)


class Server:
    """The database: it does what it is told when it is told, and may be down or hang.

    :arg faults: how many calls may still go wrong by themselves.
    """

    def __init__(
        self,
        loop: SimulatedLoop,
        choices: Choices,
        faults: int,
        tell: Callable[[str], None],
        delays: Sequence[float] = DELAYS,
    ) -> None:
        self.delays = delays
        self.memory = MemoryStore(max_sessions=100_000)
        self.is_up = True
        self.hangs_until = 0.0
        self.faults = faults
        self.loop = loop
        self.choices = choices
        self.tell = tell

    def records(self) -> list[SessionRecord]:
        """Returns all that is stored, also what has expired."""
        return [*self.memory._owned.values(), *self.memory._ownerless.values()]

    def delay(self) -> float:
        return self.delays[self.choices.pick(len(self.delays))]


class RemoteStore(SessionStore):
    """What one process sees of the `Server`, over a network that loses commands and answers."""

    def __init__(self, server: Server, process: Process) -> None:
        self._server = server
        self._process = process

    async def load(self, ids: Sequence[str], *, timeout: float) -> Mapping[str, Any]:
        memory = self._server.memory
        found: Mapping[str, Any] = await self._call("load", [lambda: memory.load(ids, timeout=timeout)], timeout, False)
        return found[0]  # type: ignore[index,no-any-return]

    async def save(self, writes: Sequence[SessionWrite], *, timeout: float) -> Sequence[SaveResult]:
        memory = self._server.memory
        jobs = [lambda write=write: memory.save([write], timeout=timeout) for write in writes]
        names = [f"{type(write).__name__} of {write.id[:6]}" for write in writes]
        results: Sequence[Any] = await self._call("save", jobs, timeout, True, names)
        return [result[0] for result in results]

    async def pop(self, end: SessionEnd, *, timeout: float) -> SessionRecord | None:
        memory = self._server.memory
        jobs = [lambda: memory.pop(end, timeout=timeout)]
        results: Sequence[Any] = await self._call("pop", jobs, timeout, True, [f"pop of {end.id[:6]}"])
        return results[0]  # type: ignore[no-any-return]

    async def records(self, owner: str | None = None, *, timeout: float) -> AsyncIterator[SessionRecord]:
        async def listed() -> list[SessionRecord]:
            return [record async for record in self._server.memory.records(owner, timeout=timeout)]

        (page,) = await self._call("records", [listed], timeout, False)
        for record in page:
            yield record

    async def _call(
        self,
        what: str,
        jobs: list[Callable[[], Any]],
        timeout: float,
        is_write: bool,
        names: Sequence[str] = (),
    ) -> Any:
        """Has each job done at the server, at a time of its own, and returns the results."""
        server, loop = self._server, self._server.loop
        fate = "fine"
        # Mostly nothing goes wrong; when no choices are made at random, each fault is one choice.
        if server.faults and (number := server.choices.pick(14)) in FATES:
            server.faults -= 1
            fate = FATES[number]
            server.tell(f"{self._process}: a {what} is to be {fate}")
        deadline = loop.time() + timeout
        await asyncio.sleep(server.delay())
        if not server.is_up or fate == "refused":
            raise SessionNotSaved("refused") if is_write else SessionStoreError("refused")
        if fate == "never answered":  # by a driver that does not keep its time limit
            await loop.create_future()
        results: list[Any] = [None] * len(jobs)
        done = [loop.create_future() for _ in jobs]

        def do(position: int) -> None:
            if not server.is_up:
                return
            if loop.time() < server.hangs_until:
                later(server.hangs_until - loop.time(), position)
                return
            coroutine = jobs[position]()
            if names:
                server.tell(f"    the server does {names[position]} for {self._process}")
            try:
                coroutine.send(None)  # the memory store never waits
            except StopIteration as returned:
                results[position] = returned.value
            if not done[position].done():
                done[position].set_result(None)

        def later(seconds: float, position: int) -> None:
            former, loop.process = loop.process, loop.world
            try:
                loop.call_later(seconds, do, position)
            finally:
                loop.process = former

        for position in range(len(jobs)):
            if fate == "refused in part" and what == "save" and server.choices.pick(2):
                results[position] = [SessionNotSaved("refused")]
                done[position].set_result(None)
            elif fate != "command lost" or server.choices.pick(2):
                later(server.delay() + (timeout + 1 if fate == "late" else 0.0), position)
        if fate in ANSWERED:
            await asyncio.wait(done, timeout=deadline - loop.time())
        await asyncio.sleep(server.delay() if fate != "late" else max(0.0, deadline - loop.time()))
        if fate not in ANSWERED or not all(future.done() for future in done) or not server.is_up:
            raise ConnectionError(fate)
        return results


class Request(HTTPServerRequest):
    """A request that began when it arrived."""

    def __init__(
        self,
        loop: SimulatedLoop,
        method: str,
        uri: str,
        cookie: str,
        connection: "Connection",
        fields: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        headers = HTTPHeaders({"Host": "site", **({"Cookie": cookie} if cookie else {}), **fields})
        start_line = RequestStartLine(method, uri, "HTTP/1.1")
        super().__init__(headers=headers, connection=connection, start_line=start_line)
        self._loop = loop
        self._began = loop.time()

    def request_time(self) -> float:
        return self._loop.time() - self._began


class Connection(HTTPConnection):
    """The server's end of a visitor's connection.

    :arg process: the server's.
    :arg sent: is called with each part of a body that the server sends.
    """

    def __init__(self, loop: SimulatedLoop, process: Process, sent: Callable[["Connection", bytes], None]) -> None:
        self._loop = loop
        self._process = process
        self._sent = sent
        self.stream: SocketStream | None = None  # of a WebSocket
        self._is_left = False
        self.status = 0
        self.headers = HTTPHeaders()
        self.body = b""
        self.is_complete = False
        self.is_streaming = False
        self.has_finished = False  # the handler is done, whoever is still there
        self.over: asyncio.Future[None] = loop.create_future()
        self._close_callback: Callable[[], None] | None = None

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        self._close_callback = callback

    def write_headers(self, start_line: Any, headers: HTTPHeaders, chunk: bytes | None = None) -> "Future[None]":
        assert isinstance(start_line, ResponseStartLine)
        self.status, self.headers = start_line.code, headers.copy()
        return self.write(chunk or b"")

    def write(self, chunk: bytes) -> "Future[None]":
        if not self.over.done():
            self.body += chunk
            self._sent(self, chunk)
        written: Future[None] = Future()
        written.set_result(None)
        return written

    def finish(self) -> None:
        self.is_complete = not self.over.done()
        self.close()

    def close(self) -> None:
        self.has_finished = True
        if not self.over.done():
            self.over.set_result(None)

    def detach(self) -> SocketStream:
        self.stream = SocketStream(self._loop, self._process)
        if self._is_left:
            self.stream.leave()
        return self.stream

    @property
    def is_in_use(self) -> bool:
        """Its handler may still do something."""
        return self.is_streaming or not self.has_finished or (self.stream is not None and not self.stream.closed())

    def lose(self) -> None:
        """Is called when the server's process goes away."""
        self.close()
        self._is_left = True
        if self.stream is not None:
            self.stream.leave()

    def leave(self) -> None:
        """Is called when the visitor goes away."""
        self._is_left = True
        if self.stream is not None:
            self.stream.leave()
        if not self.over.done():
            self.over.set_result(None)
            if self._close_callback is not None:
                self._close_callback()
