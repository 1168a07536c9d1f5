"""How many instructions a request takes the server: what repeats within 1%, on whatever machine.

The server runs under Valgrind's callgrind, some fifty times as slow. Counting is on while a number of requests are sent
and answered, over several connections that are busy all the time, as under the load of ``wrk``.
"""

import asyncio
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .contenders import Contender

__all__ = ["NAMES", "PAGES", "count_instructions", "missing"]

NAMES = ("none", "hand-motor", "hand-pymongo", "sesame-motor", "sesame-pymongo", "sesame-memory", "sesame-sqlite")
PAGES = ("untouched", "read", "count")
REQUESTS = 512
WARM_UP = 256


def missing() -> str | None:
    """Returns why this cannot be measured here, if it cannot."""
    return None if shutil.which("valgrind") else "valgrind is missing: apt install valgrind"


def count_instructions(
    uri: str,
    names: Sequence[str],
    connections: int,
    sessions: int,
    size: int,
    nested: bool,
    progress: Callable[[str], None],
) -> dict[str, dict[str, float]]:
    """Returns the thousands of instructions of a request, by contender and page.

    :arg sessions: how many there are, of which each request uses another one.
    :arg size: how many bytes there are in each, besides a number.
    :arg nested: whether they are in small dicts.
    """
    results: dict[str, dict[str, float]] = {}
    for name in names:
        with tempfile.TemporaryDirectory() as directory:
            out = Path(directory) / "callgrind"
            tool = ["valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
            contender = Contender(name, uri, None, collection=f"instructions_{name.replace('-', '_')}", under=tool)
            try:
                contender.seed(sessions, size, nested)
                results[name] = {}
                for page in PAGES:
                    progress(f"instructions of {name}, {page}, {connections} connections")
                    asyncio.run(_load(contender, page, size, connections, WARM_UP))
                    _control(contender, "--instr=on")
                    asyncio.run(_load(contender, page, size, connections, REQUESTS))
                    time.sleep(0.5)  # for what is done after the answer
                    _control(contender, "--dump")
                    _control(contender, "--instr=off")
                    results[name][page] = _total(Path(directory)) / REQUESTS / 1000
            finally:
                contender.close()
    return results


def _control(contender: Contender, option: str) -> None:
    subprocess.run(["callgrind_control", option, str(contender.pid)], check=True, capture_output=True)


def _total(directory: Path) -> int:
    """Returns the instructions in the dump that was written last, and removes all."""
    dumps = sorted(directory.glob("callgrind.*"), key=lambda path: path.stat().st_mtime_ns)
    (total,) = re.findall(r"^totals: (\d+)", dumps[-1].read_text(), re.MULTILINE)
    for dump in dumps:
        dump.unlink()
    return int(total)


async def _load(contender: Contender, page: str, size: int, connections: int, requests: int) -> None:
    """Sends exactly so many requests; each connection sends the next one when it has its answer."""
    cookies = contender.cookies(size)
    numbers = iter(range(requests))

    async def visit() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", contender.port)
        for number in numbers:
            cookie = cookies[number % len(cookies)]
            writer.write(f"GET /{page} HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                raise RuntimeError(f"{contender.name}: {page} answered {head[:40]!r}")
            (length,) = re.findall(rb"Content-Length: (\d+)", head)
            await reader.readexactly(int(length))
        writer.close()

    await asyncio.gather(*(visit() for _ in range(connections)))
