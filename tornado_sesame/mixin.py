"""`SessionMixin`: what a request handler sees of its session."""

import asyncio
import inspect
import time
import typing
from asyncio import Future
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextvars import Context, copy_context
from datetime import datetime, timedelta
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, cast, get_args, get_origin

from tornado.concurrent import future_set_result_unless_cancelled
from tornado.gen import convert_yielded, is_coroutine_function
from tornado.log import app_log
from tornado.web import Application, Finish, HTTPError, RequestHandler
from tornado.websocket import WebSocketHandler

from .calls import Saved
from .cookie import Secret, SessionCookie, secrets_among
from .errors import SessionStoreError
from .live import LiveSession
from .manager import SessionManager
from .session import Session, SessionRoot, SessionT
from .settings import checked_lifetime
from .stores import SessionStore
from .values import check_owner

if TYPE_CHECKING:
    _Handler = RequestHandler
else:

    class _Handler:
        pass


__all__ = ["SessionMixin"]

# What a client that gets a 503 is asked to wait, in seconds, before it tries again.
RETRY_AFTER_SECONDS = 5

ERROR_PAGE = (
    "this request's session is not loaded, and its error page is being made: it can be read then (it is empty), "
    "but not be changed"
)


# Which would take it for a dict of futures, in a ``gen.coroutine`` that yields ``self.session``.
convert_yielded.register(SessionRoot, asyncio.ensure_future)  # type: ignore[attr-defined]


