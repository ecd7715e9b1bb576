"""A container image as the handlers: awslambdaric and a shell's curl as its own programs, over the Runtime API."""

import asyncio
import http.client
import json
import select
import signal
import sys
import textwrap
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from forebay_common.events import cancel_event, find_event
from forebay_common.frames import ERROR_FUNCTION, ERROR_NONE
from forebay_common.queue import send_control
from forebay_runtime.runtime_api import CLOSES_AT_ONCE_S
from support.pod_rig import WAIT_S, PodRig
from support.ports import free_port
from support.queue_side import call, event
from support.waiting import wait_until

APP = """
    import os, sys, time
    if os.environ.get("AT_IMPORT") == "fail":
        raise ValueError("cannot be imported")
    if os.environ.get("AT_IMPORT") == "exit":
        sys.exit(3)
    def handler(event, context):
        print("started", flush=True)
        if "sleep" in event:
            time.sleep(event["sleep"])
        if "exit" in event:
            os._exit(event["exit"])
        if "raise" in event:
            raise ValueError(event["raise"])
        return {"event": event, "left": context.get_remaining_time_in_millis()}
"""
CURL = """
    api=http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime/invocation
    while true; do
        curl -sS -D headers -o event "$api/next"
        id=$(grep -i '^lambda-runtime-aws-request-id' headers | tr -d '\\r' | cut -d' ' -f2)
        curl -sS -X POST --data-binary @event "$api/$id/response" >/dev/null
    done
"""
FUNCTION = {
    "AWS_LAMBDA_FUNCTION_NAME": "fn",
    "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
    "LANG": "C.UTF-8",
}


@pytest.fixture
async def rig(redis: Redis, valkey_server: dict[str, Any], prefix: str) -> AsyncIterator[PodRig]:
    async with PodRig(redis, valkey_server, prefix) as rig:
        await rig.prepare(mode="image", runtime="image", runtime_api_port=free_port())
        (rig.folder / "app.py").write_text(textwrap.dedent(APP))
        rig.start()
        yield rig


async def start(rig: PodRig, **environment: str) -> None:
    command = [sys.executable, "-m", "awslambdaric", "app.handler"]
    variables = FUNCTION | {"PYTHONPATH": str(rig.folder)} | environment
    await asyncio.to_thread(rig.start_image, command, **variables)


async def ready(rig: PodRig) -> None:
    await start(rig)
    await rig.wait_for_state("ready")


async def running(rig: PodRig, **given: Any) -> Any:
    """A call that runs."""
    record = await rig.append(call(json.dumps(given).encode(), timeout_ms=30_000))
    await asyncio.to_thread(wait_until, lambda: "started" in rig.program_output(), "the call runs")
    return record


async def answer(rig: PodRig, record: Any) -> tuple[int, Any]:
    frame = await rig.reply_to(record)
    return frame.error_kind, json.loads(frame.payload or b"")


async def test_awslambdaric_answers_calls_and_drains(rig: PodRig) -> None:
    await ready(rig)

    kind, document = await answer(rig, await rig.append(call(b'{"n": 1}')))
    assert (kind, document["event"]) == (ERROR_NONE, {"n": 1})
    assert 0 < document["left"] <= 3000
    kind, document = await answer(rig, await rig.append(call(b'{"raise": "no"}')))
    assert (kind, document["errorType"], document["errorMessage"]) == (ERROR_FUNCTION, "ValueError", "no")
    kind, _ = await answer(rig, await rig.append(call(b'{"n": 2}')))
    assert kind == ERROR_NONE
    assert await rig.drain() == 0
    assert await rig.has_left()


async def test_the_log_has_lambdas_own_lines_and_the_programs_output_is_its_containers(rig: PodRig) -> None:
    await ready(rig)
    await rig.invoke()

    lines = [message.split()[0] for message in rig.messages()]
    assert lines == ["START", "END", "REPORT"]
    assert "started" in rig.program_output()


async def test_a_running_call_is_finished_when_both_containers_are_asked_to_end(rig: PodRig) -> None:
    await ready(rig)
    record = await running(rig, sleep=1)

    rig.runtime.send_signal(signal.SIGTERM)

    assert (await answer(rig, record))[0] == ERROR_NONE
    assert await rig.exit_code() == 0


