"""Which requests are known by their heads, and which are parsed."""

import pytest

from forebay_gateway.connection import ClientConnection
from forebay_gateway.known_heads import HEADS_MAX, KnownHeads

HEAD = b"POST /x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n\r\n"
HEADERS = {b"host": b"localhost", b"content-length": b"3"}


def serve(_connection: ClientConnection) -> None:
    """Never called here."""


def known(headers: dict[bytes, bytes] = HEADERS, data: bytes = HEAD + b"abc") -> KnownHeads:
    heads = KnownHeads()
    heads.learn(data, headers, serve)
    return heads


def test_the_same_head_with_another_body_of_its_length_is_known() -> None:
    found = known().match(HEAD + b"xyz")
    assert found is not None
    assert (found[0].serve, found[1]) == (serve, b"xyz")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(HEAD + b"xy", id="the body is not all there"),
        pytest.param(HEAD + b"xyz ", id="more than one request"),
        pytest.param(HEAD + b"xyz" + HEAD + b"xyz", id="two requests"),
        pytest.param(HEAD.replace(b"localhost", b"Localhost") + b"xyz", id="another byte"),
        pytest.param(HEAD[:-2] + b"xyz", id="no end of the head"),
        pytest.param(HEAD[:10], id="a piece of it"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"\r\n\r\n", id="an empty head"),
    ],
)
def test_anything_else_is_parsed(data: bytes) -> None:
    assert known().match(data) is None


@pytest.mark.parametrize(
    "name", [b"connection", b"expect", b"transfer-encoding", b"upgrade", b"x-amz-date", b"idempotency-key"]
)
def test_heads_that_say_more_or_never_come_again_are_not_learnt(name: bytes) -> None:
    assert known({**HEADERS, name: b"x"}).match(HEAD + b"xyz") is None


@pytest.mark.parametrize("length", [b"4", b"", b"+3", b"-3", b"3 "])
def test_a_length_that_is_not_the_bodys_is_not_learnt(length: bytes) -> None:
    assert known({b"content-length": length}).match(HEAD + b"xyz") is None


def test_there_is_a_bound() -> None:
    heads = known()
    for number in range(HEADS_MAX + 10):
        heads.learn(HEAD.replace(b"/x", b"/%d" % number) + b"abc", HEADERS, serve)
    assert heads.match(HEAD + b"abc") is None
    assert heads.match(HEAD.replace(b"/x", b"/%d" % (HEADS_MAX + 9)) + b"abc") is not None
