"""Counts a visitor's visits; keeps notes for those who sign in, and shows them where else they are signed in."""

import argparse
import asyncio
import signal
from datetime import timedelta
from pathlib import Path

from pymongo.errors import PyMongoError
from tornado.log import enable_pretty_logging
from tornado.web import Application

from tornado_sesame import MemoryStore, MongoStore, SessionManager, SessionStore

from .handlers import PAGES

HERE = Path(__file__).parent


def open_store(uri: str | None, driver: str) -> tuple[str, SessionStore]:
    """Returns a store, and where it keeps the sessions, in words."""
    if uri is None:
        return "in memory, so they are gone when the server ends", MemoryStore()
    if driver == "motor":
        from motor.motor_tornado import MotorClient

        return "in MongoDB, through Motor", MongoStore(MotorClient(uri).sesame_demo.sessions)
    from pymongo import AsyncMongoClient

    return "in MongoDB, through PyMongo Async", MongoStore(AsyncMongoClient(uri).sesame_demo.sessions)


async def serve(port: int, uri: str | None, driver: str) -> None:
    """Runs the demo until it gets SIGTERM or SIGINT."""
    where, store = open_store(uri, driver)
    sessions = SessionManager(store, touch_interval=timedelta(minutes=1))  # so "last used" is right to the minute
    application = Application(
        PAGES,
        sessions=sessions,
        where=where,
        login_url="/login",
        xsrf_cookies=True,
        xsrf_cookie_kwargs={"httponly": True, "samesite": "Lax"},
        template_path=HERE / "templates",
        static_path=HERE / "static",
    )
    server = application.listen(port, address="localhost")
    print(f"Listening on http://localhost:{port}, sessions are {where}", flush=True)

    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for number in signal.SIGINT, signal.SIGTERM:
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(ended.set))
    await ended.wait()

    server.stop()
    await sessions.close()
    await server.close_all_connections()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--port", type=int, default=9090, help="to listen on (default: %(default)s)")
    parser.add_argument("--mongo", metavar="URI", help="keep sessions in this MongoDB (default: in memory)")
    parser.add_argument("--driver", choices=["motor", "pymongo"], default="motor", help="default: %(default)s")
    arguments = parser.parse_args()
    enable_pretty_logging()
    try:
        asyncio.run(serve(arguments.port, arguments.mongo, arguments.driver))
    except OSError as error:
        parser.exit(1, f"cannot listen on port {arguments.port}: {error.strerror}; try another with --port\n")
    except PyMongoError as error:
        parser.exit(1, f"--mongo {arguments.mongo}: {error}\n")


if __name__ == "__main__":
    main()
