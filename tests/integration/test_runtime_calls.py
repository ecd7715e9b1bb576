"""The runtime with the real handlers' program: what a caller gets for each way a call can go."""

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from redis.asyncio import Redis

from forebay_common.events import find_event
from forebay_common.frames import (
    ERROR_EXPIRED,
    ERROR_FUNCTION,
    ERROR_NONE,
    ERROR_REFUSED,
    FLAG_COLD,
    KIND_ERROR,
    KIND_WHOLE,
)
from forebay_common.limits import CLAIM_CHECK_BYTES, RESPONSE_MAX_BYTES
from forebay_common.queue import promote
from forebay_common.record import FLAG_LOG_TAIL, Invocation
from forebay_common.redis_client import command
from support.queue_side import PROCESS, call, event, records
from support.runtime_rig import RuntimeRig
from support.waiting import wait_until_async

HANDLER = """
    import json, os, sys, time
    COUNT = 0

    def handler(event, context):
        global COUNT
        COUNT += 1
        what = event.get("do")
        if what == "raise":
            raise ValueError("no")
        if what == "sleep":
            print("going to sleep", flush=True)
            time.sleep(event["s"])
        if what == "exit":
            print("last words", flush=True)
            os._exit(event["status"])
        if what == "print":
            for number in range(event["lines"]):
                print("line", number)
            print("no newline", end="")
        if what == "large":
            return "x" * event["size"]
        if what == "context":
            return {
                "id": context.aws_request_id, "arn": context.invoked_function_arn,
                "left": context.get_remaining_time_in_millis(), "trace": os.environ.get("_X_AMZN_TRACE_ID"),
                "client": context.client_context and context.client_context.custom,
            }
        return {"count": COUNT}
"""


def ask(**event: Any) -> bytes:
    return json.dumps(event).encode()


def request_id(record: Invocation) -> str:
    return str(UUID(bytes=record.invocation_id))


@pytest.fixture
async def rig(redis: Redis, valkey_server: dict[str, Any], prefix: str) -> AsyncIterator[RuntimeRig]:
    async with RuntimeRig(redis, valkey_server, prefix) as rig:
        yield rig


async def test_a_call_is_answered_and_leaves_nothing(rig: RuntimeRig) -> None:
    await rig.run()

    first = await rig.invoke(b'{"n": 1}')
    second = await rig.invoke(b'{"n": 2}')

    assert (first.kind, first.error_kind, first.payload) == (KIND_WHOLE, ERROR_NONE, b'{"n": 1}')
    assert first.flags & FLAG_COLD
    assert first.init_us > 0
    assert (second.payload, second.flags, second.init_us) == (b'{"n": 2}', 0, 0)
    assert await rig.drain() == 0
    assert await rig.queued(rig.queue.sync) == (0, 0)
    assert await rig.has_left()
    assert await rig.redis.exists(rig.keys.control(rig.instance_id)) == 0


async def test_calls_of_one_slot_are_each_answered_once_by_their_own_token(rig: RuntimeRig) -> None:
    """In which order replies arrive is not promised: they leave on whichever connection is written to next."""
    await rig.run()

    sent = [await rig.append(call(b'{"n": %d}' % number)) for number in range(200)]
    answers = await rig.replies(200)

    assert [answers[record.reply_token].payload for record in sent] == [record.payload for record in sent]
    assert await rig.drain() == 0
    assert await rig.redis.llen(rig.platform_keys.reply(PROCESS)) == 0


async def test_a_handler_sees_its_call(rig: RuntimeRig) -> None:
    await rig.run(HANDLER)
    record = call(
        ask(do="context"),
        arn="arn:aws:lambda:us-east-1:000000000000:function:fn:prod",
        client_context=b'{"custom": {"a": "b"}}',
        optional={0x80: b"Root=1-5759e988-bd862e3fe1be46a994272793"},
    )

    await rig.append(record)
    answer = json.loads((await rig.replies(1))[record.reply_token].payload or b"")

    assert answer["id"] == request_id(record)
    assert answer["arn"].endswith(":fn:prod")
    assert 2000 < answer["left"] <= 3000
    assert answer["trace"].startswith("Root=1-5759e988-bd862e3fe1be46a994272793")
    assert answer["client"] == {"a": "b"}


