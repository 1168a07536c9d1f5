"""Sessions in one file, through the standard library's sqlite3, for any number of processes on one machine."""

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from bson import decode, encode
from bson.errors import BSONError

from ..errors import SessionNotSaved, SessionRecordError, SessionStoreError
from ..settings import checked_lifetime
from ..values import CODEC_OPTIONS, UNENCODABLE
from .base import (
    Outcome,
    SaveResult,
    SessionEnd,
    SessionInsert,
    SessionRecord,
    SessionStore,
    SessionUpdate,
    SessionWatch,
    SessionWrite,
)
from .keys import escaped, unescaped

__all__ = ["SQLiteStore"]

APPLICATION_ID = int.from_bytes(b"sesa")  # in the file's header, where `file` and others look for it
SCHEMA_VERSION = 1

SCHEMA = (
    """
    CREATE TABLE sessions (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        owner TEXT,
        created INTEGER NOT NULL,  -- times are milliseconds since 1970
        updated INTEGER NOT NULL,
        expires INTEGER NOT NULL,
        lifetime INTEGER,  -- milliseconds
        owned INTEGER,  -- since when it has its owner
        document BLOB,  -- BSON: {data, escaped}, as in MongoStore; NULL when the session has ended, at `updated`
        reason TEXT  -- why it has ended: destroyed or rotated
    )
    """,
    "CREATE INDEX sessions_expires ON sessions (expires)",
    "CREATE INDEX sessions_owner ON sessions (owner) WHERE owner IS NOT NULL",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)

# What a session may have, so that none is too large to be moved to MongoDB.
MAX_BYTES = 16 * 2**20

# Seconds that opening a file may wait for other processes.
OPENING = 10.0

# Each save also removes as many expired sessions as it has writes, and some more.
PURGED_MORE = 20

# What `records` has in memory at once: so many sessions, or so many bytes.
PAGE_ROWS, PAGE_BYTES = 200, 2**20

# Seconds between two looks at whether another connection has written to the file; each takes some microseconds.
WATCH_INTERVAL = 0.05

# Seconds that a look may take.
WATCH_TIMEOUT = 15.0

# How many times as long as it took to look at the sessions that are followed, there is until the next time.
WATCH_PAUSE = 10

COLUMNS = "number, id, owner, created, updated, expires, lifetime, owned, document, reason"

T = TypeVar("T")


