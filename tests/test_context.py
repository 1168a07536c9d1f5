"""What was held is sent in the request's own context, as without a session."""

import logging
from contextvars import ContextVar

import pytest
from opentelemetry.instrumentation.tornado import TornadoInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tornado.web import RequestHandler

from tornado_sesame import SessionMixin

VARIABLE = ContextVar("VARIABLE", default="outside")


class Handler(SessionMixin, RequestHandler):
    def prepare(self):
        self.token = VARIABLE.set("inside")

    def on_finish(self):
        self.application.settings["seen"].append(VARIABLE.get())
        VARIABLE.reset(self.token)


class Plain(Handler):
    def get(self):
        self.session.times = self.session.get("times", 0) + 1
        self.write("done")


class Streams(Handler):
    async def get(self):
        session = await self.session
        for number in range(3):
            session[str(number)] = number
            self.write(str(number))
            await self.flush()


class Redirects(Handler):
    def get(self):
        self.session.here = True
        self.redirect("/plain")


class Fails(Handler):
    async def get(self):
        (await self.session).here = True
        raise ValueError("on purpose")


class Untouched(Handler):
    def get(self):
        self.write("done")


PAGES = [
    ("/plain", Plain),
    ("/streams", Streams),
    ("/redirects", Redirects),
    ("/fails", Fails),
    ("/untouched", Untouched),
]


@pytest.mark.stores("memory", "pymongo")
@pytest.mark.parametrize("path", ["/plain", "/streams", "/redirects", "/fails", "/untouched"])
async def test_on_finish_can_reset_what_prepare_has_set(site, path, caplog):
    seen = []
    running = await site(PAGES, settings={"seen": seen})
    browser = running.browser()
    for _ in range(2):
        await browser.get(path)
    assert seen == ["inside", "inside"]
    errors = [
        record for record in caplog.records if record.levelno >= logging.ERROR and "on purpose" not in caplog.text
    ]
    assert errors == []
    assert "was created in a different Context" not in caplog.text


@pytest.fixture
def spans():
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = TornadoInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    yield exporter.get_finished_spans
    instrumentor.uninstrument()
    provider.shutdown()


@pytest.mark.stores("memory", "pymongo")
async def test_opentelemetry_traces_it_without_an_error(site, spans, caplog):
    running = await site(PAGES, settings={"seen": []})
    browser = running.browser()
    paths = ["/plain", "/streams", "/redirects", "/untouched"]
    for path in paths * 2:
        await browser.get(path)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
    served = [span for span in spans() if span.kind.name == "SERVER"]
    assert [span.attributes["http.target"] for span in served] == paths * 2
    assert all(span.parent is None or span.parent.is_remote for span in served)
