"""Signatures are checked as botocore makes them: its own signer is the client here."""

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from unittest import mock
from urllib.parse import quote, urlsplit

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from forebay_common import sigv4
from forebay_common.auth_errors import AuthError

KEY_ID = "FBAKABCDEFGHIJKLMNOP"
SECRET = "s3cret-of_forty_characters_0123456789abcd"
REGION = "us-east-1"
NOW = dt.datetime(2026, 11, 23, 2, 50, 36, tzinfo=dt.UTC)
HOST = "forebay.example:8480"
ARN = "arn%3Aaws%3Alambda%3Aus-east-1%3A000000000000%3Afunction%3Ahello%3A%24LATEST"


@contextmanager
def clock(now: dt.datetime) -> Iterator[None]:
    with mock.patch.object(botocore.auth, "get_current_datetime", return_value=now):
        yield


def signed(
    target: str,
    body: bytes = b"",
    *,
    method: str = "POST",
    headers: dict[str, str] | None = None,
    params: dict[str, str] | None = None,
    secret: str = SECRET,
    now: dt.datetime = NOW,
    region: str = REGION,
    service: str = "lambda",
) -> tuple[sigv4.Request, bytes]:
    """What a server sees of a request that botocore has signed, and its body."""
    request = AWSRequest(
        method=method, url=f"http://{HOST}{target}", data=body, headers={"Host": HOST} | (headers or {}), params=params
    )
    with clock(now):
        botocore.auth.SigV4Auth(Credentials(KEY_ID, secret), service, region).add_auth(request)
    sent = urlsplit(request.prepare().url)
    found = sigv4.joined((name.lower().encode(), value.encode()) for name, value in request.headers.items())
    return sigv4.Request(method, sent.path.encode() or b"/", sent.query.encode(), found), body


def check(request: sigv4.Request, body: bytes, *, now: dt.datetime = NOW) -> None:
    parsed = sigv4.parse(request.headers[b"authorization"])
    sigv4.check_scope(parsed.scope, request.headers.get(b"x-amz-date"), region=REGION, now_s=now.timestamp())
    key = sigv4.signing_key(SECRET, parsed.scope.date, REGION)
    sigv4.check_signature(parsed, key, request, sha256(body).hexdigest())


def refusal(request: sigv4.Request, body: bytes, *, now: dt.datetime = NOW) -> AuthError:
    with pytest.raises(AuthError) as raised:
        check(request, body, now=now)
    return raised.value


@pytest.mark.parametrize(
    "target",
    [
        "/2015-03-31/functions/hello/invocations",
        f"/2015-03-31/functions/{ARN}/invocations",
        f"/ns/team-a/2015-03-31/functions/{ARN}/invocations?Qualifier=%24LATEST",
        "/2015-03-31/functions/hello/invocations?Qualifier=$LATEST",
        "/2015-03-31/functions/?Marker=a%2Fb%3D&MaxItems=50",
        "/2017-03-31/tags/arn%3Aaws%3Alambda%3Aus-east-1%3A000000000000%3Afunction%3Ahello?tagKeys=b&tagKeys=a",
        "/fn/hello/caf%C3%A9/%E2%82%AC?x=1&x=0&note=a%20b&empty=&bare",
        "/fn/hello//double/./dot/../up/",
        "/fn/hello/a b?c d=e f",
        "/",
        "",
    ],
)
@pytest.mark.parametrize("body", [b"", b"{}", b"\x00\xff" * 300])
def test_what_botocore_signs_is_accepted(target: str, body: bytes) -> None:
    check(*signed(target, body))


def test_query_values_that_the_signer_encodes_itself_are_accepted() -> None:
    check(*signed("/x", params={"Qualifier": "$LATEST", "note": "a b/é+c~d", "empty": ""}))


def test_a_query_is_accepted_whether_it_was_signed_as_it_stands_or_encoded_first() -> None:
    encoded, body = signed("/x", params={"Qualifier": "$LATEST", "note": "a b"})
    for query in (b"Qualifier=$LATEST&note=a%20b", b"note=a+b&Qualifier=$LATEST"):
        check(encoded._replace(query=query), body)


def test_each_form_of_a_query_is_tried_once() -> None:
    assert sigv4.canonical_queries(b"") == (b"",)
    assert sigv4.canonical_queries(b"Qualifier=%24LATEST") == (b"Qualifier=%24LATEST",)
    assert sigv4.canonical_queries(b"b=2&a") == (b"a=&b=2", b"b=2&a")
    assert sigv4.canonical_queries(b"b=$&a=1") == (b"a=1&b=$", b"a=1&b=%24", b"b=$&a=1")


