"""The work of `forebay invocation`."""

from __future__ import annotations

import base64
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from forebay_cli.client import BusyError
from forebay_cli.output import Output, note, show_json, show_table

if TYPE_CHECKING:
    from forebay_cli.client import Client

WAIT_S = 30.0
"""What one request waits at most, by the platform's rule."""
AWAY_MAX_S = 60.0
"""How long a wait goes on while the platform cannot be asked: a controller is replaced in less."""
AGAIN_S = 1.0
ENDED = ("succeeded", "failed", "cancelled")
NOT_ENDED = 3
"""The exit code of what is still under way."""


def show(client: Client, invocation_id: str, output: Output) -> None:
    """An event as it is now."""
    found = client.invocation(invocation_id)
    if output is Output.JSON:
        show_json(found)
        return
    show_table(
        ("FIELD", "VALUE"), [(name, _text(value)) for name, value in found.items() if value not in (None, "", False)]
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def wait(client: Client, invocation_id: str, timeout_s: float | None) -> int:
    """Wait for an event's end, result on stdout. Returns the exit code."""
    started_s = reached_s = time.monotonic()
    while True:
        now_s = time.monotonic()
        left_s = WAIT_S if timeout_s is None else max(started_s + timeout_s - now_s, 0.0)
        try:
            found = client.invocation(invocation_id, min(left_s, WAIT_S))
        except BusyError:
            # Too many wait, or the controller is being replaced: neither says anything about the event.
            if now_s - reached_s > AWAY_MAX_S or left_s == 0:
                raise
            time.sleep(min(AGAIN_S, left_s))
            continue
        reached_s = time.monotonic()
        if found["status"] in ENDED:
            return _tell_end(found)
        if timeout_s is not None and reached_s - started_s >= timeout_s:
            note(f"it is {_where(found)} after {timeout_s:g} s: `forebay invocation wait {invocation_id}` goes on")
            return NOT_ENDED


def _where(found: dict[str, Any]) -> str:
    if found["status"] == "delayed":
        return f"delayed until {found['next_attempt_at']} (attempts so far: {found['attempts']})"
    return str(found["status"])


def _tell_end(found: dict[str, Any]) -> int:
    """What an event ended with. Returns the exit code: 1 when it did not succeed."""
    if found["status"] == "succeeded":
        if found["payload_omitted"]:
            note("it succeeded; its result was above 64 KiB and is not kept")
        elif found["result_base64"] is not None:
            _write(base64.b64decode(found["result_base64"]))
        else:
            _write(_json(found["result"]))
        return 0
    if found["error"] is not None:
        _write(_json(found["error"]))
    reason = f" ({found['reason']})" if found["reason"] else ""
    note(f"{found['function']}: the event {_ENDS[found['status']]}{reason}, attempts: {found['attempts']}")
    return 1


_ENDS = {"failed": "failed", "cancelled": "was cancelled"}


def _json(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a lone surrogate, which only its escape can say
        return json.dumps(value).encode()


def _write(data: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(data + b"\n")
    sys.stdout.buffer.flush()


def cancel(client: Client, invocation_id: str) -> int:
    """Call an event off. Returns the exit code."""
    found = client.cancel_invocation(invocation_id)
    if found["status"] == "cancelled":
        note(f"cancelled, attempts: {found['attempts']}" if found["attempts"] else "cancelled: it never ran")
        return 0
    note(
        f"it is still {found['status']}: its instance has been told, and does not end it yet. "
        f"`forebay invocation wait {invocation_id}` waits for its end"
    )
    return NOT_ENDED
