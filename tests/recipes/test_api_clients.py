"""Clients without cookies have sessions, scripts of allowed sites too, and nobody can forge their requests."""

import json

import pytest

from demo.recipes.api_clients import HEADER, make_application

from ..support import Site

FRIEND, STRANGER = "https://app.example.com", "https://evil.example.com"


@pytest.fixture
async def site():
    site = Site(make_application(allowed_origins=[FRIEND]))
    yield site
    await site.close()


class Client:
    """Does what the recipe says that a client does."""

    def __init__(self, site, origin=None):
        self.browser = site.browser()
        self.token = ""
        self.origin = {"Origin": origin} if origin else {}

    async def fetch(self, method, path, **options):
        response = await self.browser.fetch(method, path, headers={HEADER: self.token, **self.origin}, **options)
        self.token = response.headers.get(HEADER, self.token)
        return response


async def test_a_client_signs_in_comes_back_and_signs_out(site):
    client = Client(site)
    assert (await client.fetch("GET", "/api/account")).code == 401
    assert client.token == ""
    assert (await client.fetch("POST", "/api/login", body="name=Ada")).code == 200
    token = client.token
    for times in (1, 2):
        assert json.loads((await client.fetch("GET", "/api/account")).body) == {"name": "Ada", "times": times}
    assert client.token == token
    assert (await client.fetch("POST", "/api/logout")).code == 200
    assert client.token == ""
    client.token = token
    assert (await client.fetch("GET", "/api/account")).code == 401
    assert not client.browser.cookies


async def test_signing_in_again_is_another_secret_and_another_user_inherits_nothing(site):
    client = Client(site)
    await client.fetch("POST", "/api/login", body="name=Ada")
    first = client.token
    await client.fetch("GET", "/api/account")
    await client.fetch("POST", "/api/login", body="name=Bob")
    assert client.token not in ("", first)
    assert json.loads((await client.fetch("GET", "/api/account")).body) == {"name": "Bob", "times": 1}


async def test_a_request_without_the_header_needs_an_xsrf_token(site):
    browser = site.browser()
    assert (await browser.post("/api/login", body="name=Ada")).code == 403
    cookies = {"Cookie": "_xsrf=x"}
    assert (await browser.post("/api/login", body="name=Ada", headers=cookies)).code == 403


async def test_a_script_of_an_allowed_site_may_send_and_read_the_header(site):
    browser = site.browser()
    asked = {"Origin": FRIEND, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": HEADER}
    preflight = await browser.fetch("OPTIONS", "/api/account", headers=asked)
    assert preflight.code == 204
    assert preflight.headers["Access-Control-Allow-Origin"] == FRIEND
    assert preflight.headers["Access-Control-Allow-Headers"] == HEADER
    response = await Client(site, FRIEND).fetch("POST", "/api/login", body="name=Ada")
    assert response.headers["Access-Control-Allow-Origin"] == FRIEND
    assert response.headers["Access-Control-Expose-Headers"] == HEADER
    assert "Access-Control-Allow-Credentials" not in response.headers
    assert "Origin" in response.headers.get_list("Vary")


async def test_a_script_of_another_site_may_not(site):
    asked = {"Origin": STRANGER, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": HEADER}
    preflight = await site.browser().fetch("OPTIONS", "/api/login", headers=asked)
    response = await Client(site, STRANGER).fetch("POST", "/api/login", body="name=Ada")
    for answer in (preflight, response):
        assert not [name for name in answer.headers if name.startswith("Access-Control")]
