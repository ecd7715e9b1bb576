"""Frames over one Unix socket.

On `_socket`, which is what `socket` wraps: `socket` itself costs as much time as starting the interpreter, and a
user's module of that name must be free to take its place.
"""

import struct
import time
from _socket import AF_UNIX, SCM_RIGHTS, SOCK_STREAM, SOL_SOCKET, socket

from forebay_handlers.wire import HEADER, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional, Tuple

RECEIVE_BYTES = 65_536
RECEIVE_MAX_BYTES = 1_048_576
CONNECT_WAIT_S = 30.0
CONNECT_RETRY_S = 0.001
CONNECT_RETRY_MAX_S = 0.05
CONNECT_RETRY_SHARE = 0.005
"""Of the time waited so far, how much more may be lost by not looking."""
_LENGTH_BYTES = 4


class Connection:
    """One connection to the runtime. `send` is the socket's `sendall`: OSError when the runtime is gone."""

    __slots__ = ("_data", "_recv", "_socket", "fileno", "send")

    def __init__(self, connected: "socket") -> None:
        self._socket = connected
        self._data = b""
        # Bound once: a call answers with what was there at the start, whatever the user's code replaces.
        self._recv = connected.recv
        self.send = connected.sendall
        self.fileno = connected.fileno

    @classmethod
    def to(cls, path: str) -> "Connection":
        """Connect once. Raises OSError."""
        connected = socket(AF_UNIX, SOCK_STREAM)
        try:
            connected.connect(path)
        except OSError:
            connected.close()
            raise
        return cls(connected)

    @classmethod
    def wait_for(
        cls, path: str, wait_s: float = CONNECT_WAIT_S, do_meanwhile: "Callable[[], bool]" = bool
    ) -> "Connection":
        """Connect as soon as the runtime listens; both start at the same time. Raises OSError after the wait.

        `do_meanwhile` is called between attempts; once it gives False there is nothing more to do.
        """
        began = time.monotonic()
        while True:
            try:
                return cls.to(path)
            except (FileNotFoundError, ConnectionRefusedError):
                # Nothing tells when another program starts to listen on a path.
                waited_s = time.monotonic() - began
                if waited_s > wait_s:
                    raise
                if not do_meanwhile():
                    time.sleep(min(max(CONNECT_RETRY_S, CONNECT_RETRY_SHARE * waited_s), CONNECT_RETRY_MAX_S))

    @property
    def has_data(self) -> bool:
        """Whether bytes of a next frame were already read."""
        return bool(self._data)

    def send_with_descriptor(self, kind: int, body: bytes, descriptor: int) -> None:
        """Send one small frame together with a file descriptor. Raises OSError."""
        self._socket.sendmsg([pack(kind, body)], [(SOL_SOCKET, SCM_RIGHTS, struct.pack("i", descriptor))])

    def next_frame(self) -> "Optional[Tuple[int, bytes]]":
        """The next frame's type and body, waiting for it; None when the runtime closed. Raises OSError."""
        data = self._data
        while len(data) < HEADER.size:
            chunk = self._recv(RECEIVE_BYTES)
            if not chunk:
                return None
            data += chunk
        length, kind = HEADER.unpack_from(data)
        end = _LENGTH_BYTES + length
        if len(data) < end:
            chunks = [data]
            missing = end - len(data)
            while missing > 0:
                chunk = self._recv(min(max(missing, RECEIVE_BYTES), RECEIVE_MAX_BYTES))
                if not chunk:
                    return None
                chunks.append(chunk)
                missing -= len(chunk)
            data = b"".join(chunks)
        self._data = data[end:]
        return kind, data[HEADER.size : end]

    def close(self) -> None:
        """Close this process's end."""
        self._socket.close()
