"""Delayed events come back to their queue on time."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from forebay_common.queue import VersionQueue, create_queues
from forebay_controller.delivery import Delivery
from support.controller_rig import Rig, until
from support.queue_side import event
from support.waiting import wait_until_async

pytestmark = pytest.mark.usefixtures("no_leaked_keys")


@pytest.fixture
async def rig(redis: Redis, prefix: str) -> AsyncIterator[Rig]:
    rig = Rig(redis, prefix)
    yield rig
    await rig.close()


async def delay(rig: Rig, queue: VersionQueue, in_ms: int, count: int = 1) -> None:
    seconds, micros = await rig.redis.time()
    due_ms = seconds * 1000 + micros // 1000 + in_ms
    records = [event() for _ in range(count)]
    await rig.redis.zadd(queue.delayed, {record.invocation_id: due_ms for record in records})
    await rig.redis.hset(queue.live, mapping={record.invocation_id: b"d" + record.encode() for record in records})


async def test_an_event_is_delivered_when_it_is_due_and_an_instance_is_started_for_it(rig: Rig) -> None:
    await rig.controller.start()
    spec = await rig.create()
    await delay(rig, rig.queue(spec), 500)
    began_s = time.monotonic()
    await rig.wake(spec)
    await until(lambda: rig.backend.started, "an instance is started")
    assert 0.4 < rig.backend.started_at_s[0] - began_s < 1.5


async def test_an_event_that_was_due_while_no_controller_ran_is_delivered_at_its_start(rig: Rig) -> None:
    spec = await rig.create()
    await delay(rig, rig.queue(spec), -5_000)
    await rig.controller.start()
    await until(lambda: rig.backend.started, "an instance is started")


async def test_thousands_that_are_due_together_are_delivered_within_a_second_and_others_do_not_wait(rig: Rig) -> None:
    flood, other = await rig.create(), await rig.create()
    moved: list[str] = []
    delivery = Delivery(rig.redis, moved.append, time.monotonic)
    running = asyncio.create_task(delivery.run())
    await delay(rig, rig.queue(flood), 100, 5_000)
    await delay(rig, rig.queue(other), 120)
    began_s = time.monotonic()
    delivery.note(flood.uid, rig.queue(flood), 100)
    delivery.note(other.uid, rig.queue(other), 120)

    async def delivered() -> bool:
        return await rig.redis.xlen(rig.queue(flood).async_) == 5_000

    await wait_until_async(delivered, "all are delivered")
    assert time.monotonic() - began_s < 3.0
    assert moved.index(other.uid) < moved.count(flood.uid), "the other function's event did not wait for the flood"
    running.cancel()


async def test_an_earlier_event_that_comes_later_is_not_held_up(rig: Rig) -> None:
    spec = await rig.create()
    queue = rig.queue(spec)
    await create_queues(rig.redis, queue)
    moved: list[str] = []
    delivery = Delivery(rig.redis, moved.append, time.monotonic)
    running = asyncio.create_task(delivery.run())
    delivery.note(spec.uid, queue, 60_000)
    await asyncio.sleep(0)
    await delay(rig, queue, 50)
    delivery.note(spec.uid, queue, 50)
    await until(lambda: moved, "it is delivered")
    running.cancel()
