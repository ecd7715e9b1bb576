"""Events that ran well, finished together: what `finish_async` does for one, `finish_done` does for many."""

import pytest
from redis.asyncio import Redis

from forebay_common.events import SUCCEEDED, find_event
from forebay_common.frames import ReplyFrame
from forebay_common.queue import VersionQueue
from forebay_common.record import Invocation
from forebay_common.redis_client import command
from support.queue_side import append, event, finish_async, finish_done, give, lease, length, pending_ids

FRAME = ReplyFrame(token=b"", payload=b"{}").encode()


async def leased(redis: Redis, queue: VersionQueue, count: int, consumer: str = "i1") -> list[tuple[bytes, Invocation]]:
    """Events that an instance holds, in their order."""
    records = [event() for _ in range(count)]
    ids = [await append(redis, queue, record) for record in records]
    assert await lease(redis, queue.async_, consumer, count) == ids
    return list(zip(ids, records, strict=True))


async def test_they_are_gone_and_their_results_are_kept(redis: Redis, queue: VersionQueue) -> None:
    held = await leased(redis, queue, 3)
    assert await finish_done(redis, queue, held[::-1], "i1", FRAME) == [1, 1, 1]
    assert await length(redis, queue) == (0, 0, 0, 0)
    assert await pending_ids(redis, queue.async_) == []
    for found in await find_event(redis, queue, [record.invocation_id for _, record in held]):
        assert found is not None
        assert (found.status, found.attempts, found.reason) == (SUCCEEDED, 1, "")
        assert found.frame is not None
        assert found.frame.payload == b"{}"


async def test_a_result_is_kept_as_one_that_was_finished_alone(redis: Redis, queue: VersionQueue) -> None:
    (one, other) = await leased(redis, queue, 2)
    assert await finish_async(redis, queue, one[0], "i1", "done", frame=FRAME) == 1
    kept_alone = await command(redis, "HGET", queue.live, "kept")
    assert await finish_done(redis, queue, [other], "i1", FRAME) == [1]
    (_, alone), (_, together) = await command(redis, "XRANGE", queue.ended, "-", "+")
    accepted_ms = [entry_id.split(b"-")[0] for entry_id, _ in (one, other)]
    assert alone[b"e"].replace(accepted_ms[0], b"T") == together[b"e"].replace(accepted_ms[1], b"T")
    assert alone[b"f"] == together[b"f"]
    assert int(await command(redis, "HGET", queue.live, "kept")) == 2 * int(kept_alone)


@pytest.mark.parametrize("lost", [0, 1, 2])
async def test_one_whose_lease_was_lost_is_left_alone(redis: Redis, queue: VersionQueue, lost: int) -> None:
    held = await leased(redis, queue, 3)
    await give(redis, queue.async_, held[lost][0], "i2")
    assert await finish_done(redis, queue, held, "i1", FRAME) == [int(number != lost) for number in range(3)]
    assert await pending_ids(redis, queue.async_) == [held[lost][0]]
    assert await command(redis, "XLEN", queue.ended) == 2


async def test_twice_is_as_once(redis: Redis, queue: VersionQueue) -> None:
    held = await leased(redis, queue, 3)
    assert await finish_done(redis, queue, held, "i1", FRAME) == [1, 1, 1]
    before = await command(redis, "HGETALL", queue.live)
    assert await finish_done(redis, queue, held, "i1", FRAME) == [0, 0, 0]
    assert await command(redis, "HGETALL", queue.live) == before
    assert await command(redis, "XLEN", queue.ended) == 3


async def test_of_one_that_somebody_deleted_only_the_lease_goes(redis: Redis, queue: VersionQueue) -> None:
    held = await leased(redis, queue, 2)
    await command(redis, "XDEL", queue.async_, held[0][0])
    assert await finish_done(redis, queue, held, "i1", FRAME) == [1, 1]
    assert await pending_ids(redis, queue.async_) == []
    assert await command(redis, "XLEN", queue.ended) == 1


async def test_a_deleted_function_has_no_leases(redis: Redis, queue: VersionQueue) -> None:
    held = await leased(redis, queue, 1)
    await command(redis, "UNLINK", queue.async_)
    assert await finish_done(redis, queue, held, "i1", FRAME) == [0]


async def test_results_stay_within_their_bound(redis: Redis, queue: VersionQueue) -> None:
    for _ in range(12):
        assert await finish_done(redis, queue, await leased(redis, queue, 100), "i1", FRAME) == [1] * 100
    kept = await command(redis, "XLEN", queue.ended)
    assert 800 <= kept <= 1_000
    live = await command(redis, "HGETALL", queue.live)
    assert len(live) == kept + 1, "what is forgotten is not known any more"