async def test_a_program_that_connects_for_each_request_is_served(rig: PodRig) -> None:
    await asyncio.to_thread(rig.start_image, ["/bin/sh", "-c", textwrap.dedent(CURL)])
    await rig.wait_for_state("ready")

    answers = [(await rig.invoke(json.dumps(number).encode())).payload for number in range(5)]

    assert answers == [b"0", b"1", b"2", b"3", b"4"]
    assert (await rig.heartbeat())["state"] == "ready"


async def test_a_call_past_its_deadline_is_told_so_and_the_instance_leaves_in_good_order(rig: PodRig) -> None:
    await ready(rig)

    kind, document = await answer(rig, await rig.append(call(b'{"sleep": 20}', timeout_ms=300)))

    assert (kind, document["errorType"]) == (ERROR_FUNCTION, "Sandbox.Timedout")
    assert "Task timed out after 0.30 seconds" in document["errorMessage"]
    assert await rig.exit_code() == 0
    assert await rig.has_left()


async def test_a_running_event_that_is_cancelled_is_told_as_such_and_its_instance_leaves(rig: PodRig) -> None:
    await ready(rig)
    record = await rig.append(event(b'{"sleep": 20}', timeout_ms=30_000))
    await asyncio.to_thread(wait_until, lambda: "started" in rig.program_output(), "the event runs")

    assert (await cancel_event(rig.redis, rig.queue, record.invocation_id)).instance == rig.instance_id
    message = {"command": "cancel", "invocation_id": record.invocation_id.hex()}
    assert await send_control(rig.redis, rig.keys, rig.instance_id, message)

    assert await rig.exit_code() == 0
    assert await rig.has_left()
    [state] = await find_event(rig.redis, rig.queue, [record.invocation_id])
    assert state is not None
    assert (state.status, state.attempts) == ("cancelled", 1)
    assert any(message.endswith("Task was cancelled") for message in rig.messages())


async def test_a_program_that_ends_in_its_second_call_is_noticed_by_its_connection(rig: PodRig) -> None:
    await ready(rig)
    await rig.invoke(b'{"n": 1}')

    kind, document = await answer(rig, await rig.append(call(b'{"exit": 7}', timeout_ms=30_000)))

    assert (kind, document["errorType"]) == (ERROR_FUNCTION, "Runtime.ExitError")
    assert document["errorMessage"].endswith("Runtime exited without providing a reason")
    assert await rig.exit_code() == 0


@pytest.mark.parametrize("given", ['{"exit": 7}', '{"sleep": 1.2, "exit": 7}'])
async def test_a_program_that_ends_in_its_first_call_is_noticed_too(rig: PodRig, given: str) -> None:
    await ready(rig)

    kind, document = await answer(rig, await rig.append(call(given.encode(), timeout_ms=30_000)))

    assert (kind, document["errorType"]) == (ERROR_FUNCTION, "Runtime.ExitError")


async def test_an_unknown_client_that_goes_silent_in_the_midst_of_its_first_call_is_noticed(rig: PodRig) -> None:
    await asyncio.to_thread(wait_until, rig.api_listens, "the Runtime API listens")
    client = http.client.HTTPConnection("127.0.0.1", rig.settings["runtime_api_port"], timeout=WAIT_S)

    def take_and_leave() -> None:
        client.request("GET", "/2018-06-01/runtime/invocation/next")
        client.getresponse().read()
        assert client.sock is not None
        # The answer is read; what a client keeps a connection for is its next request.
        select.select([client.sock], [], [], CLOSES_AT_ONCE_S + 0.1)
        client.close()

    record = await rig.append(call(timeout_ms=30_000))
    await asyncio.to_thread(take_and_leave)

    kind, document = await answer(rig, record)
    assert (kind, document["errorType"]) == (ERROR_FUNCTION, "Runtime.ExitError")


@pytest.mark.parametrize(("exit_code", "words"), [(7, "exit status 7"), (137, "signal: killed")])
async def test_the_controller_tells_how_the_container_ended(rig: PodRig, exit_code: int, words: str) -> None:
    await ready(rig)
    record = await running(rig, sleep=20)

    await send_control(rig.redis, rig.keys, rig.instance_id, {"command": "handlers_ended", "exit_code": exit_code})

    kind, document = await answer(rig, record)
    assert (kind, document["errorType"]) == (ERROR_FUNCTION, "Runtime.ExitError")
    assert document["errorMessage"].endswith(f"Runtime exited with error: {words}")
    assert await rig.exit_code() == 0


