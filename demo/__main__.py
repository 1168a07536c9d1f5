"""Counts a visitor's visits; keeps notes for those who sign in, and shows them where else they are signed in."""

import argparse
import asyncio
import signal
from datetime import timedelta
from pathlib import Path

from pymongo.errors import PyMongoError
from tornado.log import enable_pretty_logging
from tornado.web import Application

from tornado_sesame import MemoryStore, MongoStore, SessionManager, SessionStore, SessionStoreError, SQLiteStore

from .handlers import PAGES

HERE = Path(__file__).parent


def open_store(options: argparse.Namespace) -> tuple[str, SessionStore]:
    """Returns a store, and where it keeps the sessions, in words."""
    if options.sqlite:
        return f"in the file {options.sqlite}", SQLiteStore(options.sqlite)
    if options.mongo is None:
        return "in memory, so they are gone when the server ends", MemoryStore()
    if options.driver == "motor":
        from motor.motor_tornado import MotorClient

        return "in MongoDB, through Motor", MongoStore(MotorClient(options.mongo).sesame_demo.sessions)
    from pymongo import AsyncMongoClient

    return "in MongoDB, through PyMongo Async", MongoStore(AsyncMongoClient(options.mongo).sesame_demo.sessions)


async def serve(options: argparse.Namespace) -> None:
    """Runs the demo until it gets SIGTERM or SIGINT."""
    where, store = open_store(options)
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
    server = application.listen(options.port, address="localhost")
    print(f"Listening on http://localhost:{options.port}, sessions are {where}", flush=True)

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
    store = parser.add_mutually_exclusive_group()
    store.add_argument("--mongo", metavar="URI", help="keep sessions in this MongoDB (default: in memory)")
    store.add_argument("--sqlite", metavar="FILE", help="keep sessions in this file")
    parser.add_argument("--driver", choices=["motor", "pymongo"], default="motor", help="default: %(default)s")
    options = parser.parse_args()
    enable_pretty_logging()
    try:
        asyncio.run(serve(options))
    except PyMongoError as error:
        parser.exit(1, f"--mongo {options.mongo}: {error}\n")
    except SessionStoreError as error:
        parser.exit(1, f"--sqlite {options.sqlite}: {error.log_message}\n")
    except ValueError as error:
        parser.exit(1, f"{error}\n")
    except OSError as error:
        parser.exit(1, f"cannot listen on port {options.port}: {error.strerror}; try another with --port\n")


if __name__ == "__main__":
    main()
