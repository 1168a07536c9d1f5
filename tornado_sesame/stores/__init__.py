from .base import Conflict, Outcome, SaveResult, SessionRecord, SessionStore, SessionWrite
from .memory import MemoryStore
from .mongo import MongoStore

__all__ = [
    "Conflict",
    "MemoryStore",
    "MongoStore",
    "Outcome",
    "SaveResult",
    "SessionRecord",
    "SessionStore",
    "SessionWrite",
]
