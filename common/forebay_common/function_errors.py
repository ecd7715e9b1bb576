"""Lambda's error documents, as the platform writes them when the handler itself could not.

Texts are part of the wire format: clients match on them (AWS Lambda, "Runtime errors" and observed answers).
"""

from json import dumps


def error_document(error_type: str, message: str, request_id: str | None = None) -> bytes:
    """A function error's JSON body; `requestId` and `stackTrace` only when a request id is given."""
    document: dict[str, object] = {"errorType": error_type, "errorMessage": message}
    if request_id is not None:
        document["requestId"] = request_id
        document["stackTrace"] = []
    return dumps(document).encode()


def timed_out(request_id: str, timeout_ms: int) -> bytes:
    """The answer to a call whose handler process was killed at its deadline."""
    return error_document(
        "Sandbox.Timedout",
        f"RequestId: {request_id} Error: Task timed out after {timeout_ms / 1000:.2f} seconds",
    )


def cancelled(request_id: str) -> bytes:
    """The answer to a call that was cancelled while it ran; Lambda has none, so these words are ours."""
    return error_document("Sandbox.Cancelled", f"RequestId: {request_id} Error: Task was cancelled")


def exited(request_id: str, wait_status: int | None) -> bytes:
    """The answer to a call whose handler process went away; `wait_status` as `os.waitpid` gives it, or None."""
    text = "Runtime exited without providing a reason"
    if wait_status is not None and wait_status != 0:
        number = wait_status & 0x7F
        how = f"signal: {_SIGNALS.get(number, number)}" if number else f"exit status {wait_status >> 8}"
        text = f"Runtime exited with error: {how}"
    return error_document("Runtime.ExitError", f"RequestId: {request_id} Error: {text}")


def out_of_memory(request_id: str) -> bytes:
    """The answer to a call that went past the function's memory."""
    return error_document(
        "Runtime.OutOfMemory", f"RequestId: {request_id} Error: Runtime exited with error: signal: killed"
    )


def response_too_large(limit: int) -> bytes:
    """The answer to a call whose result is above the quota."""
    return error_document(
        "Function.ResponseSizeTooLarge",
        f"Response payload size exceeded maximum allowed payload size ({limit} bytes).",
    )


def instance_lost(request_id: str, instance_id: str) -> bytes:
    """The answer to a sync call whose instance died while it held the call."""
    return error_document(
        "Runtime.ExitError",
        f"RequestId: {request_id} Error: Instance {instance_id} died while it held this call; it may have run",
    )


_SIGNALS = {
    1: "hangup",
    2: "interrupt",
    3: "quit",
    4: "illegal instruction",
    6: "aborted",
    7: "bus error",
    8: "floating point exception",
    9: "killed",
    11: "segmentation fault",
    13: "broken pipe",
    15: "terminated",
}
"""Signal names as Lambda words them (Go's own texts)."""
