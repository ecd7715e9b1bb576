"""The answers to an Invoke as they go out: header lines and bodies."""

import base64

from forebay_common import frames, limits
from forebay_common.names import LATEST
from forebay_gateway.identifiers import uuid_text
from forebay_gateway.lambda_errors import CONTENT_TYPE, REPLAYED, Refusal
from forebay_gateway.quick_answer import Answer, QuickAnswer
from forebay_gateway.replies import Reply

STATUS_OK = 200
STATUS_ACCEPTED = 202
STATUS_DRY_RUN = 204
_FUNCTION_ERROR = (b"x-amz-function-error", b"Unhandled")


class InvokeAnswer(QuickAnswer):
    """The answer to a plain Invoke."""

    __slots__ = ()

    def answer(self, reply: Reply, invocation_id: bytes) -> Answer:
        """The function's result, or its error."""
        return answered(STATUS_OK, reply_head(reply, log_tail=False), reply.payload, invocation_id)

    def refusal(self, refusal: Refusal, invocation_id: bytes) -> Answer:
        """Lambda's error."""
        return answered(*refused(refusal, invocation_id), invocation_id)


def refused(refusal: Refusal, invocation_id: bytes) -> Answer:
    """Status, header lines and body of the answer to a call that was not, or may not have been, run."""
    if refusal.may_run:
        return STATUS_OK, _FAILED_HEAD, refusal.function_error(uuid_text(invocation_id))
    return refusal.status, header_lines(refusal.headers()), refusal.body()


def whole_head(status: int, head: bytes, body: bytes, invocation_id: bytes) -> bytes:
    """An answer's header lines with those that every one has."""
    request_id = uuid_text(invocation_id).encode()
    length = b"" if status == STATUS_DRY_RUN else b"content-length: %d\r\n" % len(body)
    return b"%bx-amzn-requestid: %b\r\n%b" % (head, request_id, length)


def answered(status: int, head: bytes, body: bytes, invocation_id: bytes) -> Answer:
    """A whole answer."""
    return status, whole_head(status, head, body, invocation_id), body


def reply_head(reply: Reply, *, log_tail: bool) -> bytes:
    """The header lines of a call that an instance answered."""
    if reply.error_kind == frames.ERROR_NONE and not log_tail and reply.version_run == LATEST:
        return _PLAIN_HEAD
    headers = [CONTENT_TYPE, (b"x-amz-executed-version", reply.version_run.encode())]
    if reply.error_kind != frames.ERROR_NONE:
        headers.append(_FUNCTION_ERROR)
    if log_tail:
        headers.append((b"x-amz-log-result", base64.b64encode(reply.log_tail[-limits.LOG_TAIL_MAX_BYTES :])))
    return header_lines(headers)


def header_lines(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Headers as they go out."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


_PLAIN_HEAD = header_lines([CONTENT_TYPE, (b"x-amz-executed-version", LATEST.encode())])
REPLAYED_LINE = header_lines([REPLAYED])
_FAILED_HEAD = header_lines([CONTENT_TYPE, _FUNCTION_ERROR])