class SQLiteStore(SessionStore):
    """Keeps sessions in one SQLite file, with two more beside it while it is open (``-wal`` and ``-shm``).

    What it has saved survives any end of the process, even ``kill -9``. It also survives a power cut, if the disk keeps
    what it has confirmed: each save is one transaction, and is written through to the disk before it counts (WAL,
    ``synchronous=FULL``).

    Several processes of one machine may use the file at once, but not over a network file system. A save locks the file
    for other writers before it reads what it changes, so overlapping requests are exact across processes. Loads wait
    for nobody. One thread writes and another one reads. A process may fork after it has used the store; the fork opens
    the file for itself.

    A save is one transaction, so it is done or not done. Nobody knows which when the commit itself fails, or lasts
    longer than its caller waits. A transaction whose time is up before the commit is rolled back.

    Expired sessions are removed a few at a time, with each save. Session data are not encrypted, but only its owner can
    read a new file. Stop all processes that use the file before you move, remove or replace it: while it is missing,
    their loads and saves fail, so that nothing is lost.

    :arg path: where the file is. If there is none, it is created; its directory must exist and be writable.
    :raises ValueError: when *path* is a directory, or a file that is not a database of sessions, or one of a later
        version of this package.
    :raises SessionStoreError: when the file cannot be opened for writing or created.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(os.fspath(path))
        if path in ("", ":memory:"):
            raise ValueError(f"SQLiteStore({path!r}): sessions need a file; for some in memory there is MemoryStore")
        _prepare(self.path, OPENING)
        self._writer = _Worker(self.path)
        self._reader = _Worker(self.path)

    async def load(
        self, ids: Sequence[str], *, timeout: float
    ) -> Mapping[str, SessionRecord | SessionEnd | SessionRecordError]:
        return await self._reader.run(timeout, _load, ids)

    async def save(self, writes: Sequence[SessionWrite], *, timeout: float) -> Sequence[SaveResult]:
        return await self._writer.run(timeout, _save, writes)

    async def pop(self, end: SessionEnd, *, timeout: float) -> SessionRecord | SessionEnd | None:
        return await self._writer.run(timeout, _pop, end)

    async def records(
        self, owner: str | None = None, *, timeout: float
    ) -> AsyncIterator[SessionRecord | SessionRecordError]:
        last: int | None = -1
        while last is not None:
            page, last = await self._reader.run(timeout, _page, owner, last)
            for record in page:
                yield record

    def watch(self) -> SessionWatch:
        return _Watch(self._reader)

    async def close(self) -> None:
        await self._reader.close()
        await self._writer.close()


class _Watch(SessionWatch):
    """Looks whether something was written to the file, and only then at the rows that are followed."""

    def __init__(self, reader: "_Worker") -> None:
        self._reader = reader
        self._rows: dict[str, int] = {}  # what tells a row from what it was, by id; 0 for none
        self._version: int | None = None

    async def follow(self, ids: Collection[str]) -> None:
        new = [id for id in ids if id not in self._rows]
        hashes = await self._reader.run(WATCH_TIMEOUT, _hashes, new)
        self._rows = {id: self._rows[id] if id in self._rows else hashes[id] for id in ids}

    async def changed(self) -> Collection[str]:
        while True:
            await asyncio.sleep(WATCH_INTERVAL)
            version = await self._reader.run(WATCH_TIMEOUT, _data_version)
            if version == self._version:
                continue
            self._version = version
            began = time.monotonic()
            followed = list(self._rows)
            hashes = await self._reader.run(WATCH_TIMEOUT, _hashes, followed)
            changed = [id for id in followed if id in self._rows and self._rows[id] != hashes[id]]
            self._rows |= {id: hashes[id] for id in changed}
            if changed:
                return changed
            await asyncio.sleep(WATCH_PAUSE * (time.monotonic() - began))

    async def close(self) -> None:
        pass


class _Worker:
    """A thread that has a connection to itself, opened at first use, and does one job after the other.

    :arg path: of the file.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._inherited: list[object] = []
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="tornado_sesame")
        self._connection: _Connection | None = None

    async def run(self, seconds: float, job: Callable[..., T], *args: Any) -> T:
        """Returns what ``job(connection, *args)`` returns, and raises what it raises.

        :arg seconds: after which the job is not begun, or not committed, any more.
        :raises SessionNotSaved: when nothing was changed, for certain.
        :raises SessionStoreError: when nobody knows.
        """
        if self._pid != os.getpid():
            # This process is a fork, which has no threads of its parent's. An open database must be neither used nor
            # closed over a fork (https://www.sqlite.org/howtocorrupt.html, 2.6), so it is kept.
            self._inherited += (self._executor, self._connection)
            self._begin()
        deadline = time.monotonic() + seconds
        return await asyncio.wrap_future(self._executor.submit(self._do, deadline, job, args))

    async def close(self) -> None:
        """Closes the connection and ends the thread, when it has done what it was given."""
        if self._pid != os.getpid():
            return  # it is the parent's
        with suppress(RuntimeError):  # raised when it was closed before
            await asyncio.wrap_future(self._executor.submit(self._close))
            self._executor.shutdown()

    def _do(self, deadline: float, job: Callable[..., T], args: tuple[Any, ...]) -> T:
        try:
            _check_time(deadline)
            if self._connection is None:
                self._connection = _Connection(self._path, deadline)
            self._connection.check_place()
            self._connection.expect_answers_until(deadline)
            return job(self._connection, *args)
        except _CommitFailed as error:
            raise SessionStoreError(f"{self._path}: {error.__cause__}") from error.__cause__
        except (sqlite3.Error, TimeoutError) as error:
            raise SessionNotSaved(f"{self._path}: {error}") from error
        except SessionStoreError as error:
            raise SessionNotSaved(error.log_message or "") from error

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _CommitFailed(Exception):
    """The commit has failed, and what it was to make lasting may be so all the same."""


