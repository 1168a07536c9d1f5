"""How the cost of a request grows with the number of sessions that are stored."""

import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo import MongoClient

from .contenders import Contender, Result
from .report import median_of

__all__ = ["SIZES", "growth"]

SIZES = (1_000, 100_000, 1_000_000)
SESSIONS = 256
AT_ONCE = 10_000


def growth(
    uri: str, core: int | None, rounds: int, seconds: float, progress: Callable[[str], None]
) -> dict[str, dict[int, Result]]:
    """Returns medians by page and by the number of stored sessions."""
    sites: dict[int, Contender] = {}
    results: dict[str, dict[int, list[Result]]] = defaultdict(lambda: defaultdict(list))
    try:
        for size in SIZES:
            sites[size] = Contender("sesame-pymongo", uri, core, collection=f"growth_{size}")
            sites[size].seed(SESSIONS, 0)
            sites[size].load("count", 0, connections=64, seconds=1)
            fill(uri, f"growth_{size}", size - SESSIONS, progress)
        for _ in range(rounds):
            for page in ("read", "count"):
                for size, site in sites.items():
                    progress(f"{page}, {size:,} sessions stored")
                    results[page][size].append(site.load(page, 0, connections=64, seconds=seconds))
    finally:
        for site in sites.values():
            site.close()
    return {page: {size: median_of(by[size]) for size in SIZES} for page, by in results.items()}


def fill(uri: str, collection: str, number: int, progress: Callable[[str], None]) -> None:
    """Stores as many other sessions."""
    with MongoClient[dict[str, Any]](uri) as client:
        for start in range(0, number, AT_ONCE):
            progress(f"storing {start:,} sessions")
            client.sesame_benchmark[collection].insert_many(documents(min(AT_ONCE, number - start)), ordered=False)


def documents(number: int) -> Iterator[dict[str, Any]]:
    now = datetime.now(UTC)
    times = {"created": now, "updated": now, "expires": now + timedelta(days=14)}
    for _ in range(number):
        yield {"_id": secrets.token_hex(32), "data": {"times": 1, "user": {"name": "Alice"}}, **times}
