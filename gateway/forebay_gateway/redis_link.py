"""One connection to Redis on which any number of callers write in turn, and their replies come back in that order.

Commands issued within one turn of the event loop leave in one write. A reply goes to the sink that was given with
its command: a plain call, since a future and a task switch for each would cost more than the command. When the
connection breaks, every sink that still waits gets RedisUnavailable: whether its command ran is not known, so
none is repeated. `redis_client.connect` serves everything that is not on the hot path better than this does.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import hiredis

from forebay_common import logs
from forebay_common.redis_exchange import tls_context
from forebay_common.redis_sentinel import is_primary
from forebay_common.redis_settings import CONNECT_TIMEOUT_S, Address, RedisSettings
from forebay_gateway.resp import Argument, pack

REPLY_DEADLINE_S = 5.0
"""A connection that owes replies and has been silent for this long is given up."""
UNSENT_MAX_BYTES = 64 * 1024 * 1024
"""What may wait in this process to be sent; beyond it commands are refused as if Redis were away."""
BACKOFF_MIN_S = 0.05
BACKOFF_MAX_S = 1.0
WATCH_S = 0.5

Sink = Callable[[Any], None]
"""Gets the reply: its value, a `hiredis.ReplyError` (not raised), or RedisUnavailable. Must not raise."""

_log = logs.get(__name__)
_INCOMPLETE = object()


class RedisUnavailable(Exception):  # noqa: N818 - a state of the world, not a mistake
    """Redis cannot be reached, or the connection broke before the reply came: the command may or may not have run."""


class NotConnected(RedisUnavailable):
    """The command was not sent: it did not run."""


def ignore(_reply: object) -> None:
    """The sink for replies that change nothing for the caller."""


def nothing() -> None:
    """Nobody wants to be told."""


class Commands(Protocol):
    """What commands are written to: a link, or what leads to one of several."""

    def write(self, parts: Sequence[bytes], *sinks: Sink) -> None:
        """Send packed commands, given as pieces, with one sink for each. Raises NotConnected."""


class Link(Commands, Protocol):
    """A way to Redis from its start to its end."""

    @property
    def connected(self) -> bool:
        """Whether commands go out now."""

    def start(self) -> None:
        """Begin to connect; returns at once. Within a running event loop."""

    async def close(self) -> None:
        """Send what has been written, then end the connection."""


class Place(Protocol):
    """Where a link's server is, when that is another one at times."""

    must_be_primary: bool
    """Whether the server itself must say that it is one before the link is up."""

    async def find(self) -> Address:
        """The server to connect to now. Raises OSError when that cannot be found out."""

    def is_stale(self) -> bool:
        """Whether the server that was found last is known to be the wrong one by now."""

    def is_left(self, error: str) -> bool:
        """Whether an answer that is this error says that the server is the wrong one (by now): look for it anew."""


class RedisLink:
    """A connection that comes back by itself, with bounded and jittered backoff.

    `place` finds the server at each connection; None: the one that `settings` name. `on_up` is called each time it is
    usable again, after AUTH and SELECT, `on_down` each time a connection broke; `on_message` gets `channel, data` of
    published messages.
    """

    def __init__(
        self,
        settings: RedisSettings,
        name: str,
        *,
        place: Place | None = None,
        reply_deadline_s: float = REPLY_DEADLINE_S,
        on_up: Callable[[], None] = nothing,
        on_down: Callable[[], None] = nothing,
        on_message: Callable[[bytes, bytes], None] | None = None,
    ) -> None:
        self._settings = settings
        self._name = name
        self._place = place
        self._reply_deadline_s = reply_deadline_s
        self._on_up = on_up
        self._on_down = on_down
        self._on_message = on_message
        self._connection: _Connection | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether commands go out now."""
        return self._connection is not None

    def start(self) -> None:
        """Begin to connect; returns at once. Within a running event loop."""
        self._keeper = asyncio.get_running_loop().create_task(self._keep(), name=f"redis-{self._name}")

    def write(self, parts: Sequence[bytes], *sinks: Sink) -> None:
        """Send packed commands, given as pieces, with one sink for each command. Raises NotConnected."""
        connection = self._connection
        if connection is None or not connection.accepting:
            raise NotConnected(f"Redis is not reachable ({self._name})")
        connection.write(parts, sinks)

    async def close(self) -> None:
        """Send what has been written, then end the connection."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait((self._keeper,))
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _keep(self) -> None:
        failures = 0
        told = ""
        while True:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    connection = await self._connect()
            except (OSError, RedisUnavailable, hiredis.ReplyError) as error:
                if str(error) != told:
                    # Another reason is news: a server that is back but does not know this user yet.
                    told = str(error)
                    _log.warning("Redis cannot be reached: %s", error, extra={"link": self._name})
                await asyncio.sleep(backoff_s(failures, random.random()))  # noqa: S311 - jitter, no secret
                failures += 1
                continue
            failures, told = 0, ""
            self._connection = connection
            self._on_up()
            await self._watch(connection)
            self._connection = None
            self._on_down()
            _log.warning("the connection to Redis was lost", extra={"link": self._name})
            # All gateways have lost theirs: they do not come back in the same moment.
            await asyncio.sleep(backoff_s(0, random.random()))  # noqa: S311 - jitter, no secret

    async def _connect(self) -> "_Connection":
        settings, place = self._settings, self._place
        loop = asyncio.get_running_loop()
        if place is not None:
            settings = settings.at(await place.find())
        if settings.unix_socket is not None:
            _, connection = await loop.create_unix_connection(self._protocol, settings.unix_socket)
        else:
            assert settings.host is not None
            context = tls_context(settings)
            _, connection = await loop.create_connection(self._protocol, settings.host, settings.port, ssl=context)
        try:
            await connection.greet(settings, must_be_primary=place is not None and place.must_be_primary)
        except BaseException:
            connection.abort()
            raise
        return connection

    def _protocol(self) -> "_Connection":
        is_left = self._place.is_left if self._place is not None else None
        return _Connection(asyncio.get_running_loop(), self._on_message, is_left)

    async def _watch(self, connection: "_Connection") -> None:
        """Return when the connection is gone; give it up when it owes replies and stays silent."""
        while not connection.lost.done():
            await asyncio.wait((connection.lost,), timeout=WATCH_S)
            if connection.silent_s() > self._reply_deadline_s or (self._place is not None and self._place.is_stale()):
                connection.abort()


