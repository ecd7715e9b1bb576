"""redis-py's client, made to speak with a Redis Cluster: each command goes to the node that has its key.

redis-py has a client for Clusters of its own, which repeats commands after a connection broke. This one repeats a
command only where a node has said that it did not execute it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.exceptions import AskError, ClusterDownError, MovedError, ResponseError, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from forebay_common.redis_exchange import ExchangeError
from forebay_common.redis_settings import Address, RedisSettings
from forebay_common.redis_slots import ASK, MOVED, Redirect, slot_of
from forebay_common.redis_topology import NODES_MAX, Topology

REDIRECTED_MAX_S = 5.0
"""How long a command is sent on before its error is given to whoever sent it."""
PAUSE_S = 0.05
"""Before a command is sent again to a node that cannot do it yet."""

Part = str | bytes | float
"""A command's name or one of its arguments."""

_KEYLESS = frozenset(
    {"ACL", "CLIENT", "CLUSTER", "COMMAND", "CONFIG", "ECHO", "FLUSHALL", "INFO", "PING", "PUBLISH", "ROLE", "TIME"}
)
_WITH_SUBCOMMAND = frozenset({"OBJECT", "XGROUP", "XINFO"})
_UNDONE = (AskError, TryAgainError, ClusterDownError)
"""What says that the command was not executed: another node has the key (MovedError too), or none does for a moment."""

_Do = Callable[[Redis, bool], Awaitable[Any]]
"""Sends something to a node; with True after ASKING."""


def key_of(parts: Sequence[Part]) -> bytes | None:
    """The key by which a command finds its node (pure); None where any node will do.

    Raises ValueError for a command that concerns the keys of one node: `servers_of` has those.
    """
    name, _, subcommand = str(parts[0]).upper().partition(" ")
    at = 1
    if name in _KEYLESS:
        return None
    if name in {"SCAN", "DBSIZE", "SCRIPT", "WAIT", "KEYS", "RANDOMKEY"}:
        raise ValueError(f"{name} is asked of a node, not of a Cluster")
    if name in {"EVAL", "EVALSHA"}:
        at = 3
        if not int(parts[2]):
            return None
    elif name in {"XREAD", "XREADGROUP"}:
        at = 1 + next(index for index, part in enumerate(parts) if part in {"STREAMS", b"STREAMS"})
    elif name == "BLMPOP":
        at = 3
    elif name in _WITH_SUBCOMMAND and not subcommand:
        at = 2
    key = parts[at]
    return key if isinstance(key, bytes) else str(key).encode()


