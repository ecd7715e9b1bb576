"""What /v1 shows of events, and what it takes for ids and times."""

import json
from typing import Any

import pytest

from forebay_common import frames
from forebay_common.dead_letters import DeadLetter
from forebay_common.events import EventState
from forebay_common.frames import ReplyFrame
from forebay_controller import event_input, event_json
from forebay_controller.invocation_watch import LOOK_FIRST_S, LOOK_LAST_S, next_look_s
from forebay_controller.v1_errors import V1Error
from forebay_controller.v1_event_models import DeadLetterItem, DeadLetterOutput, InvocationOutput

ID = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"


def frame(payload: bytes | None, **members: Any) -> ReplyFrame:
    return ReplyFrame(token=bytes(16), payload=payload, duration_us=12_345, **members)


def ended(status: str = "succeeded", **members: Any) -> EventState:
    return EventState(status, 1, 1_764_000_000_000, ended_ms=1_764_000_001_500, **members)


def text_of(state: EventState) -> bytes:
    return event_json.invocation_json(ID, "hello", state)


def shown(state: EventState) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(text_of(state))
    assert document.keys() == InvocationOutput.model_fields.keys()
    return document


def test_an_event_that_succeeded_shows_its_result_and_times() -> None:
    assert shown(ended(frame=frame(b'{"n": 1}'))) == {
        "id": ID,
        "function": "hello",
        "status": "succeeded",
        "attempts": 1,
        "accepted_at": "2025-11-24T16:00:00.000Z",
        "ended_at": "2025-11-24T16:00:01.500Z",
        "next_attempt_at": None,
        "duration_ms": 12.345,
        "reason": "",
        "result": {"n": 1},
        "result_base64": None,
        "error": None,
        "payload_omitted": False,
    }


def test_an_event_that_waits_shows_when_it_is_due() -> None:
    document = shown(EventState("delayed", 1, 1_764_000_000_000, due_ms=1_764_000_060_000))
    assert (document["next_attempt_at"], document["ended_at"]) == ("2025-11-24T16:01:00.000Z", None)


@pytest.mark.parametrize("payload", [b"1e400", b'"\\ud800"', b'{"a": 12345678901234567890123}', b"null", b'""'])
def test_a_result_that_is_json_is_shown_as_it_stands(payload: bytes) -> None:
    assert b'"result":' + payload in text_of(ended(frame=frame(payload)))


@pytest.mark.parametrize("payload", [b"plain", b"", b"NaN", b"[" * 60_000, b"{,}", "\ufeff1".encode()])
def test_a_result_that_is_text_is_shown_as_a_string(payload: bytes) -> None:
    assert shown(ended(frame=frame(payload)))["result"] == payload.decode()


def test_a_result_that_is_no_text_is_shown_as_base64() -> None:
    document = shown(ended(frame=frame(b"\xff\x00")))
    assert (document["result"], document["result_base64"]) == (None, "/wA=")


def test_a_result_that_was_too_large_to_keep_says_so() -> None:
    document = shown(ended(frame=frame(b"", flags=frames.FLAG_PAYLOAD_OMITTED)))
    assert (document["result"], document["payload_omitted"]) == (None, True)


def test_a_failure_shows_lambdas_error_document() -> None:
    error = b'{"errorMessage": "no", "errorType": "ValueError"}'
    state = ended("failed", reason="RetriesExhausted", frame=frame(error, error_kind=frames.ERROR_FUNCTION))
    document = shown(state)
    assert (document["error"], document["result"]) == (json.loads(error), None)
    assert document["reason"] == "RetriesExhausted"


def test_a_failure_of_which_only_the_reason_is_known_shows_that() -> None:
    refused = frame(b"the payload is gone", kind=frames.KIND_ERROR, error_kind=frames.ERROR_REFUSED)
    assert shown(ended("failed", frame=refused))["error"] == {
        "errorType": "Forebay.NotRun",
        "errorMessage": "the payload is gone",
    }
    assert shown(ended("failed", reason="EventAgeExceeded"))["error"] is None


def letter(**members: Any) -> DeadLetter:
    return DeadLetter(b"1764000000000-3", bytes.fromhex(ID.replace("-", "")), "RetriesExhausted", 3, 0, **members)


