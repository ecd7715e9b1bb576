"""One connection to Redis: commands out in one write per turn, replies in by hiredis, reconnects by itself."""

from __future__ import annotations

import errno
import os

from hiredis import ProtocolError, Reader, ReplyError, pack_command

from forebay_runtime.lean import deque, socket
from forebay_runtime.loop import NEVER, READ, WRITE
from forebay_runtime.redis_faults import needs_login

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from forebay_runtime.console import Console
    from forebay_runtime.loop import Loop
    from forebay_runtime.settings import RedisCredentials

    class Place(Protocol):
        """Where a connection's server is, when that is another one at times."""

        greeting: list[bytes]
        """Commands that make sure of the server; they follow the login."""

        def find(self, found: Callable[[str, int], None], failed: Callable[[str], None]) -> None:
            """Find out which host and port to connect to now: calls back once, unless it is stopped."""

        def stop(self) -> None:
            """Look no further."""

        def problem(self, replies: list[Any]) -> str:
            """What the replies to login and greeting say against the server; "" for nothing."""

        def is_left(self, error: str) -> bool:
            """Whether an error says that the server is the wrong one (by now): look for it anew."""

    Callback = Callable[[list[Any] | None], None]
    """Gets the replies to one `send` (a ReplyError where a command failed), or None when the connection was lost
    before all had come: then each command may have run or not."""

CONNECT_TIMEOUT_S = 5.0
SILENT_MAX_S = 10.0
"""A connection that owes replies and has been silent for so long is given up: twice what a read blocks."""
BACKOFF_MIN_S = 0.05
BACKOFF_MAX_S = 2.0
_READ_BYTES = 256 * 1024
_PORT = 6379

command: Callable[[tuple[Any, ...]], bytes] = pack_command
"""A command's bytes, from a tuple of str, bytes, int and float (in C: half of what the same costs in Python)."""


