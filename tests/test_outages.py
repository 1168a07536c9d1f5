"""Whatever is wrong with a MongoDB: visitors get a 503, and one short line in the log says which server, and why."""

import asyncio
import gc
import logging
import os
import shutil
import socket
import socketserver
import subprocess
import threading
from contextlib import contextmanager

import pymongo
import pytest
from pymongo import AsyncMongoClient, MongoClient, errors
from tornado.web import RequestHandler

from tornado_sesame import MongoStore, SessionEnd, SessionManager, SessionMixin, SessionNotSaved, SessionStoreError
from tornado_sesame.cookie import Secret
from tornado_sesame.stores.mongo import reason
from tornado_sesame.testing.contract import LATER, NOW, new_id

from .mongod import Mongod
from .support import CLIENTS, DATABASE, eventually, serve

# When a client of PyMongo's is closed while it connects, it leaves the socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

TIMEOUT = 3.0  # seconds

# How a connection ends depends on the moment at which a server ends it.
CLOSED = ("connection closed", "connection reset by peer", "broken pipe")


class Page(SessionMixin, RequestHandler):
    async def get(self):
        session = await self.session
        session.secret_of_mine = session.get("secret_of_mine", 0) + 1
        self.write("success")


async def close(client):
    with pymongo.timeout(1):  # as it would try to tell a server that is away
        closing = client.close()
        if closing is not None:
            await closing


class Configured(Mongod):
    """A standalone server with more options."""

    def __init__(self, directory, *options):
        self._options = options
        super().__init__(directory, None)

    def start(self):
        self._command += self._options
        self._options = ()
        super().start()


@pytest.fixture(scope="module", autouse=True)
def _nothing_left():
    """Has what the drivers leave collected before other modules' tests are blamed for it."""
    yield
    gc.collect()


@pytest.fixture
def explained(database_kind, caplog):
    """Gives what visits a site on a MongoDB that cannot be used, and asserts that the log explains it.

    One visitor is known, so that his session is loaded, and one is new, so that his is only saved.
    """

    async def explained(uri, *reasons, fault=None, loads=True, **options):
        caplog.set_level(logging.DEBUG, logger="tornado_sesame")
        client = CLIENTS[database_kind](uri, **options)
        manager = SessionManager(MongoStore(client[DATABASE].outages, create_indexes=False), timeout=TIMEOUT)
        try:
            async with serve([("/", Page)], sessions=manager) as site:
                known, new = site.browser(), site.browser()
                if fault is None:
                    known.cookies = {manager.settings.cookie.name: Secret().value}
                else:
                    assert await known.text() == "success"
                    await asyncio.to_thread(fault)
                    caplog.clear()
                responses = await asyncio.gather(*(visitor.get(request_timeout=120) for visitor in (known, new)))
        finally:
            await close(client)
        for response in responses:
            assert response.code == 503
            assert b"success" not in response.body
            assert response.headers["Retry-After"].isdigit()
        records = [record for record in caplog.records if record.name != "tornado.access"]
        assert {(record.name, record.levelname) for record in records} == {("tornado_sesame", "ERROR")}
        texts = [record.getMessage() for record in records]
        actions = ["load", "save"] if loads else ["save", "save"]
        assert sorted(text.split(" session ")[0] for text in texts) == [f"could not {action}" for action in actions]
        for text in texts:
            assert any(text.endswith(reason) for reason in reasons)
            assert len(text) < 300
            assert "\n" not in text
            for word in (
                "Topology",
                "no answer within",
                "full error",
                "configured timeouts",
                "Errno",
                "secret_of_mine",
            ):
                assert word not in text

    return explained


@pytest.fixture
def explained_at(explained):
    """Gives the same for reasons that begin with the address of one server."""

    async def explained_at(address, uri, *reasons, **options):
        await explained(uri, *(f": {address}: {reason}" for reason in reasons), **options)

    return explained_at


