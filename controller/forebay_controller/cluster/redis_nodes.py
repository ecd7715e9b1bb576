"""Which servers a Redis consists of: replicas of a single one, or the nodes of a cluster."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from redis.asyncio import Redis

from forebay_common.redis_client import RedisSettings, command


class Node(NamedTuple):
    """Where one server is."""

    host: str
    port: int


async def run_id(redis: Redis) -> str:
    """The id of a server's run: another one after each restart. Raises redis.exceptions.RedisError."""
    info: dict[str, Any] = await command(redis, "INFO", "server")
    return str(info["run_id"])


async def nodes_of(redis: Redis, settings: RedisSettings) -> list[Node]:
    """The servers beside the one that `settings` name: its replicas, or its cluster's nodes.

    Raises redis.exceptions.RedisError.
    """
    if settings.host is None:
        return []
    info: dict[str, Any] = await command(redis, "INFO")
    if info.get("cluster_enabled") == 1:
        lines = (await command(redis, "CLUSTER", "NODES")).decode().splitlines()
        return cluster_nodes(lines)
    return replicas(info)


def replicas(info: Mapping[str, Any]) -> list[Node]:
    """The replicas that INFO tells of, as redis-py reads it (pure): `slave0`: {ip, port, state, …}."""
    members = [value for name, value in info.items() if name.startswith("slave") and isinstance(value, dict)]
    return [Node(str(value["ip"]), int(value["port"])) for value in members]


def cluster_nodes(lines: list[str]) -> list[Node]:
    """The nodes that CLUSTER NODES tells of (pure): `ID IP:PORT@BUS[,HOSTNAME] FLAGS …`; not the asked one itself."""
    found = []
    for line in lines:
        _, address, flags, *_ = line.split()
        host, _, port = address.split("@")[0].rpartition(":")
        if host and not {"myself", "noaddr", "handshake"} & set(flags.split(",")):
            found.append(Node(host, int(port)))
    return found
