"""A function's log: lines from handler processes and Lambda's own, as JSON lines."""

from __future__ import annotations

import os
import time

from forebay_common.limits import LOG_TAIL_MAX_BYTES, MIB
from forebay_common.pod_layout import STANDARD_OUTPUT
from forebay_runtime.console import iso_time
from forebay_runtime.lean import quote
from forebay_runtime.log_sink import LogFile, StandardOutput
from forebay_runtime.loop import NEVER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from forebay_runtime.console import Console
    from forebay_runtime.leases import Call
    from forebay_runtime.loop import Loop

LINE_MAX_BYTES = 256 * 1024  # CloudWatch's bound for one event; a longer line becomes several
_READ_BYTES = 64 * 1024
_READ_MAX_BYTES = 4 * MIB  # in one go, so that a handler that floods its log stalls nobody else
_BUFFER_MAX_BYTES = 256 * 1024
_WAIT_S = 0.02


class LogBook:
    """Writes a file, or standard output, once per turn. A place that takes no more loses lines, never calls."""

    def __init__(self, loop: Loop, path: str, function: str, instance: str, console: Console) -> None:
        self._loop = loop
        self._console = console
        self._timer = loop.timer(self._on_timer)
        self._urgent = False
        self._who = f'","function":{quote(function)},"instance":{quote(instance)},"invocation_id":"'
        self._lines: list[str] = []
        self._start = ""
        self._stamped_at = -1.0
        self._bytes = 0
        self._lost = 0
        self._sink = StandardOutput(loop) if path == STANDARD_OUTPUT else LogFile(path)

    def line(self, message: str, invocation_id: str = "", *, may_wait: bool = False) -> None:
        """One line, in the name of a call when there is one; with `may_wait` for the next line, but not for long."""
        # Lines of one turn are of one moment: the clock is read once for them.
        if self._stamped_at != self._loop.now:
            self._stamped_at = self._loop.now
            self._start = f'{{"time":"{iso_time(time.time())}{self._who}'
        line = f'{self._start}{invocation_id}","message":{quote(message)}}}\n'
        self._lines.append(line)
        self._bytes += len(line)
        if not may_wait or self._bytes > _BUFFER_MAX_BYTES:
            self._urgent = True
        elif self._timer.when == NEVER:
            self._timer.set(self._loop.now + _WAIT_S)
        if self._bytes > _BUFFER_MAX_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what has come since the last time, unless all of it may wait."""
        if not self._urgent:
            return
        self._urgent = False
        self._timer.clear()
        data = "".join(self._lines).encode()
        self._lines.clear()
        self._bytes = 0
        try:
            whole = self._sink.write(data)
        except OSError as error:
            if not self._lost:
                self._console.error(f"the function's log cannot be written: {error}")
            self._lost += 1
            return
        if not whole:
            self._lost += 1
        elif self._lost:
            self._console.warning(f"the function's log is written again; {self._lost} pieces were lost")
            self._lost = 0

    def close(self) -> None:
        """Write what is left; for the end of the process."""
        self._urgent = bool(self._lines)
        self.flush()
        self._sink.close()

    def _on_timer(self) -> None:
        self._urgent = True


class LogTail:
    """The last `LOG_TAIL_MAX_BYTES` of one call's log, counted in bytes."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = bytearray()

    def add(self, data: bytes) -> None:
        """Append."""
        self._data += data
        if len(self._data) > 4 * LOG_TAIL_MAX_BYTES:
            del self._data[:-LOG_TAIL_MAX_BYTES]

    def value(self) -> bytes:
        """The tail."""
        return bytes(self._data[-LOG_TAIL_MAX_BYTES:])


class LogPipe:
    """The read end of one handler process's output.

    A daemon that the handler left behind may hold the other end for ever, so nobody waits for its end of file.
    """

    __slots__ = ("_book", "_partial", "fd")

    def __init__(self, book: LogBook, fd: int) -> None:
        os.set_blocking(fd, False)
        self._book = book
        self.fd = fd
        self._partial = b""

    def read(self, call: Call | None) -> int:
        """Take what is there and write it in the call's name; gives how many bytes there were, -1 at the end."""
        total = 0
        while total < _READ_MAX_BYTES:
            try:
                data = os.read(self.fd, _READ_BYTES)
            except (BlockingIOError, InterruptedError):
                return total
            except OSError:
                return -1
            if not data:
                return total or -1
            total += len(data)
            self._take(data, call)
            if len(data) < _READ_BYTES:
                return total
        return total

    def end_line(self, call: Call | None) -> None:
        """A call has ended: what it wrote last is a line even without its newline."""
        if self._partial:
            partial, self._partial = self._partial, b""
            if call is not None and call.tail is not None:
                call.tail.add(b"\n")
            self._write(partial, call)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)

    def _take(self, data: bytes, call: Call | None) -> None:
        if call is not None and call.tail is not None:
            call.tail.add(data)
        if self._partial:
            data = self._partial + data
        lines = data.split(b"\n")
        self._partial = lines.pop()
        for line in lines:
            self._write(line, call)
        while len(self._partial) > LINE_MAX_BYTES:
            self._write(self._partial[:LINE_MAX_BYTES], call)
            self._partial = self._partial[LINE_MAX_BYTES:]

    def _write(self, line: bytes, call: Call | None) -> None:
        self._book.line(line.decode("utf-8", "replace"), call.request_id if call is not None else "")
