"""Accepting events and calls: for now, for later, in a group, once under a key; nothing of a deleted function."""

import asyncio
from collections.abc import Sequence

import pytest
from redis.asyncio import Redis

from forebay_common import limits, scripts
from forebay_common.frames import ERROR_CANNOT_START, ERROR_INSTANCE_LOST, FLAG_PAYLOAD_OMITTED, ReplyFrame
from forebay_common.keys import PlatformKeys
from forebay_common.once import settlement
from forebay_common.queue import VersionQueue, delete_function_keys, promote
from forebay_common.record import ONCE, ONCE_DONE, ONCE_PENDING
from forebay_common.recovery import abandon_instance, fail_queued_sync
from forebay_common.redis_client import command, run, run_many
from support.queue_side import (
    accept,
    accept_once,
    accepted,
    append,
    body_of,
    call,
    delayed,
    event,
    keys_of,
    lease,
    length,
    make_due,
    records,
    replies,
    start_instance,
    waiting,
)

pytestmark = pytest.mark.usefixtures("no_leaked_keys")

KEY, PAYLOAD, OTHER = b"k" * 16, b"p" * 16, b"o" * 16
GROUP_A = b"a" * 16
DAY_S = 86_400


class TestAcceptAsync:
    async def test_an_event_is_in_the_queue_and_known_by_its_id(self, redis: Redis, queue: VersionQueue) -> None:
        record = event()
        assert await accept(redis, queue, record) == [0, record.invocation_id]
        [(entry_id, _)] = await command(redis, "XRANGE", queue.async_, "-", "+")
        assert await command(redis, "HGETALL", queue.live) == {record.invocation_id: entry_id}

    async def test_one_for_later_counts_its_age_from_then_on(self, redis: Redis, queue: VersionQueue) -> None:
        record = event(b"later")
        assert await accept(redis, queue, record, delay_ms=60_000) == [0, record.invocation_id]
        seconds, _ = await redis.time()

        [(kept, due)] = await delayed(redis, queue)
        assert (kept.first_accepted_ms, kept.payload, kept.attempt) == (due, b"later", 0)
        assert seconds * 1000 + 50_000 < due < seconds * 1000 + 70_000
        assert await length(redis, queue) == (0, 0, 1, 0)

        await make_due(redis, queue)
        assert (await promote(redis, queue)).moved == 1
        [promoted] = await records(redis, queue.async_)
        assert promoted.first_accepted_ms == due

    @pytest.mark.parametrize("delay_ms", [0, 60_000])
    @pytest.mark.parametrize("group", [b"", GROUP_A])
    async def test_a_deleted_function_accepts_nothing(
        self, redis: Redis, queue: VersionQueue, group: bytes, delay_ms: int
    ) -> None:
        await delete_function_keys(redis, queue.keys)
        record = event(group_hash=group)
        assert await accept(redis, queue, record, delay_ms=delay_ms, once=(KEY, PAYLOAD, DAY_S)) is None
        assert await keys_of(redis, queue) == []


class TestLargeEvents:
    """Their body is written before them; it is refused alone when memory has room for the record only."""

    @pytest.mark.parametrize("delay_ms", [0, 60_000])
    @pytest.mark.parametrize("group", [b"", GROUP_A])
    @pytest.mark.parametrize("once", [(), (KEY, PAYLOAD, DAY_S)])
    async def test_one_whose_body_is_not_there_is_not_accepted(
        self, redis: Redis, queue: VersionQueue, group: bytes, delay_ms: int, once: Sequence[bytes | int]
    ) -> None:
        record = event(group_hash=group)
        body = await body_of(redis, queue, record)
        await command(redis, "UNLINK", body)
        before = await keys_of(redis, queue)
        assert await accept(redis, queue, record, delay_ms=delay_ms, once=once, body=(body,)) == [3]
        assert await keys_of(redis, queue) == before
        await command(redis, "SET", body, b"x", "EX", 60)
        answer = await accept(redis, queue, record, delay_ms=delay_ms, once=once, body=(body,))
        assert answer == [0, record.invocation_id]

    async def test_a_repeat_needs_no_body(self, redis: Redis, queue: VersionQueue) -> None:
        first, second = event(), event()
        body = await body_of(redis, queue, first)
        await accept(redis, queue, first, once=(KEY, PAYLOAD, DAY_S), body=(body,))
        gone = queue.keys.body(second.invocation_id.hex())
        answer = await accept(redis, queue, second, once=(KEY, PAYLOAD, DAY_S), body=(gone,))
        assert answer == [1, first.invocation_id]


