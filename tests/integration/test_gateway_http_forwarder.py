"""Management calls through the gateway, with a controller of the test's own behind a real Unix socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from forebay_gateway.forwarder import Forwarder
from forebay_gateway.lambda_errors import AWAY_RETRY_AFTER_S
from support.web import serving

LIMIT_BYTES = 1_000_000


class Controller:
    """Answers what each path asks of it, and tells what it saw."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.bodies: list[bytes] = []
        self.release = asyncio.Event()
        self.client_left = asyncio.Event()
        self.called = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        self.called.set()
        path = scope["path"]
        if path == "/v1/silent":
            await self._until_left(receive)
        elif path == "/v1/functions/x/logs":
            await self._follow(receive, send)
        elif path == "/v1/breaks":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        else:
            self.bodies.append(await body_of(receive))
            headers = [(b"x-amzn-requestid", b"r"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
            await send({"type": "http.response.start", "status": 201, "headers": headers})
            await send({"type": "http.response.body", "body": json.dumps({"path": path}).encode()})

    async def _follow(self, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one\n", "more_body": True})
        await self.release.wait()
        await send({"type": "http.response.body", "body": b"two\n", "more_body": True})
        await self._until_left(receive)

    async def _until_left(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.client_left.set()


class _CutError(Exception):
    """The request ended before its body did."""


async def body_of(receive: Receive) -> bytes:
    body = b""
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            raise _CutError
        chunk: bytes = message["body"]
        body += chunk
        if not message.get("more_body", False):
            return body


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    return tmp_path / "c.sock"


@pytest.fixture
async def controller(socket_path: Path) -> AsyncIterator[Controller]:
    found = Controller()
    async with serving(found, socket_path):
        yield found


@pytest.fixture
async def client(socket_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    forwarder = Forwarder(str(socket_path), request_max_bytes=LIMIT_BYTES, head_timeout_s=0.5, body_silence_s=0.3)
    async with serving(forwarder) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as found:
        yield found
    await forwarder.close()


async def test_a_call_arrives_as_it_was_sent_and_its_answer_comes_back(
    controller: Controller, client: httpx.AsyncClient
) -> None:
    path = "/2015-03-31/functions/arn%3Aaws%3Alambda/code?Qualifier=%24LATEST&x=a%2Fb"
    answer = await client.put(path, content=b'{"a": 1}', headers={"Authorization": "AWS4 x", "X-Amz-Date": "d"})
    assert answer.status_code == 201
    assert answer.json() == {"path": "/2015-03-31/functions/arn:aws:lambda/code"}
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert answer.headers["x-amzn-requestid"] == "r"
    scope = controller.scopes[0]
    assert scope["method"] == "PUT"
    assert scope["raw_path"] == b"/2015-03-31/functions/arn%3Aaws%3Alambda/code"
    assert scope["query_string"] == b"Qualifier=%24LATEST&x=a%2Fb"
    headers = dict(scope["headers"])
    assert headers[b"host"].startswith(b"127.0.0.1:")
    assert headers[b"authorization"] == b"AWS4 x"
    assert headers[b"x-amz-date"] == b"d"
    assert controller.bodies == [b'{"a": 1}']


async def test_a_body_of_unknown_length_streams_through(controller: Controller, client: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 10_000

    assert (await client.post("/v1/functions", content=pieces())).status_code == 201
    assert controller.bodies == [b"x" * 200_000]


@pytest.mark.parametrize("length", ["declared", "found out"])
async def test_a_body_above_the_limit_is_refused_with_lambdas_error(
    controller: Controller, client: httpx.AsyncClient, length: str
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(LIMIT_BYTES // 10_000 + 1):
            yield b"x" * 10_000

    content = b"x" * (LIMIT_BYTES + 1) if length == "declared" else pieces()
    answer = await client.post("/2015-03-31/functions", content=content)
    assert answer.status_code == 413
    assert answer.headers["x-amzn-errortype"] == "RequestEntityTooLargeException"
    assert answer.json() == {"message": "Request must be smaller than 1000000 bytes for the CreateFunction operation"}
    assert controller.bodies == []


async def test_a_client_that_stops_sending_is_given_up_on_both_sides(
    controller: Controller, client: httpx.AsyncClient
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"{"
        await controller.client_left.wait()

    answer = await client.post("/v1/silent", content=pieces())
    assert answer.status_code == 408
    assert answer.headers["x-amzn-errortype"] == "RequestTimeoutException"
    async with asyncio.timeout(5):
        await controller.client_left.wait()


async def test_a_followed_log_comes_as_it_is_written_and_ends_with_its_reader(
    controller: Controller, client: httpx.AsyncClient
) -> None:
    async with client.stream("GET", "/v1/functions/x/logs?follow=true") as answer:
        lines = answer.aiter_lines()
        assert await anext(lines) == "one"
        controller.release.set()
        assert await anext(lines) == "two"
    await asyncio.wait_for(controller.client_left.wait(), 5)


async def test_a_client_that_leaves_ends_the_controllers_work(
    controller: Controller, client: httpx.AsyncClient
) -> None:
    call = asyncio.create_task(client.get("/v1/silent"))
    await asyncio.wait_for(controller.called.wait(), 5)
    call.cancel()
    await asyncio.wait_for(controller.client_left.wait(), 5)
    await asyncio.wait((call,))


async def test_a_controller_that_says_nothing_is_given_up(controller: Controller, client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/silent")
    assert answer.status_code == 503
    assert answer.headers["x-amzn-errortype"] == "ServiceException"


async def test_a_controller_that_dies_over_a_call_may_have_changed_something(
    socket_path: Path, client: httpx.AsyncClient
) -> None:
    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.close()

    async with await asyncio.start_unix_server(die, socket_path):
        answer = await client.put("/v1/functions/x", content=b"{}")
    assert answer.status_code == 503
    assert "before trying again" in answer.json()["Message"]


async def test_an_answer_that_breaks_off_does_not_look_whole(controller: Controller, client: httpx.AsyncClient) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await client.get("/v1/breaks")


async def test_without_a_controller_the_answer_says_what_to_do(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/functions")
    assert answer.status_code == 503
    assert answer.headers["x-amzn-errortype"] == "ServiceException"
    assert answer.json()["Type"] == "Service"
    assert "nothing was changed" in answer.json()["Message"]
    assert int(answer.headers["retry-after"]) in AWAY_RETRY_AFTER_S


async def test_a_restarted_controller_is_found_again(socket_path: Path, client: httpx.AsyncClient) -> None:
    for _ in range(2):
        async with serving(Controller(), socket_path):
            assert (await client.get("/v1/functions")).status_code == 201
        assert (await client.get("/v1/functions")).status_code == 503
