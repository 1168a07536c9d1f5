"""`SessionMixin`: what a request handler sees of its session."""

import asyncio
import inspect
from collections.abc import Awaitable, Coroutine, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tornado.gen import is_coroutine_function
from tornado.web import HTTPError
from tornado.websocket import WebSocketHandler

from .document import Session
from .errors import SessionError, SessionStoreError
from .live import LiveSession
from .manager import SessionManager

if TYPE_CHECKING:
    from tornado.web import RequestHandler as _Handler
else:
    _Handler = object

__all__ = ["SessionMixin"]


class SessionMixin(_Handler):
    """Gives a `~tornado.web.RequestHandler` its ``session``. Put it first::

        class Counter(SessionMixin, RequestHandler):
            def get(self):
                self.session.times = self.session.get("times", 0) + 1
                self.write(f"{self.session.times} times!")

    The response is held until what the handler changed is saved; if that fails, the client gets a 503 in its place.

    A handler that overrides `prepare` calls ``super().prepare()``, and awaits what it returns if that is not None.
    """

    session_autoload: bool | None = None
    """Whether `prepare` loads the session. None: when the method that handles the request is a plain ``def``, which
    could not await it. An ``async def`` or a coroutine does so itself, with ``await self.session``, where it wants."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._session_live: LiveSession | None = None
        self._session_is_empty = False  # known without a query: the client has no cookie
        self._session_is_used = False
        self._session_headers_sent = False
        self._session_error: SessionStoreError | None = None
        self._session_flush: asyncio.Future[None] | None = None
        super().__init__(*args, **kwargs)

    @property
    def session(self) -> Session:
        """The visitor's data, saved when changed. ``await self.session`` loads it, once a request, and returns it.

        Assigning a dict replaces the content and keeps the id.

        :raises SessionNotLoaded: from any use before it is loaded.
        :raises SessionDataError: from an assignment of what cannot be stored.
        """
        self._session_is_used = True
        return self._session_opened().session

    @session.setter
    def session(self, data: Mapping[str, Any]) -> None:
        self._session_is_used = True
        self._session_opened().replace(data)

    @property
    def session_id(self) -> str | None:
        """The id under which the session is stored, or None before there is one. It is no secret: it may be logged."""
        return self._session_opened().id

    @property
    def session_manager(self) -> SessionManager:
        """The application's manager: its setting ``sessions``, or one in memory that is made here and kept there."""
        manager = self.application.settings.get("sessions")
        if manager is None:
            manager = self.application.settings["sessions"] = SessionManager()
        if not isinstance(manager, SessionManager):
            raise TypeError(
                f"the application setting `sessions` must be a SessionManager, not a {type(manager).__name__}: "
                "use Application(..., sessions=SessionManager(store))"
            )
        return manager

    async def save_session(self) -> None:
        """Saves what is pending now. Rarely needed, as `finish` does it.

        :raises SessionStoreError: when that fails.
        """
        await self._session_opened().save()

    async def reload_session(self) -> None:
        """Reads the session again, after saving what is pending. For handlers that live long, as of WebSockets.

        Dicts and lists taken from it before are cut off from it.

        :raises SessionStoreError: when that fails.
        """
        await self._session_opened().reload()

    async def rotate_session_id(self) -> None:
        """Gives the session a new secret and id; the old ones are dead at once. Call it at login.

        Whoever knew the secret before, for instance because he planted it, is left with nothing.

        :raises SessionError: when the headers are sent, so that the client cannot get the new cookie.
        :raises SessionStoreError: when the store fails.
        """
        self._session_is_used = True
        await self._session_opened().rotate()

    async def destroy_session(self) -> None:
        """Deletes the session, in the store and in the browser; ``self.session`` is then a new, empty one.

        :raises SessionStoreError: when the store fails.
        """
        self._session_is_used = True
        await self._session_opened().destroy()

    # What follows overrides methods of RequestHandler. They do what theirs do, but hold what they send until the
    # session is saved.

    def prepare(self) -> Awaitable[None] | None:
        prepared = super().prepare()
        if not self._session_should_load():
            return prepared
        if self._session_secret() is None:
            self._session_is_empty = True
            return prepared
        return self._session_prepare(prepared)

    def flush(self, include_footers: bool = False) -> "asyncio.Future[None]":
        if not self._session_headers_sent:
            if not include_footers and self._session_must_wait():
                if self._session_flush is None:
                    self._session_flush = _watched(self._session_flush_saved())
                return self._session_flush
            self._session_add_headers()
        return super().flush(include_footers)

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> "asyncio.Future[None]":
        if self._finished or not self._session_must_wait():
            return super().finish(chunk)
        if chunk is not None:
            self.write(chunk)
        # From here on Tornado must treat the request as finished: a second finish() or a write() is an error, and an
        # exception in the handler can only be logged. There is no public way to say so.
        self._finished = True
        return _watched(self._session_finish_saved())

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        exc_info = kwargs.get("exc_info")
        if exc_info and isinstance(exc_info[1], SessionStoreError):
            self._session_error = exc_info[1]  # not to be tried again for the error page
        super().send_error(status_code, **kwargs)

    def _session_opened(self) -> LiveSession:
        live = self._session_live
        if live is None:
            live = self.session_manager.open(self._session_secret(), self._session_claim)
            self._session_live = live
            if self._session_is_empty:
                live.open_empty()
        return live

    def _session_secret(self) -> str | None:
        return self.session_manager.cookie.secret_in(self.request.headers.get("Cookie"))

    def _session_claim(self) -> None:
        if self._session_headers_sent:
            raise SessionError(
                "the response's headers are sent, so the client cannot get the cookie of a new session: "
                "put something into the session before flush() or the WebSocket's handshake"
            )

    def _session_should_load(self) -> bool:
        if self.session_autoload is not None:
            return self.session_autoload
        if isinstance(self, WebSocketHandler):
            return not (_can_await(type(self).open) and _can_await(type(self).on_message))
        return not _can_await(getattr(type(self), (self.request.method or "get").lower()))

    async def _session_prepare(self, prepared: Awaitable[None] | None) -> None:
        if prepared is not None:
            await prepared
        await self._session_opened().load()

    def _session_must_wait(self) -> bool:
        live = self._session_live
        if live is None or not live.is_unsaved or self._session_error is not None:
            return False
        # A WebSocket's handshake takes over the connection right after finish(), which therefore cannot wait.
        return self.session_manager.wait_for_save and self.get_status() != 101

    def _session_add_headers(self) -> None:
        self._session_headers_sent = True
        live = self._session_live
        if live is None:
            return
        if self._session_is_used:
            self.add_header("Vary", "Cookie")
        cookie = None if self._session_error else live.cookie_header(https=self.request.protocol == "https")
        if cookie is not None:
            self.add_header("Set-Cookie", cookie)
            if "Cache-Control" not in self._headers:  # which has no public reader
                self.set_header("Cache-Control", "no-store")

    async def _session_flush_saved(self) -> None:
        await self._session_opened().save()
        if not self._session_headers_sent:
            self._session_add_headers()
            await super().flush()

    async def _session_finish_saved(self) -> None:
        try:
            if self._session_flush is not None:
                await asyncio.wait([self._session_flush])
            await self._session_opened().save()
            self._finished = False
            sent = super().finish()
        except Exception as error:
            self._finished = False
            self._session_fail(error)
            raise
        await sent

    def _session_fail(self, error: Exception) -> None:
        """Answers with an error in place of the response that was held, as Tornado does for a handler's exception."""
        self.log_exception(type(error), error, error.__traceback__)
        if self._session_headers_sent and self.request.connection is not None:
            # The response has begun, so all that can tell the client that it is no success is to break it off.
            self.request.connection.close()  # type: ignore[attr-defined]
        self.send_error(
            error.status_code if isinstance(error, HTTPError) else 500,
            exc_info=(type(error), error, error.__traceback__),
        )


@lru_cache(maxsize=1024)
def _can_await(method: Any) -> bool:
    return inspect.iscoroutinefunction(method) or is_coroutine_function(method)


def _watched(coroutine: Coroutine[Any, Any, None]) -> "asyncio.Future[None]":
    """Runs *coroutine*; an exception that nobody awaits was logged where it happened."""
    task = asyncio.ensure_future(coroutine)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task
