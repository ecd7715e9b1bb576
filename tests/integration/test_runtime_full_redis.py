"""Redis that is full or read-only for a while: what was done is kept and delivered later, and nothing new is begun."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from forebay_common.events import find_event
from forebay_common.frames import ERROR_NONE
from forebay_common.redis_client import RedisSettings, command, connect
from forebay_common.scripts import load_all
from support.queue_side import call, event
from support.runtime_rig import RuntimeRig
from support.valkey import ValkeyServer
from support.waiting import wait_until, wait_until_async

SLOW = """
    import sys, time
    def handler(event, context):
        print("started")
        sys.stdout.flush()
        time.sleep(event["s"])
        return event
"""


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    server = ValkeyServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
async def rig(own_valkey: ValkeyServer, prefix: str) -> AsyncIterator[RuntimeRig]:
    redis = connect(RedisSettings.from_json(own_valkey.settings))
    await load_all(redis)
    async with RuntimeRig(redis, own_valkey.settings, prefix) as rig:
        await rig.run(SLOW)
        yield rig
    await redis.aclose()


async def running(rig: RuntimeRig) -> None:
    await asyncio.to_thread(wait_until, lambda: "started" in rig.messages(), "a call runs")


async def refused(redis: Redis, command_name: str, times: int) -> None:
    async def so_often() -> bool:
        stats = (await redis.info("commandstats")).get(f"cmdstat_{command_name}", {})
        return int(stats.get("rejected_calls", 0)) >= times

    await wait_until_async(so_often, f"{command_name} was refused {times} times")


async def test_answers_that_a_full_redis_refuses_are_kept_and_few(rig: RuntimeRig) -> None:
    sent = [await rig.append(call(b'{"s": 0.3}', timeout_ms=20_000)) for _ in range(6)]
    await running(rig)

    await command(rig.redis, "CONFIG", "SET", "maxmemory", 1)
    await refused(rig.redis, "rpush", 6)

    # The one that ran, and the one for which was read together with the first attempt to answer it.
    assert await rig.queued(rig.queue.sync) == (4, 0)
    assert rig.messages().count("started") == 2
    await command(rig.redis, "CONFIG", "SET", "maxmemory", 0)
    answers = await rig.replies(6)
    assert [answers[record.reply_token].error_kind for record in sent] == [ERROR_NONE] * 6
    assert "results wait for Redis: OOM" in rig.errors()
    assert await rig.drain() == 0


async def test_ends_that_a_read_only_redis_refuses_are_delivered_once_it_takes_writes(rig: RuntimeRig) -> None:
    record = await rig.append(event(b'{"s": 0.3}', timeout_ms=20_000))
    await running(rig)
    waiting = await rig.append(call(b'{"s": 0}'))

    await command(rig.redis, "REPLICAOF", "127.0.0.1", 1)
    await asyncio.to_thread(
        wait_until, lambda: any(message.startswith("END") for message in rig.messages()), "the event's run ends"
    )
    await refused(rig.redis, "xreadgroup", 3)
    assert rig.runtime.poll() is None
    await command(rig.redis, "REPLICAOF", "NO", "ONE")

    assert (await rig.reply_to(waiting)).error_kind == ERROR_NONE
    [state] = await find_event(rig.redis, rig.queue, [record.invocation_id])
    assert state is not None
    assert (state.status, state.attempts) == ("succeeded", 1)
    assert rig.messages().count("started") == 2
    assert await rig.drain() == 0
