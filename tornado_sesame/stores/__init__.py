from .base import Conflict, Outcome, SaveResult, SessionRecord, SessionStore, SessionWrite
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
    "SessionRecord",
    "SessionStore",
    "SessionWrite",
    "copy_sessions",
]
