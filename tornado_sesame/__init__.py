"""Sessions for Tornado that are crazy simple: a handler updates ``self.session``, and it is saved."""

from .changes import Changes, Inc, Push, Set, Unset
from .cookie import SessionCookie
from .document import Session, SessionDict, SessionList
from .errors import SessionDataError, SessionError, SessionNotLoaded, SessionStoreError, SessionTooLarge
from .manager import SessionManager, SessionStats
from .mixin import SessionMixin
from .stores import (
    Conflict,
    MemoryStore,
    MongoStore,
    Outcome,
    SaveResult,
    SessionRecord,
    SessionStore,
    SessionWrite,
    SQLiteStore,
    copy_sessions,
)
from .values import CODEC_OPTIONS

__all__ = [
    "CODEC_OPTIONS",
    "Changes",
    "Conflict",
    "Inc",
    "MemoryStore",
    "MongoStore",
    "Outcome",
    "Push",
    "SQLiteStore",
    "SaveResult",
    "Session",
    "SessionCookie",
    "SessionDataError",
    "SessionDict",
    "SessionError",
    "SessionList",
    "SessionManager",
    "SessionMixin",
    "SessionNotLoaded",
    "SessionRecord",
    "SessionStats",
    "SessionStore",
    "SessionStoreError",
    "SessionTooLarge",
    "SessionWrite",
    "Set",
    "Unset",
    "copy_sessions",
]

__version__ = "0.1.0"
