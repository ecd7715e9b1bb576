"""Events whose function has destinations: which ends are put out, what is kept for it, and when nobody takes them."""

import pytest
from redis.asyncio import Redis

from forebay_common import limits
from forebay_common.events import find_event
from forebay_common.frames import ReplyFrame
from forebay_common.keys import PlatformKeys
from forebay_common.outbox import OutboxEntry, outbox_dead, outbox_done, read_outbox
from forebay_common.queue import VersionQueue, delete_function_keys, observe
from forebay_common.record import (
    FLAG_DESTINATION_FAILURE,
    FLAG_DESTINATION_SUCCESS,
    FLAG_LOG_TAIL,
    HEADER,
    Invocation,
)
from forebay_common.recovery import abandon_instance
from forebay_common.redis_client import command
from forebay_common.tlv import pack_field
from support.queue_side import (
    accepted,
    append,
    body_of,
    dead,
    event,
    finish_async,
    keys_of,
    lease,
    length,
    start_instance,
)

pytestmark = pytest.mark.usefixtures("no_leaked_keys")

BOTH = FLAG_DESTINATION_SUCCESS | FLAG_DESTINATION_FAILURE
FRAME = ReplyFrame(token=bytes(16), payload=b'"reply"')
UNREADABLE = event().encode()[: HEADER.size] + pack_field(0x60, b"from a later release") + b"\x00{}"


async def end(
    redis: Redis, queue: VersionQueue, record: Invocation, outcome: str, body: str = "", **arguments: str
) -> bytes:
    await append(redis, queue, record)
    [entry_id] = await lease(redis, queue.async_, "i1")
    keys = [body] if body else []
    assert (
        await finish_async(redis, queue, entry_id, "i1", outcome, frame=FRAME.encode(), body=keys, **arguments) == 1  # type: ignore[arg-type]
    )
    return entry_id


@pytest.mark.parametrize(
    ("flags", "outcome", "status", "attempts", "buried"),
    [
        (FLAG_DESTINATION_SUCCESS, "done", "succeeded", 1, 0),
        (FLAG_DESTINATION_FAILURE | FLAG_LOG_TAIL, "done", "", 0, 0),
        (FLAG_DESTINATION_FAILURE, "dead", "failed", 1, 0),
        (FLAG_DESTINATION_SUCCESS, "dead", "", 0, 1),
        (FLAG_DESTINATION_FAILURE, "expired", "failed", 0, 0),
        (BOTH, "cancelled", "", 0, 0),
        (0, "done", "", 0, 0),
    ],
)
async def test_an_end_that_has_a_destination_is_put_out_instead_of_anything_else(
    redis: Redis, queue: VersionQueue, flags: int, outcome: str, status: str, attempts: int, buried: int
) -> None:
    record = event(b'{"n": 3}', flags=flags)
    entry_id = await end(redis, queue, record, outcome, reason="RetriesExhausted")

    entries = await read_outbox(redis, queue)

    assert [entry.status for entry in entries] == ([status] if status else [])
    for entry in entries:
        assert entry.record.attempt == attempts
        assert (entry.record.payload, entry.record.first_accepted_ms) == (b'{"n": 3}', accepted(entry_id))
        assert entry.reason == ("" if outcome == "done" else "RetriesExhausted")
        assert entry.frame is not None
        assert entry.frame.payload == b'"reply"'
        assert 0 <= entry.ended_ms - accepted(entry_id) < 60_000
    assert await length(redis, queue) == (0, 0, 0, buried)
    assert (await find_event(redis, queue, [record.invocation_id]))[0] is not None


async def test_too_late_for_a_retry_or_lost_with_its_instance_is_an_end_too(
    redis: Redis, queue: VersionQueue, platform_keys: PlatformKeys
) -> None:
    await append(redis, queue, event(b"late", flags=BOTH))
    [entry_id] = await lease(redis, queue.async_, "i1")
    await finish_async(redis, queue, entry_id, "i1", "retry", delay_ms=90_000_000)
    await start_instance(redis, queue, "i1")
    await append(redis, queue, event(b"lost", flags=BOTH))
    await lease(redis, queue.async_, "i1")
    assert (await abandon_instance(redis, platform_keys, queue, "i1", attempts_max=1)).async_dead == 1
    entries = await read_outbox(redis, queue)
    assert [(entry.record.payload, entry.reason, entry.frame) for entry in entries] == [
        (b"late", "EventAgeExceeded", None),
        (b"lost", "RetriesExhausted", None),
    ]
    assert await length(redis, queue) == (0, 0, 0, 0)
    [state] = await observe(redis, [queue])
    assert state is not None
    assert (state.outbox, state.ended) == (2, 2)