class SessionMixin(_Handler, Generic[SessionT]):
    """Gives a `~tornado.web.RequestHandler` its ``session``. Put it first::

        class Counter(SessionMixin, RequestHandler):
            def get(self):
                self.session.times = self.session.get("times", 0) + 1
                self.write(f"{self.session.times} times!")

    With ``SessionMixin[Visit]``, where ``Visit`` is a `TypedSession`, the session is a ``Visit``.

    The response is held until the handler's changes are saved. If that fails, the client gets a 503 instead.

    Three class attributes say how a handler uses its session: `session_autoload`, `session_touch` and `session_live`.

    :raises TypeError: when a class has it after `~tornado.web.RequestHandler`, or with a parameter that is not a class
        of sessions.
    """

    session_autoload: bool | None = None
    """Whether the session is loaded before `prepare`. None: if the method that handles the request is a plain ``def``,
    which cannot await it. An ``async def`` or a coroutine loads the session with ``await self.session`` where it needs
    it. A load that fails raises where the session is used, so pages that do not use it go on working."""

    session_touch: bool = True
    """Whether using the session in this handler extends its life. Set it to False for requests that the user does not
    make himself, as when a page asks every minute whether there is news. A new session lives as long as any other."""

    session_live: bool | None = None
    """Whether `on_session_change` and `on_session_end` are called while a request is handled. None: only in the
    handlers of WebSockets."""

    # A request that does not touch its session finds these in the class, and pays for none of them.
    _session_kind: type[SessionRoot] = Session
    _session_parameter: Any  # what stands for the kind in a class that is generic
    _session_live: LiveSession | None = None
    _session_proxy: SessionT | None = None  # it holds the live one, and not the other way around
    _session_is_empty = False  # known without a query: the client has no cookie
    _session_is_used = False
    _session_is_listening = False
    _session_is_over = False  # what handles the request has ended
    _session_hooks: "frozenset[asyncio.Task[None]]" = frozenset()  # those that run
    _session_change_hook: "asyncio.Task[None] | None" = None
    _session_has_changed_again = False  # since that was called
    _session_has_failed = False
    _session_is_error_page = False
    _session_end_untold: str | None = None  # why it has ended before the WebSocket was open
    _session_error: Exception | None = None  # why it could not be opened before prepare()
    _session_holds: "deque[_Hold] | tuple[()]" = ()  # what is to be sent, in order
    _session_context: Context | None = None  # the request's own
    _session_prepared: "Future[None] | None" = None  # what Tornado's HTTP server waits for, while a response is held

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        order = cls.__mro__
        if RequestHandler in order and order.index(RequestHandler) < order.index(SessionMixin):
            base = next(base for base in cls.__bases__ if issubclass(base, RequestHandler))
            raise TypeError(
                f"SessionMixin must come before {base.__name__} among the bases of {cls.__name__}, as else what it "
                f"overrides is not called: class {cls.__name__}(SessionMixin, {base.__name__})"
            )
        for generic in cls.__dict__.get("__orig_bases__", ()):
            base = get_origin(generic)
            if isinstance(base, type) and issubclass(base, SessionMixin):
                arguments = dict(zip(base.__parameters__, get_args(generic), strict=False))  # type: ignore[attr-defined]
                cls._session_become(arguments.get(base._session_parameter))

    @classmethod
    def _session_become(cls, kind: Any) -> None:
        """Has sessions of this *kind*, as a parameter says; None: of that of its bases."""
        if kind is None:
            return
        cls._session_parameter = kind
        if isinstance(kind, typing.TypeVar):  # a generic class, of which sessions have the kind that all have at least
            default = getattr(kind, "__default__", None)  # since Python 3.13
            kind = default if isinstance(default, type) else kind.__bound__ or cls._session_kind
        kind = get_origin(kind) or kind
        if not (isinstance(kind, type) and issubclass(kind, SessionRoot)):
            raise TypeError(
                f"the parameter of SessionMixin in {cls.__name__} must be a subclass of TypedSession that is defined "
                f"above it, not {kind!r}"
            )
        cls._session_kind = kind

    @property
    def session(self) -> SessionT:
        """The visitor's data, saved when changed. ``await self.session`` loads it, once a request, and returns it.

        Assigning a dict replaces the content and keeps the id.

        :raises SessionNotLoaded: when it is used before it is loaded.
        :raises SessionDataError: when something is assigned that cannot be stored.
        """
        session = self._session_proxy
        if session is None:
            session = self._session_proxy = cast(SessionT, self._session_opened().session)
        elif self._session_is_listening and self._session_live is not None:
            self._session_live.use()
        return session

    @session.setter
    def session(self, data: Mapping[str, Any]) -> None:
        self._session_opened().replace(data)

    @property
    def session_id(self) -> str | None:
        """The id under which the session is stored. It is not a secret, so it may be logged.

        It is None while there is no session yet, and before the session is loaded, as the session of a cookie may not
        exist any more.
        """
        return self._session_opened().id

    @property
    def session_owner(self) -> str | None:
        """To whom the session belongs: a user's id, as a str, set at login; None for nobody.

        It is kept beside the data. ``sessions.records(owner)`` and ``sessions.destroy_all(owner)`` find sessions by it.

        :raises SessionNotLoaded: before the session is loaded.
        :raises TypeError, ValueError: when it is set to anything but None or a str that is not empty.
        """
        return self._session_opened().owner

    @session_owner.setter
    def session_owner(self, owner: str | None) -> None:
        if owner is not None:
            check_owner(owner)
        self._session_opened().owner = owner

    @property
    def session_lifetime(self) -> timedelta | None:
        """This session's own idle timeout, a timedelta, as for "keep me signed in"; None for the manager's.

        The session keeps it when its id is rotated, and the manager's ``absolute_timeout`` still holds. Whenever it
        changes, the response gives the browser the cookie again. The cookie of a session with a lifetime of its own
        outlasts the browser, whatever ``SessionCookie(max_age=...)`` says; with None, it is like all others.

        :raises SessionNotLoaded: before the session is loaded.
        :raises SessionError: when it is set after the response's headers were sent.
        :raises TypeError, ValueError: when it is set to anything but None or a timedelta of at least a second.
        """
        return self._session_opened().lifetime

    @session_lifetime.setter
    def session_lifetime(self, lifetime: timedelta | None) -> None:
        self._session_opened().lifetime = checked_lifetime(lifetime)

    @property
    def session_expires(self) -> datetime | None:
        """When the session will expire if nobody uses it again: an aware datetime in UTC; None before it is stored.

        Asking extends nothing, but loading the session does, unless `session_touch` is False.

        :raises SessionNotLoaded: before the session is loaded.
        """
        return self._session_opened().expires

    @property
    def session_manager(self) -> SessionManager[Any]:
        """The application's manager: its setting ``sessions``. If there is none, one in memory is made and set there.

        :raises TypeError: when the setting is something else.
        """
        return _manager_of(self.application)

    async def load_session(self) -> SessionT:
        """Loads the session and returns it, as ``await self.session`` does.

        It is a coroutine, so it can be given to `asyncio.gather` and `asyncio.create_task`.

        :raises SessionStoreError: when the store fails.
        """
        return cast(SessionT, await self._session_opened().session)

    async def save_session(self) -> None:
        """Saves what is pending now. It is rarely needed, as `finish` does so, too.

        :raises SessionNotSaved: when the save was certainly not done. The changes go out with the next one.
        :raises SessionStoreError: when nobody knows whether it was done. The changes are not sent again, the response
            will be a 503, and ``await self.session`` reads the session again.
        :raises SessionGone: when the session has ended meanwhile. The changes are dropped.
        """
        await self._session_opened().save()

    async def reload_session(self) -> None:
        """Saves what is pending and reads the session again, for handlers that live long, such as those of WebSockets.

        Dicts and lists that were taken from the session before are not part of it any more.

        :raises SessionStoreError: when that fails.
        """
        await self._session_opened().reload()

    async def rotate_session_id(self) -> None:
        """Gives the session a new secret and id; the old ones stop working at once. Call it at login.

        Whoever knew the old secret, perhaps because he planted it, is left with nothing. If the rotation is cancelled
        or fails, the session either stays under the old id, or the response gives the client the new secret.

        :raises SessionError: when the headers were sent already, so that the client cannot get the new cookie.
        :raises SessionNotSaved: when the session stays under the old id.
        :raises SessionStoreError: when nobody knows yet. The response will be a 503 with the new cookie.
        """
        await self._session_opened().rotate()

    async def destroy_session(self) -> None:
        """Ends the session, in the store and in the browser; ``self.session`` is then a new, empty one.

        If the request carries the cookies of several sessions, of different domains or paths, all of them end.

        :raises SessionStoreError: when the store fails.
        """
        await self._session_opened().destroy()

    def on_session_change(self) -> Awaitable[None] | None:
        """Called after another request has changed the session; ``self.session`` has the new content already.

        This handler's own changes do not cause a call. Override it, as a method or a coroutine, in the handler of a
        WebSocket, or in another one that lives long and has ``session_live = True``.
        """
        return None

    def on_session_end(self, reason: str) -> Awaitable[None] | None:
        """Called when another request has ended the session, or when it has expired. It may be a coroutine.

        By default, it closes a WebSocket with code 1008, as the user may not be signed in any more; other requests go
        on. ``self.session`` is then empty and nobody's, and changes to it are dropped.

        :arg reason: "destroyed", "rotated" (the client has a new session of the same content) or "expired".
        """
        if isinstance(self, WebSocketHandler):
            self.close(1008, f"session {reason}")
        return None

    # What follows overrides methods of RequestHandler. They do what theirs do, but hold what they send until the
    # session is saved.

    def _execute(self, transforms: list[Any], *args: bytes, **kwargs: bytes) -> Any:  # an awaitable, as Tornado needs
        # This is where Tornado runs a request, and has been since its beginning; all that handlers may override comes
        # later. The task is made here, as only its maker knows its context, in which what was held is sent. It is no
        # eager one: by the time it holds a response, Tornado waits for `_prepared_future`.
        self._session_context = copy_context()
        execution = super()._execute(transforms, *args, **kwargs)
        if self._session_should_load():
            if self._session_live is None and self._session_carries_nothing():
                self._session_is_empty = True
            else:
                execution = self._session_load_before(execution)
        loop = asyncio.get_running_loop()
        task = asyncio.Task(execution, loop=loop, context=self._session_context)
        if self._session_lives_long():
            task.add_done_callback(self._session_stop_listening)
        return task

    def flush(self, include_footers: bool = False) -> Future[None]:
        if self._session_has_failed and self.get_status() == 503 and "Retry-After" not in self._headers:
            self.set_header("Retry-After", str(RETRY_AFTER_SECONDS))
        live = self._session_live
        if live is not None:
            if not include_footers and self._session_must_wait(live):
                written, self._write_buffer = self._write_buffer, []
                return self._session_hold(live, partial(self._session_flush_held, written))
            if not live.headers_out:
                self._session_add_headers(live)
        return super().flush(include_footers)

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> Future[None]:
        live = self._session_live
        if live is None or self._finished or not self._session_must_wait(live):
            if self._session_end_untold is not None and self.get_status() == 101:
                # As soon as the WebSocket is open, which it is right after this.
                asyncio.get_running_loop().call_soon(self._session_hear, self._session_end_untold)
            return super().finish(chunk)
        if chunk is not None:
            self.write(chunk)
        self._session_begin_hold()
        return self._session_hold(live, self._session_finish_held)

    def get_websocket_protocol(self) -> Any:
        """Called by Tornado when a WebSocket begins. Its handshake waits until earlier changes are saved."""
        # A handshake cannot be held like other responses, as it takes over the connection right after `finish`. So it
        # begins when what was changed before is saved, and a failure can still be a 503.
        protocol = super().get_websocket_protocol()  # type: ignore[misc]  # of WebSocketHandler, the only one to call it
        if protocol is not None:
            protocol.accept_connection = partial(self._session_accept, protocol)
        return protocol

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        exc_info = kwargs.get("exc_info")
        if exc_info and isinstance(exc_info[1], SessionStoreError):
            self._session_has_failed = True
        self._session_is_error_page = True
        if self._session_live is not None and not self._session_live.is_loaded:
            self._session_live.refuse_changes(ERROR_PAGE)
        super().send_error(status_code, **kwargs)

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        if not (isinstance(value, SessionStoreError) and value.is_logged):
            super().log_exception(typ, value, tb)

    @property
    def _session_manager(self) -> SessionManager[Any]:
        # The application may have the public name for something else, as Jupyter Server has.
        if type(self).session_manager is not SessionMixin.session_manager:
            manager: object = self.session_manager
            if isinstance(manager, SessionManager):
                return manager
        return _manager_of(self.application)

    def _session_opened(self) -> LiveSession:
        """Returns the session of a request that uses it."""
        self._session_is_used = True
        if self._session_error is not None and not self._session_is_error_page:
            raise self._session_error
        return self._session_open()

    def _session_open(self) -> LiveSession:
        live = self._session_live
        if live is None:
            manager = self._session_manager
            cookie, header = manager.settings.cookie, manager.settings.header
            secrets: list[Secret] = []
            if header is not None and header in self.request.headers:
                is_covered = True
                secrets = secrets_among(self.request.headers.get_list(header))
            else:
                header = None
                is_covered = cookie.covers(self.request.path)
                if is_covered and not self._session_is_empty:
                    secrets = cookie.secrets_in(self.request.headers.get_list("Cookie"))
            self._session_live = live = manager.open(
                secrets, self.request.request_time, self._session_kind, self.session_touch, header
            )
            live.headers_out = self._headers_written  # nothing was held before there was a live session
            if not is_covered:
                live.refuse_changes(
                    f"requests outside of the session cookie's path, {cookie.path!r}, have no session: begin sessions "
                    "below it, or give SessionCookie a wider path"
                )
            elif self._session_is_error_page:
                live.refuse_changes(ERROR_PAGE)
            elif self._session_is_empty:
                live.open_empty()
            if self._session_lives_long():
                self._session_is_listening = True
                live.listen(self._session_hear)
        return live

    def _session_lives_long(self) -> bool:
        if self._session_is_over:
            return False
        return isinstance(self, WebSocketHandler) if self.session_live is None else self.session_live

    def _session_hear(self, reason: str | None) -> None:
        """Has the application told that the session has changed or (for a *reason*) ended."""
        live = self._session_live
        if isinstance(self, WebSocketHandler) and live is not None and not live.headers_out:
            # Until the socket is open, it has seen nothing that has changed; but an end it has to learn of.
            self._session_end_untold = reason or self._session_end_untold
        elif reason is not None:
            self._session_tell(self.on_session_end, reason)  # whatever a hook for changes waits for
        elif self._session_change_hook is None:
            self._session_change_hook = self._session_tell(self.on_session_change)
            self._session_change_hook.add_done_callback(self._session_change_told)
        else:
            self._session_has_changed_again = True

    def _session_change_told(self, hook: "asyncio.Task[None]") -> None:
        self._session_change_hook = None
        if self._session_has_changed_again:
            self._session_has_changed_again = False
            self._session_hear(None)

    def _session_tell(self, hook: Callable[..., Awaitable[None] | None], *arguments: str) -> "asyncio.Task[None]":
        """Calls a hook of the application's, in the request's context."""

        async def call() -> None:
            try:
                result = hook(*arguments)
                if result is not None:
                    await result
            except Exception as error:
                self.log_exception(type(error), error, error.__traceback__)
                if isinstance(self, WebSocketHandler):  # as after an error in `on_message`
                    self.close(1011)

        task = asyncio.get_running_loop().create_task(call(), context=self._session_context)
        self._session_hooks = self._session_hooks | {task}  # which asyncio does not keep alive
        task.add_done_callback(self._session_hook_done)
        return task

    def _session_hook_done(self, hook: "asyncio.Task[None]") -> None:
        self._session_hooks = self._session_hooks - {hook}

    def _session_stop_listening(self, execution: "asyncio.Task[None]") -> None:
        self._session_is_over = True
        if self._session_live is not None:
            self._session_live.stop_listening()

    def _session_should_load(self) -> bool:
        if self.session_autoload is not None:
            return self.session_autoload
        handler: Any = type(self)
        return _cannot_await(handler, self.request.method or "GET")

    def _session_carries_nothing(self) -> bool:
        """Tells whether the client is known to have no session, as it sends neither cookies nor a header for one."""
        headers = self.request.headers
        if "Cookie" in headers:
            return False
        try:
            header = self._session_manager.settings.header
        except Exception:  # which is raised again where the session is touched
            return False
        return header is None or header not in headers

    async def _session_load_before(self, execution: Coroutine[Any, Any, None]) -> None:
        try:
            await self._session_open().load()
        except SessionStoreError:
            pass  # the session raises it where it is touched
        except Exception as error:
            self._session_error = error
        except BaseException:  # the server ends
            execution.close()
            raise
        await execution

    async def _session_accept(self, protocol: Any, handler: Any) -> None:
        del protocol.accept_connection  # its own again
        live = self._session_live
        if live is not None and self._session_must_wait(live):
            saved = await live.settled()
            error = saved if isinstance(saved, SessionStoreError) else live.lost
            if error is not None:
                raise error
        await protocol.accept_connection(handler)

    def _session_must_wait(self, live: LiveSession) -> bool:
        if self.get_status() == 101:  # which has waited before
            return False
        if live.is_moving:
            return True
        if self._session_has_failed:
            return False
        if self._session_holds:
            return True
        return live.settings.wait_for_save and (live.is_unsaved or live.lost is not None)

    def _session_hold(
        self, live: LiveSession, send: Callable[[LiveSession, SessionStoreError | None], Future[None]]
    ) -> Future[None]:
        """Calls *send* when what is changed by now is saved, or with the error; returns the future of what it sends.

        When that fails, the client has been told by then, so all that is left for a handler that awaits the future is
        to end: it gets a `Finish`. What is held is sent in its order.
        """
        sent: Future[None] = Future()
        saved = live.settled() if live.is_unsaved or live.is_moving else None
        self._session_holds = self._session_holds or deque()
        self._session_holds.append(_Hold(saved, send, sent, time.monotonic()))
        if saved is None:
            self._session_release(live)
        else:
            saved.add_done_callback(lambda saved: self._session_release(live), context=self._session_context)
        return sent

    def _session_release(self, live: LiveSession) -> None:
        """Sends what needs to be held no longer."""
        while self._session_holds and self._session_holds[0].is_over:
            hold = self._session_holds.popleft()
            live.held(time.monotonic() - hold.began)
            result = hold.saved.result() if hold.saved is not None else None
            # Of an earlier save nobody may know whether it was done; then this response is no success, either.
            error = result if isinstance(result, SessionStoreError) else live.lost
            try:
                hold.send(live, error).add_done_callback(hold.end)
            except Finish as ended:
                hold.fail(ended)
            except Exception as failure:
                self._session_fail(failure)
                hold.fail(Finish())
        if self._session_prepared is not None and not self._session_holds:
            future_set_result_unless_cancelled(self._session_prepared, None)
            self._session_prepared = None

    def _session_flush_held(
        self, written: list[bytes], live: LiveSession, error: SessionStoreError | None
    ) -> Future[None]:
        is_held = self._finished
        if error is not None:
            if is_held:
                self._write_buffer = written + self._write_buffer
                raise Finish  # finish() has been called meanwhile, and fails or succeeds by itself
            raise error
        self._session_end_hold(live)
        self._write_buffer, later = written, self._write_buffer
        if not live.headers_out:
            self._session_add_headers(live)
        flushed = super().flush()
        self._write_buffer = later
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
        if self._prepared_future is not None and not self._prepared_future.done():
            # Only when the response is sent does Tornado know that it must not ask for the upload (100 Continue).
            self._session_prepared, self._prepared_future = self._prepared_future, None

    def _session_end_hold(self, live: LiveSession) -> None:
        self._finished = False
        self._headers_written = live.headers_out

    def _session_fail(self, error: Exception) -> None:
        """Answers with an error in place of the response that was held, as Tornado does for a handler's exception."""
        self._session_has_failed = True
        while self._session_holds:
            self._session_holds.popleft().fail(Finish())
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
            self._session_add_vary(live.settings.header)
        if self._session_has_failed and live.is_unsaved and not live.is_stored:
            return  # the cookie would open nothing
        header = live.response_header(https=self.request.protocol == "https")
        if header is None:
            return
        name, value = header
        if name == "Set-Cookie":
            self._session_drop_cookie(live.settings.cookie)
            self.add_header(name, value)
        else:
            self.set_header(name, value)
        directives = _members(self._headers.get_list("Cache-Control"))
        if "public" in directives or not {"private", "no-store"} & directives:
            self.set_header("Cache-Control", "no-store")

    def _session_drop_cookie(self, cookie: SessionCookie) -> None:
        """Forgets what `set_cookie` or `clear_cookie` has made of the session's own cookie."""
        others: dict[str, Any] = getattr(self, "_new_cookie", {})
        other = others.get(cookie.name)
        if other is not None and other["path"] == cookie.path and other["domain"] == (cookie.domain or ""):
            del others[cookie.name]

    def _session_add_vary(self, header: str | None) -> None:
        if header is None and "Vary" not in self._headers:
            self._headers["Vary"] = "Cookie"  # as it mostly is
            return
        varies = _members(self._headers.get_list("Vary"))
        for name in ("Cookie", header):
            if name is not None and not {name.lower(), "*"} & varies:
                self.add_header("Vary", name)


