"""A login with a box: whoever ticks it stays signed in when the browser is closed, and for 30 days."""

import re
from datetime import timedelta

import pytest

from demo.recipes.keep_me_signed_in import make_application

from ..support import Site


@pytest.fixture
async def site():
    site = Site(make_application())
    yield site
    await site.close()


async def sign_in(site, browser, box):
    form = await browser.text("/login")
    xsrf = re.search(r'name="_xsrf" value="([^"]+)"', form)[1]
    response = await browser.post("/login", body=f"name=Alice&_xsrf={xsrf}{box}")
    assert (response.code, response.headers["Location"]) == (303, "/")
    (cookie,) = (header for header in response.headers.get_list("Set-Cookie") if header.startswith("_session="))
    (record,) = [record async for record in site.manager.records("Alice")]
    return cookie, record


async def test_with_it_the_cookie_outlasts_the_browser_and_the_session_lives_for_30_days(site):
    browser = site.browser()
    cookie, record = await sign_in(site, browser, "&remember=on")
    assert record.expires - record.updated == record.lifetime == timedelta(days=30)
    max_age = int(cookie.partition("Max-Age=")[2].partition(";")[0])
    assert max_age == pytest.approx(timedelta(days=180).total_seconds(), abs=60)  # when it has to end at the latest
    assert "You stay signed in for 30 days." in await browser.text("/")


async def test_without_it_neither_does(site):
    browser = site.browser()
    cookie, record = await sign_in(site, browser, "")
    assert record.lifetime is None
    assert record.expires - record.updated == timedelta(minutes=30)
    assert "Max-Age" not in cookie
    assert "You stay signed in until you close the browser." in await browser.text("/")


async def test_who_signs_in_again_without_it_is_remembered_no_longer(site):
    browser = site.browser()
    await sign_in(site, browser, "&remember=on")
    cookie, record = await sign_in(site, browser, "")
    assert record.lifetime is None
    assert record.expires - record.updated == timedelta(minutes=30)
    assert "Max-Age" not in cookie


async def test_another_user_on_the_same_browser_inherits_nothing(site):
    browser = site.browser()
    _, record = await sign_in(site, browser, "&remember=on")
    async with site.manager.edit(record.id) as session:
        session.cart = "Alice's"
    xsrf = browser.cookies["_xsrf"]
    await browser.post("/login", body=f"name=Bob&_xsrf={xsrf}")
    (record,) = [record async for record in site.manager.records()]
    assert (record.owner, record.data, record.lifetime) == ("Bob", {}, None)


async def test_signing_out_is_final(site):
    browser = site.browser()
    await sign_in(site, browser, "&remember=on")
    cookies = dict(browser.cookies)
    xsrf = re.search(r'name="_xsrf" value="([^"]+)"', await browser.text("/"))[1]
    await browser.post("/logout", body=f"_xsrf={xsrf}")
    browser.cookies = cookies
    assert (await browser.get("/")).headers["Location"].startswith("/login")