async def test_a_trace_id_is_made_where_the_caller_has_none(rig: RuntimeRig) -> None:
    await rig.run(HANDLER)

    answer = json.loads((await rig.invoke(ask(do="context"))).payload or b"")

    assert answer["trace"].startswith("Root=1-")


async def test_a_raising_handler_gives_lambdas_document_and_serves_on(rig: RuntimeRig) -> None:
    await rig.run(HANDLER)

    failed = await rig.invoke(ask(do="raise"))

    assert (failed.kind, failed.error_kind) == (KIND_ERROR, ERROR_FUNCTION)
    assert json.loads(failed.payload or b"")["errorType"] == "ValueError"
    assert json.loads((await rig.invoke()).payload or b"") == {"count": 2}


async def test_a_call_past_its_timeout_is_killed_and_the_next_one_starts_afresh(rig: RuntimeRig) -> None:
    await rig.run(HANDLER)
    await rig.invoke()
    record = call(ask(do="sleep", s=60), timeout_ms=300, flags=FLAG_LOG_TAIL)

    await rig.append(record)
    frame = (await rig.replies(1))[record.reply_token]

    ident = request_id(record)
    assert frame.error_kind == ERROR_FUNCTION
    assert json.loads(frame.payload or b"") == {
        "errorType": "Sandbox.Timedout",
        "errorMessage": f"RequestId: {ident} Error: Task timed out after 0.30 seconds",
    }
    assert 300_000 <= frame.duration_us < 1_500_000
    tail = frame.log_tail.decode().splitlines()
    assert tail[:2] == [f"START RequestId: {ident} Version: $LATEST", "going to sleep"]
    assert tail[2].endswith(f"Z {ident} Task timed out after 0.30 seconds")
    assert tail[3] == f"END RequestId: {ident}"
    assert tail[4].startswith(f"REPORT RequestId: {ident}\tDuration: {frame.duration_us / 1000:.2f} ms\t")
    assert tail[4].endswith("Status: timeout\t")
    afresh = await rig.invoke()
    assert json.loads(afresh.payload or b"") == {"count": 1}
    assert afresh.flags & FLAG_COLD


@pytest.mark.parametrize(
    ("status", "text"),
    [(3, "Runtime exited with error: exit status 3"), (0, "Runtime exited without providing a reason")],
)
async def test_an_exit_is_told_in_lambdas_words(rig: RuntimeRig, status: int, text: str) -> None:
    await rig.run(HANDLER)
    record = call(ask(do="exit", status=status), flags=FLAG_LOG_TAIL)

    await rig.append(record)
    frame = (await rig.replies(1))[record.reply_token]

    assert frame.error_kind == ERROR_FUNCTION
    document = json.loads(frame.payload or b"")
    assert document == {
        "errorType": "Runtime.ExitError",
        "errorMessage": f"RequestId: {request_id(record)} Error: {text}",
    }
    tail = frame.log_tail.decode().splitlines()
    assert tail[1:4] == ["last words", document["errorMessage"], "Runtime.ExitError"]
    assert json.loads((await rig.invoke()).payload or b"") == {"count": 1}


async def test_the_log_holds_each_line_under_its_call_and_the_tail_its_last_4096_bytes(rig: RuntimeRig) -> None:
    await rig.run(HANDLER)
    record = call(ask(do="print", lines=3000), flags=FLAG_LOG_TAIL)

    await rig.append(record)
    frame = (await rig.replies(1))[record.reply_token]

    messages = rig.messages(request_id(record))
    assert messages[0] == f"START RequestId: {request_id(record)} Version: $LATEST"
    assert messages[1:-2] == [*(f"line {number}" for number in range(3000)), "no newline"]
    assert messages[-2] == f"END RequestId: {request_id(record)}"
    assert messages[-1].startswith("REPORT RequestId")
    assert "\tMax Memory Used: " in messages[-1]
    assert "\tInit Duration: " in messages[-1]
    assert len(frame.log_tail) == 4096
    assert frame.log_tail.decode().endswith(f"line 2999\nno newline\n{messages[-2]}\n{messages[-1]}\n")
    assert rig.messages()[0].startswith("INIT_START Runtime Version: python:3.13\t")


async def test_a_log_is_sent_only_to_who_asked_for_it(rig: RuntimeRig) -> None:
    await rig.run(HANDLER)

    assert (await rig.invoke(ask(do="print", lines=2))).log_tail == b""


