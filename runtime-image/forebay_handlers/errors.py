"""Lambda's error documents, worded as the managed Python runtime words them (awslambdaric's texts).

Paths are shown under /var/task wherever the code lies, and only the user's own frames are shown.
"""

import json
import sys
import traceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Dict, List, Optional

    Document = Dict[str, Any]

SHOWN_ROOT = "/var/task"
LAYER_ROOT = "/opt/"
_OWN_ROOT = __file__.rpartition("/")[0] + "/"
"""The platform's own frames, which are nobody's business; in its image they lie under `LAYER_ROOT`."""
RESPONSE_MAX_BYTES = 6_291_556
"""Lambda's quota for a result (Lambda quotas; the same number as in the platform's limits)."""

OUT_OF_MEMORY = "Runtime.OutOfMemory"


class FaultError(Exception):
    """A failure that the runtime words, not the user's code: its type, message and stack lines."""

    def __init__(self, error_type: str, message: str, stack: "Optional[List[str]]" = None) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.message = message
        self.stack = stack or []


class ErrorWriter:
    """Makes error documents for one function. What it needs is bound at the start, before the user's code runs."""

    def __init__(self, task_root: str) -> None:
        self._roots = (task_root.rstrip("/") + "/", LAYER_ROOT)
        self._task_root = task_root.rstrip("/")
        self._encode = json.JSONEncoder(ensure_ascii=True).encode
        self._walk = traceback.walk_tb
        self._format = traceback.format_list
        self._extract = traceback.StackSummary.extract

    def of_fault(self, fault: FaultError, request_id: str) -> "Document":
        """The document of a failure that the runtime words."""
        return _document(fault.message, fault.error_type, request_id, fault.stack)

    def of_exception(self, error: BaseException, request_id: str) -> "Document":
        """The document of what the user's code raised."""
        return _document(text_of(error), type(error).__name__, request_id, self.stack_lines(error.__traceback__))

    def stack_lines(self, trace: "Optional[TracebackType]") -> "List[str]":
        """The user's frames: file, line and function, then a line break and the indented code."""
        frames = [
            (self.shown_path(frame.filename), frame.lineno or 0, frame.name, frame.line)
            for frame in self._extract(self._walk(trace))
            if frame.filename.startswith(self._roots) and not frame.filename.startswith(_OWN_ROOT)
        ]
        return self._format(frames)

    def shown_path(self, path: str) -> str:
        """The path as Lambda would show it."""
        if path.startswith(self._task_root + "/"):
            return SHOWN_ROOT + path[len(self._task_root) :]
        return path

    def encode(self, document: "Document") -> bytes:
        """The document as JSON; one that is above the quota is replaced by the error that says so."""
        data = self._encode(document).encode()
        return data if len(data) <= RESPONSE_MAX_BYTES else too_large(self._encode)


def too_large(encode: "Any") -> bytes:
    """The answer to a call whose result is above the quota."""
    text = f"Response payload size exceeded maximum allowed payload size ({RESPONSE_MAX_BYTES} bytes)."
    data: bytes = encode({"errorType": "Function.ResponseSizeTooLarge", "errorMessage": text}).encode()
    return data


def out_of_memory(request_id: str) -> bytes:
    """The answer to a call that went past the function's memory; made with as little memory as can be."""
    prefix = f"RequestId: {request_id} " if request_id else ""
    return (
        f'{{"errorType": "{OUT_OF_MEMORY}", '
        f'"errorMessage": "{prefix}Error: Runtime exited with error: signal: killed"}}'
    ).encode()


def log_lines(document: "Document") -> str:
    """An error as Lambda writes it to the function's log; what has no UTF-8 (a lone surrogate) as its escape."""
    lines = [f"[ERROR] {document['errorType']}: {document['errorMessage']}"]
    if document["stackTrace"]:
        lines.append("Traceback (most recent call last):")
        lines.extend(line.rstrip("\n") for line in document["stackTrace"])
    return "\n".join(lines).encode("utf-8", "backslashreplace").decode() + "\n"


def text_of(error: BaseException) -> str:
    """`str(error)`, also when the user's own `__str__` fails."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - whatever a user's method raises
        return f"<unprintable {type(error).__name__} object>"


def exit_status(error: SystemExit) -> int:
    """The status that Python ends with for a SystemExit; a message goes to standard error, as Python does."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    sys.stderr.write(f"{error.code}\n")
    return 1


def _document(message: str, error_type: str, request_id: str, stack: "List[str]") -> "Document":
    return {"errorMessage": message, "errorType": error_type, "requestId": request_id, "stackTrace": stack}
