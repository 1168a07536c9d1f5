"""A site whose errors and requests are reported to Sentry, and its visitor: prints all that was sent, and the secret.

It is a process of its own (``python -m tests.sentry_site``), as the SDK changes Tornado for good.
"""

import asyncio
import json
import sys
import warnings

import sentry_sdk
from sentry_sdk.integrations.tornado import TornadoIntegration
from sentry_sdk.transport import Transport
from tornado.web import RequestHandler

from tornado_sesame import SessionManager, SessionMixin

from .support import serve


class Collecting(Transport):
    def __init__(self):
        super().__init__({})
        self.sent = ""

    def capture_envelope(self, envelope):
        self.sent += envelope.serialize().decode(errors="replace")


class Failing(SessionMixin, RequestHandler):
    async def get(self):
        session = await self.session
        session.times = session.get("times", 0) + 1
        await self.save_session()
        if self.request.cookies:
            raise ValueError("on purpose")


async def main():
    transport = Collecting()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the name of an option
        sentry_sdk.init(
            dsn="http://key@127.0.0.1/1",
            transport=transport,
            send_default_pii=True,
            traces_sample_rate=1.0,
            include_local_variables=True,
            integrations=[TornadoIntegration()],
        )
    async with serve([("/", Failing)], sessions=SessionManager()) as site:
        browser = site.browser()
        await browser.get()
        browser.cookies["harmless"] = "biscuit"
        await browser.get()
    sentry_sdk.flush()
    sys.stdout.write(json.dumps({"sent": transport.sent, "secret": browser.secret}))


if __name__ == "__main__":
    asyncio.run(main())