class ClusterRedis(Redis):
    """`any_node` are connections to some node, for what concerns no key; `connect` makes the client of one node."""

    def __init__(
        self,
        settings: RedisSettings,
        topology: Topology,
        any_node: ConnectionPool,
        connect: Callable[[RedisSettings], Redis],
    ) -> None:
        super().__init__(connection_pool=any_node)
        self._settings = settings
        self._connect_node = connect
        self._nodes: dict[Address, Redis] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.topology = topology

    async def execute_command(self, *parts: Any, **options: Any) -> Any:
        """One command, by the node that has its key. Raises redis.exceptions.RedisError."""
        key = key_of(parts)
        if key is None:
            return await super().execute_command(*parts, **options)  # type: ignore[no-untyped-call]

        async def do(node: Redis, asking: bool) -> Any:  # noqa: FBT001 - see _Do
            if not asking:
                return await node.execute_command(*parts, **options)  # type: ignore[no-untyped-call]
            async with node.pipeline(transaction=False) as pipe:
                pipe.execute_command("ASKING")
                pipe.execute_command(*parts, **options)
                return (await pipe.execute())[1]

        return await self._at(slot_of(key), do)

    async def pipelined(self, commands: Sequence[Sequence[Part]]) -> list[Any]:
        """Several commands, in one write for each node; an answer that is an error stands in the list.

        Raises redis.exceptions.RedisError when a node could not be reached: some may have been executed.
        """
        answers: list[Any] = [None] * len(commands)
        by_node: dict[Address | None, list[int]] = {}
        for at, parts in enumerate(commands):
            key = key_of(parts)
            by_node.setdefault(None if key is None else await self._locate(slot_of(key)), []).append(at)
        done = await asyncio.gather(
            *(self._write(address, [commands[at] for at in ats]) for address, ats in by_node.items()),
            return_exceptions=True,
        )
        for ats, found in zip(by_node.values(), done, strict=True):
            if isinstance(found, BaseException):
                raise found
            for at, answer in zip(ats, found, strict=True):
                answers[at] = answer
        for at, answer in enumerate(answers):
            if isinstance(answer, _UNDONE):
                answers[at] = await self._settled(commands[at])
        return answers

    async def atomically(self, commands: Sequence[Sequence[Part]]) -> list[Any]:
        """Several commands on keys of one slot, all or nothing. Raises redis.exceptions.RedisError."""
        key = next(key for parts in commands if (key := key_of(parts)) is not None)

        async def do(node: Redis, asking: bool) -> list[Any]:  # noqa: FBT001 - see _Do
            if asking:
                raise TryAgainError("the slot of a transaction is being moved")
            return await _pipeline(node, commands, transaction=True)

        found: list[Any] = await self._at(slot_of(key), do)
        return found

    async def holder(self, key: str) -> Redis:
        """The client of the node that has a key. Raises redis.exceptions.RedisError."""
        return self._node(await self._locate(slot_of(key.encode())))

    async def servers(self, *, replicas: bool) -> list[Redis]:
        """The clients of all primaries, and of replicas if asked for. Raises redis.exceptions.RedisError."""
        await self._look()
        found = self.topology.primaries | (self.topology.replicas if replicas else frozenset())
        return [self._node(address) for address in sorted(found)]

    def pipeline(self, *arguments: Any, **options: Any) -> Any:
        """Not for a Cluster, whose nodes are written to one by one: `pipeline` below."""
        raise NotImplementedError

    async def scan_iter(self, *arguments: Any, **options: Any) -> AsyncIterator[Any]:  # type: ignore[override]
        """Keys on all nodes. Raises redis.exceptions.RedisError."""
        for node in await self.servers(replicas=False):
            async for key in node.scan_iter(*arguments, **options):
                yield key

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001 - redis-py's
        """Close all connections."""
        await asyncio.gather(*(node.aclose() for node in self._nodes.values()), *self._closing)
        await self.connection_pool.aclose()
        await super().aclose(close_connection_pool)

    async def _at(self, slot: int, do: _Do) -> Any:
        """Do something at the node that has a slot, and follow it until a node has done it."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + REDIRECTED_MAX_S
        address, asking = await self._locate(slot), False
        hops = 0
        while True:
            try:
                return await do(self._node(address), asking)
            except (RedisConnectionError, RedisTimeoutError):
                self.topology.forget(address)
                raise
            except _UNDONE as error:
                if loop.time() > give_up:
                    raise
                to = _redirect_of(error)
            if to is None or hops:
                # Not at once: nodes that do not agree (yet) would be asked in a circle.
                await asyncio.sleep(PAUSE_S)
            hops += 1
            if to is None:
                address, asking = await self._locate(slot), False
            else:
                address, asking = self.topology.follow(to, address), to.kind == ASK

    async def _settled(self, parts: Sequence[Part]) -> Any:
        try:
            return await self.execute_command(*parts)
        except ResponseError as error:
            return error

    async def _write(self, address: Address | None, commands: Sequence[Sequence[Part]]) -> list[Any]:
        if address is None:
            return [await self._settled(parts) for parts in commands]
        try:
            return await _pipeline(self._node(address), commands, transaction=False)
        except (RedisConnectionError, RedisTimeoutError):
            self.topology.forget(address)
            raise

    async def _locate(self, slot: int) -> Address:
        try:
            return await self.topology.locate(slot)
        except ExchangeError as error:
            raise RedisConnectionError(str(error)) from error

    async def _look(self) -> None:
        try:
            await self.topology.look()
        except ExchangeError as error:
            raise RedisConnectionError(str(error)) from error

    def _node(self, address: Address) -> Redis:
        node = self._nodes.get(address)
        if node is None:
            if len(self._nodes) >= NODES_MAX:
                self._drop_unknown()
            node = self._nodes[address] = self._connect_node(self._settings.at(address))
        return node

    def _drop_unknown(self) -> None:
        """Nodes come back under new addresses, where they are pods: forget the old ones."""
        for address in self._nodes.keys() - self.topology.primaries - self.topology.replicas:
            closing = asyncio.ensure_future(self._nodes.pop(address).aclose())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


async def servers_of(redis: Redis, *, replicas: bool = False) -> list[Redis]:
    """The client of each server that has keys, and of those that have copies if asked for; one for a single server.

    Raises redis.exceptions.RedisError.
    """
    return await redis.servers(replicas=replicas) if isinstance(redis, ClusterRedis) else [redis]


async def holder_of(redis: Redis, key: str) -> Redis:
    """The client of the server that has a key. Raises redis.exceptions.RedisError."""
    return await redis.holder(key) if isinstance(redis, ClusterRedis) else redis


async def pipeline(redis: Redis, commands: Sequence[Sequence[Part]], *, transaction: bool = False) -> list[Any]:
    """Several commands in one write, in one for each node of a Cluster; all or nothing with `transaction`.

    An answer that is an error stands in the list as its exception, so that the others are not lost with it; a
    transaction that was not executed raises. Raises redis.exceptions.RedisError.
    """
    if not commands:
        return []
    if not isinstance(redis, ClusterRedis):
        return await _pipeline(redis, commands, transaction=transaction)
    return await (redis.atomically(commands) if transaction else redis.pipelined(commands))


async def _pipeline(redis: Redis, commands: Sequence[Sequence[Part]], *, transaction: bool) -> list[Any]:
    async with redis.pipeline(transaction=transaction) as pipe:
        for parts in commands:
            pipe.execute_command(*parts)
        return await pipe.execute(raise_on_error=False)


def _redirect_of(error: ResponseError) -> Redirect | None:
    if not isinstance(error, AskError):
        return None
    return Redirect(MOVED if isinstance(error, MovedError) else ASK, error.slot_id, error.host, error.port)
