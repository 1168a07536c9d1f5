"""What handlers can rely on from one request to the next, on a running server."""

import asyncio
import gc
import json
import logging

import pytest
from tornado import gen
from tornado.web import HTTPError, RequestHandler

from tornado_sesame import (
    MemoryStore,
    Session,
    SessionDataError,
    SessionGone,
    SessionManager,
    SessionMixin,
    SessionNotLoaded,
)
from tornado_sesame.cookie import Secret, id_of_secret
from tornado_sesame.live import LiveSession

from .support import eventually, serve


class Handler(SessionMixin, RequestHandler):
    pass


class Counter(Handler):
    def get(self):
        self.session.times = self.session.get("times", 0) + 1
        self.write(f"{self.session.times} times!")


class Show(Handler):
    def get(self):
        self.write(self.session.copy())


class Double(Handler):
    async def get(self):
        session = await self.session
        session.setdefault("foo", {"bar": {"baz": 1}}).bar.baz *= 2
        self.write(str(session.foo.bar.baz))


class Untouched(Handler):
    async def get(self):
        self.write("hello")


PAGES = [("/", Counter), ("/show", Show), ("/double", Double), ("/untouched", Untouched)]


async def test_a_counter_counts(site):
    browser = (await site(PAGES)).browser()
    assert [await browser.text() for _ in range(3)] == ["1 times!", "2 times!", "3 times!"]


async def test_nested_values_are_saved(site):
    browser = (await site(PAGES)).browser()
    assert [await browser.text("/double") for _ in range(3)] == ["2", "4", "8"]


async def test_visitors_have_sessions_of_their_own(site):
    running = await site(PAGES)
    alice, bob = running.browser(), running.browser()
    await alice.text()
    assert await bob.text() == "1 times!"
    assert await alice.text() == "2 times!"


async def test_a_session_outlives_its_server(site, database):
    browser = (await site(PAGES)).browser()
    await browser.text()
    again = (await site(PAGES)).browser()
    again.cookies = browser.cookies
    assert await again.text() == "2 times!"


async def test_sessions_are_in_memory_when_nothing_is_configured():
    async with serve(PAGES) as site:
        browser = site.browser()
        assert [await browser.text() for _ in range(2)] == ["1 times!", "2 times!"]
        assert isinstance(site.manager, SessionManager)


async def test_a_setting_that_is_no_manager_is_refused(caplog):
    async with serve(PAGES) as site:
        site.application.settings["sessions"] = MemoryStore()
        response = await site.browser().get()
        site.application.settings["sessions"] = SessionManager()
    assert response.code == 500
    assert "use Application(..., sessions=SessionManager(store))" in caplog.text


class TestNothingIsDoneFor:
    async def test_a_visitor_whose_session_is_not_touched(self, site, database):
        browser = (await site(PAGES)).browser()
        response = await browser.get("/untouched")
        assert not {"Set-Cookie", "Vary", "Cache-Control"} & response.headers.keys()
        assert database.commands.take() == []

    async def test_a_handler_that_does_not_touch_the_session(self, site, database):
        browser = (await site(PAGES)).browser()
        await browser.text()
        database.commands.take()
        response = await browser.get("/untouched")
        assert response.body == b"hello"
        assert not {"Set-Cookie", "Vary", "Cache-Control"} & response.headers.keys()
        assert database.commands.take() == []

    async def test_looking_into_an_empty_session(self, site, database):
        browser = (await site(PAGES)).browser()
        response = await browser.get("/show")
        assert response.body == b"{}"
        assert "Set-Cookie" not in response.headers
        assert database.commands.take() == []

    async def test_changes_that_cancel_out_in_an_empty_session(self, site, database):
        class Cancel(Handler):
            def get(self):
                self.session.name = "x"
                del self.session.name

        browser = (await site([("/", Cancel)])).browser()
        response = await browser.get()
        assert response.code == 200
        assert not browser.cookies
        assert database.commands.take() == []

    async def test_changes_that_cancel_out(self, site, database):
        class Cancel(Handler):
            def get(self):
                self.session.times += 1
                self.session.times -= 1
                self.session.name = "x"
                del self.session.name

        browser = (await site([*PAGES, ("/cancel", Cancel)])).browser()
        await browser.text()
        database.commands.take()
        assert (await browser.get("/cancel")).code == 200
        assert database.commands.take() == ["find"] * database.is_mongo


async def test_nothing_is_logged_when_nothing_goes_wrong(site, caplog):
    caplog.set_level(logging.INFO, "tornado_sesame")
    browser = (await site(PAGES)).browser()
    for path in "/", "/", "/show", "/double":
        await browser.text(path)
    assert [record for record in caplog.records if record.name == "tornado_sesame"] == []


