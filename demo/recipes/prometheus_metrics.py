"""A page of figures for Prometheus: how many sessions are loaded and saved, how long that takes, and what fails.

The manager counts all of this anyway, in ``sessions.stats``. A collector of ``prometheus_client`` reads it when
Prometheus asks, so nothing is done in between. Each process counts for itself: give each a port, or a path, of its
own that Prometheus scrapes, and let nobody else reach it.

What to watch: the rate of failures, which should be 0; the seconds a hold, by which saving makes responses later; and
how many sessions share a command, which grows with the load.

    python -m demo.recipes.prometheus_metrics

    $ curl localhost:9090/metrics
"""

import asyncio
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from tornado.web import Application, RequestHandler

from tornado_sesame import SessionManager, SessionMixin, SessionStats, SessionStore


class SessionCollector(Collector):
    """Reads a manager's figures when it is asked for them."""

    def __init__(self, stats: SessionStats) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats
        for name, help, count, total, longest in (
            ("load", "Loading a session", stats.loads, stats.load_seconds, stats.longest_load),
            ("save", "Saving a session", stats.saves, stats.save_seconds, stats.longest_save),
            ("hold", "A response waits for its save", stats.holds, stats.hold_seconds, stats.longest_hold),
        ):
            yield SummaryMetricFamily(f"session_{name}_seconds", help, count, total)
            yield GaugeMetricFamily(f"session_longest_{name}_seconds", f"{help}: the longest so far", longest)
        yield CounterMetricFamily("session_store_commands", "Calls of the store", stats.commands)
        yield CounterMetricFamily("session_store_failures", "Loads and saves that have failed", stats.failures)


class Metrics(RequestHandler):
    def get(self) -> None:
        encode, content_type = choose_encoder(self.request.headers.get("Accept", ""))
        self.set_header("Content-Type", content_type)
        self.write(encode(self.settings["metrics"]))


class Counter(SessionMixin, RequestHandler):
    def get(self) -> None:
        self.session.times = self.session.get("times", 0) + 1
        self.write(f"{self.session.times} times!\n")


def make_application(store: SessionStore | None = None) -> Application:
    sessions, metrics = SessionManager(store), CollectorRegistry()
    metrics.register(SessionCollector(sessions.stats))
    return Application([("/", Counter), ("/metrics", Metrics)], sessions=sessions, metrics=metrics)


async def main() -> None:
    make_application().listen(9090, "localhost")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