class _Connection(asyncio.Protocol):
    """One connection's bytes in both directions."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_message: Callable[[bytes, bytes], None] | None,
        is_left: Callable[[str], bool] | None,
    ) -> None:
        self._loop = loop
        self._on_message = on_message
        self._is_left = is_left
        # Told of errors by the parser itself, so that other replies are not looked at for it.
        error = hiredis.ReplyError if is_left is None else self._error
        self._reader = hiredis.Reader(notEnoughData=_INCOMPLETE, replyError=error)
        self._sinks: deque[Sink] = deque()
        self._out: list[bytes] = []
        self._heard_at = 0.0
        # False once it is lost: until its keeper hears of that, commands would wait here for ever.
        self.accepting = True
        self.lost: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio.Transport, but not its type.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=UNSENT_MAX_BYTES)

    def pause_writing(self) -> None:
        self.accepting = False

    def resume_writing(self) -> None:
        self.accepting = not self.lost.done()

    def connection_lost(self, exc: Exception | None) -> None:
        self.accepting = False
        if not self.lost.done():
            self.lost.set_result(None)
        error = RedisUnavailable(f"the connection to Redis was lost: {exc or 'closed'}")
        sinks, self._sinks = self._sinks, deque()
        for sink in sinks:
            sink(error)

    def write(self, parts: Sequence[bytes], sinks: Sequence[Sink]) -> None:
        """Queue commands for the one write at the end of this turn of the loop."""
        if not self._sinks:
            self._heard_at = self._loop.time()
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out += parts
        self._sinks += sinks

    def _flush(self) -> None:
        out, self._out = self._out, []
        if not self._transport.is_closing():
            self._transport.write(b"".join(out))

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        reader, sinks = self._reader, self._sinks
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _INCOMPLETE:
                if self._on_message is not None and type(reply) is list and reply[0] == b"message":
                    self._on_message(reply[1], reply[2])
                else:
                    sinks.popleft()(reply)
        except (hiredis.ProtocolError, IndexError):
            _log.exception("Redis sent what is no reply")
            self._transport.abort()

    def _error(self, text: str) -> hiredis.ReplyError:
        """An error as its sink gets it; one that says that this is the wrong server ends the connection after that."""
        if self._is_left is not None and self._is_left(text):
            self._loop.call_soon(self.abort)
        return hiredis.ReplyError(text)

    def silent_s(self) -> float:
        """Seconds since something was heard from a server that owes replies; 0 when it owes none."""
        return self._loop.time() - self._heard_at if self._sinks else 0.0

    async def greet(self, settings: RedisSettings, *, must_be_primary: bool) -> None:
        """AUTH and SELECT, and a PING that a server still loading its data refuses.

        Raises hiredis.ReplyError, or RedisUnavailable when it is not the primary.
        """
        commands: list[tuple[Argument, ...]] = []
        if settings.password is not None:
            commands.append(("AUTH", settings.username or "default", settings.password))
        if settings.db:
            commands.append(("SELECT", settings.db))
        commands.append(("PING",))
        for command in commands:
            await self._ask(command)
        if must_be_primary and not is_primary(await self._ask(("ROLE",))):
            raise RedisUnavailable(f"{settings.host}:{settings.port} is not the primary (yet, or any more)")

    async def _ask(self, command: tuple[Argument, ...]) -> Any:
        reply: asyncio.Future[Any] = self._loop.create_future()
        self.write((pack(*command),), (sink_of(reply),))
        return await reply

    def abort(self) -> None:
        """End at once; pending sinks get RedisUnavailable."""
        self._transport.abort()

    def close(self) -> None:
        """Send what has been written, then end."""
        if self._out:
            self._flush()
        self._transport.close()


def sink_of(future: asyncio.Future[Any]) -> Sink:
    """A sink that settles a future."""

    def settle(reply: Any) -> None:
        if future.done():
            return
        if isinstance(reply, (RedisUnavailable, hiredis.ReplyError)):
            future.set_exception(reply)
        else:
            future.set_result(reply)

    return settle


def backoff_s(failures: int, jitter: float) -> float:
    """The pause before the next attempt after `failures` failed ones; `jitter` in [0, 1) spreads it over half of it."""
    full: float = min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2.0 ** min(failures, 10))
    return full * (0.5 + jitter / 2)
