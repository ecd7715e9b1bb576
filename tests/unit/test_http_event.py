"""What a handler sees of an HTTP request."""

import json
from base64 import b64decode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay_gateway.http_event import EventHead, Headers, HttpRequest, connection_headers


def event(
    *,
    method: str = "GET",
    raw_path: str = "",
    query: bytes = b"",
    headers: Headers | None = None,
    body: bytes = b"",
) -> dict[str, Any]:
    request = HttpRequest(
        method=method,
        prefix="/fn/hello",
        raw_path=raw_path,
        query=query,
        http_version="1.1",
        scheme="http",
        headers=[(b"host", b"localhost:8480"), *(headers or [])],
        client_ip="127.0.0.1",
        server_port=8480,
    )
    head = EventHead(request, function="hello", account="000000000000")
    document = head.event(body, "a-b", 1_583_348_638.25)
    decoded: dict[str, Any] = json.loads(document)
    return decoded


def test_a_bare_get_has_all_members_that_lambda_always_sends_and_no_other() -> None:
    assert event(headers=[(b"user-agent", b"curl/8")]) == {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/",
        "rawQueryString": "",
        "headers": {
            "host": "localhost:8480",
            "user-agent": "curl/8",
            "x-forwarded-for": "127.0.0.1",
            "x-forwarded-port": "8480",
            "x-forwarded-prefix": "/fn/hello",
            "x-forwarded-proto": "http",
        },
        "requestContext": {
            "accountId": "000000000000",
            "apiId": "hello",
            "domainName": "localhost",
            "domainPrefix": "localhost",
            "http": {
                "method": "GET",
                "path": "/",
                "protocol": "HTTP/1.1",
                "sourceIp": "127.0.0.1",
                "userAgent": "curl/8",
            },
            "requestId": "a-b",
            "routeKey": "$default",
            "stage": "$default",
            "time": "04/Mar/2020:19:03:58 +0000",
            "timeEpoch": 1_583_348_638_250,
        },
        "isBase64Encoded": False,
    }


def test_the_path_stays_encoded() -> None:
    seen = event(raw_path="/a%20b/%2F")
    assert seen["rawPath"] == "/a%20b/%2F"
    assert seen["requestContext"]["http"]["path"] == "/a%20b/%2F"


def test_query_values_are_decoded_and_repeated_ones_joined() -> None:
    seen = event(query=b"a=1&b=x+y&a=2&c=&d=%C3%A9")
    assert seen["rawQueryString"] == "a=1&b=x+y&a=2&c=&d=%C3%A9"
    assert seen["queryStringParameters"] == {"a": "1,2", "b": "x y", "c": "", "d": "é"}


def test_repeated_headers_are_joined_and_cookies_have_a_list_of_their_own() -> None:
    seen = event(headers=[(b"x-a", b"1"), (b"cookie", b"a=1; b=2"), (b"x-a", b"2"), (b"cookie", b"c=3")])
    assert seen["headers"]["x-a"] == "1,2"
    assert seen["cookies"] == ["a=1", "b=2", "c=3"]
    assert "cookie" not in seen["headers"]


def test_headers_of_one_connection_end_at_the_gateway() -> None:
    headers = [(b"connection", b"close, X-Hop"), (b"x-hop", b"1"), (b"te", b"trailers"), (b"authorization", b"Basic x")]
    seen = event(headers=headers)["headers"]
    assert "connection" not in seen
    assert "x-hop" not in seen
    assert "te" not in seen
    assert seen["authorization"] == "Basic x"
    assert b"x-hop" in connection_headers(headers)


def test_a_client_cannot_choose_where_it_comes_from() -> None:
    seen = event(headers=[(b"x-forwarded-for", b"6.6.6.6"), (b"x-forwarded-prefix", b"/evil")])
    assert seen["headers"]["x-forwarded-for"] == "6.6.6.6, 127.0.0.1"
    assert seen["headers"]["x-forwarded-prefix"] == "/fn/hello"
    assert seen["requestContext"]["http"]["sourceIp"] == "127.0.0.1"


@pytest.mark.parametrize(
    "content_type",
    [
        b"text/plain",
        b"text/html; charset=utf-8",
        b"application/json",
        b"Application/JSON ; charset=UTF-8",
        b"application/vnd.api+json",
        b"application/atom+xml",
        b"application/xml",
        b"application/javascript",
        b"application/x-www-form-urlencoded",
    ],
)
def test_text_arrives_as_text(content_type: bytes) -> None:
    seen = event(method="POST", headers=[(b"content-type", content_type)], body="é=1".encode())
    assert seen["body"] == "é=1"
    assert seen["isBase64Encoded"] is False


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (b"application/octet-stream", b"abc"),
        (b"multipart/form-data; boundary=x", b"--x--"),
        (b"image/png", b"\x89PNG"),
        (b"", b"no type at all"),
        (b"text/plain", b"\xff not UTF-8"),
        (b"application/json", b"\x1f\x8b gzip"),
    ],
)
def test_anything_else_arrives_as_base64(content_type: bytes, body: bytes) -> None:
    seen = event(method="POST", headers=[(b"content-type", content_type)] if content_type else [], body=body)
    assert seen["isBase64Encoded"] is True
    assert b64decode(seen["body"]) == body


@given(
    raw_path=st.binary().map(lambda raw: raw.decode("latin-1")),
    query=st.binary(),
    headers=st.lists(st.tuples(st.binary(min_size=1).map(bytes.lower), st.binary())),
    body=st.binary(),
)
def test_no_request_is_beyond_it(raw_path: str, query: bytes, headers: Headers, body: bytes) -> None:
    seen = event(raw_path=raw_path, query=query, headers=headers, body=body)
    assert ("body" in seen) == bool(body)
