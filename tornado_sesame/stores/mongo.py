"""Sessions in a MongoDB collection, through Motor or PyMongo's async API."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import pymongo
from bson.errors import InvalidDocument
from motor.core import AgnosticCollection
from pymongo import ASCENDING, IndexModel, InsertOne, ReadPreference, UpdateOne
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.collection import Collection
from pymongo.errors import (
    BulkWriteError,
    DocumentTooLarge,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
    WriteError,
)

from ..changes import Inc, Push, Set, Unset
from ..errors import SessionStoreError
from ..values import NAIVE_OPTIONS, Path, in_utc, made_aware
from .base import Conflict, Outcome, SaveResult, SessionRecord, SessionStore, SessionWrite
from .keys import escaped, escaped_key, unescaped

__all__ = ["MongoStore"]

logger = logging.getLogger("tornado_sesame")

DUPLICATE_KEY = 11000
TOO_LARGE = 10334
INDEX_OPTIONS_CONFLICT = 85

# What MongoDB answers when a path leads through something that is not a document, or $inc or $push meets a value that
# is no number or no array: BadValue, TypeMismatch, PathNotViable.
PATH_ERRORS = frozenset({2, 14, 28})

# The tokens of the last writes that a document keeps.
TOKENS_KEPT = 20

# How many sessions a store remembers to be fenced; others cost a refused update.
FENCED_KEPT = 10_000

# What `records` has in memory at once, beside what the driver has from MongoDB.
PAGE = 20

INDEXES = (
    IndexModel([("expires", ASCENDING)], expireAfterSeconds=0),
    IndexModel([("owner", ASCENDING)], partialFilterExpression={"owner": {"$exists": True}}),
)

# Of any type to mypy, as Motor and PyMongo describe the same methods differently.
_ASYNCHRONOUS: tuple[type[Any], ...] = (AgnosticCollection, AsyncCollection)

# PyMongo raises these before it sends a command in which something cannot be encoded or is too large.
_UNSENDABLE = (InvalidDocument, DocumentTooLarge, OverflowError)


class MongoStore(SessionStore):
    """Keeps each session as one document, readable and queryable as it is::

        {_id: "<sha-256, hex>", data: {...}, owner: "alice", created: Date, updated: Date, expires: Date}

    It is read with primary read preference, whatever the collection says, because a request must see what the one
    before it saved. Writes use the collection's write concern; MongoDB's default, "majority", survives the loss of a
    server.

    Increments and appends are applied once, also when a save failed and is repeated. Each such write leaves its token
    in the document's ``applied``, which keeps the last 20, and a repetition is not done where the token is. (From the
    first repetition on, ``applied`` is ``{tokens: [...]}``, which a first attempt that comes late cannot push to.) Its
    limit is a session that sees 20 more increments or appends between a save that failed and its repetition. On a
    replica set the driver repeats failed commands by itself (retryable writes), so that a change of the primary is not
    even noticed. A standalone server has neither this nor a second copy: what it acknowledged may be lost when its
    machine dies.

    Keys that MongoDB cannot address (empty ones, and those with a ``.``, a ``$`` at the start or a NUL) are stored
    percent-encoded; a document that has some says so in ``escaped: true``.

    :arg collection: a Motor collection (for Tornado or asyncio) or a PyMongo `AsyncCollection`.
    :arg create_indexes: creates two indexes in the background at first use: the TTL index on ``expires``, by which
        MongoDB removes expired sessions, and one on ``owner``. What it cannot do is a warning in the log.
    :raises TypeError: when *collection* is something else, for instance one of a synchronous `pymongo.MongoClient`.
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
                f"such as client.mydatabase.sessions, not a {type(collection).__name__}"
            )
        self._collection = collection.with_options(codec_options=NAIVE_OPTIONS, read_preference=ReadPreference.PRIMARY)
        self._fenced: set[str] = set()
        self._needs_indexes = create_indexes
        self._indexing: asyncio.Task[None] | None = None

    async def load(self, ids: Sequence[str]) -> Mapping[str, SessionRecord | Exception]:
        self._index_in_background()
        with pymongo.timeout(self.timeout):
            if len(ids) == 1:
                document = await self._collection.find_one({"_id": ids[0]})
                documents = [] if document is None else [document]
            else:
                # A batch that is not full tells the driver that there is no more to ask for.
                cursor = self._collection.find({"_id": {"$in": list(ids)}}, batch_size=len(ids) + 1)
                documents = await cursor.to_list(None)
        return {document["_id"]: _record(document) for document in documents}

    async def save(self, writes: Sequence[SessionWrite]) -> Sequence[SaveResult]:
        self._index_in_background()
        with pymongo.timeout(self.timeout):
            if len(writes) == 1:
                return [await self._save_one(writes[0])]
            return await self._save_many(writes)

    async def pop(self, id: str) -> SessionRecord | None:
        with pymongo.timeout(self.timeout):
            document = await self._collection.find_one_and_delete({"_id": id})
        if document is None:
            return None
        record = _record(document)
        if isinstance(record, Exception):
            raise record
        return record

    async def delete(self, ids: Sequence[str]) -> None:
        with pymongo.timeout(self.timeout):
            await self._collection.delete_many({"_id": {"$in": list(ids)}})

    async def records(self, owner: str | None = None) -> AsyncIterator[SessionRecord]:
        cursor = self._collection.find({} if owner is None else {"owner": owner})
        while True:
            with pymongo.timeout(self.timeout):
                documents = await cursor.to_list(PAGE)
            if not documents:
                return
            for document in documents:
                record = _record(document)
                if isinstance(record, Exception):
                    raise record
                yield record

    async def close(self) -> None:
        if self._indexing is not None:
            self._indexing.cancel()

    async def _save_one(self, write: SessionWrite) -> SaveResult:
        looks = False
        try:
            if write.created is not None:
                await self._collection.insert_one(_document(write))
                return Outcome.SAVED
            if _may_be_done(write) and write.id not in self._fenced:
                await self._fence(write.id)
            looks = self._looks_for_token(write)
            result = await self._collection.update_one(_filter(write, looks), _update(write, looks))
        except DuplicateKeyError:
            return Outcome.SAVED
        except WriteError as error:
            return await self._explain(write, looks) if error.code in PATH_ERRORS else _refusal(error)
        except (*_UNSENDABLE, OperationFailure) as error:
            if _concerns_one(error):
                return _refusal(error)
            raise
        return Outcome.SAVED if result.matched_count else await self._explain(write, looks)

    async def _save_each(self, writes: Sequence[SessionWrite]) -> Sequence[SaveResult]:
        async def attempt(write: SessionWrite) -> SaveResult:
            try:
                return await self._save_one(write)
            except Exception as error:
                return error

        return await asyncio.gather(*map(attempt, writes))

    async def _save_many(self, writes: Sequence[SessionWrite]) -> Sequence[SaveResult]:
        if any(map(_may_be_done, writes)):
            return await self._save_apart(writes)
        for_one = Counter(write.id for write in writes if not write.changes.is_repeatable)
        looks = list(map(self._looks_for_token, writes))
        refused: dict[int, SaveResult] = {}
        unmatched: dict[int, SaveResult] = {}
        try:
            requests = [
                InsertOne(_document(write))
                if write.created
                else UpdateOne(_filter(write, looked), _update(write, looked, for_one[write.id]))
                for write, looked in zip(writes, looks, strict=True)
            ]
            outcome = (await self._collection.bulk_write(requests, ordered=False)).bulk_api_result
        except BulkWriteError as error:
            outcome = error.details or {}
            if outcome["writeConcernErrors"]:
                raise _refusal(error) from error
            refused = await self._explain_refused(writes, looks, outcome["writeErrors"])
        except (*_UNSENDABLE, OperationFailure) as error:
            if _concerns_one(error):
                # It spoils the command for all, so each goes by itself. With more than 48 MB there are several
                # commands, of which some may be done.
                return await self._save_each([replace(write, is_repeated=True) for write in writes])
            raise
        updates = [index for index, write in enumerate(writes) if write.created is None and index not in refused]
        if outcome["nMatched"] < len(updates):
            unmatched = await self._explain_unmatched(writes, looks, updates)
        other = {**refused, **unmatched}
        return [other.get(index, Outcome.SAVED) for index in range(len(writes))]

    async def _explain_refused(
        self, writes: Sequence[SessionWrite], looks: Sequence[bool], errors: Sequence[dict[str, Any]]
    ) -> dict[int, SaveResult]:
        """Returns what became of the writes of a bulk that MongoDB refused, by their index."""

        async def explain(index: int, error: dict[str, Any]) -> SaveResult:
            code = error["code"]
            if code in PATH_ERRORS:
                return await self._explain(writes[index], looks[index])
            return Outcome.SAVED if code == DUPLICATE_KEY else _refusal(WriteError(error["errmsg"], code, error))

        indexes = [error["index"] for error in errors]
        return dict(zip(indexes, await asyncio.gather(*map(explain, indexes, errors)), strict=True))

    async def _save_apart(self, writes: Sequence[SessionWrite]) -> Sequence[SaveResult]:
        """Does those that may be done already each by itself, beside the others."""
        parts: list[list[int]] = [[], []]
        for index, write in enumerate(writes):
            parts[_may_be_done(write)].append(index)
        plain, doubtful = ([writes[index] for index in part] for part in parts)

        async def save_plain() -> Sequence[SaveResult]:
            try:
                return await self.save(plain) if plain else []
            except Exception as error:
                return [error] * len(plain)

        done = await asyncio.gather(save_plain(), self._save_each(doubtful))
        results: dict[int, SaveResult] = {}
        for part, some in zip(parts, done, strict=True):
            results.update(zip(part, some, strict=True))
        return [results[index] for index in range(len(writes))]

    async def _explain_unmatched(
        self, writes: Sequence[SessionWrite], looks: Sequence[bool], updates: Sequence[int]
    ) -> dict[int, SaveResult]:
        """Finds out which of a bulk's updates did not match, since it reports only how many, and does those it can.

        :arg updates: the indexes of those that may not have matched.
        """
        ids = {"$in": [writes[index].id for index in updates]}
        cursor = self._collection.find({"_id": ids}, {"expires": 1, "applied": 1}, batch_size=len(updates) + 1)
        documents = {document["_id"]: document for document in await cursor.to_list(None)}
        results: dict[int, SaveResult] = {}
        again = []
        for index in updates:
            write = writes[index]
            document = documents.get(write.id)
            if document is None or _has_expired(document, write):
                results[index] = Outcome.GONE
            elif (looks[index] or write.changes.required()) and write.token not in _tokens(document):
                again.append(index)
        results.update(zip(again, await self._save_each([writes[index] for index in again]), strict=True))
        return results

    async def _explain(self, write: SessionWrite, looked: bool) -> SaveResult:
        """Finds out why an update was refused or did not match, and does it if it can be done in another way.

        :arg looked: whether that update looked for its token.
        """
        document = await self._collection.find_one({"_id": write.id})
        record = document and _record(document)
        if isinstance(record, Exception):
            return record
        if record is None or record.expires <= write.updated:
            return Outcome.GONE
        if write.token in _tokens(document):
            return Outcome.SAVED
        fields = write.changes.conflicts(record.data)
        is_fenced = isinstance(document.get("applied"), dict)
        if not fields and not write.changes.is_repeatable and looked is not is_fenced:
            if is_fenced:
                self._remember_fenced(write.id)
                return await self._save_one(write)
            self._fenced.discard(write.id)  # the database has lost it, as when it was restored
            return await self._save_one(replace(write, is_repeated=True))
        # When nothing is in the way any more, yet another request has been here. Whole fields fit on anything.
        return Conflict(frozenset(fields or {path[0] for path in write.changes.ops if path}))

    async def _fence(self, id: str) -> None:
        """Makes a document refuse writes with increments or appends that do not look whether they have been done.

        They push their token to ``applied``, and that fails when it is no array.
        """
        applied = {"$mergeObjects": [{"tokens": {"$ifNull": ["$applied", []]}}]}  # a plain dict would go into the array
        await self._collection.update_one(
            {"_id": id, "applied.tokens": {"$exists": False}}, [{"$set": {"applied": applied}}]
        )
        self._remember_fenced(id)

    def _remember_fenced(self, id: str) -> None:
        if len(self._fenced) >= FENCED_KEPT:
            self._fenced.clear()
        self._fenced.add(id)

    def _looks_for_token(self, write: SessionWrite) -> bool:
        return write.id in self._fenced and not write.changes.is_repeatable

    def _index_in_background(self) -> None:
        if self._needs_indexes:
            self._needs_indexes = False
            self._indexing = asyncio.create_task(self._create_indexes())

    async def _create_indexes(self) -> None:
        try:
            for index in INDEXES:
                await self._create_index(index)
        except OperationFailure as error:  # the user may not, or there is another index: that will not change
            logger.warning("could not create the indexes of %s: %s", self._collection.full_name, error)
        except PyMongoError:
            self._needs_indexes = True  # MongoDB is down, which whoever uses it now will say

    async def _create_index(self, index: IndexModel) -> None:
        try:
            await self._collection.create_indexes([index])
        except OperationFailure as error:
            seconds = index.document.get("expireAfterSeconds")
            if error.code != INDEX_OPTIONS_CONFLICT or seconds is None:
                raise
            changed = {"keyPattern": index.document["key"], "expireAfterSeconds": seconds}
            await self._collection.database.command("collMod", self._collection.name, index=changed)


