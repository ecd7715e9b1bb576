"""One test for each way an entry can go: who may move it, where it lands, what it carries, what stays behind."""

import time
from collections.abc import Sequence

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from forebay_common import limits, scripts
from forebay_common.keys import GROUP, RECORD_FIELD
from forebay_common.queue import Promotion, VersionQueue, promote
from forebay_common.record import FIRST_ACCEPTED_OFFSET, Invocation
from forebay_common.redis_client import command, run
from support.queue_side import (
    accept,
    accepted,
    append,
    body_of,
    call,
    dead,
    delayed,
    event,
    finish_async,
    give,
    lease,
    length,
    make_due,
    pending,
    pending_ids,
    records,
    start_instance,
)

pytestmark = pytest.mark.usefixtures("no_leaked_keys")

MAX_AGE_MS = 21_600_000


class TestCancel:
    async def cancel(self, redis: Redis, queue: VersionQueue, entry_id: bytes, body: Sequence[str] = ()) -> int:
        result: int = await run(redis, scripts.CANCEL, (queue.sync, *body), (entry_id,))
        return result

    async def test_an_unstarted_call_is_removed_with_its_body(self, redis: Redis, queue: VersionQueue) -> None:
        record = call()
        body = await body_of(redis, queue, record)
        entry_id = await append(redis, queue, record)

        assert await self.cancel(redis, queue, entry_id, [body]) == 1

        assert await length(redis, queue) == (0, 0, 0, 0)
        assert not await command(redis, "EXISTS", body)
        assert await lease(redis, queue.sync, "i1") == []

    async def test_a_leased_call_stays(self, redis: Redis, queue: VersionQueue) -> None:
        entry_id = await append(redis, queue, call())
        await lease(redis, queue.sync, "i1")

        assert await self.cancel(redis, queue, entry_id) == 0

        assert await pending_ids(redis, queue.sync) == [entry_id]

    async def test_a_call_that_is_gone_or_of_a_deleted_function_gives_0(
        self, redis: Redis, queue: VersionQueue
    ) -> None:
        entry_id = await append(redis, queue, call())
        assert await self.cancel(redis, queue, entry_id) == 1
        assert await self.cancel(redis, queue, entry_id) == 0
        await command(redis, "UNLINK", queue.sync)
        assert await self.cancel(redis, queue, entry_id) == 0


class TestExtend:
    async def test_only_the_owners_leases_are_renewed(self, redis: Redis, queue: VersionQueue) -> None:
        mine = await append(redis, queue, event())
        await lease(redis, queue.async_, "i1")
        others = await append(redis, queue, event())
        await lease(redis, queue.async_, "i2")
        for entry_id, owner in ((mine, "i1"), (others, "i2")):
            await give(redis, queue.async_, entry_id, owner, idle_ms=50_000)

        kept = await run(redis, scripts.EXTEND, (queue.async_,), ("i1", mine, others, "1-1"))

        assert kept == [mine]
        by_id = {entry["message_id"]: entry for entry in await pending(redis, queue.async_)}
        assert by_id[mine]["time_since_delivered"] < 40_000
        assert by_id[others]["time_since_delivered"] >= 50_000
        assert by_id[others]["consumer"] == b"i2"
        assert by_id[mine]["times_delivered"] == 1

    async def test_a_deleted_function_has_no_leases(self, redis: Redis, queue: VersionQueue) -> None:
        await command(redis, "UNLINK", queue.async_)
        assert await run(redis, scripts.EXTEND, (queue.async_,), ("i1", "1-1")) == []


