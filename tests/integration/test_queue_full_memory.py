"""A Redis whose memory is full: nothing is accepted that is not stored, and what ends is still let go of."""

from collections.abc import AsyncIterator, Iterator
from contextlib import closing

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from forebay_common.events import CancelResult, cancel_event
from forebay_common.keys import PlatformKeys
from forebay_common.queue import VersionQueue, create_queues
from forebay_common.recovery import abandon_instance
from forebay_common.redis_client import RedisSettings, command, connect
from forebay_common.scripts import load_all
from support.queue_side import (
    accept,
    accept_once,
    append,
    call,
    event,
    finish_async,
    keys_of,
    lease,
    length,
    start_instance,
)
from support.redis_servers import KINDS, TcpServer

PLATFORM = PlatformKeys("test")
QUEUE = VersionQueue(PLATFORM.function("default", "hello", "u1"))
OUTCOMES = ("done", "retry", "dead", "expired", "released")


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[TcpServer]:
    with closing(TcpServer(request.param)) as server:
        server.start()
        yield server


@pytest.fixture
async def redis(server: TcpServer) -> AsyncIterator[Redis]:
    client = connect(RedisSettings.from_json(server.settings))
    await command(client, "CONFIG", "SET", "maxmemory", 0)
    await command(client, "FLUSHALL")
    await load_all(client)
    await create_queues(client, QUEUE)
    yield client
    await client.aclose()


async def fill(redis: Redis) -> None:
    await command(redis, "CONFIG", "SET", "maxmemory-policy", "noeviction")
    await command(redis, "CONFIG", "SET", "maxmemory", 1)


@pytest.mark.parametrize("changes", [{}, {"group_hash": b"a" * 16}])
@pytest.mark.parametrize("delay_ms", [0, 60_000])
async def test_an_event_is_refused_and_leaves_nothing(redis: Redis, delay_ms: int, changes: dict[str, bytes]) -> None:
    before = await keys_of(redis, QUEUE)
    await fill(redis)
    with pytest.raises(ResponseError, match="used memory"):
        await accept(redis, QUEUE, event(**changes), delay_ms=delay_ms, once=(b"k" * 16, b"p" * 16, 60))
    with pytest.raises(ResponseError, match="used memory"):
        await accept_once(redis, QUEUE, call(), b"k" * 16, b"p" * 16)
    assert await keys_of(redis, QUEUE) == before
    assert await length(redis, QUEUE) == (0, 0, 0, 0)


async def test_what_runs_can_end_so_that_memory_is_freed(redis: Redis) -> None:
    for _ in OUTCOMES:
        await append(redis, QUEUE, event())
    cancelled = event()
    await append(redis, QUEUE, cancelled)
    held = await lease(redis, QUEUE.async_, "i1", len(OUTCOMES))
    await fill(redis)
    for entry_id, outcome in zip(held, OUTCOMES, strict=True):
        assert await finish_async(redis, QUEUE, entry_id, "i1", outcome, delay_ms=60_000, frame=b"f") == 1
    assert (await cancel_event(redis, QUEUE, cancelled.invocation_id)).result is CancelResult.CANCELLED
    assert await length(redis, QUEUE) == (0, 1, 1, 2)


async def test_a_dead_instances_events_run_again(redis: Redis) -> None:
    await start_instance(redis, QUEUE, "i1")
    await append(redis, QUEUE, event())
    await lease(redis, QUEUE.async_, "i1")
    await fill(redis)
    assert (await abandon_instance(redis, PLATFORM, QUEUE, "i1")).async_requeued == 1
