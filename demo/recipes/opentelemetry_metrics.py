"""Figures for OpenTelemetry: how many sessions are loaded and saved, how long that takes, and what fails.

The manager counts all of this anyway, in ``sessions.stats``. Observable instruments read it whenever the
application's reader exports, so nothing is done in between. Each process counts for itself; its resource
(``service.instance.id``) tells it from others.

This program exports to its own output, every five seconds. A real one has an ``OTLPMetricExporter`` in place of the
``ConsoleMetricExporter``.

    python -m demo.recipes.opentelemetry_metrics
"""

import asyncio
from collections.abc import Callable, Iterable

from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from tornado.web import Application, RequestHandler

from tornado_sesame import SessionManager, SessionMixin, SessionStats, SessionStore

# The names of the instruments, of what they show of the `SessionStats`, and their units (UCUM).
COUNTERS = (
    ("session.loads", "loads", "{session}"),
    ("session.saves", "saves", "{session}"),
    ("session.holds", "holds", "{response}"),
    ("session.load.time", "load_seconds", "s"),
    ("session.save.time", "save_seconds", "s"),
    ("session.hold.time", "hold_seconds", "s"),
    ("session.store.commands", "commands", "{command}"),
    ("session.store.failures", "failures", "{failure}"),
)
GAUGES = (
    ("session.load.longest", "longest_load", "s"),
    ("session.save.longest", "longest_save", "s"),
    ("session.hold.longest", "longest_hold", "s"),
)


def observe(stats: SessionStats, meter: Meter) -> None:
    """Has *meter* show what a manager counts."""

    def reading(field: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return lambda options: [Observation(getattr(stats, field))]

    for name, field, unit in COUNTERS:
        meter.create_observable_counter(name, [reading(field)], unit)
    for name, field, unit in GAUGES:
        meter.create_observable_gauge(name, [reading(field)], unit)


class Counter(SessionMixin, RequestHandler):
    def get(self) -> None:
        self.session.times = self.session.get("times", 0) + 1
        self.write(f"{self.session.times} times!\n")


def make_application(provider: MeterProvider, store: SessionStore | None = None) -> Application:
    sessions = SessionManager(store)
    observe(sessions.stats, provider.get_meter("tornado_sesame"))
    return Application([("/", Counter)], sessions=sessions)


async def main() -> None:
    reader = PeriodicExportingMetricReader(ConsoleMetricExporter(), export_interval_millis=5000)
    make_application(sdk.MeterProvider([reader])).listen(9090, "localhost")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
