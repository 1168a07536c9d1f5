"""Prometheus gets what the manager counts, in its own format."""

from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from demo.recipes.prometheus_metrics import make_application

from ..support import Site


async def test_it_finds_all_figures(database):
    application = make_application(database.new_store())
    site = Site(application)
    try:
        browser = site.browser()
        for _ in range(3):
            await browser.text()
        stats = site.manager.stats
        response = await site.browser().get("/metrics")
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        samples = {
            sample.name: sample.value
            for family in text_string_to_metric_families(response.body.decode())
            for sample in family.samples
        }
        assert samples == {
            "session_load_seconds_count": 2,
            "session_load_seconds_sum": stats.load_seconds,
            "session_longest_load_seconds": stats.longest_load,
            "session_save_seconds_count": 3,
            "session_save_seconds_sum": stats.save_seconds,
            "session_longest_save_seconds": stats.longest_save,
            "session_hold_seconds_count": 3,
            "session_hold_seconds_sum": stats.hold_seconds,
            "session_longest_hold_seconds": stats.longest_hold,
            "session_store_commands_total": 5,
            "session_store_failures_total": 0,
        }
        assert stats.hold_seconds > 0
        asked = {"Accept": "application/openmetrics-text; version=1.0.0"}
        body = (await site.browser().get("/metrics", headers=asked)).body.decode()
        assert "session_store_commands" in {family.name for family in open_metrics(body)}
    finally:
        await site.close()
