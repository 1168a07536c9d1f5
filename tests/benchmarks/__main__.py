"""Measures contenders side by side, in interleaved rounds, on a real MongoDB, under the load of ``wrk``.

The web server has one core to itself; the load and MongoDB have the others. Rates depend on the machine, so what counts
are the ratios, and of several rounds the medians.
"""

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

from ..mongod import Mongod
from . import instructions
from .contenders import CONTENDERS, Contender, Result
from .delays import KINDS, delays
from .distance import distance
from .growth import growth
from .nested import CASES, microseconds
from .report import chart, instructions_table, median_of, table
from .sockets import socket_costs

PAGES = {"read": ("read", 0), "count": ("count", 0), "count of 100 KB": ("count", 100_000)}
PARTS = ("contenders", "nested", "growth", "distance", "sockets", "delays")
SOCKETS = 10_000
SESSIONS = 256
WARM_UP = 1  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="one short round of two pages at 64 connections: within a minute"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="what to measure (default: all)")
    parser.add_argument(
        "--instructions",
        action="store_true",
        help="counts the server's instructions a request, which repeat within 1%% (needs valgrind), beside --parts",
    )
    parser.add_argument("--size", type=int, default=0, help="of --instructions: bytes in each session")
    parser.add_argument("--nested", action="store_true", help="of --instructions: the bytes are in small dicts")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="a measurement takes (default: %(default)s)")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--pages", nargs="+", choices=PAGES, default=list(PAGES))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="saves the medians and all rounds of the contenders")
    parser.add_argument(
        "--chart", type=Path, metavar="FILE", help="draws the contenders' rates, as .svg or .png (needs matplotlib)"
    )
    arguments = parser.parse_args()
    if arguments.parts is None:
        arguments.parts = [] if arguments.instructions else list(PARTS)
    if arguments.quick:
        arguments.rounds, arguments.seconds, arguments.connections = 1, 1, [64]
        arguments.parts, arguments.pages = ["contenders", "nested"], ["read", "count"]
    if arguments.instructions and (problem := instructions.missing()):
        print(f"without instructions: {problem}", file=sys.stderr)
        arguments.instructions = False
    if not shutil.which("wrk") and arguments.parts:
        parser.exit(1, "the load generator wrk is missing: apt install wrk\n")

    core = set_core_aside()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        mongod = Mongod(Path(directory))
        try:
            if arguments.instructions:
                for connections in arguments.connections:
                    names = [name for name in arguments.contenders if name in instructions.NAMES]
                    counted = instructions.count_instructions(
                        mongod.uri, names, connections, SESSIONS, arguments.size, arguments.nested, show
                    )
                    show()
                    print(f"\nThousands of instructions a request, {connections} connections\n")
                    print(instructions_table(counted))
            if "contenders" in arguments.parts:
                compare(mongod, core, arguments)
            if "nested" in arguments.parts:
                print("\nThe session alone\n\n| | |\n|---|--:|")
                for name, duration in microseconds().items():
                    print(f"| {name}: `{CASES[name]}` | {duration:.2f} us |")
            if "growth" in arguments.parts:
                grown = growth(mongod.uri, core, arguments.rounds, arguments.seconds, show)
                show()
                for page, by_size in grown.items():
                    print(f"\n{page}, 64 connections, tornado-sesame with PyMongo Async, by sessions stored\n")
                    print(table({f"{size:,}": result for size, result in by_size.items()}))
            if "distance" in arguments.parts:
                measured = distance(mongod.port, core, arguments.seconds, show)
                show()
                for (round_trip, connections), by_contender in measured.items():
                    print(f"\ncount, MongoDB {round_trip} ms away, {connections} connections\n")
                    print(table(by_contender))
            if "sockets" in arguments.parts:
                show(f"{SOCKETS:,} open WebSockets")
                costs = asyncio.run(socket_costs(mongod.uri, SOCKETS))
                show()
                print(f"\n{SOCKETS:,} open WebSockets\n")
                print("| | memory for each | CPU | while others write |\n|---|--:|--:|--:|")
                for kind, cost in costs.items():
                    name = {"plain": "without a session", "sesame": "each with a session of its own"}[kind]
                    busy = f"{cost.busy:.1f}% ({cost.writes:,.0f} sessions a second)"
                    print(f"| {name} | {cost.bytes / 1024:.1f} KiB | {cost.idle:.1f}% | {busy} |")
            if "delays" in arguments.parts:
                print("\nHow long it takes until an open socket hears of it, p50 and p99\n")
                print("| | | a change | a sign-out |\n|---|---|--:|--:|")
                for kind, name in KINDS.items():
                    for case, d in asyncio.run(delays(kind, mongod.uri, Path(directory))).items():
                        change = f"{d.change_p50:.1f}, {d.change_p99:.1f} ms"
                        print(f"| {name} | {case} | {change} | {d.end_p50:.1f}, {d.end_p99:.1f} ms |")
        finally:
            mongod.kill()