async def test_the_body_stays_until_the_destination_has_been_told(redis: Redis, queue: VersionQueue) -> None:
    record = event(flags=BOTH)
    body = await body_of(redis, queue, record)
    await end(redis, queue, record, "done", body)
    assert limits.DEAD_LETTER_TTL_S - 60 < await command(redis, "TTL", body) <= limits.DEAD_LETTER_TTL_S
    [entry] = await read_outbox(redis, queue)
    await outbox_done(redis, queue, entry)
    assert await read_outbox(redis, queue) == []
    assert not await command(redis, "EXISTS", body)
    await outbox_done(redis, queue, entry)


async def test_one_that_no_destination_takes_is_a_dead_letter_once(redis: Redis, queue: VersionQueue) -> None:
    record = event(flags=BOTH)
    body = await body_of(redis, queue, record)
    await end(redis, queue, record, "done", body)
    [entry] = await read_outbox(redis, queue)
    await command(redis, "EXPIRE", body, 5)
    assert await outbox_dead(redis, queue, entry, "DestinationFailed")
    assert not await outbox_dead(redis, queue, entry, "DestinationFailed")
    [(letter, reason)] = await dead(redis, queue)
    assert (letter.invocation_id, letter.attempt, reason) == (record.invocation_id, 1, "DestinationFailed")
    assert await read_outbox(redis, queue) == []
    assert await command(redis, "TTL", body) > limits.DEAD_LETTER_TTL_S - 60


async def test_one_that_became_a_dead_letter_meanwhile_keeps_its_body(redis: Redis, queue: VersionQueue) -> None:
    record = event(flags=BOTH)
    body = await body_of(redis, queue, record)
    await end(redis, queue, record, "done", body)
    [entry] = await read_outbox(redis, queue)
    await outbox_dead(redis, queue, entry, "DestinationFailed")
    await outbox_done(redis, queue, entry)
    assert await command(redis, "EXISTS", body)


async def test_it_is_read_page_by_page_and_a_later_releases_entry_is_passed_over(
    redis: Redis, queue: VersionQueue
) -> None:
    for number in range(5):
        await end(redis, queue, event(b"%d" % number, flags=BOTH), "done")
        if number == 1:
            fields = ("r", UNREADABLE, "s", "failed", "reason", "", "f", "")
            await command(redis, "XADD", queue.outbox, "*", *fields)
    pages: list[list[OutboxEntry]] = []
    after = b""
    for _ in range(3):
        page = await read_outbox(redis, queue, after, limit=2)
        pages.append(page)
        after = page[-1].entry_id
    assert [[entry.record.payload for entry in page] for page in pages] == [[b"0", b"1"], [b"2", b"3"], [b"4"]]
    assert await read_outbox(redis, queue, after, limit=2) == []


async def test_above_its_bound_the_event_is_a_dead_letter(redis: Redis, queue: VersionQueue) -> None:
    for _ in range(limits.OUTBOX_MAX // 10_000):
        async with redis.pipeline(transaction=False) as pipe:
            for _ in range(10_000):
                pipe.execute_command("XADD", queue.outbox, "*", "r", "x")
            await pipe.execute()
    record = event(flags=BOTH)
    body = await body_of(redis, queue, record)
    await end(redis, queue, record, "done", body)
    [(letter, reason)] = await dead(redis, queue)
    assert (letter.invocation_id, reason) == (record.invocation_id, "DestinationsFull")
    assert await command(redis, "XLEN", queue.outbox) == limits.OUTBOX_MAX
    assert await command(redis, "TTL", body) > limits.DEAD_LETTER_TTL_S - 60


async def test_of_a_deleted_function_nothing_comes_back(redis: Redis, queue: VersionQueue) -> None:
    await end(redis, queue, event(flags=BOTH), "done")
    [entry] = await read_outbox(redis, queue)
    await delete_function_keys(redis, queue.keys)
    assert not await outbox_dead(redis, queue, entry, "DestinationFailed")
    await outbox_done(redis, queue, entry)
    assert await keys_of(redis, queue) == []
