"""How safe an accepted event is: `durability` of the platform.

- `process`: it is in Redis's memory, and on its disk within about a second (append-only file, `everysec`).
- `fsync`: Redis is set up to have it on its disk before it answers (`appendfsync always`); the gateway can but look.
- `replica`: one replica of Redis has confirmed it.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import hiredis

from forebay_common import logs
from forebay_gateway.redis_link import UNSENT_MAX_BYTES, Commands, NotConnected, RedisLink, RedisUnavailable, Sink
from forebay_gateway.resp import pack

PROCESS = "process"
FSYNC = "fsync"
REPLICA = "replica"
DURABILITIES = (PROCESS, FSYNC, REPLICA)

REPLICA_WAIT_MS = 1_000
REPLICAS = 1

_log = logs.get(__name__)


class NotReplicated(RedisUnavailable):
    """Redis did what it was told, but no replica has confirmed that in time."""


class ReplicatedWriter:
    """Writes through a link of its own, and gives each reply once a replica has what was written.

    All commands of a turn of the event loop share one WAIT. Redis keeps a connection that waits from doing anything
    else, so what comes meanwhile leaves together after it: a replica that is slow makes the writes larger, not more.
    """

    def __init__(self, link: RedisLink) -> None:
        self._loop = asyncio.get_running_loop()
        self._link = link
        self._parts: list[bytes] = []
        self._sinks: list[Sink] = []
        self._bytes = 0
        self._busy = False
        self._wait = pack("WAIT", REPLICAS, REPLICA_WAIT_MS)
        self._told = ""

    def write(self, parts: Sequence[bytes], *sinks: Sink) -> None:
        """Send packed commands, given as pieces, with one sink for each. Raises NotConnected.

        A sink gets NotReplicated in place of a reply that no replica stands behind; errors come as they are.
        """
        size = sum(map(len, parts))
        if not self._link.connected or self._bytes + size > UNSENT_MAX_BYTES:
            raise NotConnected("Redis is not reachable (events)")
        self._parts += parts
        self._sinks += sinks
        self._bytes += size
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        sinks, self._sinks = self._sinks, []
        self._bytes = 0
        self._busy = bool(sinks)
        if not sinks:
            return
        replies: list[Any] = []
        parts.append(self._wait)
        try:
            self._link.write(parts, *(replies.append,) * len(sinks), partial(self._waited, sinks, replies))
        except NotConnected as error:
            self._busy = False
            for sink in sinks:
                sink(error)

    def _waited(self, sinks: list[Sink], replies: list[Any], confirmed: Any) -> None:
        """Sink of the WAIT: what it says holds for all that was written before it."""
        if isinstance(confirmed, hiredis.ReplyError) and str(confirmed) != self._told:
            self._told = str(confirmed)
            _log.warning("Redis cannot be asked whether a replica has the events: %s", confirmed)
        is_safe = type(confirmed) is int and confirmed >= REPLICAS
        for sink, reply in zip(sinks, replies, strict=True):
            if is_safe or isinstance(reply, (RedisUnavailable, hiredis.ReplyError)):
                sink(reply)
            else:
                sink(confirmed if isinstance(confirmed, RedisUnavailable) else NotReplicated())
        self._flush()


class FsyncCheck:
    """Looks once whether Redis writes each event to its disk before it answers, and says so in the log if not."""

    def __init__(self, link: Commands) -> None:
        self._link = link
        self._done = False

    def look(self) -> None:
        """Ask, unless that was done; called whenever the link has come up."""
        if not self._done:
            with contextlib.suppress(NotConnected):
                self._link.write((pack("CONFIG", "GET", "append*"),), self._seen)

    def _seen(self, reply: Any) -> None:
        if isinstance(reply, RedisUnavailable):
            return
        self._done = True
        if isinstance(reply, hiredis.ReplyError):
            _log.info("durability is fsync; whether Redis is set up for it cannot be seen: %s", reply)
            return
        problem = fsync_problem(reply)
        if problem:
            _log.warning("durability is fsync, but %s: what was just accepted can be lost with Redis's host", problem)


def fsync_problem(answer: Sequence[bytes]) -> str:
    """What the answer to `CONFIG GET append*` says against `fsync`, names and values in turn; "" for nothing. Pure."""
    found = dict(zip(answer[::2], answer[1::2], strict=True))
    wrong = [
        f"{name} is {value}, not {wanted}"
        for name, wanted in (("appendonly", "yes"), ("appendfsync", "always"))
        if (value := found.get(name.encode(), b"not known").decode()) != wanted
    ]
    return f"Redis's {' and '.join(wrong)}" if wrong else ""
