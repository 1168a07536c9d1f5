"""For tests: of stores of your own, and of handlers whose visitors have sessions.

`StoreContract` and the fixtures in ``tornado_sesame.testing.fixtures`` need pytest and pytest-asyncio, which nothing
else of this package does.
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
