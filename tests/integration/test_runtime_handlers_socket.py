"""The runtime against a handlers' program played by the test: order, deadlines, deaths, and hostile frames."""

import asyncio
import json
import os
import select
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from forebay_common.frames import ERROR_FUNCTION, ERROR_NONE
from forebay_common.queue import send_control
from forebay_common.record import Invocation
from forebay_handlers import wire
from support.queue_side import call, event, records
from support.runtime_rig import PlayedHandler, PlayedHandlers, RuntimeRig
from support.waiting import wait_until, wait_until_async

SIGKILL = 9


@pytest.fixture
async def rig(redis: Redis, valkey_server: dict[str, Any], prefix: str) -> AsyncIterator[RuntimeRig]:
    async with RuntimeRig(redis, valkey_server, prefix) as rig:
        yield rig


async def started(rig: RuntimeRig, **settings: Any) -> PlayedHandlers:
    await rig.prepare(**settings)
    rig.start()
    return await rig.play_handlers()


async def one_handler(rig: RuntimeRig, **settings: Any) -> tuple[PlayedHandlers, PlayedHandler]:
    handlers = await started(rig, **settings)
    handler = handlers.handler(*handlers.next_spawn())
    await rig.wait_for_state("ready")
    return handlers, handler


async def a_batch(
    rig: RuntimeRig, handlers: PlayedHandlers, count: int, **changes: Any
) -> tuple[PlayedHandler, list[bytes], list[tuple[bytes, bytes]]]:
    """A handler that has become quick enough to hold `count` unanswered calls; with their reply and call tokens.

    How quick it seems depends on how busy the machine is, so calls are sent until a batch arrives.
    """
    handler = handlers.handler(*handlers.next_spawn())
    for _ in range(20):
        await append_at_once(rig, 50)
        await asyncio.to_thread(_answer_all, handler, [], 50)
        await rig.replies(50)
        tokens = await append_at_once(rig, count, **changes)
        events = await asyncio.to_thread(_events_together, handler, count)
        if len(events) == count:
            return handler, tokens, events
        await asyncio.to_thread(_answer_all, handler, events, count)
        await rig.replies(count)
    raise AssertionError("the handler never got a batch")


def _events_together(handler: PlayedHandler, count: int) -> list[tuple[bytes, bytes]]:
    """The events that come without an answer to the first."""
    events = [handler.next_event()]
    while len(events) < count and select.select([handler.connection], [], [], 0.02)[0]:
        events.append(handler.next_event())
    return events


def _answer_all(handler: PlayedHandler, events: list[tuple[bytes, bytes]], count: int) -> None:
    for event_ in events:
        handler.answer(*event_)
    for _ in range(count - len(events)):
        handler.answer(*handler.next_event())


async def append_at_once(rig: RuntimeRig, count: int, **changes: Any) -> list[bytes]:
    """Queue calls in one step, so that one read finds them all; gives their reply tokens."""
    sent = [call(b"%d" % number, **changes) for number in range(count)]
    async with rig.redis.pipeline(transaction=True) as pipe:
        for record in sent:
            pipe.xadd(rig.queue.sync, {"r": record.encode()})
        await pipe.execute()
    return [record.reply_token for record in sent]


async def test_the_setup_carries_what_a_handler_needs(rig: RuntimeRig) -> None:
    handlers = await started(rig, env={"A": 'quote " and \n line', "B": "ü"}, boto_path="/var/runtime")

    assert handlers.setup == {
        "mode": "python",
        "task_root": str(rig.code_dir),
        "handler": "app.handler",
        "env": {"A": 'quote " and \n line', "B": "ü"},
        "inherited_env": [],
        "memory_mb": 512,
        "boto_path": "/var/runtime",
    }
    await asyncio.to_thread(handlers.next_spawn)  # asked for once the code is there
    assert (rig.code_dir / "app.py").read_text().startswith("def handler")


