"""Events of one group: one after another, in the order of acceptance, whatever becomes of each; fair to the others."""

from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from forebay_common.dead_letters import list_dead, redrive
from forebay_common.events import CancelResult, cancel_event
from forebay_common.keys import PlatformKeys
from forebay_common.queue import VersionQueue, delete_function_keys, observe, promote
from forebay_common.record import Invocation
from forebay_common.recovery import abandon_instance
from forebay_common.redis_client import command
from support.queue_side import (
    accept,
    delayed,
    event,
    finish_async,
    give,
    keys_of,
    lease,
    make_due,
    records,
    start_instance,
    waiting,
)

pytestmark = pytest.mark.usefixtures("no_leaked_keys")

A, B = b"a" * 16, b"b" * 16


def member(payload: bytes, group: bytes = A, **changes: object) -> Invocation:
    return event(payload, group_hash=group, **changes)


async def queued(redis: Redis, queue: VersionQueue) -> list[bytes]:
    return [record.payload or b"" for record in await records(redis, queue.async_)]


async def accept_all(redis: Redis, queue: VersionQueue, *members: Invocation) -> None:
    for record in members:
        assert (await accept(redis, queue, record))[0] == 0


async def finish_next(redis: Redis, queue: VersionQueue, outcome: str, group: bytes = A, delay_ms: int = 0) -> None:
    [entry_id] = await lease(redis, queue.async_, "i1")
    assert await finish_async(redis, queue, entry_id, "i1", outcome, group=group, delay_ms=delay_ms) == 1


async def test_one_of_a_group_is_queued_and_the_others_wait(redis: Redis, queue: VersionQueue) -> None:
    await accept_all(redis, queue, member(b"a1"), member(b"a2"), member(b"b1", B), event(b"free"), member(b"a3"))
    assert await queued(redis, queue) == [b"a1", b"b1", b"free"]
    assert [record.payload for record in await waiting(redis, queue, A)] == [b"a2", b"a3"]
    [state] = await observe(redis, [queue])
    assert state is not None
    assert (state.grouped, state.async_.queued) == (2, 3)


async def test_they_run_in_order_and_behind_what_waits_already(redis: Redis, queue: VersionQueue) -> None:
    await accept_all(redis, queue, member(b"a1"), member(b"a2"), member(b"a3"), member(b"b1", B), member(b"b2", B))
    order = []
    for _ in range(5):
        [entry_id] = await lease(redis, queue.async_, "i1")
        [record] = [
            Invocation.decode(fields[b"r"])
            for _, fields in await command(redis, "XRANGE", queue.async_, entry_id, entry_id)
        ]
        order.append(record.payload)
        await finish_async(redis, queue, entry_id, "i1", "done", group=record.group_hash)
    assert order == [b"a1", b"b1", b"a2", b"b2", b"a3"]
    assert await command(redis, "EXISTS", queue.groups, queue.group(A)) == 1
    assert await command(redis, "HGETALL", queue.groups) == {b"n": b"0"}


Ending = Callable[[Redis, VersionQueue, PlatformKeys, Invocation], Awaitable[None]]


async def done(redis: Redis, queue: VersionQueue, platform: PlatformKeys, record: Invocation) -> None:
    del platform, record
    await finish_next(redis, queue, "done")


async def dead(redis: Redis, queue: VersionQueue, platform: PlatformKeys, record: Invocation) -> None:
    del platform, record
    await finish_next(redis, queue, "dead")


async def expired(redis: Redis, queue: VersionQueue, platform: PlatformKeys, record: Invocation) -> None:
    del platform, record
    await finish_next(redis, queue, "expired")


async def stopped(redis: Redis, queue: VersionQueue, platform: PlatformKeys, record: Invocation) -> None:
    del platform, record
    await finish_next(redis, queue, "cancelled")


async def too_late_for_a_retry(redis: Redis, queue: VersionQueue, platform: PlatformKeys, record: Invocation) -> None:
    del platform, record
    await finish_next(redis, queue, "retry", delay_ms=90_000_000)


