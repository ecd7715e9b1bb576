"""The runtime's own log: JSON lines on stderr, in the shape of `forebay_common.logs` but without its `logging`."""

from __future__ import annotations

import os
import time

from forebay_runtime.lean import quote

_STDERR = 2


class Console:
    """Writes lines that name their function and instance."""

    def __init__(self, function: str, instance: str) -> None:
        self._who = f'"function": {quote(function)}, "instance": {quote(instance)}'

    def info(self, message: str, invocation_id: str = "") -> None:
        """Something that people may want to know."""
        self._write("info", message, invocation_id)

    def warning(self, message: str, invocation_id: str = "") -> None:
        """Something that went wrong and is dealt with."""
        self._write("warning", message, invocation_id)

    def error(self, message: str, invocation_id: str = "") -> None:
        """Something that ends the instance or loses a log line."""
        self._write("error", message, invocation_id)

    def _write(self, level: str, message: str, invocation_id: str) -> None:
        about = f', "invocation_id": {quote(invocation_id)}' if invocation_id else ""
        line = (
            f'{{"time": "{iso_time(time.time())}", "level": "{level}", "component": "runtime", '
            f'"message": {quote(message)}, {self._who}{about}}}\n'
        )
        try:
            os.write(_STDERR, line.encode())
        except OSError:
            # Nobody reads it any more: that must not stop calls.
            return


_last_ms = -1
_last_text = ""


def iso_time(now_s: float) -> str:
    """A Unix time as Lambda's logs write it: `2026-01-31T12:00:00.123Z`."""
    # The lines of a batch fall into one millisecond, and formatting it is most of a line's cost.
    global _last_ms, _last_text  # noqa: PLW0603
    now_ms = int(now_s * 1000)
    if now_ms != _last_ms:
        second, rest = divmod(now_ms, 1000)
        _last_text = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(second))}.{rest:03d}Z"
        _last_ms = now_ms
    return _last_text
