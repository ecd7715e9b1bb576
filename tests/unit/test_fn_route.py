"""What a path under `/fn` names, and what a page is told about reading the answer."""

import pytest

from forebay_gateway.fn_answer import cors_headers
from forebay_gateway.fn_route import prefers_async, preflight_headers
from forebay_gateway.fn_target import Target, target_of

APP = b"https://app.example"
ALLOW_APP = (b"access-control-allow-origin", APP)
VARY = (b"vary", b"Origin")


@pytest.mark.parametrize(
    ("raw_path", "target"),
    [
        (b"/fn/hello", Target("", "hello", "", "/fn/hello", "")),
        (b"/fn/hello/", Target("", "hello", "", "/fn/hello", "/")),
        (b"/fn/hello/a%20b//c", Target("", "hello", "", "/fn/hello", "/a%20b//c")),
        (b"/fn/hello:prod/x", Target("", "hello", "prod", "/fn/hello:prod", "/x")),
        (b"/fn/hello%3Aprod", Target("", "hello", "prod", "/fn/hello%3Aprod", "")),
        (b"/fn/hello/\n", Target("", "hello", "", "/fn/hello", "/\n")),
    ],
)
def test_a_path_names_a_function_and_what_it_sees(raw_path: bytes, target: Target) -> None:
    assert target_of(raw_path) == target


@pytest.mark.parametrize(
    "raw_path",
    [
        *(b"/fn", b"/fn/", b"/fn//x", b"/fnx", b"/fn/a.b", b"/fn/%2Fhello", b"/fn/%00", b"/fn/\xff", b"/fn/a:b:c"),
        b"/fn/arn%3Aaws%3Alambda%3Aus-east-1%3A000000000000%3Afunction%3Ahello",
        b"/fn/" + b"x" * 171,
    ],
)
def test_a_path_that_names_none(raw_path: bytes) -> None:
    assert target_of(raw_path) is None


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([b"respond-async"], True),
        ([b"Respond-Async"], True),
        ([b"return=minimal, respond-async; x=1"], True),
        ([b"wait=10", b"respond-async"], True),
        ([b"no-respond-async"], False),
        ([b"respond-async=1x"], False),
        ([b""], False),
        ([], False),
    ],
)
def test_respond_async_is_a_preference_among_others(values: list[bytes], wanted: bool) -> None:  # noqa: FBT001
    assert prefers_async([(b"prefer", value) for value in values]) is wanted


def test_only_an_allowed_page_may_read() -> None:
    assert cors_headers(APP, []) == []
    assert cors_headers(APP, [APP.decode()]) == [ALLOW_APP, VARY]
    assert cors_headers(APP, ["*"]) == [(b"access-control-allow-origin", b"*")]


def test_a_cache_is_told_that_pages_get_other_headers() -> None:
    assert cors_headers(None, [APP.decode()]) == [VARY]
    assert cors_headers(None, ["*"]) == []


def test_a_preflight_is_granted_what_it_asks_for_and_nothing_else() -> None:
    assert preflight_headers([(b"origin", APP)]) is None
    assert preflight_headers([(b"access-control-request-method", b"PUT")]) == [
        (b"access-control-allow-methods", b"PUT"),
        (b"access-control-max-age", b"600"),
        (b"vary", b"Access-Control-Request-Method, Access-Control-Request-Headers"),
    ]