class TestFinishAsync:
    async def test_done_removes_the_event_and_its_body(self, redis: Redis, queue: VersionQueue) -> None:
        record = event()
        body = await body_of(redis, queue, record)
        entry_id = await append(redis, queue, record)
        await lease(redis, queue.async_, "i1")

        assert await finish_async(redis, queue, entry_id, "i1", "done", body=[body]) == 1

        assert await length(redis, queue) == (0, 0, 0, 0)
        assert await pending_ids(redis, queue.async_) == []
        assert not await command(redis, "EXISTS", body)

    async def test_retry_delays_the_event_and_counts_the_start(self, redis: Redis, queue: VersionQueue) -> None:
        record = event(b'{"n": 7}')
        entry_id = await append(redis, queue, record)
        await lease(redis, queue.async_, "i1")

        assert await finish_async(redis, queue, entry_id, "i1", "retry", delay_ms=60_000, reason="Unhandled") == 1

        [(again, due)] = await delayed(redis, queue)
        assert (again.attempt, again.first_accepted_ms) == (1, accepted(entry_id))
        assert (again.payload, again.invocation_id) == (b'{"n": 7}', record.invocation_id)
        assert 0 <= due - accepted(entry_id) - 60_000 < 30_000
        assert await length(redis, queue) == (0, 0, 1, 0)
        assert await pending_ids(redis, queue.async_) == []

    async def test_a_retry_without_a_delay_is_in_the_queue_at_once(self, redis: Redis, queue: VersionQueue) -> None:
        entry_id = await append(redis, queue, event())
        await lease(redis, queue.async_, "i1")
        assert await finish_async(redis, queue, entry_id, "i1", "retry") == 1
        [again] = await records(redis, queue.async_)
        assert (again.attempt, again.first_accepted_ms) == (1, accepted(entry_id))
        assert await length(redis, queue) == (0, 1, 0, 0)

    async def test_released_goes_to_the_end_and_counts_no_start(self, redis: Redis, queue: VersionQueue) -> None:
        first, second = event(b"1"), event(b"2")
        entry_id = await append(redis, queue, first)
        await append(redis, queue, second)
        await lease(redis, queue.async_, "i1")
        assert await finish_async(redis, queue, entry_id, "i1", "released") == 1
        found = await records(redis, queue.async_)
        assert [(record.payload, record.attempt) for record in found] == [(b"2", 0), (b"1", 0)]
        assert found[1].first_accepted_ms == accepted(entry_id)
        assert await pending_ids(redis, queue.async_) == []

    async def test_a_retry_due_past_the_events_age_is_a_dead_letter(self, redis: Redis, queue: VersionQueue) -> None:
        entry_id = await append(redis, queue, event(wait_ms=60_000))
        await lease(redis, queue.async_, "i1")

        assert await finish_async(redis, queue, entry_id, "i1", "retry", delay_ms=120_000, reason="Unhandled") == 1

        [(record, reason)] = await dead(redis, queue)
        assert (record.attempt, reason) == (1, "EventAgeExceeded")
        assert await length(redis, queue) == (0, 0, 0, 1)

    async def test_dead_keeps_record_reason_and_body(self, redis: Redis, queue: VersionQueue) -> None:
        record = event(attempt=2, first_accepted_ms=int(time.time() * 1000) - 1000)
        body = await body_of(redis, queue, record)
        entry_id = await append(redis, queue, record)
        await lease(redis, queue.async_, "i1")

        assert await finish_async(redis, queue, entry_id, "i1", "dead", reason="RetriesExhausted", body=[body]) == 1

        [(letter, reason)] = await dead(redis, queue)
        assert (letter.attempt, letter.first_accepted_ms, reason) == (3, record.first_accepted_ms, "RetriesExhausted")
        for key in (queue.dead, body):
            assert limits.DEAD_LETTER_TTL_S - 60 < await command(redis, "TTL", key) <= limits.DEAD_LETTER_TTL_S

    async def test_expired_counts_no_start(self, redis: Redis, queue: VersionQueue) -> None:
        entry_id = await append(redis, queue, event(attempt=1))
        await lease(redis, queue.async_, "i1")

        assert await finish_async(redis, queue, entry_id, "i1", "expired", reason="EventAgeExceeded") == 1

        [(letter, reason)] = await dead(redis, queue)
        assert (letter.attempt, reason) == (1, "EventAgeExceeded")

    @pytest.mark.parametrize("outcome", ["done", "retry", "dead", "expired", "cancelled", "released"])
    async def test_a_lost_lease_changes_nothing(self, redis: Redis, queue: VersionQueue, outcome: str) -> None:
        entry_id = await append(redis, queue, event())
        await lease(redis, queue.async_, "i1")
        await give(redis, queue.async_, entry_id, "i2")

        assert await finish_async(redis, queue, entry_id, "i1", outcome, reason="late") == 0

        assert await length(redis, queue) == (0, 1, 0, 0)
        assert [entry["consumer"] for entry in await pending(redis, queue.async_)] == [b"i2"]

    async def test_a_deleted_function_leaves_nothing_behind(self, redis: Redis, queue: VersionQueue) -> None:
        entry_id = await append(redis, queue, event())
        await lease(redis, queue.async_, "i1")
        await command(redis, "UNLINK", queue.async_)

        assert await finish_async(redis, queue, entry_id, "i1", "retry", delay_ms=1) == 0

        assert await length(redis, queue) == (0, 0, 0, 0)

    async def test_an_unknown_outcome_is_an_error_and_keeps_the_event(self, redis: Redis, queue: VersionQueue) -> None:
        entry_id = await append(redis, queue, event())
        await lease(redis, queue.async_, "i1")
        with pytest.raises(ResponseError, match="unknown outcome perhaps"):
            await finish_async(redis, queue, entry_id, "i1", "perhaps")
        assert await pending_ids(redis, queue.async_) == [entry_id]

    async def test_dead_letters_are_bounded_without_a_controller(self, redis: Redis, queue: VersionQueue) -> None:
        # The script's own bound is approximate: whole nodes of the stream, 100 entries each, are dropped.
        record = event().encode()
        for _ in range(22):
            for _ in range(100):
                await command(redis, "XADD", queue.dead, "*", RECORD_FIELD, record, "reason", "filler")
        entry_id = await append(redis, queue, event())
        await lease(redis, queue.async_, "i1")

        await finish_async(redis, queue, entry_id, "i1", "dead", reason="RetriesExhausted")

        assert await command(redis, "XLEN", queue.dead) <= 2 * limits.DEAD_LETTERS_MAX + 100


