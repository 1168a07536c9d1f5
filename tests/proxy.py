"""A TCP proxy before a MongoDB: as far away as a test wants, and able to lose commands and answers."""

import asyncio
import threading
from types import TracebackType

__all__ = ["Proxy"]


class Proxy:
    """Forwards connections to a MongoDB on this machine, while its context is open.

    It has a thread of its own, as Motor blocks the event loop that closes its client.

    :arg port: of that MongoDB.
    :arg delay: seconds that each direction takes; bandwidth is not limited. It may be changed meanwhile.
    """

    def __init__(self, port: int, *, delay: float = 0.0) -> None:
        self._target = port
        self.delay = delay
        self._to_lose: list[str] = []
        self._to_swallow: list[str] = []
        self._connections: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._is_ready = threading.Event()

    def lose_answer(self, command: str) -> None:
        """Breaks the connection in place of the answer to the next *command* (its name); MongoDB carries it out."""
        self._to_lose.append(command)

    def lose_command(self, command: str) -> None:
        """Breaks the connection in place of the next *command* (its name), which never reaches MongoDB."""
        self._to_swallow.append(command)

    def cut(self) -> None:
        """Breaks all connections that there are."""
        self._loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        for connection in self._connections:
            connection.cancel()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def uri(self) -> str:
        return f"mongodb://{self.address}/?directConnection=true"

    def __enter__(self) -> "Proxy":
        self._thread.start()
        self._is_ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._is_closed.set)
        self._thread.join()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._is_closed = asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._port: int = server.sockets[0].getsockname()[1]
        self._is_ready.set()
        await self._is_closed.wait()
        server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await asyncio.sleep(0)  # for the transports to close

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        try:
            from_target, to_target = await asyncio.open_connection("127.0.0.1", self._target)
        except (OSError, asyncio.CancelledError):  # a cancelled task would make asyncio's streams complain
            writer.transport.abort()
            return
        is_lost = asyncio.Event()
        ways = [
            asyncio.create_task(self._forward_commands(reader, to_target, is_lost)),
            asyncio.create_task(self._forward_answers(from_target, writer, is_lost)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            pass  # likewise
        finally:
            for way in ways:
                way.cancel()
            # Not close(), which would wait for a server that is paused to read the rest.
            writer.transport.abort()
            to_target.transport.abort()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _forward_commands(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_lost: asyncio.Event
    ) -> None:
        while data := await reader.read(2**20):
            if self._is_next(self._to_swallow, data):
                return
            if self._is_next(self._to_lose, data):
                is_lost.set()
            self._send(writer, data)

    def _is_next(self, commands: list[str], data: bytes) -> bool:
        """Tells whether *data* begin with one of these *commands*, and takes it off them."""
        for command in commands:
            # OP_MSG's BSON document begins with the command's name as the key of a string.
            if b"\2" + command.encode() + b"\0" in data[:64]:
                commands.remove(command)
                return True
        return False

    async def _forward_answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_lost: asyncio.Event
    ) -> None:
        while (data := await reader.read(2**20)) and not is_lost.is_set():
            self._send(writer, data)

    def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if self.delay:
            self._loop.call_later(self.delay, writer.write, data)  # and lets the next data travel meanwhile
        else:
            writer.write(data)
