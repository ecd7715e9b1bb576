"""Leases of an instance that fell silent, and reply lists of gateways that are gone: found by the reaper."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from forebay_common.dead_letters import purge
from forebay_common.events import CancelResult, cancel_event, find_event
from forebay_common.frames import ERROR_INSTANCE_LOST
from forebay_common.record import IDEMPOTENCY, KIND_ASYNC, TAG_IDEMPOTENCY
from forebay_common.redis_client import RedisSettings, connect
from forebay_controller.controller import ControllerSettings
from support.controller_rig import Rig, until
from support.queue_side import accept, append, call, event, finish_async, records, replies
from support.valkey import ValkeyServer
from support.waiting import wait_until_async

pytestmark = pytest.mark.usefixtures("no_leaked_keys")


@pytest.fixture
async def rig(redis: Redis, prefix: str) -> AsyncIterator[Rig]:
    rig = Rig(redis, prefix, ControllerSettings(lease_ms=300, reap_every_s=0.05, result_retention_s=0.5))
    await rig.controller.start()
    yield rig
    await rig.close()


async def test_a_paused_instances_leases_are_over_when_neither_it_nor_they_are_renewed(rig: Rig) -> None:
    spec = await rig.create()
    await rig.call(spec)
    await until(lambda: rig.backend.started, "an instance is started")
    paused = rig.backend.started[0]
    await rig.beat(paused)
    await rig.lease(paused)
    await until(lambda: rig.controller.get_status(spec.uid).busy == 1, "it is busy")
    await rig.redis.unlink(*rig.instance_keys(paused))
    (reply,) = await rig.replies(1)
    assert reply.error_kind == ERROR_INSTANCE_LOST
    assert paused in rig.backend.running, "it is left to come back, or to be killed when it stays silent"
    await until(lambda: rig.controller.get_status(spec.uid).capacity == 0, "it is no capacity")


async def test_a_lease_older_than_its_time_is_kept_while_the_instance_says_that_it_lives(rig: Rig) -> None:
    spec = await rig.create()
    await rig.call(spec)
    await until(lambda: rig.backend.started, "an instance is started")
    instance_id = rig.backend.started[0]
    await rig.beat(instance_id)
    entries = await rig.lease(instance_id)

    async def expired() -> bool:
        pending = await rig.redis.xpending_range(rig.queue(spec).sync, "g", "-", "+", 1, instance_id, idle=600)
        return bool(pending)

    await wait_until_async(expired, "the lease is twice as old as its time")
    assert await rig.redis.llen(rig.platform.reply("test")) == 0
    await rig.finish(instance_id, entries)


async def test_how_an_event_ended_is_forgotten_when_its_time_is_over(rig: Rig) -> None:
    spec = await rig.create()
    queue = rig.queue(spec)
    record = event()
    await accept(rig.redis, queue, record, delay_ms=60_000)
    assert (await cancel_event(rig.redis, queue, record.invocation_id)).result is CancelResult.CANCELLED

    async def forgotten() -> bool:
        return await find_event(rig.redis, queue, [record.invocation_id]) == [None]

    assert not await forgotten()
    await rig.wake(spec)
    await wait_until_async(forgotten, "its result is forgotten")
    assert await rig.redis.xlen(queue.ended) == 0


async def test_what_was_given_up_is_counted_for_people_and_for_prometheus(rig: Rig) -> None:
    spec = await rig.create()
    queue = rig.queue(spec)
    await accept(rig.redis, queue, event())
    await rig.wake(spec)
    await until(lambda: rig.backend.started, "an instance is started")
    instance_id = rig.backend.started[0]
    await rig.beat(instance_id)
    (entry_id,) = await rig.lease(instance_id, kind=KIND_ASYNC)
    await finish_async(rig.redis, queue, entry_id, instance_id, "dead", reason="RetriesExhausted")
    await rig.wake(spec)
    await until(lambda: rig.controller.get_status(spec.uid).dead_letters == 1, "it is counted")
    labels = {"namespace": "default", "function": spec.name}
    assert rig.controller.metrics.registry.get_sample_value("forebay_dead_letters", labels) == 1
    await purge(rig.redis, queue)
    await rig.wake(spec)
    await until(lambda: rig.controller.get_status(spec.uid).dead_letters == 0, "they are gone")


async def test_after_redis_was_away_an_instance_has_a_whole_lease_to_say_that_it_lives(
    prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = ValkeyServer()
    await asyncio.to_thread(server.start)
    redis = connect(RedisSettings.from_json(server.settings))
    redis.connection_pool.connection_kwargs["socket_timeout"] = 0.3
    rig = Rig(redis, prefix, ControllerSettings(lease_ms=1_500, reap_every_s=0.05))
    await rig.controller.start()
    specs = [await rig.create() for _ in range(2)]
    for spec in specs:
        await rig.call(spec)
    await until(lambda: len(rig.backend.started) == 2, "an instance of each is started")
    silent, lives = rig.backend.started
    for instance_id in (silent, lives):
        await rig.beat(instance_id)
        await rig.lease(instance_id)

    async def expired() -> bool:
        streams = [rig.queue(spec).sync for spec in specs]
        return all([await redis.xpending_range(stream, "g", "-", "+", 1, idle=1_600) for stream in streams])

    await wait_until_async(expired, "the leases are older than their time")

    server.pause()
    await until(lambda: "could not reap" in caplog.text, "the reaper has noticed")
    server.resume()
    back_s = time.monotonic()
    await redis.unlink(rig.instance_keys(silent)[0], rig.instance_keys(lives)[0])
    await rig.beat(lives)

    async def told() -> bool:
        return bool(await redis.exists(rig.platform.reply("test")))

    await wait_until_async(told, "the silent one's lease is over")
    (reply,) = await replies(redis, rig.platform, "test")
    assert reply.error_kind == ERROR_INSTANCE_LOST
    assert time.monotonic() - back_s > 1
    spec = next(spec for spec in specs if rig.backend.running[lives].uid == spec.uid)
    assert await redis.xpending_range(rig.queue(spec).sync, "g", "-", "+", 1, lives)
    await rig.close()
    await redis.aclose()
    await asyncio.to_thread(server.close)


async def test_calls_of_a_gateway_that_is_gone_do_not_start_any_more(rig: Rig) -> None:
    spec = await rig.create()
    queue = rig.queue(spec)
    await rig.redis.sadd(rig.platform.processes, "dead", "alive")
    await rig.redis.set(rig.platform.process("alive"), "1", ex=60)
    await rig.redis.set(rig.platform.process("dead"), "1", ex=60)
    once = {TAG_IDEMPOTENCY: IDEMPOTENCY.pack(b"k" * 16, b"p" * 16, 60)}
    started, other, under_key, *orphans = (
        call(reply_address="reply:dead"),
        call(reply_address="reply:alive"),
        call(reply_address="reply:dead", optional=once),
        call(reply_address="reply:dead"),
        call(None, reply_address="reply:dead", claim="body:1"),
    )
    await rig.redis.set(f"{queue.keys.base}:body:1", "x", ex=60)
    for record in (started, other, under_key, *orphans):
        await append(rig.redis, queue, record)
    await rig.wake(spec)
    await until(lambda: rig.backend.started, "an instance is started")
    instance_id = rig.backend.started[0]
    await rig.beat(instance_id)
    entries = await rig.lease(instance_id)
    await rig.wake(spec)
    await until(lambda: rig.controller.get_status(spec.uid).queued == 4, "the queue is seen")

    await rig.redis.unlink(rig.platform.process("dead"))

    async def dropped() -> bool:
        return await rig.redis.xlen(queue.sync) == 3

    await wait_until_async(dropped, "those that had not started are dropped")
    left = {record.invocation_id for record in await records(rig.redis, queue.sync)}
    assert left == {record.invocation_id for record in (started, other, under_key)}
    assert not await rig.redis.exists(f"{queue.keys.base}:body:1")
    told = await replies(rig.redis, rig.platform, "dead")
    assert {frame.token for frame in told} <= {record.reply_token for record in orphans}
    await rig.finish(instance_id, entries)
    await rig.redis.unlink(rig.platform.processes, rig.platform.process("alive"), rig.platform.process_gone("dead"))


async def test_replies_for_a_gateway_that_is_gone_are_removed(rig: Rig) -> None:
    await rig.redis.sadd(rig.platform.processes, "dead")
    await rig.redis.rpush(rig.platform.reply("dead"), b"x")

    async def removed() -> bool:
        return not await rig.redis.exists(rig.platform.reply("dead"))

    await wait_until_async(removed, "its replies are removed")
    await rig.redis.unlink(rig.platform.processes)