async def test_what_a_request_leaves_behind_is_freed_without_the_garbage_collector(site):
    running = await site([("/", Counter), ("/show", Show), ("/untouched", Untouched)])
    browser = running.browser()
    await browser.text()
    gc.collect()
    # A test that failed before keeps its own in its traceback.
    others = {id(thing) for thing in gc.get_objects() if type(thing) in (LiveSession, Session)}
    gc.disable()
    try:
        for path in "/", "/show", "/untouched":
            await browser.text(path)

            async def is_freed():
                kinds = (LiveSession, Session)
                return not [thing for thing in gc.get_objects() if type(thing) in kinds and id(thing) not in others]

            await eventually(is_freed)
    finally:
        gc.enable()


@pytest.mark.mongodb
class TestCommands:
    async def test_a_session_that_is_only_read_is_not_written(self, site, database):
        browser = (await site(PAGES)).browser()
        await browser.text()
        database.commands.take()
        await browser.text("/show")
        assert database.commands.take() == ["find"]

    async def test_a_new_session_is_one_insert(self, site, database):
        browser = (await site(PAGES)).browser()
        await browser.text()
        assert database.commands.take() == ["insert"]

    async def test_twenty_changes_are_one_update(self, site, database):
        class Twenty(Handler):
            def get(self):
                for number in range(20):
                    self.session[f"field{number}"] = number

        browser = (await site([*PAGES, ("/twenty", Twenty)])).browser()
        await browser.text()
        database.commands.take()
        await browser.text("/twenty")
        assert database.commands.take() == ["find", "update"]

    async def test_awaiting_the_session_often_loads_it_once(self, site, database):
        class Often(Handler):
            async def get(self):
                for _ in range(3):
                    await self.session
                self.write(str((await self.session).times))

        browser = (await site([*PAGES, ("/often", Often)])).browser()
        await browser.text()
        database.commands.take()
        assert await browser.text("/often") == "1"
        assert database.commands.take() == ["find"]

    async def test_the_document_is_readable_as_it_is(self, site, database):
        browser = (await site(PAGES)).browser()
        await browser.text()
        document = await database.collection.find_one({})
        assert document["_id"] == id_of_secret(browser.secret)
        assert document["data"] == {"times": 1}
        assert document.keys() == {"_id", "data", "created", "updated", "expires"}


class TestLoading:
    async def test_a_plain_method_finds_it_loaded(self, site):
        browser = (await site(PAGES)).browser()
        await browser.text()
        assert json.loads(await browser.text("/show")) == {"times": 1}

    @pytest.mark.parametrize("wrap", [lambda f: f, gen.coroutine], ids=["async def", "gen.coroutine"])
    async def test_a_method_that_can_await_has_to(self, site, wrap, caplog):
        errors = []

        async def get(self):
            try:
                self.session.get("times")
            except SessionNotLoaded as error:
                errors.append(str(error))
            self.write(str((await self.session).times))

        def get_with_yield(self):
            try:
                self.session.get("times")
            except SessionNotLoaded as error:
                errors.append(str(error))
            session = yield self.session
            self.write(str(session.times))

        method = get if wrap is not gen.coroutine else gen.coroutine(get_with_yield)
        awaits = type("Awaits", (Handler,), {"get": method})
        browser = (await site([*PAGES, ("/awaits", awaits)])).browser()
        await browser.text()
        assert await browser.text("/awaits") == "1"
        assert len(errors) == 1
        assert "await self.session" in errors[0]
        assert "session_autoload = True" in errors[0]

    async def test_an_async_method_can_have_it_loaded(self, site):
        class Autoload(Handler):
            session_autoload = True

            async def get(self):
                self.write(str(self.session.times))

        browser = (await site([*PAGES, ("/autoload", Autoload)])).browser()
        await browser.text()
        assert await browser.text("/autoload") == "1"

    async def test_a_plain_method_can_do_without(self, site, database):
        class Never(Handler):
            session_autoload = False

            def get(self):
                self.write("hello")

        browser = (await site([*PAGES, ("/never", Never)])).browser()
        await browser.text()
        database.commands.take()
        assert await browser.text("/never") == "hello"
        assert database.commands.take() == []

    async def test_it_can_be_used_before_prepare(self, site, database):
        class Early(Handler):
            def initialize(self):
                self.mine = self.session

            async def prepare(self):
                if self.get_query_argument("await", None):
                    (await self.session).early = True

            def get(self):
                assert self.mine is self.session
                self.session.times = self.mine.get("times", 0) + 1

        running = await site([("/", Early)])
        browser = running.browser()
        for path in "/?await=1", "/", "/?await=1":
            assert (await browser.get(path)).code == 200
        assert await database.data(browser.secret) == {"early": True, "times": 3}
        assert running.manager.stats.loads == 2

    async def test_a_prepare_of_another_mixin_is_awaited_first(self, site):
        class Other(RequestHandler):
            async def prepare(self):
                self.steps = ["other"]

        class Mixed(SessionMixin, Other):
            def get(self):
                self.write({"steps": self.steps, "times": self.session.times})

        browser = (await site([*PAGES, ("/mixed", Mixed)])).browser()
        await browser.text()
        assert json.loads(await browser.text("/mixed")) == {"steps": ["other"], "times": 1}

    async def test_reload_sees_what_others_saved(self, site):
        class Reload(Handler):
            async def get(self):
                before = (await self.session).times
                await other.text()
                await self.reload_session()
                self.write(f"{before}, then {self.session.times}")

        running = await site([*PAGES, ("/reload", Reload)])
        browser, other = running.browser(), running.browser()
        await browser.text()
        other.cookies = browser.cookies
        assert await browser.text("/reload") == "1, then 2"

    async def test_save_session_saves_at_once(self, site, database):
        class Save(Handler):
            async def get(self):
                (await self.session).name = "Alice"
                await self.save_session()
                self.write(await database.data(self.session_id))

        assert json.loads(await (await site([("/", Save)])).browser().text()) == {"name": "Alice"}

    async def test_save_session_has_nothing_to_do_where_none_is_loaded(self, site, database):
        class Save(Handler):
            async def get(self):
                await self.save_session()
                self.write("saved")

        browser = (await site([*PAGES, ("/save", Save)])).browser()
        await browser.text()
        database.commands.take()
        assert await browser.text("/save") == "saved"
        assert database.commands.take() == []


