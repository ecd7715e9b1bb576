"""Structured logs: one JSON object a line on stderr, the same in the gateway, the controller and the CLI's supervisor.

The runtime does not use this module: it writes its function's log, and `logging` is too slow for a cold start.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""Attributes every log record has; the others came through `extra`."""


class JsonFormatter(logging.Formatter):
    """A log record as one line of JSON: time, level, component, logger, message, then the fields of `extra`.

    An exception's text is in `exception`. A value that JSON does not know appears as its `str`.
    """

    def __init__(self, component: str) -> None:
        super().__init__()
        self._component = component

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its newline."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "component": self._component,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in vars(record).items():
            if name not in _STANDARD and name not in line:
                line[name] = value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=_text, ensure_ascii=False)


def configure(component: str, level: str = "info", stream: TextIO | None = None) -> None:
    """Send every log of this process to `stream` (stderr) as JSON lines, from `level` on.

    Replaces handlers that were set before, so that a library's own ones do not double a line. Raises ValueError
    for a level that does not exist.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(component))
    root = logging.getLogger()
    root.setLevel(level.upper())
    root.handlers[:] = [handler]
    logging.captureWarnings(capture=True)


def get(name: str) -> logging.Logger:
    """The logger of a module; pass `extra={"invocation_id": …, "function": …, "instance": …}` where they are known."""
    return logging.getLogger(name)


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