class _Connection:
    """An open file, to be used in one thread only.

    :arg path: of a file that exists.
    :arg deadline: until when to wait for other processes; see `expect_answers_until`.
    """

    def __init__(self, path: str, deadline: float) -> None:
        self.path = path
        # mode=rw, as else a file that has been removed would be made anew, and empty.
        self._connection = sqlite3.connect(f"{Path(path).as_uri()}?mode=rw", uri=True, isolation_level=None)
        # Text that is no UTF-8 must not make SQLite refuse all rows that are read with it; see `_Row.stored`.
        self._connection.text_factory = lambda text: text.decode(errors="surrogateescape")
        self.execute = self._connection.execute
        self.executemany = self._connection.executemany
        self.close = self._connection.close
        try:
            self._file = os.stat(path)
            self.expect_answers_until(deadline)
            with self.reading():  # as another process may be making the tables
                self._is_ours()
            self.execute("PRAGMA synchronous = FULL")
            self.execute("PRAGMA fullfsync = ON")  # macOS: through the disk's own cache
        except BaseException:
            self.close()
            raise

    def expect_answers_until(self, deadline: float) -> None:
        """Makes what is executed from now on fail when it waits for another process after *deadline*."""
        self._deadline = deadline
        milliseconds = max(0, round((deadline - time.monotonic()) * 1000))
        self.execute(f"PRAGMA busy_timeout = {milliseconds}")

    def check_place(self) -> None:
        """Makes sure that what is saved can be found again: SQLite itself would go on with a file that was removed.

        :raises SessionStoreError: when the file is not the one at its path any more.
        """
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(self.path), self._file):
                return
        raise SessionStoreError(
            f"{self.path} has been moved, removed or replaced: put it back, or stop the server and remove what is left "
            f"of it, {self.path}-wal"
        )

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Gives a context that sees the file as it is at one moment."""
        self.execute("BEGIN")
        try:
            yield
        finally:
            if self._connection.in_transaction:  # which some errors end by themselves
                self.execute("COMMIT")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Gives a context in which nobody else writes. What is done in it is done when it ends, or not at all."""
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            _check_time(self._deadline)
            try:
                self.execute("COMMIT")
            except sqlite3.Error as error:
                raise _CommitFailed from error
        except BaseException:
            if self._connection.in_transaction:
                self.execute("ROLLBACK")
            raise

    def create_tables(self) -> None:
        """Prepares a file that has nothing in it; several processes may do so at once."""
        while True:
            try:
                (mode,) = self.execute("PRAGMA journal_mode = WAL").fetchone()
                break
            except sqlite3.OperationalError as error:  # the one that does not wait for other processes
                if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() >= self._deadline:
                    raise
                time.sleep(0.01)
        if mode != "wal":
            raise SessionStoreError(f"{self.path}: SQLite cannot keep a write-ahead log (WAL) on this file system")
        with self.writing():
            if self._is_ours():
                # Fails when the file can only be read, which `writing` does not.
                self.execute("DELETE FROM sessions WHERE FALSE")
            else:
                for statement in SCHEMA:
                    self.execute(statement)

    def _is_ours(self) -> bool:
        """Tells whether the file has our tables; False when it is empty.

        :raises ValueError: when it is anything else.
        """
        (application,) = self.execute("PRAGMA application_id").fetchone()
        (version,) = self.execute("PRAGMA user_version").fetchone()
        if application == APPLICATION_ID and version <= SCHEMA_VERSION:
            return True
        if application == APPLICATION_ID:
            raise ValueError(
                f"{self.path} has been written by a newer tornado-sesame (schema version {version}; this one knows "
                f"{SCHEMA_VERSION}): upgrade tornado-sesame, or give it another file"
            )
        if application or version or self.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise ValueError(f"{self.path} is the database of another application: give sessions a file of their own")
        return False


