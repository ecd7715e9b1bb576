"""The controller's way to Redis: a client that never repeats a command by itself, and what it is used by."""

from collections.abc import Sequence
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from forebay_common.redis_cluster import ClusterRedis, Part, pipeline
from forebay_common.redis_connections import (
    FoundConnection,
    Losses,
    PrimaryConnection,
    TlsFoundConnection,
    TlsPrimaryConnection,
)
from forebay_common.redis_sentinel import Sentinels
from forebay_common.redis_settings import CONNECT_TIMEOUT_S, RedisSettings
from forebay_common.redis_topology import Topology
from forebay_common.scripts import Script, load_all

__all__ = ["Call", "Part", "RedisSettings", "checked", "command", "connect", "pipeline", "run", "run_many"]

COMMAND_TIMEOUT_S = 10.0
"""Above `BLOCK_MS`, so that a blocking read ends by itself."""

Call = tuple[Script, Sequence[str], Sequence[Part]]
"""A script with its keys and arguments."""


def connect(settings: RedisSettings) -> Redis:
    """A client that connects on first use and answers bytes.

    No command is repeated after a connection broke: only the caller knows whether it may run twice (an XADD of a
    sync call may not). Raises redis.exceptions.ConnectionError or TimeoutError from the commands; through Sentinel
    also where a server that was the primary has become a replica.
    """
    options: dict[str, Any] = {
        "username": settings.username,
        "password": settings.password,
        "db": settings.db,
        "decode_responses": False,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": COMMAND_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        # Redis 7.0 and Valkey differ in what they answer under RESP3; under RESP2 they are alike.
        "protocol": 2,
    }
    if settings.tls and settings.ca_file is not None:
        options["ssl_ca_certs"] = settings.ca_file
    if settings.sentinel_master is not None:
        kind: type[FoundConnection] = TlsPrimaryConnection if settings.tls else PrimaryConnection
        where = Sentinels(settings).primary
        return Redis.from_pool(ConnectionPool(connection_class=kind, where=where, losses=Losses(), **options))
    if settings.is_cluster:
        kind = TlsFoundConnection if settings.tls else FoundConnection
        topology = Topology(settings)
        any_node = ConnectionPool(connection_class=kind, where=topology.any_primary, **options)
        return ClusterRedis(settings, topology, any_node, connect)
    if settings.host is None:
        return Redis(unix_socket_path=settings.unix_socket, **options)
    return Redis(host=settings.host, port=settings.port, ssl=settings.tls, **options)


async def command(redis: Redis, *parts: Part) -> Any:
    """One command, with redis-py's answer for it. redis-py's own methods promise str where this client gives bytes."""
    return await redis.execute_command(*parts)  # type: ignore[no-untyped-call]


def checked(answers: Sequence[Any]) -> Sequence[Any]:
    """The answers of a pipeline in which no command may fail; raises the first error among them."""
    for answer in answers:
        if isinstance(answer, RedisError):
            raise answer
    return answers


async def run_many(redis: Redis, calls: Sequence[Call]) -> list[Any]:
    """Run scripts (each with its keys and arguments) in one write; loads them when Redis does not know them.

    Not for instances: they may call EVALSHA only. A script that was not known did nothing, so calling it again is
    safe whatever it does. Raises redis.exceptions.RedisError.
    """
    parts = [("EVALSHA", script.sha, len(keys), *keys, *arguments) for script, keys, arguments in calls]
    answers = await pipeline(redis, parts)
    unknown = [at for at, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
    if unknown:
        await load_all(redis)
        for at, answer in zip(unknown, await pipeline(redis, [parts[at] for at in unknown]), strict=True):
            answers[at] = answer
    return list(checked(answers))


async def run(redis: Redis, script: Script, keys: Sequence[str], arguments: Sequence[Part] = ()) -> Any:
    """Run one script, as `run_many` does."""
    return (await run_many(redis, [(script, keys, arguments)]))[0]