class TestIds:
    async def test_the_id_is_the_hash_of_the_secret(self, site):
        class Id(Handler):
            def get(self):
                before = self.session_id
                self.session.here = True
                self.write({"before": before, "after": self.session_id})

        browser = (await site([("/", Id)])).browser()
        first = json.loads(await browser.text())
        assert first == {"before": None, "after": id_of_secret(browser.secret)}
        second = json.loads(await browser.text())
        assert second == {"before": first["after"], "after": first["after"]}

    @pytest.mark.parametrize("value", ["x", "x" * 42, "x" * 44, "x" * 42 + "!", "", '"', "é" * 43, "../../etc/passwd"])
    async def test_a_malformed_cookie_never_reaches_the_store(self, site, database, value):
        browser = (await site(PAGES)).browser()
        browser.cookies["_session"] = value
        assert (await browser.get("/show")).body == b"{}"
        assert database.commands.take() == []
        assert await browser.text() == "1 times!"
        assert browser.secret != value

    async def test_an_unknown_secret_is_not_adopted(self, site, database):
        browser = (await site(PAGES)).browser()
        planted = browser.cookies["_session"] = Secret().value
        assert await browser.text() == "1 times!"
        assert browser.secret != planted
        assert await database.data(planted) is None
        assert await database.data(browser.secret) == {"times": 1}

    async def test_of_two_cookies_the_first_valid_one_counts(self, site):
        browser = (await site(PAGES)).browser()
        await browser.text()
        twice = f"_session=planted; _session={browser.secret}; _session={Secret().value}"
        assert (await browser.get("/show", headers={"Cookie": twice})).body == b'{"times": 1}'


class TestCookies:
    async def test_the_cookie_is_given_once(self, site):
        browser = (await site(PAGES)).browser()
        first, second = await browser.get(), await browser.get()
        (cookie,) = first.headers.get_list("Set-Cookie")
        attributes = cookie.split("; ")[1:]
        assert attributes == ["Max-Age=34560000", "Path=/", "HttpOnly", "SameSite=Lax"]
        assert "Set-Cookie" not in second.headers

    async def test_it_is_secure_on_https(self, site):
        browser = (await site(PAGES)).browser()
        response = await browser.get(headers={"X-Forwarded-Proto": "https"})
        assert "; Secure;" in response.headers["Set-Cookie"]

    async def test_responses_say_that_they_depend_on_it(self, site):
        browser = (await site(PAGES)).browser()
        assert [(await browser.get()).headers["Vary"] for _ in range(2)] == ["Cookie", "Cookie"]

    async def test_a_response_that_sets_it_is_not_cached(self, site):
        class Cached(Counter):
            def prepare(self):
                self.set_header("Cache-Control", "private")

        running = await site([*PAGES, ("/cached", Cached)])
        assert (await running.browser().get()).headers["Cache-Control"] == "no-store"
        assert (await running.browser().get("/cached")).headers["Cache-Control"] == "private"

    async def test_the_handlers_own_vary_and_cookies_are_kept(self, site):
        class Own(Counter):
            def prepare(self):
                self.set_header("Vary", "Accept-Language")
                self.set_cookie("other", "1")

        response = await (await site([("/", Own)])).browser().get()
        assert {value for line in response.headers.get_list("Vary") for value in line.split(", ")} == {
            "Accept-Language",
            "Cookie",
        }
        assert {line.split("=")[0] for line in response.headers.get_list("Set-Cookie")} == {"other", "_session"}


