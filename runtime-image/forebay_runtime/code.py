"""The function's code: fetched from Redis in chunks, verified whole, unpacked where the handlers see it.

Instances of one machine share the folder. One of them unpacks, under a lock; the marker beside the folder says that
it is complete, so a folder without it is emptied and unpacked again. A pod's folder is its own, a volume beside which
nothing can be written, and needs neither.
"""

from __future__ import annotations

import fcntl
import os

from hiredis import ReplyError

from forebay_common.limits import CODE_CHUNK_BYTES, ZIP_MAX_BYTES
from forebay_runtime.loop import NEVER
from forebay_runtime.redis_faults import passes
from forebay_runtime.redis_wire import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from forebay_common.keys import FunctionKeys
    from forebay_runtime.loop import Loop
    from forebay_runtime.redis_wire import Link

LOCK_RETRY_S = 0.02
RETRY_PAUSE_S = 0.25
_WINDOW_CHUNKS = 4


class CodeError(Exception):
    """The code cannot be had; the message is for people."""


class CodeFetch:
    """Gets the code into `folder`, then calls `on_ready()`, or `on_error(reason)` once.

    `start` looks at the folder alone; `fetch` needs a connection.
    """

    def __init__(
        self,
        loop: Loop,
        keys: FunctionKeys,
        sha256: str,
        size: int,
        folder: str,
        *,
        shared: bool,
        on_ready: Callable[[], None],
        on_error: Callable[[str], None],
    ) -> None:
        self._keys = keys
        self._sha256 = sha256
        self._size = size
        self._folder = folder
        self._shared = shared
        self._marker = f"{folder}.complete"
        self._on_ready = on_ready
        self._on_error = on_error
        self._timer = loop.timer(self._lock_and_look)
        self._pause_timer = loop.timer(_nothing)
        self._loop = loop
        self._lock = -1
        self._file = -1
        self._chunks = -(-size // CODE_CHUNK_BYTES)
        self._asked = 0
        self._got = 0
        self._attempt = 0
        self._link: Link | None = None
        self._fetching = False
        self.wanted = False
        """Whether the code must be fetched: call `fetch` while there is a connection."""

    def start(self) -> None:
        """See whether the code is there already."""
        if self._shared and os.path.exists(self._marker):
            self._on_ready()
            return
        if self._size > ZIP_MAX_BYTES:
            self._on_error(f"the code is {self._size} bytes long, {ZIP_MAX_BYTES} are allowed")
            return
        os.makedirs(self._folder, exist_ok=True)
        if not self._shared:
            self._make_file(f"{self._folder}/.package.zip")
            return
        # Kept open without the lock while another instance unpacks.
        self._lock = os.open(f"{self._folder}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._lock_and_look()

    def fetch(self, link: Link) -> None:
        """Ask for the chunks, a few at a time, so that other commands of this connection are not held up.

        Does nothing while it is under way; begins anew after the connection was lost.
        """
        if self._fetching or not link.up or self._pause_timer.when != NEVER:
            return
        self._fetching = True
        self._link = link
        self._attempt += 1
        self._asked = self._got = 0
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        self._ask()

    def _lock_and_look(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Another instance unpacks; a lock tells nobody when it is free.
            self._timer.set(self._loop.now + LOCK_RETRY_S)
            return
        if os.path.exists(self._marker):
            self._close()
            self._on_ready()
            return
        self._make_file(f"{self._folder}.zip")

    def _make_file(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.unlink(path)
        self.wanted = True

    def _ask(self) -> None:
        if self._link is None or not self._link.up:
            return
        while self._asked < self._chunks and self._asked - self._got < _WINDOW_CHUNKS:
            self._ask_for(self._link, self._asked)
            self._asked += 1
        if not self._chunks:
            self._unpack()

    def _ask_for(self, link: Link, number: int) -> None:
        attempt = self._attempt

        def on_reply(replies: list[Any] | None) -> None:
            # What was asked for beside a refused chunk still comes, and counts for nothing.
            if attempt == self._attempt:
                self._on_chunk(replies)

        link.send(command(("GET", self._keys.code(self._sha256, number))), 1, on_reply)

    def _on_chunk(self, replies: list[Any] | None) -> None:
        if replies is None:
            self._fetching = False
            return
        if self._file < 0 or not self._fetching:
            return
        chunk = replies[0]
        if isinstance(chunk, ReplyError) and passes(chunk):
            self._fetching = False
            self._pause_timer.set(self._loop.now + RETRY_PAUSE_S)
            return
        if isinstance(chunk, ReplyError) or chunk is None:
            self._fail(f"chunk {self._got} of the code is not in Redis ({chunk or 'gone'})")
            return
        view = memoryview(chunk)
        while view:
            view = view[os.write(self._file, view) :]
        self._got += 1
        if self._got < self._chunks:
            self._ask()
        else:
            self._unpack()

    def _unpack(self) -> None:
        from forebay_runtime.unpacking import unpack, verify  # noqa: PLC0415 - hashlib and zipfile, once for each code

        self.wanted = False
        try:
            verify(self._file, self._sha256)
            unpack(self._file, self._folder)
            if self._shared:
                marker = os.open(self._marker, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
                os.close(marker)
        except (CodeError, OSError) as error:
            self._fail(f"the code cannot be unpacked: {error}")
            return
        self._close()
        self._on_ready()

    def _fail(self, reason: str) -> None:
        self.wanted = False
        self._close()
        self._on_error(reason)

    def _close(self) -> None:
        for descriptor in (self._file, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._lock = -1


def _nothing() -> None:
    """The timer only begins a turn."""
