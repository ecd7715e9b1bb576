"""What a handler returned as an HTTP answer, as Lambda's function URLs map it.

Source: AWS, "Invoking Lambda function URLs", response payload format, and observed answers: an object with
`statusCode` is an answer in payload format 2.0; any other JSON is the body of a 200, a string without its quotes.
An answer that cannot be sent as it stands (status, headers or base64 that are none) is a 502: a part of it would
mislead the client, and the function's author sees the mistake at once.
"""

import binascii
import json
import re
from base64 import b64decode
from typing import Any, NamedTuple

from starlette.types import Send

from forebay_gateway.http_event import HOP_BY_HOP, Headers

JSON_TYPE = (b"content-type", b"application/json")

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_STATUS = re.compile(r"[2-5][0-9][0-9]")
_BODILESS = frozenset({204, 304})
_OURS = HOP_BY_HOP | {
    *(b"content-length", b"date", b"idempotency-replayed", b"server", b"x-amz-function-error", b"x-amzn-requestid")
}
"""What a handler cannot set: these speak for the connection or for the platform."""


class HttpAnswer(NamedTuple):
    """An answer ready to send; `headers` are without `content-length`, which belongs to who sends it."""

    status: int
    headers: Headers
    body: bytes


class _InvalidAnswerError(Exception):
    """The handler's answer is not one of payload format 2.0; the message says what is wrong with it."""


def answer_of_result(result: bytes) -> HttpAnswer:
    """The HTTP answer for a handler's result (JSON). Never raises: what cannot be mapped is Lambda's 502."""
    try:
        value = json.loads(result.decode())
    except (json.JSONDecodeError, UnicodeDecodeError):
        return internal_server_error()
    except (RecursionError, ValueError):
        return _untouched(result)
    if isinstance(value, dict) and "statusCode" in value:
        try:
            return _formatted(value)
        except (_InvalidAnswerError, RecursionError):
            return internal_server_error()
    try:
        return HttpAnswer(200, [JSON_TYPE], _text(value))
    except RecursionError:
        return _untouched(result)


def internal_server_error() -> HttpAnswer:
    """What a caller gets when the function failed or answered what cannot be sent; Lambda's text, not JSON."""
    return HttpAnswer(502, [JSON_TYPE], b"Internal Server Error")


def message(status: int, text: str, *, retry_after_s: int | None = None) -> HttpAnswer:
    """An answer of the platform's own: `{"message": text}`."""
    headers = [JSON_TYPE]
    if retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % retry_after_s))
    return HttpAnswer(status, headers, json.dumps({"message": text}).encode())


def sendable(answer: HttpAnswer, method: str) -> tuple[Headers, bytes]:
    """Headers with the length, and the body, as they go out in answer to `method`.

    HEAD tells the length of the body it leaves out; 204 and 304 have neither (RFC 9110, sections 8.6 and 15.4.5).
    """
    if answer.status in _BODILESS:
        return answer.headers, b""
    headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
    return headers, b"" if method == "HEAD" else answer.body


async def send_answer(send: Send, answer: HttpAnswer, method: str) -> None:
    """Send a whole answer to a request of `method`."""
    headers, body = sendable(answer, method)
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _untouched(result: bytes) -> HttpAnswer:
    """JSON that is deeper, or has longer numbers, than Python reads: the client may well read it."""
    return HttpAnswer(200, [JSON_TYPE], result)


def _formatted(value: dict[str, Any]) -> HttpAnswer:
    status = _status(value["statusCode"])
    headers = _headers(value.get("headers"))
    body = _body(value.get("body"), value.get("isBase64Encoded"))
    if status not in _BODILESS and not any(name == b"content-type" for name, _ in headers):
        headers.append(JSON_TYPE)
    headers += [(b"set-cookie", _header_value(cookie)) for cookie in _cookies(value.get("cookies"))]
    return HttpAnswer(status, headers, body)


def _status(value: object) -> int:
    text = str(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
    if not text.isascii() or _STATUS.fullmatch(text) is None:
        raise _InvalidAnswerError("statusCode is not a final HTTP status")
    return int(text)


def _headers(value: object) -> Headers:
    if value is None:
        return []
    if not isinstance(value, dict):
        raise _InvalidAnswerError("headers is not an object")
    headers: Headers = []
    for name, content in value.items():
        if _TOKEN.fullmatch(name) is None:
            raise _InvalidAnswerError("a header's name is not a token")
        raw_name = name.lower().encode()
        if raw_name not in _OURS:
            headers.append((raw_name, _header_value(content)))
    return headers


def _cookies(value: object) -> list[object]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(cookie, str) for cookie in value):
        raise _InvalidAnswerError("cookies is not a list of strings")
    return value


def _header_value(value: object) -> bytes:
    """A value as bytes. Line breaks are refused: they would let data that a handler echoes forge headers."""
    if isinstance(value, (bool, int, float)):
        value = json.dumps(value)
    if not isinstance(value, str) or _CONTROL.search(value) is not None:
        raise _InvalidAnswerError("a header's value is not one line of text")
    try:
        return value.strip(" \t").encode()
    except UnicodeEncodeError as error:
        raise _InvalidAnswerError("a header's value is not valid text") from error


def _body(value: object, is_base64: object) -> bytes:
    if is_base64 is not None and not isinstance(is_base64, bool):
        raise _InvalidAnswerError("isBase64Encoded is not a boolean")
    if value is None:
        return b""
    if not is_base64:
        return _text(value)
    if not isinstance(value, str):
        raise _InvalidAnswerError("a base64 body is not a string")
    try:
        return b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _InvalidAnswerError("the body is not base64") from error


def _text(value: object) -> bytes:
    """A string as it is, anything else as compact JSON, both in UTF-8."""
    if isinstance(value, str):
        return value.encode(errors="replace")
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        # A lone surrogate has no UTF-8, but JSON can name it.
        return json.dumps(value, separators=(",", ":")).encode()
