"""Sessions for Tornado that are crazy simple: a handler updates ``self.session``, and it is saved."""

from .changes import Changes, Create, Inc, Push, Set, Unset
from .cookie import SessionCookie
from .errors import (
    SessionDataError,
    SessionError,
    SessionGone,
    SessionNotLoaded,
    SessionNotSaved,
    SessionRecordError,
    SessionStoreError,
    SessionTooLarge,
)
from .manager import SessionManager
from .mixin import SessionMixin
from .nodes import SessionDict, SessionList
from .session import Session
from .stats import SessionStats
from .stores import (
    Conflict,
    MemoryStore,
    MongoStore,
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
    SQLiteStore,
    copy_sessions,
)
from .typed import TypedSession, TypedSessionDict
from .values import CODEC_OPTIONS

__all__ = [
    "CODEC_OPTIONS",
    "Changes",
    "Conflict",
    "Create",
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
    "SessionEnd",
    "SessionError",
    "SessionGone",
    "SessionInsert",
    "SessionList",
    "SessionManager",
    "SessionMixin",
    "SessionNotLoaded",
    "SessionNotSaved",
    "SessionNotWatchable",
    "SessionRecord",
    "SessionRecordError",
    "SessionStats",
    "SessionStore",
    "SessionStoreError",
    "SessionTooLarge",
    "SessionUpdate",
    "SessionWatch",
    "SessionWrite",
    "Set",
    "TypedSession",
    "TypedSessionDict",
    "Unset",
    "copy_sessions",
]

__version__ = "0.1.0"
