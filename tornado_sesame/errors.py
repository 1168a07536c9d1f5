"""Every exception that tornado-sesame raises.

They name the session's id (a hash, safe to log) and the path inside the session, never a secret and never a value.
"""

from tornado.web import HTTPError

__all__ = ["SessionDataError", "SessionError", "SessionNotLoaded", "SessionStoreError", "SessionTooLarge"]


class SessionError(Exception):
    """The base of all errors of this package, and what is raised for a misuse that has no class of its own."""


class SessionNotLoaded(SessionError):
    """The session was touched before it was loaded. The text names both remedies."""

    def __init__(self) -> None:
        super().__init__(
            "this request's session is not loaded yet: use `session = await self.session` in an async handler, "
            "or set `session_autoload = True` on the handler class to have prepare() load it"
        )


class SessionDataError(SessionError, TypeError):
    """A value that no store could keep was put into the session. Nothing was changed.

    .. attribute:: path

       Where the value would have gone, as the keys and list positions from the session down.
    """

    def __init__(self, problem: str, path: tuple[str | int, ...] = ()) -> None:
        place = "session" + "".join(f"[{key!r}]" for key in path)
        super().__init__(f"{place}: {problem}")
        self.problem = problem
        self.path = path

    def within(self, *path: str | int) -> "SessionDataError":
        """Returns the same error for a path that continues *path*."""
        return SessionDataError(self.problem, (*path, *self.path))


class SessionStoreError(SessionError, HTTPError):
    """The store failed or did not answer in time; Tornado answers the request with a 503.

    The driver's error is its ``__cause__``.
    """

    def __init__(self, message: str, *, status_code: int = 503) -> None:
        HTTPError.__init__(self, status_code, message)


class SessionTooLarge(SessionStoreError):
    """The session has grown over the manager's ``max_bytes`` and was not saved: a 500, as trying again is no help."""

    def __init__(self, id: str | None, size: int, max_bytes: int) -> None:
        super().__init__(
            f"could not save session {id}: it has {size} bytes, and max_bytes of the SessionManager is {max_bytes}; "
            "keep what grows in a collection of its own",
            status_code=500,
        )