async def test_a_large_result_lies_under_a_key_with_a_ttl(rig: RuntimeRig) -> None:
    await rig.run(HANDLER)
    record = call(ask(do="large", size=CLAIM_CHECK_BYTES + 1))

    await rig.append(record)
    frame = (await rig.replies(1))[record.reply_token]

    assert frame.payload is None
    key = f"{rig.keys.base}:{frame.claim}"
    assert frame.claim == f"result:{record.invocation_id.hex()}"
    assert await rig.redis.get(key) == b'"%b"' % (b"x" * (CLAIM_CHECK_BYTES + 1))
    assert 0 < await rig.redis.ttl(key) <= 3600


@pytest.mark.parametrize("size", [RESPONSE_MAX_BYTES + 1, 9_000_000])
async def test_a_result_above_the_quota_is_refused(rig: RuntimeRig, size: int) -> None:
    await rig.run(HANDLER)

    frame = await rig.invoke(ask(do="large", size=size))

    assert frame.error_kind == ERROR_FUNCTION
    assert json.loads(frame.payload or b"")["errorType"] == "Function.ResponseSizeTooLarge"
    assert (await rig.invoke()).error_kind == ERROR_NONE


async def test_a_claimed_payload_is_fetched_and_removed(rig: RuntimeRig) -> None:
    await rig.run()
    body = json.dumps("y" * 1_000_000).encode()
    record = call(None)
    record.claim = f"body:{record.invocation_id.hex()}"
    await rig.redis.set(f"{rig.keys.base}:{record.claim}", body, ex=600)

    await rig.append(record)
    frame = (await rig.replies(1))[record.reply_token]

    assert await rig.redis.get(f"{rig.keys.base}:{frame.claim}") == body
    assert await rig.redis.exists(f"{rig.keys.base}:{record.claim}") == 0


async def test_a_claimed_payload_that_is_gone_is_refused(rig: RuntimeRig) -> None:
    await rig.run()

    refused = await rig.invoke(None, claim="body:00")
    await rig.append(event(None, claim="body:00"))

    assert refused.error_kind == ERROR_REFUSED
    assert refused.payload == b"the call's payload is gone from Redis"
    await _wait_for_dead(rig, b"PayloadGone")
    assert (await rig.invoke()).error_kind == ERROR_NONE


async def test_what_is_expired_when_leased_does_not_run(rig: RuntimeRig) -> None:
    await rig.prepare(HANDLER)
    old = {"wait_ms": 10, "first_accepted_ms": 1}
    await rig.redis.xadd(rig.queue.async_, {"r": event(ask(), **old).encode()})
    await rig.append(call(ask(), **old))
    rig.start()
    rig.start_handlers()

    [expired] = (await rig.replies(1)).values()
    await _wait_for_dead(rig, b"EventAgeExceeded")

    assert expired.error_kind == ERROR_EXPIRED
    assert json.loads((await rig.invoke()).payload or b"") == {"count": 1}


async def _wait_for_dead(rig: RuntimeRig, reason: bytes) -> bytes:
    async def buried() -> bool:
        return bool(await rig.redis.xlen(rig.queue.dead))

    await wait_until_async(buried, "a dead letter")
    [(_, fields)] = await command(rig.redis, "XRANGE", rig.queue.dead, "-", "+")
    assert fields[b"reason"] == reason
    record: bytes = fields[b"r"]
    return record


async def test_an_async_event_runs_and_leaves_nothing(rig: RuntimeRig) -> None:
    await rig.run(HANDLER)

    record = await rig.append(event(ask(do="print", lines=1)))

    async def done() -> bool:
        return await rig.queued(rig.queue.async_) == (0, 0)

    await wait_until_async(done, "the event is finished")
    assert "line 0" in rig.messages(request_id(record))
    assert await rig.redis.exists(rig.queue.dead) == 0


