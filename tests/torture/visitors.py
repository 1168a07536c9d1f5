"""Those who use the site, and write down what they did and saw."""

import asyncio
import json
import random
import time

from tornado.httpclient import AsyncHTTPClient, HTTPClientError

from tests.support import COOKIE, Browser

from .history import Event

__all__ = ["Visitor"]

PAGES = ["change"] * 12 + ["read"] * 4 + ["rotate"] * 3 + ["destroy", "destroyall"]


class Visitor:
    """Somebody with a browser of several tabs, who waits for all of them and then goes on.

    :arg urls: of all servers, as they are at the moment.
    """

    def __init__(self, name: str, tabs: int, urls: list[str], client: AsyncHTTPClient) -> None:
        self.history: list[Event] = []
        self.lineage: str | None = None
        self.cookies: dict[str, str] = {}
        self._name = name
        self._tabs = tabs
        self._urls = urls
        self._client = client
        self._operations = 0

    async def visit(self, until: float) -> None:
        while time.monotonic() < until:
            if self.lineage is None:
                await self.begin()
            else:
                ends = await asyncio.gather(*(self.ask(random.choice(PAGES)) for _ in range(self._tabs)))
                if any(ends):
                    self.lineage = None
            await asyncio.sleep(random.random() * 0.05)

    async def begin(self) -> None:
        self.cookies.clear()
        event = await self.request("start", None)
        if event.status == 200 and COOKIE in self.cookies:
            self.lineage = event.lineage

    async def ask(self, page: str) -> bool:
        """Returns whether the session is over, or nobody can know where it is."""
        event = await self.request(page, self.lineage)
        is_move = page in ("rotate", "destroy", "destroyall")
        return page.startswith("destroy") or (is_move and event.status == 599)

    async def request(self, page: str, lineage: str | None) -> Event:
        self._operations += 1
        operation = f"{self._name}-{self._operations}"
        browser = Browser(random.choice(self._urls), self._client)
        browser.cookies = dict(self.cookies)
        began, status, name, log = time.monotonic(), 599, None, ()
        try:
            response = await browser.post(f"/{page}?operation={operation}", request_timeout=60)
            status = response.code
            if status == 200:
                shown = json.loads(response.body)
                name, log = shown.get("lineage"), shown.get("seen", ())
            if "Set-Cookie" in response.headers:
                self.cookies = browser.cookies
        except (HTTPClientError, OSError):
            await asyncio.sleep(0.1)
        event = Event(lineage or operation, page, operation, began, time.monotonic(), status, name, log)
        self.history.append(event)
        return event

    async def look(self) -> str | None:
        """Returns the name of the session that the cookie opens, when all is over."""
        event = await self.request("read", self.lineage)
        assert event.status == 200, event
        return event.name
