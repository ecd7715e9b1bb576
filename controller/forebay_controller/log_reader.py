"""Functions' logs on one machine: the last lines of all instances' files together, and the lines that come.

A file is one instance's, appended to, one JSON object a line with a `time` that sorts as text.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from watchfiles import awatch

from forebay_common import limits
from forebay_common.spec import FunctionSpec
from forebay_controller.logs_text import merged

_BLOCK_BYTES = 64 * limits.KIB
_TAIL_MAX_BYTES = 16 * limits.MIB
"""How far back one file is read for its last lines, however long they are."""
_READ_MAX_BYTES = limits.MIB
_LOOK_AGAIN_MS = 1_000
"""A change that fell between two watches is seen this much later."""
_DEBOUNCE_MS = 100
_STEP_MS = 20


@dataclass(slots=True)
class LogPosition:
    """How far each file of a folder was read, in bytes, always at the end of a line."""

    offsets: dict[Path, int] = field(default_factory=dict)


class LogFiles:
    """The logs below a folder that holds one for each function; implements `LogSource`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def tail(self, spec: FunctionSpec, lines: int) -> list[bytes]:
        """The last lines of a function's log."""
        last, _ = await asyncio.to_thread(tail, self._folder / spec.name, lines)
        return last

    async def follow(self, spec: FunctionSpec, lines: int) -> AsyncGenerator[list[bytes], None]:
        """The last lines, then those that come."""
        folder = self._folder / spec.name
        last, position = await asyncio.to_thread(tail, folder, lines)
        yield last
        async with aclosing(follow(folder, position)) as arriving:
            async for new in arriving:
                yield new


def tail(folder: Path, lines: int) -> tuple[list[bytes], LogPosition]:
    """The last `lines` lines of all files in a function's folder by time, and the position after them."""
    position = LogPosition()
    found: list[list[bytes]] = []
    for path in _files(folder):
        last, end = _tail_file(path, lines)
        position.offsets[path] = end
        found.append(last)
    together = merged(found)
    return together[-lines:] if lines else [], position


def read_new(folder: Path, position: LogPosition) -> list[bytes]:
    """The whole lines written since `position`, which moves on; at most a bounded part of each file."""
    found: list[list[bytes]] = []
    files = _files(folder)
    for path in files:
        lines, end = _read_on(path, position.offsets.get(path, 0))
        position.offsets[path] = end
        found.append(lines)
    for gone in position.offsets.keys() - set(files):
        del position.offsets[gone]
    return merged(found)


async def follow(folder: Path, position: LogPosition) -> AsyncGenerator[list[bytes], None]:
    """The lines that come after `position`, as they come; endless. Makes the folder when it is not there yet.

    Gives an empty list now and then, so that whoever reads can stop.
    """
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    changes = awatch(
        folder,
        debounce=_DEBOUNCE_MS,
        step=_STEP_MS,
        rust_timeout=_LOOK_AGAIN_MS,
        yield_on_timeout=True,
        recursive=False,
    )
    async for _ in changes:
        while lines := await asyncio.to_thread(read_new, folder, position):
            yield lines
        yield []


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.log"))


def _tail_file(path: Path, lines: int) -> tuple[list[bytes], int]:
    try:
        with path.open("rb") as file:
            start = end = file.seek(0, 2)
            data = b""
            size = _BLOCK_BYTES
            while start > 0 and data.count(b"\n") <= lines and len(data) < _TAIL_MAX_BYTES:
                # Doubled each time: most tails are short, and a long one is not copied once for each block.
                size = min(2 * size, start)
                start = file.seek(start - size)
                data = file.read(size) + data
    except FileNotFoundError:
        return [], 0  # an old file was removed meanwhile
    whole, _, unfinished = data.rpartition(b"\n")
    found = whole.split(b"\n") if whole else []
    if start > 0 and found:
        del found[0]  # its beginning lies before the block
    return found[-lines:] if lines else [], end - len(unfinished)


def _read_on(path: Path, offset: int) -> tuple[list[bytes], int]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            # A shorter file is another one under the same name.
            offset = offset if offset <= size else 0
            file.seek(offset)
            data = file.read(_READ_MAX_BYTES)
    except FileNotFoundError:
        return [], offset
    whole, newline, _ = data.rpartition(b"\n")
    if not newline and len(data) == _READ_MAX_BYTES:
        return [data], offset + len(data)  # a line without an end: in pieces
    return whole.split(b"\n") if newline else [], offset + len(whole) + len(newline)