async def test_an_idle_program_that_ends_fails_the_instance(rig: PodRig) -> None:
    await ready(rig)

    rig.program.kill()

    assert await rig.exit_code() == 1
    assert "closed its connection and was not back" in rig.errors()


async def test_an_import_that_fails_answers_one_call_and_ends_the_instance_with_the_reason(rig: PodRig) -> None:
    record = await rig.append(call())
    await start(rig, AT_IMPORT="fail")

    kind, document = await answer(rig, record)

    assert (kind, document["errorType"], document["errorMessage"]) == (
        ERROR_FUNCTION,
        "ValueError",
        "cannot be imported",
    )
    assert await rig.exit_code() == 1
    assert "could not be initialised: ValueError: cannot be imported" in rig.errors()


async def test_a_program_that_ends_before_it_ever_asked_fails_with_its_exit_status(rig: PodRig) -> None:
    record = await rig.append(call())
    await start(rig, AT_IMPORT="exit")
    code = await asyncio.to_thread(rig.program.wait, WAIT_S)

    await send_control(rig.redis, rig.keys, rig.instance_id, {"command": "handlers_ended", "exit_code": code})

    kind, document = await answer(rig, record)
    assert (kind, document["errorType"]) == (ERROR_FUNCTION, "Runtime.ExitError")
    assert document["errorMessage"].endswith("exit status 3")
    assert await rig.exit_code() == 1


async def test_an_initialisation_takes_its_time_from_the_containers_start(
    redis: Redis, valkey_server: dict[str, Any], prefix: str
) -> None:
    async with PodRig(redis, valkey_server, prefix) as rig:
        await rig.prepare(mode="image", runtime="image", runtime_api_port=free_port(), init_timeout_ms=300)
        rig.start()
        await rig.wait_for_state("starting")
        record = await rig.append(call())

        await send_control(rig.redis, rig.keys, rig.instance_id, {"command": "handlers_started"})

        kind, document = await answer(rig, record)
        assert (kind, document["errorType"]) == (ERROR_FUNCTION, "Sandbox.Timedout")
        assert "Task timed out after 0.30 seconds" in document["errorMessage"]
        assert await rig.exit_code() == 1


async def test_a_program_that_never_asks_again_is_given_up(rig: PodRig) -> None:
    rig.runtime.kill()
    rig.settings["timeout_ms"] = 300
    await asyncio.to_thread(rig.runtime.wait, WAIT_S)
    rig.start()
    await asyncio.to_thread(wait_until, rig.api_listens, "the Runtime API listens")
    client = http.client.HTTPConnection("127.0.0.1", rig.settings["runtime_api_port"], timeout=WAIT_S)

    def answer_once() -> None:
        client.request("GET", "/2018-06-01/runtime/invocation/next")
        response = client.getresponse()
        response.read()
        request_id = response.headers["Lambda-Runtime-Aws-Request-Id"]
        client.request("POST", f"/2018-06-01/runtime/invocation/{request_id}/response", b"1")
        client.getresponse().read()

    record = await rig.append(call())
    await asyncio.to_thread(answer_once)

    assert (await rig.reply_to(record)).payload == b"1"
    assert await rig.exit_code() == 0
    client.close()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/2020-01-01/extension/register"),
        ("PUT", "/2022-07-01/telemetry"),
        ("PUT", "/2020-08-15/logs"),
        ("GET", "/2018-06-01/runtime/restore/next"),
    ],
)
async def test_what_lambda_has_besides_is_not_there_and_not_worth_a_word(rig: PodRig, method: str, path: str) -> None:
    await asyncio.to_thread(wait_until, rig.api_listens, "the Runtime API listens")
    client = http.client.HTTPConnection("127.0.0.1", rig.settings["runtime_api_port"], timeout=WAIT_S)

    def ask() -> int:
        client.request(method, path, b"{}")
        response = client.getresponse()
        response.read()
        return response.status

    assert await asyncio.to_thread(ask) == 404
    assert rig.errors() == ""
    client.close()