def _prepare(path: str, timeout: float) -> None:
    """Makes sure that there is a file, that it can be written to, and that it has our tables."""
    if os.path.isdir(path):
        raise ValueError(f"{path} is a directory: name a file in it, such as {os.path.join(path, 'sessions.db')}")
    try:
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except OSError as error:
        raise SessionStoreError(f"cannot create {path}: {error.strerror}") from error
    try:
        with closing(_Connection(path, time.monotonic() + timeout)) as connection:
            connection.create_tables()
    except sqlite3.Error as error:
        name = error.sqlite_errorname
        if name == "SQLITE_NOTADB":
            raise ValueError(f"{path} is not an SQLite database: give sessions a file of their own") from error
        remedy = ""
        if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
            remedy = "; the server must be allowed to write to the file and, for two more beside it, to its directory"
        raise SessionStoreError(f"cannot open {path}: {error}{remedy}") from error


def _check_time(deadline: float) -> None:
    if time.monotonic() >= deadline:
        raise TimeoutError("the file was locked or the disk busy for too long")


# The jobs


def _load(connection: _Connection, ids: Sequence[str]) -> dict[str, SessionRecord | SessionEnd | SessionRecordError]:
    with connection.reading():
        rows = [_row(connection, id) for id in ids]
    return {row.id: row.stored() for row in rows if row}


def _data_version(connection: _Connection) -> int:
    """Returns a number that is another one when another connection has written to the file since it was asked for."""
    (version,) = connection.execute("PRAGMA data_version").fetchone()
    return int(version)


def _hashes(connection: _Connection, ids: Sequence[str]) -> dict[str, int]:
    query = "SELECT owner, lifetime, document, reason FROM sessions WHERE id = ?"
    with connection.reading():
        return {id: hash(connection.execute(query, (id,)).fetchone()) for id in ids}


def _save(connection: _Connection, writes: Sequence[SessionWrite]) -> list[SaveResult]:
    with connection.writing():
        results = [_save_one(connection, write) for write in writes]
        _purge(connection, min(map(_moment, writes)), len(writes) + PURGED_MORE)
    return results


def _pop(connection: _Connection, end: SessionEnd) -> SessionRecord | SessionEnd | None:
    with connection.writing():
        row = _row(connection, end.id)
        stored = row and row.stored()
        if isinstance(stored, SessionRecordError):
            raise stored
        _keep(connection, row, end.apply(stored))
    return stored


def _page(
    connection: _Connection, owner: str | None, after: int
) -> tuple[list[SessionRecord | SessionRecordError], int | None]:
    """Returns some sessions, and the number of the last; None when there are no more."""
    condition, values = ("", ()) if owner is None else ("AND owner = ?", (owner,))
    query = (
        f"SELECT {COLUMNS} FROM sessions WHERE number > ? {condition} AND document IS NOT NULL "  # noqa: S608
        "ORDER BY number LIMIT ?"
    )
    page: list[SessionRecord | SessionRecordError] = []
    size = 0
    with closing(connection.execute(query, (after, *values, PAGE_ROWS))) as rows:
        for row in map(_Row._make, rows):
            stored = row.stored()
            if not isinstance(stored, SessionEnd):
                page.append(stored)
            size += len(row.document) if isinstance(row.document, bytes) else 0
            if len(page) == PAGE_ROWS or size >= PAGE_BYTES:
                return page, row.number
    return page, None


def _save_one(connection: _Connection, write: SessionWrite) -> SaveResult:
    try:
        row = _row(connection, write.id)
        stored = row and row.stored()
        if isinstance(stored, SessionRecordError):
            if not isinstance(write, SessionEnd):
                raise stored
            stored = None
        result = write.apply(stored or None)
        if isinstance(result, SessionRecord | SessionEnd):
            _keep(connection, row, result)
            return Outcome.SAVED
        return result
    except UNENCODABLE as error:
        # Its text may quote what is in the session.
        refusal = SessionNotSaved(f"BSON cannot encode it: {type(error).__name__}")
        refusal.__cause__ = error
        return refusal
    except SessionStoreError as error:
        return SessionNotSaved(error.log_message or "")


