"""Requests of a Runtime API client, however they are cut into pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay_runtime.http_wire import HEAD_MAX_BYTES, HttpError, Request, RequestParser, response

POST = b"POST /a?b=c HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTrailer: X-End\r\n\r\n"
    b"3\r\nhel\r\n2;ext=1\r\nlo\r\n0\r\nX-End: yes\r\n\r\n"
)


def parse(data: bytes, body_max_bytes: int = 100) -> list[Request]:
    parser = RequestParser(body_max_bytes)
    parser.feed(data)
    return list(iter(parser.next, None))


@given(st.lists(st.sampled_from([POST, CHUNKED]), max_size=3), st.integers(1, 40))
def test_requests_are_the_same_however_they_arrive(requests: list[bytes], piece_bytes: int) -> None:
    parser = RequestParser(100)
    found = []
    data = b"".join(requests)
    for at in range(0, len(data), piece_bytes):
        parser.feed(data[at : at + piece_bytes])
        found += list(iter(parser.next, None))

    assert [request.body for request in found] == [b"hello"] * len(requests)
    assert all(request.path == "/a" and request.method == "POST" for request in found)
    assert [request.headers.get("x-end") for request in found] == [
        "yes" if request is CHUNKED else None for request in requests
    ]


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    try:
        parse(data)
    except HttpError:
        return


def test_a_body_above_the_bound_is_thrown_away_and_the_next_request_is_read() -> None:
    large, small = parse(b"POST /a HTTP/1.1\r\nContent-Length: 200\r\n\r\n" + b"x" * 200 + POST)

    assert (large.too_large, large.body) == (True, b"")
    assert (small.too_large, small.body) == (False, b"hello")


def test_a_header_of_tens_of_kilobytes_is_taken() -> None:
    cause = b"c" * 100_000
    [request] = parse(b"POST /e HTTP/1.1\r\nLambda-Runtime-Function-XRay-Error-Cause: " + cause + b"\r\n\r\n")

    assert request.headers["lambda-runtime-function-xray-error-cause"] == cause.decode()


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/2\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: \xb2\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n",
        b"GET /" + b"x" * (HEAD_MAX_BYTES + 1),
    ],
)
def test_what_is_no_request_is_refused(data: bytes) -> None:
    with pytest.raises(HttpError):
        parse(data)


def test_a_client_that_waits_to_be_told_is_told_once() -> None:
    parser = RequestParser(100)
    parser.feed(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")

    assert parser.next() is None
    assert parser.wants_continue()
    assert not parser.wants_continue()


def test_an_answer_has_exactly_the_content_type_that_awslambdaric_reads() -> None:
    answer = response("200 OK", b"{}", (("A", b"x\r\nInjected: y"),))

    assert (
        answer
        == b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nA: x  Injected: y\r\n\r\n{}"
    )
