"""Fixtures for pytest. Say in your ``conftest.py`` that you want them, and which application is tested::

    pytest_plugins = ["tornado_sesame.testing.fixtures"]

    @pytest.fixture
    def sesame_application():
        return lambda sessions: Application(PAGES, sessions=sessions)

They need pytest-asyncio.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from tornado.web import Application

from ..manager import SessionManager
from .site import Site

__all__ = ["sesame_application", "sesame_site"]


@pytest.fixture
def sesame_application() -> Callable[[SessionManager[Any]], Application]:
    """A function that gets a manager with an empty store and returns the application."""
    raise NotImplementedError(
        "override the fixture `sesame_application`: it returns a function that gets a SessionManager and returns your "
        "Application with it, such as `lambda sessions: Application(PAGES, sessions=sessions)`"
    )


@pytest_asyncio.fixture
async def sesame_site(sesame_application: Callable[[SessionManager[Any]], Application]) -> AsyncIterator[Site]:
    """The application, running, with sessions of its own for each test: a `Site`."""
    site = Site(sesame_application(SessionManager()))
    yield site
    await site.close()