class TestAcceptAsyncOnce:
    async def test_an_event_that_is_known_is_not_accepted_again_when_its_key_has_expired(
        self, redis: Redis, queue: VersionQueue
    ) -> None:
        """A destination's event has the same id however often it is delivered."""
        record = event()
        await accept(redis, queue, record, once=(KEY, PAYLOAD, DAY_S))
        await command(redis, "UNLINK", queue.keys.once(KEY))
        place = await command(redis, "HGETALL", queue.live)
        again = await accept(redis, queue, record, delay_ms=60_000, once=(KEY, PAYLOAD, DAY_S))
        assert again == [1, record.invocation_id]
        assert await command(redis, "HGETALL", queue.live) == place
        assert await length(redis, queue) == (0, 1, 0, 0)

    async def test_the_same_key_and_payload_are_the_first_ones_event(self, redis: Redis, queue: VersionQueue) -> None:
        first, second = event(), event()
        assert await accept(redis, queue, first, once=(KEY, PAYLOAD, DAY_S)) == [0, first.invocation_id]
        assert await accept(redis, queue, second, once=(KEY, PAYLOAD, DAY_S)) == [1, first.invocation_id]
        assert [record.invocation_id for record in await records(redis, queue.async_)] == [first.invocation_id]
        assert DAY_S - 60 < await command(redis, "TTL", queue.keys.once(KEY)) <= DAY_S

    async def test_another_payload_under_the_key_is_refused_and_changes_nothing(
        self, redis: Redis, queue: VersionQueue
    ) -> None:
        await accept(redis, queue, event(), once=(KEY, PAYLOAD, DAY_S))
        before = await command(redis, "GET", queue.keys.once(KEY))
        assert await accept(redis, queue, event(), once=(KEY, OTHER, DAY_S)) == [2]
        assert await accept(redis, queue, event(), delay_ms=5, once=(KEY, OTHER, DAY_S)) == [2]
        assert await length(redis, queue) == (0, 1, 0, 0)
        assert await command(redis, "GET", queue.keys.once(KEY)) == before

    async def test_of_concurrent_ones_one_is_accepted(self, redis: Redis, queue: VersionQueue) -> None:
        answers = await asyncio.gather(*(accept(redis, queue, event(), once=(KEY, PAYLOAD, DAY_S)) for _ in range(20)))
        assert sorted(answer[0] for answer in answers) == [0] + [1] * 19
        assert len({answer[1] for answer in answers}) == 1
        assert await length(redis, queue) == (0, 1, 0, 0)

    async def test_other_keys_and_other_functions_are_other_requests(
        self, redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys
    ) -> None:
        assert (await accept(redis, queue, event(), once=(KEY, PAYLOAD, DAY_S)))[0] == 0
        assert (await accept(redis, queue, event(), once=(OTHER, PAYLOAD, DAY_S)))[0] == 0
        assert platform_keys.function("default", "other", "u").once(KEY) != queue.keys.once(KEY)

    async def test_a_key_that_stands_for_a_call_is_no_events(self, redis: Redis, queue: VersionQueue) -> None:
        await accept_once(redis, queue, call(), KEY, PAYLOAD)
        assert await accept(redis, queue, event(), once=(KEY, PAYLOAD, DAY_S)) == [2]
        await accept(redis, queue, event(), once=(OTHER, PAYLOAD, DAY_S))
        assert await accept_once(redis, queue, call(), OTHER, PAYLOAD) == [2]

    async def test_in_a_group_and_for_later_it_is_accepted_once_too(self, redis: Redis, queue: VersionQueue) -> None:
        await accept(redis, queue, event(group_hash=GROUP_A))
        record = event(group_hash=GROUP_A)
        assert await accept(redis, queue, record, delay_ms=5_000, once=(KEY, PAYLOAD, 60)) == [0, record.invocation_id]
        again = event(group_hash=GROUP_A)
        assert await accept(redis, queue, again, delay_ms=5_000, once=(KEY, PAYLOAD, 60)) == [1, record.invocation_id]
        assert len(await waiting(redis, queue, GROUP_A)) == 1


