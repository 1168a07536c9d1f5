"""Two applications on one host, visited by one browser, which sends all its cookies to both of them."""

import re
from contextlib import asynccontextmanager
from urllib.parse import urlencode

from demo.recipes.two_applications import ADMIN_COOKIE, SHOP_COOKIE, make_admin, make_shop
from tests.support import Site
from tornado_sesame import MemoryStore, SessionCookie


@asynccontextmanager
async def one_browser(shop, admin):
    """Runs both applications and yields a browser's windows on them, which have one jar: cookies know no ports."""
    sites = [Site(shop), Site(admin)]
    in_shop, in_admin = (site.browser() for site in sites)
    in_admin.cookies = in_shop.cookies
    try:
        yield in_shop, in_admin
    finally:
        for site in sites:
            await site.close()


async def submit(browser, path, **fields):
    """Sends the form on the page at *path*, with the token that is in it."""
    token = re.search(r'name="_xsrf" value="([^"]+)"', await browser.text(path))[1]
    response = await browser.post(path, body=urlencode({"_xsrf": token, **fields}))
    assert response.code == 303
    return response


async def user_of(browser, path):
    """Returns who is signed in, as the page says."""
    return (await browser.text(path)).partition(": ")[2].partition(" <form")[0]


async def test_neither_application_signs_the_other_out():
    async with one_browser(make_shop(MemoryStore()), make_admin(MemoryStore())) as (shop, admin):
        await submit(shop, "/", user="alice")
        await submit(admin, "/admin/", user="root")
        assert await user_of(shop, "/") == "alice is signed in"
        assert await user_of(admin, "/admin/") == "root is signed in"

        await submit(admin, "/admin/")
        assert await user_of(shop, "/") == "alice is signed in"
        assert await user_of(admin, "/admin/") == "nobody is signed in"

        await submit(admin, "/admin/", user="root")
        await submit(shop, "/")
        assert await user_of(shop, "/") == "nobody is signed in"
        assert await user_of(admin, "/admin/") == "root is signed in"


async def test_with_cookies_of_one_name_they_do():
    """This is what the recipe prevents."""
    default = SessionCookie()
    async with one_browser(make_shop(MemoryStore(), default), make_admin(MemoryStore(), default)) as (shop, admin):
        await submit(shop, "/", user="alice")
        await submit(admin, "/admin/", user="root")
        assert await user_of(shop, "/") == "nobody is signed in"
        await submit(shop, "/", user="alice")
        assert await user_of(admin, "/admin/") == "nobody is signed in"


async def test_all_cookies_of_the_administration_are_confined_to_its_path():
    async with one_browser(make_shop(MemoryStore()), make_admin(MemoryStore())) as (_, admin):
        page = await admin.get("/admin/")
        signed_in = await submit(admin, "/admin/", user="root")
        headers = [*page.headers.get_list("Set-Cookie"), *signed_in.headers.get_list("Set-Cookie")]
        assert {header.partition("=")[0] for header in headers} == {"admin_session", "admin_session_xsrf"}
        assert all("; Path=/admin;" in header + ";" for header in headers), headers
        assert all("; HttpOnly" in header for header in headers), headers


async def test_a_customer_cannot_pass_his_cookie_off_as_an_administrators():
    async with one_browser(make_shop(MemoryStore()), make_admin(MemoryStore())) as (shop, admin):
        await submit(shop, "/", user="alice")
        shop.cookies[ADMIN_COOKIE.name] = shop.cookies[SHOP_COOKIE.name]
        assert await user_of(admin, "/admin/") == "nobody is signed in"


async def test_with_one_store_he_can():
    """This is why each application has a store of its own."""
    store = MemoryStore()
    async with one_browser(make_shop(store), make_admin(store)) as (shop, admin):
        await submit(shop, "/", user="alice")
        shop.cookies[ADMIN_COOKIE.name] = shop.cookies[SHOP_COOKIE.name]
        assert await user_of(admin, "/admin/") == "alice is signed in"


async def test_one_cookie_and_one_store_are_one_session():
    store, cookie = MemoryStore(), SessionCookie(name="both")
    async with one_browser(make_shop(store, cookie), make_admin(store, cookie)) as (shop, admin):
        await submit(shop, "/", user="alice")
        assert await user_of(admin, "/admin/") == "alice is signed in"
        await submit(admin, "/admin/")
        assert await user_of(shop, "/") == "nobody is signed in"


async def test_a_form_without_its_token_signs_nobody_in():
    async with one_browser(make_shop(MemoryStore()), make_admin(MemoryStore())) as (shop, _):
        assert (await shop.post("/", body="user=mallory")).code == 403
        assert await user_of(shop, "/") == "nobody is signed in"


async def test_names_are_shown_as_text():
    async with one_browser(make_shop(MemoryStore()), make_admin(MemoryStore())) as (shop, _):
        await submit(shop, "/", user="<script>")
        assert await user_of(shop, "/") == "&lt;script&gt; is signed in"