@contextmanager
def listening(answer=b""):
    """Runs what is no MongoDB: it gives any connection one answer, or closes it at once."""

    class Answer(socketserver.BaseRequestHandler):
        def handle(self):
            if answer:
                self.request.recv(65536)
                self.request.sendall(answer)
                self.request.recv(1)  # until the driver closes it, as it may else notice the end before the answer

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield "{}:{}".format(*server.server_address)
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def reserved():
    """A socket with a port on which nobody else will listen."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved


@pytest.fixture(scope="module")
def with_users(tmp_path_factory):
    """A server that asks for passwords: `root` may do everything, `reader` only read, `nobody` nothing."""
    server = Configured(tmp_path_factory.mktemp("with_users"), "--auth")
    with MongoClient(server.uri) as client:
        client.admin.command("createUser", "root", pwd="pw", roles=["root"])
    with MongoClient(server.uri, username="root", password="pw") as client:
        client.admin.command("createUser", "reader", pwd="pw", roles=["readAnyDatabase"])
        client.admin.command("createUser", "nobody", pwd="pw", roles=[])
    yield server
    server.kill()


@pytest.fixture(scope="module")
def with_tls(tmp_path_factory):
    """A server with a certificate that nobody knows."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl, which makes a certificate")
    directory = tmp_path_factory.mktemp("with_tls")
    files = {"-keyout": directory / "key.pem", "-out": directory / "certificate.pem"}
    options = [str(part) for option in files.items() for part in option]
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", *options]
    subprocess.run(command, check=True, capture_output=True)
    both = directory / "both.pem"
    both.write_text("".join(path.read_text() for path in files.values()))
    (directory / "data").mkdir()
    server = Configured(directory / "data", "--tlsMode", "allowTLS", "--tlsCertificateKeyFile", str(both))
    yield server
    server.kill()


