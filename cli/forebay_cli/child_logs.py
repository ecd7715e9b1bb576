"""What the children write on stderr: kept whole in files, and shown as one readable line when it matters."""

import asyncio
import json
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

FILE_MAX_BYTES = 16 * 1024 * 1024
LINE_MAX_BYTES = 1024 * 1024
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
HIDDEN = frozenset({"time", "ts", "timestamp", "level", "component", "logger", "message", "msg", "exception", "pid"})
REMEMBERED_LINES = 20

Say = Callable[[str], None]
"""Shows one line to people."""


def readable(name: str, line: str, at_least: int) -> str | None:
    """One log line for people, or None when it is below the level `at_least` (10 debug … 50 critical).

    A line that is no JSON object (an interpreter's own last words) is always shown.
    """
    document = _parse(line)
    if document is None:
        return f"{name}: {line}" if line.strip() else None
    level = str(document.get("level", "info")).lower()
    if LEVELS.get(level, 20) < at_least:
        return None
    extra = " ".join(f"{key}={value}" for key, value in document.items() if key not in HIDDEN and value is not None)
    message = " ".join(str(document.get("message", "")).split())
    # Of a stack trace the last line says what it was; the rest is in the file.
    cause = str(document.get("exception", "")).rstrip().rpartition("\n")[2]
    return f"{name} {level}: {message}{f': {cause}' if cause else ''}{f' ({extra})' if extra else ''}"


def _parse(line: str) -> dict[str, Any] | None:
    try:
        document = json.loads(line)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


class LogFile:
    """An append-only file with one predecessor (`NAME.1`), together at most twice `FILE_MAX_BYTES`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)

    def write(self, line: bytes) -> None:
        """Append, after moving a full file out of the way."""
        if os.fstat(self._file.fileno()).st_size + len(line) > FILE_MAX_BYTES:
            self._file.close()
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            self._file = self._path.open("ab", buffering=0)
        self._file.write(line)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class ChildLog:
    """One child's log, over all its lives. `last` holds its newest lines, for the story of a failed start."""

    def __init__(self, name: str, path: Path, show: int | None) -> None:
        self.name = name
        self.path = path
        self.last: deque[str] = deque(maxlen=REMEMBERED_LINES)
        self._show = show
        self._last_shown = ""
        self._file = LogFile(path)

    async def pump(self, pipe: IO[bytes], say: Say) -> None:
        """Read a child's stderr to its end."""
        reader = asyncio.StreamReader(limit=LINE_MAX_BYTES)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            while line := await _line(reader):
                self._take(line, say)
        finally:
            transport.close()

    def _take(self, line: bytes, say: Say) -> None:
        self._file.write(line)
        text = line.decode(errors="replace").rstrip("\n")
        self.last.append(text)
        shown = None if self._show is None else readable(self.name, text, self._show)
        if shown and shown != self._last_shown:  # what repeats itself is said once
            self._last_shown = shown
            say(shown)

    def story(self) -> str:
        """The last warning or plain line, for a one-line error."""
        for line in reversed(self.last):
            if shown := readable(self.name, line, LEVELS["warning"]):
                return shown.partition(": ")[2]
        return f"its log is {self.path}"

    def close(self) -> None:
        """Close the file."""
        self._file.close()


async def _line(reader: asyncio.StreamReader) -> bytes:
    """The next line, or b"" at the end; one beyond `LINE_MAX_BYTES` comes in pieces."""
    try:
        return await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError as error:
        return await reader.readexactly(error.consumed)
