"""A running application and its visitors, for tests of handlers."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application

from ..manager import SessionManager
from ..session import SessionRoot
from ..stores import SessionRecord
from .visitors import authenticated_cookie, edit_session, expire_session, stored_session

__all__ = ["Site", "Visitor"]


class Site:
    """An application that runs on a free port, on loopback.

    :arg application: it has the setting ``sessions``.
    :raises TypeError: when it has no such setting.

    .. attribute:: url

       Where it runs, without a slash at the end.

    .. attribute:: port

       The port that it listens on.
    """

    def __init__(self, application: Application) -> None:
        if not isinstance(application.settings.get("sessions"), SessionManager):
            raise TypeError(
                "this application has no setting `sessions`: use Application(..., sessions=SessionManager())"
            )
        self.application = application
        socket, self.port = bind_unused_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = AsyncHTTPClient(force_instance=True)
        self._server = HTTPServer(application)
        self._server.add_socket(socket)

    @property
    def sessions(self) -> SessionManager[Any]:
        """The application's manager."""
        sessions: SessionManager[Any] = self.application.settings["sessions"]
        return sessions

    def visitor(self) -> "Visitor":
        """Returns a visitor who has no cookies yet."""
        return Visitor(self)

    async def close(self) -> None:
        """Ends the server and closes the sessions."""
        self._server.stop()
        self.client.close()
        await self._server.close_all_connections()
        await self.sessions.close()


class Visitor:
    """Somebody who visits a `Site` and keeps the cookies that he is given, whatever their paths and domains.

    :arg site: where he goes; `Site.visitor` makes a visitor.

    .. attribute:: cookies

       The cookies' values, by name. You may change them.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self.cookies: dict[str, str] = {}

    async def fetch(self, path: str = "/", *, method: str = "GET", **options: Any) -> HTTPResponse:
        """Sends a request and returns the response, whatever its status. Redirects are not followed.

        :arg path: with a slash at the start, and the query, if any.
        :arg method: of HTTP. POST, PUT and PATCH have an empty ``body`` unless you give another one.
        :arg options: as for `~tornado.httpclient.HTTPRequest`.
        """
        headers = dict(options.pop("headers", {}))
        if self.cookies:
            headers["Cookie"] = self._cookie
        if method in {"POST", "PUT", "PATCH"}:
            options.setdefault("body", b"")
        options = {"follow_redirects": False, **options}
        response = await self._site.client.fetch(
            self._site.url + path, raise_error=False, method=method, headers=headers, **options
        )
        for header in response.headers.get_list("Set-Cookie"):
            self._keep(header)
        return response

    async def sign_in(self, owner: str, data: Mapping[str, Any] = {}) -> None:
        """Gives him a new session that belongs to *owner* and contains *data*, as after a login.

        :raises SessionStoreError: when the store fails.
        """
        self._keep(await authenticated_cookie(self._site.sessions, data, owner=owner))

    async def session(self) -> SessionRecord | None:
        """Returns his session as it is stored, or None when he has none; see `stored_session`."""
        return await stored_session(self._site.sessions, self._cookie) if self._has_one else None

    def edit_session(self) -> "AbstractAsyncContextManager[SessionRoot]":
        """Reads and changes his session, with ``async with visitor.edit_session() as session``; see `edit_session`."""
        return edit_session(self._site.sessions, self._cookie)

    async def expire_session(self) -> None:
        """Lets his session expire, as if he had not used it for too long; see `expire_session` of this package."""
        await expire_session(self._site.sessions, self._cookie)

    @property
    def _has_one(self) -> bool:
        return self._site.sessions.settings.cookie.name in self.cookies

    @property
    def _cookie(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items())

    def _keep(self, header: str) -> None:
        """Keeps or drops a cookie, as a ``Set-Cookie`` header says (RFC 6265, 5.2 and 5.3)."""
        pair, *attributes = header.split(";")
        name, _, value = pair.strip().partition("=")
        self.cookies[name] = value
        named = {key.strip().lower(): what for key, _, what in (part.partition("=") for part in attributes)}
        if _is_past(named):
            del self.cookies[name]


def _is_past(attributes: Mapping[str, str]) -> bool:
    with suppress(ValueError):
        if "max-age" in attributes:  # which counts more than the other
            return int(attributes["max-age"]) <= 0
        if "expires" in attributes:
            return parsedate_to_datetime(attributes["expires"]).replace(tzinfo=UTC) <= datetime.now(UTC)
    return False
