"""The record of an ended event, and its signature."""

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from forebay_common.frames import ERROR_FUNCTION, FLAG_PAYLOAD_OMITTED, KIND_ERROR, ReplyFrame
from forebay_common.outbox import OutboxEntry
from forebay_controller.destinations.document import invocation_record, json_text, time_text
from forebay_controller.destinations.signing import (
    platform_signing_key,
    secret_text,
    signature_headers,
    signing_secret,
)
from forebay_controller.local_keys import SIGNING_FILE, signing_key_of
from support.queue_side import event

ARN = "arn:aws:lambda:us-east-1:000000000000:function:hello"
ID = "c2a6f2ae-7dbb-4d22-8782-d0485c9877e2"


def ended(
    status: str = "succeeded",
    reason: str = "",
    frame: ReplyFrame | None = None,
    **record: Any,
) -> OutboxEntry:
    members = {"invocation_id": UUID(ID).bytes, "attempt": 1, **record}
    return OutboxEntry(b"1573755365568-0", event(b'{"n": 1}', **members), status, reason, frame)


def reply(payload: bytes | None, **members: Any) -> ReplyFrame:
    return ReplyFrame(token=bytes(16), payload=payload, **members)


def failure(**members: Any) -> ReplyFrame:
    return reply(b'{"errorMessage":"no"}', kind=KIND_ERROR, error_kind=ERROR_FUNCTION, **members)


def test_a_success_is_told_as_lambda_tells_it() -> None:
    record = invocation_record(ended(frame=reply(b'{"ok":true}')), ARN, b'{"n": 1}')
    assert json.loads(record) == {
        "version": "1.0",
        "timestamp": "2019-11-14T18:16:05.568Z",
        "requestContext": {
            "requestId": ID,
            "functionArn": f"{ARN}:$LATEST",
            "condition": "Success",
            "approximateInvokeCount": 1,
        },
        "requestPayload": {"n": 1},
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST"},
        "responsePayload": {"ok": True},
    }


def test_a_failure_is_told_with_its_error() -> None:
    record = json.loads(invocation_record(ended("failed", "RetriesExhausted", failure(), attempt=3), ARN, b"{}"))
    assert record["requestContext"]["condition"] == "RetriesExhausted"
    assert record["requestContext"]["approximateInvokeCount"] == 3
    assert record["responseContext"]["functionError"] == "Unhandled"
    assert record["responsePayload"] == {"errorMessage": "no"}


def test_an_event_that_never_ran_has_no_response() -> None:
    record = json.loads(invocation_record(ended("failed", "EventAgeExceeded", attempt=0), ARN, b"{}"))
    assert record["requestContext"]["condition"] == "EventAgeExceeded"
    assert record["requestContext"]["approximateInvokeCount"] == 0
    assert not {"responseContext", "responsePayload"} & record.keys()


def test_what_was_not_kept_is_missing_not_null() -> None:
    large = reply(b"", flags=FLAG_PAYLOAD_OMITTED)
    record = json.loads(invocation_record(ended(frame=large), ARN, None))
    assert "responseContext" in record
    assert not {"requestPayload", "responsePayload"} & record.keys()


@pytest.mark.parametrize(
    ("called", "told"),
    [("", f"{ARN}:$LATEST"), (ARN, f"{ARN}:$LATEST"), (f"{ARN}:3", f"{ARN}:3"), (f"{ARN}:live", f"{ARN}:live")],
)
def test_the_functions_arn_always_says_which_version(called: str, told: str) -> None:
    record = json.loads(invocation_record(ended(arn=called, frame=reply(b"1")), ARN, b"{}"))
    assert record["requestContext"]["functionArn"] == told


@pytest.mark.parametrize("payload", [b'{"a":  1e400,"big":123456789012345678901234567890}', b'"\\ud800"', b" [1 ] "])
def test_payloads_stand_in_the_record_byte_for_byte(payload: bytes) -> None:
    assert payload in invocation_record(ended(frame=reply(payload)), ARN, payload)


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"hello", b'"hello"'),
        (b"NaN", b'"NaN"'),
        (b'{"a":1}, "evil": {}', b'"{\\"a\\":1}, \\"evil\\": {}"'),
        (b"\xff", b'"\\ufffd"'),
        ('"x"'.encode("utf-16"), None),
        (b"[" * 100_000 + b"]" * 100_000, None),
    ],
)
def test_what_is_no_json_stands_in_the_record_as_text(payload: bytes, text: bytes | None) -> None:
    written = json_text(payload)
    assert isinstance(json.loads(written), str)
    assert text is None or written == text


def test_an_empty_event_and_an_empty_result_are_what_they_mean() -> None:
    record = json.loads(invocation_record(ended(frame=reply(b"")), ARN, b""))
    assert record["requestPayload"] == {}
    assert record["responsePayload"] is None


def test_the_same_entry_is_the_same_record() -> None:
    entry = ended("failed", "RetriesExhausted", failure())
    assert invocation_record(entry, ARN, b"{}") == invocation_record(entry, ARN, b"{}")


def test_times_have_milliseconds() -> None:
    assert time_text(1_573_755_365_000) == "2019-11-14T18:16:05.000Z"


def test_a_signature_is_what_standard_webhooks_says() -> None:
    # The vector of the specification's own libraries.
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signature_headers(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_each_function_has_a_secret_of_its_own_that_tells_nothing_of_the_platforms_key() -> None:
    key = platform_signing_key(b"the key of an installation")
    secrets = {signing_secret(key, uid) for uid in ("a", "b", "ab")}
    assert len(secrets) == 3
    assert signing_secret(key, "a") == hmac.new(key, b"a", hashlib.sha256).digest()
    text = secret_text(signing_secret(key, "a"))
    assert text.startswith("whsec_")
    assert len(base64.b64decode(text.removeprefix("whsec_"))) == 32
    assert key != b"the key of an installation"


def test_the_key_of_a_data_dir_is_made_once_for_the_user_alone(tmp_path: Path) -> None:
    key = signing_key_of(tmp_path)
    assert len(key) == 32
    assert signing_key_of(tmp_path) == key
    assert (tmp_path / SIGNING_FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "zz", "00"])
def test_a_key_file_that_holds_none_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / SIGNING_FILE).write_text(text)
    with pytest.raises(ValueError, match="remove it"):
        signing_key_of(tmp_path)