def _concerns_one(error: Exception) -> bool:
    """Tells whether *error* is about a session's content, rather than about the command or the connection."""
    return not isinstance(error, OperationFailure) or error.code == TOO_LARGE


def _refusal(error: Exception) -> SessionStoreError:
    """Returns *error* without its text, which may quote what is in the session."""
    code = f" with error code {error.code}" if isinstance(error, OperationFailure) else ""
    refusal = SessionStoreError(f"{type(error).__name__}{code}")
    refusal.__cause__ = error
    return refusal


def _record(document: dict[str, Any]) -> SessionRecord | Exception:
    id = document["_id"]
    try:
        created, updated, expires = document["created"], document["updated"], document["expires"]
        return SessionRecord(
            id, _data(document), in_utc(created), in_utc(updated), in_utc(expires), document.get("owner")
        )
    except KeyError as error:
        return SessionStoreError(f"the document of session {id} has no field {error}")
    except (AttributeError, TypeError):
        return SessionStoreError(f"a field of the document of session {id} is not of its type")


def _data(document: dict[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = made_aware(document["data"])
    if type(data) is not dict:
        raise TypeError("data is not a document")
    return unescaped(data) if document.get("escaped") else data


def _document(write: SessionWrite) -> dict[str, Any]:
    data = write.changes.apply({})
    kept = escaped(data)
    times = {"created": write.created, "updated": write.updated, "expires": write.expires}
    owner = {"owner": write.owner.value} if write.owner and write.owner.value is not None else {}
    return {"_id": write.id, "data": kept, **owner, **times, **({} if kept is data else {"escaped": True})}


def _tokens(document: dict[str, Any]) -> Sequence[bytes]:
    applied: Any = document.get("applied", ())
    tokens: Sequence[bytes] = applied["tokens"] if isinstance(applied, dict) else applied
    return tokens


def _has_expired(document: dict[str, Any], write: SessionWrite) -> bool:
    expires = document.get("expires")
    return not isinstance(expires, datetime) or in_utc(expires) <= write.updated


def _may_be_done(write: SessionWrite) -> bool:
    """Tells whether a write has to be done with a look at its token."""
    return write.is_repeated and write.created is None and not write.changes.is_repeatable


def _filter(write: SessionWrite, looks_for_token: bool) -> dict[str, Any]:
    # A document that is looked for by its _id alone is found without planning: the update takes half the time.
    conditions: dict[str, Any] = {"_id": write.id}
    if write.expires is not None:
        conditions["expires"] = {"$gt": write.updated}
    for path in write.changes.required():
        # $type alone would also look into the items of an array.
        conditions[_field(path)] = {"$type": "object", "$not": {"$type": "array"}}
    if looks_for_token:
        conditions["applied.tokens"] = {"$ne": write.token}
    return conditions


def _update(write: SessionWrite, looks_for_token: bool, at_once: int = 1) -> dict[str, Any]:
    """Returns what *write* does to its document.

    :arg at_once: how many writes for it are done before somebody looks for their tokens.
    """
    sets: dict[str, Any] = {"updated": write.updated}
    if write.expires is not None:
        sets["expires"] = write.expires
    update: dict[str, dict[str, Any]] = {"$set": sets}
    if write.owner is not None:
        if write.owner.value is None:
            update["$unset"] = {"owner": True}
        else:
            sets["owner"] = write.owner.value
    is_escaped = False
    for path, op in write.changes.ops.items():
        field = _field(path)
        is_escaped = is_escaped or any(escaped_key(key) != key for key in path)
        match op:
            case Set(value):
                sets[field] = kept = escaped(value)
                is_escaped = is_escaped or kept is not value
            case Unset():
                update.setdefault("$unset", {})[field] = True
            case Inc(amount):
                update.setdefault("$inc", {})[field] = amount
            case Push(values):
                kept = escaped(values)
                update.setdefault("$push", {})[field] = {"$each": kept}
                is_escaped = is_escaped or kept is not values
    if is_escaped:
        sets["escaped"] = True
    if not write.changes.is_repeatable:
        tokens = "applied.tokens" if looks_for_token else "applied"
        pushed = {"$each": [write.token], "$slice": -(TOKENS_KEPT + at_once - 1)}
        update.setdefault("$push", {})[tokens] = pushed
    return update


def _field(path: Path) -> str:
    return ".".join(("data", *map(escaped_key, path)))
