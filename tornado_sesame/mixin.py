"""`SessionMixin`: what a request handler sees of its session."""

import inspect
from asyncio import Future
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tornado.concurrent import chain_future, future_set_exception_unless_cancelled
from tornado.gen import is_coroutine_function
from tornado.log import app_log
from tornado.web import Finish, HTTPError, RequestHandler
from tornado.websocket import WebSocketHandler

from .calls import Saved
from .errors import SessionStoreError
from .live import LiveSession
from .manager import SessionManager
from .session import Session
from .values import check_owner

if TYPE_CHECKING:
    _Handler = RequestHandler
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

    # A request that does not touch its session finds these in the class, and pays for none of them.
    _session_live: LiveSession | None = None
    _session_proxy: Session | None = None  # it holds the live one, and not the other way around
    _session_is_empty = False  # known without a query: the client has no cookie
    _session_is_used = False
    _session_has_failed = False

    @property
    def session(self) -> Session:
        """The visitor's data, saved when changed. ``await self.session`` loads it, once a request, and returns it.

        Assigning a dict replaces the content and keeps the id.

        :raises SessionNotLoaded: from any use before it is loaded.
        :raises SessionDataError: from an assignment of what cannot be stored.
        """
        session = self._session_proxy
        if session is None:
            self._session_is_used = True
            session = self._session_proxy = self._session_opened().session
        return session

    @session.setter
    def session(self, data: Mapping[str, Any]) -> None:
        self._session_is_used = True
        self._session_opened().replace(data)

    @property
    def session_id(self) -> str | None:
        """The id under which the session is stored. It is no secret: it may be logged.

        None before there is one, and before the session is loaded, since what a cookie says may not exist.
        """
        return self._session_opened().id

    @property
    def session_owner(self) -> str | None:
        """To whom the session belongs: a user's id, as a str, set at login; None for nobody.

        It lies beside the data, and makes ``sessions.records(owner)`` and ``sessions.destroy_all(owner)`` find it.

        :raises SessionNotLoaded: before the session is loaded.
        :raises TypeError, ValueError: when it is set to something that is not a str, or an empty one.
        """
        return self._session_opened().owner

    @session_owner.setter
    def session_owner(self, owner: str | None) -> None:
        if owner is not None:
            check_owner(owner)
        self._session_is_used = True
        self._session_opened().owner = owner

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

        :raises SessionNotSaved: when it was not done. What is pending stays so, and goes out with the next save.
        :raises SessionStoreError: when nobody knows whether it was done. Nothing of it is sent again, the response will
            be a 503, and ``await self.session`` reads the session again.
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
        if self._finished or not self._session_should_load():
            return prepared
        live = self._session_live  # there is one if it was used before
        if live is None:
            manager = self.session_manager
            secret = self._session_secret(manager)
            if secret is None:
                self._session_is_empty = True
                return prepared
            self._session_live = live = manager.open(secret)
        return live.load() if prepared is None else self._session_load_after(prepared)

    def flush(self, include_footers: bool = False) -> Future[None]:
        live = self._session_live
        if live is not None and not live.headers_out:
            if not include_footers and self._session_must_wait(live):
                return self._session_hold(live, self._session_flush_held)
            self._session_add_headers(live)
        return super().flush(include_footers)

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> Future[None]:
        live = self._session_live
        if live is None or self._finished or not self._session_must_wait(live):
            return super().finish(chunk)
        if chunk is not None:
            self.write(chunk)
        self._session_begin_hold()
        return self._session_hold(live, self._session_finish_held)

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        exc_info = kwargs.get("exc_info")
        if exc_info and isinstance(exc_info[1], SessionStoreError):
            self._session_has_failed = True
        super().send_error(status_code, **kwargs)

    def _session_opened(self) -> LiveSession:
        live = self._session_live
        if live is None:
            manager = self.session_manager
            secret = None if self._session_is_empty else self._session_secret(manager)
            self._session_live = live = manager.open(secret)
            live.headers_out = self._headers_written  # nothing was held before there was a live session
            if self._session_is_empty:
                live.open_empty()
        return live

    def _session_secret(self, manager: SessionManager) -> str | None:
        return manager.settings.cookie.secret_in(self.request.headers.get("Cookie"))

    def _session_should_load(self) -> bool:
        if self.session_autoload is not None:
            return self.session_autoload
        handler: Any = type(self)
        return _cannot_await(handler, self.request.method or "GET")

    async def _session_load_after(self, prepared: Awaitable[None]) -> None:
        await prepared
        if not self._finished:
            await self._session_opened().load()

    def _session_must_wait(self, live: LiveSession) -> bool:
        if self._session_has_failed or not (live.is_unsaved or live.lost):
            return False
        # A WebSocket's handshake takes over the connection right after finish(), which therefore cannot wait.
        return live.settings.wait_for_save and self.get_status() != 101

    def _session_hold(
        self, live: LiveSession, send: Callable[[LiveSession, SessionStoreError | None], Future[None]]
    ) -> Future[None]:
        """Calls *send* when what is changed by now is saved, or with the error; returns the future of what it sends.

        When that fails, the client has been told by then, so all that is left for a handler that awaits the future is
        to end: it gets a `Finish`.
        """
        sent: Future[None] = Future()
        sent.add_done_callback(lambda sent: sent.cancelled() or sent.exception())  # as nobody needs to await it

        def on_saved(saved: "Future[Saved] | None") -> None:
            result = saved.result() if saved is not None else None
            # Of an earlier save nobody may know whether it was done; then this response is no success, either.
            error = result if isinstance(result, SessionStoreError) else live.lost
            try:
                chain_future(send(live, error), sent)
            except Finish as ended:
                future_set_exception_unless_cancelled(sent, ended)
            except Exception as failure:
                self._session_fail(failure)
                future_set_exception_unless_cancelled(sent, Finish())

        if live.is_unsaved:
            live.saved().add_done_callback(on_saved)
        else:
            on_saved(None)
        return sent

    def _session_flush_held(self, live: LiveSession, error: SessionStoreError | None) -> Future[None]:
        if error is not None:
            raise Finish if self._finished else error  # finish() has been called meanwhile, and fails by itself
        if live.headers_out:
            return super().flush()
        is_held = self._finished
        self._session_end_hold(live)
        self._session_add_headers(live)
        flushed = super().flush()
        if is_held:
            self._session_begin_hold()
        return flushed

    def _session_finish_held(self, live: LiveSession, error: SessionStoreError | None) -> Future[None]:
        self._session_end_hold(live)
        if error is not None:
            raise error
        return super().finish()

    # Tornado must treat a request as answered while its response is held, as it does after its own finish(): a second
    # one, a write() or a redirect() is an error, send_error() is ignored, and nothing more of an upload is delivered.
    # There is no public way to say so.

    def _session_begin_hold(self) -> None:
        self._finished = self._headers_written = True
        self.data_received = _ignore  # type: ignore[method-assign]

    def _session_end_hold(self, live: LiveSession) -> None:
        self._finished = False
        self._headers_written = live.headers_out

    def _session_fail(self, error: Exception) -> None:
        """Answers with an error in place of the response that was held, as Tornado does for a handler's exception."""
        self._session_has_failed = True
        try:
            self.log_exception(type(error), error, error.__traceback__)
        except Exception:
            app_log.exception("Error in exception logger")
        if self._finished:
            return  # the error came after the response, from on_finish()
        if self._session_live is not None and self._session_live.headers_out and self.request.connection is not None:
            # The response has begun, so all that can tell the client that it is no success is to break it off.
            self.request.connection.close()  # type: ignore[attr-defined]
        status = error.status_code if isinstance(error, HTTPError) else 500
        self.send_error(status, exc_info=(type(error), error, error.__traceback__))

    def _session_add_headers(self, live: LiveSession) -> None:
        live.headers_out = True
        if self._session_is_used:
            self.add_header("Vary", "Cookie")
        if self._session_has_failed and live.is_unsaved and not live.is_stored:
            return  # the cookie would open nothing
        cookie = live.cookie_header(https=self.request.protocol == "https")
        if cookie is not None:
            self.add_header("Set-Cookie", cookie)
            if "Cache-Control" not in self._headers:  # headers that are set have no public reader
                self.set_header("Cache-Control", "no-store")


def _ignore(chunk: bytes) -> None:
    pass


@lru_cache(maxsize=1024)
def _cannot_await(handler: Any, verb: str) -> bool:
    """Tells whether what handles the request is there and is a plain ``def``, which finds the session loaded."""
    if issubclass(handler, WebSocketHandler):
        return not (_can_await(handler.open) and _can_await(handler.on_message))
    method = getattr(handler, verb.lower())
    return not _can_await(method) and method is not getattr(RequestHandler, verb.lower(), None)


def _can_await(method: Any) -> bool:
    return inspect.iscoroutinefunction(method) or is_coroutine_function(method)
