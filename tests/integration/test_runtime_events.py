"""How an instance ends async events: what is kept of their answers, cancellation, and the turns of groups."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from redis.asyncio import Redis

from forebay_common.events import CancelResult, EventState, cancel_event, find_event
from forebay_common.frames import ERROR_FUNCTION, ERROR_NONE, FLAG_COLD, FLAG_PAYLOAD_OMITTED
from forebay_common.limits import RESULT_FRAME_MAX_BYTES
from forebay_common.queue import send_control
from forebay_common.record import Invocation
from forebay_common.redis_client import command
from support.queue_side import event, lease
from support.runtime_rig import RuntimeRig
from support.waiting import wait_until, wait_until_async

HANDLER = """
    import sys, time
    def handler(event, context):
        print("started", event.get("n"))
        sys.stdout.flush()
        time.sleep(event.get("s", 0))
        if "raise" in event:
            raise ValueError(event["raise"])
        return "x" * event.get("size", 1)
"""


@pytest.fixture
async def rig(redis: Redis, valkey_server: dict[str, Any], prefix: str) -> AsyncIterator[RuntimeRig]:
    async with RuntimeRig(redis, valkey_server, prefix) as rig:
        yield rig


async def state_of(rig: RuntimeRig, record: Invocation) -> EventState:
    [state] = await find_event(rig.redis, rig.queue, [record.invocation_id])
    assert state is not None
    return state


async def ended(rig: RuntimeRig, record: Invocation) -> EventState:
    """How an event ended, once it has."""

    async def has_ended() -> bool:
        return (await state_of(rig, record)).ended_ms is not None

    await wait_until_async(has_ended, f"the event has ended; the runtime wrote: {rig.errors()}", 15)
    return await state_of(rig, record)


async def running(rig: RuntimeRig, number: int = 0) -> Invocation:
    """An event that runs for a minute."""
    record = await rig.append(event(json.dumps({"n": number, "s": 60}).encode(), timeout_ms=90_000))
    await asyncio.to_thread(wait_until, lambda: f"started {number}" in rig.messages(), "the event runs")
    return record


async def cancelled(rig: RuntimeRig, record: Invocation) -> None:
    """Cancel an event that the instance holds, as the controller does."""
    done = await cancel_event(rig.redis, rig.queue, record.invocation_id)
    assert (done.result, done.instance) == (CancelResult.RUNNING, rig.instance_id)
    message = {"command": "cancel", "invocation_id": record.invocation_id.hex()}
    assert await send_control(rig.redis, rig.keys, rig.instance_id, message)


async def nothing_is_left(rig: RuntimeRig) -> None:
    assert await rig.queued(rig.queue.async_) == (0, 0)
    assert await rig.redis.exists(rig.queue.dead, rig.queue.delayed, rig.queue.outbox) == 0
    assert await command(rig.redis, "HGETALL", rig.queue.groups) in ({}, {b"n": b"0"})


async def test_an_event_that_succeeds_keeps_its_answer_and_its_timings(rig: RuntimeRig) -> None:
    await rig.run(HANDLER)

    state = await ended(rig, await rig.append(event(b'{"s": 0.05}')))

    assert (state.status, state.attempts, state.reason) == ("succeeded", 1, "")
    assert state.frame is not None
    assert (state.frame.payload, state.frame.error_kind, state.frame.version_run) == (b'"x"', ERROR_NONE, "$LATEST")
    assert state.frame.flags == FLAG_COLD
    assert 50_000 <= state.frame.duration_us < 3_000_000
    assert state.frame.init_us > 0
    assert not any(state.frame.token), "an event has no caller, and so no secret"
    await nothing_is_left(rig)


@pytest.mark.parametrize(("size", "kept"), [(RESULT_FRAME_MAX_BYTES - 2, True), (RESULT_FRAME_MAX_BYTES - 1, False)])
async def test_an_answer_too_large_to_be_kept_is_said_to_be_so(
    rig: RuntimeRig,
    size: int,
    kept: bool,  # noqa: FBT001 - a table
) -> None:
    await rig.run(HANDLER)

    state = await ended(rig, await rig.append(event(json.dumps({"size": size}).encode())))

    assert state.status == "succeeded"
    assert state.frame is not None
    assert bool(state.frame.flags & FLAG_PAYLOAD_OMITTED) is not kept
    assert state.frame.payload == (b'"%b"' % (b"x" * size) if kept else b"")


async def test_an_event_that_fails_for_good_keeps_its_last_error_with_its_dead_letter(rig: RuntimeRig) -> None:
    await rig.run(HANDLER, retry_delays_ms=[0])

    state = await ended(rig, await rig.append(event(b'{"raise": "no"}')))

    assert (state.status, state.attempts, state.reason) == ("failed", 2, "RetriesExhausted")
    assert state.frame is not None
    assert state.frame.error_kind == ERROR_FUNCTION
    assert json.loads(state.frame.payload or b"")["errorMessage"] == "no"
    [(_, letter)] = await command(rig.redis, "XRANGE", rig.queue.dead, "-", "+")
    assert letter[b"f"] == state.frame.encode()


async def test_a_running_event_that_is_cancelled_ends_with_its_process_and_is_not_tried_again(rig: RuntimeRig) -> None:
    await rig.run(HANDLER, retry_delays_ms=[0, 0])
    record = await running(rig)

    await cancelled(rig, record)
    state = await ended(rig, record)

    assert (state.status, state.attempts, state.reason) == ("cancelled", 1, "Cancelled")
    ident = str(UUID(bytes=record.invocation_id))
    assert state.frame is not None
    assert json.loads(state.frame.payload or b"") == {
        "errorType": "Sandbox.Cancelled",
        "errorMessage": f"RequestId: {ident} Error: Task was cancelled",
    }
    await nothing_is_left(rig)
    started, said, end, report = rig.messages(ident)[1:]
    assert (started, end) == ("started 0", f"END RequestId: {ident}")
    assert said.endswith(f"Z {ident} Task was cancelled")
    assert report.endswith("\tStatus: cancelled\t")
    assert (await ended(rig, await rig.append(event(b"{}")))).status == "succeeded"

    async def counted() -> bool:
        return (await rig.heartbeat()).get("async_cancelled") == "1"

    await wait_until_async(counted, "the heartbeat counts it")


async def test_an_event_that_ends_before_its_cancellation_is_heard_of_keeps_its_end(rig: RuntimeRig) -> None:
    await rig.prepare()
    rig.start()
    handlers = await rig.play_handlers()
    handler = await asyncio.to_thread(lambda: handlers.handler(*handlers.next_spawn()))
    await rig.wait_for_state("ready")
    succeeds, fails = await rig.append(event()), await rig.append(event())

    token, _ = await asyncio.to_thread(handler.next_event)
    assert (await cancel_event(rig.redis, rig.queue, succeeds.invocation_id)).result == CancelResult.RUNNING
    handler.answer(token, b'"done"')
    token, _ = await asyncio.to_thread(handler.next_event)
    assert (await cancel_event(rig.redis, rig.queue, fails.invocation_id)).result == CancelResult.RUNNING
    handler.answer(token, b"{}", 1)

    assert (await ended(rig, succeeds)).status == "succeeded"
    assert (await ended(rig, fails)).status == "cancelled", "it would have run again"
    await nothing_is_left(rig)


async def test_a_leased_event_that_has_not_started_is_cancelled_unrun(rig: RuntimeRig) -> None:
    await rig.prepare()
    rig.start()
    handlers = await rig.play_handlers()
    handler = await asyncio.to_thread(lambda: handlers.handler(*handlers.next_spawn()))
    await rig.wait_for_state("ready")
    handler.close()
    handlers.exited(await asyncio.to_thread(handlers.next_kill), 7 << 8)
    await rig.invoke()  # is told of the failed process; the next one waits for a new process
    record = await rig.append(event())
    slot = await asyncio.to_thread(handlers.next_spawn)

    await cancelled(rig, record)
    state = await ended(rig, record)

    assert (state.status, state.attempts, state.frame) == ("cancelled", 0, None)
    successor = handlers.handler(*slot)
    following = await rig.append(event(b"following"))
    token, payload = await asyncio.to_thread(successor.next_event)
    assert payload == b"following"
    successor.answer(token, b"1")
    assert (await ended(rig, following)).status == "succeeded"


async def test_a_cancellation_that_comes_before_its_event_is_remembered_for_it(rig: RuntimeRig) -> None:
    """Its lease was taken by a read of which only Redis knows; it is found when the instance connects anew."""
    await rig.prepare(HANDLER)
    record = await rig.append(event(b'{"n": 7}'))
    assert await lease(rig.redis, rig.queue.async_, rig.instance_id)
    rig.start()
    rig.start_handlers()
    await rig.wait_for_state("ready")

    await cancelled(rig, record)

    async def heard() -> bool:
        return not await rig.redis.xlen(rig.keys.control(rig.instance_id))

    await wait_until_async(heard, "the instance has heard of it")
    await command(rig.redis, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    state = await ended(rig, record)

    assert (state.status, state.attempts) == ("cancelled", 0)
    assert "started 7" not in rig.messages()


async def test_a_cancelled_event_that_an_instance_hands_back_ends_there(rig: RuntimeRig) -> None:
    await rig.prepare()
    rig.start()
    handlers = await rig.play_handlers()
    await asyncio.to_thread(handlers.next_spawn)  # which never comes up
    record = await rig.append(event())
    assert await lease(rig.redis, rig.queue.async_, rig.instance_id)
    assert (await cancel_event(rig.redis, rig.queue, record.invocation_id)).result == CancelResult.RUNNING

    assert await rig.drain() == 0

    assert (await state_of(rig, record)).status == "cancelled"
    await nothing_is_left(rig)


async def test_events_of_one_group_run_one_after_the_other_beside_those_of_another(rig: RuntimeRig) -> None:
    await rig.run(HANDLER, concurrency=3)
    first, second = b"1" * 16, b"2" * 16
    slow = [
        await rig.append(event(json.dumps({"n": number, "s": 0.3}).encode(), group_hash=first)) for number in range(3)
    ]
    beside = await rig.append(event(b'{"n": 9}', group_hash=second))

    ends = [(await ended(rig, record)).ended_ms or 0 for record in slow]

    assert ends[1] - ends[0] >= 300
    assert ends[2] - ends[1] >= 300
    assert ((await ended(rig, beside)).ended_ms or 0) < ends[1]
    await nothing_is_left(rig)


async def test_a_cancelled_event_gives_its_groups_next_one_its_turn(rig: RuntimeRig) -> None:
    await rig.run(HANDLER)
    group = b"g" * 16
    record = await rig.append(event(b'{"n": 1, "s": 60}', timeout_ms=90_000, group_hash=group))
    following = await rig.append(event(b'{"n": 2}', group_hash=group))
    await asyncio.to_thread(wait_until, lambda: "started 1" in rig.messages(), "the first one runs")

    await cancelled(rig, record)

    assert (await ended(rig, following)).status == "succeeded"
    assert (await state_of(rig, record)).status == "cancelled"
    await nothing_is_left(rig)


async def test_a_large_event_that_is_cancelled_leaves_no_body(rig: RuntimeRig) -> None:
    await rig.run(HANDLER)
    record = event(None, timeout_ms=90_000)
    record.claim = f"body:{record.invocation_id.hex()}"
    body = f"{rig.keys.base}:{record.claim}"
    await rig.redis.set(body, json.dumps({"n": 5, "s": 60, "pad": "y" * 300_000}).encode(), ex=600)
    await rig.append(record)
    await asyncio.to_thread(wait_until, lambda: "started 5" in rig.messages(), "it runs")

    await cancelled(rig, record)

    assert (await ended(rig, record)).status == "cancelled"
    assert not await rig.redis.exists(body)
