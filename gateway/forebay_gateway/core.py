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
from forebay_gateway.acceptance import Acceptance
from forebay_gateway.config import GatewayConfig
from forebay_gateway.counters import Counters
from forebay_gateway.credential_table import CredentialTable
from forebay_gateway.deadlines import Deadlines
from forebay_gateway.dispatch import Dispatcher
from forebay_gateway.durability import FSYNC, REPLICA, FsyncCheck
from forebay_gateway.heartbeat import Heartbeat
from forebay_gateway.redis_link import Link, NotConnected, ignore
from forebay_gateway.redis_links import Links
from forebay_gateway.replies import READ_MARGIN_S, ReplyReader
from forebay_gateway.resp import pack
from forebay_gateway.table import FunctionTable
from forebay_gateway.waking import Waker

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
        links = Links(config.redis)
        self._commands = links.commands("commands", self._commands_up, self._lost("commands"))
        self._reading = links.at_key(
            keys.reply(process_id),
            "replies",
            reply_deadline_s=limits.BLOCK_MS / 1000 + READ_MARGIN_S,
            on_up=self._reading_up,
            on_down=self._lost("replies"),
        )
        self._subscription = links.at_key(
            keys.functions,
            "subscription",
            on_up=self._subscription_up,
            on_down=self._lost("subscription"),
            on_message=self._on_message,
        )
        self._links: list[Link] = [self._commands, self._reading, self._subscription]
        self._fsync_check = FsyncCheck(self._commands) if config.durability == FSYNC else None
        self._heartbeat = Heartbeat(self._commands, keys, process_id)
        self._replies = ReplyReader(self._reading, self._commands, keys.reply(process_id), self.counters)
        self.credentials = CredentialTable()
        self._auth_required = config.auth_required
        self._table = FunctionTable(self._commands, keys, address, self.counters, self.credentials)
        self._subscribe = (pack("SUBSCRIBE", keys.functions),)
        waker = Waker(self._commands)
        self.dispatcher = Dispatcher(
            commands=self._commands,
            replies=self._replies,
            table=self._table,
            deadlines=self._deadlines,
            totals=self.counters,
            waker=waker,
            events=self._acceptance(config, waker, links),
            heartbeat=self._heartbeat,
            waiting_max=config.waiting_max,
            once_retention_s=config.idempotency_retention_s,
        )

    def readiness(self) -> dict[str, bool]:
        """What must be true before calls can be served."""
        redis = all(link.connected for link in self._links) and not self._heartbeat.missing
        found = {"redis": redis, "function_table": self._table.ready}
        if self._auth_required:
            # Without any key nobody can call: the controller has published none yet.
            found["credentials"] = self.credentials.seen
        return found

    async def run(self) -> None:
        """Connect and keep going until cancelled; then leave Redis."""
        for link in self._links:
            link.start()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._deadlines.run())
                group.create_task(self._beat())
        finally:
            self._heartbeat.leave()
            for link in self._links:
                await link.close()

    def _acceptance(self, config: GatewayConfig, waker: Waker, links: Links) -> Acceptance:
        """What accepts events; on a connection of its own where each write waits for a replica."""
        retention_s = config.idempotency_retention_s
        if config.durability != REPLICA:
            return Acceptance(self._commands, waker, once_retention_s=retention_s)
        link, commands = links.replicated("events", self._lost("events"))
        self._links.append(link)
        return Acceptance(commands, waker, once_retention_s=retention_s, replicated=True)

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
        if self._fsync_check is not None:
            self._fsync_check.look()

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
