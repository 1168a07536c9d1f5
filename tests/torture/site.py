"""The site that is tortured: ``python -m tests.torture.site KIND URI NAME``, see `tests.stopping_site`."""

import asyncio
import random
import sys
from typing import Any

from tornado.web import RequestHandler

from tests import stopping_site
from tornado_sesame import SessionMixin


class Page(SessionMixin, RequestHandler):
    async def pause(self) -> None:
        await asyncio.sleep(random.choice((0, 0, 0.002, 0.02)))

    def tell(self, session: Any) -> None:
        log = list(session.nested.log) if "name" in session else []
        self.write({"name": session.get("name"), "log": log})


class Start(Page):
    async def post(self) -> None:
        session = await self.session
        name = self.get_argument("operation")
        session.update(name=name, nested={"n": 0, "log": []}, last="")
        self.session_owner = name
        self.tell(session)


class Read(Page):
    async def post(self) -> None:
        self.tell(await self.session)


class Change(Page):
    async def post(self) -> None:
        session = await self.session
        await self.pause()
        if "name" in session:
            operation = self.get_argument("operation")
            session.nested.n += 1
            session.nested.log.append(operation)
            session.last = operation
        await self.pause()
        self.tell(session)


class Rotate(Page):
    async def post(self) -> None:
        await self.rotate_session_id()
        self.write({})


class Destroy(Page):
    async def post(self) -> None:
        await self.destroy_session()
        self.write({})


class DestroyAll(Page):
    async def post(self) -> None:
        await self.session
        if self.session_owner is not None:
            await self.session_manager.destroy_all(self.session_owner)
        self.write({"name": self.session_owner})


PAGES = [(f"/{page.__name__.lower()}", page) for page in (Start, Read, Change, Rotate, Destroy, DestroyAll)]

if __name__ == "__main__":
    kind, uri, name = sys.argv[1:]
    asyncio.run(stopping_site.main(kind, uri, name, "True", PAGES))
