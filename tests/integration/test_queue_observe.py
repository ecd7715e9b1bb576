"""What the controller sees of the queue, and what it tells instances."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from redis.asyncio import Redis

from forebay_common import limits
from forebay_common.keys import GROUP, RECORD_FIELD, PlatformKeys
from forebay_common.queue import (
    InstanceReport,
    QueueState,
    StreamState,
    VersionQueue,
    create_queues,
    delete_function_keys,
    observe,
    read_instances,
    send_control,
    trim_dead_letters,
    wakes,
)
from forebay_common.record import FLAG_DESTINATION_SUCCESS
from forebay_common.redis_client import command
from support.leaks import leaked_keys
from support.queue_side import accept, append, call, event, finish_async, lease, start_instance
from support.waiting import wait_until_async

pytestmark = pytest.mark.usefixtures("no_leaked_keys")

EMPTY = QueueState(StreamState(0), StreamState(0))


async def test_an_empty_queue(redis: Redis, queue: VersionQueue) -> None:
    assert await observe(redis, [queue]) == [EMPTY]


async def test_creating_a_queue_again_keeps_what_is_in_it(redis: Redis, queue: VersionQueue) -> None:
    await append(redis, queue, call())
    await create_queues(redis, queue)
    [state] = await observe(redis, [queue])
    assert state is not None
    assert state.sync.queued == 1


async def test_queued_is_length_minus_pending_and_counts_by_instance(redis: Redis, queue: VersionQueue) -> None:
    for _ in range(5):
        await append(redis, queue, call())
    await append(redis, queue, event())
    await lease(redis, queue.sync, "i1", 2)
    await lease(redis, queue.sync, "i2", 1)
    await lease(redis, queue.async_, "i2", 1)

    [state] = await observe(redis, [queue])

    assert state is not None
    assert (state.sync.length, state.sync.queued, state.sync.in_flight) == (5, 2, 3)
    assert state.sync.pending == {"i1": 2, "i2": 1}
    assert (state.async_.queued, state.async_.in_flight, state.held_by("i2"), state.held_by("i9")) == (0, 1, 2, 0)
    assert state.async_.oldest_age_ms is None


async def test_age_is_that_of_the_oldest_entry_nobody_was_given(redis: Redis, queue: VersionQueue) -> None:
    seconds, _ = await redis.time()
    for age_s in (90, 60, 30):
        entry_id = f"{(seconds - age_s) * 1000}-0"
        await command(redis, "XADD", queue.sync, entry_id, RECORD_FIELD, call().encode())
    await lease(redis, queue.sync, "i1")

    [state] = await observe(redis, [queue])

    assert state is not None
    assert state.sync.oldest_age_ms is not None
    assert 60_000 <= state.sync.oldest_age_ms < 62_000 + 1_000


async def test_delayed_and_dead_are_counted(redis: Redis, queue: VersionQueue) -> None:
    for outcome in ("retry", "dead"):
        entry_id = await append(redis, queue, event())
        await lease(redis, queue.async_, "i1")
        await finish_async(redis, queue, entry_id, "i1", outcome, delay_ms=60_000, reason="RetriesExhausted")

    [state] = await observe(redis, [queue])

    assert state is not None
    assert (state.delayed, state.dead) == (1, 1)
    assert state.delayed_due_in_ms is not None
    assert 50_000 < state.delayed_due_in_ms <= 60_000


async def test_what_waits_for_its_groups_turn_or_its_destination_and_results_are_counted(
    redis: Redis, queue: VersionQueue
) -> None:
    for _ in range(3):
        await accept(redis, queue, event(group_hash=b"a" * 16, flags=FLAG_DESTINATION_SUCCESS))
    [entry_id] = await lease(redis, queue.async_, "i1")
    await finish_async(redis, queue, entry_id, "i1", "done", group=b"a" * 16)

    [state] = await observe(redis, [queue])

    assert state is not None
    assert (state.async_.queued, state.grouped, state.outbox, state.ended) == (1, 1, 1, 1)


async def test_many_functions_come_in_order_and_a_missing_one_is_none(
    redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys
) -> None:
    missing = VersionQueue(platform_keys.function("default", "gone", "u0"))
    await append(redis, queue, call())
    states = await observe(redis, [missing, queue, missing])
    assert [state is None for state in states] == [True, False, True]
    assert await observe(redis, []) == []


async def test_scripts_are_loaded_again_after_redis_forgot_them(redis: Redis, queue: VersionQueue) -> None:
    await redis.script_flush()
    assert await observe(redis, [queue, queue]) == [EMPTY, EMPTY]


async def test_heartbeats_are_read_and_absent_ones_are_none(redis: Redis, queue: VersionQueue) -> None:
    await start_instance(redis, queue, "i1", state="starting")
    reports = await read_instances(redis, [(queue.keys, "i1"), (queue.keys, "i2")])
    assert reports == {"i1": InstanceReport("starting", pid=4711, busy_us=1500), "i2": None}


async def test_control_reaches_an_instance_that_is_there(redis: Redis, queue: VersionQueue) -> None:
    await start_instance(redis, queue, "i1")

    assert await send_control(redis, queue.keys, "i1", {"command": "drain"})
    assert not await send_control(redis, queue.keys, "i2", {"command": "drain"})

    [[_, [[_, fields]]]] = await command(
        redis, "XREADGROUP", "GROUP", GROUP, "i1", "STREAMS", queue.keys.control("i1"), ">"
    )
    assert {name: json.loads(value) for name, value in fields.items()} == {b"c": {"command": "drain"}}
    assert not await command(redis, "EXISTS", queue.keys.control("i2"))


async def test_the_controller_trims_dead_letters_with_their_bodies(
    redis: Redis, queue: VersionQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DEAD_LETTERS_MAX", 2)
    oldest = event(None, claim="body:aa")
    body = queue.keys.body("aa")
    await command(redis, "SET", body, b"x", "EX", 60)
    for record in (oldest, event(), event()):
        await command(redis, "XADD", queue.dead, "*", RECORD_FIELD, record.encode(), "reason", "RetriesExhausted")

    assert await trim_dead_letters(redis, queue, 3) == 1
    assert await trim_dead_letters(redis, queue, 3) == 0

    assert await command(redis, "XLEN", queue.dead) == 2
    assert not await command(redis, "EXISTS", body)


async def test_deleting_a_function_leaves_no_key_and_touches_no_other(
    redis: Redis, prefix: str, platform_keys: PlatformKeys
) -> None:
    kept = VersionQueue(platform_keys.function("default", "hello", "u2"))
    gone = VersionQueue(platform_keys.function("default", "hello", "u1"))
    for queue in (kept, gone):
        await create_queues(redis, queue)
        await append(redis, queue, call())
        for _ in range(2):
            await accept(redis, queue, event(group_hash=b"a" * 16), once=(b"k" * 16, b"p" * 16, 60))
            await accept(redis, queue, event(group_hash=b"a" * 16))
        await accept(redis, queue, event(flags=FLAG_DESTINATION_SUCCESS), delay_ms=60_000)
        await append(redis, queue, event(flags=FLAG_DESTINATION_SUCCESS))
        held = await lease(redis, queue.async_, "i1", 2)
        await finish_async(redis, queue, held[1], "i1", "done")
        await command(redis, "SET", queue.keys.spec(), "{}")
        await command(redis, "SET", queue.keys.code("ab" * 32, 1), "chunk")
        await command(redis, "HSET", queue.keys.code_index(), "ab" * 32, '{"size": 9, "chunks": 2}')
        await command(redis, "SET", queue.keys.body("1"), "x", "EX", 60)
        await start_instance(redis, queue, "i1")

    await delete_function_keys(redis, gone.keys)

    left = {key.decode() async for key in redis.scan_iter(match=f"{prefix}:*", count=1000)}
    assert left
    assert all(key.startswith(kept.keys.base) for key in left)
    assert len(left) == 15
    assert await leaked_keys(redis, prefix, frozenset({"default/hello/u2"})) == []
    await delete_function_keys(redis, kept.keys)


async def test_a_key_without_ttl_off_the_permanent_list_is_a_leak(
    redis: Redis, prefix: str, queue: VersionQueue
) -> None:
    await command(redis, "SET", f"{prefix}:forgotten", "x")
    assert f"{prefix}:forgotten" in await leaked_keys(redis, prefix)
    assert queue.sync in await leaked_keys(redis, prefix)
    tag = queue.keys.base.split("{")[1].rstrip("}")
    assert await leaked_keys(redis, prefix, frozenset({tag})) == [f"{prefix}:forgotten"]
    await command(redis, "UNLINK", f"{prefix}:forgotten")


async def next_wake(channel: AsyncGenerator[str | None]) -> str | None:
    return await asyncio.wait_for(anext(channel), 10)


async def test_wakes_come_and_a_new_connection_asks_to_look_at_everything(
    redis: Redis, platform_keys: PlatformKeys
) -> None:
    async with aclosing(wakes(redis, platform_keys)) as channel:
        assert await next_wake(channel) is None
        await command(redis, "PUBLISH", platform_keys.wake_channel, "default/hello/u1")
        assert await next_wake(channel) == "default/hello/u1"

        async def one_listens() -> bool:
            [(_, listeners)] = await redis.pubsub_numsub(platform_keys.wake_channel)
            return bool(listeners == 1)

        await command(redis, "CLIENT", "KILL", "TYPE", "PUBSUB")
        assert await next_wake(channel) is None
        await wait_until_async(one_listens, "the wake channel has its listener back")
        await command(redis, "PUBLISH", platform_keys.wake_channel, "default/hello/u2")
        assert await next_wake(channel) == "default/hello/u2"
