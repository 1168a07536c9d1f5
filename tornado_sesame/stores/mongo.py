"""Sessions in a MongoDB collection, through Motor or PyMongo's async API.

**How it is known which update did not match.** MongoDB tells of a bulk of updates how many matched, but not which. So
each update is an upsert that cannot insert. Where no document matches, MongoDB would insert one with the filter's
``_id``, but ``$setOnInsert`` wants another ``_id``, and that field is immutable; so the insertion fails, and error 66
names the index of the update in the bulk. That an ``_id`` cannot have two values does not depend on data, other writes
or timing. On a cluster that is sharded on ``_id``, each update goes to the one shard that its filter names, this shard
decides alone, and ``mongos`` brings the index of the error back into the order of the bulk.

**What is certain when a command fails.** The driver repeats what a failover interrupts (retryable writes), within its
deadline, and raises a `ServerSelectionTimeoutError` only where nothing was sent: after an attempt that may have been
done, its retry loop raises that attempt's error instead. An error with the index of a write is that write's, and
nothing of it was done. With everything else nobody knows what was done, or will be when a server wakes up that hung.
"""

import asyncio
import logging
import os
import re
import textwrap
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pymongo
from bson import decode, encode
from bson.binary import UuidRepresentation
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from motor.core import AgnosticCollection
from pymongo import ASCENDING, IndexModel, InsertOne, ReadPreference, ReplaceOne, UpdateOne
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.collection import Collection
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    DocumentTooLarge,
    DuplicateKeyError,
    InvalidOperation,
    OperationFailure,
    ProtocolError,
    PyMongoError,
    ServerSelectionTimeoutError,
    WriteError,
)