class Wire:
    """One connection's bytes in both directions. What it is for says what happens once it is there or lost."""

    def __init__(self, loop: Loop, credentials: RedisCredentials) -> None:
        self._loop = loop
        self._credentials = credentials
        self._socket: Any = None
        self._fd = -1
        self._host = ""
        self._out: list[bytes] = []
        self._unsent: memoryview | None = None
        self._waiting: deque[tuple[int, Callback]] = deque()
        self._replies: list[Any] = []
        self._reader: Any = self._new_reader()
        self._buffer = bytearray(_READ_BYTES)
        self._connecting = False
        self._attempts = 0
        self._heard = 0.0
        self._timer = loop.timer(self._on_timer)
        self._tls: Any = None
        self.up = False

    @property
    def idle(self) -> bool:
        """Whether every command sent has been replied to."""
        return not self._waiting

    def send(self, data: bytes, replies: int, callback: Callback) -> None:
        """Queue `data`, which holds `replies` commands; it goes out with `flush`. Only while `up`."""
        if not self._waiting:
            self._heard = self._loop.now
            if self._timer.when == NEVER:
                self._timer.set(self._heard + SILENT_MAX_S)
        self._out.append(data)
        self._waiting.append((replies, callback))

    def flush(self) -> None:
        """Send what is queued, as far as the socket takes it."""
        if self._out and self._unsent is None and self.up:
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out.clear()
            self._write(memoryview(data))

    def close(self) -> None:
        """Let go of the connection for good."""
        self._timer.clear()
        if self._socket is not None:
            self._loop.unwatch(self._fd)
            self._socket.close()
            self._socket = None
        self.up = False

    def discard(self) -> None:
        """Let go of it altogether."""
        self.close()
        self._loop.forget(self._timer)

    def _on_connected(self) -> None:
        """The server has taken the connection: `up`, and the first commands."""
        raise NotImplementedError

    def _lose(self, reason: str) -> None:
        """Let go of the connection: it is lost, or cannot be made."""
        raise NotImplementedError

    def _open(self, host: str, port: int) -> None:
        """Begin to connect; with a Unix socket wherever that is. Raises OSError."""
        to = self._credentials
        self._host = host
        if to.unix_socket:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            address: Any = to.unix_socket
        else:
            addresses = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
            # A name may have several addresses, of which some do not answer: the next attempt takes the next.
            family, _, _, _, address = addresses[self._attempts % len(addresses)]
            self._attempts += 1
            self._socket = socket.socket(family, socket.SOCK_STREAM)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._fd = self._socket.fileno()
        self._socket.setblocking(False)
        result = self._socket.connect_ex(address)
        if result not in (0, errno.EINPROGRESS):
            raise OSError(result, os.strerror(result))
        self._connecting = True
        self._timer.set(self._loop.now + CONNECT_TIMEOUT_S)
        if result == 0 and not to.tls:
            self._loop.watch(self._fd, self._on_event, READ)
            self._connected()
        else:
            self._loop.watch(self._fd, self._on_event, WRITE)

    def _connected(self) -> None:
        self._connecting = False
        self._timer.clear()
        self._on_connected()

    def _on_timer(self) -> None:
        if self._connecting:
            self._lose("no connection in time")
        elif self._waiting:
            silent_s = self._loop.now - self._heard
            if silent_s >= SILENT_MAX_S:
                self._lose(f"no answer within {silent_s:.0f} s")
            else:
                self._timer.set(self._heard + SILENT_MAX_S)

    def _on_event(self, event: int) -> None:
        if self._connecting:
            self._go_on_connecting()
            return
        if event & WRITE and self._unsent is not None:
            data, self._unsent = self._unsent, None
            self._write(data)
            if self.up and self._unsent is None:
                self._loop.change(self._fd, READ)
                self.flush()
        if event & ~WRITE and self._socket is not None:
            self._receive()

    def _go_on_connecting(self) -> None:
        result = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if result:
            self._lose(os.strerror(result))
            return
        if self._credentials.tls:
            from forebay_runtime.redis_tls import Tls  # noqa: PLC0415 - ssl is 20 ms of a cold start

            try:
                self._tls = self._tls or Tls(self._credentials)
                self._socket, wanted = self._tls.handshake(self._socket, self._host)
            except (OSError, ValueError) as error:
                self._lose(str(error))
                return
            if wanted:
                self._loop.change(self._fd, wanted)
                return
        self._loop.change(self._fd, READ)
        self._connected()

    def _write(self, data: memoryview) -> None:
        try:
            sent = self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            if not _wants_more(error):
                self._lose(str(error))
                return
            sent = 0
        if sent < len(data):
            self._unsent = data[sent:]
            self._loop.change(self._fd, READ | WRITE)

    def _receive(self) -> None:
        reader = self._reader
        buffer = self._buffer
        self._heard = self._loop.now
        try:
            while True:
                count = self._socket.recv_into(buffer)
                if not count:
                    self._lose("Redis closed the connection")
                    return
                reader.feed(buffer, 0, count)
                if count < _READ_BYTES and not self._credentials.tls:
                    break
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            # TLS keeps bytes of its own: read until it wants more.
            if not _wants_more(error):
                self._lose(str(error))
                return
        try:
            self._hand_out()
        except ProtocolError as error:
            self._lose(f"not the Redis protocol: {error}")

    def _hand_out(self) -> None:
        waiting = self._waiting
        reader = self._reader
        while waiting:
            count, callback = waiting[0]
            replies = self._replies
            while len(replies) < count:
                reply = reader.gets()
                if reply is False:
                    return
                replies.append(reply)
            waiting.popleft()
            self._replies = []
            callback(replies)
            if reader is not self._reader:
                # The callback let go of this connection.
                return

    def _new_reader(self) -> Any:
        return Reader()

    def _reset(self) -> list[Callback]:
        """Let go of the connection and of all that belongs to it; gives those who wait for replies."""
        self.close()
        self._connecting = False
        self._reader = self._new_reader()
        self._replies = []
        self._out.clear()
        self._unsent = None
        waiting, self._waiting = self._waiting, deque()
        return [callback for _, callback in waiting]