@pytest.mark.mongodb
@pytest.mark.stores("motor_asyncio", "pymongo")
class TestMistakes:
    """In a URI, or in what it leads to."""

    async def test_a_wrong_port(self, explained_at, reserved):
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
        await explained_at(address, f"mongodb://{address}/", "connection refused")

    async def test_a_wrong_port_of_several_servers(self, explained, reserved):
        hosts = [f"{host}:{reserved.getsockname()[1]}" for host in ("127.0.0.1", "localhost")]
        await explained(f"mongodb://{','.join(hosts)}/?replicaSet=sesame", f": {', '.join(hosts)}: connection refused")

    async def test_an_unknown_host(self, explained):
        # Of which every system says something else.
        with pytest.raises(socket.gaierror) as caught:
            socket.getaddrinfo("no.such.host.invalid", 27017)
        words = caught.value.strerror
        expected = words[0].lower() + words[1:]
        await explained("mongodb://no.such.host.invalid/", f": no.such.host.invalid:27017: {expected}")

    async def test_a_wrong_name_of_the_replica_set(self, explained, mongod):
        uri = f"mongodb://{mongod.address}/?replicaSet=rs0"
        await explained(uri, ': no server is in a replica set named "rs0"')

    async def test_a_wrong_name_of_the_replica_set_of_one_server(self, explained_at, mongod):
        uri = f"mongodb://{mongod.address}/?replicaSet=rs0&directConnection=true"
        words = (
            "client is configured to connect to a replica set named 'rs0' but this node belongs to a set named 'sesame'"
        )
        await explained_at(mongod.address, uri, words)

    async def test_a_write_concern_that_cannot_be_met(self, explained_at, mongod):
        await explained_at(mongod.address, f"{mongod.uri}&w=7", "not enough data-bearing nodes", loads=False)

    async def test_tls_with_a_server_that_has_none(self, explained_at, mongod):
        words = [f"TLS handshake failed: {words}" for words in CLOSED]
        await explained_at(mongod.address, f"mongodb://{mongod.address}/?tls=true", *words)

    async def test_a_certificate_that_is_not_trusted(self, explained_at, mongod, request):
        server = request.getfixturevalue("with_tls")
        words = (
            "certificate verify failed: self-signed certificate",
            "certificate verify failed: self signed certificate",
        )
        await explained_at(server.address, f"mongodb://{server.address}/?tls=true", *words)

    async def test_a_web_server(self, explained_at):
        with listening(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n") as address:
            # On a busy machine, the driver now and then notices the end before the answer.
            await explained_at(address, f"mongodb://{address}/", "does not answer as a MongoDB does", *CLOSED)

    async def test_something_that_closes_connections_at_once(self, explained_at):
        with listening() as address:
            await explained_at(address, f"mongodb://{address}/", *CLOSED)


@pytest.mark.mongodb
@pytest.mark.stores("motor_asyncio", "pymongo")
class TestRights:
    @pytest.fixture
    def server(self, mongod, request):
        return request.getfixturevalue("with_users")

    async def test_a_wrong_password(self, explained_at, server):
        uri = f"mongodb://root:wrong@{server.address}/"
        await explained_at(server.address, uri, "authentication failed")

    async def test_no_password(self, explained_at, server):
        words = [f"command {command} requires authentication" for command in ("find", "insert")]
        await explained_at(server.address, server.uri, *words)

    async def test_a_user_who_may_not_read(self, explained_at, server):
        words = [f"not authorized to {command} on {DATABASE}.outages" for command in ("find", "insert")]
        await explained_at(server.address, f"mongodb://nobody:pw@{server.address}/", *words)

    async def test_a_user_who_may_not_write(self, explained_at, server):
        words = f"not authorized to insert on {DATABASE}.outages"
        await explained_at(server.address, f"mongodb://reader:pw@{server.address}/", words, loads=False)

    async def test_a_user_who_may_not_create_indexes(self, server, database_kind, caplog):
        client = CLIENTS[database_kind](f"mongodb://reader:pw@{server.address}/")

        async def has_warned():
            return "tornado_sesame" in {record.name for record in caplog.records}

        try:
            await MongoStore(client[DATABASE].outages).load([new_id()], timeout=60)
            await eventually(has_warned)
        finally:
            await close(client)
        (text,) = (record.getMessage() for record in caplog.records if record.name == "tornado_sesame")
        name = f"{DATABASE}.outages"
        assert text == f"could not create the indexes of {name}: not authorized to createIndexes on {name}"


@pytest.mark.mongodb
@pytest.mark.stores("motor_asyncio", "pymongo")
class TestOutages:
    async def test_a_black_hole(self, explained_at, reserved):
        reserved.listen(100)  # and never accept
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
        await explained_at(address, f"mongodb://{address}/", "did not answer in time")

    async def test_it_hangs_from_the_start(self, explained_at, mongod):
        mongod.pause()
        await explained_at(mongod.address, mongod.uri, "did not answer in time")

    async def test_it_hangs_while_it_is_used(self, explained_at, mongod):
        await explained_at(mongod.address, mongod.uri, "did not answer in time", fault=mongod.pause)

    async def test_it_is_killed_while_it_is_used(self, explained_at, mongod):
        await explained_at(mongod.address, mongod.uri, "connection refused", *CLOSED, fault=mongod.kill)

    async def test_there_is_no_primary(self, explained_at, stepped_down):
        words = ("there is no primary", "not primary and secondaryOk=false", "not primary")
        await explained_at(stepped_down.address, stepped_down.uri, *words)

    async def test_it_is_a_secondary(self, explained_at, stepped_down):
        uri = f"mongodb://{stepped_down.address}/?directConnection=true"
        await explained_at(stepped_down.address, uri, "not primary", loads=False)

    @pytest.fixture
    def stepped_down(self, mongod):
        with MongoClient(mongod.uri) as client:
            client.admin.command("replSetStepDown", 3600, secondaryCatchUpPeriodSecs=0, force=True)
        yield mongod
        mongod.kill()  # so that it is elected again when it starts


@pytest.mark.mongodb
@pytest.mark.stores("motor_asyncio", "pymongo")
class TestEveryMethod:
    """What a store raises has the reason as its text, and the driver's error as its cause."""

    @pytest.fixture
    async def store(self, database_kind, reserved):
        client = CLIENTS[database_kind](f"mongodb://127.0.0.1:{reserved.getsockname()[1]}/")
        yield MongoStore(client[DATABASE].outages, create_indexes=False)
        await close(client)

    @pytest.mark.parametrize(
        ("method", "kind"),
        [
            (lambda store: store.load([new_id()], timeout=1), SessionStoreError),
            (lambda store: store.save([SessionEnd(new_id(), NOW, LATER)], timeout=1), SessionNotSaved),
            (lambda store: store.pop(SessionEnd(new_id(), NOW, LATER), timeout=1), SessionNotSaved),
            (lambda store: anext(store.records(timeout=1)), SessionStoreError),
        ],
        ids=["load", "save", "pop", "records"],
    )
    async def test_it(self, store, reserved, method, kind):
        with pytest.raises(SessionStoreError) as caught:
            await method(store)
        assert type(caught.value) is kind
        assert caught.value.log_message == f"127.0.0.1:{reserved.getsockname()[1]}: connection refused"
        assert isinstance(caught.value.__cause__, errors.ServerSelectionTimeoutError)


SECRET = {"errmsg": 'E11000 duplicate key { email: "secret" }', "keyValue": {"email": "secret"}}
CONFIGURED = " (configured timeouts: socketTimeoutMS: 20000.0ms, connectTimeoutMS: 20000.0ms)"


def selection(*texts):
    topology = "<TopologyDescription id: 1, topology_type: Unknown, servers: [<ServerDescription ('a', 1)>]>"
    return errors.ServerSelectionTimeoutError(f"{','.join(texts)}, Timeout: 30s, Topology Description: {topology}")


def answered(code, errmsg, name="Name", kind=errors.OperationFailure):
    return kind(errmsg, code, {"ok": 0.0, "errmsg": errmsg, "code": code, "codeName": name, "more": {"a": ["b"]}})


def unmet(code, errmsg):
    return errors.BulkWriteError({"writeErrors": [], "writeConcernErrors": [{"code": code, "errmsg": errmsg}]})


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            selection(*(f"{host}: [Errno 111] Connection refused{CONFIGURED}" for host in ("a:1", "b:2", "c:3"))),
            "a:1 and 2 others: connection refused",
        ),
        (
            selection(f"a:1: timed out{CONFIGURED}", f"b:2: [Errno 113] No route to host{CONFIGURED}"),
            "a:1: did not answer in time; b:2: no route to host",
        ),
        (
            selection(
                f"a:1: [Errno 111] Connect call failed ('10.0.0.1', 1){CONFIGURED}",
                f"b:2: Multiple exceptions: [Errno 111] Connect call failed ('::1', 2, 0, 0), "
                f"[Errno 111] Connect call failed ('127.0.0.1', 2){CONFIGURED}",
                f"SSL handshake failed: c:3: [SSL: WRONG_VERSION] wrong version number (_ssl.c:1006){CONFIGURED}",
            ),
            f"a:1, b:2: {os.strerror(111).lower()}; c:3: TLS handshake failed: wrong version number",
        ),
        (
            selection("Authentication failed., full error: {'ok': 0.0, 'code': 18, 'a': {'b': 1}}", "c:3: timed out"),
            "a:1 and 2 others: authentication failed; c:3: did not answer in time",
        ),
        (selection("No servers found yet"), "a:1 and 2 others: did not answer in time"),
        (selection("x" * 150 + " " + "y" * 150), "a:1 and 2 others: " + "x" * 150 + " ..."),
        (
            answered(
                13, 'not authorized on db to execute command { update: "sessions", updates: [ { q: "secret" } ] }'
            ),
            "a:1 and 2 others: not authorized to update on db.sessions",
        ),
        (
            answered(13, "not authorized on db to execute command { odd: secret }"),
            "a:1 and 2 others: not authorized on db to execute command",
        ),
        (answered(8000, "bad auth : authentication failed"), "a:1 and 2 others: bad auth : authentication failed"),
        (answered(64, "waiting for\nreplication timed out"), "a:1 and 2 others: waiting for replication timed out"),
        (
            errors.WaitQueueTimeoutError(
                "Timed out while checking out a connection from connection pool. maxPoolSize: 1, timeout: 2.0"
            ),
            "a:1 and 2 others: no connection became free in time",
        ),
        (errors.ConfigurationError("The DNS query name does not exist: x."), "the DNS query name does not exist: x"),
        (unmet(100, "Not enough data-bearing nodes"), "a:1 and 2 others: not enough data-bearing nodes"),
        # What may quote a document, or is not known never to do so.
        (unmet(1, "secret"), "BulkWriteError with error code 65"),
        (answered(2, "secret", "BadValue"), "OperationFailure with error code 2 (BadValue)"),
        (errors.DuplicateKeyError("secret", 11000, SECRET), "DuplicateKeyError with error code 11000"),
        (answered(13, "secret", "Unauthorized", errors.WriteError), "WriteError with error code 13 (Unauthorized)"),
        (errors.OperationFailure("secret"), "OperationFailure with error code None"),
        (errors.EncryptionError(ValueError("secret")), "EncryptionError"),
        (ValueError("secret"), "ValueError"),
    ],
)
async def test_a_reason_is_short_and_has_nothing_of_a_session(error, expected):
    client = AsyncMongoClient("mongodb://a:1,b:2,c:3/", connect=False)
    text = reason(error, client)
    assert text == expected
    assert len(text) <= 200
    assert "secret" not in text
