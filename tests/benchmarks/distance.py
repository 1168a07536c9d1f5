"""What requests cost when MongoDB is not on the same machine: a proxy delays everything on its way."""

from collections.abc import Callable

from ..proxy import Proxy
from .contenders import Contender, Result

__all__ = ["CONNECTIONS", "ROUND_TRIPS", "distance"]

ROUND_TRIPS = (0, 2, 20)  # milliseconds
CONNECTIONS = (1, 64, 1_000)
NAMES = ("hand-pymongo", "sesame-motor", "sesame-pymongo")


def distance(
    port: int, core: int | None, seconds: float, progress: Callable[[str], None]
) -> dict[tuple[int, int], dict[str, Result]]:
    """Returns what the count page does, by the milliseconds of a round trip and the connections.

    :arg port: of the MongoDB.
    """
    results: dict[tuple[int, int], dict[str, Result]] = {}
    for round_trip in ROUND_TRIPS:
        with Proxy(port, delay=round_trip / 2000) as proxy:
            sites = [
                Contender(name, proxy.uri, core, collection=f"distance_{round_trip}_{name.replace('-', '_')}")
                for name in NAMES
            ]
            for site in sites:
                site.seed(256, 0)
                site.load("count", 0, connections=64, seconds=1)
            for connections in CONNECTIONS:
                results[round_trip, connections] = {}
                for site in sites:
                    progress(f"{round_trip} ms away, {connections} connections, {site.name}")
                    results[round_trip, connections][site.name] = site.load("count", 0, connections, seconds)
            for site in sites:
                site.close()
    return results
