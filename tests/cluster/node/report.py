"""What a person sees: progress lines, and errors that say what to do."""

import sys
import time
from collections.abc import Callable


class NodeError(Exception):
    """The node cannot be had; the message says what is wrong and what to do, in one line or with a log's end."""


def to_stderr(line: str) -> None:
    """Write one line where it is seen at once."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


class Progress:
    """Says each step with the seconds since the beginning."""

    def __init__(self, write: Callable[[str], None] = to_stderr) -> None:
        self._write = write
        self._began = time.monotonic()

    def step(self, text: str) -> None:
        """Say that a step begins, or that the whole is done."""
        self._write(f"[{time.monotonic() - self._began:6.1f} s] {text}")
