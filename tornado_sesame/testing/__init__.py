"""For tests: of stores of your own, and of handlers that need a visitor who is logged in.

`StoreContract` needs pytest and pytest-asyncio, which nothing else of this package does.
"""

from typing import TYPE_CHECKING, Any

from .visitors import authenticated_cookie

if TYPE_CHECKING:
    from .contract import StoreContract

__all__ = ["StoreContract", "authenticated_cookie"]


def __getattr__(name: str) -> Any:
    # Not before somebody asks for it, so that pytest is not needed by those who do not.
    if name != "StoreContract":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import pytest

    pytest.register_assert_rewrite(f"{__name__}.contract")  # so that failures show the values
    from .contract import StoreContract

    return StoreContract
