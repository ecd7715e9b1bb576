"""Dead instances, functions that cannot run, dead processes: who is told, what runs again, what is removed."""

import json
from uuid import UUID

import pytest
from redis.asyncio import Redis

from forebay_common import frames, limits
from forebay_common.frames import KIND_ERROR, ReplyFrame
from forebay_common.keys import GROUP, RECORD_FIELD, PlatformKeys
from forebay_common.queue import CONTROLLER_CONSUMER, VersionQueue, observe
from forebay_common.record import HEADER, Invocation
from forebay_common.recovery import (
    PROCESS_GRACE_S,
    Recovered,
    abandon_instance,
    fail_queued_sync,
    reap_expired,
    reap_processes,
)
from forebay_common.redis_client import command
from forebay_common.tlv import pack_field
from support.queue_side import (
    ADDRESS,
    PROCESS,
    append,
    call,
    event,
    give,
    lease,
    pending_ids,
    records,
    replies,
    start_instance,
)

pytestmark = pytest.mark.usefixtures("no_leaked_keys")

UNREADABLE = call().encode()[: HEADER.size] + pack_field(0x60, b"from a later release") + b"\x00{}"


async def empty(redis: Redis, queue: VersionQueue) -> bool:
    """Nothing is queued or leased, and nobody is in the group."""
    [state] = await observe(redis, [queue])
    assert state is not None
    consumers = [await redis.xinfo_consumers(stream, GROUP) for stream in (queue.sync, queue.async_)]
    return state.sync.length == state.async_.length == 0 and consumers == [[], []]


async def append_raw(redis: Redis, stream: str, record: bytes) -> bytes:
    entry_id: bytes = await command(redis, "XADD", stream, "*", RECORD_FIELD, record)
    return entry_id


async def body_of(redis: Redis, queue: VersionQueue, record: Invocation) -> str:
    record.payload, record.claim = None, f"body:{record.invocation_id.hex()}"
    key = queue.keys.body(record.invocation_id.hex())
    await command(redis, "SET", key, b"x", "EX", limits.CLAIM_TTL_S)
    return key


def answers_lost(frame: ReplyFrame, record: Invocation, instance_id: str) -> bool:
    assert frame.payload is not None
    document = json.loads(frame.payload)
    return (
        (frame.token, frame.kind, frame.error_kind) == (record.reply_token, KIND_ERROR, frames.ERROR_INSTANCE_LOST)
        and document["errorType"] == "Runtime.ExitError"
        and str(UUID(bytes=record.invocation_id)) in document["errorMessage"]
        and instance_id in document["errorMessage"]
    )


class TestAbandonInstance:
    async def test_its_callers_are_told_its_events_run_again_and_it_leaves(
        self, redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys
    ) -> None:
        calls = [call(), call(reply_address="reply:gateway-2")]
        body = await body_of(redis, queue, calls[0])
        for record in (*calls, event(b"again"), event(b"last", attempt=2)):
            await append(redis, queue, record)
        await start_instance(redis, queue, "i1")
        await lease(redis, queue.sync, "i1", 2)
        await lease(redis, queue.async_, "i1", 2)

        done = await abandon_instance(redis, platform_keys, queue, "i1")

        assert done == Recovered(sync_failed=2, async_requeued=1, async_dead=1, left=True)
        [first] = await replies(redis, platform_keys)
        [second] = await replies(redis, platform_keys, "gateway-2")
        assert answers_lost(first, calls[0], "i1")
        assert answers_lost(second, calls[1], "i1")
        assert [(record.payload, record.attempt) for record in await records(redis, queue.async_)] == [(b"again", 1)]
        assert await command(redis, "XLEN", queue.sync) == 0
        gone = (body, queue.keys.instance("i1"), queue.keys.control("i1"))
        assert await command(redis, "EXISTS", *gone) == 0

    async def test_a_dead_letters_body_lives_as_long_as_the_letter(
        self, redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys
    ) -> None:
        record = event(attempt=2)
        body = await body_of(redis, queue, record)
        await append(redis, queue, record)
        await lease(redis, queue.async_, "i1")
        await abandon_instance(redis, platform_keys, queue, "i1")
        assert await command(redis, "TTL", body) > limits.CLAIM_TTL_S

    async def test_a_controller_that_died_after_telling_tells_again(
        self, redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys
    ) -> None:
        record = call()
        await append(redis, queue, record)
        await lease(redis, queue.sync, "i1")
        told = ReplyFrame(token=record.reply_token, payload=b"{}", kind=KIND_ERROR)
        await command(redis, "RPUSH", platform_keys.reply(PROCESS), told.encode())

        done = await abandon_instance(redis, platform_keys, queue, "i1")

        assert (done.sync_failed, done.left) == (1, True)
        assert [frame.token for frame in await replies(redis, platform_keys)] == [record.reply_token] * 2
        assert await abandon_instance(redis, platform_keys, queue, "i1") == Recovered(left=True)
        assert await replies(redis, platform_keys) == []

    async def test_another_instances_work_stays(
        self, redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys
    ) -> None:
        await append(redis, queue, call())
        held = await lease(redis, queue.sync, "i2")
        assert await abandon_instance(redis, platform_keys, queue, "i1") == Recovered(left=True)
        assert await pending_ids(redis, queue.sync) == held

    async def test_more_than_a_page_of_leases(
        self, redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys
    ) -> None:
        for _ in range(40):
            await append(redis, queue, call())
            await append(redis, queue, event())
        await lease(redis, queue.sync, "i1", 40)
        await lease(redis, queue.async_, "i1", 40)

        done = await abandon_instance(redis, platform_keys, queue, "i1", delay_ms=1_000)

        assert done == Recovered(sync_failed=40, async_delayed=40, left=True)
        assert len(await replies(redis, platform_keys)) == 40
        assert await empty(redis, queue)

    async def test_a_later_releases_record_stays_for_a_controller_that_knows_it(
        self, redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys
    ) -> None:
        entry_id = await append_raw(redis, queue.sync, UNREADABLE)
        await lease(redis, queue.sync, "i1")
        assert await abandon_instance(redis, platform_keys, queue, "i1") == Recovered(left=False)
        assert await pending_ids(redis, queue.sync) == [entry_id]

    async def test_an_entry_deleted_behind_its_lease_is_only_acknowledged(
        self, redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys
    ) -> None:
        for record, stream in ((call(), queue.sync), (event(), queue.async_)):
            entry_id = await append(redis, queue, record)
            await lease(redis, stream, "i1")
            await command(redis, "XDEL", stream, entry_id)
        assert await abandon_instance(redis, platform_keys, queue, "i1") == Recovered(left=True)

    async def test_of_a_deleted_function_only_the_heartbeat_is_left_to_remove(
        self, redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys
    ) -> None:
        await start_instance(redis, queue, "i1")
        await command(redis, "UNLINK", queue.sync, queue.async_)
        assert await abandon_instance(redis, platform_keys, queue, "i1") == Recovered(left=True)
        assert not await command(redis, "EXISTS", queue.keys.instance("i1"))


