"""A session holds a user's OAuth tokens, and whoever reads the database or a backup of it cannot use them.

The database has no secret of the session itself, only its hash. But an access token or a refresh token has to be
sent to its provider, so a hash of it is of no use: it is encrypted, with keys that are not in the database.

The keys are a ring. The first one encrypts, and all of them decrypt. To replace a key, without anybody noticing:

1. Make one with ``python -c "from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())"``.
2. Put it last, and restart all servers, so that all of them can read what one of them will write.
3. Put it first, and restart all servers. Tokens that an older key has encrypted are encrypted with the new one when
   their session is next used.
4. When the sessions' ``idle_timeout`` has passed since the last restart, remove the old key. A session that has not
   been used for so long has expired. For this, all handlers that use the session inherit from `Page`.

Tokens that no key of the ring opens count as absent, and their users connect again. They stay stored, as a server may
only have been started with the wrong keys. When a key has been stolen, remove it at once, and revoke the tokens at
their provider, since backups keep what it has encrypted.

Do not keep keys in the code or the database, and do not log tokens. When two requests overlap that store tokens, or
encrypt them anew, the last one wins. So where a provider replaces refresh tokens at each use, keep those in a
collection of their own, encrypted in the same way, and have one request at a time refresh them.

Run it with ``TOKEN_KEYS=key,key,... python -m demo.recipes.encrypted_tokens``.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from tornado.escape import json_decode, json_encode, xhtml_escape
from tornado.web import Application, RequestHandler

from tornado_sesame import SessionManager, SessionMixin, TypedSession

logger = logging.getLogger(__name__)


class KeyRing:
    """Encrypts with the first key, and decrypts with each.

    :raises ValueError: when there is no key, or one that Fernet has not made, which the error does not show.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        fernets = []
        for number, key in enumerate(keys, 1):
            try:
                fernets.append(Fernet(key.strip()))
            except ValueError:
                raise ValueError(f"key {number} is not one that Fernet.generate_key() has made") from None
        self._all = MultiFernet(fernets)
        self._newest = fernets[0]

    def encrypt(self, text: str) -> str:
        return self._newest.encrypt(text.encode()).decode()

    def decrypt(self, token: str) -> str:
        return self._all.decrypt(token.encode()).decode()

    def renewed(self, token: str) -> str:
        """Returns the same content encrypted with the first key: the same token, if it is so already."""
        try:
            self._newest.decrypt(token.encode())
        except InvalidToken:
            return self._all.rotate(token.encode()).decode()
        return token


class Visit(TypedSession):
    encrypted_tokens: str = ""

    def tokens(self, ring: KeyRing) -> dict[str, str] | None:
        """Returns the user's tokens; None when there are none that can be read, so that he has to connect."""
        if not self.encrypted_tokens:
            return None
        try:
            tokens: dict[str, str] = json_decode(ring.decrypt(self.encrypted_tokens))
        except InvalidToken:
            return None
        return tokens

    def keep_tokens(self, ring: KeyRing, tokens: dict[str, str]) -> None:
        self.encrypted_tokens = ring.encrypt(json_encode(tokens))

    def renew_tokens(self, ring: KeyRing) -> None:
        """Encrypts the tokens with the first key, if they are not. So most visits change nothing."""
        if self.encrypted_tokens:
            self.encrypted_tokens = ring.renewed(self.encrypted_tokens)


class Page(SessionMixin[Visit], RequestHandler):
    session_autoload = True

    def prepare(self) -> None:
        try:
            self.session.renew_tokens(self.settings["ring"])
        except InvalidToken:
            logger.warning("no key opens the tokens of session %s", self.session_id)


class Home(Page):
    async def get(self) -> None:
        tokens = self.session.tokens(self.settings["ring"])
        if tokens is None:
            form = f"<form method=post>{self.xsrf_form_html()}<input name=code><button>Connect</button></form>"
            self.write(f"Please connect your calendar. {form}")
        else:
            self.write(xhtml_escape(await self.settings["call_provider"](tokens["access"])))

    async def post(self) -> None:
        """Stands for the page to which the provider sends the user back. A real one checks the OAuth `state`, too."""
        tokens = await self.settings["get_tokens"](self.get_body_argument("code"))
        await self.rotate_session_id()  # The session can do more from here on.
        self.session.keep_tokens(self.settings["ring"], tokens)
        self.redirect("/", status=303)


def make_application(
    keys: Sequence[str],
    get_tokens: Callable[[str], Awaitable[dict[str, str]]],
    call_provider: Callable[[str], Awaitable[str]],
    sessions: SessionManager | None = None,
) -> Application:
    """
    :arg get_tokens: exchanges the code of an authorization for tokens, ``{"access": ..., "refresh": ...}``.
    :arg call_provider: asks the provider for what the page shows, with an access token.
    """
    return Application(
        [("/", Home)],
        ring=KeyRing(keys),
        get_tokens=get_tokens,
        call_provider=call_provider,
        sessions=sessions or SessionManager(),
        xsrf_cookies=True,
        xsrf_cookie_kwargs={"httponly": True, "samesite": "Lax"},
    )


async def main() -> None:
    async def get_tokens(code: str) -> dict[str, str]:
        return {"access": f"access to {code}", "refresh": f"more access to {code}"}

    async def call_provider(access: str) -> str:
        return f"A provider that is sent {len(access)} characters of a token says: you are free today."

    keys = os.environ.get("TOKEN_KEYS", "").split(",")
    make_application(keys, get_tokens, call_provider).listen(9090, "localhost")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
