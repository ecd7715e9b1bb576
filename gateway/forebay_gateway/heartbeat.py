"""Keeps this process known in Redis, so that the reaper leaves its reply list alone, and finds it when it is gone."""

import asyncio
import contextlib
from typing import Any

import hiredis

from forebay_common import limits
from forebay_common.keys import PlatformKeys
from forebay_gateway.redis_faults import AWAY, words_of
from forebay_gateway.redis_link import Commands, NotConnected, RedisUnavailable, ignore
from forebay_gateway.resp import pack

AGAIN_S = 0.1
"""After a Redis that is full or read-only has refused it."""


class Heartbeat:
    """`missing` says why Redis does not know this process (yet, or any more), "" while it does.

    A call that is written by a process that Redis does not know has an answer that nobody would ever remove: when the
    process dies, the list stays. So until then there are no calls.
    """

    def __init__(self, commands: Commands, keys: PlatformKeys, process_id: str) -> None:
        self.missing = AWAY
        self._loop = asyncio.get_running_loop()
        self._commands = commands
        self._problem = ""
        self._again: asyncio.TimerHandle | None = None
        self._beat = (
            # The key first: whoever reads the set must find the heartbeat of all that are in it.
            pack("SET", keys.process(process_id), "gateway", "EX", limits.HEARTBEAT_TTL_S)
            + pack("SADD", keys.processes, process_id),
        )
        # The set keeps the process: instances that finish its last calls make the list anew, for the reaper.
        self._farewell = (pack("UNLINK", keys.process(process_id), keys.reply(process_id)),)

    def beat(self) -> None:
        """Renew; called whenever the link has come up, and every `HEARTBEAT_S`."""
        self._again = None
        with contextlib.suppress(NotConnected):
            self._commands.write(self._beat, self._set, self._added)

    def leave(self) -> None:
        """Tell the reaper that this process has ended."""
        with contextlib.suppress(NotConnected):
            self._commands.write(self._farewell, ignore)

    def _set(self, reply: Any) -> None:
        """Sink of the SET."""
        self._problem = words_of(reply) if isinstance(reply, hiredis.ReplyError) else ""

    def _added(self, reply: Any) -> None:
        """Sink of the SADD. A connection that broke says nothing, and the next one begins with a heartbeat."""
        if isinstance(reply, RedisUnavailable):
            return
        self.missing = self._problem or (words_of(reply) if isinstance(reply, hiredis.ReplyError) else "")
        if self.missing and self._again is None:
            self._again = self._loop.call_later(AGAIN_S, self.beat)
