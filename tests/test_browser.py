"""The demo in a real Chromium: what changes elsewhere is on the page, and what ends there closes it."""

import os
import re
import shutil
import signal

import pytest
from playwright.async_api import async_playwright, expect

from .test_demo import Demo

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no browser: install Debian's chromium, for instance")

# What it asks of the world by itself is nobody's business in a test.
ARGUMENTS = [
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"),
    *(["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
]

SECONDS = 60_000  # for a machine that is ten times slower

expect.set_options(timeout=SECONDS)


@pytest.fixture(params=["memory", "mongodb"])
def demo(request):
    uri = request.getfixturevalue("mongodb_uri") if request.param == "mongodb" else None
    demo = Demo(*(("--mongo", uri) if uri else ()))
    yield demo
    demo.end(signal.SIGKILL)


@pytest.fixture
async def devices(demo):
    """Gives a function that opens a page of a new device; no page may have an error."""
    errors = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)

        async def device(**options):
            context = await browser.new_context(base_url=demo.url, **options)
            context.set_default_timeout(SECONDS)
            context.on("weberror", lambda error: errors.append(str(error.error)))
            # A policy that is violated is an error on the console, too.
            context.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
            return context

        yield device
        await browser.close()
    assert errors == []


async def sign_in(context, name):
    page = await context.new_page()
    await page.goto("/login")
    await page.get_by_label("Name").fill(name)
    await page.locator("main").get_by_role("button", name="Sign in").click()
    await page.wait_for_url("**/notes")
    return page


async def test_a_counter_counts_in_all_tabs(devices):
    context = await devices()
    one, other = [await context.new_page() for _ in range(2)]
    await one.goto("/")
    await expect(one.locator("h1")).to_have_text("1 times!")
    await other.goto("/")
    await expect(one.locator("h1")).to_have_text("2 times!")
    await expect(one.locator("[data-show=update]")).to_contain_text('"$inc"')
    await expect(one.locator("[data-show=stored]")).to_contain_text('"times": 2')
    await expect(one.locator("[data-show=command]")).to_have_text(re.compile(r"^\d+\.\d ms, for "))


async def test_a_note_is_on_all_pages(devices, demo):
    context = await devices()
    page = await sign_in(context, f"Alice {demo.port}")
    other = await context.new_page()
    await other.goto("/notes")
    await page.get_by_label("New note").fill("buy <b>milk</b>")
    await page.get_by_role("button", name="Add").click()
    await expect(other.locator("[data-show=notes]")).to_have_text("buy <b>milk</b>")


async def test_signing_out_there_closes_the_page_there(devices, demo):
    here, there = await devices(), await devices()
    name = f"Alice {demo.port}"
    page, other = await sign_in(here, name), await sign_in(there, name)
    await other.goto("/devices")
    await page.goto("/devices")
    entries = page.locator(".devices li")
    await expect(entries).to_have_count(2)
    await expect(entries.first).to_contain_text("This one")
    await expect(entries.last).to_contain_text(re.compile("Chrome on .*just now", re.DOTALL))
    await entries.last.get_by_role("button", name="Sign out there").click()
    await other.wait_for_url("**/login?next=%2Fdevices")
    await expect(page.get_by_role("status")).to_have_text("Signed out there.")


async def test_a_note_that_is_sent_after_a_sign_out_is_not_lost(devices, demo):
    context = await devices()
    page = await sign_in(context, f"Alice {demo.port}")
    await context.clear_cookies(name="_session")
    await page.get_by_label("New note").fill("not lost")
    await page.get_by_role("button", name="Add").click()
    await page.wait_for_url("**/login?next=/notes")
    await page.get_by_label("Name").fill("Alice")
    await page.locator("main").get_by_role("button", name="Sign in").click()
    await page.wait_for_url("**/notes")
    await expect(page.get_by_label("New note")).to_have_value("not lost")


@pytest.mark.parametrize("has_javascript", [True, False])
async def test_the_race_loses_nothing_and_by_hand_it_does(devices, has_javascript):
    context = await devices(java_script_enabled=has_javascript)
    page = await context.new_page()
    await page.goto("/race")
    async with page.expect_navigation():
        await page.get_by_role("button", name="Send 150 requests").click()
    if has_javascript:
        await expect(page.get_by_role("button", name="Send 150 requests")).to_be_enabled()
    counts = [int(await page.locator(f"td [data-show={name}]").inner_text()) for name in ("increments", "appends")]
    assert counts == [50, 50]
    assert int(await page.locator("td [data-show=by_hand]").inner_text()) < 50


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_pages_fit_a_phone(devices, demo, scheme):
    context = await devices(viewport={"width": 360, "height": 700}, color_scheme=scheme)
    page = await sign_in(context, f"Alice {demo.port}")
    papers = set()
    for path in "/", "/race", "/notes", "/devices", "/login":
        await page.goto(path)
        assert await page.evaluate("document.documentElement.scrollWidth") <= 360
        papers.add(await page.evaluate("getComputedStyle(document.body).backgroundColor"))
    (paper,) = papers
    assert (sum(map(int, re.findall(r"\d+", paper))) > 3 * 128) is (scheme == "light")
