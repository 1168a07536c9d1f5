"""OpenTelemetry gets what the manager counts, through its own SDK."""

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Gauge, InMemoryMetricReader, Sum

from demo.recipes.opentelemetry_metrics import COUNTERS, GAUGES, make_application

from ..support import Site


def exported(reader):
    (resource,) = reader.get_metrics_data().resource_metrics
    (scope,) = resource.scope_metrics
    return {metric.name: metric for metric in scope.metrics}


async def test_it_finds_all_figures(database):
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    site = Site(make_application(provider, database.new_store()))
    try:
        browser = site.browser()
        for _ in range(3):
            await browser.text()
        metrics = exported(reader)
        values = {name: metric.data.data_points[0].value for name, metric in metrics.items()}
        stats = site.manager.stats
        assert values == {name: getattr(stats, field) for name, field, _ in (*COUNTERS, *GAUGES)}
        assert (values["session.loads"], values["session.saves"], values["session.holds"]) == (2, 3, 3)
        for name, _, unit in COUNTERS:
            assert isinstance(metrics[name].data, Sum)
            assert metrics[name].data.is_monotonic
            assert metrics[name].unit == unit
        assert all(isinstance(metrics[name].data, Gauge) for name, _, _ in GAUGES)
        await browser.text()
        assert exported(reader)["session.saves"].data.data_points[0].value == 4
    finally:
        await site.close()
        provider.shutdown()
