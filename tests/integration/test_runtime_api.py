"""The Runtime API: its answers to the letter, and awslambdaric, unmodified, as a client of it."""

import asyncio
import base64
import http.client
import io
import json
import stat
import sys
import textwrap
import zipfile
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from forebay_common.events import cancel_event, find_event
from forebay_common.frames import ERROR_FUNCTION, ERROR_NONE, FLAG_COLD
from forebay_common.limits import RESPONSE_MAX_BYTES
from forebay_common.queue import send_control
from forebay_common.record import FLAG_LOG_TAIL
from forebay_handlers import wire
from support.queue_side import call, event
from support.runtime_rig import WAIT_S, PlayedHandlers, RuntimeRig
from support.waiting import wait_until_async

SIGKILL = 9
API = "/2018-06-01/runtime"


@pytest.fixture
async def rig(redis: Redis, valkey_server: dict[str, Any], prefix: str) -> AsyncIterator[RuntimeRig]:
    async with RuntimeRig(redis, valkey_server, prefix) as rig:
        yield rig


class Program:
    """A program in a slot, played by the test: its requests to the Runtime API."""

    def __init__(self, handlers: PlayedHandlers) -> None:
        kind, body = handlers.next_order()
        assert kind == wire.SPAWN
        self.slot, token = wire.SPAWN_BODY.unpack_from(body)
        self.process = handlers.handler(self.slot, token, ready=False)
        self.http = http.client.HTTPConnection(body[wire.SPAWN_BODY.size :].decode(), timeout=WAIT_S)
        handlers.played.callback(self.http.close)

    async def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[http.client.HTTPResponse, bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}

        def exchange() -> tuple[http.client.HTTPResponse, bytes]:
            self.http.request(method, API + path, body, named)
            response = self.http.getresponse()
            return response, response.read()

        return await asyncio.to_thread(exchange)

    async def next(self) -> tuple[str, http.client.HTTPResponse, bytes]:
        response, body = await self.ask("GET", "/invocation/next")
        assert response.status == 200
        return response.headers["Lambda-Runtime-Aws-Request-Id"], response, body

    async def post(self, path: str, body: bytes = b"", **headers: str) -> tuple[int, str]:
        response, answer = await self.ask("POST", path, body, **headers)
        return response.status, json.loads(answer).get("errorType", "")


@pytest.fixture
async def handlers(rig: RuntimeRig) -> PlayedHandlers:
    await rig.prepare(mode="bootstrap", runtime="provided.al2023")
    rig.start()
    return await rig.play_handlers()


async def test_next_carries_the_call_and_its_answer_comes_back(rig: RuntimeRig, handlers: PlayedHandlers) -> None:
    program = Program(handlers)
    record = await rig.append(call(b'{"n": NaN}', client_context=b'{\n"custom": {}}', optional={0x80: b"Root=1-a-b"}))

    ident, response, body = await program.next()
    status, _ = await program.post(f"/invocation/{ident}/response", b"not even JSON")

    frame = (await rig.replies(1))[record.reply_token]
    assert body == b'{"n": NaN}'
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Lambda-Runtime-Invoked-Function-Arn"] == rig.settings["arn"]
    assert response.headers["Lambda-Runtime-Trace-Id"] == "Root=1-a-b"
    assert response.headers["Lambda-Runtime-Client-Context"] == '{ "custom": {}}'
    assert int(response.headers["Lambda-Runtime-Deadline-Ms"]) > 1_700_000_000_000
    assert status == 202
    assert (frame.payload, frame.error_kind, frame.flags) == (b"not even JSON", ERROR_NONE, FLAG_COLD)
    assert ident.replace("-", "") == record.invocation_id.hex()


async def test_an_error_is_passed_on_as_it_is(rig: RuntimeRig, handlers: PlayedHandlers) -> None:
    program = Program(handlers)
    record = await rig.append(call())
    ident, _, _ = await program.next()

    cause = {"Lambda_Runtime_Function_XRay_Error_Cause": "c" * 60_000}
    status, _ = await program.post(f"/invocation/{ident}/error", b'{"errorType": "T"}', **cause)

    frame = (await rig.replies(1))[record.reply_token]
    assert status == 202
    assert (frame.error_kind, frame.payload) == (ERROR_FUNCTION, b'{"errorType": "T"}')


