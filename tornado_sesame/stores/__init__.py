"""Where sessions are kept. All of this can be imported from ``tornado_sesame``, too.

`MemoryStore`, `SQLiteStore` and `MongoStore` are ready to use, and `copy_sessions` copies sessions from one to another.

A store of your own is a `SessionStore`, and gives out each session as a `SessionRecord`. What it has to save, a
`SessionWrite`, is a `SessionInsert`, a `SessionUpdate` or a `SessionEnd`. Its answer, a `SaveResult`, is an `Outcome`,
a `Conflict` or an error. A `SessionWatch` tells of what other processes write, or raises `SessionNotWatchable`.
"""

from .base import (
    Conflict,
    Outcome,
    SaveResult,
    SessionEnd,
    SessionInsert,
    SessionNotWatchable,
    SessionRecord,
    SessionStore,
    SessionUpdate,
    SessionWatch,
    SessionWrite,
)
from .copying import copy_sessions
from .memory import MemoryStore
from .mongo import MongoStore
from .sqlite import SQLiteStore

__all__ = [
    "Conflict",
    "MemoryStore",
    "MongoStore",
    "Outcome",
    "SQLiteStore",
    "SaveResult",
    "SessionEnd",
    "SessionInsert",
    "SessionNotWatchable",
    "SessionRecord",
    "SessionStore",
    "SessionUpdate",
    "SessionWatch",
    "SessionWrite",
    "copy_sessions",
]
