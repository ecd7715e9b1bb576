"""One connection of the handlers' program: frames of `forebay_handlers.wire` in and out, never blocking.

What comes in was written by the user's code and is believed in nothing: a frame that cannot be one closes the
connection, and the owner decides what that means.
"""

from __future__ import annotations

import os

from forebay_handlers import wire
from forebay_runtime.lean import socket
from forebay_runtime.loop import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from forebay_runtime.loop import Loop

    OnFrame = Callable[["Peer", int, bytes, int, int], None]
    """peer, frame type, and a buffer with the body's start and end in it (so that a payload is copied once)."""

HELLO_MAX_BYTES = 4096
_READ_BYTES = 256 * 1024
_HEADER_BYTES = wire.HEADER.size
_FD_BYTES = 4
# One for all connections: a buffer made for each read would be mapped, touched and unmapped each time.
_buffer = memoryview(bytearray(_READ_BYTES))


class Peer:
    """One connection. `max_bytes` bounds a frame; `descriptors` are those that came with the first ones, open."""

    __slots__ = (
        "_blocked", "_input", "_loop", "_needed", "_on_close", "_output", "_socket", "_takes_descriptors",
        "descriptors", "fd", "max_bytes", "on_frame", "on_oversize",
    )  # fmt: skip

    def __init__(
        self, loop: Loop, connection: socket.socket, on_frame: OnFrame, on_close: Callable[[Peer, str], None]
    ) -> None:
        self._loop = loop
        self._socket = connection
        self._on_close = on_close
        self._input = bytearray()
        self._needed = 0
        self._output: list[bytes | memoryview] = []
        self._blocked = False
        self._takes_descriptors = True
        self.on_frame = on_frame
        self.on_oversize: Callable[[int], None] | None = None
        self.max_bytes = HELLO_MAX_BYTES
        self.descriptors: list[int] = []
        self.fd = connection.fileno()
        connection.setblocking(False)
        loop.watch(self.fd, self._on_event)

    def peer_pid(self) -> int:
        """The pid of the process that connected, as we see it; 0 when it is in a namespace we do not see."""
        raw = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int.from_bytes(raw[:4], "little", signed=True)

    def set_owner(
        self, on_frame: OnFrame, on_close: Callable[[Peer, str], None], on_oversize: Callable[[int], None] | None = None
    ) -> None:
        """Hand the connection on: after its hello it takes whole frames and no more descriptors.

        `on_oversize` is told the type of a frame that is too large, just before `on_close`.
        """
        self.on_frame = on_frame
        self._on_close = on_close
        self.on_oversize = on_oversize
        self.max_bytes = wire.FRAME_MAX_BYTES
        self._takes_descriptors = False

    def send(self, data: bytes) -> None:
        """Send now what the socket takes, the rest when it takes more."""
        if self.fd < 0:
            return
        self._output.append(data)
        if len(self._output) == 1:
            self._write()

    def read_to_end(self) -> None:
        """Take every frame that has already arrived; for a connection whose process has ended."""
        while self.fd >= 0:
            try:
                data = self._socket.recv(_READ_BYTES)
            except OSError:
                return
            if not data:
                return
            self._input += data
            data = bytes(self._input)
            self._input.clear()
            self._take_frames(data)

    def close(self) -> None:
        """Let go of the connection without telling anybody."""
        if self.fd < 0:
            return
        self._loop.unwatch(self.fd)
        self._socket.close()
        self.fd = -1
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = []

    def _on_event(self, event: int) -> None:
        if event & WRITE:
            self._write()
        if event & ~WRITE and self.fd >= 0:
            self._receive()

    def _write(self) -> None:
        while self._output:
            data = self._output[0]
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                # The end of the connection is seen in its turn, by reading.
                self._output.clear()
                return
            if sent < len(data):
                self._output[0] = memoryview(data)[sent:]
                self._loop.change(self.fd, READ | WRITE)
                self._blocked = True
                return
            del self._output[0]
        if self._blocked:
            self._blocked = False
            self._loop.change(self.fd, READ)

    def _receive(self) -> None:
        try:
            if self._takes_descriptors:
                data = self._receive_with_descriptors()
            else:
                data = bytes(_buffer[: self._socket.recv_into(_buffer)])
        except BlockingIOError:
            return
        except OSError as error:
            self._end(str(error))
            return
        if not data:
            self._end("closed")
            return
        if self._input:
            self._input += data
            if len(self._input) < self._needed:
                return
            data = bytes(self._input)
            self._input.clear()
        self._take_frames(data)

    def _receive_with_descriptors(self) -> bytes:
        data, ancillary, _, _ = self._socket.recvmsg(HELLO_MAX_BYTES, socket.CMSG_SPACE(_FD_BYTES))
        for level, kind, raw in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                whole = len(raw) - len(raw) % _FD_BYTES
                for at in range(0, whole, _FD_BYTES):
                    self.descriptors.append(int.from_bytes(raw[at : at + _FD_BYTES], "little", signed=True))
        return data

    def _take_frames(self, data: bytes) -> None:
        offset = 0
        end = len(data)
        while end - offset >= _HEADER_BYTES:
            length, kind = wire.HEADER.unpack_from(data, offset)
            if not 0 < length <= self.max_bytes:
                if length and self.on_oversize is not None:
                    self.on_oversize(kind)
                self._end(f"a frame of {length} bytes")
                return
            following = offset + _HEADER_BYTES - 1 + length
            if following > end:
                self._needed = following - offset
                break
            self.on_frame(self, kind, data, offset + _HEADER_BYTES, following)
            if self.fd < 0:
                return
            offset = following
        else:
            self._needed = _HEADER_BYTES
        if offset < end:
            self._input += memoryview(data)[offset:]

    def _end(self, reason: str) -> None:
        self.close()
        self._on_close(self, reason)
