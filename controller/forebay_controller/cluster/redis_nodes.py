"""Which servers a Redis consists of: a single one or a primary with its replicas, or the nodes of a Cluster."""

from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from forebay_common.redis_client import command
from forebay_common.redis_cluster import ClusterRedis
from forebay_common.redis_settings import Address


async def run_id(redis: Redis) -> str:
    """The id of a server's run: another one after each restart. Raises redis.exceptions.RedisError."""
    info: dict[str, Any] = await command(redis, "INFO", "server")
    return str(info["run_id"])


async def nodes_of(redis: Redis) -> tuple[list[Address], list[Address]]:
    """A Cluster's primaries, none for a single server; and all replicas. Raises redis.exceptions.RedisError."""
    if isinstance(redis, ClusterRedis):
        await redis.servers(replicas=True)
        return sorted(redis.topology.primaries), sorted(redis.topology.replicas)
    return [], replicas(await command(redis, "INFO", "replication"))


def replicas(info: Mapping[str, Any]) -> list[Address]:
    """The replicas that INFO tells of, as redis-py reads it (pure): `slave0`: {ip, port, state, …}."""
    members = [value for name, value in info.items() if name.startswith("slave") and isinstance(value, dict)]
    return [Address(str(value["ip"]), int(value["port"])) for value in members]


async def replay_problem(redis: Redis, prefix: str) -> str:
    """Why a server would lose what it holds when it is restarted; "" for nothing that can be seen.

    It reads its append-only file as its default user, and executes transactions in there as far as that one's rules
    allow (https://github.com/valkey-io/valkey/issues/3983). All that scripts write are transactions.
    Raises redis.exceptions.RedisError.
    """
    try:
        answer: bytes = await command(redis, "ACL", "DRYRUN", "default", "XADD", f"{prefix}:key", "*", "field", "value")
    except NoPermissionError:
        return ""
    if answer == b"OK":
        return ""
    return (
        f"Redis's default user may not write ({answer.decode(errors='replace')}), and with its rules Redis reads its "
        "append-only file at a restart: accepted events would be lost. It may be off, and nobody needs its password, "
        "but give it the rights: ACL SETUSER default off ~* &* +@all, and the same in Redis's ACL file"
    )
