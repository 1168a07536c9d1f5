from .base import (
    Conflict,
    Outcome,
    SaveResult,
    SessionEnd,
    SessionInsert,
    SessionRecord,
    SessionStore,
    SessionUpdate,
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
    "SessionRecord",
    "SessionStore",
    "SessionUpdate",
    "SessionWrite",
    "copy_sessions",
]
