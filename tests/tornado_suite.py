"""Tornado's own tests, with a session in every handler.

``python -m tests.tornado_suite MODE`` runs them in a process of its own, as it changes Tornado for good. It prints what
fails as unittest does, and then one line of JSON: what has failed, and how often handlers have counted.
"""

import argparse
import asyncio
import functools
import inspect
import json
import logging
import sys
import unittest
import uuid
import warnings

import tornado.testing
from tornado import gen, options, web, websocket

from tornado_sesame import MemoryStore, MongoStore, SessionManager, SessionMixin
from tornado_sesame.testing import authenticated_cookie

from .support import CLIENTS, DATABASE

MODES = {
    "plain": "handlers have no mixin",
    "untouched": "they have it, and do not use it",
    "touched": "they count in it, and each request begins a new one",
    "returning": "they count in it, and one visitor makes all requests",
}

# Those with handlers.
MODULES = (
    *("auth_test", "circlerefs_test", "gen_test", "httpclient_test", "httpserver_test", "routing_test"),
    *("security_corpus_test", "simple_httpclient_test", "web_test", "websocket_test"),
)

METHODS = (
    *("get", "head", "post", "delete", "patch", "put", "options", "other"),
    *("prepare", "data_received", "open", "on_message"),
)


# How often a test has to fail to have failed, as a busy machine may be too slow for some of them.
ATTEMPTS = 4


class Sessions:
    """The sessions of all handlers. Each event loop has a manager of its own, as MongoDB's clients work in one only.

    :arg counted: how often handlers have counted.
    :arg cookie: what the visitor who makes all requests sends; None when each request is another visitor's.
    """

    def __init__(self, kind, uri):
        self._kind, self._uri = kind, uri
        self._memory = MemoryStore(max_sessions=1_000_000)
        self._collection = f"tornado_suite_{uuid.uuid4().hex}"
        self._open = {}  # by loop: its manager, and that one's client
        self.counted = 0
        self.cookie = None

    @property
    def manager(self):
        loop = asyncio.get_running_loop()
        if loop not in self._open:
            if self._kind == "memory":
                client, store = None, self._memory
            else:
                client = CLIENTS[self._kind](self._uri, serverMonitoringMode="poll")
                store = MongoStore(client[DATABASE][self._collection], create_indexes=False)
            self._open[loop] = SessionManager(store), client
        return self._open[loop][0]

    def close(self, loop):
        """Saves what was changed in *loop*, which ends."""
        if loop in self._open:
            loop.run_until_complete(self._close(*self._open.pop(loop)))

    async def _close(self, manager, client):
        for _ in range(100):
            await asyncio.sleep(0)  # for messages to WebSockets that have been sent
        await manager.close()
        closing = client.close() if client is not None else None
        if closing is not None:
            await closing

    async def begin(self):
        """Begins the session of the visitor who makes all requests."""
        self.cookie = await authenticated_cookie(self.manager, {"times": 0})

    async def stored(self):
        """Returns how often handlers have counted, as is stored."""
        return sum([record.data["times"] async for record in self.manager.records()])

    def count(self, session):
        session.times = session.get("times", 0) + 1
        self.counted += 1

    def counting(self, method):
        """Returns a method of the same kind that does what *method* does, and counts before and after it."""
        if method.__name__ == "prepare":
            return self._counting_prepare(method)
        if inspect.iscoroutinefunction(method):

            async def counted(handler, *args, **kwargs):
                self.count(await handler.session)
                await method(handler, *args, **kwargs)
                self.count(await handler.session)

        elif gen.is_coroutine_function(method):

            @gen.coroutine
            def counted(handler, *args, **kwargs):
                self.count((yield handler.session))
                yield method(handler, *args, **kwargs)
                self.count((yield handler.session))

        else:

            def counted(handler, *args, **kwargs):
                self.count(handler.session)
                result = method(handler, *args, **kwargs)
                self.count(handler.session)
                return result

        return functools.update_wrapper(counted, method)

    def _counting_prepare(self, method):
        async def load_and_prepare(handler):
            self.count(await handler.session)
            result = method(handler)
            if result is not None:
                await result

        @functools.wraps(method)
        def prepare(handler):
            handles = getattr(type(handler), handler.request.method.lower())
            is_missing = handles is web.RequestHandler.get
            if is_missing or inspect.iscoroutinefunction(handles) or gen.is_coroutine_function(handles):
                return load_and_prepare(handler)
            self.count(handler.session)  # which is loaded, as the method that handles the request is a plain `def`
            return method(handler)

        return prepare