class TestAcceptOnce:
    async def test_a_repeated_call_waits_for_the_first_and_is_answered_as_it(
        self, redis: Redis, queue: VersionQueue
    ) -> None:
        first = call()
        answer = await accept_once(redis, queue, first, KEY, PAYLOAD)
        [(entry_id, _)] = await command(redis, "XRANGE", queue.sync, "-", "+")
        assert answer == [0, entry_id]
        assert await accept_once(redis, queue, call(), KEY, PAYLOAD) == [1, first.invocation_id]
        assert await accept_once(redis, queue, call(), KEY, OTHER) == [2]
        done = ONCE.pack(PAYLOAD, first.invocation_id, ONCE_DONE) + b"frame"
        await command(redis, "SET", queue.keys.once(KEY), done, "EX", 60)
        assert await accept_once(redis, queue, call(), KEY, PAYLOAD) == [3, first.invocation_id, b"frame"]
        assert await accept_once(redis, queue, call(), KEY, OTHER) == [2]
        assert await length(redis, queue) == (1, 0, 0, 0)

    @pytest.mark.parametrize("retention_s", [1, DAY_S])
    async def test_its_key_outlives_the_call_and_has_its_retention_from_the_calls_end_on(
        self, redis: Redis, queue: VersionQueue, retention_s: int
    ) -> None:
        record = call()
        await accept_once(redis, queue, record, KEY, PAYLOAD, retention_s=retention_s)
        assert limits.CLAIM_TTL_S - 60 < await command(redis, "TTL", queue.keys.once(KEY)) <= limits.CLAIM_TTL_S
        assert await run_many(redis, settlement(queue.keys, record, b"frame", ran=True)) == [1]
        assert max(0, retention_s - 60) < await command(redis, "TTL", queue.keys.once(KEY)) <= retention_s

    async def test_a_deleted_function_accepts_nothing(self, redis: Redis, queue: VersionQueue) -> None:
        await delete_function_keys(redis, queue.keys)
        assert await accept_once(redis, queue, call(), KEY, PAYLOAD) is None
        assert await keys_of(redis, queue) == []

    async def test_a_call_that_is_taken_back_leaves_its_key_to_the_next(
        self, redis: Redis, queue: VersionQueue
    ) -> None:
        record = call()
        body = await body_of(redis, queue, record)
        _, entry_id = await accept_once(redis, queue, record, KEY, PAYLOAD)
        assert await run(redis, scripts.CANCEL, (queue.sync, body, queue.keys.once(KEY)), (entry_id,)) == 1
        assert await command(redis, "EXISTS", body, queue.keys.once(KEY)) == 0
        assert (await accept_once(redis, queue, call(), KEY, PAYLOAD))[0] == 0

    async def test_one_that_is_leased_keeps_its_key(self, redis: Redis, queue: VersionQueue) -> None:
        _, entry_id = await accept_once(redis, queue, call(), KEY, PAYLOAD)
        await lease(redis, queue.sync, "i1")
        assert await run(redis, scripts.CANCEL, (queue.sync, queue.keys.once(KEY)), (entry_id,)) == 0
        assert await command(redis, "EXISTS", queue.keys.once(KEY)) == 1


class TestSettlingAKey:
    """Written by whoever ends the call; what comes late finds the key settled, or another call's."""

    @pytest.mark.parametrize("ran", [True, False])
    async def test_a_later_calls_key_stays(self, redis: Redis, queue: VersionQueue, *, ran: bool) -> None:
        first, second = call(), call()
        await accept_once(redis, queue, first, KEY, PAYLOAD)
        assert await run_many(redis, settlement(queue.keys, first, b"", ran=False)) == [1]
        await accept_once(redis, queue, second, KEY, PAYLOAD)
        before = await command(redis, "GET", queue.keys.once(KEY))
        assert await run_many(redis, settlement(queue.keys, first, b"late", ran=ran)) == [0]
        assert await command(redis, "GET", queue.keys.once(KEY)) == before

    async def test_the_first_word_counts(self, redis: Redis, queue: VersionQueue) -> None:
        record = call()
        await accept_once(redis, queue, record, KEY, PAYLOAD)
        answers = [
            await run_many(redis, settlement(queue.keys, record, frame, ran=ran))
            for frame, ran in ((b"instance lost", True), (b"resumed", True), (b"", False))
        ]
        assert answers == [[1], [0], [0]]
        answer = await accept_once(redis, queue, call(), KEY, PAYLOAD)
        assert answer == [3, record.invocation_id, b"instance lost"]

    async def test_a_key_that_is_gone_is_not_brought_back(self, redis: Redis, queue: VersionQueue) -> None:
        record = call()
        await accept_once(redis, queue, record, KEY, PAYLOAD)
        await command(redis, "UNLINK", queue.keys.once(KEY))
        assert await run_many(redis, settlement(queue.keys, record, b"frame", ran=True)) == [0]
        assert await command(redis, "EXISTS", queue.keys.once(KEY)) == 0


