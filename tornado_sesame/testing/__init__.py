"""Help for tests of handlers and of stores of your own.

For handlers, a `Site` runs your application, and a `Visitor` has its cookies; with pytest, the fixture ``sesame_site``
in ``tornado_sesame.testing.fixtures`` gives one. With Tornado's own test cases, `authenticated_cookie` makes a session,
and `stored_session`, `edit_session` and `expire_session` look at it, change it and let it expire.

A store of your own passes `StoreContract`. This and the fixtures need pytest and pytest-asyncio, but nothing else does.
"""

from typing import TYPE_CHECKING, Any

from .site import Site, Visitor
from .visitors import authenticated_cookie, edit_session, expire_session, stored_session

if TYPE_CHECKING:
    from .contract import StoreContract

__all__ = [
    "Site",
    "StoreContract",
    "Visitor",
    "authenticated_cookie",
    "edit_session",
    "expire_session",
    "stored_session",
]


def __getattr__(name: str) -> Any:
    # Not before somebody asks for it, so that pytest is not needed by those who do not.
    if name != "StoreContract":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import pytest

    pytest.register_assert_rewrite(f"{__name__}.contract")  # so that failures show the values
    from .contract import StoreContract

    return StoreContract
