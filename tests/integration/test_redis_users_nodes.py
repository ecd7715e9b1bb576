"""Functions' Redis users where Redis is several servers: a Cluster's nodes, or a primary that sentinels replace."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError

from forebay_common import scripts
from forebay_common.keys import PlatformKeys
from forebay_common.queue import VersionQueue, create_queues
from forebay_common.redis_client import command, connect, run
from forebay_common.redis_settings import RedisSettings
from forebay_common.scripts import load_all
from forebay_common.spec import FunctionSpec
from forebay_controller.cluster.access import acl_rules, redis_user
from forebay_controller.cluster.redis_users import RedisUsers
from support.queue_side import append, call, lease
from support.redis_servers import ClusterServers, SentinelGroup, TcpServer
from support.waiting import wait_until_async

PLATFORM = PlatformKeys("users")
SPEC = FunctionSpec("team-a", "hello", "1" * 32, "python3.13", "app.handler", "0" * 64, 1)
PASSWORD = "a function's own"
RULES = acl_rules(PLATFORM, SPEC, PASSWORD)
QUEUE = VersionQueue(PLATFORM.function(SPEC.namespace, SPEC.name, SPEC.uid))


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterServers]:
    with closing(ClusterServers(replicas=True)) as servers:
        servers.start()
        yield servers


@asynccontextmanager
async def users_of(settings: dict[str, Any]) -> AsyncIterator[RedisUsers]:
    users = RedisUsers(RedisSettings.from_json(settings), PLATFORM.prefix, look_every_s=0.1)
    try:
        await users.start({SPEC.uid: RULES})
        yield users
    finally:
        await users.close()


@asynccontextmanager
async def client_of(settings: dict[str, Any], *, function: bool = True) -> AsyncIterator[Redis]:
    login = {"username": redis_user(PLATFORM.prefix, SPEC.uid), "password": PASSWORD} if function else {}
    client = connect(RedisSettings.from_json(settings | login))
    try:
        yield client
    finally:
        await client.aclose()


async def may_log_in(server: TcpServer) -> bool:
    async with client_of(server.settings) as client:
        try:
            await command(client, "TIME")
        except RedisError:
            return False
        return True


async def test_every_node_of_a_cluster_has_a_functions_user(cluster: ClusterServers) -> None:
    async with users_of(cluster.settings) as users:
        assert all([await may_log_in(server) for server in cluster.primaries])
        for server in cluster.servers:
            await wait_until_async(partial(may_log_in, server), "replicas get it too")
        await users.remove(SPEC.uid)
        assert not any([await may_log_in(server) for server in cluster.primaries])


async def test_a_node_that_was_restarted_gets_it_again(cluster: ClusterServers) -> None:
    async with users_of(cluster.settings):
        replica = cluster.servers[-1]
        await wait_until_async(lambda: may_log_in(replica), "the replica has it")
        replica.kill()
        replica.start()
        await wait_until_async(lambda: may_log_in(replica), "the replica has it again")


async def test_an_instance_does_its_work_on_a_cluster_and_nothing_on_other_functions_keys(
    cluster: ClusterServers,
) -> None:
    other = VersionQueue(PLATFORM.function("team-a", "other", "2" * 32))
    async with (
        users_of(cluster.settings),
        client_of(cluster.settings, function=False) as redis,
        client_of(cluster.settings) as instance,
    ):
        await load_all(redis)
        await create_queues(redis, QUEUE)
        await create_queues(redis, other)
        await append(redis, QUEUE, call())
        [entry_id] = await lease(instance, QUEUE.sync, "i1", 1)
        assert await run(instance, scripts.EXTEND, (QUEUE.sync,), ("i1", entry_id)) == [entry_id]
        for process in range(8):  # on all nodes
            await command(instance, "RPUSH", PLATFORM.reply(str(process)), b"frame")
        await command(instance, "PUBLISH", PLATFORM.wake_channel, "team-a/hello/u1")
        attempts = (("XADD", other.sync, "*", "r", "x"), ("LRANGE", PLATFORM.reply("1"), 0, -1), ("CLUSTER", "NODES"))
        for attempt in attempts:
            with pytest.raises(NoPermissionError):
                await command(instance, *attempt)


async def test_the_new_primary_after_a_failover_has_it() -> None:
    with closing(SentinelGroup()) as group:
        group.start()
        async with users_of(group.settings):
            for replica in group.replicas:
                await wait_until_async(partial(may_log_in, replica), "replicas have it before they need it")
            group.first.kill()
            group.wait_failed_over()
            async with client_of(group.settings) as instance:
                await command(instance, "TIME")
