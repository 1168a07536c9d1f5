"""Contenders as running servers, and what they use while they are under load."""

import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo import MongoClient

__all__ = ["CONTENDERS", "Contender", "Result"]

HERE = Path(__file__).parent

CONTENDERS = {
    "none": "no session",
    "hand-motor": "Motor, by hand",
    "hand-pymongo": "PyMongo Async, by hand",
    "sesame-motor": "tornado-sesame, Motor",
    "sesame-pymongo": "tornado-sesame, PyMongo Async",
    "sesame-memory": "tornado-sesame, in memory",
    "sesame-sqlite": "tornado-sesame, SQLite",
    "express": "express-session + connect-mongo",
}

COMMANDS = ("find", "getMore", "insert", "update", "delete", "findAndModify", "aggregate")


@dataclass(frozen=True, slots=True)
class Result:
    """One contender under load, for a while.

    :arg rate: requests a second.
    :arg p50, p99: latencies in milliseconds.
    :arg cpu: microseconds of the server's CPU a request.
    :arg commands: database commands a request.
    :arg sent: bytes that MongoDB received a request.
    :arg database: microseconds of MongoDB's CPU a request.
    """

    rate: float
    p50: float
    p99: float
    cpu: float
    commands: float
    sent: float
    database: float


class Contender:
    """A server process.

    :arg name: one of `CONTENDERS`.
    :arg uri: of the MongoDB.
    :arg core: that it runs on, or None.
    :arg collection: of its sessions; by default one that is named after it.
    :arg under: a command that runs it, such as that of a profiler.
    :raises RuntimeError: when it does not start.
    """

    def __init__(
        self, name: str, uri: str, core: int | None, collection: str | None = None, under: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.collection = collection or name.replace("-", "_")
        self._mongodb: MongoClient[dict[str, Any]] = MongoClient(uri)
        self._cookies: dict[int, str] = {}
        command = [sys.executable, "-m", "tests.benchmarks.sites", name, uri, self.collection]
        if name == "express":
            command = ["node", str(HERE / "express" / "server.js"), uri, self.collection]
        command = [*under, *command]
        if core is not None:
            command = ["taskset", "-c", str(core), *command]
        environment = {**os.environ, "NODE_ENV": "production"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self._process.stdout is not None
        port = self._process.stdout.readline()
        if not port:
            raise RuntimeError(f"{name} did not start: {command}")
        self.port = int(port)
        self.pid = self._process.pid

    @staticmethod
    def missing(name: str) -> str | None:
        """Returns why a contender cannot run on this machine; installs what it needs where that can be done."""
        if name != "express" or (HERE / "express" / "node_modules").exists():
            return None
        if not shutil.which("npm"):
            return "there is no Node.js with npm"
        installed = subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"],
            cwd=HERE / "express",
            capture_output=True,
            text=True,
        )
        return None if installed.returncode == 0 else f"npm install failed: {installed.stderr.strip()[-300:]}"

    def seed(self, sessions: int, size: int, nested: bool = False) -> None:
        """Starts as many sessions with *size* bytes each, unless that has been done; `load` uses them."""
        if size in self._cookies:
            return
        with tempfile.NamedTemporaryFile("w", suffix=".cookies", delete=False) as file:
            connection = http.client.HTTPConnection("127.0.0.1", self.port)
            for _ in range(sessions):
                connection.request("GET", f"/seed?size={size}{'&nested=1' * nested}")
                response = connection.getresponse()
                response.read()
                if response.status != 200:
                    raise RuntimeError(f"{self.name}: /seed answered {response.status}")
                cookie = response.headers.get("Set-Cookie", "none=1").partition(";")[0]
                file.write(cookie + "\n")
            connection.close()
        self._cookies[size] = file.name

    def cookies(self, size: int) -> list[str]:
        """Returns the ``Cookie`` headers of the sessions that `seed` has started."""
        return Path(self._cookies[size]).read_text().splitlines()

    def load(self, page: str, size: int, connections: int, seconds: float) -> Result:
        """Puts load on one page.

        :arg size: of the sessions that take part; see `seed`.
        :raises RuntimeError: when a request fails.
        """
        commands, received, database = self._database_counts()
        cpu = self._cpu()
        wrk = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(HERE / "load.lua")]
        url = f"http://127.0.0.1:{self.port}/{page}"
        command = [*wrk, url, "--", self._cookies[size]]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        summary = json.loads(output.splitlines()[-1])
        if summary["errors"] or not summary["requests"]:
            raise RuntimeError(f"{self.name}: {page} failed: {output}")
        self._settle()
        requests = summary["requests"]
        commands_after, received_after, database_after = self._database_counts()
        return Result(
            rate=requests / summary["seconds"],
            p50=summary["p50"],
            p99=summary["p99"],
            cpu=(self._cpu() - cpu) / requests * 1e6,
            commands=(commands_after - commands) / requests,
            sent=(received_after - received) / requests,
            database=(database_after - database) / requests,
        )

    def _settle(self) -> None:
        """Returns when the server has worked off what the load left behind, which others must not pay for."""
        before = -1.0
        while (cpu := self._cpu()) > before:
            before = cpu
            time.sleep(0.05)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._mongodb.close()
        for name in self._cookies.values():
            Path(name).unlink()

    def _cpu(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _database_counts(self) -> tuple[int, int, int]:
        """Returns MongoDB's commands, the bytes it has received, and the microseconds of CPU that it has used."""
        status = self._mongodb.admin.command("serverStatus")
        commands = sum(status["metrics"]["commands"][name]["total"] for name in COMMANDS)
        cpu = status["extra_info"].get("user_time_us", 0) + status["extra_info"].get("system_time_us", 0)  # on Linux
        return commands, status["network"]["bytesIn"], cpu
