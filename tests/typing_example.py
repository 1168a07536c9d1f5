"""What type checkers make of an application that is typed throughout; checked by `.ci/run`, never run.

Each comment to ignore something stands for an error that has to be reported, as one without need is an error, too.
"""

from collections.abc import Mapping, MutableMapping, MutableSequence
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar, assert_type

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
    TypedSession,
    TypedSessionDict,
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
        assert_type(self.session_manager, SessionManager[Any])
        await self.rotate_session_id()
        try:
            await self.save_session()
        except SessionStoreError as error:
            assert_type(error.status_code, int)
        await self.finish(session.copy())


class Socket(SessionMixin, WebSocketHandler):
    session_live = True

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


class Item(TypedSessionDict):
    sku: str
    count: int = 1
    tags: list[str] = []


class Address(TypedSessionDict):
    city: str = ""


class HasCart(TypedSessionDict):
    cart: list[Item] = []


class Visit(HasCart, TypedSession):
    times: int = 0
    by_sku: dict[str, Item]
    address: Address
    since: datetime | None = None

    def is_new(self) -> bool:
        return self.times == 0


class TypedPage(SessionMixin[Visit], RequestHandler):
    def get(self) -> None:
        assert_type(self.session, Visit)
        self.session.times += 1
        self.session.address.city = "Berlin"
        self.session.cart.append(Item(sku="x", tags=["new"]))
        self.session.by_sku["x"].count += 1
        assert_type(self.session.times, int)
        assert_type(self.session.cart[0].tags, list[str])
        assert_type(self.session.by_sku.get("x"), Item | None)
        assert_type(self.session.since, datetime | None)
        assert_type(self.session.is_new(), bool)
        self.session["other"] = self.session.address["zip"]
        assert_type(self.session.copy(), dict[str, Any])
        self.session = {"times": 1}

    async def post(self) -> None:
        session = await self.session
        assert_type(session, Visit)
        assert_type(await self.load_session(), Visit)
        del session.since

    def put(self) -> None:
        session = self.session
        session.tims  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        session.tims = 1  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        session.address.town  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        session.cart[0].skuu  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        session.times = "x"  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
        session.since.year  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
        session.cart.append("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        Item()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        Item(sku="x", skuu="y")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        Item(sku=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class WithoutSession(SessionMixin[int], RequestHandler):  # type: ignore[type-var]  # pyright: ignore[reportInvalidTypeArguments]
    pass


VisitT = TypeVar("VisitT", bound=Visit)


class Base(SessionMixin[VisitT], RequestHandler, Generic[VisitT]):
    def count(self) -> int:
        self.session.times += 1
        return self.session.times


class LongVisit(Visit):
    more: str = ""


class Derived(Base[LongVisit]):
    def get(self) -> None:
        assert_type(self.session.more, str)
        self.write({"times": self.count()})


class TypedSocket(SessionMixin[Visit], WebSocketHandler):
    def on_message(self, message: str | bytes) -> None:
        self.session.times += len(message)

    def on_session_change(self) -> None:
        self.write_message({"times": self.session.times})

    async def on_session_end(self, reason: str) -> None:
        await self.write_message(reason)
        super().on_session_end(reason)


motor: MotorClient[dict[str, Any]] = MotorClient()
client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient()
for collection in motor.site.sessions, client.site.sessions:
    manager = SessionManager(
        MongoStore(collection),
        cookie=SessionCookie(name="__Host-session", secure=True, samesite="Strict"),
        idle_timeout=timedelta(hours=1),
    )
    Application([("/", Handler), ("/socket", Socket)], sessions=manager)


async def edits(untyped: SessionManager, typed: SessionManager[Visit]) -> None:
    async with untyped.edit("0f6a") as session:
        assert_type(session, Session)
    async with SessionManager().edit("0f6a") as session:
        assert_type(session, Session)
    async with typed.edit("0f6a") as visit:
        assert_type(visit, Visit)
        visit.times += 1
    Application([], sessions=SessionManager[Visit](MongoStore(client.site.sessions)))
