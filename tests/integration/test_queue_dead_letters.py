"""Dead letters: listing them by time and reason, reading one, making it an event again, removing it."""

from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from forebay_common import limits
from forebay_common.dead_letters import dead_payload, get_dead, list_dead, purge, redrive
from forebay_common.events import FAILED, QUEUED, find_event
from forebay_common.frames import ReplyFrame
from forebay_common.keys import RECORD_FIELD
from forebay_common.queue import VersionQueue, delete_function_keys, trim_dead_letters
from forebay_common.record import HEADER, Invocation
from forebay_common.redis_client import Call, command, run_many
from forebay_common.tlv import pack_field
from support.queue_side import (
    accepted,
    append,
    body_of,
    event,
    finish_async,
    keys_of,
    lease,
    length,
    records,
)

pytestmark = pytest.mark.usefixtures("no_leaked_keys")

FRAME = ReplyFrame(token=bytes(16), payload=b'{"errorType": "ValueError"}')
UNREADABLE = event().encode()[: HEADER.size] + pack_field(0x60, b"from a later release") + b"\x00{}"


async def bury(redis: Redis, queue: VersionQueue, record: Invocation, body: str = "") -> bytes:
    """Let an event fail for good; gives the dead letter's entry id."""
    await append(redis, queue, record)
    [entry_id] = await lease(redis, queue.async_, "i1")
    keys = [body] if body else []
    arguments = {"reason": "RetriesExhausted", "frame": FRAME.encode(), "body": keys}
    assert await finish_async(redis, queue, entry_id, "i1", "dead", **arguments) == 1  # type: ignore[arg-type]
    [(dead_id, _)] = await command(redis, "XREVRANGE", queue.dead, "+", "-", "COUNT", 1)
    return bytes(dead_id)


async def put(redis: Redis, queue: VersionQueue, entry_id: str, reason: str) -> None:
    """A dead letter of a certain time."""
    fields = (RECORD_FIELD, event().encode(), "reason", reason, "f", b"")
    await command(redis, "XADD", queue.dead, entry_id, *fields)
    await command(redis, "EXPIRE", queue.dead, limits.DEAD_LETTER_TTL_S)


async def test_a_letter_says_what_failed_when_and_how(redis: Redis, queue: VersionQueue) -> None:
    record = event(b'{"n": 5}', attempt=2, first_accepted_ms=5_000)
    entry_id = await bury(redis, queue, record)

    [letter] = (await list_dead(redis, queue)).entries

    assert (letter.entry_id, letter.invocation_id) == (entry_id, record.invocation_id)
    assert letter.reason == "RetriesExhausted"
    assert (letter.attempts, letter.accepted_ms, letter.dead_ms) == (3, 5_000, accepted(entry_id))
    assert letter.frame is not None
    assert letter.frame.payload == FRAME.payload
    assert await dead_payload(redis, queue, letter) == b'{"n": 5}'
    read, missing = await get_dead(redis, queue, [entry_id, b"1-1"])
    assert read is not None
    assert (read.entry_id, read.payload, missing) == (entry_id, letter.payload, None)


async def test_a_large_payload_is_read_from_where_it_lies(redis: Redis, queue: VersionQueue) -> None:
    record = event()
    body = await body_of(redis, queue, record)
    [letter] = await get_dead(redis, queue, [await bury(redis, queue, record, body)])
    assert letter is not None
    assert letter.payload is None
    assert await dead_payload(redis, queue, letter) == b"x" * 1000
    await command(redis, "UNLINK", body)
    assert await dead_payload(redis, queue, letter) is None


async def test_they_are_listed_in_pages_by_time_and_reason(redis: Redis, queue: VersionQueue) -> None:
    for number in range(100):
        await put(redis, queue, f"{1_000 + number}-0", "RetriesExhausted" if number % 2 else "EventAgeExceeded")

    first = await list_dead(redis, queue, limit=60)
    second = await list_dead(redis, queue, after=first.next, limit=60)
    assert [letter.dead_ms for letter in (*first.entries, *second.entries)] == list(range(1_000, 1_100))
    assert (len(first.entries), len(second.entries), second.next) == (60, 40, "")

    exact = await list_dead(redis, queue, limit=100)
    assert (len(exact.entries), exact.next) == (100, "")

    some = await list_dead(redis, queue, reason="EventAgeExceeded", since_ms=1_010, until_ms=1_020, limit=3)
    assert [letter.dead_ms for letter in some.entries] == [1_010, 1_012, 1_014]
    rest = await list_dead(
        redis, queue, reason="EventAgeExceeded", since_ms=1_010, until_ms=1_020, limit=3, after=some.next
    )
    assert ([letter.dead_ms for letter in rest.entries], rest.next) == ([1_016, 1_018, 1_020], "")
    assert (await list_dead(redis, queue, reason="Other")).entries == []