async def test_a_failing_event_is_retried_after_its_delays_and_then_buried(rig: RuntimeRig) -> None:
    await rig.run(HANDLER, retry_delays_ms=[10_000, 60_000])

    record = await rig.append(event(ask(do="raise")))
    for attempt in (1, 2):

        async def delayed() -> bool:
            return bool(await rig.redis.zcard(rig.queue.delayed))

        await wait_until_async(delayed, f"retry {attempt} is planned")
        due_ms = float(await command(rig.redis, "ZSCORE", rig.queue.delayed, record.invocation_id))
        [state] = await find_event(rig.redis, rig.queue, [record.invocation_id])
        assert state is not None
        assert (state.status, state.attempts) == ("delayed", attempt)
        seconds, _ = await rig.redis.time()
        assert (due_ms > seconds * 1000 + 30_000) == (attempt == 2)
        # It is due, and the controller finds it so.
        await command(rig.redis, "ZADD", rig.queue.delayed, 1, record.invocation_id)
        await promote(rig.redis, rig.queue)

    buried = Invocation.decode(await _wait_for_dead(rig, b"RetriesExhausted"))
    assert buried.attempt == 3


async def test_an_import_error_answers_the_first_call_and_the_next_call_tries_again(rig: RuntimeRig) -> None:
    await rig.run("import nothing_of_that_name")

    first = await rig.invoke()
    second = await rig.invoke()

    for frame in (first, second):
        document = json.loads(frame.payload or b"")
        assert frame.error_kind == ERROR_FUNCTION
        assert document["errorType"] == "Runtime.ImportModuleError"
        assert document["requestId"] == ""
    starts = [message for message in rig.messages() if message.startswith("INIT_START")]
    assert len(starts) == 2
    told = "Runtime.ImportModuleError: Unable to import module 'app': No module named 'nothing_of_that_name'"
    assert (await rig.heartbeat())["init_failure"] == told


async def test_the_heartbeat_tells_how_a_program_ended_that_never_got_ready(rig: RuntimeRig) -> None:
    await rig.run("import os; os._exit(3)")

    found = await rig.wait_for_state("ready")
    assert found["init_failure"] == "Runtime.ExitError: Runtime exited with error: exit status 3"


async def test_an_init_that_recovers_serves_the_call_that_waited_for_it(rig: RuntimeRig) -> None:
    await rig.run(
        """
        import os, pathlib
        marker = pathlib.Path("/tmp") / ("forebay-" + os.environ["MARK"])
        if not marker.exists():
            marker.touch()
            raise RuntimeError("not yet")
        marker.unlink()
        def handler(event, context): return "ok"
        """,
        env={"PATH": "/usr/bin:/bin", "MARK": rig.instance_id},
    )

    first = await rig.invoke()
    second = await rig.invoke()

    assert first.error_kind == ERROR_FUNCTION
    assert (second.error_kind, second.payload) == (ERROR_NONE, b'"ok"')
    assert (await rig.heartbeat())["init_failure"] == ""


async def test_an_init_that_takes_too_long_is_ended(rig: RuntimeRig) -> None:
    await rig.run("import time; time.sleep(60)", init_timeout_ms=300)

    frame = await rig.invoke()

    document = json.loads(frame.payload or b"")
    assert document["errorType"] == "Sandbox.Timedout"
    assert document["errorMessage"].endswith("Task timed out after 0.30 seconds")
    assert any(message.startswith("INIT_REPORT") and "timeout" in message for message in rig.messages())


async def test_a_quick_handler_holds_a_batch_and_its_answers_share_their_commands(rig: RuntimeRig) -> None:
    await rig.run()
    pushes = []
    # How quick a handler seems depends on how busy the machine is: it is given several chances.
    for _ in range(10):
        await rig.redis.config_resetstat()
        sent = [call(b"%d" % number) for number in range(320)]
        async with rig.redis.pipeline(transaction=False) as pipe:
            for record in sent:
                pipe.xadd(rig.queue.sync, {"r": record.encode()})
            await pipe.execute()

        answers = await rig.replies(320)

        assert [answers[record.reply_token].payload for record in sent] == [record.payload for record in sent]
        pushes.append((await rig.redis.info("commandstats"))["cmdstat_rpush"]["calls"])
        if pushes[-1] < 320 / 4:
            return
    raise AssertionError(f"320 answers took so many commands each time: {pushes}")


async def test_a_hundred_calls_beside_a_backlog_of_events_do_not_wait_behind_it(rig: RuntimeRig) -> None:
    await rig.run(HANDLER)
    backlog = [event(ask(do="sleep", s=0.02)) for _ in range(100)]
    for record in backlog:
        await rig.append(record)

    for _ in range(5):
        assert (await rig.invoke()).error_kind == ERROR_NONE

    length, _ = await rig.queued(rig.queue.async_)
    assert length > 50
    assert not await records(rig.redis, rig.queue.sync)
