"""What mypy makes of an application that is typed throughout; checked by `.ci/run`, never run."""

from collections.abc import Mapping, MutableMapping, MutableSequence
from datetime import timedelta
from typing import Any, assert_type

from motor.motor_tornado import MotorClient
from pymongo import AsyncMongoClient
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler

from tornado_sesame import (
    MongoStore,
    Session,
    SessionCookie,
    SessionDict,
    SessionList,
    SessionManager,
    SessionMixin,
    SessionStoreError,
)


class Handler(SessionMixin, RequestHandler):
    session_autoload = True

    async def prepare(self) -> None:
        assert_type(await self.load_session(), Session)

    async def get(self) -> None:
        session = await self.session
        assert_type(session, Session)
        session.times = session.get("times", 0) + 1
        session["user"] = {"name": "Alice"}
        session.user.name = "Bob"
        self.session = {"fresh": True}
        assert_type(self.session_id, str | None)
        assert_type(self.session_manager, SessionManager)
        await self.rotate_session_id()
        try:
            await self.save_session()
        except SessionStoreError as error:
            assert_type(error.status_code, int)
        await self.finish(session.copy())


class Socket(SessionMixin, WebSocketHandler):
    def on_message(self, message: str | bytes) -> None:
        self.session.said = message


def mappings(session: Session, part: SessionDict, items: SessionList) -> None:
    mutable: MutableMapping[str, Any] = session
    mapping: Mapping[str, Any] = part
    sequence: MutableSequence[Any] = items
    a_dict: dict[str, Any] = part
    a_list: list[Any] = items
    a_dict["items"] = a_list
    mutable.update(mapping)
    assert_type(sequence.pop(), Any)
    assert_type(items[1:], list[Any])


motor: MotorClient[dict[str, Any]] = MotorClient()
client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient()
for collection in motor.site.sessions, client.site.sessions:
    manager = SessionManager(
        MongoStore(collection),
        cookie=SessionCookie(name="__Host-session", secure=True, samesite="Strict"),
        idle_timeout=timedelta(hours=1),
    )
    Application([("/", Handler), ("/socket", Socket)], sessions=manager)
