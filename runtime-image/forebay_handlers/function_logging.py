"""Standard streams and the root logging handler of a handler process, as on Lambda."""

import io
import logging
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

LINE_FORMAT = "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s\n"
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S"


class CurrentCall:
    """The request id that log lines carry; "" outside of a call."""

    __slots__ = ("request_id",)

    def __init__(self) -> None:
        self.request_id = ""


class LambdaLoggerHandler(logging.Handler):
    """Writes records to the function's log with the current call's request id."""

    def __init__(self, stream: "TextIO", call: CurrentCall) -> None:
        super().__init__()
        self._stream = stream
        self._call = call
        formatter = logging.Formatter(LINE_FORMAT, TIME_FORMAT)
        formatter.converter = time.gmtime
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; a stream that the user has closed is logging's own affair."""
        try:
            record.aws_request_id = self._call.request_id
            self._stream.write(self.format(record))
            self._stream.flush()
        except Exception:  # noqa: BLE001 - logging's contract: a handler reports and never raises
            self.handleError(record)


def open_streams() -> "TextIO":
    """Make sys.stdin, stdout and stderr anew on descriptors 0 to 2, written out at each line; returns stdout."""
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, "r", closefd=False)), encoding="utf-8")
    sys.stdout = _line_stream(1, "strict")
    sys.stderr = _line_stream(2, "backslashreplace")
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
    return sys.stdout


def set_up_logging(stream: "TextIO", call: CurrentCall, level: str) -> None:
    """Give the root logger Lambda's handler. `level` is AWS_LAMBDA_LOG_LEVEL; unknown ones change nothing."""
    root = logging.getLogger()
    root.addHandler(LambdaLoggerHandler(stream, call))
    if isinstance(logging.getLevelName(level), int):
        root.setLevel(level)


def _line_stream(descriptor: int, errors: str) -> io.TextIOWrapper:
    raw = io.FileIO(descriptor, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors=errors, line_buffering=True)