class Link(Wire):
    """A connection that comes back. `up` says whether commands are taken.

    `on_up` is called in each new connection's first turn. `place` finds the server at each connection; None: it is
    where the credentials say.
    """

    def __init__(
        self,
        loop: Loop,
        credentials: RedisCredentials,
        console: Console,
        on_up: Callable[[], None],
        name: str,
        place: Place | None = None,
    ) -> None:
        self._place = place
        self._left = ""
        super().__init__(loop, credentials)
        self._console = console
        self._on_up = on_up
        self._name = name
        self._backoff_s = BACKOFF_MIN_S
        self._said = ""

    def connect(self) -> None:
        """Begin to connect; tries again with a growing pause until it works."""
        if self._place is not None:
            self._place.find(self._open_at, self._lose)
        else:
            self._open_at(self._credentials.host or "", self._credentials.port or _PORT)

    def close(self) -> None:
        """Let go of the connection for good."""
        if self._place is not None:
            self._place.stop()
        super().close()

    def distrust(self, error: ReplyError) -> None:
        """Connect anew when an error says that we are not logged in on this connection."""
        if self.up and needs_login(error):
            self._lose(str(error))

    def _open_at(self, host: str, port: int) -> None:
        try:
            self._open(host, port)
        except OSError as error:
            self._lose(str(error))

    def _on_connected(self) -> None:
        """Log in; what the owner sends on `on_up` follows in the same write, and fails with the login."""
        self.up = True
        to = self._credentials
        login = []
        if to.password:
            login.append(command(("AUTH", to.username or "default", to.password)))
        if to.db:
            login.append(command(("SELECT", to.db)))
        if self._place is not None:
            login += self._place.greeting
        if login:
            self.send(b"".join(login), len(login), self._on_login)
        else:
            self._well()
        self._on_up()
        self.flush()

    def _on_login(self, replies: list[Any] | None) -> None:
        for reply in replies or ():
            if isinstance(reply, ReplyError):
                self._lose(f"login refused: {reply}")
                return
        if replies is None:
            return
        problem = self._place.problem(replies) if self._place is not None else ""
        if problem:
            self._lose(problem)
        else:
            self._well()

    def _new_reader(self) -> Any:
        # Told of errors by the parser itself, so that other replies are not looked at for it.
        return Reader() if self._place is None else Reader(replyError=self._on_error)

    def _on_error(self, text: str) -> ReplyError:
        if self._place is not None and self._place.is_left(text):
            self._left = text
        return ReplyError(text)

    def _hand_out(self) -> None:
        super()._hand_out()
        if self._left and self.up:
            self._lose(self._left)

    def _well(self) -> None:
        if self._said:
            self._console.info(f"the {self._name} connection to Redis is back")
        self._said = ""
        self._backoff_s = BACKOFF_MIN_S

    def _on_timer(self) -> None:
        if self._socket is None:
            self.connect()
        else:
            super()._on_timer()

    def _lose(self, reason: str) -> None:
        """Let go, tell those who wait for replies, and try again after a pause with jitter."""
        if self._said != reason:
            self._console.warning(f"the {self._name} connection to Redis is away: {reason}")
        self._said = reason
        self._left = ""
        waiting = self._reset()
        jitter = os.urandom(1)[0] / 255
        self._timer.set(self._loop.now + self._backoff_s * (0.5 + jitter / 2))
        self._backoff_s = min(self._backoff_s * 2, BACKOFF_MAX_S)
        for callback in waiting:
            callback(None)


def _wants_more(error: OSError) -> bool:
    """TLS's way to say that the socket would block."""
    return type(error).__name__ in {"SSLWantReadError", "SSLWantWriteError"}
