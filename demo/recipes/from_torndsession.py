"""An application moves from torndsession to tornado-sesame, and takes its visitors' sessions along.

Handlers go on using ``self.session["cart"]``. What has another name:

=======================================================  ============================================================
torndsession                                             tornado-sesame
=======================================================  ============================================================
``class Page(SessionBaseHandler)``                       ``class Page(SessionMixin, RequestHandler)``, in this order
``Application(session={"driver": "file", ...})``         ``Application(sessions=SessionManager(SQLiteStore(...)))``
``session_lifetime=1200``, from the last change          ``idle_timeout=timedelta(minutes=20)``, from the last use
``self.session`` in an ``async def``                     the same, after ``await self.session``
``session["n"]``, a ``KeyError`` also when it is 0       ``session["n"]``, a ``KeyError`` only when it is not there
``session.set("n", 1)``                                  ``session["n"] = 1``
``session.delete("n")``                                  ``session.pop("n", None)``
``session["cart"] = cart`` after ``cart.append(...)``    ``session["cart"].append(...)``
``session.flush()``                                      nothing, or ``await self.save_session()``
``session.id``, the cookie's value, a secret             ``self.session_id``, a hash of it, and no secret
``session["user"] = name`` at login                      ``self.session_owner = name`` after
                                                         ``await self.rotate_session_id()``
=======================================================  ============================================================

A visitor who comes with the old cookie and without a session gets the content of the old session in a new one. It has a
new secret, since torndsession adopts any id that a client makes up. The next visit shows that the browser has the new
cookie. Only then are the old session and the old cookie deleted, so that nothing is lost when a response is. Several
tabs that come at once get a session each, and the browser keeps the last. A sign-out deletes the old session at once.

The id comes from the client. Nothing uses it, as the name of a file or as a key, before it has the form that
torndsession gives it. What torndsession has stored are pickles, and a pickle can run any code when it is loaded: read
only what your own application has written where nobody else can write, and load nothing but plain data, as `plain_data`
does. For Redis or Memcached, pass functions of your own in place of those of `OldFiles`. What MongoDB cannot hold, such
as sets and naive datetimes, is left behind with a warning, unless such a function converts it.

When old sessions have expired, remove this code and the old store. By default they do so 20 minutes after their last
change; then you may as well deploy at night without it. Run it with ``python -m demo.recipes.from_torndsession``.
"""

import asyncio
import io
import logging
import pickle
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tornado.escape import xhtml_escape
from tornado.web import Application, RequestHandler

from tornado_sesame import SessionDataError, SessionMixin

OLD_COOKIE = "msid"  # or the old setting `sid_name`

logger = logging.getLogger(__name__)


class Page(SessionMixin, RequestHandler):
    session_autoload = True

    async def prepare(self) -> None:
        if self.get_cookie(OLD_COOKIE) is None:
            return
        if self.session_id is not None or not self.take_old_session():
            self.end_old_session()

    def take_old_session(self) -> bool:
        """Puts the content of the old session into the new one; returns whether there is an old session."""
        sid = self.old_sid()
        old = self.settings["old_session"](sid) if sid else None
        if not old:
            return False
        user = old.pop("user", None)
        if user is not None:
            self.session_owner = str(user)
        for key, value in old.items():
            try:
                self.session[key] = value
            except SessionDataError as error:  # The error names the key, and not the value.
                logger.warning("a part of an old session is left behind: %s", error)
        return True

    def end_old_session(self) -> None:
        sid = self.old_sid()
        if sid:
            self.settings["end_old_session"](sid)
        self.clear_cookie(OLD_COOKIE)  # It needs the path and domain that the old setting `cookie_config` has.

    def old_sid(self) -> str | None:
        sid = self.get_cookie(OLD_COOKIE, "") or ""
        return sid if re.fullmatch(r"[A-Za-z0-9_-]{40}", sid) else None


class Home(Page):
    def get(self) -> None:
        user = xhtml_escape(self.session_owner or "nobody")
        cart = xhtml_escape(", ".join(self.session.get("cart", [])) or "nothing")
        form = f"<form method=post action=/sign-out>{self.xsrf_form_html()}<button>Sign out</button></form>"
        self.write(f"Hello, {user}! In your cart is {cart}. {form}")


class SignOut(Page):
    async def post(self) -> None:
        self.end_old_session()  # This request may be the first, which has only taken it.
        await self.destroy_session()
        self.redirect("/", status=303)


class OldFiles:
    """The sessions that torndsession's file driver has stored.

    :arg directory: the driver's setting ``host``.
    :arg prefix: likewise.
    """

    def __init__(self, directory: Path, prefix: str = "default") -> None:
        self._path = str(directory / prefix)

    def read(self, sid: str) -> dict[str, Any] | None:
        try:
            data = plain_data(Path(self._path + sid).read_bytes())
        except FileNotFoundError:
            return None
        except Exception as error:  # Damaged pickles raise many kinds, and would do so again at each visit.
            logger.warning("an old session is left behind: %s", error)
            return None
        expires = data.pop("__expires__", datetime.min)
        return data if expires.replace(tzinfo=UTC) > datetime.now(UTC) else None

    def end(self, sid: str) -> None:
        Path(self._path + sid).unlink(missing_ok=True)


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "datetime" and name in {"datetime", "timedelta", "timezone"}:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"an old session has a {module}.{name}, which is no plain data")


def plain_data(pickled: bytes) -> dict[str, Any]:
    data = _PlainUnpickler(io.BytesIO(pickled)).load()
    if not isinstance(data, dict):
        raise pickle.UnpicklingError("an old session is no dict")
    return data


def make_application(
    old_session: Callable[[str], dict[str, Any] | None], end_old_session: Callable[[str], None]
) -> Application:
    return Application(
        [("/", Home), ("/sign-out", SignOut)],
        old_session=old_session,
        end_old_session=end_old_session,
        xsrf_cookies=True,
        xsrf_cookie_kwargs={"httponly": True, "samesite": "Lax"},
    )


async def main() -> None:
    old = OldFiles(Path("#_sessions"))
    make_application(old.read, old.end).listen(9090, "localhost")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
