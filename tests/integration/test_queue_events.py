"""What is known of an event: where it is, how it ended and for how long that is kept; and cancelling it anywhere."""

import secrets
import time

import pytest
from redis.asyncio import Redis

from forebay_common import limits
from forebay_common.events import (
    CANCELLED,
    CANCELLING,
    DELAYED,
    FAILED,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    Cancellation,
    CancelResult,
    EventState,
    cancel_event,
    find_event,
    trim_ended,
)
from forebay_common.frames import ReplyFrame
from forebay_common.keys import PlatformKeys
from forebay_common.queue import VersionQueue, delete_function_keys, observe, promote
from forebay_common.record import Invocation
from forebay_common.recovery import abandon_instance
from forebay_common.redis_client import command, run_many
from forebay_common.scripts import FINISH_ASYNC
from support.queue_side import (
    accept,
    accepted,
    append,
    body_of,
    event,
    finish_async,
    give,
    keys_of,
    lease,
    length,
    make_due,
    records,
    start_instance,
)

pytestmark = pytest.mark.usefixtures("no_leaked_keys")

GROUP_A = b"a" * 16
WEIGHT = limits.RESULTS_MAX_BYTES // limits.RESULTS_MAX
"""What each result counts for besides its frame's bytes, so that their number is bounded too."""
FRAME = ReplyFrame(token=bytes(16), payload=b'"done"')


async def state_of(redis: Redis, queue: VersionQueue, record: Invocation) -> EventState:
    [state] = await find_event(redis, queue, [record.invocation_id])
    assert state is not None
    return state


async def leased(redis: Redis, queue: VersionQueue, record: Invocation) -> bytes:
    await append(redis, queue, record)
    [entry_id] = await lease(redis, queue.async_, "i1")
    return entry_id


class TestFindEvent:
    async def test_each_place_has_its_status(self, redis: Redis, queue: VersionQueue) -> None:
        queued, grouped, later = event(attempt=1), event(group_hash=GROUP_A), event()
        running = event(b"x" * 100_000, arn="arn:x", attempt=2)
        entry_id = await leased(redis, queue, running)
        second = await append(redis, queue, queued)
        await append(redis, queue, event(group_hash=GROUP_A))
        await accept(redis, queue, grouped)
        await accept(redis, queue, later, delay_ms=60_000)

        found = await find_event(redis, queue, [r.invocation_id for r in (running, queued, grouped, later, event())])

        assert found[0] == EventState(RUNNING, 3, accepted(entry_id), instance="i1", entry_id=entry_id)
        assert found[1] == EventState(QUEUED, 1, accepted(second), entry_id=second)
        assert found[2] == EventState(QUEUED, 0, found[2].accepted_ms if found[2] else 0)
        assert found[2] is not None
        assert found[2].accepted_ms >= accepted(second)
        assert found[3] is not None
        assert (found[3].status, found[3].due_ms) == (DELAYED, found[3].accepted_ms)
        assert found[3].accepted_ms - accepted(second) > 50_000
        assert found[4] is None

    async def test_one_that_waits_for_its_next_attempt_says_when(self, redis: Redis, queue: VersionQueue) -> None:
        record = event(claim="body:none", payload=None)
        entry_id = await leased(redis, queue, record)
        await finish_async(redis, queue, entry_id, "i1", "retry", delay_ms=60_000)
        state = await state_of(redis, queue, record)
        assert (state.status, state.attempts, state.accepted_ms) == (DELAYED, 1, accepted(entry_id))
        assert state.due_ms is not None
        assert state.due_ms >= accepted(entry_id) + 60_000

    @pytest.mark.parametrize(
        ("outcome", "status", "attempts", "reason"),
        [
            ("done", SUCCEEDED, 2, ""),
            ("dead", FAILED, 2, "RetriesExhausted"),
            ("expired", FAILED, 1, "EventAgeExceeded"),
            ("cancelled", CANCELLED, 2, "Cancelled"),
        ],
    )
    async def test_how_it_ended_is_kept_with_its_last_reply(
        self, redis: Redis, queue: VersionQueue, outcome: str, status: str, attempts: int, reason: str
    ) -> None:
        record = event(attempt=1, first_accepted_ms=1_700_000_000_123)
        record.wait_ms = 0xFFFFFFFF
        entry_id = await leased(redis, queue, record)
        assert await finish_async(redis, queue, entry_id, "i1", outcome, reason=reason, frame=FRAME.encode()) == 1

        state = await state_of(redis, queue, record)

        assert (state.status, state.attempts, state.reason) == (status, attempts, reason)
        assert state.accepted_ms == 1_700_000_000_123
        assert state.frame is not None
        assert state.frame.payload == b'"done"'
        assert state.ended_ms == accepted(state.entry_id)
        assert abs(state.ended_ms - time.time() * 1000) < 60_000

    async def test_one_that_left_no_reply_has_none(self, redis: Redis, queue: VersionQueue) -> None:
        record = event()
        await finish_async(redis, queue, await leased(redis, queue, record), "i1", "done")
        assert (await state_of(redis, queue, record)).frame is None

    async def test_after_a_retry_without_delay_a_release_and_a_reclaim_it_is_found_where_it_is(
        self, redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys
    ) -> None:
        record = event()
        entry_id = await leased(redis, queue, record)
        await finish_async(redis, queue, entry_id, "i1", "retry")
        assert (await state_of(redis, queue, record)).status == QUEUED
        [entry_id] = await lease(redis, queue.async_, "i1")
        await finish_async(redis, queue, entry_id, "i1", "released")
        assert (await state_of(redis, queue, record)).status == QUEUED
        await start_instance(redis, queue, "i1")
        await lease(redis, queue.async_, "i1")
        await abandon_instance(redis, platform_keys, queue, "i1", delay_ms=60_000)
        assert (await state_of(redis, queue, record)).status == DELAYED
        await make_due(redis, queue)
        await promote(redis, queue)
        state = await state_of(redis, queue, record)
        assert (state.status, state.attempts) == (QUEUED, 2)

    async def test_of_a_deleted_function_nothing_is_known(self, redis: Redis, queue: VersionQueue) -> None:
        record = event()
        await append(redis, queue, record)
        await delete_function_keys(redis, queue.keys)
        assert await find_event(redis, queue, [record.invocation_id]) == [None]
        assert await cancel_event(redis, queue, record.invocation_id) == Cancellation(CancelResult.UNKNOWN)
        assert await keys_of(redis, queue) == []


