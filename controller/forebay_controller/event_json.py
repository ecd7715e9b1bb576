"""What /v1 shows of events: an invocation's state and dead letters as JSON. Pure.

A result, error or payload that is JSON goes into the answer as the bytes that it is: decoding it and encoding it again
would round numbers and could fail on what a function is free to write (a number above a double, a lone surrogate).
"""

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from forebay_common import frames
from forebay_common.dead_letters import DeadLetter
from forebay_common.events import EventState
from forebay_common.frames import ReplyFrame

SHOWN_TEXT_MAX_CHARS = 500
"""Of an error's message in a list."""
_REFUSED = "Forebay.NotRun"
"""The error type of an event that the platform itself gave up; its reason is plain text."""


def invocation_json(invocation_id: str, function: str, state: EventState) -> bytes:
    """One invocation, as `v1_event_models.InvocationOutput` describes it."""
    frame = state.frame
    result, error = b"null", b"null"
    members: dict[str, Any] = {
        "id": invocation_id,
        "function": function,
        "status": state.status,
        "attempts": state.attempts,
        "accepted_at": moment(state.accepted_ms),
        "ended_at": moment(state.ended_ms),
        "next_attempt_at": moment(state.due_ms),
        "duration_ms": None if frame is None else frame.duration_us / 1000,
        "reason": state.reason,
        "result_base64": None,
        "payload_omitted": is_omitted(frame),
    }
    if frame is not None and frame.payload is not None and not members["payload_omitted"]:
        if frame.error_kind == frames.ERROR_NONE:
            result, members["result_base64"] = shown(frame.payload)
        else:
            error = error_document(frame)
    return joined(members, {"result": result, "error": error})


def dead_letter_members(letter: DeadLetter) -> dict[str, Any]:
    """One dead letter without its payload, as `v1_event_models.DeadLetterOutput` describes it."""
    kind, text = _error_words(letter.frame)
    return {
        "id": letter.entry_id.decode(),
        "invocation_id": invocation_text(letter.invocation_id),
        "reason": letter.reason,
        "attempts": letter.attempts,
        "accepted_at": moment(letter.accepted_ms),
        "dead_at": moment(letter.dead_ms),
        "error_type": kind,
        "error_message": text,
    }


def dead_letter_json(letter: DeadLetter, payload: bytes | None) -> bytes:
    """One dead letter with its payload (None: it is gone) and its last error."""
    frame = letter.frame
    text, encoded = (b"null", None) if payload is None else shown(payload)
    error = b"null" if frame is None or frame.payload is None or is_omitted(frame) else error_document(frame)
    members = dead_letter_members(letter) | {
        "payload_base64": encoded,
        "payload_bytes": None if payload is None else len(payload),
    }
    return joined(members, {"payload": text, "error": error})


def joined(members: Mapping[str, Any], raw: Mapping[str, bytes]) -> bytes:
    """An object of members to be encoded, and of others that are JSON already."""
    encoded = json.dumps(members, separators=(",", ":")).encode()
    return encoded[:-1] + b"".join(b',"%b":%b' % (name.encode(), text) for name, text in raw.items()) + b"}"


def shown(payload: bytes) -> tuple[bytes, str | None]:
    """A payload as JSON, and as base64 when it is neither JSON nor text (the JSON is null then)."""
    if is_json(payload):
        return payload, None
    try:
        return json.dumps(payload.decode()).encode(), None
    except UnicodeDecodeError:
        return b"null", base64.b64encode(payload).decode("ascii")


def error_document(frame: ReplyFrame) -> bytes:
    """Lambda's error document, or one made of the reason for which the event was not run."""
    payload = frame.payload or b""
    if is_json(payload) and payload.lstrip().startswith(b"{"):
        return payload
    return json.dumps(_refusal(payload)).encode()


def is_omitted(frame: ReplyFrame | None) -> bool:
    """Whether what the function answered was too large to be kept."""
    return frame is not None and (frame.payload is None or bool(frame.flags & frames.FLAG_PAYLOAD_OMITTED))


def is_json(payload: bytes) -> bool:
    """Whether a payload is JSON as RFC 8259 has it: in UTF-8, and without NaN and Infinity."""
    try:
        json.loads(payload.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return False
    return True


def moment(unix_ms: int | None) -> str | None:
    """A time as RFC 3339 with milliseconds; None and 0 are none."""
    if not unix_ms:
        return None
    return f"{datetime.fromtimestamp(unix_ms / 1000, UTC).replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def invocation_text(invocation_id: bytes) -> str:
    """An id in the form that clients know: 8-4-4-4-12 hexadecimal digits."""
    digits = invocation_id.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _error_words(frame: ReplyFrame | None) -> tuple[str, str]:
    """The type and message of the last error; "" where there is none."""
    if frame is None or frame.payload is None or is_omitted(frame):
        return "", ""
    document = _parsed(frame.payload)
    if not isinstance(document, dict):
        document = _refusal(frame.payload)
    return _shown_text(document.get("errorType")), _shown_text(document.get("errorMessage"))


def _shown_text(value: object) -> str:
    """Some text that can be encoded: JSON can name halves of characters."""
    return str(value or "")[:SHOWN_TEXT_MAX_CHARS].encode(errors="replace").decode()


def _refusal(payload: bytes) -> dict[str, Any]:
    return {"errorType": _REFUSED, "errorMessage": payload.decode(errors="replace")}


def _parsed(payload: bytes) -> object:
    """A JSON value; None when it is none."""
    try:
        return json.loads(payload.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