class TestReapExpired:
    async def reap(self, redis: Redis, platform_keys: PlatformKeys, queue: VersionQueue) -> dict[str, Recovered]:
        # A consumer's own idle time cannot be set: no lease time stands for one that is long over.
        return await reap_expired(redis, platform_keys, queue, lease_ms=0)

    async def leased(self, redis: Redis, queue: VersionQueue) -> Invocation:
        record = call()
        for each in (record, event()):
            await append(redis, queue, each)
        for stream in (queue.sync, queue.async_):
            [entry_id] = await lease(redis, stream, "i1")
            await give(redis, stream, entry_id, "i1", idle_ms=60_000)
        return record

    async def test_an_instance_that_went_away_unseen_is_abandoned(
        self, redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys
    ) -> None:
        record = await self.leased(redis, queue)
        done = await self.reap(redis, platform_keys, queue)
        assert done == {"i1": Recovered(sync_failed=1, async_requeued=1, left=True)}
        [frame] = await replies(redis, platform_keys)
        assert answers_lost(frame, record, "i1")

    async def test_one_with_a_heartbeat_is_not(
        self, redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys
    ) -> None:
        await self.leased(redis, queue)
        await start_instance(redis, queue, "i1")
        assert await self.reap(redis, platform_keys, queue) == {}

    async def test_one_whose_lease_runs_is_not(
        self, redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys
    ) -> None:
        await self.leased(redis, queue)
        assert await reap_expired(redis, platform_keys, queue) == {}
        assert len(await pending_ids(redis, queue.sync)) == 1

    async def test_a_deleted_function_has_nothing_to_reap(
        self, redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys
    ) -> None:
        await command(redis, "UNLINK", queue.sync, queue.async_)
        assert await self.reap(redis, platform_keys, queue) == {}


