"""An open page knows when its user will be signed out, and does not keep him signed in by asking."""

import asyncio
import json
import re
from datetime import timedelta

from demo.recipes.signed_out_soon import make_application

from ..support import Site


async def signed_in(site):
    browser = site.browser()
    form = await browser.text("/login")
    xsrf = re.search(r'name="_xsrf" value="([^"]+)"', form)[1]
    assert (await browser.post("/login", body=f"name=Ada&_xsrf={xsrf}")).code == 303
    return browser, xsrf


async def left(browser):
    return json.loads(await browser.text("/remaining"))["seconds"]


async def test_asking_keeps_nobody_signed_in(database):
    site = Site(make_application(database.new_store(), timedelta(seconds=2)))
    try:
        browser, _ = await signed_in(site)
        assert 1 < await left(browser) <= 2
        for _ in range(5):
            await asyncio.sleep(0.45)
            await left(browser)
        assert await left(browser) is None
        assert (await browser.get()).headers["Location"].startswith("/login")
    finally:
        await site.close()


async def test_a_click_does():
    site = Site(make_application(idle_timeout=timedelta(seconds=2)))
    try:
        browser, xsrf = await signed_in(site)
        for _ in range(5):
            await asyncio.sleep(0.5)
            assert (await browser.post("/", body=f"_xsrf={xsrf}")).headers["Location"] == "/"
        assert (await browser.get()).code == 200
        assert 1 < await left(browser) <= 2
    finally:
        await site.close()


async def test_who_is_not_signed_in_has_no_time_left():
    site = Site(make_application())
    try:
        browser = site.browser()
        assert await left(browser) is None
        assert not browser.cookies
    finally:
        await site.close()
