"""Answers to calls that did not give a function's result: Lambda's error types, statuses, keys and texts.

Texts are part of the wire format: clients match on them (AWS's answers as observed, and the Lambda service model).
"""

import random

from forebay_common.auth_errors import AuthError
from forebay_common.function_errors import error_document
from forebay_common.lambda_errors import error_body
from forebay_gateway import counters

CONTENT_TYPE = (b"content-type", b"application/json")
REPLAYED = (b"idempotency-replayed", b"true")
"""The answer is that of a call before under the same idempotency key."""

RETRY_AFTER_S = 1
"""What a caller is told to wait when nothing better is known."""
AWAY_RETRY_AFTER_S = (1, 2, 3)
"""What callers are told while Redis is away, one of these: they do not all come back at once."""
_STATUS_UNAVAILABLE = 503


class Refusal(Exception):  # noqa: N818 - not an error of ours: the answer to a call that gave no result
    """A call that gets no result: HTTP `status`, Lambda's `error_type` and `message`, and what to count it as.

    `reason` is Lambda's throttle reason; `retry_after_s` goes into the `Retry-After` header unless it is 0.
    `may_run`: the call may have run, or run still. AWS clients send a call again after any 5xx, so to them this is
    answered as a function error (`function_error`), which they do not.
    """

    def __init__(
        self,
        status: int,
        error_type: str,
        message: str,
        outcome: str,
        *,
        reason: str = "",
        retry_after_s: int = 0,
        may_run: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type
        self.message = message
        self.outcome = outcome
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.may_run = may_run

    def function_error(self, request_id: str) -> bytes:
        """The body of a function error that says the same."""
        return error_document("Runtime.Unknown", f"RequestId: {request_id} Error: {self.message}")

    def body(self) -> bytes:
        """The JSON body, as Lambda shapes it."""
        return error_body(self.error_type, self.status, self.message, self.reason)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that belong to the error itself."""
        found = [CONTENT_TYPE, (b"x-amzn-errortype", self.error_type.encode())]
        if self.retry_after_s:
            found.append((b"retry-after", b"%d" % self.retry_after_s))
        return found


class ClientLeft(Exception):  # noqa: N818 - nobody is there to be told of an error
    """The client closed its connection before the answer was ready."""


def not_found(arn: str) -> Refusal:
    """No such function, or no such version of it; `arn` as called, with its qualifier if there was one."""
    return Refusal(404, "ResourceNotFoundException", f"Function not found: {arn}", counters.REJECTED)


def deleted(arn: str) -> Refusal:
    """The function was deleted before the call started."""
    return Refusal(404, "ResourceNotFoundException", f"Function not found: {arn}", counters.DELETED)


def validation(*failures: str) -> Refusal:
    """Members that break the service model; each failure as `Value '…' at '…' failed to satisfy constraint: …`."""
    noun = "error" if len(failures) == 1 else "errors"
    message = f"{len(failures)} validation {noun} detected: {'; '.join(failures)}"
    return Refusal(400, "ValidationException", message, counters.REJECTED)


def invalid_parameter(message: str) -> Refusal:
    """A member's value that does not fit the function or the other members."""
    return Refusal(400, "InvalidParameterValueException", message, counters.REJECTED)


def invalid_content(message: str) -> Refusal:
    """A body or client context that is not what Lambda takes."""
    return Refusal(400, "InvalidRequestContentException", message, counters.REJECTED)


def access_denied(message: str) -> Refusal:
    """The call names what its caller has no access to."""
    return Refusal(403, "AccessDeniedException", message, counters.REJECTED)


def unauthenticated(error: AuthError) -> Refusal:
    """The call's credential is missing or wrong, or not enough for the call."""
    retry_after_s = RETRY_AFTER_S if error.status == _STATUS_UNAVAILABLE else 0
    return Refusal(error.status, error.error_type, error.message, counters.REJECTED, retry_after_s=retry_after_s)


def body_timed_out() -> Refusal:
    """The request's body did not arrive in time."""
    return Refusal(408, "RequestTimeoutException", "The request body did not arrive in time", counters.REJECTED)


def too_large(size_bytes: int, invocation_type: str, limit_bytes: int) -> Refusal:
    """The payload is above the quota of its invocation type."""
    message = (
        f"{size_bytes} byte payload is too large for the {invocation_type} invocation type (limit {limit_bytes} bytes)"
    )
    return Refusal(413, "RequestTooLargeException", message, counters.REJECTED)


def too_large_unread(limit_bytes: int) -> Refusal:
    """The payload went above the limit while it was read; its whole size is not known."""
    message = f"Request must be smaller than {limit_bytes} bytes for the InvokeFunction operation"
    return Refusal(413, "RequestTooLargeException", message, counters.REJECTED)


def not_active(state: str) -> Refusal:
    """The function's state lets no call through."""
    message = (
        f"The operation cannot be performed at this time. The function is currently in the following state: {state}"
    )
    return Refusal(409, "ResourceConflictException", message, counters.REJECTED)


def throttled(reason: str) -> Refusal:
    """A bound is reached; nothing was done."""
    return Refusal(
        429,
        "TooManyRequestsException",
        "Rate Exceeded.",
        counters.THROTTLED,
        reason=reason,
        retry_after_s=RETRY_AFTER_S,
    )


def not_started() -> Refusal:
    """The caller's wait is over and no instance has taken the call; it will not run."""
    refusal = throttled("ConcurrentInvocationLimitExceeded")
    refusal.outcome = counters.NOT_STARTED
    return refusal


def wait_over() -> Refusal:
    """The caller's wait is over and the call may be running."""
    message = "The wait for this call is over. It had been handed to an instance and may still be running."
    return Refusal(504, "ServiceException", message, counters.WAIT_OVER, may_run=True)


def cannot_start(reason: str, retry_after_s: int) -> Refusal:
    """No instance of the function comes up; `reason` says why."""
    return Refusal(
        502, "ResourceNotReadyException", reason, counters.CANNOT_START, retry_after_s=max(retry_after_s, RETRY_AFTER_S)
    )


def unavailable(message: str) -> Refusal:
    """Redis is away; the message says what became of the call."""
    retry_after_s = random.choice(AWAY_RETRY_AFTER_S)  # noqa: S311 - spreads callers, no secret
    return Refusal(503, "ServiceException", message, counters.UNAVAILABLE, retry_after_s=retry_after_s)


def unconfirmed(message: str) -> Refusal:
    """Nobody can tell any more what became of a sync call; the message says why."""
    return Refusal(503, "ServiceException", message, counters.UNAVAILABLE, may_run=True)


def failed(message: str) -> Refusal:
    """The platform itself failed the call before it could run."""
    return Refusal(500, "ServiceException", message, counters.UNAVAILABLE)


def answer_lost(message: str) -> Refusal:
    """An instance has answered the call, and the answer cannot be had."""
    return Refusal(500, "ServiceException", message, counters.UNAVAILABLE, may_run=True)


def key_reused() -> Refusal:
    """The idempotency key stands for another request (422, as the IETF draft has it; Lambda has no such error)."""
    message = "This Idempotency-Key was used for another request of the function. Use a new key for a new request."
    return Refusal(422, "IdempotencyKeyReusedException", message, counters.REJECTED)


def still_running(request_id: str) -> Refusal:
    """The wait of a repeated call is over before the first one's end (409, as the IETF draft has it)."""
    message = f"The call {request_id}, accepted under the same Idempotency-Key, is still queued or running."
    return Refusal(409, "ResourceConflictException", message, counters.WAIT_OVER, retry_after_s=RETRY_AFTER_S)


def answer_not_kept(request_id: str) -> Refusal:
    """A repeated call has run, and its answer was too large to be kept; it is not run again."""
    message = f"The call {request_id}, accepted under the same Idempotency-Key, has run; its answer is not kept."
    return Refusal(409, "ResourceConflictException", message, counters.REPLAYED)