class TestFailQueuedSync:
    async def test_unleased_calls_are_answered_and_leased_ones_and_events_stay(
        self, redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys
    ) -> None:
        await append(redis, queue, call())
        held = await lease(redis, queue.sync, "i1")
        refused = [call() for _ in range(40)]
        body = await body_of(redis, queue, refused[0])
        for record in (*refused, event()):
            await append(redis, queue, record)

        answered = await fail_queued_sync(
            redis, platform_keys, queue, frames.ERROR_CANNOT_START, b"no module named app"
        )

        assert answered == 40
        found = await replies(redis, platform_keys)
        assert [frame.token for frame in found] == [record.reply_token for record in refused]
        assert {(frame.kind, frame.error_kind, frame.payload) for frame in found} == {
            (KIND_ERROR, frames.ERROR_CANNOT_START, b"no module named app")
        }
        assert await pending_ids(redis, queue.sync) == held
        assert await command(redis, "XLEN", queue.sync) == 1
        assert await command(redis, "XLEN", queue.async_) == 1
        assert not await command(redis, "EXISTS", body)

    async def test_at_deletion_callers_of_running_calls_are_told_that_it_may_have_run(
        self, redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys
    ) -> None:
        running, queued = call(), call()
        await append(redis, queue, running)
        await lease(redis, queue.sync, "i1")
        await append(redis, queue, queued)

        answered = await fail_queued_sync(redis, platform_keys, queue, frames.ERROR_DELETED, b"", leased=True)

        assert answered == 2
        first, second = await replies(redis, platform_keys)
        assert (first.token, first.error_kind) == (queued.reply_token, frames.ERROR_DELETED)
        assert answers_lost(second, running, "i1")
        assert await command(redis, "XLEN", queue.sync) == 0

    async def test_what_a_dead_controller_had_taken_is_answered_by_the_next(
        self, redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys
    ) -> None:
        taken = [call() for _ in range(40)]
        for record in taken:
            await append(redis, queue, record)
        await lease(redis, queue.sync, CONTROLLER_CONSUMER, 40)

        assert await fail_queued_sync(redis, platform_keys, queue, frames.ERROR_CANNOT_START, b"why") == 40

        assert len(await replies(redis, platform_keys)) == 40
        assert await pending_ids(redis, queue.sync) == []

    async def test_what_nobody_takes_up_again_is_answered_by_the_reaper_as_not_run(
        self, redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys
    ) -> None:
        record = call()
        entry_id = await append(redis, queue, record)
        await lease(redis, queue.sync, CONTROLLER_CONSUMER)
        await give(redis, queue.sync, entry_id, CONTROLLER_CONSUMER, idle_ms=60_000)

        done = await reap_expired(redis, platform_keys, queue, lease_ms=0)

        assert done == {CONTROLLER_CONSUMER: Recovered(sync_failed=1, left=True)}
        [frame] = await replies(redis, platform_keys)
        assert (frame.token, frame.error_kind) == (record.reply_token, frames.ERROR_CANNOT_START)

    async def test_a_later_releases_record_goes_back_to_the_queue(
        self, redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys
    ) -> None:
        await append_raw(redis, queue.sync, UNREADABLE)
        record = call()
        await append(redis, queue, record)

        assert await fail_queued_sync(redis, platform_keys, queue, frames.ERROR_CANNOT_START, b"why") == 1

        assert [frame.token for frame in await replies(redis, platform_keys)] == [record.reply_token]
        assert await pending_ids(redis, queue.sync) == []
        assert await command(redis, "XLEN", queue.sync) == 1

    async def test_a_deleted_function_has_nobody_to_answer(
        self, redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys
    ) -> None:
        await command(redis, "UNLINK", queue.sync)
        assert await fail_queued_sync(redis, platform_keys, queue, frames.ERROR_DELETED, b"", leased=True) == 0


class TestReapProcesses:
    async def start(self, redis: Redis, platform_keys: PlatformKeys) -> None:
        await command(redis, "SADD", platform_keys.processes, PROCESS)
        await command(redis, "RPUSH", f"{platform_keys.prefix}:{ADDRESS}", b"frame")

    async def test_a_live_processs_replies_stay(self, redis: Redis, platform_keys: PlatformKeys) -> None:
        await self.start(redis, platform_keys)
        await command(redis, "SET", platform_keys.process(PROCESS), "1", "EX", 15)
        assert await reap_processes(redis, platform_keys) == 0
        assert await command(redis, "LLEN", platform_keys.reply(PROCESS)) == 1

    async def test_a_dead_ones_are_removed_also_those_that_come_late(
        self, redis: Redis, platform_keys: PlatformKeys
    ) -> None:
        await self.start(redis, platform_keys)
        for _ in range(2):
            assert await reap_processes(redis, platform_keys) == 1
            assert not await command(redis, "EXISTS", platform_keys.reply(PROCESS))
            await command(redis, "RPUSH", platform_keys.reply(PROCESS), b"late")

        await command(redis, "EXPIRE", platform_keys.process_gone(PROCESS), PROCESS_GRACE_S)
        assert await reap_processes(redis, platform_keys) == 1

        assert await reap_processes(redis, platform_keys) == 0
        left = (platform_keys.processes, platform_keys.reply(PROCESS), platform_keys.process_gone(PROCESS))
        assert await command(redis, "EXISTS", *left) == 0

    async def test_a_process_that_comes_back_has_its_whole_grace_again(
        self, redis: Redis, platform_keys: PlatformKeys
    ) -> None:
        await self.start(redis, platform_keys)
        await reap_processes(redis, platform_keys)
        await command(redis, "SET", platform_keys.process(PROCESS), "1", "EX", 15)
        assert await reap_processes(redis, platform_keys) == 0
        assert not await command(redis, "EXISTS", platform_keys.process_gone(PROCESS))
