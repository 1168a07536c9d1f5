"""The demo, run as users run it: as a process that is ended, killed and started again."""

import http.cookiejar
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from .mongod import free_port

ROOT = Path(__file__).parent.parent


class Demo:
    """A running demo.

    :arg options: of its command line.
    """

    def __init__(self, *options):
        self.port = free_port()
        self.command = [sys.executable, "-m", "demo", "--port", str(self.port), *options]
        self.cookies = http.cookiejar.CookieJar()
        self.process = None
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            self.command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert "Listening" in self.process.stdout.readline(), self.process.stderr.read()

    def end(self, number):
        """Sends a signal and returns the exit status."""
        self.process.send_signal(number)
        self.errors = self.process.communicate(timeout=10)[1]
        return self.process.returncode

    def visit(self):
        """Visits the page and returns the two numbers on it, and the line on the store."""
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.cookies))
        page = opener.open(f"http://localhost:{self.port}/").read().decode()
        times = re.search(r"<h1>(\d+) times!</h1>", page)[1]
        baz = re.search(r"session.foo.bar.baz == ([^<]+)<", page)[1]
        return int(times), int(baz), re.search(r"<footer>(.*)</footer>", page)[1]


@pytest.fixture
def start():
    demos = []

    def start(*options):
        demos.append(Demo(*options))
        return demos[-1]

    yield start
    for demo in demos:
        if demo.process.returncode is None:
            demo.end(signal.SIGKILL)


def test_it_counts_in_memory(start):
    demo = start()
    assert [demo.visit()[:2] for _ in range(3)] == [(1, 2), (2, 4), (3, 8)]
    assert "in memory" in demo.visit()[2]
    assert demo.end(signal.SIGTERM) == 0
    assert "Traceback" not in demo.errors


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
def test_it_counts_on_after_a_restart_and_after_a_kill(start, driver, mongodb_uri):
    demo = start("--mongo", mongodb_uri, "--driver", driver)
    assert demo.visit()[:2] == (1, 2)
    assert demo.end(signal.SIGTERM) == 0
    assert "Traceback" not in demo.errors
    demo.start()
    assert demo.visit()[:2] == (2, 4)
    assert demo.end(signal.SIGKILL) == -signal.SIGKILL
    demo.start()
    assert demo.visit()[:2] == (3, 8)
    assert {"motor": "Motor", "pymongo": "PyMongo Async"}[driver] in demo.visit()[2]


def test_every_answered_visit_is_there_after_a_kill(start, mongodb_uri):
    demo = start("--mongo", mongodb_uri)
    for round in range(1, 6):
        for _ in range(5):
            times = demo.visit()[0]
        demo.end(signal.SIGKILL)
        assert times == 5 * round
        demo.start()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--mongo", "http://localhost"), "Invalid URI scheme"),
        (("--driver", "mongoose"), "invalid choice: 'mongoose'"),
        (("--port", "http"), "invalid int value: 'http'"),
    ],
)
def test_wrong_options_are_explained(options, problem):
    command = [sys.executable, "-m", "demo", "--port", str(free_port()), *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert result.returncode != 0
    assert problem in result.stderr
    assert "Traceback" not in result.stderr


def test_a_port_in_use_is_explained(start):
    command = start().command
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert result.returncode == 1
    assert "try another with --port" in result.stderr
    assert "Traceback" not in result.stderr
