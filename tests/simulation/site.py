"""What the simulated visitors ask for: handlers of every kind, which change nested fields, rotate, destroy and fail."""

import asyncio
from typing import Any

from tornado.web import RequestHandler
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from tornado_sesame import SessionGone, SessionMixin, SessionNotLoaded, SessionStoreError

__all__ = ["PAGES", "STREAMED"]

# How many parts a streamed response has.
STREAMED = 3


def change(session: Any, operation: str) -> None:
    """Does the same to a counter, a list and an assigned field, or leaves a stray behind where no session is."""
    if "lineage" not in session:
        session.stray = operation
        return
    session.nested.n += 1
    session.nested.log.append(operation)
    session.last = operation


class Page(SessionMixin, RequestHandler):
    def tell(self, session: Any) -> None:
        seen = list(session.nested.log) if "lineage" in session else []
        self.write({"lineage": session.get("lineage"), "seen": seen})

    def log_exception(self, *args: Any) -> None:
        pass

    @property
    def operation(self) -> str:
        return self.get_query_argument("operation")

    async def wait(self) -> None:
        await self.settings["wait"]()


class Start(Page):
    async def post(self) -> None:
        session = await self.session
        session.update(lineage=self.operation, nested={"n": 0, "log": []}, last="")
        self.session_owner = self.operation
        if not self.settings["waits"]:  # or the next request may come before there is a session
            await self.save_session()
        self.tell(session)


class Read(Page):
    def post(self) -> None:
        self.tell(self.session)


class Plain(Page):
    def post(self) -> None:
        change(self.session, self.operation)
        self.tell(self.session)


class Change(Page):
    async def post(self) -> None:
        session = await self.session
        await self.wait()
        change(session, self.operation)
        await self.wait()
        self.tell(session)


class Save(Page):
    """Saves by itself, and does not give up when that fails: what was not done goes out with the next."""

    async def post(self) -> None:
        session = await self.session
        change(session, self.operation)
        try:
            await self.save_session()
        except SessionStoreError:
            session = await self.session
        await self.wait()
        self.tell(session)


class Stream(Page):
    async def post(self) -> None:
        session = await self.session
        self.write(f"{session.get('lineage')}\n")
        connection: Any = self.request.connection
        connection.is_streaming = True  # also when the library has closed it, as a save has failed
        try:
            for part in range(STREAMED):
                change(session, f"{self.operation}.{part}")
                self.write(f"{self.operation}.{part}\n")
                self.flush()
                await self.wait()
        finally:
            connection.is_streaming = False


class Fail(Page):
    async def post(self) -> None:
        change(await self.session, self.operation)
        await self.wait()
        raise ValueError("on purpose")


class Impatient(Page):
    """Is cancelled at any of its awaits."""

    async def post(self) -> None:
        async with asyncio.timeout(self.settings["patience"]()):
            session = await self.session
            await self.wait()
            change(session, self.operation)
            await self.save_session()
        self.tell(session)


class Rotate(Page):
    async def post(self) -> None:
        await self.rotate_session_id()
        self.write({})


class ImpatientRotate(Page):
    async def post(self) -> None:
        async with asyncio.timeout(self.settings["patience"]()):
            await self.rotate_session_id()
        self.write({})


class Destroy(Page):
    async def post(self) -> None:
        await self.destroy_session()
        self.write({})


class DestroyAll(Page):
    async def post(self) -> None:
        session = await self.session
        await self.wait()
        if self.session_owner is not None:
            await self.session_manager.destroy_all(self.session_owner)
        self.write({"lineage": session.get("lineage"), "seen": []})


class Socket(SessionMixin, WebSocketHandler):
    """Changes its session with each message, for as long as it lives; else says so and closes."""

    async def on_message(self, message: str | bytes) -> None:
        self.request.connection.has_finished = False  # type: ignore[union-attr]
        try:
            session = await self.session
            if "lineage" not in session:
                self.close()
                return
            change(session, str(message))
            await self.settings["wait"]()
            await self.save_session()
            await self.write_message({"lineage": session.lineage, "seen": list(session.nested.log)})
        except SessionStoreError:
            await self.write_message({"lineage": None, "seen": []})
        except (SessionGone, SessionNotLoaded, WebSocketClosedError):
            self.close()
        finally:
            self.request.connection.has_finished = True  # type: ignore[union-attr]

    def log_exception(self, *args: Any) -> None:
        pass


PAGES = [
    (f"/{page.__name__.lower()}", page)
    for page in (
        *(Start, Read, Plain, Change, Save, Stream, Fail),
        *(Impatient, Rotate, ImpatientRotate, Destroy, DestroyAll, Socket),
    )
]