from ..changes import Create, Inc, Push, Set, Unset
from ..errors import SessionNotSaved, SessionRecordError, SessionStoreError
from ..settings import checked_lifetime
from ..values import CODEC_OPTIONS, UNENCODABLE, Path
from .base import (
    Conflict,
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
from .keys import escaped, escaped_key, unescaped
from .mongo_watch import MongoWatch

__all__ = ["MongoStore"]

logger = logging.getLogger("tornado_sesame")

# Error codes of MongoDB, https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml
UNAUTHORIZED = 13
AUTHENTICATION_FAILED = 18
IMMUTABLE_FIELD = 66
INDEX_OPTIONS_CONFLICT = 85
COMMAND_NOT_SUPPORTED_ON_VIEW = 166
TOO_LARGE = 10334
DUPLICATE_KEY = 11000

# What MongoDB answers when a path leads through something that is not a document, or $inc or $push meets a value that
# is no number or no array: BadValue, TypeMismatch, PathNotViable.
PATH_ERRORS = frozenset({2, 14, 28})

# With these, MongoDB refuses a whole command before it does anything.
REFUSALS = frozenset({UNAUTHORIZED, AUTHENTICATION_FAILED, COMMAND_NOT_SUPPORTED_ON_VIEW})

# What MongoDB says with these is about itself, its cluster, its user or its collections, and never quotes a document:
# HostUnreachable, HostNotFound, CursorNotFound, MaxTimeMSExpired, CommandNotFound, WriteConcernFailed,
# InvalidNamespace, UnknownReplWriteConcern, NetworkTimeout, ShutdownInProgress, UnsatisfiableWriteConcern,
# FailedToSatisfyReadPreference, PrimarySteppedDown, ExceededTimeLimit, MechanismUnavailable, AtlasError,
# SocketException, InterruptedAtShutdown, InterruptedDueToReplStateChange, DatabaseDifferCase, OutOfDiskSpace.
TELLING = REFUSALS | {
    *(6, 7, 43, 50, 59, 64, 73, 79, 89, 91, 100, 133, 189, 262, 334),
    *(8000, 9001, 11600, 11602, 13297, 14031),
}

# How long a reason may be, in characters.
REASON_LENGTH = 200

# What MongoDB's profiler, its logs and ``currentOp`` say of a command: who asks, and what for.
COMMENT = "tornado-sesame"

# What is wrong when a client is used in an event loop that is not its own, as by tests that have a loop each.
WRONG_LOOP = (
    "a MongoDB client works in the event loop only in which it was used first: make the client, the store, the manager "
    "and the application anew for each loop, in tests in `get_app()` or a fixture"
)

# How often a write whose surroundings change all the time is looked into before that is a conflict.
MAX_ATTEMPTS = 5

# What is in one command for certain, in bytes; the driver divides what has more than MongoDB's 48,000,000.
ONE_COMMAND = 40_000_000

# How many documents `records` asks MongoDB for at once, as up to 16 MB would stop the event loop for a second, and how
# many of them it has in memory beside.
BATCH, PAGE = 100, 20

INDEXES = (
    IndexModel([("expires", ASCENDING)], expireAfterSeconds=0),
    IndexModel([("owner", ASCENDING)], partialFilterExpression={"owner": {"$exists": True}}),
)

# With these, the _id of any document can be read, as nothing else in it is decoded with rules that it may break.
RAW_OPTIONS = CODEC_OPTIONS.with_options(
    document_class=RawBSONDocument,
    unicode_decode_error_handler="replace",
    uuid_representation=UuidRepresentation.UNSPECIFIED,
)

# Of any type to mypy, as Motor and PyMongo describe the same methods differently.
_ASYNCHRONOUS: tuple[type[Any], ...] = (AgnosticCollection, AsyncCollection)

# PyMongo raises these before it sends a command in which something cannot be encoded or is too large.
_UNSENDABLE = (*UNENCODABLE, DocumentTooLarge)

# PyMongo raises these when a server is at fault.
_BLAMING = (ConnectionFailure, OperationFailure, ProtocolError)

# PyMongo raises these when it decodes a document that breaks the rules of BSON or of Python's types.
_UNREADABLE = (BSONError, ValueError, TypeError, OverflowError)


class MongoStore(SessionStore):
    """Keeps each session as one document, readable and queryable as it is::

        {_id: "<sha-256, hex>", data: {...}, owner: "alice", owned: Date,
         created: Date, updated: Date, expires: Date}

    ``owned`` says since when the session has its owner. With an idle timeout of its own, it has a ``lifetime``, in
    seconds.

    Sessions are read from the primary, whatever the collection says, because a request must see what the one before it
    saved. Writes use the collection's write concern; MongoDB's default, "majority", survives the loss of a server. On a
    replica set the driver repeats failed commands by itself (retryable writes), so a change of the primary goes
    unnoticed. A standalone server has neither this nor a second copy, so what it acknowledged may be lost with its
    machine.

    For a minute after a session has ended, ``{_id, data: null, ended: Date, expires: Date}`` is in its place, with
    ``rotated: true`` if the session goes on under another id.

    Keys that MongoDB cannot address (empty ones, and those with a ``.``, a ``$`` at the start or a NUL) are stored
    percent-encoded, and ``escaped: true`` in the document says so.

    Each command has a comment, such as "tornado-sesame load", from which MongoDB's logs and profiler tell who asks. So
    MongoDB has to be 4.4 or newer.

    :arg collection: a Motor collection (for Tornado or asyncio) or a PyMongo `AsyncCollection`.
    :arg create_indexes: creates two indexes in the background at first use: the TTL index on ``expires``, by which
        MongoDB removes expired sessions, and an index on ``owner``. A failure is a warning in the log.
    :raises TypeError: when *collection* is something else, for instance one of a synchronous `pymongo.MongoClient`.
    :raises ValueError: when its write concern is ``w=0``, with which MongoDB does not tell whether it saved anything.
    """

    def __init__(self, collection: Any, *, create_indexes: bool = True) -> None:
        if isinstance(collection, Collection):
            raise TypeError(
                "MongoStore needs an asynchronous collection, and this one would block the server: "
                "use AsyncMongoClient from pymongo, or MotorClient from motor.motor_tornado, in place of MongoClient"
            )
        if not isinstance(collection, _ASYNCHRONOUS):
            raise TypeError(
                "MongoStore needs a collection of Motor or of PyMongo's AsyncMongoClient, "
                f"such as client.mydatabase.sessions, not {type(collection).__name__}"
            )
        if not collection.write_concern.acknowledged:
            raise ValueError(
                "the write concern of this collection is w=0, with which MongoDB does not say whether a session was "
                "saved: use collection.with_options(write_concern=WriteConcern('majority'))"
            )
        self._collection = collection.with_options(codec_options=CODEC_OPTIONS, read_preference=ReadPreference.PRIMARY)
        self._raw_collection = self._collection.with_options(codec_options=RAW_OPTIONS)
        self._needs_indexes = create_indexes
        self._indexing: asyncio.Task[None] | None = None

    async def load(
        self, ids: Sequence[str], *, timeout: float
    ) -> Mapping[str, SessionRecord | SessionEnd | SessionRecordError]:
        self._index_in_background()
        with self._explained(SessionStoreError), pymongo.timeout(timeout):
            try:
                documents = await self._find(self._collection, ids)
            except (BSONError, ValueError):  # in one of them, which the driver does not name
                raw = await self._find(self._raw_collection, ids)
                return {stored.id: stored for stored in map(_stored_raw, raw)}
        return {document["_id"]: _stored(document) for document in documents}

    async def save(self, writes: Sequence[SessionWrite], *, timeout: float) -> Sequence[SaveResult]:
        self._index_in_background()
        with pymongo.timeout(timeout):
            return await self._save(writes, MAX_ATTEMPTS)

    async def pop(self, end: SessionEnd, *, timeout: float) -> SessionRecord | SessionEnd | None:
        stored: SessionRecord | SessionEnd | SessionRecordError | None = None
        with self._explained(SessionNotSaved), pymongo.timeout(timeout):
            for _ in range(MAX_ATTEMPTS):
                replacing = self._raw_collection.find_one_and_replace(
                    _not_ended(end.id), _end_document(end), upsert=True, comment=f"{COMMENT} rotate"
                )
                try:
                    document = await replacing
                except DuplicateKeyError:  # it has ended, or somebody has stored one just now
                    stored = await self._look(end.id)
                    if isinstance(stored, SessionEnd):
                        break
                else:
                    stored = None if document is None else _stored_raw(document)
                    break
            else:
                raise SessionNotSaved("other requests end and begin it all the time")
        if isinstance(stored, SessionRecordError):
            raise stored
        return stored

    async def records(
        self, owner: str | None = None, *, timeout: float
    ) -> AsyncIterator[SessionRecord | SessionRecordError]:
        wanted = {"ended": None} if owner is None else {"owner": owner}
        cursor = self._raw_collection.find(wanted, batch_size=BATCH, comment=f"{COMMENT} list")
        while True:
            with self._explained(SessionStoreError), pymongo.timeout(timeout):
                documents = await cursor.to_list(PAGE)
            if not documents:
                return
            for document in documents:
                stored = _stored_raw(document)
                if not isinstance(stored, SessionEnd):
                    yield stored

    def watch(self) -> SessionWatch:
        return MongoWatch(self._collection, self._failure)

    async def close(self) -> None:
        if self._indexing is not None:
            self._indexing.cancel()

    async def _find(self, collection: Any, ids: Sequence[str]) -> list[Any]:
        if len(ids) == 1:
            document = await collection.find_one({"_id": ids[0]}, comment=f"{COMMENT} load")
            return [] if document is None else [document]
        # A batch that is not full tells the driver that there is no more to ask for.
        wanted = {"_id": {"$in": list(ids)}}
        cursor = collection.find(wanted, batch_size=len(ids) + 1, comment=f"{COMMENT} load")
        found: list[Any] = await cursor.to_list(None)
        return found

    async def _save(self, writes: Sequence[SessionWrite], attempts: int) -> Sequence[SaveResult]:
        """Saves *writes* in one command for the inserts and one for all others, which go out at the same time.

        :arg attempts: how often those that do not match may be tried anew.
        """
        inserts = [index for index, write in enumerate(writes) if isinstance(write, SessionInsert)]
        if not inserts or len(inserts) == len(writes):
            return await self._save_alike(writes, attempts)
        results: list[SaveResult] = [Outcome.SAVED] * len(writes)

        async def save_some(indexes: Iterable[int]) -> None:
            some = list(indexes)
            try:
                saved = await self._save_alike([writes[index] for index in some], attempts)
            except Exception as error:
                saved = [error] * len(some)
            for index, result in zip(some, saved, strict=True):
                results[index] = result

        await asyncio.gather(save_some(inserts), save_some(set(range(len(writes))) - set(inserts)))
        return results

    async def _save_alike(self, writes: Sequence[SessionWrite], attempts: int) -> Sequence[SaveResult]:
        with self._explained(SessionNotSaved):
            try:
                requests = list(map(_request, writes))
                await self._collection.bulk_write(requests, ordered=False, comment=f"{COMMENT} save")
            except BulkWriteError as error:
                details = error.details or {}
                if details["writeConcernErrors"]:
                    raise
                results: list[SaveResult] = [Outcome.SAVED] * len(writes)
                errors = details["writeErrors"]
                explained = (self._explain(writes[failed["index"]], failed, attempts) for failed in errors)
                for failed, result in zip(errors, await asyncio.gather(*explained), strict=True):
                    results[failed["index"]] = result
                return results
            except (*_UNSENDABLE, OperationFailure) as error:
                if isinstance(error, OperationFailure) and error.code != TOO_LARGE:
                    raise
                return await self._save_sendable(writes, error, attempts)
        return [Outcome.SAVED] * len(writes)

    async def _save_sendable(
        self, writes: Sequence[SessionWrite], error: Exception, attempts: int
    ) -> Sequence[SaveResult]:
        """Saves those that can be sent, after one of them has spoiled the command for all with *error*."""
        if len(writes) == 1:
            return [self._failure(SessionNotSaved, error)]
        sizes = list(map(_size, writes))
        if sum(sizes) > ONE_COMMAND and not isinstance(writes[0], SessionInsert):
            raise self._failure(SessionStoreError, error) from error  # there were several, and some may have been done
        half = len(writes) // 2
        results: list[SaveResult] = []
        for part in (writes[:half], writes[half:]):
            try:
                results += await self._save_alike(part, attempts)
            except Exception as failure:
                results += [failure] * len(part)
        return results

    async def _explain(self, write: SessionWrite, failed: Mapping[str, Any], attempts: int) -> SaveResult:
        """Returns what became of a write of a bulk that MongoDB did not do, and does it if it can be done otherwise.

        :arg failed: what MongoDB says about it.
        """
        code = failed["code"]
        is_unmatched = code == IMMUTABLE_FIELD or code in PATH_ERRORS
        is_there = code == DUPLICATE_KEY and failed.get("keyPattern", {"_id": 1}) == {"_id": 1}
        try:
            if isinstance(write, SessionUpdate) and is_unmatched:
                return await self._resolve_unmatched(write, code, attempts)
            if isinstance(write, SessionInsert) and is_there:
                stored = await self._look(write.id)
                return Outcome.SAVED if isinstance(stored, SessionRecord) else Outcome.GONE
            if isinstance(write, SessionEnd) and is_there:
                if attempts and not isinstance(await self._look(write.id), SessionEnd):  # stored just now
                    (result,) = await self._save_alike([write], attempts - 1)
                    return result
                return Outcome.SAVED  # it has ended, and keeps its first end
        except Exception as error:
            return error
        return self._failure(SessionNotSaved, WriteError(failed["errmsg"], code, dict(failed)))

    async def _resolve_unmatched(self, write: SessionUpdate, code: int, attempts: int) -> SaveResult:
        """Finds out why *write* was not done, and does it if what was in the way is not there any more."""
        if code == IMMUTABLE_FIELD and _filter(write).keys() == {"_id"}:
            return Outcome.GONE
        stored = await self._look(write.id)
        changes = write.changes
        if isinstance(stored, SessionRecord):
            changes = changes.without_removals_from(stored.data)
            if not write.knows_lifetime_of(stored):
                write = replace(write, expires=None)
        result = write.apply(stored)
        if not isinstance(result, SessionRecord):
            return result
        if not attempts:  # whole fields fit on anything
            return Conflict(frozenset(path[0] for path in changes.ops if path))
        (again,) = await self._save_alike([replace(write, changes=changes)], attempts - 1)
        return again

    async def _look(self, id: str) -> SessionRecord | SessionEnd | None:
        """Returns what is stored, for a write that was not done.

        :raises SessionNotSaved: when that cannot be told.
        """
        try:
            document = await self._raw_collection.find_one({"_id": id}, comment=f"{COMMENT} save")
        except Exception as error:
            raise self._failure(SessionNotSaved, error) from error
        stored = None if document is None else _stored_raw(document)
        if isinstance(stored, SessionRecordError):
            raise SessionNotSaved(stored.log_message or "")
        return stored

    @contextmanager
    def _explained(self, undone: type[SessionStoreError]) -> Iterator[None]:
        """Gives a context in which an error of the driver's becomes a `SessionStoreError` that says why.

        :arg undone: what it becomes when nothing was done, for certain.
        """
        try:
            yield
        except PyMongoError as error:
            is_undone = isinstance(error, ServerSelectionTimeoutError) or (
                isinstance(error, OperationFailure) and error.code in REFUSALS
            )
            raise self._failure(undone if is_undone else SessionStoreError, error) from error
        except RuntimeError as error:  # of asyncio or the driver; nobody knows whether one of Motor's threads went on
            if "loop" not in str(error):
                raise
            raise SessionStoreError(f"{WRONG_LOOP} ({error})", status_code=500) from error

    def _failure(self, kind: type[SessionStoreError], error: Exception) -> SessionStoreError:
        """Returns *error* as one of this kind, with the reason as its text."""
        failure = kind(reason(error, self._collection.database.client))
        failure.__cause__ = error
        return failure

    def _index_in_background(self) -> None:
        if self._needs_indexes:
            self._needs_indexes = False
            self._indexing = asyncio.create_task(self._create_indexes())

    async def _create_indexes(self) -> None:
        try:
            for index in INDEXES:
                await self._create_index(index)
        except OperationFailure as error:  # the user may not, or there is another index: that will not change
            problem = _shortened(_plain(str(error)))
            logger.warning("could not create the indexes of %s: %s", self._collection.full_name, problem)
        except PyMongoError:
            self._needs_indexes = True  # MongoDB is down, which whoever uses it now will say

    async def _create_index(self, index: IndexModel) -> None:
        try:
            await self._collection.create_indexes([index], comment=f"{COMMENT} index")
        except OperationFailure as error:
            seconds = index.document.get("expireAfterSeconds")
            if error.code != INDEX_OPTIONS_CONFLICT or seconds is None:
                raise
            changed = {"keyPattern": index.document["key"], "expireAfterSeconds": seconds}
            await self._collection.database.command(
                "collMod", self._collection.name, index=changed, comment=f"{COMMENT} index"
            )


# Reasons

# What the driver puts before the address of a server with which it cannot agree on TLS.
_TLS = "SSL handshake failed: "

# What the driver adds to its texts: timeouts, the whole answer, and an address that asyncio gives a second time.
_DETAILS = re.compile(
    r" \(configured timeouts: [^)]*\)|, full error: \{.*?\}(?=,\S|$)|(?<=Connect call failed) \([^)]*\)"
)

# Patterns, and what is written in place of what they match.
_IN_PLAIN_WORDS: tuple[tuple[re.Pattern[str], Any], ...] = (
    (_DETAILS, ""),
    (re.compile(r", full error: .*"), ""),
    # asyncio has words of its own for each error number.
    (re.compile(r".*\[Errno (\d+)\] Connect call failed.*"), lambda found: os.strerror(int(found[1]))),
    (re.compile(r"\[(Errno|WinError|SSL)[^]]*\] ?|_ssl\.c:\d+: | \(_ssl\.c:\d+\)"), ""),
    (re.compile(r"[Cc]onnection is (already )?closed|EOF occurred in violation of protocol"), "connection closed"),
    (re.compile(r"^(The \w+ operation )?timed out$|No .* found yet"), "did not answer in time"),
    (re.compile(r"Time.* connection from .*pool.*"), "no connection became free in time"),
    (re.compile(r'No replica set members match selector "Primary.*|No primary available.*'), "there is no primary"),
    (re.compile(r"No .* available for replica set name (.*)"), r"no server is in a replica set named \1"),
    # Of a web server, for instance.
    (re.compile(r"Got response id .*|Message length .*"), "does not answer as a MongoDB does"),
    (re.compile(r'not authorized on (\S+) to execute command \{ (\w+): "([^"]*)".*'), r"not authorized to \2 on \1.\3"),
    (re.compile(r"\s*\{.*"), ""),
)


def reason(error: Exception, client: Any) -> str:
    """Returns why *client* failed with *error*, in one short line: which servers, and what is wrong with them.

    Nothing that is in a session is in it: what may quote a document is given by its class and code alone.
    """
    told = _told(error)
    if told is None:
        return _class_and_code(error)
    addresses = client.topology_description.server_descriptions()
    servers = [host if port is None else f"{host}:{port}" for host, port in addresses]
    wrong: dict[str, list[str]] = {}
    for text in told:
        is_tls, text = text.startswith(_TLS), text.removeprefix(_TLS)
        named = [server for server in servers if text.startswith(f"{server}: ")]
        what = _plain(text.removeprefix(f"{named[0]}: ") if named else text)
        if is_tls:
            what = f"TLS handshake failed: {what or 'connection closed'}"
        wrong.setdefault(what, []).extend(named or (servers if isinstance(error, _BLAMING) else []))
    return _shortened(
        "; ".join(f"{_listed(sorted(where))}: {what}" if where else what for what, where in wrong.items())
    )


def _told(error: Exception) -> list[str] | None:
    """Returns what the driver or MongoDB says, of each server apart if of many; None when it may quote a document."""
    if isinstance(error, BulkWriteError):
        concerns = error.details.get("writeConcernErrors", [])
        return [failed["errmsg"] for failed in concerns if failed.get("code") in TELLING][:1] or None
    if isinstance(error, OperationFailure):
        return [str(error)] if error.code in TELLING and not isinstance(error, WriteError) else None
    if isinstance(error, ServerSelectionTimeoutError):
        return re.split(r",(?=\S)", _DETAILS.sub("", str(error).partition(", Timeout: ")[0]))
    return [str(error)] if isinstance(error, (*_BLAMING, ConfigurationError, InvalidOperation)) else None


def _class_and_code(error: Exception) -> str:
    if not isinstance(error, OperationFailure):
        return type(error).__name__
    name = (error.details or {}).get("codeName")
    return f"{type(error).__name__} with error code {error.code}" + (f" ({name})" if name else "")


def _plain(text: str) -> str:
    """Returns what the driver or MongoDB says, without what is of no use in a log."""
    text = " ".join(text.split())
    for pattern, words in _IN_PLAIN_WORDS:
        text = pattern.sub(words, text)
    text = text.rstrip(".")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _shortened(text: str) -> str:
    return textwrap.shorten(text, REASON_LENGTH, placeholder=" ...")


def _listed(servers: Sequence[str]) -> str:
    return ", ".join(servers) if len(servers) <= 2 else f"{servers[0]} and {len(servers) - 1} others"


# Documents


def _stored(document: dict[str, Any]) -> SessionRecord | SessionEnd | SessionRecordError:
    id = document["_id"]
    try:
        if "ended" in document:
            reason: Any = "rotated" if document.get("rotated") else "destroyed"
            return SessionEnd(id, _time(document["ended"]), _time(document["expires"]), reason)
        created, updated, expires = _time(document["created"]), _time(document["updated"]), _time(document["expires"])
        owner = document.get("owner")
        if type(id) is not str or not (owner is None or type(owner) is str):
            raise TypeError("the _id or the owner is no str")
        seconds, owned = document.get("lifetime"), document.get("owned")
        lifetime = None if seconds is None else _lifetime(seconds)
        owned = None if owned is None else _time(owned)
        return SessionRecord(id, _data(document), created, updated, expires, owner, lifetime, owned)
    except KeyError as error:
        return SessionRecordError(id, f"it has no field {error}")
    except (AttributeError, TypeError, ValueError, OverflowError):
        return SessionRecordError(id, "a field is not of its type")


def _stored_raw(document: RawBSONDocument) -> SessionRecord | SessionEnd | SessionRecordError:
    try:
        return _stored(decode(document.raw, CODEC_OPTIONS))
    except _UNREADABLE as error:  # its text may quote what is in the session
        return SessionRecordError(document["_id"], f"it cannot be decoded ({type(error).__name__})")


def _time(value: Any) -> datetime:
    if type(value) is not datetime:  # for instance a `DatetimeMS`, beyond the years of Python
        raise TypeError("a time is no datetime")
    return value


def _lifetime(seconds: Any) -> timedelta | None:
    if isinstance(seconds, bool):
        raise TypeError("lifetime is no number")
    return checked_lifetime(timedelta(seconds=seconds))


def _data(document: dict[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = document["data"]
    if type(data) is not dict:
        raise TypeError("data is not a document")
    return unescaped(data) if document.get("escaped") else data


def _document(record: SessionRecord) -> dict[str, Any]:
    kept = escaped(record.data)
    document = {"_id": record.id, "data": kept}
    if record.owner is not None:
        document["owner"] = record.owner
    if record.owned is not None:
        document["owned"] = record.owned
    document |= {"created": record.created, "updated": record.updated, "expires": record.expires}
    if record.lifetime is not None:
        document["lifetime"] = record.lifetime.total_seconds()
    if kept is not record.data:
        document["escaped"] = True
    return document


def _not_ended(id: str) -> dict[str, Any]:
    """Returns a filter for what is stored under *id* unless that is an end."""
    return {"_id": id, "$nor": [{"data": None, "ended": {"$type": "date"}}]}


def _end_document(end: SessionEnd) -> dict[str, Any]:
    # Below a `data` that is null, MongoDB sets, adds and appends nothing: an update by the _id alone fails here.
    rotated = {"rotated": True} if end.reason == "rotated" else {}
    return {"data": None, "ended": end.ended, **rotated, "expires": end.expires}


# Requests


def _request(write: SessionWrite) -> InsertOne[Any] | UpdateOne | ReplaceOne[Any]:
    if isinstance(write, SessionUpdate):
        return UpdateOne(_filter(write), _update(write), upsert=True)
    if isinstance(write, SessionInsert):
        return InsertOne(_document(write.record))
    return ReplaceOne(_not_ended(write.id), _end_document(write), upsert=True)


def _size(write: SessionWrite) -> int:
    """Returns how many bytes *write* has in a command; 0 when it cannot be in one."""
    try:
        match write:
            case SessionInsert(record):
                return len(encode(_document(record), codec_options=CODEC_OPTIONS))
            case SessionUpdate():
                return len(encode({"q": _filter(write), "u": _update(write)}, codec_options=CODEC_OPTIONS))
            case SessionEnd():
                return len(encode(_end_document(write), codec_options=CODEC_OPTIONS))
    except _UNSENDABLE:
        return 0


# Conditions on what is above a changed field. $type alone would also look into the items of an array; a path that leads
# into an array would address its items.
_IS_DICT = {"$type": "object", "$not": {"$type": "array"}}
_IS_NO_LIST = {"$not": {"$type": "array"}}
_IS_DICT_OR_ABSENT = {
    "$not": {
        "$type": [
            *("double", "string", "array", "binData", "undefined", "objectId", "bool", "date", "null", "regex"),
            *("dbPointer", "javascript", "symbol", "javascriptWithScope", "int", "timestamp", "long", "decimal"),
            *("minKey", "maxKey"),
        ]
    }
}


def _filter(write: SessionUpdate) -> dict[str, Any]:
    # A document that is looked for by its _id alone is found without planning: the update takes half the time.
    conditions: dict[str, Any] = {"_id": write.id}
    if write.expires is not None:
        conditions["expires"] = {"$gt": write.updated}
        if write.changes.lifetime is None:
            conditions["lifetime"] = write.lifetime and write.lifetime.total_seconds()
    fails_at_an_end = is_nested = False
    for path, op in write.changes.ops.items():
        if len(path) > 1:
            is_nested = True
        if type(op) is Unset:
            for depth in range(1, len(path)):
                conditions.setdefault(_field(path[:depth]), _IS_NO_LIST)
        elif path:
            fails_at_an_end = True
        if type(op) is Create:
            conditions[_field(path)] = _IS_DICT_OR_ABSENT
    if is_nested:
        for path in write.changes.required():
            conditions[_field(path)] = _IS_DICT
    if not fails_at_an_end:
        conditions["ended"] = None
    return conditions


def _update(write: SessionUpdate) -> dict[str, Any]:
    """Returns what *write* does to its document."""
    sets: dict[str, Any] = {"updated": write.updated}
    # Nothing can be inserted with it; see the beginning of this module.
    update: dict[str, dict[str, Any]] = {"$set": sets, "$setOnInsert": {"_id": "never"}}
    changes = write.changes
    if write.expires is not None:
        sets["expires"] = write.expires
    if changes.owner is not None or changes.lifetime is not None:
        for name, value in _attributes(write):
            if value is None:
                update.setdefault("$unset", {})[name] = True
            else:
                sets[name] = value
    is_escaped = False
    for path, op in changes.ops.items():
        field = _field(path)
        is_escaped = is_escaped or len(field) > len("data") + sum(map(len, path)) + len(path)  # by the dots
        if type(op) is Inc:
            update.setdefault("$inc", {})[field] = op.amount
        elif type(op) is Set:
            sets[field] = kept = escaped(op.value)
            is_escaped = is_escaped or kept is not op.value
        elif type(op) is Push:
            kept = escaped(op.values)
            update.setdefault("$push", {})[field] = {"$each": kept}
            is_escaped = is_escaped or kept is not op.values
        elif type(op) is Unset:
            update.setdefault("$unset", {})[field] = True
        elif not any(len(other) > len(path) and other[: len(path)] == path for other in changes.ops):
            # A dict is at least {}, so one that is there stays as it is. Else what is below creates it.
            update.setdefault("$max", {})[field] = {}
    if is_escaped:
        sets["escaped"] = True
    return update


def _attributes(write: SessionUpdate) -> Iterator[tuple[str, Any]]:
    """Returns what *write* makes of the fields beside the data, as they are stored; None: removed."""
    owner, lifetime = write.changes.owner, write.changes.lifetime
    if owner is not None:
        yield "owner", owner.value
        yield "owned", None if owner.value is None else write.updated
    if lifetime is not None:
        yield "lifetime", lifetime.value and lifetime.value.total_seconds()


def _field(path: Path) -> str:
    return ".".join(("data", *map(escaped_key, path)))
