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
