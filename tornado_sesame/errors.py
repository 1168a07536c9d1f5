"""Every exception that tornado-sesame raises.

They name the session's id (a hash, safe to log) and the path inside the session, never a secret and never a value.
"""

from tornado.web import HTTPError

__all__ = [
    "ELSEWHERE",
    "SHUTTING_DOWN",
    "SessionDataError",
    "SessionError",
    "SessionGone",
    "SessionNotLoaded",
    "SessionNotSaved",
    "SessionRecordError",
    "SessionStoreError",
    "SessionTooLarge",
    "quoted",
]

# Why something is not done any more.
SHUTTING_DOWN = "the server is shutting down"

# Why a session cannot be changed here.
ELSEWHERE = (
    "a session can be changed in the event loop of its request only, and this is another thread or another loop: "
    "hand the change over with loop.call_soon_threadsafe(...)"
)

# How many characters of a key an error shows: strangers may choose keys, and errors go to logs.
SHOWN = 80


class SessionError(Exception):
    """The base of all errors of this package.

    It is raised itself for a misuse that has no class of its own, such as a session that begins after the headers were
    sent or outside of the cookie's path, or that is changed in another thread.
    """


class SessionNotLoaded(SessionError):
    """The session was used before it was loaded. The text names both remedies."""

    def __init__(self) -> None:
        super().__init__(
            "this request's session is not loaded: use `session = await self.session` in an async handler, "
            "or set `session_autoload = True` on the handler class to have it loaded before prepare(); "
            "after a save of which nobody knows whether it was done, await it again"
        )


class SessionDataError(SessionError, TypeError):
    """Something that no store could keep was put into the session. Nothing was changed.

    .. attribute:: problem

       What is wrong with the value, as a str that does not quote it.

    .. attribute:: path

       Where the value would have gone, as a tuple of keys and list positions from the session down.
    """

    def __init__(self, problem: str, path: tuple[str | int, ...] = ()) -> None:
        place = "session" + "".join(f"[{quoted(key)}]" for key in path)
        super().__init__(f"{place}: {problem}")
        self.problem = problem
        self.path = path

    def within(self, *path: str | int) -> "SessionDataError":
        """Returns the same error for a path that continues *path*."""
        return SessionDataError(self.problem, (*path, *self.path))


class SessionGone(SessionError):
    """The session has ended, so changes to it are not saved: it was destroyed or rotated, or has expired.

    :arg id: the session's id; None when what was given as one does not have the form of an id.
    """

    def __init__(self, id: str | None) -> None:
        super().__init__(
            "there is no such session, as this is no session's id: give what `session_id` is"
            if id is None
            else f"session {id} has ended: it was destroyed or rotated, or has expired"
        )


class SessionStoreError(SessionError, HTTPError):
    """The store failed or did not answer in time. The request is answered with a 503 and a ``Retry-After``.

    The driver's error is its ``__cause__``. When a save fails with this class itself, and not with `SessionNotSaved`,
    nobody knows whether the store has done the save or still will. The changes are not sent again, and the session
    counts as not loaded until ``await self.session`` reads it again.
    """

    is_logged = False
    """Whether it is in the log already. One failure is one line there, however many requests it reaches."""

    def __init__(self, message: str, *, status_code: int = 503) -> None:
        HTTPError.__init__(self, status_code, message)


class SessionNotSaved(SessionStoreError):
    """A save was certainly not done: no server could be reached, or the store refused it.

    The changes stay pending and go out with the next save.
    """


class SessionTooLarge(SessionNotSaved):
    """The session has grown over the manager's ``max_bytes`` and was not saved.

    The request is answered with a 500, as trying again would not help.
    """

    def __init__(self, id: str | None, size: int, max_bytes: int) -> None:
        super().__init__(
            f"could not save session {id}: it has {size} bytes, and max_bytes of the SessionManager is {max_bytes}; "
            "keep what grows in a collection of its own",
            status_code=500,
        )


class SessionRecordError(SessionStoreError):
    """What is stored under an id cannot be read as a session. No other session is affected.

    .. attribute:: id

       The id under which it is stored.
    """

    def __init__(self, id: str, problem: str) -> None:
        super().__init__(f"what is stored as session {id} cannot be read: {problem}")
        self.id = id


def quoted(key: str | int) -> str:
    """Returns *key* for the text of an error, in quotes when it is a str, and cut when it is long."""
    if isinstance(key, str) and len(key) > SHOWN:
        return f"{key[:SHOWN]!r}... ({len(key)} characters)"
    return repr(key)