def test_a_dead_letter_is_shown_with_its_event_and_its_last_error() -> None:
    error = json.dumps({"errorMessage": "x" * 600, "errorType": "ValueError"}).encode()
    dead = letter(frame=frame(error, error_kind=frames.ERROR_FUNCTION))
    document = json.loads(event_json.dead_letter_json(dead, b'{"n": 1}'))
    assert document.keys() == DeadLetterOutput.model_fields.keys()
    assert (document["id"], document["invocation_id"], document["attempts"]) == ("1764000000000-3", ID, 3)
    assert (document["payload"], document["payload_bytes"]) == ({"n": 1}, 8)
    assert (document["error_type"], len(document["error_message"])) == ("ValueError", 500)
    assert document["error"]["errorMessage"] == "x" * 600


@pytest.mark.parametrize(
    ("payload", "kind", "text"),
    [
        (b' {"errorType": "E", "errorMessage": 5}', "E", "5"),
        (b'{"errorType": null}', "", ""),
        (b'{"errorMessage": "half \\ud83d"}', "", "half ?"),
        (b"[1]", "Forebay.NotRun", "[1]"),
        (b'{"errorType": NaN}', "Forebay.NotRun", '{"errorType": NaN}'),
        (b"\xff", "Forebay.NotRun", "\ufffd"),
        (b"", "Forebay.NotRun", ""),
        (b"[" * 60_000, "Forebay.NotRun", "[" * 500),
    ],
)
def test_an_error_in_a_list_is_two_texts_whatever_the_function_answered(payload: bytes, kind: str, text: str) -> None:
    members = event_json.dead_letter_members(letter(frame=frame(payload, error_kind=frames.ERROR_FUNCTION)))
    assert (members["error_type"], members["error_message"]) == (kind, text)
    assert DeadLetterItem(**members | {"accepted_at": "", "dead_at": ""}).model_dump_json()


def test_a_dead_letter_whose_payload_is_gone_says_so() -> None:
    document = json.loads(event_json.dead_letter_json(letter(), None))
    assert (document["payload"], document["payload_bytes"], document["error"]) == (None, None, None)
    assert (document["error_type"], document["error_message"]) == ("", "")


def test_an_invocations_id_is_read_in_either_case() -> None:
    assert event_input.invocation_id(ID.upper()) == event_input.invocation_id(ID) == bytes.fromhex(ID.replace("-", ""))


@pytest.mark.parametrize("text", ["", "x", ID[:-1], f"{ID}0", ID.replace("-", ""), f"{{{ID}}}", ID.replace("3", "g")])
def test_what_is_no_invocations_id_is_refused(text: str) -> None:
    with pytest.raises(V1Error, match="no invocation id"):
        event_input.invocation_id(text)


@pytest.mark.parametrize("text", ["1-", "-", "1", "a-0", "1-0-0", "\u0661-0", "9" * 20 + "-0"])
def test_what_is_no_dead_letters_id_is_refused(text: str) -> None:
    with pytest.raises(V1Error, match="no dead letter's id"):
        event_input.entry_id(text)


@pytest.mark.parametrize(
    ("text", "unix_ms"),
    [
        ("", 0),
        ("1764000000", 1_764_000_000_000),
        ("1764000000.25", 1_764_000_000_250),
        ("2025-11-24T16:00:00Z", 1_764_000_000_000),
        ("2025-11-24t16:00:00z", 1_764_000_000_000),
        ("2025-11-24T16:00:00.123456789Z", 1_764_000_000_123),
        ("2025-11-24T18:30:00+02:30", 1_764_000_000_000),
    ],
)
def test_times_are_rfc_3339_or_seconds(text: str, unix_ms: int) -> None:
    assert event_input.time_ms("since", text) == unix_ms


@pytest.mark.parametrize(
    "text",
    ["yesterday", "-1", "1e9", "2025-11-24", "2025-11-24T16:00:00", "2025-11-24 16:00:00Z", "2025-13-24T16:00:00Z",
     "2025-11-24T16:00:00+99:00", "0001-01-01T00:00:00Z", "999999999999", "\u0661"],
)  # fmt: skip
def test_other_times_are_refused_with_how_to_write_one(text: str) -> None:
    with pytest.raises(V1Error, match=r"since is .*RFC 3339"):
        event_input.time_ms("since", text)


def test_who_has_waited_longer_is_looked_for_more_seldom() -> None:
    assert [next_look_s(waited_s) for waited_s in (0, 0.5, 2, 4, 30)] == [
        LOOK_FIRST_S,
        LOOK_FIRST_S,
        0.2,
        0.4,
        LOOK_LAST_S,
    ]