def compare(mongod: Mongod, core: int | None, arguments: argparse.Namespace) -> None:
    """Measures the contenders side by side, and shows, saves and draws how they did."""
    contenders = start(arguments.contenders, mongod.uri, core)
    try:
        results = measure(contenders, arguments)
    finally:
        for contender in contenders:
            contender.close()
    medians = {case: {name: median_of(rounds) for name, rounds in by.items()} for case, by in results.items()}
    for (page, connections), by_contender in medians.items():
        print(f"\n{page}, {connections} connection{'s' * (connections > 1)}\n")
        print(table(by_contender))
    if arguments.json:
        arguments.json.write_text(json.dumps(as_json(results), indent=1))
    if arguments.chart:
        chart(medians, arguments.chart)


def show(progress: str = "") -> None:
    """Shows what is being measured, in place of what was before."""
    print(f"\r{'':<100}\r{progress}", end="", file=sys.stderr, flush=True)


def set_core_aside() -> int | None:
    """Keeps this process and what it starts off a core, and returns that for the web servers; None if it cannot."""
    if not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2 or not shutil.which("taskset"):
        return None
    core, *others = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, others)
    return core


def start(names: list[str], uri: str, core: int | None) -> list[Contender]:
    contenders = []
    for name in names:
        if missing := Contender.missing(name):
            print(f"without {CONTENDERS[name]}: {missing}", file=sys.stderr)
        else:
            contenders.append(Contender(name, uri, core))
    return contenders


Case = tuple[str, int]


def measure(contenders: list[Contender], arguments: argparse.Namespace) -> dict[Case, dict[str, list[Result]]]:
    """Returns the results of all rounds by page and connections, and then by contender."""
    results: dict[Case, dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    cases = [(page, connections) for page in arguments.pages for connections in arguments.connections]
    done, steps = 0, len(cases) * arguments.rounds * len(contenders)
    for page in arguments.pages:
        for contender in contenders:
            contender.seed(SESSIONS, PAGES[page][1])
            contender.load(*PAGES[page], connections=8, seconds=WARM_UP)
    for round in range(arguments.rounds):
        for page, connections in cases:
            # Every contender comes first once, as the one after a pause has the cooler processor.
            for contender in contenders[round % len(contenders) :] + contenders[: round % len(contenders)]:
                done += 1
                show(f"{done}/{steps} {page}, {connections} connections, {CONTENDERS[contender.name]}")
                result = contender.load(*PAGES[page], connections=connections, seconds=arguments.seconds)
                results[page, connections][contender.name].append(result)
    show()
    return results


def as_json(results: dict[Case, dict[str, list[Result]]]) -> list[dict[str, object]]:
    return [
        {
            "page": page,
            "connections": connections,
            "contender": name,
            "median": asdict(median_of(rounds)),
            "rounds": [asdict(result) for result in rounds],
        }
        for (page, connections), by_contender in results.items()
        for name, rounds in by_contender.items()
    ]


if __name__ == "__main__":
    main()