async def cancelled(redis: Redis, queue: VersionQueue, platform: PlatformKeys, record: Invocation) -> None:
    del platform
    assert (await cancel_event(redis, queue, record.invocation_id)).result is CancelResult.CANCELLED


async def cancelled_while_delayed(
    redis: Redis, queue: VersionQueue, platform: PlatformKeys, record: Invocation
) -> None:
    await finish_next(redis, queue, "retry", delay_ms=60_000)
    await cancelled(redis, queue, platform, record)


async def cancelled_and_released(redis: Redis, queue: VersionQueue, platform: PlatformKeys, record: Invocation) -> None:
    del platform
    [entry_id] = await lease(redis, queue.async_, "i1")
    assert (await cancel_event(redis, queue, record.invocation_id)).result is CancelResult.RUNNING
    assert await finish_async(redis, queue, entry_id, "i1", "released", group=A) == 1


async def reclaimed_for_the_last_time(
    redis: Redis, queue: VersionQueue, platform: PlatformKeys, record: Invocation
) -> None:
    del record
    await start_instance(redis, queue, "i1")
    await lease(redis, queue.async_, "i1")
    assert (await abandon_instance(redis, platform, queue, "i1", attempts_max=1)).async_dead == 1


async def cancelled_and_reclaimed(
    redis: Redis, queue: VersionQueue, platform: PlatformKeys, record: Invocation
) -> None:
    await start_instance(redis, queue, "i1")
    await lease(redis, queue.async_, "i1")
    assert (await cancel_event(redis, queue, record.invocation_id)).result is CancelResult.RUNNING
    assert (await abandon_instance(redis, platform, queue, "i1")).async_cancelled == 1


async def deleted_by_hand(redis: Redis, queue: VersionQueue, platform: PlatformKeys, record: Invocation) -> None:
    del platform, record
    [entry_id] = await lease(redis, queue.async_, "i1")
    await command(redis, "XDEL", queue.async_, entry_id)
    assert await finish_async(redis, queue, entry_id, "i1", "done", group=A) == 1


ENDINGS: tuple[Ending, ...] = (
    done,
    dead,
    expired,
    stopped,
    too_late_for_a_retry,
    cancelled,
    cancelled_while_delayed,
    cancelled_and_released,
    reclaimed_for_the_last_time,
    cancelled_and_reclaimed,
    deleted_by_hand,
)


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.__name__)
async def test_however_one_ends_the_next_has_its_turn(
    redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys, ending: Ending
) -> None:
    first = member(b"a1")
    await accept_all(redis, queue, first, member(b"a2"), member(b"a3"))
    await ending(redis, queue, platform_keys, first)
    assert await queued(redis, queue) == [b"a2"]
    assert [record.payload for record in await waiting(redis, queue, A)] == [b"a3"]
    await finish_next(redis, queue, "done")
    await finish_next(redis, queue, "done")
    assert await command(redis, "HGET", queue.groups, A) is None
    await accept_all(redis, queue, member(b"a4"))
    assert await queued(redis, queue) == [b"a4"]


async def test_one_that_is_to_run_again_keeps_its_turn(
    redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys
) -> None:
    await accept_all(redis, queue, member(b"a1"), member(b"a2"))
    await finish_next(redis, queue, "retry", delay_ms=60_000)
    assert await queued(redis, queue) == []
    await make_due(redis, queue)
    await promote(redis, queue)
    assert await queued(redis, queue) == [b"a1"]
    await finish_next(redis, queue, "released")
    assert await queued(redis, queue) == [b"a1"]
    await start_instance(redis, queue, "i1")
    await lease(redis, queue.async_, "i1")
    await abandon_instance(redis, platform_keys, queue, "i1")
    assert await queued(redis, queue) == [b"a1"]
    assert [record.payload for record in await waiting(redis, queue, A)] == [b"a2"]


