"""The real MongoDB, the stores on it, and the sites that the tests visit."""

import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from pymongo import MongoClient

from tornado_sesame import SessionManager

from .mongod import NO_MONGODB, Mongod, find_mongod
from .support import CLIENTS, DATABASE, STORES, Database, Site, open_database, serve

pytest.register_assert_rewrite("tornado_sesame.testing.contract")

settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--store", action="append", choices=STORES, help="test on these stores only")
    parser.addoption("--whole-tornado", action="store_true", help="also Tornado's own tests that have no handlers")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "database_kind" in metafunc.fixturenames:
        kinds = metafunc.config.getoption("--store") or STORES
        if metafunc.definition.get_closest_marker("mongodb"):
            kinds = [kind for kind in kinds if kind in CLIENTS]
        if only := metafunc.definition.get_closest_marker("stores"):
            kinds = [kind for kind in kinds if kind in only.args]
        metafunc.parametrize("database_kind", kinds)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if os.name == "nt" and item.get_closest_marker("posix"):
        pytest.skip("Windows has neither signals nor forks")


def _without_mongodb(config: pytest.Config) -> int:
    """Returns how many tests did not run as there is no MongoDB, unless nobody has asked for it."""
    if not set(config.getoption("--store") or STORES) & CLIENTS.keys():
        return 0
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")  # not in the processes that share the tests
    return sum(NO_MONGODB in str(report.longrepr) for report in reporter.stats.get("skipped", [])) if reporter else 0


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if count := _without_mongodb(config):
        terminalreporter.section("NOT TESTED", red=True)
        terminalreporter.line(f"{count} tests did not run: {NO_MONGODB}", red=True)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if _without_mongodb(session.config) and os.environ.get("CI") and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def needs_mongod() -> None:
    """For tests that start a MongoDB: skips them where there is none."""
    if find_mongod() is None:
        pytest.skip(NO_MONGODB)


@pytest.fixture(scope="session")
def _shared_mongodb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """Gives the URI of the MongoDB that all tests share, and starts it when it is first asked for."""
    started: list[Mongod] = []
    uri = os.environ.get("MONGODB_URI")

    def start() -> str:
        nonlocal uri
        if uri is None:
            started.append(Mongod(tmp_path_factory.mktemp("mongod")))
            uri = started[0].uri
        return uri

    yield start
    if uri is not None and not started:
        with MongoClient[dict[str, Any]](uri) as client:
            client.drop_database(DATABASE)
    for mongod in started:
        mongod.kill()


@pytest.fixture
def mongodb_uri(request: pytest.FixtureRequest, _shared_mongodb: Callable[[], str]) -> str:
    """The URI of a MongoDB that tests share."""
    if "MONGODB_URI" not in os.environ:
        request.getfixturevalue("needs_mongod")
    return _shared_mongodb()


@pytest.fixture(scope="module")
def _own_mongod(needs_mongod: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongod]:
    mongod = Mongod(tmp_path_factory.mktemp("own_mongod"))
    yield mongod
    mongod.kill()


@pytest.fixture
def mongod(_own_mongod: Mongod) -> Iterator[Mongod]:
    """A MongoDB of the test module's own, to kill and to pause; up again for the next test."""
    yield _own_mongod
    _own_mongod.resume()
    _own_mongod.start()


@pytest.fixture
async def database(database_kind: str, request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    """An empty place for sessions, in memory, in a file, or in MongoDB through each driver."""
    uri = request.getfixturevalue("mongodb_uri") if database_kind in CLIENTS else None
    # A thread of Motor's that streams what a server says of itself may open a socket just when its client is closed.
    options = {"serverMonitoringMode": "poll"} if database_kind.startswith("motor") else {}
    async with open_database(database_kind, uri, f"sessions_{uuid.uuid4().hex}", **options) as database:
        yield database


Serve = Callable[..., Awaitable[Site]]


@pytest.fixture
async def site(database: Database) -> AsyncIterator[Serve]:
    """Runs a site on the test's database: ``await site([("/", Handler)], manager_option=...)``."""
    async with AsyncExitStack() as stack:

        async def start(handlers: list[Any], *, settings: dict[str, Any] | None = None, **options: Any) -> Site:
            manager = SessionManager(database.new_store(), **options)
            return await stack.enter_async_context(serve(handlers, sessions=manager, **(settings or {})))

        yield start
