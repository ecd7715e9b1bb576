"""An instance on a Redis Cluster: its queue on one node, the lists that its replies are for on others."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import closing

import pytest
from redis.asyncio import Redis

from forebay_common.frames import ReplyFrame
from forebay_common.record import Invocation
from forebay_common.redis_client import command, connect
from forebay_common.redis_settings import RedisSettings
from forebay_common.redis_slots import slot_of
from forebay_common.scripts import load_all
from support.queue_side import call, event
from support.redis_servers import ClusterServers, TcpServer
from support.runtime_rig import RuntimeRig
from support.waiting import wait_until_async

SLOW = """
import time

def handler(event, context):
    time.sleep(event["s"])
    return event
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterServers]:
    # A node that hangs shall not make the others refuse everything.
    with closing(ClusterServers(options=("--cluster-require-full-coverage", "no"))) as servers:
        servers.start()
        yield servers


@pytest.fixture
async def redis(cluster: ClusterServers) -> AsyncIterator[Redis]:
    client = connect(RedisSettings.from_json(cluster.settings))
    await load_all(client)
    yield client
    await client.aclose()


@pytest.fixture
async def rig(redis: Redis, cluster: ClusterServers, prefix: str) -> AsyncIterator[RuntimeRig]:
    async with RuntimeRig(redis, cluster.settings, prefix) as rig:
        yield rig


def call_for(rig: RuntimeRig, cluster: ClusterServers, server: TcpServer, payload: bytes, **changes: int) -> Invocation:
    """A call whose reply list is on a server."""
    for number in range(100):
        process = f"gateway-{number}"
        if cluster.holder(rig.platform_keys.reply(process)) is server:
            return call(payload, reply_address=f"reply:{process}", **changes)
    raise AssertionError("a hundred lists are on two nodes")


def elsewhere(rig: RuntimeRig, cluster: ClusterServers) -> list[TcpServer]:
    """The servers that have not the function's queue."""
    own = cluster.holder(rig.queue.sync)
    return [server for server in cluster.primaries if server is not own]


async def reply_to(rig: RuntimeRig, record: Invocation) -> ReplyFrame:
    answer = await command(rig.redis, "BLPOP", f"{rig.platform_keys.prefix}:{record.reply_address}", 15)
    assert answer is not None, rig.errors()
    frame = ReplyFrame.decode(answer[1])
    assert frame.token == record.reply_token
    return frame


async def wait_finished(rig: RuntimeRig, timeout_s: float = 10) -> None:
    async def finished() -> bool:
        return await rig.queued(rig.queue.sync) == (0, 0)

    await wait_until_async(finished, "calls are acknowledged", timeout_s)


async def test_replies_reach_lists_on_every_node_and_their_calls_are_acknowledged(
    rig: RuntimeRig, cluster: ClusterServers
) -> None:
    await rig.run()
    for server in cluster.primaries:
        record = await rig.append(call_for(rig, cluster, server, b'{"n": 1}'))
        assert (await reply_to(rig, record)).payload == b'{"n": 1}'
    await wait_finished(rig)
    assert await rig.drain() == 0


async def test_a_large_reply_is_in_redis_before_its_caller_is_told(rig: RuntimeRig, cluster: ClusterServers) -> None:
    await rig.run("def handler(event, context): return 'x' * 400_000")
    record = await rig.append(call_for(rig, cluster, elsewhere(rig, cluster)[0], b"1"))
    frame = await reply_to(rig, record)
    assert len(await command(rig.redis, "GET", f"{rig.keys.base}:{frame.claim}")) == 400_002
    await wait_finished(rig)


async def test_a_call_is_acknowledged_only_once_its_replys_node_has_answered(
    rig: RuntimeRig, cluster: ClusterServers
) -> None:
    await rig.run(SLOW)
    hangs, answers = elsewhere(rig, cluster)
    first = await rig.append(call_for(rig, cluster, hangs, b'{"s": 0}'))
    await reply_to(rig, first)  # there is a connection to it
    held = call_for(rig, cluster, hangs, b'{"s": 0.5}')
    await rig.append(held)

    async def leased() -> bool:
        return await rig.queued(rig.queue.sync) == (1, 1)

    # Before the pause: the node that hangs may be the one that is asked where keys are.
    others = [call_for(rig, cluster, answers, b'{"s": 0.1}') for _ in range(10)]
    await wait_until_async(leased, "the call runs")
    hangs.pause()
    try:
        for other in others:
            record = await rig.append(other)
            assert (await reply_to(rig, record)).payload == b'{"s": 0.1}', "others are not held up"
        await wait_until_async(leased, "the others are acknowledged, and the one whose reply has not come is not")
    finally:
        hangs.resume()
    assert (await reply_to(rig, held)).payload == b'{"s": 0.5}'
    await wait_finished(rig)


async def test_a_reply_whose_node_is_away_is_given_up_when_its_callers_wait_is_over(
    rig: RuntimeRig, cluster: ClusterServers
) -> None:
    await rig.run()
    hangs = elsewhere(rig, cluster)[0]
    hangs.pause()
    try:
        await rig.append(call_for(rig, cluster, hangs, b"1", wait_ms=2_000))
        # The connection that is being made to it is given up first.
        await wait_finished(rig, 20)
    finally:
        hangs.resume()
    assert "before its caller's wait was over" in rig.errors()


async def test_an_instance_follows_its_functions_slot(rig: RuntimeRig, cluster: ClusterServers) -> None:
    await rig.run()
    slot = slot_of(rig.keys.base.encode())
    for _ in range(2):
        source = cluster.holder(rig.queue.sync)
        target = elsewhere(rig, cluster)[0]
        await asyncio.to_thread(cluster.move_slot, slot, source, target)
        record = await rig.append(call_for(rig, cluster, source, secrets.token_hex(8).encode().join((b'"', b'"'))))
        assert (await reply_to(rig, record)).payload == record.payload
        await rig.append(event(b"1"))

        async def finished() -> bool:
            return await rig.queued(rig.queue.async_) == (0, 0)

        await wait_until_async(finished, "events are run there too")
    await wait_finished(rig)
    assert await rig.drain() == 0


async def test_a_reply_follows_its_lists_slot(rig: RuntimeRig, cluster: ClusterServers) -> None:
    await rig.run()
    source, target = elsewhere(rig, cluster)
    record = call_for(rig, cluster, source, b"1")
    key = f"{rig.platform_keys.prefix}:{record.reply_address}"
    await rig.append(record)
    await reply_to(rig, record)
    await asyncio.to_thread(cluster.move_slot, slot_of(key.encode()), source, target)
    later = call(b"2", reply_address=record.reply_address)
    await rig.append(later)
    assert (await reply_to(rig, later)).payload == b"2"
    await wait_finished(rig)
