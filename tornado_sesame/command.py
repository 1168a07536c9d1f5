"""What the operator's command does; see ``python -m tornado_sesame --help``."""

import argparse
import platform
from array import array
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median_low
from typing import Any, NamedTuple

import pymongo
from bson import json_util
from bson.binary import UuidRepresentation
from pymongo import AsyncMongoClient
from pymongo.errors import ConfigurationError, PyMongoError

from . import __version__
from .cookie import is_id
from .errors import SessionError, SessionRecordError, SessionStoreError, quoted
from .manager import SessionManager
from .settings import now
from .stores import MongoStore, SessionRecord, SQLiteStore
from .stores.mongo import INDEXES, reason
from .values import bson_size

__all__ = ["destroy", "destroy_owner", "list_sessions", "run", "show", "stats", "versions"]

# What MongoDB's own tools write, with UUIDs as sessions have them.
JSON_OPTIONS = json_util.RELAXED_JSON_OPTIONS.with_options(uuid_representation=UuidRepresentation.STANDARD)


class Place(NamedTuple):
    """Where the sessions are.

    :arg sessions: what administers them.
    :arg collection: theirs in MongoDB; None elsewhere.
    """

    sessions: SessionManager[Any]
    collection: Any = None


def versions() -> str:
    """Returns which versions of what matters here are installed."""
    return (
        f"tornado-sesame {__version__}\nMotor {version('motor')}\nPyMongo {version('pymongo')}\n"
        f"Tornado {version('tornado')}\nPython {platform.python_version()}"
    )


async def run(options: argparse.Namespace) -> None:
    """Does what the command line says.

    :raises SessionError: when the store fails, or there is no such session.
    :raises ValueError, PyMongoError: when the arguments cannot be meant.
    """
    place = _in_file(options) if options.sqlite else _in_mongodb(options)
    try:
        await options.run(place, options)
    finally:
        await place.sessions.close()
        if place.collection is not None:
            await place.collection.database.client.close()


async def list_sessions(place: Place, options: argparse.Namespace) -> None:
    async for record in place.sessions.records(options.owner):
        times = map(_time, (record.created, record.updated, record.expires))
        print(record.id, *times, bson_size(record.data), _printable(record.owner or ""), sep="\t")


async def show(place: Place, options: argparse.Namespace) -> None:
    record = await _load(place, options.id)
    if isinstance(record, SessionRecordError):
        raise record
    attributes = {name: getattr(record, name) for name in ("id", "owner", "owned", "created", "updated", "expires")}
    attributes["lifetime"] = record.lifetime and record.lifetime.total_seconds()
    if options.values:
        print(json_util.dumps({**attributes, "data": record.data}, indent=2, json_options=JSON_OPTIONS))
        return
    for name, value in attributes.items():
        if value is not None:
            print(f"{name}: {_time(value) if isinstance(value, datetime) else _printable(str(value))}")
    print(f"data: {bson_size(record.data)} bytes")
    for key, value in record.data.items():
        items = f" of {len(value)}" if isinstance(value, dict | list) else ""
        print(f"  {quoted(key)}: {type(value).__name__}{items}")


async def destroy(place: Place, options: argparse.Namespace) -> None:
    await _load(place, options.id)  # one that cannot be read is ended, too
    await place.sessions.destroy(options.id)


async def destroy_owner(place: Place, options: argparse.Namespace) -> None:
    print(f"sessions destroyed: {await place.sessions.destroy_all(options.owner)}")


async def stats(place: Place, options: argparse.Namespace) -> None:
    sizes, owners = array("q"), set()
    oldest = largest = None
    async for record in place.sessions.records():
        size = bson_size(record.data)
        sizes.append(size)
        owners.add(record.owner)
        # An id decides between equals, so that the same sessions always give the same answer.
        oldest = min(filter(None, (oldest, (record.created, record.id))))
        largest = max(filter(None, (largest, (size, record.id))))
    print(f"sessions: {len(sizes)}")
    print(f"owners: {len(owners - {None})}")
    if oldest and largest:
        print(f"total bytes: {sum(sizes)}")
        print(f"median bytes: {median_low(sizes)}")
        print(f"largest bytes: {largest[0]} (session {largest[1]})")
        print(f"oldest: {_time(oldest[0])} (session {oldest[1]})")
    if place.collection is not None:
        for name, state in (await _index_states(place)).items():
            print(f"index on {name}: {state}")


async def _load(place: Place, id: str) -> SessionRecord | SessionRecordError:
    """Returns what is stored of a session.

    :raises SessionError: when there is no such session.
    """
    if not is_id(id):  # it may be a secret, so it is not shown
        raise SessionError("this is not the id of a session, which has 64 hexadecimal digits")
    sessions = place.sessions
    stored = (await sessions.store.load([id], timeout=sessions.settings.timeout)).get(id)
    if isinstance(stored, SessionRecordError) or (isinstance(stored, SessionRecord) and stored.expires > now()):
        return stored
    raise SessionError(f"there is no session {id}")


def _in_file(options: argparse.Namespace) -> Place:
    file = Path(options.sqlite)
    if not file.is_file() or not file.stat().st_size:  # the store would make one
        raise ValueError(f"there is no file {file} with sessions")
    return Place(SessionManager(SQLiteStore(file), timeout=options.timeout))


def _in_mongodb(options: argparse.Namespace) -> Place:
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(options.mongo)
    try:
        database = client.get_default_database() if options.db is None else client[options.db]
    except ConfigurationError as error:
        raise ValueError("no database is named: put its name at the end of the URI, or give --db") from error
    collection = database[options.collection]
    return Place(SessionManager(MongoStore(collection, create_indexes=False), timeout=options.timeout), collection)


async def _index_states(place: Place) -> dict[str, str]:
    """Returns whether each index is there as `MongoStore` makes it, by the fields that it is on."""
    try:
        with pymongo.timeout(place.sessions.settings.timeout):
            there = await (await place.collection.list_indexes()).to_list()
    except PyMongoError as error:
        problem = reason(error, place.collection.database.client)
        raise SessionStoreError(f"could not list the indexes: {problem}") from error
    states = {}
    for index in INDEXES:
        wanted = {option: value for option, value in index.document.items() if option != "name"}
        alike = [found for found in there if found["key"] == wanted["key"]]
        is_as_wanted = any(wanted.items() <= found.items() for found in alike)
        states[", ".join(wanted["key"])] = "ok" if is_as_wanted else "has other options" if alike else "missing"
    return states


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


def _printable(text: str) -> str:
    """Returns *text* without what could command a terminal: users may have chosen it."""
    return text if text.isprintable() else repr(text)
