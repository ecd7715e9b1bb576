"""Where a function's log goes: a file, or the container's standard output. Neither ever stops calls."""

from __future__ import annotations

import fcntl
import os
import select
from time import monotonic

from forebay_common.limits import MIB
from forebay_runtime.loop import WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from forebay_runtime.loop import Loop

STDOUT = 1
PIPE_BYTES = MIB
"""What the kernel lets anybody ask for (fs.pipe-max-size)."""
WAITING_MAX_BYTES = 4 * MIB
LAST_WAIT_S = 1.0


class LogFile:
    """A file, written at once. Appending: whoever bounds it truncates it, and writing goes on at its new end."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def write(self, data: bytes) -> bool:
        """Write; False when the disk is full: the last line is cut, which a reader of JSON lines passes over.

        Raises OSError.
        """
        return os.write(self._fd, data) == len(data)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class StandardOutput:
    """A pipe to the container's log, whose reader may be slow: what it does not take at once waits, bounded."""

    def __init__(self, loop: Loop, fd: int = STDOUT) -> None:
        self._loop = loop
        # A descriptor of its own: by its path (/dev/stdout) it belongs to root and cannot be opened.
        self._fd = os.dup(fd)
        os.set_blocking(self._fd, False)
        _enlarge(self._fd)
        self._waiting = bytearray()

    def write(self, data: bytes) -> bool:
        """Write now or later; False when too much waits already, and this is lost. Raises OSError."""
        if self._waiting:
            if len(self._waiting) + len(data) > WAITING_MAX_BYTES:
                return False
            self._waiting += data
            return True
        written = self._write(data)
        if written < len(data):
            self._waiting += data[written:]
            self._loop.watch(self._fd, self._on_room, WRITE)
        return True

    def close(self) -> None:
        """Write the rest, but not for long, and close."""
        deadline = monotonic() + LAST_WAIT_S
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while self._waiting and monotonic() < deadline:
            poll.poll(100)
            del self._waiting[: self._write(self._waiting)]
        self._loop.unwatch(self._fd)
        os.close(self._fd)

    def _on_room(self, _: int) -> None:
        try:
            del self._waiting[: self._write(self._waiting)]
        except OSError:
            # Nobody reads it any more; the next line says so.
            self._waiting.clear()
        if not self._waiting:
            self._loop.unwatch(self._fd)

    def _write(self, data: bytes | bytearray) -> int:
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            return 0


def _enlarge(fd: int) -> None:
    try:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except OSError:
        # No pipe, or its user has too many: then it holds what it holds.
        return