class TestReplacing:
    async def replaced(self, site, database, by):
        class Replace(Handler):
            def get(self):
                self.session = by
                self.write(self.session.copy())

        browser = (await site([*PAGES, ("/replace", Replace)])).browser()
        await browser.text()
        before = browser.secret
        response = await browser.get("/replace")
        assert browser.secret == before
        return response, await database.data(before)

    async def test_assigning_a_dict_replaces_the_content_and_keeps_the_id(self, site, database):
        response, stored = await self.replaced(site, database, {"name": "Alice", "tags": ("a", "b")})
        assert json.loads(response.body) == stored == {"name": "Alice", "tags": ["a", "b"]}

    async def test_assigning_an_empty_dict_empties(self, site, database):
        response, stored = await self.replaced(site, database, {})
        assert json.loads(response.body) == stored == {}

    @pytest.mark.parametrize("by", [None, ["a"], "name", {"times": {1, 2}}, {1: 2}])
    async def test_anything_else_is_refused_and_changes_nothing(self, site, database, by, caplog):
        response, stored = await self.replaced(site, database, by)
        assert response.code == 500
        assert stored == {"times": 1}
        assert "SessionDataError" in caplog.text


class TestRefusedValues:
    async def test_a_value_that_cannot_be_stored_is_refused_at_the_assignment(self, site, database):
        class Refused(Handler):
            def get(self):
                self.session.user = {"name": "Alice"}
                with pytest.raises(
                    SessionDataError, match=r"^session\['user'\]\['tags'\]\[1\]: a set cannot be stored"
                ):
                    self.session.user.tags = ["a", {"b"}]
                self.write(self.session.copy())

        browser = (await site([("/", Refused)])).browser()
        assert json.loads(await browser.text()) == {"user": {"name": "Alice"}}
        assert await database.data(browser.secret) == {"user": {"name": "Alice"}}

    async def test_an_exception_does_not_undo_a_mutation(self, site, database):
        class Fails(Handler):
            def get(self):
                self.session.tried = True
                raise HTTPError(403)

        browser = (await site([("/", Fails)])).browser()
        response = await browser.get()
        assert response.code == 403
        assert await database.data(browser.secret) == {"tried": True}