class TestPromote:
    async def test_due_events_return_and_later_ones_stay(self, redis: Redis, queue: VersionQueue) -> None:
        for delay_ms in (60_000, 90_000):
            entry_id = await append(redis, queue, event())
            await lease(redis, queue.async_, "i1")
            await finish_async(redis, queue, entry_id, "i1", "retry", delay_ms=delay_ms)
            if delay_ms == 60_000:
                await make_due(redis, queue)

        promotion = await promote(redis, queue)

        assert promotion.moved == 1
        assert promotion.due_in_ms is not None
        assert 80_000 < promotion.due_in_ms <= 90_000
        [record] = await records(redis, queue.async_)
        assert record.attempt == 1
        assert record.first_accepted_ms > 0
        assert await length(redis, queue) == (0, 1, 1, 0)

    async def test_a_full_batch_says_that_there_is_more_now(self, redis: Redis, queue: VersionQueue) -> None:
        for n in range(3):
            record = event()
            await command(redis, "ZADD", queue.delayed, n, record.invocation_id)
            await command(redis, "HSET", queue.live, record.invocation_id, b"d" + record.encode())
        assert await promote(redis, queue, limit=2) == Promotion(2, 0)
        assert await promote(redis, queue, limit=2) == Promotion(1, None)

    async def test_nothing_delayed_is_nothing_to_do(self, redis: Redis, queue: VersionQueue) -> None:
        assert await promote(redis, queue) == Promotion(0, None)

    @pytest.mark.parametrize(
        "place", [b"1700-0", b"e:1700-0", b"g" + event().encode()], ids=["queued", "ended", "in a group"]
    )
    async def test_one_that_is_elsewhere_stays_there(self, redis: Redis, queue: VersionQueue, place: bytes) -> None:
        stray, due = event(), event()
        for number, record in enumerate((stray, due)):
            await command(redis, "ZADD", queue.delayed, number, record.invocation_id)
        await command(redis, "HSET", queue.live, stray.invocation_id, place)
        await command(redis, "HSET", queue.live, due.invocation_id, b"d" + due.encode())
        assert await promote(redis, queue) == Promotion(2, None)
        assert [record.invocation_id for record in await records(redis, queue.async_)] == [due.invocation_id]
        assert await command(redis, "HGET", queue.live, stray.invocation_id) == place

    async def test_a_deleted_functions_events_make_no_new_stream(self, redis: Redis, queue: VersionQueue) -> None:
        await accept(redis, queue, event(), delay_ms=1)
        await make_due(redis, queue)
        await command(redis, "UNLINK", queue.async_)
        assert await promote(redis, queue) == Promotion(1, None)
        assert await command(redis, "EXISTS", queue.async_, queue.delayed) == 0