async def test_a_redriven_one_is_an_event_that_was_accepted_now(redis: Redis, queue: VersionQueue) -> None:
    record = event(b"again", attempt=2, first_accepted_ms=5_000)
    body = await body_of(redis, queue, record)
    entry_id = await bury(redis, queue, record, body)
    kept = await bury(redis, queue, event())
    [state] = await find_event(redis, queue, [record.invocation_id])
    assert state is not None
    assert state.status == FAILED

    assert await redrive(redis, queue, [entry_id]) == 1

    [found] = await records(redis, queue.async_)
    assert (found.invocation_id, found.attempt, found.first_accepted_ms) == (record.invocation_id, 0, 0)
    assert [letter.entry_id for letter in (await list_dead(redis, queue)).entries] == [kept]
    [state] = await find_event(redis, queue, [record.invocation_id])
    assert state is not None
    assert (state.status, state.attempts) == (QUEUED, 0)
    # Its body lives as long as it may start and run; how it ended before is forgotten, with its bytes.
    assert 21_600 < await command(redis, "TTL", body) <= 21_600 + limits.CLAIM_TTL_S
    assert await command(redis, "XLEN", queue.ended) == 1
    weight = len(FRAME.encode()) + limits.RESULTS_MAX_BYTES // limits.RESULTS_MAX
    assert int(await command(redis, "HGET", queue.live, "kept")) == weight
    assert await redrive(redis, queue, [entry_id]) == 0


async def test_one_whose_result_was_forgotten_is_redriven_too(redis: Redis, queue: VersionQueue) -> None:
    record = event()
    entry_id = await bury(redis, queue, record)
    await command(redis, "UNLINK", queue.ended, queue.live)
    assert await redrive(redis, queue, [entry_id]) == 1
    again = await bury_again(redis, queue)
    assert await redrive(redis, queue, [again, entry_id]) == 1


async def bury_again(redis: Redis, queue: VersionQueue) -> bytes:
    [entry_id] = await lease(redis, queue.async_, "i1")
    assert await finish_async(redis, queue, entry_id, "i1", "dead", reason="RetriesExhausted") == 1
    [(dead_id, _)] = await command(redis, "XREVRANGE", queue.dead, "+", "-", "COUNT", 1)
    return bytes(dead_id)


async def test_many_are_redriven_and_purged(redis: Redis, queue: VersionQueue) -> None:
    for number in range(70):
        await put(redis, queue, f"{1_000 + number}-0", "RetriesExhausted")
    ids = [letter.entry_id for letter in (await list_dead(redis, queue, limit=70)).entries]
    assert await redrive(redis, queue, ids[:40]) == 40
    assert await length(redis, queue) == (0, 40, 0, 30)
    assert await purge(redis, queue, [ids[0], ids[40]]) == 1
    assert await purge(redis, queue) == 29
    assert await length(redis, queue) == (0, 40, 0, 0)
    assert await purge(redis, queue) == 0


async def test_a_purged_ones_body_goes_with_it(redis: Redis, queue: VersionQueue) -> None:
    record = event()
    body = await body_of(redis, queue, record)
    entry_id = await bury(redis, queue, record, body)
    assert await purge(redis, queue, [entry_id]) == 1
    assert not await command(redis, "EXISTS", body)


@pytest.mark.parametrize("by", ["purge", "trim"])
async def test_one_that_is_redriven_meanwhile_keeps_its_body(
    redis: Redis, queue: VersionQueue, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """Somebody makes it an event again between its being read and its removal."""
    record = event()
    body = await body_of(redis, queue, record)
    entry_id = await bury(redis, queue, record, body)

    async def later(client: Redis, calls: Sequence[Call]) -> list[Any]:
        monkeypatch.undo()
        assert await redrive(redis, queue, [entry_id]) == 1
        return await run_many(client, calls)

    monkeypatch.setattr(limits, "DEAD_LETTERS_MAX", 0)
    monkeypatch.setattr(f"forebay_common.{'dead_letters' if by == 'purge' else 'queue'}.run_many", later)
    removed = await (purge(redis, queue) if by == "purge" else trim_dead_letters(redis, queue, 1))
    assert removed == 0
    assert await command(redis, "EXISTS", body)
    assert [kept.invocation_id for kept in await records(redis, queue.async_)] == [record.invocation_id]


async def test_a_later_releases_letter_is_listed_and_purged_but_not_redriven(redis: Redis, queue: VersionQueue) -> None:
    entry_id = await command(redis, "XADD", queue.dead, "*", "r", UNREADABLE, "reason", "RetriesExhausted", "f", "")
    await command(redis, "EXPIRE", queue.dead, limits.DEAD_LETTER_TTL_S)
    [letter] = (await list_dead(redis, queue)).entries
    assert (letter.readable, letter.invocation_id, letter.reason) == (False, UNREADABLE[26:42], "RetriesExhausted")
    assert await redrive(redis, queue, [entry_id]) == 0
    assert await purge(redis, queue) == 1


async def test_of_a_deleted_function_nothing_comes_back(redis: Redis, queue: VersionQueue) -> None:
    entry_id = await bury(redis, queue, event(group_hash=b"a" * 16))
    await command(redis, "UNLINK", queue.async_)
    assert await redrive(redis, queue, [entry_id]) == 0
    await delete_function_keys(redis, queue.keys)
    assert await redrive(redis, queue, [entry_id]) == 0
    assert await purge(redis, queue, [entry_id]) == 0
    assert (await list_dead(redis, queue)).entries == []
    assert await keys_of(redis, queue) == []
