"""Visitors with a session, for tests of handlers."""

from collections.abc import Mapping
from typing import Any

from ..manager import SessionManager

__all__ = ["authenticated_cookie"]


async def authenticated_cookie(
    manager: SessionManager[Any], data: Mapping[str, Any], *, owner: str | None = None
) -> str:
    """Stores a new session and returns the ``Cookie`` header of the browser that has it.

    With it, a test begins where a login would have ended::

        cookie = await authenticated_cookie(sessions, {"user": "alice"}, owner="alice")
        response = await http_client.fetch(url, headers={"Cookie": cookie})

    :arg manager: the application's, ``application.settings["sessions"]``.
    :arg data: what is in the session.
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
