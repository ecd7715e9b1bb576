"""Instances that are started and do not come up for now (no room, no image), and old ones that wait for new ones."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from forebay_common.frames import ERROR_CANNOT_START
from support.controller_rig import Rig, until

pytestmark = pytest.mark.usefixtures("no_leaked_keys")
NO_ROOM = "no node has room for it: 0/1 nodes are available: 1 Insufficient memory."


@pytest.fixture
async def rig(redis: Redis, prefix: str) -> AsyncIterator[Rig]:
    rig = Rig(redis, prefix)
    await rig.controller.start()
    yield rig
    await rig.close()


async def test_callers_of_instances_that_do_not_come_up_get_the_reason_at_once_and_the_instance_stays(
    rig: Rig,
) -> None:
    spec = await rig.create(max_instances=1)
    await rig.call(spec)
    await until(lambda: rig.backend.started, "an instance is started")
    (instance_id,) = rig.backend.started
    began_s = time.monotonic()
    rig.backend.hold_up(instance_id, NO_ROOM)

    (reply,) = await rig.replies(1)
    assert (reply.error_kind, reply.payload) == (ERROR_CANNOT_START, NO_ROOM.encode())
    assert time.monotonic() - began_s < 0.5
    await until(lambda: rig.source.statuses[-1][1].cannot_start == NO_ROOM, "gateways are told")
    assert 0 < rig.source.statuses[-1][1].retry_at_ms - time.time() * 1000 <= 5_100
    assert instance_id in rig.backend.running


async def test_gateways_hear_it_when_such_an_instance_comes_up_after_all(rig: Rig) -> None:
    spec = await rig.create(min_instances=1)
    await rig.wake(spec)
    await until(lambda: rig.backend.started, "an instance is started")
    (instance_id,) = rig.backend.started
    rig.backend.hold_up(instance_id, NO_ROOM)
    await until(lambda: rig.source.statuses and rig.source.statuses[-1][1].cannot_start, "gateways are told")

    rig.backend.hold_up(instance_id, "")
    await until(lambda: not rig.source.statuses[-1][1].cannot_start, "gateways are told again")
    await rig.call(spec)
    await rig.beat(instance_id)
    await rig.finish(instance_id, await rig.lease(instance_id))


async def test_that_nobody_waits_any_more_mends_nothing(rig: Rig) -> None:
    spec = await rig.create(idle_s=0.5)
    await rig.call(spec)
    await until(lambda: rig.backend.started, "an instance is started")
    (instance_id,) = rig.backend.started
    rig.backend.hold_up(instance_id, NO_ROOM)
    await rig.replies(1)
    await until(lambda: not rig.backend.running, "it goes, since nobody needs it any more")
    await until(lambda: not rig.controller.get_status(spec.uid).starting, "the controller knows")
    assert rig.controller.get_status(spec.uid).cannot_start == NO_ROOM

    await rig.call(spec)
    await until(lambda: len(rig.backend.started) == 2, "the next call tries again")
    assert rig.controller.get_status(spec.uid).cannot_start == NO_ROOM
    await rig.beat(rig.backend.started[1])
    await rig.finish(rig.backend.started[1], await rig.lease(rig.backend.started[1]))
    await until(lambda: not rig.controller.get_status(spec.uid).cannot_start, "it can be called")


async def test_a_handler_that_does_not_come_up_is_told_and_closes_no_door(rig: Rig) -> None:
    spec = await rig.create(min_instances=1)
    await rig.wake(spec)
    await until(lambda: rig.backend.started, "an instance is started")
    (instance_id,) = rig.backend.started
    await rig.beat(instance_id, init_failure="Runtime.ImportModuleError: no module")
    await until(lambda: rig.controller.get_status(spec.uid).init_failure, "people are told")
    status = rig.controller.get_status(spec.uid)
    assert (status.init_failure, status.cannot_start) == ("Runtime.ImportModuleError: no module", "")
    assert status.reason == "no handler comes up: Runtime.ImportModuleError: no module"

    await rig.beat(instance_id, init_failure="")
    await until(lambda: not rig.controller.get_status(spec.uid).init_failure, "one came up")


async def test_calls_wait_for_one_instance_though_others_find_no_room(rig: Rig) -> None:
    spec = await rig.create(max_instances=2)
    await rig.call(spec, 2)
    await until(lambda: len(rig.backend.started) == 2, "two instances are started")
    serving, waiting = rig.backend.started
    await rig.beat(serving)
    leased = await rig.lease(serving)
    rig.backend.hold_up(waiting, NO_ROOM)
    await until(lambda: NO_ROOM in rig.controller.get_status(spec.uid).reason, "people are told")

    assert rig.controller.get_status(spec.uid).cannot_start == ""
    await rig.finish(serving, leased + await rig.lease(serving))


async def test_where_starts_are_slow_an_old_instance_serves_until_a_new_one_is_ready(rig: Rig) -> None:
    rig.backend.replaces_first = True
    spec = await rig.create(min_instances=1, max_instances=3)
    await rig.wake(spec)
    await until(lambda: rig.backend.started, "an instance is started")
    (old,) = rig.backend.started
    await rig.beat(old)
    await until(lambda: rig.controller.get_status(spec.uid).idle, "it is ready")

    rig.update(spec)
    await until(lambda: len(rig.backend.started) == 2, "a new one is started")
    await asyncio.sleep(0.3)
    assert await rig.commands(old) == []
    assert rig.source.applied[-1:] != [(spec.uid, 2)]
    await rig.beat(rig.backend.started[1])
    await until(lambda: rig.controller.get_status(spec.uid).draining, "the old one is told to leave")
    await rig.leave(old)
    await until(lambda: (spec.uid, 2) in rig.source.applied, "the update is finished")


async def test_while_a_new_revision_does_not_start_the_old_one_goes_on_serving(rig: Rig) -> None:
    rig.backend.replaces_first = True
    spec = await rig.create(min_instances=1, max_instances=3)
    await rig.wake(spec)
    await until(lambda: rig.backend.started, "an instance is started")
    (old,) = rig.backend.started
    await rig.beat(old)
    await until(lambda: rig.controller.get_status(spec.uid).idle, "it is ready")

    rig.update(spec)
    await until(lambda: len(rig.backend.started) == 2, "a new one is started")
    await rig.beat(rig.backend.started[1], "failed", reason="its handler cannot be imported")
    await until(lambda: "cannot be imported" in rig.controller.get_status(spec.uid).reason, "people are told")
    rig.backend.end(rig.backend.started[1], "its runtime ended with exit code 1")
    await rig.call(spec)
    leased = await rig.lease(old)
    assert len(leased) == 1
    assert rig.controller.get_status(spec.uid).cannot_start == ""
    await rig.finish(old, leased)
