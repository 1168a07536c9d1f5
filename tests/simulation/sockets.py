"""A WebSocket's connection: the stream that Tornado detaches, and the visitor's end of it."""

import asyncio
import struct
from collections.abc import Callable
from typing import Any

from tornado.iostream import StreamClosedError

from .loop import Process, SimulatedLoop

__all__ = ["UPGRADE", "SocketStream"]

UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "c2VzYW1lIHNlc2FtZSBzIQ==",
}


class SocketStream:
    """What a server reads from and writes to; `send` and `answer` are the visitor's.

    :arg process: the server's.
    """

    def __init__(self, loop: SimulatedLoop, process: Process) -> None:
        self._loop = loop
        self._process = process
        self._arrived = b""
        self._reading: tuple[int, asyncio.Future[bytes]] | None = None
        self._is_closed = False
        self._close_callback: Callable[[], Any] | None = None
        self._answers: list[str | None] = []
        self._asking: asyncio.Future[None] | None = None

    # The visitor's end

    def send(self, text: str) -> None:
        payload = text.encode()
        assert len(payload) < 126
        self._loop.in_process(self._process, self._arrive, bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload)

    async def answer(self) -> str | None:
        """Returns the next message of the server; None when it has closed the connection."""
        while not self._answers:
            if self._is_closed:
                return None
            self._asking = self._loop.create_future()
            await self._asking
        return self._answers.pop(0)

    def leave(self) -> None:
        self._loop.in_process(self._process, self.close)
        self._end()

    # The server's end, as Tornado uses an `IOStream`

    def read_bytes(self, number: int) -> "asyncio.Future[bytes]":
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._reading = number, future
        self._read()
        return future

    def write(self, data: bytes) -> "asyncio.Future[None]":
        if self._is_closed:
            raise StreamClosedError
        length, begin = data[1], 2
        if length == 126:
            length, begin = struct.unpack("!H", data[2:4])[0], 4
        if data[0] & 0xF == 1:
            self._answers.append(data[begin : begin + length].decode())
            self._wake()
        written: asyncio.Future[None] = self._loop.create_future()
        written.set_result(None)
        return written

    def close(self) -> None:
        self._end()
        self._read()
        callback, self._close_callback = self._close_callback, None
        if callback is not None:
            callback()

    def closed(self) -> bool:
        return self._is_closed

    def set_close_callback(self, callback: Callable[[], Any] | None) -> None:
        self._close_callback = callback

    def set_nodelay(self, value: bool) -> None:
        pass

    def _arrive(self, data: bytes) -> None:
        self._arrived += data
        self._read()

    def _read(self) -> None:
        if self._reading is None:
            return
        number, future = self._reading
        if future.done():
            self._reading = None
        elif len(self._arrived) >= number:
            self._reading = None
            data, self._arrived = self._arrived[:number], self._arrived[number:]
            future.set_result(data)
        elif self._is_closed:
            self._reading = None
            future.set_exception(StreamClosedError())

    def _end(self) -> None:
        self._is_closed = True
        self._wake()

    def _wake(self) -> None:
        if self._asking is not None and not self._asking.done():
            self._asking.set_result(None)
