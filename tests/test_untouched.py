"""What does not touch its session does not pay for it: the store is not called, and hardly any code of ours runs."""

import sys
from collections import Counter
from pathlib import Path

import pytest
from tornado.web import RequestHandler, StaticFileHandler

import tornado_sesame
from tornado_sesame import SessionManager, SessionMixin

from .support import serve

PACKAGE = str(Path(tornado_sesame.__file__).parent)
HERE = str(Path(__file__).parent)

# What overrides methods of RequestHandler, and what these ask. A file is flushed before it is finished.
EXPECTED = {"_execute": 1, "_session_should_load": 1, "_session_lives_long": 1, "flush": 2, "finish": 1}


class Start(SessionMixin, RequestHandler):
    def get(self):
        self.session.times = 1


class Untouched(SessionMixin, RequestHandler):
    async def get(self):
        self.write("fine")


class UntouchedPlain(SessionMixin, RequestHandler):
    def get(self):
        self.write("fine")


class File(SessionMixin, StaticFileHandler):
    pass


PAGES = [
    ("/start", Start),
    ("/untouched", Untouched),
    ("/plain", UntouchedPlain),
    ("/files/(.*)", File, {"path": HERE}),
]


@pytest.mark.parametrize(
    ("path", "has_cookie"),
    [
        ("/untouched", True),
        ("/untouched", False),
        ("/files/test_untouched.py", True),
        ("/files/test_untouched.py", False),
    ],
)
async def test_it_costs_a_few_calls_and_none_of_the_store(path, has_cookie):
    sessions = SessionManager()
    async with serve(PAGES, sessions=sessions) as site:
        browser = site.browser()
        if has_cookie:
            await browser.get("/start")
        await browser.get(path)  # once, as what a class is like is looked up at its first request only
        before = sessions.stats.commands
        with Calls() as calls:
            page = await browser.get(path)
        assert page.code == 200
        assert "Set-Cookie" not in page.headers
        assert sessions.stats.commands == before
        assert {name: count for name, count in calls.counts.items() if count > EXPECTED.get(name, 0)} == {}


async def test_a_visitor_without_a_cookie_costs_no_call_of_the_store_where_the_session_is_there():
    sessions = SessionManager()
    async with serve(PAGES, sessions=sessions) as site:
        assert (await site.browser().get("/plain")).code == 200
        assert sessions.stats.commands == 0


class Calls:
    """Counts the calls of functions of the package, by name."""

    def __init__(self):
        self.counts = Counter()

    def __enter__(self):
        sys.setprofile(self._note)
        return self

    def __exit__(self, *error):
        sys.setprofile(None)

    def _note(self, frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            self.counts[frame.f_code.co_name] += 1
