"""An identity provider that POSTs back, from another site: what browsers send along then, and what is believed."""

import hmac
import json
import os
import re
import shutil
import time
from datetime import timedelta
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from playwright.async_api import async_playwright
from tornado.web import RequestHandler

from demo.recipes import post_back
from tests.support import Site, record_of, serve
from tornado_sesame.cookie import id_of_secret

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

KEY = "the provider's key"
PROVIDER_URL = "https://identity.example/sign-in"


class Visitor:
    """A browser that sends cookies only where their ``SameSite`` lets it."""

    def __init__(self, site):
        self.browser = site.browser()
        self.same_site = {}

    async def visit(self, method, path, from_elsewhere=False, **options):
        cookies = self.browser.cookies
        allowed = {"None", "Lax"} if method == "GET" else {"None"}  # as all that is done here is top-level
        withheld = {name for name in cookies if from_elsewhere and self.same_site[name] not in allowed}
        self.browser.cookies = {name: value for name, value in cookies.items() if name not in withheld}
        response = await self.browser.fetch(method, path, **options)
        headers = response.headers.get_list("Set-Cookie")
        for header in headers:
            self.same_site[header.partition("=")[0]] = re.search("SameSite=(None|Lax|Strict)", header)[1]
        withheld -= {header.partition("=")[0] for header in headers}
        self.browser.cookies |= {name: cookies[name] for name in withheld}
        return response

    async def submit(self, path):
        page = (await self.visit("GET", "/")).body.decode()
        token = re.search(r'name="_xsrf" value="([^"]+)"', page)[1]
        return await self.visit("POST", path, body=urlencode({"_xsrf": token}))

    async def begin(self):
        """Presses the button "Sign in", and returns the nonce that the provider gets to know."""
        location = (await self.submit("/login")).headers["Location"]
        assert location.startswith(f"{PROVIDER_URL}?")
        return parse_qs(urlsplit(location).query)["nonce"][0]

    async def post_back(self, answer):
        """Sends the provider's form, from the provider's site."""
        return await self.visit("POST", "/callback", from_elsewhere=True, body=urlencode(answer))

    async def come_back(self, answer):
        """Does that and follows the redirect, and returns the status that it comes to."""
        response = await self.post_back(answer)
        if response.code != 303:
            return response.code
        return (await self.visit("GET", response.headers["Location"], from_elsewhere=True)).code

    async def shown(self):
        """Returns whose page it is, and what is in the cart."""
        return re.match("<p>(.*?)</p>", (await self.visit("GET", "/")).body.decode())[1]


def answer_of(key=KEY, **claims):
    """Returns the form that the provider has the browser send."""
    answer = json.dumps({"subject": "alice", "issued": time.time(), **claims})
    return {"answer": answer, "signature": hmac.digest(key.encode(), answer.encode(), "sha256").hex()}


@pytest.fixture
async def site():
    site = Site(post_back.make_application("the site's secret", KEY, PROVIDER_URL))
    yield site
    await site.close()


@pytest.fixture
def visitor(site):
    return Visitor(site)


async def test_a_visitor_signs_in_and_keeps_his_cart(site, visitor):
    await visitor.submit("/cart")
    answer = answer_of(nonce=await visitor.begin())
    before = visitor.browser.secret
    assert await visitor.come_back(answer) == 303
    assert await visitor.shown() == "alice: a book"
    assert visitor.browser.secret != before
    assert await record_of(site.manager, id_of_secret(before)) is None
    record = await record_of(site.manager, id_of_secret(visitor.browser.secret))
    assert (record.owner, record.data) == ("alice", {"cart": ["a book"], "logins": {}})


async def test_the_post_comes_without_the_session_and_leaves_it_alone(site, visitor):
    await visitor.submit("/cart")
    answer = answer_of(nonce=await visitor.begin())
    cookies = dict(visitor.browser.cookies)
    response = await visitor.post_back(answer)
    assert "Cookie" not in response.request.headers
    assert (response.code, response.headers["Referrer-Policy"]) == (303, "no-referrer")
    assert response.headers.get_list("Set-Cookie") == []  # neither a session's nor that of the forms
    assert visitor.browser.cookies == cookies
    assert await visitor.shown() == "nobody: a book"  # the POST itself signs nobody in
    assert len([record async for record in site.manager.records()]) == 1


async def test_the_post_does_not_use_a_session_that_comes_along_nevertheless(site, visitor):
    """Old browsers know no ``SameSite``."""
    await visitor.submit("/cart")
    answer = answer_of(nonce=await visitor.begin())
    visitor.same_site = dict.fromkeys(visitor.same_site, "None")
    response = await visitor.post_back(answer)
    assert response.headers.get_list("Set-Cookie") == []
    assert await visitor.shown() == "nobody: a book"


async def test_the_url_in_between_is_of_no_use_to_others(site, visitor):
    location = (await visitor.post_back(answer_of(nonce=await visitor.begin()))).headers["Location"]
    other = Visitor(site)
    await other.submit("/cart")
    assert (await other.visit("GET", location)).code == 403
    assert await other.shown() == "nobody: a book"
    response = await visitor.visit("GET", location, from_elsewhere=True)
    assert (response.code, response.headers["Referrer-Policy"]) == (303, "no-referrer")
    assert (await visitor.visit("GET", location)).code == 403  # from the history, later
    assert await visitor.shown() == "alice: "


