"""What an administrator takes away is gone with the next click, on all of the user's devices."""

import asyncio
import re

import pytest
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

from demo.recipes.changing_roles import Users, make_application

from ..support import Site


class SlowUsers(Users):
    """Waits after it has read a role, so that there is time for a change."""

    def __init__(self):
        super().__init__()
        self.is_read, self.may_go = asyncio.Event(), asyncio.Event()
        self.may_go.set()
        self.fails = False

    async def role(self, name):
        if self.fails:
            raise OSError("no database today")
        role = await super().role(name)
        self.is_read.set()
        await self.may_go.wait()
        return role


@pytest.fixture
async def site():
    site = Site(make_application(users=SlowUsers()))
    yield site
    await site.close()


async def post(browser, path, body):
    form = await browser.text("/login")
    xsrf = re.search(r'name="_xsrf" value="([^"]+)"', form)[1]
    return await browser.post(path, body=f"{body}&_xsrf={xsrf}")


async def signed_in(site, name):
    browser = site.browser()
    assert (await post(browser, "/login", f"name={name}")).code == 303
    return browser


async def role(browser):
    return re.search("<p>.*, (.*)</p>", await browser.text())[1]


async def test_a_change_reaches_all_devices_with_the_next_request_and_renews_their_secrets(site):
    root, laptop, phone, other = [await signed_in(site, name) for name in ("root", "ada", "ada", "bob")]
    secrets = {laptop.secret, phone.secret}
    assert (await post(root, "/roles", "name=ada&role=editor")).code == 303
    assert [await role(browser) for browser in (laptop, phone, other)] == ["editor", "editor", "reader"]
    assert not secrets & {laptop.secret, phone.secret}
    before = laptop.secret
    assert await role(laptop) == "editor"
    assert laptop.secret == before


async def test_what_is_taken_away_is_gone_at_once(site):
    root = await signed_in(site, "root")
    await post(root, "/roles", "name=ada&role=administrator")
    ada = await signed_in(site, "ada")
    await post(root, "/roles", "name=ada&role=reader")
    assert (await post(ada, "/roles", "name=ada&role=administrator")).code == 403
    assert await role(ada) == "reader"


async def test_an_open_page_hears_of_it(site):
    root, ada = await signed_in(site, "root"), await signed_in(site, "ada")
    headers = {"Cookie": f"_session={ada.secret}"}
    page = await websocket_connect(HTTPRequest(f"ws://127.0.0.1:{site.port}/open", headers=headers))
    assert await page.read_message() == "reader"
    await post(root, "/roles", "name=ada&role=editor")
    assert await page.read_message() == "editor"
    page.close()


async def test_a_login_at_the_same_moment_does_not_keep_the_former_role(site):
    root, users = await signed_in(site, "root"), site.application.settings["users"]
    users.is_read.clear()
    users.may_go.clear()
    login = asyncio.ensure_future(signed_in(site, "ada"))
    await users.is_read.wait()  # it knows the former role, and has not stored it yet
    changed = asyncio.ensure_future(post(root, "/roles", "name=ada&role=editor"))
    await changed
    users.may_go.set()
    assert await role(await login) == "editor"


async def test_nobody_else_changes_roles(site):
    ada = await signed_in(site, "ada")
    assert (await post(ada, "/roles", "name=ada&role=administrator")).code == 403
    assert (await post(site.browser(), "/roles", "name=ada&role=administrator")).code in (302, 403)
    root = await signed_in(site, "root")
    assert (await post(root, "/roles", "name=ada&role=god")).code == 400


async def test_a_login_that_fails_leaves_nobody_with_the_role_of_another(site):
    browser, users = await signed_in(site, "root"), site.application.settings["users"]
    users.fails = True
    assert (await post(browser, "/login", "name=mallory")).code == 500
    users.fails = False
    shown = (await browser.get()).body.decode()
    assert "mallory" not in shown
    await post(browser, "/login", "name=mallory")
    assert await role(browser) == "reader"


async def test_a_demotion_meets_a_session_that_is_rotated_at_that_moment(site):
    root, ada = await signed_in(site, "root"), await signed_in(site, "ada")
    for number in range(20):
        await post(root, "/roles", "name=ada&role=administrator")
        click = asyncio.ensure_future(ada.get())  # whose session is rotated now
        await asyncio.sleep(0.0002 * (number % 10))
        assert (await post(root, "/roles", "name=ada&role=reader")).code == 303
        await click
        assert await role(ada) == "reader"