async def test_each_slot_gets_its_own_process_and_no_more_calls_than_it_can_run(rig: RuntimeRig) -> None:
    handlers = await started(rig, concurrency=3)
    processes = [handlers.handler(*handlers.next_spawn()) for _ in range(3)]
    await rig.wait_for_state("ready")
    await append_at_once(rig, 1)
    first = processes[0].next_event()
    tokens = await append_at_once(rig, 3)
    events = [first, processes[1].next_event(), processes[2].next_event()]

    async def three_held() -> bool:
        return await rig.queued(rig.queue.sync) == (4, 3)

    await wait_until_async(three_held, "three calls are leased and one is not")
    # The one that has become free is enough to read for.
    processes[1].answer(*events[1])
    processes[1].answer(*processes[1].next_event())

    answers = await rig.replies(2)
    assert [frame.error_kind for frame in answers.values()] == [ERROR_NONE, ERROR_NONE]
    assert tokens[2] in answers


async def test_a_batch_is_sent_in_one_go_and_answered_in_order(rig: RuntimeRig) -> None:
    handler, tokens, events = await a_batch(rig, await started(rig), 8)

    for token, payload in events:
        handler.answer(token, payload)

    assert [payload for _, payload in events] == [b"%d" % number for number in range(8)]
    assert list(await rig.replies(8)) == tokens


async def test_a_handler_that_prints_gets_no_batch(rig: RuntimeRig) -> None:
    handler, _, events = await a_batch(rig, await started(rig), 2)
    os.write(handler.log, b"a line\n")
    wait_until(lambda: "a line" in rig.messages(), "the line is in the log")
    for event_ in events:
        handler.answer(*event_)
    await rig.replies(2)

    await append_at_once(rig, 5)

    assert len(_events_together(handler, 5)) == 1


async def test_the_time_of_a_batched_call_runs_from_the_answer_before_it(rig: RuntimeRig) -> None:
    handlers = await started(rig)
    handler, tokens, events = await a_batch(rig, handlers, 3, timeout_ms=600)
    await asyncio.sleep(0.4)  # the handler's own time
    handler.answer(*events[0])
    await asyncio.sleep(0.4)  # the handler's own time
    handler.answer(*events[1])

    handlers.exited(handlers.next_kill(), SIGKILL)

    answers = await rig.replies(3)
    assert [answers[token].error_kind for token in tokens] == [ERROR_NONE, ERROR_NONE, ERROR_FUNCTION]
    assert b"timed out after 0.60" in (answers[tokens[2]].payload or b"")


async def test_the_unstarted_rest_of_a_killed_batch_runs_elsewhere(rig: RuntimeRig) -> None:
    handlers = await started(rig)
    handler, tokens, _ = await a_batch(rig, handlers, 3)

    handler.close()
    slot = handlers.next_kill()
    handlers.exited(slot, 3 << 8)
    successor = handlers.handler(*handlers.next_spawn())
    for _ in range(2):
        successor.answer(*successor.next_event())

    answers = await rig.replies(3)
    assert b"exit status 3" in (answers[tokens[0]].payload or b"")
    assert {answers[token].payload for token in tokens[1:]} == {b"1", b"2"}


async def test_a_result_that_came_with_the_kill_means_that_the_next_call_may_have_run(rig: RuntimeRig) -> None:
    handlers = await started(rig)
    handler, tokens, events = await a_batch(rig, handlers, 2, timeout_ms=200)

    slot = handlers.next_kill()
    handler.answer(*events[0])
    handlers.exited(slot, SIGKILL)

    answers = await rig.replies(2)
    assert b"Task timed out" in (answers[tokens[0]].payload or b"")
    assert b"signal: killed" in (answers[tokens[1]].payload or b"")


async def cancelled(rig: RuntimeRig, record: Invocation) -> None:
    """Told to the instance, and heard by it."""
    control = rig.keys.control(rig.instance_id)
    assert await send_control(
        rig.redis, rig.keys, rig.instance_id, {"command": "cancel", "invocation_id": record.invocation_id.hex()}
    )

    async def heard() -> bool:
        return not await rig.redis.xlen(control)

    await wait_until_async(heard, "the instance has heard of it")