def test_signed_headers_are_compared_without_surplus_white_space_and_repeated_ones_joined() -> None:
    request, body = signed("/x", headers={"X-Amz-Client-Context": "  e30=   two  ", "X-Other": "1"})
    spaced = dict(request.headers) | {b"x-amz-client-context": b"e30= two"}
    check(request._replace(headers=spaced), body)
    assert sigv4.joined([(b"x-a", b"1"), (b"x-a", b"2"), (b"x-b", b"3")]) == {b"x-a": b"1,2", b"x-b": b"3"}


SEGMENTS = st.text(st.characters(codec="utf-8", exclude_characters="\n\r\t"), max_size=12).map(
    lambda text: quote(text, safe="")
)
TARGETS = st.builds(
    lambda path, query: "/" + "/".join(path) + ("?" + "&".join(f"{k}={v}" for k, v in query) if query else ""),
    st.lists(SEGMENTS | st.sampled_from([ARN, ".", "..", "ns", "~", "a%2Fb", "a%252Fb"]), max_size=6),
    st.lists(st.tuples(SEGMENTS, SEGMENTS), max_size=4),
)


@given(target=TARGETS, body=st.binary(max_size=200), method=st.sampled_from(["GET", "POST", "PUT", "DELETE"]))
def test_any_request_that_botocore_signs_is_accepted(target: str, body: bytes, method: str) -> None:
    check(*signed(target, body, method=method))


@given(key=st.binary(min_size=32, max_size=32), other=st.binary(min_size=32, max_size=32))
def test_a_signature_is_made_with_the_key_it_is_asked_for(key: bytes, other: bytes) -> None:
    request, body = signed("/x", b"{}")
    scope = sigv4.parse(request.headers[b"authorization"]).scope
    first, second = (sigv4.signature(scope, k, request, b"/x", b"", sha256(body).hexdigest()) for k in (key, other))
    assert (first == second) is (key == other)


@given(target=TARGETS, body=st.binary(max_size=50), other=st.binary(min_size=1, max_size=50))
def test_another_body_is_refused(target: str, body: bytes, other: bytes) -> None:
    request, _ = signed(target, body)
    if other != body:
        assert refusal(request, other).error_type == "InvalidSignatureException"


@given(
    path=st.lists(st.text("abc%2F./", min_size=1, max_size=6), min_size=1, max_size=4),
    other=st.lists(st.text("abc%2F./", min_size=1, max_size=6), min_size=1, max_size=4),
)
def test_another_path_is_refused(path: list[str], other: list[str]) -> None:
    request, body = signed("/a/" + "/".join(path))
    sent = b"/a/" + "/".join(other).encode()
    if sigv4.encoded_path(sent) != sigv4.encoded_path(request.raw_path):
        assert refusal(request._replace(raw_path=sent), body).status == 403


@pytest.mark.parametrize(
    "change",
    [
        lambda request: request._replace(method="PUT"),
        lambda request: request._replace(query=b"Qualifier=2"),
        lambda request: request._replace(query=b""),
        lambda request: request._replace(raw_path=b"/2015-03-31/functions/other/invocations"),
    ],
)
def test_a_changed_request_is_refused_with_aws_text(change: Callable[[sigv4.Request], sigv4.Request]) -> None:
    request, body = signed("/2015-03-31/functions/hello/invocations?Qualifier=1", b"{}")
    error = refusal(change(request), body)
    assert (error.status, error.error_type) == (403, "InvalidSignatureException")
    assert error.message == (
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access "
        "Key and signing method. Consult the service documentation for details."
    )


@pytest.mark.parametrize("header", [b"host", b"x-amz-date", b"x-other"])
def test_a_changed_signed_header_is_refused(header: bytes) -> None:
    request, body = signed("/x", headers={"X-Other": "1"})
    changed = dict(request.headers) | {header: b"20261123T025037Z"}
    assert refusal(request._replace(headers=changed), body).error_type == "InvalidSignatureException"
    del changed[header]
    assert refusal(request._replace(headers=changed), body).status == 403


def test_another_secret_region_service_and_an_unsigned_payload_are_refused() -> None:
    assert "does not match" in refusal(*signed("/x", secret="other")).message
    assert refusal(*signed("/x", region="eu-west-1")).message == (
        "Credential should be scoped to a valid region, not 'eu-west-1'. "
    )
    assert refusal(*signed("/x", service="s3")).message == "Credential should be scoped to correct service: 'lambda'. "
    unsigned = signed("/x", b"{}", headers={"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"})
    assert "does not match" in refusal(*unsigned).message
    claimed = signed("/x", b"{}", headers={"X-Amz-Content-SHA256": sha256(b"[]").hexdigest()})
    assert "does not match" in refusal(*claimed).message
    check(*signed("/x", b"{}", headers={"X-Amz-Content-SHA256": sha256(b"{}").hexdigest()}))


