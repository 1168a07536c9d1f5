"""Visitors with a session, for tests of handlers."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from ..changes import Changes
from ..cookie import Secret
from ..errors import SessionGone
from ..manager import SessionManager
from ..session import SessionRoot
from ..settings import now, truncated_to_ms
from ..stores import SessionRecord, SessionUpdate

__all__ = ["authenticated_cookie", "edit_session", "expire_session", "stored_session"]


async def authenticated_cookie(
    manager: SessionManager[Any], data: Mapping[str, Any], *, owner: str | None = None
) -> str:
    """Stores a new session and returns the ``Cookie`` header of a browser that has it.

    With this header, a test begins where a login ends::

        cookie = await authenticated_cookie(sessions, {"user": "alice"}, owner="alice")
        response = await http_client.fetch(url, headers={"Cookie": cookie})

    :arg manager: the application's manager, ``application.settings["sessions"]``.
    :arg data: the session's content.
    :arg owner: to whom it belongs, as in `SessionMixin.session_owner`.
    :raises ValueError: when there is neither data nor an owner, since such a session is not stored.
    :raises SessionStoreError: when the store fails.
    """
    if not data and owner is None:
        raise ValueError("a session without data and owner is not stored: put something into it")
    live = manager.open()
    live.open_empty()
    live.replace(data)
    live.owner = owner
    await live.save()
    header = live.response_header(https=True)
    assert header is not None  # noqa: S101 - of a new session
    return header[1].partition(";")[0]


async def stored_session(manager: SessionManager[Any], cookie: str) -> SessionRecord | None:
    """Returns the session of a visitor as it is stored; None when there is none, or it has expired.

    :arg manager: the application's manager.
    :arg cookie: a ``Cookie`` header, as from `authenticated_cookie`, or the ``Set-Cookie`` header of a response.
    :raises ValueError: when it does not contain the session's cookie.
    :raises SessionStoreError: when the store fails.
    """
    id = _id_in(manager, cookie)
    record = (await manager.store.load([id], timeout=manager.settings.timeout)).get(id)
    if isinstance(record, Exception):
        raise record
    if not isinstance(record, SessionRecord):
        return None
    return record if manager.settings.is_valid(record.created, record.expires, now()) else None


def edit_session(manager: SessionManager[Any], cookie: str) -> "AbstractAsyncContextManager[SessionRoot]":
    """Reads and changes the session of a visitor; see `SessionManager.edit`::

        async with edit_session(sessions, cookie) as session:
            session.cart = []

    :arg manager, cookie: as for `stored_session`.
    :raises ValueError: when *cookie* does not contain the session's cookie.
    :raises SessionGone: when there is no such session.
    """
    return manager.edit(_id_in(manager, cookie))


async def expire_session(manager: SessionManager[Any], cookie: str) -> None:
    """Lets the session of a visitor expire, as if he had not used it for too long.

    :arg manager, cookie: as for `stored_session`.
    :raises ValueError: when *cookie* does not contain the session's cookie.
    :raises SessionGone: when there is no such session.
    :raises SessionStoreError: when the store fails.
    """
    record = await stored_session(manager, cookie)
    if record is None:
        raise SessionGone(_id_in(manager, cookie))
    moment = truncated_to_ms(now())
    write = SessionUpdate(record.id, Changes(), moment, moment, record.lifetime)
    (result,) = await manager.store.save([write], timeout=manager.settings.timeout)
    if isinstance(result, Exception):
        raise result


def _id_in(manager: SessionManager[Any], cookie: str) -> str:
    name = manager.settings.cookie.name
    secrets: list[Secret] = manager.settings.cookie.secrets_in([cookie])
    if not secrets:
        raise ValueError(f"there is no cookie {name} in it, or it has not the form of a session's")
    return secrets[0].id
