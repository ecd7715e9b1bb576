"""The instance's Unix socket: who connects, and as what they introduce themselves.

Anybody who reaches the socket may connect: the user's code does too. A connection counts for nothing until its
hello, which must come soon and be small.
"""

from __future__ import annotations

import os

from forebay_handlers import wire
from forebay_runtime.lean import accept, socket
from forebay_runtime.peer import Peer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from forebay_runtime.console import Console
    from forebay_runtime.loop import Loop

HELLO_WAIT_S = 5.0
_ANONYMOUS_MAX = 64
_BACKLOG = 128
_STAGED_NAME_CHARS = 60


class Door:
    """Listens, and hands on whoever introduces itself.

    `on_supervisor(peer, claims)` and `on_handler(peer, slot, token)` take a connection over, or give False when it
    is not one they wait for.
    """

    def __init__(
        self,
        loop: Loop,
        path: str,
        console: Console,
        on_supervisor: Callable[[Peer, bytes], bool],
        on_handler: Callable[[Peer, int, bytes], bool],
    ) -> None:
        self._loop = loop
        self._console = console
        self._on_supervisor = on_supervisor
        self._on_handler = on_handler
        self._anonymous: dict[Peer, float] = {}
        self._timer = loop.timer(self._drop_silent)
        self._listener = _listen(path)
        loop.watch(self._listener.fileno(), self._on_connection)

    def _on_connection(self, _: int) -> None:
        try:
            fd, _address = accept(self._listener)
        except OSError as error:
            # It has gone away again, or descriptors ran out: then the next turn tries again.
            self._console.warning(f"a connection on the instance's socket was not taken: {error}")
            return
        if len(self._anonymous) >= _ANONYMOUS_MAX:
            self._drop(next(iter(self._anonymous)), "too many connections without a hello")
        peer = Peer(self._loop, socket.socket(fileno=fd), self._on_hello, self._on_closed)
        self._anonymous[peer] = self._loop.now + HELLO_WAIT_S
        if len(self._anonymous) == 1:
            self._timer.set(self._loop.now + HELLO_WAIT_S)

    def _drop_silent(self) -> None:
        for peer, until in list(self._anonymous.items()):
            if until <= self._loop.now:
                self._drop(peer, "no hello in time")
        if self._anonymous:
            self._timer.set(min(self._anonymous.values()))

    def _drop(self, peer: Peer, reason: str) -> None:
        del self._anonymous[peer]
        peer.close()
        self._console.warning(f"closed a connection on the instance's socket: {reason}")

    def _on_closed(self, peer: Peer, reason: str) -> None:
        del self._anonymous[peer]
        self._console.warning(f"a connection on the instance's socket ended before its hello: {reason}")

    def _on_hello(self, peer: Peer, kind: int, data: bytes, start: int, end: int) -> None:
        taken = False
        if kind == wire.HELLO_SUPERVISOR:
            taken = self._on_supervisor(peer, data[start:end])
        elif kind == wire.HELLO_HANDLER and end - start == wire.SPAWN_BODY.size:
            slot, token = wire.SPAWN_BODY.unpack_from(data, start)
            taken = self._on_handler(peer, slot, token)
        if taken:
            del self._anonymous[peer]
        else:
            self._drop(peer, f"frame type {kind} is not a hello that is waited for")


def _listen(path: str) -> socket.socket:
    """The instance's socket; it appears under its name only once it takes connections.

    Its folder keeps strangers out; handlers run as another user, so its mode lets all in. A socket's address is
    short: the folder's descriptor gives a deep one a short name.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder, name = os.path.split(path)
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        staged = f"/proc/self/fd/{descriptor}/{name[:_STAGED_NAME_CHARS]}.new"
        if os.path.lexists(staged):
            os.unlink(staged)
        listener.bind(staged)
        os.chmod(staged, 0o666)  # noqa: S103 - see above
        listener.listen(_BACKLOG)
        os.rename(staged, path)
    finally:
        os.close(descriptor)
    listener.setblocking(False)
    return listener