SessionMixin._session_parameter = SessionMixin.__parameters__[0]  # type: ignore[attr-defined]


class _Hold(NamedTuple):
    saved: "Future[Saved] | None"
    send: Callable[[LiveSession, SessionStoreError | None], Future[None]]
    sent: Future[None]
    began: float

    @property
    def is_over(self) -> bool:
        return self.saved is None or self.saved.done()

    def end(self, sent: "Future[None]") -> None:
        """Is to be called when it was sent, or could not be."""
        error = sent.exception()
        if error is not None:
            self.fail(error)
        elif not self.sent.done():
            self.sent.set_result(None)

    def fail(self, error: BaseException) -> None:
        if not self.sent.done():
            self.sent.set_exception(error)
            self.sent.exception()  # has been seen, as nobody needs to await it


def _manager_of(application: Application) -> SessionManager[Any]:
    settings = application.settings
    manager = settings.get("sessions")
    if manager is None:
        for name, value in settings.items():
            if isinstance(value, SessionManager | SessionStore):
                raise TypeError(
                    f"the application setting `{name}` is a {type(value).__name__}, but sessions are set up by the "
                    "setting `sessions`: use Application(..., sessions=SessionManager(store)), or override "
                    "`session_manager` in handlers that use another one"
                )
        manager = settings["sessions"] = SessionManager()
    if not isinstance(manager, SessionManager):
        raise TypeError(
            f"the application setting `sessions` must be a SessionManager, not {type(manager).__name__}: "
            "use Application(..., sessions=SessionManager(store))"
        )
    return manager


def _members(fields: list[str]) -> set[str]:
    """Returns the members of a header's comma-separated list (RFC 9110, 5.6.1), in lower case."""
    return {member.strip().lower() for field in fields for member in field.split(",")}


def _ignore(chunk: bytes) -> None:
    pass


@lru_cache(maxsize=1024)
def _cannot_await(handler: Any, verb: str) -> bool:
    """Tells whether what handles the request is there and is a plain ``def``, which finds the session loaded."""
    if issubclass(handler, WebSocketHandler):
        return not (_can_await(handler.open) and _can_await(handler.on_message))
    if verb not in handler.SUPPORTED_METHODS:
        return False
    method = getattr(handler, verb.lower())
    return not _can_await(method) and method is not getattr(RequestHandler, verb.lower(), None)


def _can_await(method: Any) -> bool:
    return inspect.iscoroutinefunction(method) or is_coroutine_function(method)