class TestLogin:
    class Login(Handler):
        async def post(self):
            session = await self.session
            session.user = "alice"
            await self.rotate_session_id()
            session.logged_in = True

    class Logout(Handler):
        async def post(self):
            await self.destroy_session()
            self.write(self.session.copy())

    class Restart(Handler):
        async def post(self):
            await self.destroy_session()
            self.session.anew = True

    @pytest.fixture
    async def browser(self, site):
        pages = [*PAGES, ("/login", self.Login), ("/logout", self.Logout), ("/restart", self.Restart)]
        browser = (await site(pages)).browser()
        await browser.text()
        return browser

    async def test_rotating_keeps_the_content_and_kills_the_old_id(self, browser, database):
        before = browser.secret
        assert (await browser.post("/login")).code == 200
        assert browser.secret != before
        assert await database.data(before) is None
        assert await database.data(browser.secret) == {"times": 1, "user": "alice", "logged_in": True}
        assert json.loads(await browser.text("/show"))["user"] == "alice"

    async def test_a_new_session_can_be_rotated(self, site, database):
        browser = (await site([("/login", self.Login)])).browser()
        await browser.post("/login")
        assert await database.data(browser.secret) == {"user": "alice", "logged_in": True}

    async def test_destroying_deletes_the_row_and_the_cookie(self, browser, database):
        before = browser.secret
        response = await browser.post("/logout")
        assert response.body == b"{}"
        assert response.headers["Set-Cookie"].startswith("_session=; Max-Age=0;")
        assert not browser.cookies
        assert await database.data(before) is None

    async def test_destroying_ends_the_one_of_several_cookies_that_counts(self, browser, database):
        secret = browser.secret
        twice = f"_session={Secret().value}; _session={secret}"
        assert (await browser.post("/logout", headers={"Cookie": twice})).code == 200
        assert await database.data(secret) is None

    async def test_a_destroyed_session_is_dead_for_who_kept_its_cookie(self, browser):
        kept = dict(browser.cookies)
        await browser.post("/logout")
        browser.cookies = kept
        assert await browser.text("/show") == "{}"

    async def test_after_destroying_a_new_session_can_start(self, browser, database):
        before = browser.secret
        assert (await browser.post("/restart")).code == 200
        assert browser.secret != before
        assert await database.data(before) is None
        assert await database.data(browser.secret) == {"anew": True}

    async def test_save_session_says_when_the_session_has_ended_meanwhile(self, site, database):
        class Slow(Handler):
            async def get(self):
                session = await self.session
                assert (await other.post("/logout")).code == 200
                session.late = True
                for _ in range(2):
                    try:
                        await self.save_session()
                    except SessionGone as error:
                        self.write(f"{error}. ")

        running = await site([*PAGES, ("/slow", Slow), ("/logout", self.Logout)])
        browser, other = running.browser(), running.browser()
        await browser.text()
        other.cookies = dict(browser.cookies)
        text = f"session {id_of_secret(browser.secret)} has ended: it was destroyed or rotated, or has expired. "
        response = await browser.get("/slow")
        assert response.body.decode() == text * 2
        assert "Set-Cookie" not in response.headers
        assert await database.data(browser.secret) is None

    async def test_a_save_after_the_end_is_dropped_and_logged(self, site, database, caplog):
        caplog.set_level(logging.INFO, "tornado_sesame")

        class Slow(Handler):
            async def get(self):
                session = await self.session
                assert (await other.post("/logout")).code == 200
                session.late = True
                self.write("done")

        running = await site([*PAGES, ("/slow", Slow), ("/logout", self.Logout)])
        browser, other = running.browser(), running.browser()
        await browser.text()
        secret = browser.secret
        other.cookies = dict(browser.cookies)
        assert await browser.text("/slow") == "done"
        assert await database.data(secret) is None
        assert f"dropped a late write to session {id_of_secret(secret)}" in caplog.text


class TestOwners:
    class Login(Handler):
        async def post(self):
            await self.session
            await self.rotate_session_id()
            self.session_owner = self.get_argument("name")

    class Devices(Handler):
        async def get(self):
            await self.session
            sessions = self.session_manager.records(self.session_owner)
            self.write({"ids": [record.id async for record in sessions]})

    class Elsewhere(Handler):
        async def post(self):
            await self.session
            number = await self.session_manager.destroy_all(self.session_owner, keep=self.session_id)
            self.write(str(number))

    PAGES = (*PAGES, ("/login", Login), ("/devices", Devices), ("/elsewhere", Elsewhere))

    async def test_a_user_sees_and_ends_her_other_sessions(self, site):
        running = await site(list(self.PAGES))
        here, there, bob = [running.browser() for _ in range(3)]
        for browser, name in (here, "alice"), (there, "alice"), (bob, "bob"):
            await browser.text()
            assert (await browser.post(f"/login?name={name}")).code == 200
        ids = json.loads(await here.text("/devices"))["ids"]
        assert set(ids) == {id_of_secret(here.secret), id_of_secret(there.secret)}
        assert (await here.post("/elsewhere")).body == b"1"
        assert await there.text() == "1 times!"
        assert await here.text() == await bob.text() == "2 times!"

    async def test_an_owner_that_is_no_str_is_refused(self, site, caplog):
        class Wrong(Handler):
            def get(self):
                self.session_owner = 5

        response = await (await site([("/", Wrong)])).browser().get()
        assert response.code == 500
        assert "owner must be a str such as a user's id, not int" in caplog.text


async def test_a_session_that_becomes_too_large_is_an_error_of_its_request_alone(site, database, caplog):
    class Grow(Handler):
        def get(self):
            self.session.setdefault("list", []).append("x" * 600)
            self.write("success")

    running = await site([*PAGES, ("/grow", Grow)], max_bytes=1000)
    browser, other = running.browser(), running.browser()
    assert await browser.text("/grow") == "success"
    responses = await asyncio.gather(browser.get("/grow"), other.get("/grow"))
    assert [response.code for response in responses] == [500, 200]
    assert "success" not in responses[0].body.decode()
    assert "max_bytes of the SessionManager is 1000" in caplog.text
    assert await browser.text() == "1 times!"
    assert len((await database.data(browser.secret))["list"]) == 1
