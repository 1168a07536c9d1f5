"""Signing in with OAuth2, with a provider that trusts nobody more than real ones do."""

import asyncio
import base64
import hashlib
import re
import secrets
from datetime import timedelta
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from tornado.web import Application, RequestHandler

from demo.recipes import oauth2
from tests.support import Site, record_of
from tornado_sesame.cookie import id_of_secret

SITE = "https://shop.example"  # which browsers come back to
SECRET = "the client's secret"


class Authorize(RequestHandler):
    """Knows who is there, and sends him back at once."""

    def get(self):
        question = {name: self.get_query_argument(name) for name in self.request.arguments}
        assert question["response_type"] == "code"
        assert question["client_id"] == oauth2.CLIENT_ID
        assert question["redirect_uri"] == f"{SITE}/callback"
        assert question["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe()
        self.settings["codes"][code] = {**question, "user": self.settings["user"]}
        self.redirect(f"{SITE}/callback?{urlencode({'code': code, 'state': question['state']})}")


class Token(RequestHandler):
    def post(self):
        assert self.request.query == ""
        question = self.settings["codes"].pop(self.get_body_argument("code"), None)
        digest = hashlib.sha256(self.get_body_argument("code_verifier").encode()).digest()
        if (
            question is None
            or self.get_body_argument("grant_type") != "authorization_code"
            or self.get_body_argument("client_id") != question["client_id"]
            or self.get_body_argument("client_secret") != SECRET
            or self.get_body_argument("redirect_uri") != question["redirect_uri"]
            or base64.urlsafe_b64encode(digest).decode().rstrip("=") != question["code_challenge"]
        ):
            self.set_status(400)
            self.write({"error": "invalid_grant"})
            return
        token = secrets.token_urlsafe()
        self.settings["tokens"][token] = question["user"]
        self.write({"access_token": token, "token_type": "Bearer"})


class UserInfo(RequestHandler):
    async def get(self):
        assert self.request.query == ""  # no token in a URL
        await self.settings["is_quick"].wait()
        user = self.settings["tokens"][self.request.headers["Authorization"].removeprefix("Bearer ")]
        self.write(self.settings["answer"] or {"sub": user, "name": user.title()})


@pytest.fixture
async def provider():
    pages = [("/authorize", Authorize), ("/token", Token), ("/userinfo", UserInfo)]
    is_quick = asyncio.Event()
    is_quick.set()
    provider = Site(Application(pages, codes={}, tokens={}, user="alice", answer=None, is_quick=is_quick))
    yield provider
    await provider.close()


@pytest.fixture
async def site(provider):
    site = Site(oauth2.make_application(SECRET, provider.url, SITE))
    yield site
    await site.close()


async def begin(browser, next_page="/account"):
    """Presses the button "Sign in", and returns where the browser is sent."""
    path = "/login?" + urlencode({"next": next_page})
    page = await browser.text(path)
    action, token = re.search(r'action="([^"]+)">.*name="_xsrf" value="([^"]+)"', page).groups()
    assert action == path
    response = await browser.post(action, body=urlencode({"_xsrf": token}))
    assert response.code == 302
    return response.headers["Location"]


async def at_provider(provider, location):
    """Visits the provider, and returns the path with which the browser comes back."""
    assert location.startswith(f"{provider.url}/authorize?")
    response = await provider.browser().get(location.removeprefix(provider.url))
    assert response.code == 302
    back = response.headers["Location"]
    assert back.startswith(f"{SITE}/callback?")
    return back.removeprefix(SITE)


async def sign_in(browser, provider, user="alice"):
    provider.application.settings["user"] = user
    return await browser.get(await at_provider(provider, await begin(browser)))


async def user_of(browser):
    """Returns who is greeted, or None when a login is asked for."""
    response = await browser.get("/account")
    if response.code == 302:
        assert response.headers["Location"] == "/login?next=%2Faccount"
        return None
    return re.search("Hello, (.*)!", response.body.decode())[1]


async def test_a_visitor_signs_in(site, provider):
    browser = site.browser()
    assert await user_of(browser) is None
    response = await sign_in(browser, provider)
    assert (response.code, response.headers["Location"]) == (303, "/account")
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert await user_of(browser) == "Alice"
    record = await record_of(site.manager, id_of_secret(browser.secret))
    assert (record.owner, record.data) == ("alice", {"logins": {}, "name": "Alice"})


async def test_a_login_changes_the_secret(site, provider):
    browser, thief = site.browser(), site.browser()
    back = await at_provider(provider, await begin(browser))
    thief.cookies = dict(browser.cookies)
    await browser.get(back)
    assert browser.secret != thief.secret
    assert await user_of(thief) is None
    assert await user_of(browser) == "Alice"


@pytest.mark.parametrize("wanted", ["https://evil.example", "//evil.example", "/\\evil.example", "/logout", ""])
async def test_a_login_leads_to_no_page_but_ours(site, provider, wanted):
    browser = site.browser()
    response = await browser.get(await at_provider(provider, await begin(browser, wanted)))
    assert response.headers["Location"] == "/account"


async def test_a_login_leads_to_the_page_that_was_wanted(site, provider):
    browser = site.browser()
    wanted = (await browser.get("/orders")).headers["Location"]
    assert wanted == "/login?next=%2Forders"
    response = await browser.get(await at_provider(provider, await begin(browser, "/orders")))
    assert response.headers["Location"] == "/orders"
    assert "Hello, Alice!" in await browser.text("/orders")


async def test_a_login_is_begun_and_ended_by_forms_of_ours_only(site, provider):
    browser = site.browser()
    assert (await browser.post("/login")).code == 403
    assert browser.cookies == {}
    await sign_in(browser, provider)
    assert (await browser.post("/logout")).code == 403
    assert (await browser.get("/logout")).code == 405
    assert await user_of(browser) == "Alice"


async def test_a_logout_ends_the_session(site, provider):
    browser, other = site.browser(), site.browser()
    await sign_in(browser, provider)
    other.cookies = dict(browser.cookies)
    token = re.search(r'name="_xsrf" value="([^"]+)"', await browser.text("/account"))[1]
    assert (await browser.post("/logout", body=urlencode({"_xsrf": token}))).code == 303
    assert await user_of(other) is None
    assert [record async for record in site.manager.records()] == []


@pytest.mark.parametrize("state", ["", "state=", "state=wrong", "state=a.b", "state=%24set"])
async def test_a_state_that_is_not_ours_signs_nobody_in(site, provider, state):
    browser = site.browser()
    back = await at_provider(provider, await begin(browser))
    secret = browser.secret
    code = parse_qs(urlsplit(back).query)["code"][0]
    assert (await browser.get(f"/callback?code={code}&{state}")).code == 403
    assert await user_of(browser) is None
    assert browser.secret == secret
    assert code in provider.application.settings["codes"]  # nobody has even asked the provider
    assert (await browser.get(back)).code == 303  # and the login that was begun goes on


async def test_a_state_counts_once(site, provider):
    browser = site.browser()
    location = await begin(browser)
    back, again = [await at_provider(provider, location) for _ in range(2)]  # with two codes that are both good
    assert (await browser.get(back)).code == 303
    assert (await browser.get(again)).code == 403
    assert await user_of(browser) == "Alice"


async def test_a_state_of_a_login_that_failed_is_spent(site, provider):
    browser = site.browser()
    back = await at_provider(provider, await begin(browser))
    state = parse_qs(urlsplit(back).query)["state"][0]
    response = await browser.get(f"/callback?error=access_denied&state={state}")
    assert (response.code, response.reason) == (403, "The provider did not sign you in")
    assert (await browser.get(back)).code == 403
    assert await user_of(browser) is None


async def test_a_login_that_took_too_long_is_refused(site, provider, monkeypatch):
    browser = site.browser()
    back = await at_provider(provider, await begin(browser))
    monkeypatch.setattr(oauth2, "LONGEST_LOGIN", timedelta(0))
    assert (await browser.get(back)).code == 403
    assert await user_of(browser) is None


@pytest.mark.parametrize("has_visited", [False, True])
async def test_an_attacker_cannot_sign_a_visitor_in_as_himself(site, provider, has_visited):
    attacker, visitor = site.browser(), site.browser()
    provider.application.settings["user"] = "mallory"
    back = await at_provider(provider, await begin(attacker))
    if has_visited:
        await begin(visitor)
    assert (await visitor.get(back)).code == 403
    assert await user_of(visitor) is None


async def test_a_code_that_was_stolen_is_of_no_use_in_another_login(site, provider):
    """The thief has a state of his own, but not the verifier (RFC 9700, 4.5)."""
    visitor, thief = site.browser(), site.browser()
    stolen = parse_qs(urlsplit(await at_provider(provider, await begin(visitor))).query)["code"][0]
    state = parse_qs(urlsplit(await begin(thief)).query)["state"][0]
    assert (await thief.get(f"/callback?code={stolen}&state={state}")).code == 502
    assert await user_of(thief) is None


async def test_two_tabs_begin_a_login_and_both_finish(site, provider):
    browser = site.browser()
    await browser.get("/login")
    one, other = [await at_provider(provider, await begin(browser)) for _ in range(2)]
    assert (await browser.get(other)).code == 303
    secret = browser.secret
    assert (await browser.get(one)).code == 303
    assert browser.secret != secret
    assert await user_of(browser) == "Alice"


async def test_two_tabs_come_back_at_the_same_moment(site, provider):
    browser = site.browser()
    backs = [await at_provider(provider, await begin(browser)) for _ in range(2)]
    provider.application.settings["is_quick"].clear()
    asyncio.get_running_loop().call_later(0.2, provider.application.settings["is_quick"].set)
    responses = await asyncio.gather(*(browser.get(back) for back in backs))
    assert [response.code for response in responses] == [303, 303]
    assert await user_of(browser) == "Alice"


async def test_logins_that_are_given_up_do_not_fill_the_session(site, provider):
    browser = site.browser()
    oldest = await at_provider(provider, await begin(browser))
    backs = [await at_provider(provider, await begin(browser)) for _ in range(oauth2.MOST_LOGINS)]
    record = await record_of(site.manager, id_of_secret(browser.secret))
    assert len(record.data["logins"]) == oauth2.MOST_LOGINS
    assert (await browser.get(oldest)).code == 403
    assert (await browser.get(backs[0])).code == 303


async def test_another_user_inherits_nothing(site, provider):
    browser = site.browser()
    await sign_in(browser, provider)
    first = browser.secret
    await begin(browser)
    assert (await sign_in(browser, provider, user="bob")).code == 303
    assert await user_of(browser) == "Bob"
    assert await record_of(site.manager, id_of_secret(first)) is None
    record = await record_of(site.manager, id_of_secret(browser.secret))
    assert (record.owner, record.data) == ("bob", {"name": "Bob"})


async def test_a_provider_that_is_down_signs_nobody_in(site, provider):
    browser = site.browser()
    back = await at_provider(provider, await begin(browser))
    await provider.close()
    response = await browser.get(back)
    assert (response.code, response.reason) == (502, "The provider did not confirm who you are")
    assert await user_of(browser) is None
    assert (await browser.get(back)).code == 403


@pytest.mark.parametrize(
    "answer",
    [
        {"error": "who?"},
        {"sub": None, "name": "A"},
        {"sub": "", "name": "A"},
        {"sub": {}, "name": "A"},
        "[]",
        "oops",
        "1",
    ],
    ids=str,
)
async def test_a_provider_that_does_not_say_who_it_is_signs_nobody_in(site, provider, answer):
    browser = site.browser()
    provider.application.settings["answer"] = answer
    assert (await sign_in(browser, provider)).code == 502
    assert await user_of(browser) is None


@pytest.mark.parametrize("attribute", ["HttpOnly", "SameSite=Lax"])
async def test_the_session_is_there_when_the_visitor_comes_back(site, attribute):
    """With a top-level GET from another site, browsers send what is Lax, and nothing that is Strict."""
    browser = site.browser()
    token = re.search(r'name="_xsrf" value="([^"]+)"', await browser.text("/login"))[1]
    response = await browser.post("/login", body=urlencode({"_xsrf": token}))
    (cookie,) = response.headers.get_list("Set-Cookie")
    assert attribute in cookie.split("; ")