@pytest.mark.parametrize("seconds", [-300, -1, 0, 1, 300])
def test_a_clock_within_five_minutes_is_good_enough(seconds: int) -> None:
    check(*signed("/x", now=NOW + dt.timedelta(seconds=seconds)))


def test_a_clock_further_off_is_told_by_how_much() -> None:
    assert refusal(*signed("/x", now=NOW - dt.timedelta(seconds=301))).message == (
        "Signature expired: 20261123T024535Z is now earlier than 20261123T024536Z (20261123T025036Z - 5 min.)"
    )
    assert refusal(*signed("/x", now=NOW + dt.timedelta(seconds=301))).message == (
        "Signature not yet current: 20261123T025537Z is still later than 20261123T025536Z (20261123T025036Z + 5 min.)"
    )


def test_a_signature_of_before_midnight_is_good_just_after_it() -> None:
    midnight = dt.datetime(2026, 11, 23, 0, 0, 0, tzinfo=dt.UTC)
    request, body = signed("/x", now=midnight - dt.timedelta(seconds=2))
    check(request, body, now=midnight + dt.timedelta(seconds=2))


SIGNATURE = b"a" * 64
SCOPE = b"Credential=K/20261123/us-east-1/lambda/aws4_request"


@pytest.mark.parametrize(
    ("header", "error_type", "text"),
    [
        (b"AWS4-HMAC-SHA256", "IncompleteSignatureException", "'Signature'"),
        (b"AWS4-HMAC-SHA256 Signature=" + SIGNATURE, "IncompleteSignatureException", "'Credential'"),
        (b"AWS4-HMAC-SHA256 " + SCOPE + b", Signature=" + SIGNATURE, "IncompleteSignatureException", "'SignedHeaders'"),
        (
            b"AWS4-HMAC-SHA256 Credential=K/us-east-1, SignedHeaders=host;x-amz-date, Signature=" + SIGNATURE,
            "IncompleteSignatureException",
            "slash-delimited",
        ),
        (
            b"AWS4-HMAC-SHA256 " + SCOPE + b", SignedHeaders=x-amz-date, Signature=" + SIGNATURE,
            "InvalidSignatureException",
            "'host' must be a 'SignedHeader'",
        ),
        (
            b"AWS4-HMAC-SHA256 " + SCOPE + b", SignedHeaders=host, Signature=" + SIGNATURE,
            "InvalidSignatureException",
            "'x-amz-date' must be a 'SignedHeader'",
        ),
        (
            b"AWS4-HMAC-SHA256 " + SCOPE + b", SignedHeaders=host;x-amz-date, Signature=zz",
            "InvalidSignatureException",
            "does not match",
        ),
        (
            b"AWS4-HMAC-SHA256 " + SCOPE + b", SignedHeaders=" + b"a;" * 65 + b", Signature=" + SIGNATURE,
            "IncompleteSignatureException",
            "64 headers",
        ),
        (b"AWS4-HMAC-SHA256 " + b"x" * 5000, "IncompleteSignatureException", "longer than"),
    ],
)
def test_what_is_no_whole_signature_says_so(header: bytes, error_type: str, text: str) -> None:
    with pytest.raises(AuthError) as raised:
        sigv4.parse(header)
    assert raised.value.error_type == error_type
    assert text in raised.value.message


@given(header=st.binary(max_size=300).map(lambda tail: b"AWS4-HMAC-SHA256" + tail))
def test_no_header_is_beyond_reading(header: bytes) -> None:
    with pytest.raises(AuthError):
        sigv4.parse(header)


@pytest.mark.parametrize(
    "date", [None, b"", b"2026-11-23", b"20261123T025036", b"20261323T025036Z", b"Mon, 23 Nov 2026", b"\xb9" * 16]
)
def test_a_date_that_is_none_is_refused(date: bytes | None) -> None:
    request, body = signed("/x")
    headers = {name: value for name, value in request.headers.items() if name != b"x-amz-date"}
    if date is not None:
        headers[b"x-amz-date"] = date
    assert refusal(request._replace(headers=headers), body).error_type == "IncompleteSignatureException"


@pytest.mark.parametrize("name", ["X-Amz-Invocation-Type", "X-Amz-Log-Type", "X-Amz-Client-Context"])
def test_what_changes_a_calls_meaning_must_be_signed(name: str) -> None:
    check(*signed("/x", headers={name: "Event"}))
    request, body = signed("/x")
    added = dict(request.headers) | {name.lower().encode(): b"Event"}
    assert f"'{name.lower()}' must be a 'SignedHeader'" in refusal(request._replace(headers=added), body).message


def test_parameters_may_stand_in_any_order() -> None:
    request, body = signed("/x")
    scheme, _, rest = request.headers[b"authorization"].partition(b" ")
    turned = scheme + b" " + b",".join(reversed(rest.split(b", ")))
    check(request._replace(headers=dict(request.headers) | {b"authorization": turned}), body)
