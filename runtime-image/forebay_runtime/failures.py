"""Lambda's error documents, loaded when the first one is needed: they bring json, a quarter of a cold start."""

from __future__ import annotations

_SUMMARY_MAX_CHARS = 400

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from forebay_runtime.leases import Call

    Failure = Callable[[str], bytes]
    """The document for a request id."""


def exited(status: int | None) -> Failure:
    """A handler process that went away; `status` as `os.waitpid` gives it, None when nobody knows."""

    def document(request_id: str) -> bytes:
        from forebay_common import function_errors  # noqa: PLC0415 - see the module's docstring

        return function_errors.exited(request_id, status)

    return document


def init_timed_out(limit_ms: int) -> Failure:
    """An init that took longer than it may."""

    def document(request_id: str) -> bytes:
        from forebay_common import function_errors  # noqa: PLC0415 - see the module's docstring

        return function_errors.timed_out(request_id, limit_ms)

    return document


def timed_out(call: Call) -> bytes:
    """A call that was ended at its deadline."""
    from forebay_common import function_errors  # noqa: PLC0415 - see the module's docstring

    return function_errors.timed_out(call.request_id, call.record.timeout_ms)


def cancelled(call: Call) -> bytes:
    """A call that was cancelled while it ran."""
    from forebay_common import function_errors  # noqa: PLC0415 - see the module's docstring

    return function_errors.cancelled(call.request_id)


def too_large(limit: int) -> bytes:
    """A result above the quota."""
    from forebay_common import function_errors  # noqa: PLC0415 - see the module's docstring

    return function_errors.response_too_large(limit)


def message_of(document: bytes) -> str:
    """The text of a document made here."""
    from json import loads  # noqa: PLC0415 - see the module's docstring

    text: str = loads(document)["errorMessage"]
    return text


def summary_of(document: bytes) -> str:
    """An error document in a line, for people; its own bytes when a program wrote something else."""
    from json import loads  # noqa: PLC0415 - see the module's docstring

    try:
        read = loads(document)
        # Lambda's own texts begin with the request's id; here there is none.
        message = read["errorMessage"].removeprefix("RequestId:  Error: ")
        return f"{read['errorType']}: {message}"[:_SUMMARY_MAX_CHARS]
    except (ValueError, KeyError, TypeError, AttributeError):
        return document[:_SUMMARY_MAX_CHARS].decode("utf-8", "replace")
