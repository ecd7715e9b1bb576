"""Lambda's own lines in a function's log (pure texts)."""

from __future__ import annotations

from forebay_runtime.console import iso_time


def init_start(runtime: str, function_arn: str) -> str:
    """Before a handler process is started; the runtime's ARN is of the function's region, as on Lambda."""
    region = function_arn.split(":")[3]
    name = runtime.replace("python", "python:") if runtime.startswith("python") else runtime
    return f"INIT_START Runtime Version: {name}\tRuntime Version ARN: arn:aws:lambda:{region}::runtime:{name}"


def start(request_id: str, version: str) -> str:
    """When a handler process gets the event."""
    return f"START RequestId: {request_id} Version: {version}"


def end(request_id: str) -> str:
    """After the last line of a call."""
    return f"END RequestId: {request_id}"


def report(request_id: str, duration_us: int, memory_mb: int, max_rss_kib: int, init_us: int, status: str = "") -> str:
    """The last line of a call; `init_us` is 0 when the handler was initialised before, `status` e.g. `timeout`."""
    billed_ms = -(-duration_us // 1000)
    init = f"Init Duration: {init_us / 1000:.2f} ms\t" if init_us else ""
    state = f"Status: {status}\t" if status else ""
    return (
        f"REPORT RequestId: {request_id}\tDuration: {duration_us / 1000:.2f} ms\tBilled Duration: {billed_ms} ms\t"
        f"Memory Size: {memory_mb} MB\tMax Memory Used: {-(-max_rss_kib // 1024)} MB\t{init}{state}"
    )


def timed_out(request_id: str, timeout_ms: int, now_s: float) -> str:
    """In the log of a call that was ended at its deadline."""
    return f"{iso_time(now_s)} {request_id} Task timed out after {timeout_ms / 1000:.2f} seconds"


def cancelled(request_id: str, now_s: float) -> str:
    """In the log of a call that was cancelled while it ran."""
    return f"{iso_time(now_s)} {request_id} Task was cancelled"


def init_report(init_us: int, status: str) -> str:
    """After an init that failed (`error`) or took too long (`timeout`)."""
    return f"INIT_REPORT Init Duration: {init_us / 1000:.2f} ms\tPhase: init\tStatus: {status}"