class TestWhenTheInstanceOfACallDies:
    async def lost(self, redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys) -> ReplyFrame:
        await start_instance(redis, queue, "i1")
        await lease(redis, queue.sync, "i1")
        await abandon_instance(redis, platform_keys, queue, "i1")
        [frame] = await replies(redis, platform_keys)
        return frame

    async def test_a_repeated_call_is_told_of_it_and_runs_no_more(
        self, redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys
    ) -> None:
        record = call()
        await accept_once(redis, queue, record, KEY, PAYLOAD, retention_s=DAY_S)
        told = await self.lost(redis, queue, platform_keys)
        assert told.error_kind == ERROR_INSTANCE_LOST
        state, ident, raw = await accept_once(redis, queue, call(), KEY, PAYLOAD)
        assert (state, ident) == (3, record.invocation_id)
        assert ReplyFrame.decode(raw).payload == told.payload
        assert DAY_S - 60 < await command(redis, "TTL", queue.keys.once(KEY)) <= DAY_S

    async def test_an_answer_that_was_kept_before_is_the_callers_too(
        self, redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys
    ) -> None:
        record = call()
        await accept_once(redis, queue, record, KEY, PAYLOAD)
        answer = ReplyFrame(token=record.reply_token, payload=b'"the answer"').encode()
        done = ONCE.pack(PAYLOAD, record.invocation_id, ONCE_DONE) + answer
        await command(redis, "SET", queue.keys.once(KEY), done, "EX", 60)
        told = await self.lost(redis, queue, platform_keys)
        assert (told.token, told.payload, told.error_kind) == (record.reply_token, b'"the answer"', 0)

    async def test_one_that_was_too_large_to_be_kept_is_not_told_without_its_payload(
        self, redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys
    ) -> None:
        record = call()
        await accept_once(redis, queue, record, KEY, PAYLOAD)
        kept = ReplyFrame(token=record.reply_token, payload=b"", flags=FLAG_PAYLOAD_OMITTED).encode()
        await run_many(redis, settlement(queue.keys, record, kept, ran=True))
        assert (await self.lost(redis, queue, platform_keys)).error_kind == ERROR_INSTANCE_LOST
        assert await accept_once(redis, queue, call(), KEY, PAYLOAD) == [3, record.invocation_id, kept]

    async def test_a_call_that_did_not_run_leaves_its_key_to_the_next(
        self, redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys
    ) -> None:
        await accept_once(redis, queue, call(), KEY, PAYLOAD)
        assert await fail_queued_sync(redis, platform_keys, queue, ERROR_CANNOT_START, b"why") == 1
        assert len(await replies(redis, platform_keys)) == 1
        assert (await accept_once(redis, queue, call(), KEY, PAYLOAD))[0] == 0

    async def test_another_calls_key_stays(
        self, redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys
    ) -> None:
        """A controller that died after it had left the key to the next one does its work again."""
        await accept_once(redis, queue, call(), KEY, PAYLOAD)
        others = ONCE.pack(PAYLOAD, b"n" * 16, ONCE_PENDING)
        await command(redis, "SET", queue.keys.once(KEY), others, "EX", 60)
        assert await fail_queued_sync(redis, platform_keys, queue, ERROR_CANNOT_START, b"why") == 1
        assert len(await replies(redis, platform_keys)) == 1
        assert await command(redis, "GET", queue.keys.once(KEY)) == others


async def test_acceptance_of_one_that_waits_for_its_turn_is_when_it_came(redis: Redis, queue: VersionQueue) -> None:
    entry_id = await append(redis, queue, event(group_hash=GROUP_A))
    await accept(redis, queue, event(group_hash=GROUP_A))
    [second] = await waiting(redis, queue, GROUP_A)
    assert 0 <= second.first_accepted_ms - accepted(entry_id) < 10_000
