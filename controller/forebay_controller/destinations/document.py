"""The record of an ended event, as Lambda's destinations get it. Pure.

Shape and names: AWS Lambda, "Capturing records of Lambda asynchronous invocations".
"""

import json
from datetime import UTC, datetime
from uuid import UUID

from forebay_common.events import SUCCEEDED
from forebay_common.frames import ERROR_NONE, FLAG_PAYLOAD_OMITTED, ReplyFrame
from forebay_common.names import LATEST
from forebay_common.outbox import OutboxEntry

VERSION = "1.0"
SUCCESS = "Success"
_STATUS_CODE = 200
"""Lambda's, for function errors too."""
_UNHANDLED = "Unhandled"
_ARN_PARTS = 7
"""Of an ARN without a qualifier: arn:aws:lambda:REGION:ACCOUNT:function:NAME."""


def invocation_record(entry: OutboxEntry, function_arn: str, payload: bytes | None) -> bytes:
    """The record as compact JSON. The same entry gives the same bytes, however often it is made.

    `function_arn`: without a qualifier. `payload` is the event's, None when it is not there any more: then
    `requestPayload` is missing. An event that never ran has no response; of a result that was too large to be kept
    `responsePayload` is missing. What the event or its result brought with it stands in the record unchanged.
    """
    members = {
        "version": _text(VERSION),
        "timestamp": _text(time_text(entry.ended_ms)),
        "requestContext": _text(
            {
                "requestId": request_id(entry),
                "functionArn": qualified_arn(entry, function_arn),
                "condition": SUCCESS if entry.status == SUCCEEDED else entry.reason,
                "approximateInvokeCount": entry.record.attempt,
            }
        ),
    }
    if payload is not None:
        members["requestPayload"] = json_text(payload or b"{}")
    if entry.frame is not None:
        members["responseContext"] = _text(_response_context(entry.frame))
        if entry.frame.payload is not None and not entry.frame.flags & FLAG_PAYLOAD_OMITTED:
            members["responsePayload"] = json_text(entry.frame.payload or b"null")
    return b"{" + b",".join(b'"%b":%b' % (name.encode(), value) for name, value in members.items()) + b"}"


def json_text(data: bytes) -> bytes:
    """A JSON value's own bytes; what is none (a program may answer anything), as a JSON string of its text."""
    try:
        text = data.decode()
        json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return _text(data.decode(errors="replace"))
    return data


def request_id(entry: OutboxEntry) -> str:
    """The event's id as its caller has it."""
    return str(UUID(bytes=entry.record.invocation_id))


def qualified_arn(entry: OutboxEntry, function_arn: str) -> str:
    """The function's ARN as Lambda's records have it: as it was called, or with its version."""
    called = entry.record.arn
    if called.count(":") >= _ARN_PARTS:
        return called
    return f"{called or function_arn}:{entry.record.version or LATEST}"


def time_text(unix_ms: int) -> str:
    """A moment in UTC, with milliseconds: 2019-11-14T18:16:05.568Z."""
    moment = datetime.fromtimestamp(unix_ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{unix_ms % 1000:03}Z"


def _response_context(frame: ReplyFrame) -> dict[str, str | int]:
    context: dict[str, str | int] = {"statusCode": _STATUS_CODE, "executedVersion": frame.version_run}
    if frame.error_kind != ERROR_NONE:
        context["functionError"] = _UNHANDLED
    return context


def _text(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")
