"""The operator's command: its arguments, errors and exit codes."""

import argparse
import asyncio
import io
import logging
import os
import signal
import sys

from pymongo.errors import PyMongoError

from . import command
from .errors import SessionError, SessionStoreError

PROGRAM = "python -m tornado_sesame"

BROKEN_PIPE = 141  # what shells say of programs that SIGPIPE has ended


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Lists, shows, counts and ends the sessions in MongoDB or in an SQLite file. "
        "Without arguments, it prints versions, for bug reports.",
    )
    store = parser.add_mutually_exclusive_group()
    store.add_argument("--mongo", metavar="URI", help="the MongoDB that has the sessions")
    store.add_argument("--sqlite", metavar="FILE", help="the file that has them")
    parser.add_argument("-d", "--db", help="MongoDB's database (default: the one in the URI)")
    parser.add_argument("-c", "--collection", default="sessions", help="its collection (default: %(default)s)")
    parser.add_argument(
        "--timeout",
        type=float,
        default=15.0,
        metavar="SECONDS",
        help="how long to wait for an answer (default: %(default)g)",
    )
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")

    listing = commands.add_parser(
        "list",
        help="print one line for each session",
        description="Prints one line for each session. Its columns, separated by tabs, are the id, when the session "
        "was created, when it was last saved or extended, when it will expire, its size in bytes of BSON, and the "
        "owner. All times are in UTC.",
    )
    listing.add_argument("--owner", help="only the sessions of this owner")
    listing.set_defaults(run=command.list_sessions)

    show = commands.add_parser("show", help="print of one session which fields it has")
    show.add_argument("id", metavar="ID")
    show.add_argument("--values", action="store_true", help="and their values, as MongoDB's extended JSON")
    show.set_defaults(run=command.show)

    destroy = commands.add_parser("destroy", help="end one session")
    destroy.add_argument("id", metavar="ID")
    destroy.set_defaults(run=command.destroy)

    destroy_owner = commands.add_parser("destroy-owner", help="end all sessions of an owner")
    destroy_owner.add_argument("owner", metavar="OWNER")
    destroy_owner.set_defaults(run=command.destroy_owner)

    stats = commands.add_parser("stats", help="count and measure the sessions, and check the indexes")
    stats.set_defaults(run=command.stats)
    return parser


def main() -> None:
    parser = _parser()
    options = parser.parse_args()
    has_store = bool(options.mongo or options.sqlite)
    if options.command and not has_store:
        parser.error(f"{options.command} needs --mongo URI or --sqlite FILE")
    if has_store and not options.command:
        parser.error("a command is missing")
    if isinstance(sys.stdout, io.TextIOWrapper):  # an owner's name may have what the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    # Ctrl-C ends it at once. It would else wait for what it cancels, and a driver that connects may never end.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    logging.basicConfig(format=f"{PROGRAM}: %(message)s")  # the manager logs what it skips, and why the store failed
    sys.exit(_status(options))


def _status(options: argparse.Namespace) -> int | str:
    """Runs the command, and returns its exit status or the text of its error."""
    try:
        if options.command:
            asyncio.run(command.run(options))
        else:
            print(command.versions())
        sys.stdout.flush()
        return 0
    except SessionStoreError as error:
        return 1 if error.is_logged else f"{PROGRAM}: {error.log_message}"
    except (SessionError, PyMongoError, ValueError) as error:
        return f"{PROGRAM}: {error}"
    except OSError as error:  # of standard output
        # Python would flush it once more at the end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE if isinstance(error, BrokenPipeError) else f"{PROGRAM}: {error}"


if __name__ == "__main__":
    main()