class TestReclaimAsync:
    async def reclaim(
        self,
        redis: Redis,
        queue: VersionQueue,
        entry_id: bytes,
        *,
        consumer: str = "i1",
        attempts_max: int = 3,
        delay_ms: int = 0,
        min_idle_ms: int = 0,
    ) -> int:
        keys = (*queue.ending(b""), queue.keys.instance(consumer))
        arguments = (entry_id, consumer, attempts_max, delay_ms, min_idle_ms, b"")
        result: int = await run(redis, scripts.RECLAIM_ASYNC, keys, arguments)
        return result

    async def leased(self, redis: Redis, queue: VersionQueue, record: Invocation) -> bytes:
        entry_id = await append(redis, queue, record)
        await lease(redis, queue.async_, "i1")
        return entry_id

    async def test_the_event_returns_with_one_more_start(self, redis: Redis, queue: VersionQueue) -> None:
        entry_id = await self.leased(redis, queue, event())

        assert await self.reclaim(redis, queue, entry_id) == 1

        [record] = await records(redis, queue.async_)
        assert (record.attempt, record.first_accepted_ms) == (1, accepted(entry_id))
        assert await pending_ids(redis, queue.async_) == []
        assert await lease(redis, queue.async_, "i2") != []

    async def test_with_a_delay_it_waits(self, redis: Redis, queue: VersionQueue) -> None:
        entry_id = await self.leased(redis, queue, event())
        assert await self.reclaim(redis, queue, entry_id, delay_ms=5_000) == 2
        assert await length(redis, queue) == (0, 0, 1, 0)

    async def test_after_its_last_attempt_it_is_a_dead_letter(self, redis: Redis, queue: VersionQueue) -> None:
        entry_id = await self.leased(redis, queue, event(attempt=2))
        assert await self.reclaim(redis, queue, entry_id) == 3
        [(record, reason)] = await dead(redis, queue)
        assert (record.attempt, reason) == (3, "RetriesExhausted")

    async def test_past_its_age_it_is_a_dead_letter(self, redis: Redis, queue: VersionQueue) -> None:
        entry_id = await self.leased(redis, queue, event(first_accepted_ms=1_000, wait_ms=MAX_AGE_MS))
        assert await self.reclaim(redis, queue, entry_id) == 3
        [(record, reason)] = await dead(redis, queue)
        assert (record.first_accepted_ms, reason) == (1_000, "EventAgeExceeded")

    async def test_another_owners_lease_stays(self, redis: Redis, queue: VersionQueue) -> None:
        entry_id = await self.leased(redis, queue, event())
        assert await self.reclaim(redis, queue, entry_id, consumer="i2") == 0
        assert await pending_ids(redis, queue.async_) == [entry_id]

    async def test_a_lease_that_is_renewed_or_has_a_heartbeat_stays(self, redis: Redis, queue: VersionQueue) -> None:
        entry_id = await self.leased(redis, queue, event())
        assert await self.reclaim(redis, queue, entry_id, min_idle_ms=limits.LEASE_MS) == 0
        await give(redis, queue.async_, entry_id, "i1", idle_ms=limits.LEASE_MS)
        await start_instance(redis, queue, "i1")
        assert await self.reclaim(redis, queue, entry_id, min_idle_ms=limits.LEASE_MS) == 0
        await command(redis, "UNLINK", queue.keys.instance("i1"))
        assert await self.reclaim(redis, queue, entry_id, min_idle_ms=limits.LEASE_MS) == 1


