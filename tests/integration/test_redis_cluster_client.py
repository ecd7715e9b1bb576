"""The controller's client on a real Redis Cluster: each command at its key's node, whatever moves meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from forebay_common import scripts
from forebay_common.keys import PlatformKeys
from forebay_common.queue import wakes
from forebay_common.redis_client import checked, command, connect, pipeline, run
from forebay_common.redis_cluster import holder_of, servers_of
from forebay_common.redis_settings import RedisSettings
from forebay_common.redis_slots import slot_of
from forebay_common.scripts import load_all
from support.redis_servers import KINDS, ClusterServers, TcpServer, node_id
from support.waiting import wait_until_async

KEYS = [f"key-{number}" for number in range(40)]
TAG = "{tag}"
SLOT = str(slot_of(TAG.encode()))


@pytest.fixture(scope="module", params=KINDS)
def cluster(request: pytest.FixtureRequest) -> Iterator[ClusterServers]:
    with closing(ClusterServers(request.param, replicas=True)) as servers:
        servers.start()
        yield servers


@pytest.fixture
async def redis(cluster: ClusterServers) -> AsyncIterator[Redis]:
    client = connect(RedisSettings.from_json(cluster.settings))
    yield client
    for server in await servers_of(client):
        await command(server, "FLUSHALL")
    await client.aclose()


@contextmanager
def moving(cluster: ClusterServers) -> Iterator[tuple[TcpServer, TcpServer]]:
    """The tag's slot is halfway between its node and another; it is the other's in the end."""
    source = cluster.holder(TAG)
    target = next(server for server in cluster.primaries if server is not source)
    target.ask("CLUSTER", "SETSLOT", SLOT, "IMPORTING", node_id(source))
    source.ask("CLUSTER", "SETSLOT", SLOT, "MIGRATING", node_id(target))
    try:
        yield source, target
    finally:
        cluster.move_slot(int(SLOT), source, target)


async def test_commands_in_one_pipeline_go_to_the_nodes_of_their_keys(redis: Redis, cluster: ClusterServers) -> None:
    assert len({cluster.holder(key).port for key in KEYS}) == 3
    checked(await pipeline(redis, [("SET", key, number) for number, key in enumerate(KEYS)]))
    found = await pipeline(
        redis, [("GET", KEYS[7]), ("PING",), ("INCR", KEYS[8]), ("HGET", KEYS[9], "f"), ("GET", KEYS[0])]
    )
    assert found[:3] == [b"7", True, 9]
    assert isinstance(found[3], ResponseError), "an error stands in its place, and the others are there"
    assert found[4] == b"0"
    assert sorted([key.decode() async for key in redis.scan_iter(match="key-*")]) == sorted(KEYS)


async def test_a_transaction_is_one_slots(redis: Redis) -> None:
    done = await pipeline(redis, [("SET", f"{TAG}a", 1), ("INCR", f"{TAG}a"), ("INCR", f"{TAG}b")], transaction=True)
    assert done == [True, 2, 1]
    with pytest.raises(ResponseError):
        await pipeline(redis, [("SET", "key-1", 1), ("SET", "key-2", 1)], transaction=True)
    assert await command(redis, "EXISTS", "key-1") == 0


async def test_commands_follow_a_slot_that_has_moved(redis: Redis, cluster: ClusterServers) -> None:
    assert await command(redis, "SET", f"{TAG}n", 1)
    for expected in (3, 5):
        source = cluster.holder(TAG)
        cluster.move_slot(int(SLOT), source, next(s for s in cluster.primaries if s is not source))
        assert await pipeline(redis, [("INCR", f"{TAG}n"), ("INCR", f"{TAG}n")]) == [expected - 1, expected]
    source = cluster.holder(TAG)
    cluster.move_slot(int(SLOT), source, next(s for s in cluster.primaries if s is not source))
    assert await pipeline(redis, [("INCR", f"{TAG}n")], transaction=True) == [6]


async def test_keys_of_a_slot_halfway_between_two_nodes_are_found(redis: Redis, cluster: ClusterServers) -> None:
    assert await command(redis, "SET", f"{TAG}old", 1)
    with moving(cluster) as (source, target):
        assert await command(redis, "SET", f"{TAG}new", 1)
        assert await pipeline(redis, [("INCR", f"{TAG}old"), ("INCR", f"{TAG}new"), ("SET", f"{TAG}newer", 1)]) == [
            2,
            2,
            True,
        ]
        assert source.ask("CLUSTER", "COUNTKEYSINSLOT", SLOT) == b":1\r\n"
        assert target.ask("CLUSTER", "COUNTKEYSINSLOT", SLOT) == b":2\r\n"
    assert await pipeline(redis, [("GET", f"{TAG}{name}") for name in ("old", "new", "newer")]) == [b"2", b"2", b"1"]


async def test_what_needs_keys_of_both_halves_waits_for_the_end(redis: Redis, cluster: ClusterServers) -> None:
    await command(redis, "SET", f"{TAG}old", 1)
    with moving(cluster):
        await command(redis, "SET", f"{TAG}new", 2)
        both = asyncio.create_task(command(redis, "MGET", f"{TAG}old", f"{TAG}new"))
        transaction = asyncio.create_task(
            pipeline(redis, [("INCR", f"{TAG}old"), ("INCR", f"{TAG}new")], transaction=True)
        )
        await command(redis, "PING")
        assert not both.done()
    assert await transaction == [2, 3]
    assert len(await both) == 2


async def test_every_node_gets_the_scripts_replicas_too(redis: Redis, cluster: ClusterServers) -> None:
    await load_all(redis)
    for server in cluster.servers:
        assert server.ask("SCRIPT", "EXISTS", scripts.PUBLISH_FUNCTION.sha) == b"*1\r\n:1\r\n"
    keys = PlatformKeys("p")
    assert (
        await run(redis, scripts.PUBLISH_FUNCTION, (keys.functions, keys.generation), (keys.functions, "a/b", "{}"))
        == 1
    )


async def test_a_script_that_a_node_has_forgotten_is_loaded_again(redis: Redis, cluster: ClusterServers) -> None:
    await load_all(redis)
    keys = PlatformKeys("p")
    cluster.holder(keys.functions).ask("SCRIPT", "FLUSH")
    assert (
        await run(redis, scripts.PUBLISH_FUNCTION, (keys.functions, keys.generation), (keys.functions, "a/b", "{}"))
        == 1
    )


async def test_what_is_published_at_one_node_is_heard_at_all(redis: Redis, cluster: ClusterServers) -> None:
    keys = PlatformKeys("p")
    heard = set()
    async with asyncio.timeout(10):
        async for announced in wakes(redis, keys):
            if announced is None:
                for number, server in enumerate(cluster.primaries):
                    server.ask("PUBLISH", keys.wake_channel, f"a/b/{number}")
                continue
            heard.add(announced)
            if len(heard) == len(cluster.primaries):
                break
    assert heard == {"a/b/0", "a/b/1", "a/b/2"}


async def test_a_node_that_dies_fails_its_keys_until_its_replica_has_them(
    redis: Redis, cluster: ClusterServers
) -> None:
    checked(await pipeline(redis, [("SET", key, 1) for key in KEYS]))
    primary = cluster.holder(KEYS[0])
    other = next(key for key in KEYS if cluster.holder(key) is not primary)
    primary.kill()
    with pytest.raises(RedisError):
        await pipeline(redis, [("GET", KEYS[0]), ("GET", other)])

    async def is_back() -> Any:
        with suppress(RedisError):
            return await command(redis, "GET", KEYS[0])

    await wait_until_async(is_back, "the replica has its keys", 30)
    assert checked(await pipeline(redis, [("GET", key) for key in KEYS])) == [b"1"] * len(KEYS)
    primary.start()


async def test_commands_about_one_nodes_keys_are_asked_of_a_node(redis: Redis, cluster: ClusterServers) -> None:
    with pytest.raises(ValueError, match="of a node"):
        await command(redis, "SCAN", 0)
    await command(redis, "SET", f"{TAG}a", 1)
    _, found = await command(await holder_of(redis, TAG), "SCAN", 0, "COUNT", 1000)
    assert f"{TAG}a".encode() in found
