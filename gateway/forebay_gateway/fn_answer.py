"""The answers to requests to `/fn` as they go out."""

from forebay_common import frames
from forebay_gateway.http_event import Headers
from forebay_gateway.http_response import HttpAnswer, answer_of_result, internal_server_error, message, sendable
from forebay_gateway.identifiers import uuid_text
from forebay_gateway.invoke_answer import header_lines
from forebay_gateway.lambda_errors import Refusal
from forebay_gateway.quick_answer import Answer
from forebay_gateway.replies import Reply


def answer_of(reply: Reply) -> HttpAnswer:
    """What the client gets of a call's reply."""
    if reply.error_kind == frames.ERROR_NONE:
        return answer_of_result(reply.payload)
    failed = internal_server_error()
    return failed._replace(headers=[*failed.headers, (b"x-amz-function-error", b"Unhandled")])


def refused(refusal: Refusal) -> HttpAnswer:
    """The platform's answer in place of the function's; 0 means no `Retry-After`."""
    return message(refusal.status, refusal.message, retry_after_s=refusal.retry_after_s or None)


def cors_headers(origin: bytes | None, allowed_origins: list[str]) -> Headers:
    """What tells a page of `origin` (None: no page, or our own) that it may read the answer; the guard let it in."""
    if not allowed_origins:
        return []
    if "*" in allowed_origins:
        return [] if origin is None else [(b"access-control-allow-origin", b"*")]
    vary = (b"vary", b"Origin")
    return [vary] if origin is None else [(b"access-control-allow-origin", origin), vary]


def with_id(answer: HttpAnswer, cors: Headers, invocation_id: bytes) -> HttpAnswer:
    """An answer with its invocation's id; where the platform speaks CORS, the handler does not."""
    headers = answer.headers
    if cors:
        headers = [header for header in headers if header[0] != b"access-control-allow-origin"]
    return answer._replace(headers=[*headers, *cors, (b"x-amzn-requestid", uuid_text(invocation_id).encode())])


def whole(answer: HttpAnswer, method: str) -> Answer:
    """An answer to a request of a method as it goes out."""
    headers, body = sendable(answer, method)
    return answer.status, header_lines(headers), body
