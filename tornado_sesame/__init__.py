"""Sessions for Tornado that are crazy simple: a handler updates ``self.session``, and it is saved.

A page that counts its visits, and an application that keeps the counts in MongoDB::

    class Counter(SessionMixin, RequestHandler):
        def get(self):
            self.session.times = self.session.get("times", 0) + 1
            self.write(f"{self.session.times} times!")

    Application([("/", Counter)], sessions=SessionManager(MongoStore(client.mysite.sessions)))

In a handler:
    `SessionMixin` gives it ``self.session``. This is a `Session`, and has `SessionDict`s and `SessionList`s in it. With
    declared fields, it is a `TypedSession`, and has `TypedSessionDict`s in it.
For the application:
    A `SessionManager` has its settings, and in a `SessionCookie` those of the cookie. It lists sessions (each as a
    `SessionRecord`), changes and ends them, and counts in `SessionStats` what it does.
Where sessions are kept:
    In a `MemoryStore`, `SQLiteStore` or `MongoStore`. `copy_sessions` copies them from one to another.
What can go wrong:
    `SessionError` is the base of all errors: `SessionNotLoaded`, `SessionDataError`, `SessionGone` and
    `SessionStoreError`, which includes `SessionNotSaved`, `SessionTooLarge` and `SessionRecordError`.
For a store of your own:
    It is a `SessionStore`. What it has to save, a `SessionWrite`, is a `SessionInsert`, a `SessionUpdate` or a
    `SessionEnd`. An update has `Changes`: `Set`, `Unset`, `Inc`, `Push` and `Create`. Its answer, a `SaveResult`, is an
    `Outcome`, a `Conflict` or an error. A `SessionWatch` tells of what other processes write, or raises
    `SessionNotWatchable`. With `CODEC_OPTIONS`, BSON has the values that sessions have.

``tornado_sesame.testing`` helps to test handlers and stores. ``python -m tornado_sesame`` is a command for operators.

Times are aware datetimes in UTC, exact to the millisecond. All of this is there since version 0.1.0; whatever is added
later says so.
"""

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
