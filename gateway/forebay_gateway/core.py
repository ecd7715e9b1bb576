"""The parts of a gateway process that talk to Redis, put together: three connections, the table, the reply reader.

Commands, blocking reads and the subscription each need a connection of their own: one that is blocked or
subscribed serves nothing else.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable

import hiredis

from forebay_common import limits, logs
from forebay_common.keys import PlatformKeys
from forebay_gateway.config import GatewayConfig
from forebay_gateway.counters import Counters
from forebay_gateway.credential_table import CredentialTable
from forebay_gateway.deadlines import Deadlines
from forebay_gateway.dispatch import Dispatcher
from forebay_gateway.redis_link import NotConnected, RedisLink, ignore
from forebay_gateway.replies import READ_MARGIN_S, Heartbeat, ReplyReader
from forebay_gateway.resp import pack
from forebay_gateway.table import FunctionTable

SUBSCRIBE_RETRY_S = 0.5

_log = logs.get(__name__)


class Core:
    """Everything between the HTTP routes and Redis. Made and used within one event loop."""

    def __init__(self, config: GatewayConfig) -> None:
        keys = PlatformKeys(config.prefix)
        process_id = secrets.token_hex(8)
        address = f"reply:{process_id}"
        self.counters = Counters()
        self._deadlines = Deadlines(asyncio.get_running_loop().time)
        self._commands = RedisLink(config.redis, "commands", on_up=self._commands_up, on_down=self._lost("commands"))
        self._reading = RedisLink(
            config.redis,
            "replies",
            reply_deadline_s=limits.BLOCK_MS / 1000 + READ_MARGIN_S,
            on_up=self._reading_up,
            on_down=self._lost("replies"),
        )
        self._subscription = RedisLink(
            config.redis,
            "subscription",
            on_up=self._subscription_up,
            on_down=self._lost("subscription"),
            on_message=self._on_message,
        )
        self._heartbeat = Heartbeat(self._commands, keys, process_id)
        self._replies = ReplyReader(self._reading, self._commands, keys.reply(process_id), self.counters)
        self.credentials = CredentialTable()
        self._auth_required = config.auth_required
        self._table = FunctionTable(self._commands, keys, address, self.counters, self.credentials)
        self._subscribe = (pack("SUBSCRIBE", keys.functions),)
        self.dispatcher = Dispatcher(
            commands=self._commands,
            replies=self._replies,
            table=self._table,
            deadlines=self._deadlines,
            totals=self.counters,
            waiting_max=config.waiting_max,
        )

    def readiness(self) -> dict[str, bool]:
        """What must be true before calls can be served."""
        links = (self._commands, self._reading, self._subscription)
        found = {"redis": all(link.connected for link in links), "function_table": self._table.ready}
        if self._auth_required:
            # Without any key nobody can call: the controller has published none yet.
            found["credentials"] = self.credentials.seen
        return found

    async def run(self) -> None:
        """Connect and keep going until cancelled; then leave Redis."""
        links = (self._commands, self._reading, self._subscription)
        for link in links:
            link.start()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._deadlines.run())
                group.create_task(self._beat())
        finally:
            self._heartbeat.leave()
            for link in links:
                await link.close()

    async def _beat(self) -> None:
        """Renew this process's heartbeat; a PING finds out whether the subscription's connection is still alive."""
        ping = (pack("PING"),)
        while True:
            self._heartbeat.beat()
            with contextlib.suppress(NotConnected):
                self._subscription.write(ping, ignore)
            await asyncio.sleep(limits.HEARTBEAT_S)

    def _commands_up(self) -> None:
        self._heartbeat.beat()

    def _reading_up(self) -> None:
        self._replies.ask()

    def _subscription_up(self) -> None:
        with contextlib.suppress(NotConnected):
            self._subscription.write(self._subscribe, self._subscribed)

    def _subscribed(self, reply: object) -> None:
        if isinstance(reply, list):
            self._table.reload()
        elif isinstance(reply, hiredis.ReplyError):
            # A server that has just restarted may not know this gateway's user yet.
            _log.warning("changes of the function table cannot be heard: %s", reply)
            asyncio.get_running_loop().call_later(SUBSCRIBE_RETRY_S, self._subscription_up)

    def _on_message(self, channel: bytes, data: bytes) -> None:
        self._table.on_message(channel, data)

    def _lost(self, name: str) -> Callable[[], None]:
        """What counts the losses of one link."""
        lost = self.counters.redis_lost
        lost[name] = 0

        def count() -> None:
            lost[name] += 1

        return count