async def test_steps_out_of_order_are_refused_and_change_nothing(rig: RuntimeRig, handlers: PlayedHandlers) -> None:
    program = Program(handlers)
    record = await rig.append(call())
    ident, _, _ = await program.next()
    other = "00000000-0000-0000-0000-000000000000"

    answers = [
        await program.post(f"/invocation/{other}/response", b"1"),
        await program.post(f"/invocation/{other}/error", b"1"),
        await program.post("/init/error", b"{}"),
        await program.post("/invocation/x/y/z", b""),
        (await program.ask("GET", "/invocation/next"))[0].status,
        await program.post(f"/invocation/{ident}/response", b"1"),
        await program.post(f"/invocation/{ident}/response", b"2"),
        (await program.ask("GET", "/nothing"))[0].status,
    ]

    assert answers == [
        (400, "InvalidRequestID"),
        (400, "InvalidRequestID"),
        (403, "InvalidStateTransition"),
        (404, "UnknownResource"),
        403,
        (202, ""),
        (403, "InvalidStateTransition"),
        404,
    ]
    assert (await rig.replies(1))[record.reply_token].payload == b"1"


async def test_a_result_above_the_quota_is_413_and_the_next_call_is_served(
    rig: RuntimeRig, handlers: PlayedHandlers
) -> None:
    program = Program(handlers)
    record = await rig.append(call())
    ident, _, _ = await program.next()

    status, error_type = await program.post(f"/invocation/{ident}/response", b"x" * (RESPONSE_MAX_BYTES + 1))

    frame = (await rig.replies(1))[record.reply_token]
    assert (status, error_type) == (413, "RequestEntityTooLarge")
    assert json.loads(frame.payload or b"")["errorType"] == "Function.ResponseSizeTooLarge"
    await rig.append(call())
    ident, _, _ = await program.next()
    assert (await program.post(f"/invocation/{ident}/response", b"3"))[0] == 202


async def test_a_streamed_answer_is_taken_whole_with_the_error_in_its_trailers(
    rig: RuntimeRig, handlers: PlayedHandlers
) -> None:
    program = Program(handlers)
    head = "Lambda-Runtime-Function-Response-Mode: streaming\r\nTransfer-Encoding: chunked\r\nHost: x\r\n\r\n"
    error = base64.b64encode(b'{"errorType": "Late"}').decode()
    trailers = f"Lambda-Runtime-Function-Error-Type: Late\r\nLambda-Runtime-Function-Error-Body: {error}\r\n"
    payloads = []
    for end in ("", trailers):
        record = await rig.append(call())
        ident, _, _ = await program.next()
        sock = program.http.sock
        sock.sendall(f"POST {API}/invocation/{ident}/response HTTP/1.1\r\n{head}".encode())
        for piece in ("3\r\nabc\r\n", "2\r\nde\r\n", f"0\r\n{end}\r\n"):
            sock.sendall(piece.encode())
        answer = await asyncio.to_thread(sock.recv, 65536)
        assert answer.startswith(b"HTTP/1.1 202")
        payloads.append((await rig.replies(1))[record.reply_token].payload)

    assert payloads == [b"abcde", b'{"errorType": "Late"}']


async def test_an_init_error_answers_the_first_call(rig: RuntimeRig, handlers: PlayedHandlers) -> None:
    program = Program(handlers)

    status, _ = await program.post("/init/error", b'{"errorType": "Runtime.NoSuchHandler"}')
    handlers.exited(handlers.next_kill(), SIGKILL)

    assert status == 202
    frame = await rig.invoke()
    assert (frame.error_kind, frame.payload) == (ERROR_FUNCTION, b'{"errorType": "Runtime.NoSuchHandler"}')


async def test_a_program_that_is_ended_at_its_deadline_is_replaced(rig: RuntimeRig, handlers: PlayedHandlers) -> None:
    program = Program(handlers)
    record = await rig.append(call(timeout_ms=200))
    await program.next()
    handlers.exited(handlers.next_kill(), SIGKILL)

    assert b"timed out after 0.20" in ((await rig.replies(1))[record.reply_token].payload or b"")
    successor = Program(handlers)
    record = await rig.append(call(b"again"))
    ident, _, body = await successor.next()
    await successor.post(f"/invocation/{ident}/response", body)
    assert (await rig.replies(1))[record.reply_token].payload == b"again"