class TestResultsAreBounded:
    async def end(self, redis: Redis, queue: VersionQueue, count: int, frame: bytes) -> list[bytes]:
        """End so many events; gives their ids."""
        ended = [event() for _ in range(count)]
        for record in ended:
            await append(redis, queue, record)
        entry_ids = await lease(redis, queue.async_, "i1", count)
        keys = queue.ending(b"")
        await run_many(redis, [(FINISH_ASYNC, keys, (ident, "i1", "done", 0, "", frame, b"")) for ident in entry_ids])
        return [record.invocation_id for record in ended]

    async def consistent(self, redis: Redis, queue: VersionQueue) -> tuple[int, int]:
        """Number and bytes of the results; `live` says the same."""
        live = await command(redis, "HGETALL", queue.live)
        weight = int(live.pop(b"kept", 0))
        ended = await command(redis, "XRANGE", queue.ended, "-", "+")
        assert live == {fields[b"i"]: b"e:" + entry_id for entry_id, fields in ended}
        kept = sum(len(fields[b"f"]) for _, fields in ended)
        assert weight == kept + len(ended) * WEIGHT
        return len(ended), kept

    async def test_in_number_the_oldest_go(self, redis: Redis, queue: VersionQueue) -> None:
        ids = await self.end(redis, queue, limits.RESULTS_MAX + 40, b"")
        count, _ = await self.consistent(redis, queue)
        assert limits.RESULTS_MAX - 16 < count <= limits.RESULTS_MAX
        found = await find_event(redis, queue, [ids[0], ids[-1], ids[-count], ids[-count - 1]])
        assert [state is None for state in found] == [True, False, False, True]

    async def test_in_bytes_the_oldest_go(self, redis: Redis, queue: VersionQueue) -> None:
        frame = ReplyFrame(token=bytes(16), payload=b"x" * (limits.RESULT_FRAME_MAX_BYTES - 100)).encode()
        ids = await self.end(redis, queue, 300, frame)
        count, used = await self.consistent(redis, queue)
        weight = used + count * WEIGHT
        assert limits.RESULTS_MAX_BYTES - 17 * (len(frame) + WEIGHT) < weight <= limits.RESULTS_MAX_BYTES
        found = await find_event(redis, queue, [ids[0], ids[-1], ids[-count]])
        assert [state is None for state in found] == [True, False, False]

    async def test_in_age_those_past_their_retention_go(self, redis: Redis, queue: VersionQueue) -> None:
        ids = await self.end(redis, queue, 130, b"f")
        assert await trim_ended(redis, queue, 3_600_000) == 0
        assert await self.consistent(redis, queue) == (130, 130)
        assert await trim_ended(redis, queue, 0) == 130
        assert await self.consistent(redis, queue) == (0, 0)
        assert await find_event(redis, queue, ids[:1]) == [None]
        assert await trim_ended(redis, queue, 0) == 0

    async def test_of_a_deleted_function_nothing_comes_back(self, redis: Redis, queue: VersionQueue) -> None:
        await self.end(redis, queue, 1, b"f")
        await delete_function_keys(redis, queue.keys)
        assert await trim_ended(redis, queue, 0) == 0
        assert await keys_of(redis, queue) == []