def _keep(connection: _Connection, row: "_Row | None", stored: SessionRecord | SessionEnd) -> None:
    """Makes *stored* what is stored, where *row* (None: nothing) was."""
    values = _columns(stored)
    if row is None:
        connection.execute(
            f"INSERT INTO sessions ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})",  # noqa: S608
            tuple(values.values()),
        )
        return
    # Nothing but what is different, as SQLite would touch the indexes of the others, too.
    changed = {name: value for name, value in values.items() if value != getattr(row, name)}
    if changed:
        assignments = ", ".join(f"{name} = ?" for name in changed)
        connection.execute(
            f"UPDATE sessions SET {assignments} WHERE number = ?",  # noqa: S608 - of our own names
            (*changed.values(), row.number),
        )


def _moment(write: SessionWrite) -> datetime:
    """Returns when *write* was made."""
    match write:
        case SessionInsert(record):
            return record.updated
        case SessionUpdate():
            return write.updated
        case SessionEnd():
            return write.ended


def _purge(connection: _Connection, moment: datetime, number: int) -> None:
    connection.execute(
        "DELETE FROM sessions WHERE number IN"
        " (SELECT number FROM sessions WHERE expires <= ? ORDER BY expires LIMIT ?)",
        (_milliseconds(moment), number),
    )


# Rows and what is in them


class _Row(NamedTuple):
    number: int
    id: str
    owner: str | None
    created: int
    updated: int
    expires: int
    lifetime: int | None
    owned: int | None
    document: bytes | None
    reason: str | None

    def stored(self) -> SessionRecord | SessionEnd | SessionRecordError:
        try:
            created, updated, expires = map(_datetime, (self.created, self.updated, self.expires))
            if self.owner is not None:
                self.owner.encode()  # fails when it is no UTF-8
            if self.document is None:
                return SessionEnd(self.id, updated, expires, "rotated" if self.reason == "rotated" else "destroyed")
            lifetime = None if self.lifetime is None else checked_lifetime(self.lifetime * MILLISECOND)
            owned = None if self.owned is None else _datetime(self.owned)
            times = created, updated, expires
            return SessionRecord(self.id, _data(self.document), *times, self.owner, lifetime, owned)
        except (BSONError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            return SessionRecordError(self.id, f"its row is damaged ({type(error).__name__})")


def _row(connection: _Connection, id: str) -> _Row | None:
    found = connection.execute(f"SELECT {COLUMNS} FROM sessions WHERE id = ?", (id,)).fetchone()  # noqa: S608 - ours
    return found and _Row._make(found)


def _columns(stored: SessionRecord | SessionEnd) -> dict[str, Any]:
    if isinstance(stored, SessionEnd):
        times = (stored.ended, stored.ended, stored.expires)
        owner, lifetime, owned, document, reason = None, None, None, None, stored.reason
    else:
        times = (stored.created, stored.updated, stored.expires)
        owner, lifetime, owned = stored.owner, stored.lifetime, stored.owned
        document, reason = _document(stored.data), None
    created, updated, expires = map(_milliseconds, times)
    return {
        "id": stored.id,
        "owner": owner,
        "created": created,
        "updated": updated,
        "expires": expires,
        "lifetime": None if lifetime is None else lifetime // MILLISECOND,
        "owned": None if owned is None else _milliseconds(owned),
        "document": document,
        "reason": reason,
    }


def _document(data: dict[str, Any]) -> bytes:
    # BSON itself refuses no key but those with a NUL, but it would read {"$ref": ..., "$id": ...} as a DBRef.
    kept = escaped(data)
    encoded = encode({"data": kept, **({} if kept is data else {"escaped": True})}, codec_options=CODEC_OPTIONS)
    if len(encoded) > MAX_BYTES:
        raise SessionNotSaved(f"it has {len(encoded)} bytes, and a session may have {MAX_BYTES}, as in MongoDB")
    return encoded


def _data(encoded: bytes) -> dict[str, Any]:
    document = decode(encoded, CODEC_OPTIONS)
    data: dict[str, Any] = document["data"]
    if type(data) is not dict:
        raise TypeError("data is not a document")
    return unescaped(data) if document.get("escaped") else data


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


def _milliseconds(moment: datetime) -> int:
    return (moment - EPOCH) // MILLISECOND


def _datetime(milliseconds: int) -> datetime:
    return EPOCH + milliseconds * MILLISECOND
