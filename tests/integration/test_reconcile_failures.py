"""What the controller does when instances do not start, die, or are told to go: against a real Valkey."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from forebay_common.frames import ERROR_CANNOT_START, ERROR_DELETED, ERROR_INSTANCE_LOST
from forebay_common.queue import observe
from forebay_common.record import KIND_ASYNC
from forebay_common.redis_client import RedisSettings, connect
from forebay_controller.controller import ControllerSettings
from forebay_controller.interfaces import InstanceStartError
from support.controller_rig import Rig, until
from support.valkey import ValkeyServer
from support.waiting import wait_until_async

pytestmark = pytest.mark.usefixtures("no_leaked_keys")


@pytest.fixture
async def rig(redis: Redis, prefix: str) -> AsyncIterator[Rig]:
    rig = Rig(redis, prefix)
    await rig.controller.start()
    yield rig
    await rig.close()


async def test_callers_of_a_function_that_cannot_start_get_the_reason_at_once_and_events_stay(rig: Rig) -> None:
    rig.backend.start_error = InstanceStartError("there is no such code")
    spec = await rig.create()
    await rig.call(spec, kind=KIND_ASYNC)
    began_s = time.monotonic()
    await rig.call(spec, 3)
    replies = await rig.replies(3)
    assert time.monotonic() - began_s < 0.5
    assert {(frame.error_kind, frame.payload) for frame in replies} == {(ERROR_CANNOT_START, b"there is no such code")}
    await until(lambda: rig.source.statuses[-1][1].cannot_start, "gateways are told")
    status = rig.source.statuses[-1][1]
    assert (status.cannot_start, status.capacity) == ("there is no such code", 0)
    assert 0 < status.retry_at_ms - time.time() * 1000 < 1_100
    (seen,) = await observe(rig.redis, [rig.queue(spec)])
    assert seen is not None
    assert (seen.sync.length, seen.async_.length) == (0, 1)


async def test_after_the_delay_one_instance_probes_and_readiness_clears_the_failure(rig: Rig) -> None:
    rig.backend.start_error = InstanceStartError("not yet")
    spec = await rig.create()
    for _ in range(5):
        await rig.send_event(spec)
    await until(lambda: rig.controller.get_status(spec.uid).cannot_start, "the failure is known")
    tried = len(rig.backend.started_at_s)
    rig.backend.start_error = None
    await until(lambda: rig.backend.started, "another attempt is made")
    assert rig.backend.started_at_s[tried] - rig.backend.started_at_s[0] >= 0.95
    await asyncio.sleep(0.25)
    assert len(rig.backend.started) == 1
    assert rig.controller.get_status(spec.uid).cannot_start == "not yet"
    await rig.beat(rig.backend.started[0])
    await until(lambda: rig.source.statuses[-1][1].cannot_start == "", "gateways are told")


async def test_an_instance_that_says_it_failed_is_a_failed_start_with_its_own_reason(rig: Rig) -> None:
    spec = await rig.create()
    await rig.call(spec)
    await until(lambda: rig.backend.started, "an instance is started")
    await rig.beat(rig.backend.started[0], "failed", reason="its code cannot be unpacked")
    (reply,) = await rig.replies(1)
    assert (reply.error_kind, reply.payload) == (ERROR_CANNOT_START, b"its code cannot be unpacked")
    rig.backend.end(rig.backend.started[0], "its runtime ended with exit code 1")
    assert rig.controller.get_status(spec.uid).reason == "its code cannot be unpacked"


async def test_a_new_revision_does_not_wait_for_the_old_ones_backoff(rig: Rig) -> None:
    rig.backend.start_error = InstanceStartError("broken")
    spec = await rig.create()
    await rig.send_event(spec)
    await until(lambda: rig.controller.get_status(spec.uid).cannot_start, "the failure is known")
    failed_s = time.monotonic()
    rig.backend.start_error = None
    rig.update(spec)
    await until(lambda: rig.backend.started, "the new revision is started")
    assert time.monotonic() - failed_s < 0.5


async def test_the_calls_of_a_dead_instance_fail_at_once_and_its_events_run_again(rig: Rig) -> None:
    spec = await rig.create(concurrency=2)
    await rig.call(spec)
    await rig.send_event(spec)
    await until(lambda: rig.backend.started, "an instance is started")
    dead = rig.backend.started[0]
    await rig.beat(dead)
    await rig.lease(dead)
    await rig.lease(dead, kind=KIND_ASYNC)
    died_s = time.monotonic()
    rig.backend.end(dead, "it was killed by signal 9")
    (reply,) = await rig.replies(1)
    assert time.monotonic() - died_s < 0.5
    assert reply.error_kind == ERROR_INSTANCE_LOST
    await until(lambda: len(rig.backend.started) == 2, "an instance for the event is started")

    async def recovered() -> bool:
        (seen,) = await observe(rig.redis, [rig.queue(spec)])
        return seen is not None and (seen.sync.length, seen.async_.queued) == (0, 1)

    await wait_until_async(recovered, "the call is gone and the event is queued")
    assert not rig.controller.get_status(spec.uid).cannot_start


async def test_an_instance_that_was_ready_before_anyone_looked_did_start(rig: Rig) -> None:
    spec = await rig.create(min_instances=1)
    await until(lambda: rig.backend.started, "an instance is started")
    await rig.beat(rig.backend.started[0], wake=False)
    rig.backend.end(rig.backend.started[0], "it was killed by signal 9")
    await until(lambda: len(rig.backend.started) == 2, "the next one is started without a delay")
    assert not rig.controller.get_status(spec.uid).cannot_start


async def test_a_new_controller_recovers_what_a_dead_instance_left_and_keeps_the_living(rig: Rig) -> None:
    spec = await rig.create(max_instances=2)
    await rig.call(spec, 2)
    await until(lambda: len(rig.backend.started) == 2, "two are started")
    living, dead = rig.backend.started
    for instance_id in (living, dead):
        await rig.beat(instance_id)
        await rig.lease(instance_id)
    await rig.controller.leave()
    await rig.redis.unlink(*rig.instance_keys(dead))
    del rig.backend.running[dead]
    rig.controller = rig.new_controller()
    await rig.controller.start()
    (reply,) = await rig.replies(1)
    assert reply.error_kind == ERROR_INSTANCE_LOST
    await until(lambda: rig.controller.get_status(spec.uid).busy == 1, "the living one is known")
    assert len(rig.backend.started) == 2


async def test_a_new_controller_lets_idle_instances_stay_for_their_idle_time(rig: Rig) -> None:
    spec = await rig.create(idle_s=0.5)
    await rig.call(spec)
    await until(lambda: rig.backend.started, "an instance is started")
    await rig.beat(rig.backend.started[0])
    await rig.finish(rig.backend.started[0], await rig.lease(rig.backend.started[0]))
    await rig.controller.leave()
    rig.controller = rig.new_controller()
    began_s = time.monotonic()
    await rig.controller.start()
    await until(lambda: rig.controller.get_status(spec.uid).idle == 1, "it is known")
    await until(lambda: rig.controller.get_status(spec.uid).draining == 1, "it leaves in the end")
    assert time.monotonic() - began_s >= 0.5


async def test_instances_of_a_function_that_is_gone_are_ended_by_the_next_controller(rig: Rig) -> None:
    await rig.create(min_instances=1)
    await until(lambda: rig.backend.started, "an instance is started")
    await rig.beat(rig.backend.started[0])
    keys = rig.instance_keys(rig.backend.started[0])
    await rig.controller.leave()
    rig.source = type(rig.source)()
    rig.controller = rig.new_controller()
    await rig.controller.start()
    assert rig.backend.killed == rig.backend.started
    await rig.redis.unlink(*keys)


async def test_a_deleted_functions_callers_are_told_and_its_instance_may_finish(rig: Rig) -> None:
    spec = await rig.create(max_instances=1)
    await rig.call(spec, 3)
    await until(lambda: rig.backend.started, "an instance is started")
    instance_id = rig.backend.started[0]
    await rig.beat(instance_id)
    entries = await rig.lease(instance_id)
    rig.source.remove(spec.uid)
    retired = asyncio.create_task(rig.controller.retire(spec.uid))
    replies = await rig.replies(2)
    assert {frame.error_kind for frame in replies} == {ERROR_DELETED}
    assert not retired.done()

    async def told() -> bool:
        return await rig.commands(instance_id) == ["drain"]

    await wait_until_async(told, "the instance is told to leave")
    await rig.finish(instance_id, entries)
    await rig.leave(instance_id)
    await asyncio.wait_for(retired, 5)
    assert b"default/" + spec.name.encode() not in rig.controller.metrics.render()


async def test_a_function_that_never_ran_retires_at_once(rig: Rig) -> None:
    spec = await rig.create()
    await asyncio.wait_for(rig.controller.retire(spec.uid), 1)
    await rig.controller.retire("no such function")


async def test_a_platform_stop_drains_idle_instances_and_kills_what_takes_too_long(redis: Redis, prefix: str) -> None:
    rig = Rig(redis, prefix, ControllerSettings(stop_drain_s=0.5))
    await rig.controller.start()
    spec = await rig.create()
    await rig.call(spec, 2)
    await until(lambda: len(rig.backend.started) == 2, "two are started")
    idle, busy = rig.backend.started
    for instance_id in (idle, busy):
        await rig.beat(instance_id)
    await rig.lease(busy)
    await until(lambda: rig.controller.get_status(spec.uid).busy == 1, "one is busy")
    stopped = asyncio.create_task(rig.controller.stop())

    async def told() -> bool:
        return await rig.commands(idle) == await rig.commands(busy) == ["drain"]

    await wait_until_async(told, "both are told to leave")
    await rig.leave(idle)
    (reply,) = await rig.replies(1)
    assert reply.error_kind == ERROR_INSTANCE_LOST
    await asyncio.wait_for(stopped, 5)
    assert rig.backend.killed == [busy]
    assert len(rig.backend.started) == 2
    await rig.close()


async def test_a_redis_that_was_restarted_is_taken_up_again_with_all_that_was_queued() -> None:
    server = ValkeyServer(append_only=True)
    server.start()
    redis = connect(RedisSettings.from_json(server.settings))
    rig = Rig(redis, "restarted")
    try:
        await rig.controller.start()
        spec = await rig.create()
        await rig.call(spec, wake=False)
        server.kill()
        rig.source.changed(spec.uid)
        server.start()
        await until(lambda: rig.backend.started, "an instance is started")
        await rig.close()
    finally:
        await redis.aclose()
        server.close()
