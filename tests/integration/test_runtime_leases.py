"""Leases: of an instance that was paused, of a handler that runs longer than one, of one that is told to stop."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from forebay_common.events import find_event
from forebay_common.frames import ERROR_INSTANCE_LOST, ERROR_NONE
from forebay_common.queue import send_control
from forebay_common.record import Invocation
from forebay_common.recovery import Recovered, reap_expired
from support.queue_side import call, event, finish_async, give, lease, pending, replies
from support.runtime_rig import RuntimeRig
from support.waiting import wait_until, wait_until_async

SLOW = """
    import sys, time
    def handler(event, context):
        print("started", event.get("n"))
        sys.stdout.flush()
        time.sleep(event["s"])
        return event
"""
LEASE_MS = 300


@pytest.fixture
async def rig(redis: Redis, valkey_server: dict[str, Any], prefix: str) -> AsyncIterator[RuntimeRig]:
    async with RuntimeRig(redis, valkey_server, prefix) as rig:
        yield rig


async def started(rig: RuntimeRig, record: Invocation) -> Invocation:
    """The call, queued and then run."""
    await rig.append(record)
    number = json.loads(record.payload or b"")["n"]
    await asyncio.to_thread(wait_until, lambda: f"started {number}" in rig.messages(), "the call runs")
    return record


async def given_up(rig: RuntimeRig) -> Recovered:
    """What the reaper does with an instance once its heartbeat and its leases are over."""
    await rig.redis.unlink(rig.keys.instance(rig.instance_id))
    found: dict[str, Recovered] = {}

    async def reaped() -> bool:
        found.update(await reap_expired(rig.redis, rig.platform_keys, rig.queue, lease_ms=LEASE_MS))
        return bool(found)

    await wait_until_async(reaped, "the reaper has found its leases over")
    return found[rig.instance_id]


async def lost(rig: RuntimeRig, count: int) -> None:
    async def counted() -> bool:
        return (await rig.heartbeat()).get("lost_leases") == str(count)

    await wait_until_async(counted, f"the heartbeat counts {count} lost leases")


async def test_a_paused_instances_late_finish_of_an_event_changes_nothing_and_is_counted(rig: RuntimeRig) -> None:
    await rig.run(SLOW)
    record = await started(rig, event(b'{"n": 1, "s": 0.5}', timeout_ms=20_000))
    os.kill(rig.runtime.pid, signal.SIGSTOP)
    assert (await given_up(rig)).async_requeued == 1
    [entry_id] = await lease(rig.redis, rig.queue.async_, "other")

    os.kill(rig.runtime.pid, signal.SIGCONT)

    await lost(rig, 1)
    [entry] = await pending(rig.redis, rig.queue.async_)
    assert (entry["message_id"], entry["consumer"]) == (entry_id, b"other")
    assert await finish_async(rig.redis, rig.queue, entry_id, "other", "done") == 1
    [state] = await find_event(rig.redis, rig.queue, [record.invocation_id])
    assert state is not None
    assert (state.status, state.attempts, state.frame) == ("succeeded", 2, None)
    assert (await rig.invoke(b'{"s": 0}')).error_kind == ERROR_NONE
    assert await rig.drain() == 0


async def test_a_paused_instances_late_finish_of_a_call_is_counted_and_its_caller_was_told(rig: RuntimeRig) -> None:
    await rig.run(SLOW)
    record = await started(rig, call(b'{"n": 1, "s": 0.5}', timeout_ms=20_000))
    os.kill(rig.runtime.pid, signal.SIGSTOP)
    assert (await given_up(rig)).sync_failed == 1

    os.kill(rig.runtime.pid, signal.SIGCONT)

    assert (await rig.reply_to(record)).error_kind == ERROR_INSTANCE_LOST
    await lost(rig, 1)
    assert await rig.queued(rig.queue.sync) == (0, 0)
    await rig.append(call(b'{"s": 0}'))

    async def served() -> bool:
        return not (await rig.queued(rig.queue.sync))[0]

    await wait_until_async(served, "it serves on")
    assert await rig.drain() == 0


async def test_a_paused_instance_that_nobody_missed_goes_on_where_it_was(rig: RuntimeRig) -> None:
    await rig.run(SLOW)
    record = await started(rig, event(b'{"n": 1, "s": 0.3}', timeout_ms=20_000))
    os.kill(rig.runtime.pid, signal.SIGSTOP)
    waiting = await rig.append(call(b'{"n": 2, "s": 0}'))

    assert await reap_expired(rig.redis, rig.platform_keys, rig.queue, lease_ms=0) == {}, "its heartbeat is there"
    os.kill(rig.runtime.pid, signal.SIGCONT)

    assert (await rig.reply_to(waiting)).error_kind == ERROR_NONE
    [state] = await find_event(rig.redis, rig.queue, [record.invocation_id])
    assert state is not None
    assert (state.status, state.attempts) == ("succeeded", 1)
    assert (await rig.heartbeat())["lost_leases"] == "0"


async def test_a_lease_outlasts_a_handler_that_runs_longer_than_it(rig: RuntimeRig) -> None:
    """Without its heartbeat nothing but the renewal of the lease keeps the event with its instance."""
    await rig.run(SLOW)
    record = await started(rig, event(b'{"n": 1, "s": 9}', timeout_ms=20_000))
    reaped: list[dict[str, Recovered]] = []

    async def has_ended() -> bool:
        await rig.redis.unlink(rig.keys.instance(rig.instance_id))
        reaped.append(await reap_expired(rig.redis, rig.platform_keys, rig.queue, lease_ms=6_500))
        return not (await rig.queued(rig.queue.async_))[0]

    await wait_until_async(has_ended, "the event has ended", 20)
    [state] = await find_event(rig.redis, rig.queue, [record.invocation_id])
    assert state is not None
    assert (state.status, state.attempts) == ("succeeded", 1)
    assert not any(reaped)


async def test_a_call_that_lost_its_lease_before_it_started_does_not_start(rig: RuntimeRig) -> None:
    await rig.prepare()
    rig.start()
    handlers = await rig.play_handlers()
    handler = await asyncio.to_thread(lambda: handlers.handler(*handlers.next_spawn()))
    await rig.wait_for_state("ready")
    handler.close()
    handlers.exited(await asyncio.to_thread(handlers.next_kill), 7 << 8)
    await rig.invoke()  # is told of the failed process; the next ones wait for a new process
    await rig.append(event(b"lost"))
    slot = await asyncio.to_thread(handlers.next_spawn)
    [entry] = await pending(rig.redis, rig.queue.async_)
    await give(rig.redis, rig.queue.async_, entry["message_id"], "other")

    said = "the lease was lost while the call was held"
    await asyncio.to_thread(wait_until, lambda: said in rig.errors(), "the renewal of its lease is refused", 15)
    successor = handlers.handler(*slot)
    await rig.append(event(b"next"))

    assert (await asyncio.to_thread(successor.next_event))[1] == b"next"
    assert await finish_async(rig.redis, rig.queue, entry["message_id"], "other", "done") == 1


async def test_what_an_instance_that_stops_hands_back_another_serves_within_the_same_deadline(
    rig: RuntimeRig,
) -> None:
    await rig.prepare()
    rig.start()
    handlers = await rig.play_handlers()
    handler = await asyncio.to_thread(lambda: handlers.handler(*handlers.next_spawn()))
    await rig.wait_for_state("ready")
    handler.close()
    handlers.exited(await asyncio.to_thread(handlers.next_kill), 7 << 8)
    await rig.invoke()  # is told of the failed process; the next ones wait for a new process
    served = await rig.append(call(b'"served"', wait_ms=30_000))
    await asyncio.to_thread(handlers.next_spawn)
    assert await rig.drain() == 0
    assert await rig.queued(rig.queue.sync) == (1, 0)

    async with RuntimeRig(rig.redis, rig.credentials, rig.platform_keys.prefix) as second:
        second.keys, second.queue, second.removes_keys = rig.keys, rig.queue, False
        await second.prepare(rig.zip, uid=rig.settings["uid"])
        second.start()
        second.start_handlers()

        assert (await rig.reply_to(served)).payload == b'"served"'
        assert not await replies(rig.redis, rig.platform_keys)
        assert await second.drain() == 0


async def test_a_handed_back_call_whose_deadline_has_passed_is_not_served(rig: RuntimeRig) -> None:
    await rig.run(SLOW)
    record = await started(rig, call(b'{"n": 1, "s": 1}', timeout_ms=20_000))
    late = await rig.append(call(b'{"n": 2, "s": 0}', wait_ms=300))
    assert await send_control(rig.redis, rig.keys, rig.instance_id, {"command": "drain"})
    assert (await rig.reply_to(record)).error_kind == ERROR_NONE
    assert await rig.exit_code() == 0

    async with RuntimeRig(rig.redis, rig.credentials, rig.platform_keys.prefix) as second:
        second.keys, second.queue, second.removes_keys = rig.keys, rig.queue, False
        await second.prepare(rig.zip, uid=rig.settings["uid"])
        second.start()
        second.start_handlers()

        assert (await rig.reply_to(late)).error_kind != ERROR_NONE
        assert "started 2" not in second.messages()
        assert await second.drain() == 0
