"""What the runtime decides by itself: what to read, whom to give a call, what becomes of it."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hiredis import ReplyError

from forebay_common.limits import BATCH_MAX, BLOCK_MS
from forebay_common.record import KIND_SYNC, Invocation
from forebay_runtime import call_log
from forebay_runtime.console import Console
from forebay_runtime.finishing import DEAD, RETRY, after_failure
from forebay_runtime.leases import ASYNC, CANCELLED_MAX, SYNC, Call, Leases, is_expired
from forebay_runtime.loop import NEVER, Loop
from forebay_runtime.queue_reader import QueueReader
from forebay_runtime.reading import (
    ASYNC_ONLY,
    ASYNC_TURN_EVERY,
    BOTH,
    CONTROL_ONLY,
    SYNC_ONLY,
    Read,
    ReadingOrder,
)
from forebay_runtime.settings import RedisCredentials
from forebay_runtime.slots import DYING, FAILED, READY, STARTING, Slot, choose
from support.crashing_redis import RecordingLink


def record(first_accepted_ms: int = 0) -> Invocation:
    return Invocation(
        kind=KIND_SYNC,
        invocation_id=bytes(range(16)),
        wait_ms=1000,
        timeout_ms=3000,
        payload=b"",
        first_accepted_ms=first_accepted_ms,
    )


def held(entry_id: bytes, kind: int = SYNC, leased_at: float = 0.0) -> Call:
    return Call(kind, entry_id, record(), b"t" * 16, leased_at)


# --- reading


def following(order: ReadingOrder, room: int, brought: Iterable[tuple[int, int]]) -> list[str]:
    """Which queues are read one after the other, when each read brings so many (sync, async) entries."""
    queues = []
    for sync_entries, async_entries in brought:
        read = order.next(room, control_due=False)
        assert read is not None
        queues.append(read.queues)
        order.saw(read, sync_entries, async_entries)
    return queues


def test_a_quiet_instance_blocks_on_both_queues_for_as_many_as_it_has_room() -> None:
    read = ReadingOrder().next(3, control_due=True)

    assert read is not None
    assert (read.queues, read.count, read.block_ms) == (BOTH, 3, BLOCK_MS)


def test_without_room_only_the_control_stream_is_looked_at_and_only_when_it_is_due() -> None:
    order = ReadingOrder()

    assert order.next(0, control_due=False) is None
    read = order.next(0, control_due=True)
    assert read is not None
    assert (read.queues, read.block_ms) == (CONTROL_ONLY, 0)


def test_with_a_backlog_of_events_sync_is_read_first_and_async_gets_the_rest() -> None:
    backlog = [(0, 1), (0, 0), (0, 1), (1, 0), (0, 1)]

    assert following(ReadingOrder(), 1, backlog) == [BOTH, SYNC_ONLY, ASYNC_ONLY, SYNC_ONLY, SYNC_ONLY]


def test_a_backlog_that_is_gone_gives_way_to_one_blocking_read() -> None:
    assert following(ReadingOrder(), 1, [(0, 1), (0, 0), (0, 0), (0, 0)]) == [BOTH, SYNC_ONLY, ASYNC_ONLY, BOTH]


def test_a_sync_load_that_fills_every_read_does_not_starve_async() -> None:
    flood = [(0, 2), *[(2, 0)] * ASYNC_TURN_EVERY, (0, 2), (2, 0)]

    queues = following(ReadingOrder(), 2, flood)

    assert queues == [BOTH, *[SYNC_ONLY] * ASYNC_TURN_EVERY, ASYNC_ONLY, SYNC_ONLY]


def test_a_look_at_the_control_stream_changes_nothing_about_the_queues() -> None:
    order = ReadingOrder()
    order.saw(Read(BOTH, 1, BLOCK_MS), 0, 1)

    order.saw(Read(CONTROL_ONLY, 1, 0), 0, 0)

    assert following(order, 1, [(0, 0)]) == [SYNC_ONLY]


# --- slots


def slot(index: int, state: str, calls: int = 0, *, average_ms: float = 10.0) -> Slot:
    made = Slot(index, Loop().timer(lambda: None))
    made.state = state
    made.average_ms = average_ms
    made.calls.extend(held(b"%d" % number) for number in range(calls))
    return made


@pytest.mark.parametrize(
    ("slots", "chosen"),
    [
        ([slot(0, READY), slot(1, READY)], 0),
        ([slot(0, READY, 1), slot(1, READY)], 1),
        ([slot(0, FAILED), slot(1, READY)], 1),
        ([slot(0, FAILED), slot(1, READY, 1)], 0),
        ([slot(0, STARTING), slot(1, DYING), slot(2, READY, 1)], None),
        ([slot(0, READY, 3, average_ms=0.1), slot(1, READY, 2, average_ms=0.1)], 1),
        ([slot(0, READY, BATCH_MAX, average_ms=0.1)], None),
        ([slot(0, READY, 3, average_ms=0.1), slot(1, FAILED)], 0),
        ([], None),
    ],
)
def test_a_call_goes_to_the_emptiest_ready_process_and_to_a_failed_one_last(
    slots: list[Slot], chosen: int | None
) -> None:
    best = choose(slots)

    assert (best.index if best is not None else None) == chosen


@pytest.mark.parametrize(
    ("average_ms", "capacity"), [(0.0, BATCH_MAX), (0.25, BATCH_MAX), (0.4, 20), (0.499, 16), (0.5, 1), (3.0, 1)]
)
def test_a_batch_takes_no_longer_than_its_last_call_should_wait(average_ms: float, capacity: int) -> None:
    assert slot(0, READY, average_ms=average_ms).capacity == capacity


def test_a_handler_is_trusted_with_a_batch_after_a_run_of_short_calls_and_not_after_a_long_one() -> None:
    made = slot(0, READY)
    for _ in range(13):
        made.served_one(0.1)
    assert not made.batches
    for _ in range(13):
        made.served_one(0.1)
    assert made.batches

    made.served_one(50.0)

    assert not made.batches
    assert made.capacity == 1


# --- leases and retries


@pytest.mark.parametrize(
    ("entry_id", "first_accepted_ms", "now_ms", "expired"),
    [
        (b"10000-0", 0, 11_000, False),
        (b"10000-0", 0, 11_001, True),
        (b"99000-7", 10_000, 11_001, True),
        (b"99000-7", 98_500, 99_400, False),
    ],
)
def test_the_wait_runs_from_acceptance_wherever_the_record_has_moved(
    entry_id: bytes,
    first_accepted_ms: int,
    now_ms: float,
    expired: bool,  # noqa: FBT001 - a table
) -> None:
    assert is_expired(entry_id, record(first_accepted_ms=first_accepted_ms), now_ms) is expired


@pytest.mark.parametrize(
    ("attempt", "delays", "outcome"),
    [
        (0, [60_000, 120_000], (RETRY, 60_000)),
        (1, [60_000, 120_000], (RETRY, 120_000)),
        (2, [60_000, 120_000], (DEAD, 0)),
        (0, [], (DEAD, 0)),
        (255, [0], (DEAD, 0)),
    ],
)
def test_an_event_is_tried_again_once_for_each_delay(attempt: int, delays: list[int], outcome: tuple[str, int]) -> None:
    assert after_failure(attempt, delays) == outcome


def test_only_leases_of_some_age_are_extended() -> None:
    leases = Leases()
    leases.add(held(b"1-0", leased_at=10.0))
    leases.add(held(b"2-0", leased_at=12.0))
    leases.add(held(b"3-0", kind=ASYNC, leased_at=10.0))

    assert leases.older_than(SYNC, 11.0) == [b"1-0"]


def test_a_refused_extension_loses_the_lease_once_and_a_finished_call_has_none_to_lose() -> None:
    leases = Leases()
    for number in (b"1-0", b"2-0", b"3-0"):
        leases.add(held(number))
    leases.drop(SYNC, [b"3-0"])

    asked = [b"1-0", b"2-0", b"3-0"]
    lost = leases.lose(SYNC, asked, [b"2-0"])
    again = leases.lose(SYNC, asked, [b"2-0"])

    assert [call.entry_id for call in lost] == [b"1-0"]
    assert again == []
    assert (leases.lost, len(leases)) == (1, 2)


def test_a_held_call_is_cancelled_by_its_invocation_id() -> None:
    leases = Leases()
    call = held(b"1-0")
    leases.add(call)
    leases.add_unreadable(SYNC, b"2-0")

    assert leases.cancel(bytes(range(16))) is call
    assert call.cancelled
    assert leases.cancel(bytes(16)) is None


def test_a_call_that_arrives_after_its_cancellation_is_known_to_be_cancelled_and_so_many_are_remembered() -> None:
    leases = Leases()
    assert leases.cancel(bytes(range(16))) is None
    late = held(b"1-0")
    leases.add(late)
    assert late.cancelled

    leases.cancel(bytes(range(16)))
    for number in range(CANCELLED_MAX):
        leases.cancel(b"%016d" % number)
    forgotten = held(b"2-0")
    leases.add(forgotten)
    assert not forgotten.cancelled


# --- Lambda's lines


def test_a_report_has_lambdas_text() -> None:
    assert call_log.report("ID", 1_234_567, 128, 30_000, 0) == (
        "REPORT RequestId: ID\tDuration: 1234.57 ms\tBilled Duration: 1235 ms\tMemory Size: 128 MB\t"
        "Max Memory Used: 30 MB\t"
    )
    assert call_log.report("ID", 1000, 128, 1024, 2500, "timeout").endswith(
        "Billed Duration: 1 ms\tMemory Size: 128 MB\tMax Memory Used: 1 MB\tInit Duration: 2.50 ms\tStatus: timeout\t"
    )


def test_lambdas_other_lines() -> None:
    assert call_log.start("ID", "$LATEST") == "START RequestId: ID Version: $LATEST"
    assert call_log.end("ID") == "END RequestId: ID"
    assert call_log.timed_out("ID", 3000, 1.5) == "1970-01-01T00:00:01.500Z ID Task timed out after 3.00 seconds"
    arn = "arn:aws:lambda:eu-west-1:000000000000:function:hello"
    assert call_log.init_start("python3.13", arn) == (
        "INIT_START Runtime Version: python:3.13\tRuntime Version ARN: arn:aws:lambda:eu-west-1::runtime:python:3.13"
    )
    assert call_log.init_start("provided.al2023", arn).startswith("INIT_START Runtime Version: provided.al2023\t")
    assert call_log.init_report(2500, "error") == "INIT_REPORT Init Duration: 2.50 ms\tPhase: init\tStatus: error"


def test_what_was_let_go_of_while_a_list_of_leases_was_on_its_way_is_not_taken_for_new() -> None:
    leases = Leases()
    leases.add(held(b"1-0"))
    leases.begin_list()
    leases.drop(SYNC, [b"1-0"])
    assert leases.knows(SYNC, b"1-0")
    assert not leases.knows(ASYNC, b"1-0")
    leases.end_list()
    assert not leases.knows(SYNC, b"1-0")


def test_a_list_of_leases_that_redis_refused_is_asked_for_again_before_anything_else_is_read() -> None:
    loop = Loop()
    named = {"prefix": "p", "namespace": "default", "name": "f", "uid": "u", "version": "$LATEST", "instance_id": "i"}
    nobody: Any = None
    settings: Any = SimpleNamespace(**named)
    reader = QueueReader(loop, settings, RedisCredentials({}), Console("f", "i"), Leases(), nobody, nobody)
    link = RecordingLink()
    reader.link = cast("Any", link)
    reader.set_clock(0.0, 0.0)

    reader.recover()
    link.callback([ReplyError("LOADING Redis is loading the dataset in memory")])
    reader._pause_timer.clear()

    assert not reader.free
    assert reader._list_timer.when != NEVER
    reader.recover()
    link.callback([[]])
    assert reader.free
