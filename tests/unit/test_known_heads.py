"""Which requests are known by their heads, and which are parsed."""

import pytest

from forebay_gateway.connection import ClientConnection
from forebay_gateway.known_heads import FORMS_MAX, HEADS_MAX, Headers, KnownHeads

HEAD = b"POST /x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n\r\n"
HEADERS = {b"host": b"localhost", b"content-length": b"3"}


SIGNED = (
    b"POST /x HTTP/1.1\r\nHost: localhost\r\nX-Amz-Date: 20261126T120000Z\r\n"
    b"Authorization: AWS4-HMAC-SHA256 Credential=A/20261126/r/lambda/aws4_request, SignedHeaders=host, Signature=%b\r\n"
    b"Content-Length:   12\r\n\r\n"
)
SIGNATURES = (b"0" * 64, b"f" * 64)


def serve(_connection: ClientConnection, _headers: Headers) -> bool:
    """Never called here."""
    return False


def headers_of(head: bytes) -> dict[bytes, bytes]:
    """What the parser makes of a head whose lines are plain."""
    lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}


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


@pytest.mark.parametrize("name", [b"connection", b"expect", b"transfer-encoding", b"upgrade", b"idempotency-key"])
def test_heads_that_say_more_or_never_come_again_are_not_learnt(name: bytes) -> None:
    data = HEAD.replace(b"host", name + b": x\r\nhost") + b"abc"
    assert known({**HEADERS, name: b"x"}, data).match(data) is None


@pytest.mark.parametrize("length", [b"4", b"", b"+3", b"-3", b"2"])
def test_a_length_that_is_not_the_bodys_is_not_learnt(length: bytes) -> None:
    data = HEAD.replace(b"3", length) + b"abc"
    assert known({**HEADERS, b"content-length": length}, data).match(data) is None


@pytest.mark.parametrize(
    ("data", "headers"),
    [
        pytest.param(HEAD.replace(b"localhost", b"localhost\r\n more"), HEADERS, id="a line that goes on"),
        pytest.param(HEAD.replace(b"host", b"host: localhost\r\nhost"), HEADERS, id="a header twice"),
        pytest.param(HEAD.replace(b"localhost", b"localhost\n"), HEADERS, id="a line feed alone"),
        pytest.param(HEAD, {**HEADERS, b"x": b"y"}, id="a header more"),
        pytest.param(HEAD, {**HEADERS, b"host": b"elsewhere"}, id="another value"),
    ],
)
def test_what_the_parser_may_have_read_in_another_way_is_not_learnt(data: bytes, headers: dict[bytes, bytes]) -> None:
    assert known(headers, data + b"abc").match(data + b"abc") is None


def test_the_length_and_what_is_of_one_request_only_may_differ() -> None:
    first = SIGNED % SIGNATURES[0]
    heads = known(headers_of(first), first + b"x" * 12)
    second = (SIGNED % SIGNATURES[1]).replace(b"120000Z", b"120001Z").replace(b"   12", b"   07")
    found = heads.match(second + b"7 bytes")
    assert found is not None
    assert (dict(found[0].headers), found[1]) == (headers_of(second), b"7 bytes")
    again = heads.match(first + b"x" * 12)
    assert again is not None
    assert again[0].headers == headers_of(first)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(b"f" * 64, b"f" * 51 + b"\r\nx-forged: 1", id="a signature with another header in it"),
        pytest.param(b"f" * 64, b"f" * 63 + b"\0", id="a byte that no header has"),
        pytest.param(b"   12", b"   1x", id="a length that is none"),
        pytest.param(b"   12", b"   1;", id="a length with more"),
        pytest.param(b"Credential=A/", b"Credential=B/", id="another key"),
        pytest.param(b"SignedHeaders=host", b"SignedHeaders=Host", id="other signed headers"),
        pytest.param(b"x HTTP", b"y HTTP", id="another path"),
    ],
)
def test_nothing_else_may(old: bytes, new: bytes) -> None:
    first, second = (SIGNED % signature for signature in SIGNATURES)
    changed = second.replace(old, new)
    assert changed != second
    assert len(changed) == len(second)
    assert known(headers_of(first), first + b"x" * 12).match(changed + b"x" * 12) is None


def test_a_request_without_a_length_has_no_body() -> None:
    head = b"GET /x HTTP/1.1\r\nhost: localhost\r\n\r\n"
    heads = known({b"host": b"localhost"}, head)
    assert heads.match(head) is not None
    assert heads.match(head + b"x") is None


def test_forms_of_one_length_are_bounded() -> None:
    heads = KnownHeads()
    made = []
    for at in range(FORMS_MAX + 1):
        before, after = b"a" * at, b"b" * (20 - at)
        head = b"POST /x HTTP/1.1\r\nh: %b\r\nContent-Length: 1\r\ni: %b\r\n\r\n" % (before, after)
        heads.learn(head + b"1", {b"h": before, b"content-length": b"1", b"i": after}, serve)
        made.append(head)
    assert heads.match(made[0] + b"1") is None
    assert heads.match(made[-1] + b"1") is not None


def test_there_is_a_bound() -> None:
    heads = known()
    for number in range(HEADS_MAX + 10):
        heads.learn(HEAD.replace(b"/x", b"/%d" % number) + b"abc", HEADERS, serve)
    assert heads.match(HEAD + b"abc") is None
    assert heads.match(HEAD.replace(b"/x", b"/%d" % (HEADS_MAX + 9)) + b"abc") is not None