class TestRelease:
    async def test_unstarted_entries_join_the_end_and_keep_their_acceptance(
        self, redis: Redis, queue: VersionQueue
    ) -> None:
        first = call(b"1")
        ids = [await append(redis, queue, record) for record in (first, call(b"2"))]
        await append(redis, queue, call(b"3"))
        await lease(redis, queue.sync, "i1", 2)

        assert await run(redis, scripts.RELEASE, (queue.sync, queue.sync), ("i1", *ids)) == 2

        found = await records(redis, queue.sync)
        assert [record.payload for record in found] == [b"3", b"1", b"2"]
        assert (found[1].attempt, found[1].first_accepted_ms) == (0, accepted(ids[0]))
        assert (found[1].reply_token, found[1].invocation_id) == (first.reply_token, first.invocation_id)
        assert await pending_ids(redis, queue.sync) == []

    async def test_a_record_of_another_version_goes_back_as_it_is_with_its_moment_of_acceptance(
        self, redis: Redis, queue: VersionQueue
    ) -> None:
        later = bytearray(b"\xff" * FIRST_ACCEPTED_OFFSET + bytes(8) + b"\xff" * 40)
        entry_id = await command(redis, "XADD", queue.sync, "*", RECORD_FIELD, bytes(later))
        await lease(redis, queue.sync, "i1")

        assert await run(redis, scripts.RELEASE, (queue.sync, queue.sync), ("i1", entry_id)) == 1

        later[FIRST_ACCEPTED_OFFSET : FIRST_ACCEPTED_OFFSET + 8] = accepted(entry_id).to_bytes(8, "big")
        [(_, fields)] = await command(redis, "XRANGE", queue.sync, "-", "+")
        assert fields[RECORD_FIELD.encode()] == bytes(later)

    async def test_only_the_owner_hands_back(self, redis: Redis, queue: VersionQueue) -> None:
        entry_id = await append(redis, queue, call())
        await lease(redis, queue.sync, "i2")
        assert await run(redis, scripts.RELEASE, (queue.sync, queue.sync), ("i1", entry_id)) == 0
        assert await pending_ids(redis, queue.sync) == [entry_id]


class TestLeave:
    def keys(self, queue: VersionQueue, instance_id: str) -> tuple[str, ...]:
        control = queue.keys.control(instance_id)
        return (queue.sync, queue.async_, control, queue.keys.instance(instance_id))

    async def test_an_instance_that_holds_something_stays(self, redis: Redis, queue: VersionQueue) -> None:
        await start_instance(redis, queue, "i1")
        await append(redis, queue, call())
        await append(redis, queue, event())
        entries = await lease(redis, queue.sync, "i1") + await lease(redis, queue.async_, "i1")

        assert await run(redis, scripts.LEAVE, self.keys(queue, "i1"), ("i1", 0)) == 2

        assert await pending_ids(redis, queue.sync) + await pending_ids(redis, queue.async_) == entries
        assert await command(redis, "EXISTS", *self.keys(queue, "i1")[2:]) == 2

    async def test_one_that_holds_nothing_leaves_without_a_trace(self, redis: Redis, queue: VersionQueue) -> None:
        await start_instance(redis, queue, "i1")
        await append(redis, queue, call())
        for stream in (queue.sync, queue.async_):
            await command(redis, "XGROUP", "CREATECONSUMER", stream, GROUP, "i1")
        await lease(redis, queue.sync, "i2")

        assert await run(redis, scripts.LEAVE, self.keys(queue, "i1"), ("i1", 0)) == 0

        assert [consumer["name"] for consumer in await redis.xinfo_consumers(queue.sync, GROUP)] == [b"i2"]
        assert await redis.xinfo_consumers(queue.async_, GROUP) == []
        assert await command(redis, "EXISTS", *self.keys(queue, "i1")[2:]) == 0

    async def test_its_last_counters_can_still_be_read_for_a_while(self, redis: Redis, queue: VersionQueue) -> None:
        await start_instance(redis, queue, "i1")
        control, heartbeat = self.keys(queue, "i1")[2:]
        assert await run(redis, scripts.LEAVE, self.keys(queue, "i1"), ("i1", 1_000)) == 0
        assert await command(redis, "EXISTS", control) == 0
        assert 0 < await command(redis, "PTTL", heartbeat) <= 1_000

    async def test_a_deleted_functions_instance_leaves(self, redis: Redis, queue: VersionQueue) -> None:
        await start_instance(redis, queue, "i1")
        await command(redis, "UNLINK", queue.sync, queue.async_)
        assert await run(redis, scripts.LEAVE, self.keys(queue, "i1"), ("i1", 0)) == 0
        assert await command(redis, "EXISTS", *self.keys(queue, "i1")[2:]) == 0
