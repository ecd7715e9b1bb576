"""The controller against a real Valkey: what it starts, drains and tells, with instances that do as the test says."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from forebay_common.queue import observe
from forebay_controller.controller import ControllerSettings
from forebay_controller.interfaces import FunctionStatus
from support.controller_rig import Rig, until
from support.waiting import wait_until_async

pytestmark = pytest.mark.usefixtures("no_leaked_keys")


@pytest.fixture
async def rig(redis: Redis, prefix: str) -> AsyncIterator[Rig]:
    rig = Rig(redis, prefix)
    await rig.controller.start()
    yield rig
    await rig.close()


async def settled(rig: Rig) -> None:
    """Long enough for two looks at everything that has work."""
    await asyncio.sleep(0.25)


async def test_from_the_announcement_to_the_start_is_a_few_milliseconds(rig: Rig) -> None:
    spec = await rig.create()
    await settled(rig)
    await rig.call(spec, wake=False)
    announced_s = time.monotonic()
    await rig.wake(spec)
    await until(lambda: rig.backend.started, "an instance is started")
    assert rig.backend.started_at_s[0] - announced_s < 0.05


async def test_work_that_nobody_announced_is_found_when_the_controller_starts(rig: Rig) -> None:
    await rig.controller.stop()
    spec = await rig.create()
    await rig.call(spec, wake=False)
    rig.controller = rig.new_controller()
    await rig.controller.start()
    await until(lambda: rig.backend.started, "an instance is started")


async def test_one_call_starts_one_instance_however_often_it_is_looked_at(rig: Rig) -> None:
    spec = await rig.create()
    await rig.call(spec)
    await until(lambda: rig.backend.started, "an instance is started")
    for _ in range(5):
        await rig.wake(spec)
        await settled(rig)
    assert len(rig.backend.started) == 1


async def test_a_cold_burst_starts_a_few_at_once_and_the_rest_as_they_get_ready_up_to_the_maximum(rig: Rig) -> None:
    spec = await rig.create(max_instances=6)
    await rig.call(spec, 20)
    await until(lambda: len(rig.backend.started) == 4, "the first four are started")
    await settled(rig)
    assert len(rig.backend.started) == 4
    for instance_id in list(rig.backend.started):
        await rig.beat(instance_id)
    await until(lambda: len(rig.backend.started) == 6, "the others are started")
    await settled(rig)
    assert len(rig.backend.started) == 6
    assert rig.controller.get_status(spec.uid).reason == "calls wait: it runs as many instances as it may (6)"


async def test_another_functions_burst_does_not_hold_up_a_first_instance(rig: Rig) -> None:
    flood, other = await rig.create(), await rig.create()
    await rig.call(flood, 20)
    await until(lambda: len(rig.backend.started) == 4, "the flood takes all starts")
    await rig.call(other)
    await until(lambda: len(rig.backend.started) == 5, "the other function's instance is started")
    assert rig.backend.running[rig.backend.started[4]].uid == other.uid


async def test_a_burst_at_a_warm_short_function_starts_nothing(rig: Rig) -> None:
    spec = await rig.create(min_instances=1)
    await until(lambda: rig.backend.started, "the minimum is started")
    await rig.beat(rig.backend.started[0], done=1000, busy_us=1_000_000)
    await until(lambda: rig.controller.get_status(spec.uid).idle == 1, "it is ready")
    await rig.call(spec, 200)
    await settled(rig)
    assert len(rig.backend.started) == 1


async def test_status_and_capacity_are_told(rig: Rig) -> None:
    spec = await rig.create(concurrency=2, max_instances=3)
    await rig.call(spec, 5)
    await until(lambda: len(rig.backend.started) == 3, "three are started")
    first, second, _ = rig.backend.started
    await rig.beat(first)
    await rig.beat(second)
    await rig.lease(first, 2)
    await rig.wake(spec)
    expected = FunctionStatus(capacity=6, queued=3, in_flight=2, starting=1, idle=1, busy=1)
    await until(lambda: rig.controller.get_status(spec.uid) == expected, "the status is known")
    await until(lambda: rig.source.statuses[-1][1].capacity == 6, "the capacity is announced")
    announced = len(rig.source.statuses)
    await settled(rig)
    assert len(rig.source.statuses) == announced, "queue depths that change are not for the routing entry"


async def test_scale_to_zero_drains_idle_instances_and_leaves_the_busy_one_alone(rig: Rig) -> None:
    spec = await rig.create(idle_s=0.3)
    await rig.call(spec, 2)
    await until(lambda: len(rig.backend.started) == 2, "two are started")
    busy, idle = rig.backend.started
    await rig.beat(busy)
    await rig.beat(idle)
    entries = await rig.lease(busy)
    await rig.finish(idle, await rig.lease(idle))
    await until(lambda: rig.controller.get_status(spec.uid).draining == 1, "the idle one leaves")
    assert await rig.commands(idle) == ["drain"]
    assert await rig.commands(busy) == []
    await rig.leave(idle)
    await rig.finish(busy, entries)
    await until(lambda: rig.controller.get_status(spec.uid).draining == 1, "the other leaves when it is idle")
    await rig.leave(busy)
    await until(lambda: rig.controller.get_status(spec.uid) == FunctionStatus(), "nothing is left")
    await until(lambda: rig.source.statuses[-1][1].capacity == 0, "that is announced")


async def test_each_decision_is_logged_with_its_reason(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "forebay_controller")
    spec = await rig.create(idle_s=0.1)
    await rig.call(spec)
    await until(lambda: rig.backend.started, "an instance is started")
    instance_id = rig.backend.started[0]
    await rig.beat(instance_id)
    await rig.finish(instance_id, await rig.lease(instance_id))
    await until(lambda: rig.controller.get_status(spec.uid).draining == 1, "it is idle and leaves")
    logged = [(r.getMessage(), r.__dict__["function"]) for r in caplog.records if r.levelno == logging.INFO]
    assert logged == [("starting instances: 1 (work)", spec.key), ("draining an instance (idle)", spec.key)]


async def test_an_update_is_applied_when_the_old_instance_says_that_it_takes_no_more_calls(rig: Rig) -> None:
    old = await rig.create(min_instances=1, max_instances=2)
    await until(lambda: rig.backend.started, "an instance is started")
    await rig.beat(rig.backend.started[0])
    await until(lambda: rig.controller.get_status(old.uid).idle == 1, "it is ready")
    new = rig.update(old)
    await until(lambda: rig.controller.get_status(old.uid).draining == 1, "the old one is told to leave")
    await until(lambda: len(rig.backend.started) == 2, "a new one is started")
    await settled(rig)
    assert (new.uid, new.revision) not in rig.source.applied
    await rig.beat(rig.backend.started[0], "draining")
    await until(lambda: (new.uid, new.revision) in rig.source.applied, "the update is applied")
    assert rig.backend.running[rig.backend.started[1]].revision == new.revision


async def test_an_update_without_instances_is_applied_at_once(rig: Rig) -> None:
    new = rig.update(await rig.create())
    await until(lambda: (new.uid, new.revision) in rig.source.applied, "the update is applied")


async def test_an_old_instance_that_has_not_begun_is_ended(rig: Rig) -> None:
    spec = await rig.create(min_instances=1, max_instances=1)
    await until(lambda: rig.backend.started, "an instance is started")
    rig.update(spec)
    await until(lambda: len(rig.backend.started) == 2, "the new revision takes its place")
    assert rig.backend.killed == rig.backend.started[:1]


async def test_the_platforms_bound_makes_idle_instances_give_way(redis: Redis, prefix: str) -> None:
    rig = Rig(redis, prefix, ControllerSettings(instances_max=1))
    await rig.controller.start()
    first, second = await rig.create(), await rig.create()
    await rig.call(first)
    await until(lambda: rig.backend.started, "the first function has an instance")
    holder = rig.backend.started[0]
    await rig.beat(holder)
    await rig.finish(holder, await rig.lease(holder))
    await rig.call(second)
    await until(lambda: rig.controller.get_status(second.uid).reason, "the second one waits")
    assert rig.controller.get_status(second.uid).reason == "calls wait: the platform runs as many instances as it may"
    await until(lambda: rig.controller.get_status(first.uid).draining == 1, "the idle instance gives way")
    await rig.leave(holder)
    await until(lambda: len(rig.backend.started) == 2, "the second function has an instance")
    assert rig.backend.running[rig.backend.started[1]].uid == second.uid
    await rig.close()


async def test_a_function_whose_queues_are_gone_gets_them_back(rig: Rig) -> None:
    spec = await rig.create()
    queue = rig.queue(spec)
    await rig.redis.unlink(queue.sync, queue.async_)
    await rig.wake(spec)

    async def there() -> bool:
        return (await observe(rig.redis, [queue]))[0] is not None

    await wait_until_async(there, "the queues are there")