def bring_in(sessions, mode):
    """Puts the mixin into all handlers, also Tornado's own and those that will be defined."""
    plain = web.RequestHandler

    def count_in(handler):
        if mode != "untouched":
            for name in METHODS:
                if name in vars(handler):
                    setattr(handler, name, sessions.counting(vars(handler)[name]))

    class RequestHandler(SessionMixin, plain):
        session_manager = property(lambda self: sessions.manager)

        def __init__(self, application, request, **kwargs):
            if sessions.cookie is not None:
                request.headers["Cookie"] = "; ".join([*request.headers.get_list("Cookie"), sessions.cookie])
            super().__init__(application, request, **kwargs)

        def __init_subclass__(cls, **kwargs):
            super().__init_subclass__(**kwargs)
            count_in(cls)

        def prepare(self):
            return super().prepare()

    count_in(RequestHandler)
    web.RequestHandler = RequestHandler
    own = (web.ErrorHandler, web.FallbackHandler, web.RedirectHandler, web.StaticFileHandler)
    for handler in (*own, websocket.WebSocketHandler):
        handler.__bases__ = (RequestHandler,)
        count_in(handler)


def close_with_loops(sessions):
    """Has the *sessions* of an event loop saved before it is closed."""

    def before(method, loop_of):
        @functools.wraps(method)
        def closing(self):
            sessions.close(loop_of(self))
            method(self)

        return closing

    # A test case cancels all tasks first, and saves are among them.
    case, loop = tornado.testing.AsyncTestCase, asyncio.SelectorEventLoop
    case.tearDown = before(case.tearDown, lambda test: test.io_loop.asyncio_loop)
    loop.close = before(loop.close, lambda loop: loop)


def name_of(test):
    return test.id().removeprefix("tornado.test.").partition(" (")[0]  # without a subtest's parameters


def whole(name):
    """Returns the name of the test of which *name* may be a subtest."""
    return name.partition(" ")[0]


def names_of(tests):
    for test in tests:
        if isinstance(test, unittest.TestSuite):
            yield from names_of(test)
        else:
            yield name_of(test)


def main():
    parser = argparse.ArgumentParser(description="Runs Tornado's own tests with a session in every handler.")
    parser.add_argument("mode", choices=MODES, help="; ".join(f"{mode}: {what}" for mode, what in MODES.items()))
    parser.add_argument("--store", choices=("memory", *CLIENTS), default="memory")
    parser.add_argument("--uri", help="of the MongoDB")
    parser.add_argument("--whole", action="store_true", help="also the tests that have no handlers")
    parser.add_argument("names", nargs="*", help="of tests, such as tornado.test.web_test.CookieTest")
    arguments = parser.parse_args()

    sessions = Sessions(arguments.store, arguments.uri)
    if arguments.mode == "returning":
        asyncio.run(sessions.begin())
    if arguments.mode != "plain":
        bring_in(sessions, arguments.mode)
        close_with_loops(sessions)

    # As Tornado's own runner does.
    warnings.filterwarnings("error")
    warnings.filterwarnings("ignore", category=ImportWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    options.parse_command_line([sys.argv[0]])
    logging.getLogger("tornado.access").setLevel(logging.CRITICAL)

    from tornado.test import runtests  # when handlers have their sessions

    modules = [name for name in runtests.TEST_MODULES if arguments.whole or name.rpartition(".")[2] in MODULES]
    tests = unittest.defaultTestLoader.loadTestsFromNames(arguments.names or modules)
    names = sorted(names_of(tests))
    for _ in range(ATTEMPTS):
        result = unittest.TextTestRunner(warnings=False).run(tests)
        failed = {name_of(test) for test, _ in result.failures + result.errors}
        tests = unittest.defaultTestLoader.loadTestsFromNames({f"tornado.test.{whole(name)}" for name in failed})
    report = {
        "tests": names,
        "failed": sorted(failed),
        "counted": sessions.counted,
        "stored": asyncio.run(sessions.stored()),
    }
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main()