FORGED = {
    "without a signature": lambda nonce: {**answer_of(nonce=nonce), "signature": ""},
    "with a signature that is none": lambda nonce: {**answer_of(nonce=nonce), "signature": "é"},
    "with another key": lambda nonce: answer_of("a guess", nonce=nonce),
    "with another subject": lambda nonce: {
        name: value.replace("alice", "admin") for name, value in answer_of(nonce=nonce).items()
    },
    "with the signature of another answer": lambda nonce: {
        **answer_of(nonce=nonce),
        "signature": answer_of(nonce="another")["signature"],
    },
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
async def test_forged_answers_are_refused(visitor, forge):
    assert await visitor.come_back(forge(await visitor.begin())) == 403
    assert await visitor.shown() == "nobody: "


@pytest.mark.parametrize("minutes", [-5, 5])
async def test_answers_of_another_time_are_refused(visitor, minutes):
    answer = answer_of(nonce=await visitor.begin(), issued=time.time() + 60 * minutes)
    assert await visitor.come_back(answer) == 403
    assert await visitor.shown() == "nobody: "


async def test_a_step_in_between_that_took_too_long_is_refused(visitor, monkeypatch):
    response = await visitor.post_back(answer_of(nonce=await visitor.begin()))
    later = time.time() + 61
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: later)
        assert (await visitor.visit("GET", response.headers["Location"], from_elsewhere=True)).code == 403
    assert await visitor.shown() == "nobody: "


async def test_a_login_that_took_too_long_is_refused(visitor, monkeypatch):
    answer = answer_of(nonce=await visitor.begin())
    monkeypatch.setattr(post_back, "LONGEST_LOGIN", timedelta(0))
    assert await visitor.come_back(answer) == 403
    assert await visitor.shown() == "nobody: "


@pytest.mark.parametrize("is_signed_out", [False, True])
async def test_an_answer_counts_once(visitor, is_signed_out):
    answer = answer_of(nonce=await visitor.begin())
    assert await visitor.come_back(answer) == 303
    if is_signed_out:
        await visitor.submit("/logout")
    assert await visitor.come_back(answer) == 403
    assert await visitor.shown() == ("nobody: " if is_signed_out else "alice: ")


@pytest.mark.parametrize("has_begun", [False, True])
async def test_an_attacker_cannot_sign_a_visitor_in_as_himself(site, visitor, has_begun):
    attacker = Visitor(site)
    answer = answer_of(nonce=await attacker.begin(), subject="mallory")
    await visitor.submit("/cart")
    if has_begun:
        await visitor.begin()
    assert await visitor.come_back(answer) == 403
    assert await visitor.shown() == "nobody: a book"


@pytest.mark.parametrize("signed", ["", "answer=", "answer=2|1:0|10:1700000000|6:answer|4:e30=|00"])
async def test_nobody_finishes_without_the_callback(visitor, signed):
    await visitor.begin()
    assert (await visitor.visit("GET", f"/finish?{signed}")).code == 403
    assert await visitor.shown() == "nobody: "


async def test_two_tabs_begin_a_login_and_both_finish(visitor):
    await visitor.submit("/cart")
    answers = [answer_of(nonce=await visitor.begin()) for _ in range(2)]
    assert [await visitor.come_back(answer) for answer in reversed(answers)] == [303, 303]
    assert await visitor.shown() == "alice: a book"


async def test_logins_that_are_given_up_do_not_fill_the_session(site, visitor):
    nonces = [await visitor.begin() for _ in range(post_back.MOST_LOGINS + 1)]
    record = await record_of(site.manager, id_of_secret(visitor.browser.secret))
    assert set(record.data["logins"]) == set(nonces[1:])


async def test_another_user_inherits_nothing(visitor):
    await visitor.come_back(answer_of(nonce=await visitor.begin()))
    await visitor.submit("/cart")
    assert await visitor.come_back(answer_of(nonce=await visitor.begin(), subject="bob")) == 303
    assert await visitor.shown() == "bob: "


@pytest.mark.parametrize("path", ["/cart", "/login", "/logout"])
async def test_other_sites_forms_are_refused(visitor, path):
    await visitor.come_back(answer_of(nonce=await visitor.begin()))
    assert (await visitor.visit("POST", path, from_elsewhere=True)).code == 403
    visitor.same_site = dict.fromkeys(visitor.same_site, "None")  # as in old browsers
    assert (await visitor.visit("POST", path, from_elsewhere=True)).code == 403
    assert await visitor.shown() == "alice: "


class SignIn(RequestHandler):
    """A provider's page, which knows who is there and sends a form at once."""

    def get(self):
        form = answer_of(nonce=self.get_query_argument("nonce"))
        self.write(f'<form method="post" action="{self.settings["callback_url"]}">')
        for name, value in form.items():
            self.write(f'<input type="hidden" name="{name}" value="{value.replace(chr(34), "&quot;")}">')
        self.write("</form><script>document.forms[0].submit()</script>")


@pytest.fixture
async def provider():
    async with serve([("/sign-in", SignIn)]) as provider:
        yield provider


@pytest.mark.skipif(CHROMIUM is None, reason="no browser: install Debian's chromium, for instance")
async def test_a_real_browser_does_all_that(site, provider):
    site.application.settings["provider_url"] = f"{provider.url}/sign-in"
    url = f"http://shop.localhost:{site.port}"  # another site than 127.0.0.1 is
    provider.application.settings["callback_url"] = f"{url}/callback"
    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = await browser.new_page(base_url=url)
        page.set_default_timeout(60_000)  # for a machine that is ten times slower
        await page.goto("/")
        await page.get_by_role("button", name="Take a book").click()
        await page.wait_for_url("/")
        async with page.expect_request("**/callback") as posted, page.expect_request("**/finish?*") as finished:
            await page.get_by_role("button", name="Sign in").click()
        headers = [await (await request.value).all_headers() for request in (posted, finished)]
        assert ["_session=" in header.get("cookie", "") for header in headers] == [False, True]
        await page.wait_for_url("/")
        assert await page.locator("p").inner_text() == "alice: a book"
        await browser.close()