class TestCancelEvent:
    async def test_a_queued_one_never_runs(self, redis: Redis, queue: VersionQueue) -> None:
        record = event()
        body = await body_of(redis, queue, record)
        entry_id = await append(redis, queue, record)

        assert await cancel_event(redis, queue, record.invocation_id) == Cancellation(CancelResult.CANCELLED)

        assert await lease(redis, queue.async_, "i1") == []
        assert await length(redis, queue) == (0, 0, 0, 0)
        assert not await command(redis, "EXISTS", body)
        state = await state_of(redis, queue, record)
        assert (state.status, state.attempts, state.reason) == (CANCELLED, 0, "Cancelled")
        assert (state.accepted_ms, state.frame) == (accepted(entry_id), None)
        [seen] = await observe(redis, [queue])
        assert seen is not None
        assert (seen.async_.queued, seen.ended) == (0, 1)

    async def test_of_many_that_are_delayed_to_the_same_time_it_is_the_one(
        self, redis: Redis, queue: VersionQueue
    ) -> None:
        many = [event() for _ in range(20)]
        body = await body_of(redis, queue, many[7])
        for record in many:
            await accept(redis, queue, record, delay_ms=60_000)
            await command(redis, "ZADD", queue.delayed, 2_000_000_000_000, record.invocation_id)

        assert await cancel_event(redis, queue, many[7].invocation_id) == Cancellation(CancelResult.CANCELLED)

        left = set(await redis.zrange(queue.delayed, 0, -1))
        assert left == {record.invocation_id for record in many} - {many[7].invocation_id}
        assert not await command(redis, "EXISTS", body)
        assert (await state_of(redis, queue, many[7])).status == CANCELLED

    async def test_a_leased_one_stays_its_holders_who_is_to_be_told(self, redis: Redis, queue: VersionQueue) -> None:
        record = event()
        entry_id = await leased(redis, queue, record)

        assert await cancel_event(redis, queue, record.invocation_id) == Cancellation(CancelResult.RUNNING, "i1")
        assert await cancel_event(redis, queue, record.invocation_id) == Cancellation(CancelResult.RUNNING, "i1")

        state = await state_of(redis, queue, record)
        assert (state.status, state.reason, state.instance) == (RUNNING, CANCELLING, "i1")
        assert await finish_async(redis, queue, entry_id, "i1", "cancelled") == 1
        state = await state_of(redis, queue, record)
        assert (state.status, state.attempts) == (CANCELLED, 1)

    @pytest.mark.parametrize(
        ("outcome", "status", "attempts", "dead"),
        [
            ("done", SUCCEEDED, 1, 0),
            ("dead", FAILED, 1, 1),
            ("retry", CANCELLED, 1, 0),
            ("expired", CANCELLED, 0, 0),
            ("released", CANCELLED, 0, 0),
        ],
    )
    async def test_one_that_was_cancelled_while_it_was_leased_does_not_run_again(
        self, redis: Redis, queue: VersionQueue, outcome: str, status: str, attempts: int, dead: int
    ) -> None:
        record = event()
        body = await body_of(redis, queue, record)
        entry_id = await leased(redis, queue, record)
        await cancel_event(redis, queue, record.invocation_id)

        assert await finish_async(redis, queue, entry_id, "i1", outcome, delay_ms=60_000, body=[body]) == 1

        state = await state_of(redis, queue, record)
        assert (state.status, state.attempts) == (status, attempts)
        assert await length(redis, queue) == (0, 0, 0, dead)
        assert await command(redis, "EXISTS", body) == dead

    async def test_not_even_when_its_instance_dies(
        self, redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys
    ) -> None:
        record = event()
        await start_instance(redis, queue, "i1")
        await leased(redis, queue, record)
        await cancel_event(redis, queue, record.invocation_id)
        done = await abandon_instance(redis, platform_keys, queue, "i1")
        assert (done.async_cancelled, done.async_requeued) == (1, 0)
        state = await state_of(redis, queue, record)
        assert (state.status, state.attempts) == (CANCELLED, 1)
        assert await length(redis, queue) == (0, 0, 0, 0)

    async def test_another_holders_finish_of_it_changes_nothing(self, redis: Redis, queue: VersionQueue) -> None:
        record = event()
        entry_id = await leased(redis, queue, record)
        await give(redis, queue.async_, entry_id, "i2")
        assert await cancel_event(redis, queue, record.invocation_id) == Cancellation(CancelResult.RUNNING, "i2")
        assert await finish_async(redis, queue, entry_id, "i1", "cancelled") == 0
        assert (await state_of(redis, queue, record)).instance == "i2"

    @pytest.mark.parametrize("outcome", ["done", "dead", "cancelled"])
    async def test_one_that_has_ended_stays_as_it_ended(self, redis: Redis, queue: VersionQueue, outcome: str) -> None:
        record = event()
        await finish_async(redis, queue, await leased(redis, queue, record), "i1", outcome)
        before = await state_of(redis, queue, record)
        assert await cancel_event(redis, queue, record.invocation_id) == Cancellation(CancelResult.ENDED)
        assert await state_of(redis, queue, record) == before

    async def test_an_unknown_one_is_unknown(self, redis: Redis, queue: VersionQueue) -> None:
        await append(redis, queue, event())
        assert await cancel_event(redis, queue, secrets.token_bytes(16)) == Cancellation(CancelResult.UNKNOWN)
        assert len(await records(redis, queue.async_)) == 1