async def test_the_program_of_a_cancelled_event_is_ended_and_replaced(
    rig: RuntimeRig, handlers: PlayedHandlers
) -> None:
    program = Program(handlers)
    record = await rig.append(event(timeout_ms=60_000))
    await program.next()

    assert (await cancel_event(rig.redis, rig.queue, record.invocation_id)).instance == rig.instance_id
    message = {"command": "cancel", "invocation_id": record.invocation_id.hex()}
    assert await send_control(rig.redis, rig.keys, rig.instance_id, message)
    handlers.exited(await asyncio.to_thread(handlers.next_kill), SIGKILL)

    async def has_ended() -> bool:
        [state] = await find_event(rig.redis, rig.queue, [record.invocation_id])
        return state is not None and state.status == "cancelled"

    await wait_until_async(has_ended, "it ends as cancelled")
    await asyncio.to_thread(Program, handlers)


async def test_bytes_that_are_no_http_end_only_their_connection(rig: RuntimeRig, handlers: PlayedHandlers) -> None:
    program = Program(handlers)
    host, port = program.http.host, program.http.port
    _, writer = await asyncio.open_connection(host, port)
    writer.write(b"\x00\xff" * 50 + b"\r\n\r\n")
    await writer.drain()
    writer.close()

    record = await rig.append(call(b"1"))
    ident, _, body = await program.next()
    await program.post(f"/invocation/{ident}/response", body)
    assert (await rig.replies(1))[record.reply_token].payload == b"1"


APP = """
    import os
    def handler(event, context):
        if event.get("do") == "raise":
            raise ValueError("x" * 50_000)
        if event.get("do") == "spin":
            while True:
                pass
        if event.get("do") == "exit":
            os._exit(7)
        if event.get("do") == "print":
            print("from awslambdaric")
        left = context.get_remaining_time_in_millis()
        return {"event": event, "id": context.aws_request_id, "left": left, "ctx": context.client_context.custom}
"""


def program_package() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("app.py", textwrap.dedent(APP))
        bootstrap = zipfile.ZipInfo("bootstrap")
        bootstrap.external_attr = (stat.S_IFREG | 0o755) << 16
        archive.writestr(bootstrap, f'#!/bin/sh\nexec {sys.executable} -m awslambdaric "$_HANDLER"\n')
    return data.getvalue()


async def test_awslambdaric_runs_a_handler_through_every_way_a_call_can_go(rig: RuntimeRig) -> None:
    env = {
        "PATH": "/usr/bin:/bin",
        "_HANDLER": "app.handler",
        "AWS_LAMBDA_FUNCTION_NAME": "fn",
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
        "LAMBDA_TASK_ROOT": str(rig.code_dir),
    }
    await rig.run(program_package(), mode="bootstrap", runtime="provided.al2023", env=env)

    async def ask(given: dict[str, Any], timeout_ms: int = 3000) -> tuple[int, Any, bytes]:
        context = b'{"custom": {"a": "\xc3\xa4"}}'
        changes = {"client_context": context, "timeout_ms": timeout_ms, "flags": FLAG_LOG_TAIL}
        frame = await rig.invoke(json.dumps(given).encode(), **changes)
        return frame.error_kind, json.loads(frame.payload or b""), frame.log_tail

    kind, answer, tail = await ask({"do": "print"})
    assert kind == ERROR_NONE
    assert answer["event"] == {"do": "print"}
    assert 0 < answer["left"] <= 3000
    assert b"\nfrom awslambdaric\n" in tail
    assert b"Max Memory Used: 0 MB" not in tail
    kind, answer, _ = await ask({"do": "raise"})
    assert (kind, answer["errorType"], len(answer["errorMessage"])) == (ERROR_FUNCTION, "ValueError", 50_000)
    kind, answer, _ = await ask({"do": "exit"})
    assert (kind, answer["errorType"]) == (ERROR_FUNCTION, "Runtime.ExitError")
    assert answer["errorMessage"].endswith("exit status 7")
    kind, answer, _ = await ask({"do": "spin"}, timeout_ms=1500)
    assert (kind, answer["errorType"]) == (ERROR_FUNCTION, "Sandbox.Timedout")
    kind, answer, _ = await ask({"n": 1})
    assert (kind, answer["event"]) == (ERROR_NONE, {"n": 1})
    assert await rig.drain() == 0
