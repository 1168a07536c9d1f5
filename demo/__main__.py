"""Counts a visitor's visits; keeps notes for those who sign in, and shows them where else they are signed in."""

import argparse
import asyncio
import re
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import pymongo
from pymongo.errors import PyMongoError
from tornado.log import enable_pretty_logging
from tornado.web import Application

from tornado_sesame import MemoryStore, MongoStore, SessionManager, SessionStore, SessionStoreError, SQLiteStore
from tornado_sesame.stores.mongo import reason

from .handlers import PAGES
from .recording import RecordingStore

HERE = Path(__file__).parent

PING_SECONDS = 5

GRACE_SECONDS = 0.5  # for the requests that are under way when the server stops


async def open_store(options: argparse.Namespace) -> tuple[str, SessionStore]:
    """Returns a store, and where it keeps the sessions, in words.

    :raises SessionStoreError: when there is no such place.
    """
    if options.sqlite:
        return f"in the file {options.sqlite}", SQLiteStore(options.sqlite)
    if options.mongo is None:
        return "in memory, so they are gone when the server ends", MemoryStore()
    client: Any
    if options.driver == "motor":
        from motor.motor_tornado import MotorClient

        driver, client = "Motor", MotorClient(options.mongo)
    else:
        from pymongo import AsyncMongoClient

        driver, client = "PyMongo Async", AsyncMongoClient(options.mongo)
    try:
        # A client connects when it is first used, and a wrong URI should be known before the first visit.
        with pymongo.timeout(PING_SECONDS):
            await client.admin.command("ping")
    except PyMongoError as error:
        raise SessionStoreError(reason(error, client)) from error
    return f"in MongoDB, through {driver}", MongoStore(client.sesame_demo.sessions)


def without_secrets(uri: str) -> str:
    """Returns a MongoDB URI as far as it may be shown."""
    return re.sub(r"^([\w+]*://)?.*@", r"\1", uri, flags=re.DOTALL).partition("?")[0]


async def serve(options: argparse.Namespace) -> None:
    """Runs the demo until it gets SIGTERM or SIGINT."""
    where, store = await open_store(options)
    # "Last used" is right to the minute.
    sessions = SessionManager(RecordingStore(store), touch_interval=timedelta(minutes=1))
    application = Application(
        PAGES,
        sessions=sessions,
        where=where,
        port=options.port,
        login_url="/login",
        xsrf_cookies=True,
        xsrf_cookie_kwargs={"httponly": True, "samesite": "Lax"},
        template_path=HERE / "templates",
        static_path=HERE / "static",
    )
    server = application.listen(options.port, address="localhost")
    print(f"Listening on http://localhost:{options.port}. Sessions are {where}.", flush=True)

    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for number in signal.SIGINT, signal.SIGTERM:
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(ended.set))
    await ended.wait()

    server.stop()
    await asyncio.sleep(GRACE_SECONDS)
    await server.close_all_connections()
    await sessions.close()


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
        parser.exit(1, f"--mongo {without_secrets(options.mongo)}: {error}\n")
    except SessionStoreError as error:
        place = f"--sqlite {options.sqlite}" if options.sqlite else f"--mongo {without_secrets(options.mongo)}"
        parser.exit(1, f"{place}: {error.log_message}\n")
    except ValueError as error:
        parser.exit(1, f"{error}\n")
    except OSError as error:
        parser.exit(1, f"cannot listen on port {options.port}: {error.strerror}; try another with --port\n")


if __name__ == "__main__":
    main()
