"""Which servers a Redis consists of: a single one or a primary with its replicas, or the nodes of a Cluster."""

from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis

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
