"""Tornado's own tests find what they find without sessions, but for a few differences that are meant."""

import json
import os
import subprocess
import sys

import pytest
import tornado

from .tornado_suite import MODES, whole

# Why tests fail where handlers use their sessions, in which modes, and which tests these are.
DIFFERENCES = [
    (
        "the response sets the session's cookie, beside those that the test expects",
        {"touched"},
        {
            "security_corpus_test.SecurityCorpusTest.test_cases [6.5.5: cookie domain injection]",
            "web_test.ClearAllCookiesTest.test_clear_all_cookies",
            # It clears cookies since Tornado 6.6.
            *(["web_test.ClearHeaderTest.test_clear_header"] if tornado.version_info >= (6, 6) else []),
            "web_test.CookieTest.test_cookie_special_char",
            "web_test.CookieTest.test_set_cookie",
            "web_test.CookieTest.test_set_cookie_deprecated",
            "web_test.CookieTest.test_set_cookie_domain",
            "web_test.CookieTest.test_set_cookie_expires_days",
            "web_test.CookieTest.test_set_cookie_false_flags",
            "web_test.CookieTest.test_set_cookie_max_age",
            "web_test.CookieTest.test_set_cookie_overwrite",
        },
    ),
    (
        "the request carries the session's cookie, beside those that the test sends, and it is cleared with them",
        {"returning"},
        {
            "httpclient_test.HTTPClientCommonTestCase.test_strip_headers_on_redirect",
            "simple_httpclient_test.SimpleHTTPClientCommonTestCase.test_strip_headers_on_redirect",
            "web_test.ClearAllCookiesTest.test_clear_all_cookies",
            "web_test.WSGISafeWebTest.test_types",
        },
    ),
    (
        "the response varies with the cookie, beside what the test expects",
        {"touched", "returning"},
        {
            "web_test.GzipTestCase.test_gzip",
            "web_test.GzipTestCase.test_gzip_not_requested",
            "web_test.GzipTestCase.test_gzip_static",
            "web_test.GzipTestCase.test_vary_already_present",
        },
    ),
    (
        "finish() holds the response, so what is wrong with it is logged later, and not raised where it is called",
        {"touched", "returning"},
        {
            "web_test.IncorrectContentLengthTest.test_content_length_too_high",
            "web_test.IncorrectContentLengthTest.test_content_length_too_low",
        },
    ),
]

# They measure tenths of a second, and fail on a busy machine with and without sessions.
TIMED = {
    "gen_test.RunnerGCTest.test_gc",
    "simple_httpclient_test.SimpleHTTPClientTestCase.test_request_timeout",
    "simple_httpclient_test.SimpleHTTPSClientTestCase.test_request_timeout",
}


@pytest.fixture(scope="module")
def tornado_suite(request):
    """Runs Tornado's tests in one of the modes, and returns their report."""
    whole = ["--whole"] if request.config.getoption("--whole-tornado") else []
    environment = os.environ | {"ASYNC_TEST_TIMEOUT": "30"}  # seconds, for machines that are slower

    def run(mode, *options):
        command = [sys.executable, "-m", "tests.tornado_suite", mode, *whole, *options]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=800)
        sys.stdout.write(ended.stderr)
        assert ended.returncode == 0
        return json.loads(ended.stdout)

    return run


@pytest.fixture(scope="module")
def plain(tornado_suite):
    """The report of Tornado's tests without sessions, on this machine."""
    return tornado_suite("plain")


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "plain"])
@pytest.mark.stores("memory", "pymongo")
def test_tornado_behaves_as_it_does_without_sessions(mode, database_kind, tornado_suite, plain, request):
    options = []
    if database_kind != "memory":
        options = ["--store", database_kind, "--uri", request.getfixturevalue("mongodb_uri")]
    report = tornado_suite(mode, *options)
    assert report["tests"] == plain["tests"]
    meant = {test for _, modes, tests in DIFFERENCES if mode in modes for test in tests}
    here = {test for test in meant if whole(test) in plain["tests"]}  # in this version of Tornado
    ignored = TIMED | set(plain["failed"])
    assert set(report["failed"]) - ignored == here - ignored
    assert report["stored"] == report["counted"]
    assert (report["counted"] > 1000) == (mode != "untouched")
