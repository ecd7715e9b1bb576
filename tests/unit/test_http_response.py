"""How a handler's result becomes an HTTP answer."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay_gateway.http_response import HttpAnswer, answer_of_result, internal_server_error, message, sendable

JSON_HEADERS = [(b"content-type", b"application/json")]


def mapped(value: Any) -> HttpAnswer:
    return answer_of_result(json.dumps(value).encode())


@pytest.mark.parametrize(
    ("result", "body"),
    [
        (b'"Hello World"', b"Hello World"),
        (b'{"a": 1, "b": [1, 2]}', b'{"a":1,"b":[1,2]}'),
        (b'"\\u00e9"', "é".encode()),
        (b'{"k": "\\u00e9"}', '{"k":"é"}'.encode()),
        (b'{"k": "\\ud800"}', b'{"k":"\\ud800"}'),
        (b"null", b"null"),
        (b"true", b"true"),
        (b"[ ]", b"[]"),
        (b"1180591620717411303424", b"1180591620717411303424"),
        (b"NaN", b"NaN"),
    ],
)
def test_a_result_without_status_is_the_body_of_a_200(result: bytes, body: bytes) -> None:
    assert answer_of_result(result) == HttpAnswer(200, JSON_HEADERS, body)


@pytest.mark.parametrize("result", [b"[" * 100_000 + b"]" * 100_000, b"9" * 10_000])
def test_json_beyond_pythons_reach_passes_untouched(result: bytes) -> None:
    assert answer_of_result(result) == HttpAnswer(200, JSON_HEADERS, result)


@pytest.mark.parametrize("result", [b"", b"{", b"\xff", b"hello", b"\xef\xbb\xbf{}"])
def test_a_result_that_is_no_json_is_a_502(result: bytes) -> None:
    assert answer_of_result(result) == internal_server_error()


def test_status_headers_cookies_and_body_are_the_handlers() -> None:
    answer = mapped(
        {
            "statusCode": 201,
            "headers": {"Content-Type": "text/html", "X-Count": 3, "X-Yes": True},
            "cookies": ["a=1; Path=/", "b=2"],
            "body": "<p>é</p>",
        }
    )
    assert answer.status == 201
    assert answer.headers == [
        (b"content-type", b"text/html"),
        (b"x-count", b"3"),
        (b"x-yes", b"true"),
        (b"set-cookie", b"a=1; Path=/"),
        (b"set-cookie", b"b=2"),
    ]
    assert answer.body == "<p>é</p>".encode()


def test_members_that_are_absent_or_null_have_defaults() -> None:
    nothing = HttpAnswer(200, JSON_HEADERS, b"")
    assert mapped({"statusCode": 200}) == nothing
    assert mapped({"statusCode": 200, "headers": None, "cookies": None, "body": None, "isBase64Encoded": None}) == (
        nothing
    )


def test_a_string_status_is_accepted() -> None:
    assert mapped({"statusCode": "404", "body": "x"}).status == 404


def test_a_body_that_is_no_string_is_encoded_as_json() -> None:
    assert mapped({"statusCode": 200, "body": {"a": [1, None]}}).body == b'{"a":[1,null]}'


def test_a_base64_body_is_decoded() -> None:
    assert mapped({"statusCode": 200, "body": "/wA=", "isBase64Encoded": True}).body == b"\xff\x00"


NO_STATUS: list[Any] = [
    *(None, "", "abc", "2000", "99", " 200", "200\n", "٢٠٠"),
    *(99, 100, 101, 600, 1000, -1, 200.5, True, [], {}),
]
NO_HEADERS: list[Any] = ["x", [], {"": "a"}, {"a b": "c"}, {"a:": "c"}, {"a": None}, {"a": ["b"]}, {"a": {}}]


@pytest.mark.parametrize(
    "broken",
    [
        *({"statusCode": status} for status in NO_STATUS),
        *({"statusCode": 200, "headers": headers} for headers in NO_HEADERS),
        {"statusCode": 200, "cookies": "a=1"},
        {"statusCode": 200, "cookies": [1]},
        {"statusCode": 200, "body": "%%%", "isBase64Encoded": True},
        {"statusCode": 200, "body": "YQ", "isBase64Encoded": True},
        {"statusCode": 200, "body": "é", "isBase64Encoded": True},
        {"statusCode": 200, "body": {}, "isBase64Encoded": True},
        {"statusCode": 200, "body": "YQ==", "isBase64Encoded": "true"},
    ],
)
def test_an_answer_that_cannot_be_sent_is_a_502(broken: dict[str, Any]) -> None:
    assert mapped(broken) == internal_server_error()


@pytest.mark.parametrize("echoed", ["a\r\nSet-Cookie: evil=1", "a\nb", "a\rb", "a\x00b", "\x7f", "\ud800"])
def test_a_value_cannot_forge_headers(echoed: str) -> None:
    assert mapped({"statusCode": 302, "headers": {"Location": echoed}}).status == 502
    assert mapped({"statusCode": 302, "headers": {echoed: "x"}}).status == 502
    assert mapped({"statusCode": 200, "cookies": [echoed]}).status == 502


def test_a_handler_cannot_speak_for_the_connection_or_the_platform() -> None:
    forged = {
        "Connection": "close",
        "Transfer-Encoding": "chunked",
        "Content-Length": "1",
        "X-Amz-Function-Error": "Unhandled",
        "x-amzn-RequestId": "x",
        "X-Own": "1",
    }
    assert mapped({"statusCode": 200, "headers": forged, "body": "abc"}).headers == [(b"x-own", b"1"), *JSON_HEADERS]


def test_head_tells_the_length_of_the_body_it_leaves_out() -> None:
    answer = mapped({"statusCode": 200, "body": "abc"})
    assert sendable(answer, "GET") == ([*JSON_HEADERS, (b"content-length", b"3")], b"abc")
    assert sendable(answer, "HEAD") == ([*JSON_HEADERS, (b"content-length", b"3")], b"")


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_content_has_no_length_either(status: int) -> None:
    assert sendable(mapped({"statusCode": status, "body": "dropped"}), "GET") == ([], b"")


def test_a_message_of_the_platform_is_small_json() -> None:
    answer = message(429, "try later", retry_after_s=3)
    assert answer == HttpAnswer(429, [*JSON_HEADERS, (b"retry-after", b"3")], b'{"message": "try later"}')


TEXTS = st.text('aZ0-: ;=\t\r\n\x00\x7f"\\é€\u2028\ud800', max_size=8)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(TEXTS, children, max_size=3),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "statusCode": JSON_VALUES | st.integers(100, 600),
            "headers": JSON_VALUES | st.dictionaries(TEXTS, TEXTS),
            "cookies": JSON_VALUES | st.lists(TEXTS),
            "body": JSON_VALUES,
            "isBase64Encoded": JSON_VALUES,
        },
    )
)
def test_whatever_a_handler_answers_is_sendable_http(value: dict[str, Any]) -> None:
    answer = mapped(value)
    headers, _ = sendable(answer, "GET")
    assert 200 <= answer.status < 600
    for name, content in headers:
        assert name
        assert not set(name + content) & set(b"\r\n\x00")


@given(st.binary())
def test_whatever_bytes_a_handler_answers_give_an_answer(result: bytes) -> None:
    assert answer_of_result(result).status in {200, 502}