async def test_a_late_finish_passes_no_turn(redis: Redis, queue: VersionQueue) -> None:
    await accept_all(redis, queue, member(b"a1"), member(b"a2"))
    [entry_id] = await lease(redis, queue.async_, "i1")
    await give(redis, queue.async_, entry_id, "i2")
    assert await finish_async(redis, queue, entry_id, "i1", "done", group=A) == 0
    assert await queued(redis, queue) == [b"a1"]


async def test_one_for_later_holds_its_group_and_comes_at_its_time(redis: Redis, queue: VersionQueue) -> None:
    first, second = member(b"a1"), member(b"a2")
    await accept(redis, queue, first, delay_ms=60_000)
    await accept(redis, queue, second, delay_ms=3_600_000)
    await accept_all(redis, queue, member(b"a3"))
    [(soonest, due)] = await delayed(redis, queue)
    assert (soonest.payload, soonest.first_accepted_ms) == (b"a1", due)
    await make_due(redis, queue)
    await promote(redis, queue)
    await finish_next(redis, queue, "done")
    # The next one's time has not come: it waits for that, and the third for it.
    [(soonest, due)] = await delayed(redis, queue)
    assert (soonest.payload, soonest.first_accepted_ms) == (b"a2", due)
    assert await queued(redis, queue) == []
    await cancel_event(redis, queue, second.invocation_id)
    assert await queued(redis, queue) == [b"a3"]


async def test_one_that_waits_for_its_turn_can_be_cancelled(redis: Redis, queue: VersionQueue) -> None:
    second = member(b"a2")
    await accept_all(redis, queue, member(b"a1"), second, member(b"a3"))
    assert (await cancel_event(redis, queue, second.invocation_id)).result is CancelResult.CANCELLED
    assert [record.payload for record in await waiting(redis, queue, A)] == [b"a3"]
    [state] = await observe(redis, [queue])
    assert state is not None
    assert (state.grouped, state.ended) == (1, 1)
    await finish_next(redis, queue, "done")
    assert await queued(redis, queue) == [b"a3"]


@pytest.mark.parametrize("place", [None, b"1700-0", b"e:1700-0"])
async def test_no_group_stands_still_for_one_that_is_elsewhere(
    redis: Redis, queue: VersionQueue, place: bytes | None
) -> None:
    second = member(b"a2")
    await accept_all(redis, queue, member(b"a1"), second, member(b"a3"))
    if place is None:
        await command(redis, "HDEL", queue.live, second.invocation_id)
    else:
        await command(redis, "HSET", queue.live, second.invocation_id, place)
    await finish_next(redis, queue, "done")
    assert await queued(redis, queue) == [b"a3"]
    assert await command(redis, "HGET", queue.live, second.invocation_id) == place
    [state] = await observe(redis, [queue])
    assert state is not None
    assert state.grouped == 0


async def test_a_redriven_one_joins_its_groups_end(redis: Redis, queue: VersionQueue) -> None:
    await accept_all(redis, queue, member(b"a1"), member(b"a2"), member(b"a3"))
    await finish_next(redis, queue, "dead")
    [letter] = (await list_dead(redis, queue)).entries
    assert await redrive(redis, queue, [letter.entry_id]) == 1
    assert await queued(redis, queue) == [b"a2"]
    found = await waiting(redis, queue, A)
    assert [(record.payload, record.attempt) for record in found] == [(b"a3", 0), (b"a1", 0)]
    assert found[1].first_accepted_ms >= found[0].first_accepted_ms


async def test_a_deleted_functions_groups_go_with_it(redis: Redis, queue: VersionQueue) -> None:
    for group in (A, B):
        await accept_all(redis, queue, member(b"1", group), member(b"2", group))
    [first, _] = await lease(redis, queue.async_, "i1", 2)
    await delete_function_keys(redis, queue.keys)
    assert await keys_of(redis, queue) == []
    assert await finish_async(redis, queue, first, "i1", "done", group=A, frame=b"f") == 0
    assert await keys_of(redis, queue) == []