async def a_batch_of_records(
    rig: RuntimeRig, handlers: PlayedHandlers, count: int
) -> tuple[PlayedHandler, list[Invocation], list[tuple[bytes, bytes]]]:
    handler, tokens, events = await a_batch(rig, handlers, count)
    queued = {record.reply_token: record for record in await records(rig.redis, rig.queue.sync)}
    return handler, [queued[token] for token in tokens], events


async def test_a_cancelled_call_of_a_batch_is_ended_once_it_runs_and_the_one_behind_it_runs_elsewhere(
    rig: RuntimeRig,
) -> None:
    handlers = await started(rig)
    handler, [first, second, third], events = await a_batch_of_records(rig, handlers, 3)
    await cancelled(rig, second)

    handler.answer(*events[0])
    handlers.exited(handlers.next_kill(), SIGKILL)
    successor = handlers.handler(*handlers.next_spawn())
    successor.answer(*successor.next_event())

    answers = await rig.replies(3)
    assert b"Sandbox.Cancelled" in (answers[second.reply_token].payload or b"")
    assert [answers[record.reply_token].payload for record in (first, third)] == [b"0", b"2"]


async def test_a_cancelled_call_of_a_batch_that_is_quick_ends_by_itself_and_hits_nobody(rig: RuntimeRig) -> None:
    handlers = await started(rig)
    handler, sent, events = await a_batch_of_records(rig, handlers, 3)
    await cancelled(rig, sent[1])

    for event_ in events:
        handler.answer(*event_)

    answers = await rig.replies(3)
    assert [answers[record.reply_token].payload for record in sent] == [b"0", b"1", b"2"]
    assert not select.select([handlers.supervisor], [], [], 0.1)[0], "no process was killed"


async def test_an_out_of_memory_document_passes_through_and_the_process_is_replaced(rig: RuntimeRig) -> None:
    handlers, handler = await one_handler(rig)
    [token] = await append_at_once(rig, 1)

    handler.answer(handler.next_event()[0], b'{"errorType": "Runtime.OutOfMemory"}', wire.RESULT_ERROR_EXIT)

    frame = (await rig.replies(1))[token]
    assert (frame.error_kind, frame.payload) == (ERROR_FUNCTION, b'{"errorType": "Runtime.OutOfMemory"}')
    handlers.exited(handlers.next_kill(), 1 << 8)
    successor = handlers.handler(*handlers.next_spawn())
    await append_at_once(rig, 1)
    successor.answer(*successor.next_event())
    assert len(await rig.replies(1)) == 1


async def test_answers_with_another_token_or_twice_count_for_nothing(rig: RuntimeRig) -> None:
    _, handler = await one_handler(rig)
    tokens = await append_at_once(rig, 2)

    first, payload = handler.next_event()
    handler.answer(b"x" * 16, b"forged")
    handler.answer(first, payload)
    second, payload = handler.next_event()
    handler.answer(first, b"again")
    handler.answer(second, payload)

    answers = await rig.replies(2)
    assert [answers[token].payload for token in tokens] == [b"0", b"1"]

    async def counted() -> bool:
        return (await rig.heartbeat())["ignored_results"] == "2"

    await wait_until_async(counted, "the heartbeat counts them")


@pytest.mark.parametrize(
    "junk",
    [
        b"\x00\x00\x00\x00\x0a",
        b"\xff\xff\xff\xff\x0b",
        b"GET / HTTP/1.1\r\n\r\n",
        wire.pack(99, b"what"),
        wire.pack(wire.RESULT, b"short"),
        wire.pack(wire.INIT_DONE, b"\0\0\0\0"),
        wire.pack(wire.EXITED, b"\0\0\0\0\0\0"),
    ],
)
async def test_a_handler_that_sends_junk_is_replaced_and_its_call_answered(rig: RuntimeRig, junk: bytes) -> None:
    handlers, handler = await one_handler(rig)
    [token] = await append_at_once(rig, 1)
    handler.next_event()

    handler.connection.sendall(junk)
    handlers.exited(handlers.next_kill(), SIGKILL)

    assert b"signal: killed" in ((await rig.replies(1))[token].payload or b"")
    successor = handlers.handler(*handlers.next_spawn())
    await append_at_once(rig, 1)
    successor.answer(*successor.next_event())
    assert len(await rig.replies(1)) == 1


