"""What an access key is checked by, what it may be used for, and in which headers it is looked for."""

import json
import time
from hashlib import sha256

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from forebay_common import sigv4
from forebay_common.auth_errors import AuthError
from forebay_common.credentials import INVOKE, MANAGE, Credential, Presented, matches, present

KEY_ID = "FBAKABCDEFGHIJKLMNOP"
SECRET = "s3cret-of_forty_characters_0123456789abcd"
API_KEY = f"{KEY_ID}.{SECRET}".encode()
REGION = "us-east-1"


def admin(**changes: tuple[str, ...]) -> Credential:
    return Credential.derive(KEY_ID, SECRET, region=REGION, now_s=time.time(), **changes)


def find(access_key_id: str) -> Credential | None:
    return admin() if access_key_id == KEY_ID else None


def presented(headers: dict[bytes, bytes]) -> Presented:
    return present(headers, find, region=REGION, now_s=time.time())


def refused(headers: dict[bytes, bytes]) -> AuthError:
    with pytest.raises(AuthError) as raised:
        presented(headers)
    return raised.value


def signature_headers(key_id: str = KEY_ID) -> dict[bytes, bytes]:
    request = AWSRequest("POST", "http://h/x", data=b"{}", headers={"Host": "h"})
    SigV4Auth(Credentials(key_id, SECRET), "lambda", REGION).add_auth(request)
    return {name.lower().encode(): value.encode() for name, value in request.headers.items()}


def test_a_record_holds_no_secret_and_three_days_of_signing_keys() -> None:
    record = Credential.derive(KEY_ID, SECRET, region=REGION, now_s=1795402236.0)
    assert list(record.signing_keys) == ["20261122", "20261123", "20261124"]
    assert record.signing_keys["20261123"] == sigv4.signing_key(SECRET, "20261123", REGION)
    assert record.secret_sha256 == sha256(SECRET.encode()).digest()
    assert SECRET.encode() not in record.to_json()


def test_a_record_survives_its_journey_and_unknown_members_are_ignored() -> None:
    record = admin(scopes=(INVOKE,), namespaces=("team-*",), functions=("a", "b"))
    document = json.loads(record.to_json()) | {"of_a_later_release": 1}
    assert Credential.from_json(KEY_ID, json.dumps(document).encode()) == record
    assert set(json.loads(record.to_json())) == {"secret_sha256", "signing_keys", "scopes", "namespaces", "functions"}


@pytest.mark.parametrize(
    ("patterns", "name", "fits"),
    [
        (("*",), "anything", True),
        (("*",), "*", True),
        (("a", "b"), "b", True),
        (("a",), "ab", False),
        (("a*",), "a", True),
        (("a*",), "ab", True),
        (("a*",), "ba", False),
        (("*a",), "ba", True),
        (("a*a",), "a", False),
        (("a*a",), "aa", True),
        (("a*b*c",), "a-b-c", True),
        (("a*b*b*c",), "abc", False),
        (("a.c",), "abc", False),
        (("a*", "**"), "*", False),
        ((), "a", False),
    ],
)
def test_a_star_stands_for_any_characters(patterns: tuple[str, ...], name: str, fits: bool) -> None:  # noqa: FBT001
    assert matches(patterns, name) is fits


@given(parts=st.lists(st.text("ab", max_size=3), min_size=2, max_size=5), filling=st.text("abc", max_size=3))
def test_a_pattern_fits_whatever_its_stars_are_filled_with(parts: list[str], filling: str) -> None:
    assert matches(("*".join(parts),), filling.join(parts))


def test_a_hostile_pattern_does_not_take_long() -> None:
    started = time.process_time()
    assert not matches(("a*" * 1_000 + "b",), "a" * 5_000)
    assert time.process_time() - started < 1


def test_scope_namespace_and_function_must_all_fit() -> None:
    record = admin(scopes=(INVOKE,), namespaces=("team-a",), functions=("web-*",))
    assert record.allows(INVOKE, "team-a", "web-shop")
    assert not record.allows(MANAGE, "team-a", "web-shop")
    assert not record.allows(INVOKE, "team-b", "web-shop")
    assert not record.allows(INVOKE, "team-a", "shop")
    assert not record.allows(INVOKE, "team-a")
    assert admin().allows(MANAGE, "anywhere")


def test_a_signature_names_its_key_and_is_checked_with_the_body() -> None:
    headers = signature_headers()
    found = presented(headers)
    assert (found.credential.access_key_id, found.header) == (KEY_ID, b"authorization")
    request = sigv4.Request("POST", b"/x", b"", headers)
    found.check(request, lambda: sha256(b"{}").hexdigest())
    with pytest.raises(AuthError, match="does not match"):
        found.check(request, lambda: sha256(b"[]").hexdigest())


def test_a_day_without_a_signing_key_is_the_platforms_fault() -> None:
    headers = signature_headers()
    found = presented(headers)
    old = found._replace(credential=Credential(KEY_ID, b"", {"20200101": b""}))
    with pytest.raises(AuthError) as raised:
        old.check(sigv4.Request("POST", b"/x", b"", headers), lambda: sha256(b"{}").hexdigest())
    assert (raised.value.status, raised.value.error_type) == (503, "ServiceException")


@pytest.mark.parametrize(
    ("headers", "header"),
    [
        ({b"authorization": b"Bearer " + API_KEY}, b"authorization"),
        ({b"authorization": b"bearer  " + API_KEY}, b"authorization"),
        ({b"x-api-key": API_KEY}, b"x-api-key"),
        ({b"x-api-key": API_KEY, b"authorization": b"Bearer of-the-function"}, b"x-api-key"),
        ({b"x-api-key": b"of-the-function"} | signature_headers(), b"authorization"),
    ],
)
def test_an_api_key_is_taken_from_either_header(headers: dict[bytes, bytes], header: bytes) -> None:
    found = presented(headers)
    assert found.header == header
    assert found.credential.access_key_id == KEY_ID


@pytest.mark.parametrize(
    "headers",
    [
        {b"authorization": b"Bearer " + API_KEY + b"x"},
        {b"authorization": b"Bearer " + KEY_ID.encode()},
        {b"authorization": b"Bearer "},
        {b"x-api-key": b""},
        {b"x-api-key": b"\xff.\xff"},
        {b"x-api-key": API_KEY + b"," + API_KEY},
        {b"x-api-key": API_KEY + b" " * 600},
        {b"x-api-key": b"wrong", b"authorization": b"Bearer " + API_KEY},
        signature_headers("FBAKUNKNOWN"),
    ],
)
def test_an_unknown_key_and_a_wrong_secret_get_the_same_answer(headers: dict[bytes, bytes]) -> None:
    error = refused(headers)
    assert (error.status, error.error_type) == (403, "UnrecognizedClientException")
    assert json.loads(error.body()) == {"message": "The security token included in the request is invalid."}


def test_no_credential_and_one_of_another_kind_are_told_apart() -> None:
    error = refused({b"host": b"h"})
    assert (error.status, error.error_type) == (403, "MissingAuthenticationTokenException")
    assert json.loads(error.body()) == {"message": "Missing Authentication Token"}
    assert refused({b"authorization": b"Basic YTpi"}).error_type == "IncompleteSignatureException"


@given(
    headers=st.dictionaries(st.sampled_from([b"authorization", b"x-api-key", b"x-amz-date"]), st.binary(max_size=99))
)
def test_no_headers_are_beyond_reading(headers: dict[bytes, bytes]) -> None:
    assert refused(headers).status == 403