async def test_strangers_on_the_socket_change_nothing(rig: RuntimeRig) -> None:
    handlers, handler = await one_handler(rig)
    read, write = os.pipe()
    strangers = [handlers.connect() for _ in range(6)]
    strangers[0].sendall(b"\xff" * 100)
    strangers[1].sendall(wire.pack(wire.HELLO_SUPERVISOR, b"{}"))
    strangers[2].sendall(wire.pack(wire.HELLO_HANDLER, wire.SPAWN_BODY.pack(0, b"z" * 16)))
    strangers[3].sendall(wire.pack(wire.HELLO_HANDLER, wire.SPAWN_BODY.pack(60_000, b"z" * 16)))
    socket.send_fds(strangers[4], [wire.pack(wire.HELLO_HANDLER, b"short")], [read, write])
    strangers[5].sendall(wire.pack(wire.RESULT, b"x" * 30))

    for stranger in strangers:
        assert _ends(stranger)
    [token] = await append_at_once(rig, 1)
    handler.answer(*handler.next_event())
    assert (await rig.replies(1))[token].error_kind == ERROR_NONE
    os.close(read)
    os.close(write)


async def test_a_handler_that_ends_without_ever_serving_is_not_started_in_a_loop(rig: RuntimeRig) -> None:
    handlers, handler = await one_handler(rig)
    handler.close()
    handlers.exited(handlers.next_kill(), 7 << 8)

    first = await rig.invoke()
    await append_at_once(rig, 1)
    successor = handlers.handler(*handlers.next_spawn())
    successor.answer(*successor.next_event())

    assert b"exit status 7" in (first.payload or b"")
    assert len(await rig.replies(1)) == 1


async def test_the_end_of_the_handlers_program_fails_the_instance_after_its_calls_are_answered(
    rig: RuntimeRig,
) -> None:
    handlers = await started(rig)
    _, tokens, _ = await a_batch(rig, handlers, 3)

    handlers.close()

    answers = await rig.replies(1)
    assert b"signal: killed" in (answers[tokens[0]].payload or b"")
    assert await rig.exit_code() == 1
    assert await rig.queued(rig.queue.sync) == (2, 0)
    beat = await rig.heartbeat()
    assert (beat["state"], beat["reason"]) == ("failed", "the handlers' program ended (closed)")


async def test_a_kill_that_nobody_confirms_fails_the_instance(rig: RuntimeRig) -> None:
    _, handler = await one_handler(rig)
    [token] = await append_at_once(rig, 1, timeout_ms=200)
    handler.next_event()

    frame = (await rig.replies(1))[token]

    assert b"Task timed out after 0.20 seconds" in (frame.payload or b"")
    assert await rig.exit_code() == 1
    assert (await rig.heartbeat())["reason"] == "the handlers' program did not end slot 0 within 1 s"


async def test_a_failing_event_whose_process_ended_is_retried(rig: RuntimeRig) -> None:
    handlers, handler = await one_handler(rig, retry_delays_ms=[60_000])
    await rig.append(event())
    handler.next_event()

    handler.close()
    handlers.exited(handlers.next_kill(), SIGKILL)

    async def delayed() -> bool:
        return bool(await rig.redis.zcard(rig.queue.delayed))

    await wait_until_async(delayed, "the retry is planned")
    assert await rig.queued(rig.queue.async_) == (0, 0)


async def test_lines_that_are_not_text_or_have_no_end_are_kept(rig: RuntimeRig) -> None:
    _, handler = await one_handler(rig)
    [token] = await append_at_once(rig, 1)
    event_token, payload = handler.next_event()

    os.write(handler.log, b"\xff\xfe caf\xc3\xa9\n" + b"no end")
    handler.answer(event_token, payload)

    assert token in await rig.replies(1)
    assert rig.messages()[2:4] == ["�� café", "no end"]
    assert json.dumps(rig.log_lines()[2])


def _ends(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
