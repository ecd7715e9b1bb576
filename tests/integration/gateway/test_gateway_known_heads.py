"""Requests that begin like one before them are answered as if each had been parsed, whatever comes with them."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from forebay_common.frames import ReplyFrame
from forebay_common.record import Invocation
from forebay_common.redis_client import command
from support.gateway_process import Deployed, GatewayProcess, echo, remove
from support.waiting import wait_until_async

REPEATS = 3


class Client:
    """A connection on which whole answers are read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[bytes, bytes]:
        """The next answer's head and body."""
        async with asyncio.timeout(10):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
            )
            return head, await self._reader.readexactly(length)

    async def body(self) -> bytes:
        """The body of the next answer, which is a good one."""
        head, body = await self.answer()
        assert head.startswith(b"HTTP/1.1 200 "), head
        return body

    async def ended(self) -> bool:
        """Whether the server closes the connection."""
        async with asyncio.timeout(10):
            return await self._reader.read() == b""


@pytest.fixture
async def client(gateway: GatewayProcess) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    yield Client(reader, writer)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


def request(function: Deployed, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {function.path} HTTP/1.1", "host: localhost", "authorization: x", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def fn_request(function: Deployed, body: bytes, *headers: str, method: str = "POST") -> bytes:
    lines = [f"{method} /fn/{function.name}/a?b=c HTTP/1.1", "host: localhost", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


async def events(client: Client, *requests: bytes, pieces: bool) -> list[dict[str, Any]]:
    """What a handler gets for requests, without what differs each time; in pieces, each of them is parsed."""
    found = []
    for whole in requests:
        client.send(whole[:20] if pieces else whole)
        if pieces:
            await client.writer.drain()
            await asyncio.sleep(0.02)  # so that it is not in the same read
            client.send(whole[20:])
        event = json.loads(await client.body())
        for name in ("requestId", "time", "timeEpoch"):
            assert event["requestContext"].pop(name)
        found.append(event)
    return found


async def waits(function: Deployed, calls: int = 1) -> bool:
    return await function.length() == calls


async def test_each_gets_its_own_answer(function: Deployed, client: Client) -> None:
    async with function.served(echo):
        for number in range(REPEATS):
            client.send(request(function, b"%d" % number))
            assert await client.body() == b"%d" % number


async def test_another_connection_knows_it_too(function: Deployed, client: Client, gateway: GatewayProcess) -> None:
    async with function.served(echo):
        client.send(request(function, b"1"))
        assert await client.body() == b"1"
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        other = Client(reader, writer)
        other.send(request(function, b"2"))
        assert await other.body() == b"2"
        writer.close()


async def test_several_in_one_write_are_answered_in_their_order(function: Deployed, client: Client) -> None:
    async with function.served(echo):
        client.send(request(function, b"0"))
        assert await client.body() == b"0"
        client.send(b"".join(request(function, b"%d" % number) for number in range(1, 6)))
        assert [await client.body() for _ in range(5)] == [b"1", b"2", b"3", b"4", b"5"]


async def test_one_that_comes_before_the_answer_waits_for_it(function: Deployed, client: Client) -> None:
    async with function.served(echo):
        client.send(request(function, b"0"))
        assert await client.body() == b"0"
    client.send(request(function, b"1"))
    await wait_until_async(partial(waits, function), "the call is in the queue")
    client.send(request(function, b"22")[:30])
    await asyncio.sleep(0.02)  # so that it is not in the same read
    client.send(request(function, b"22")[30:] + request(function, b"3"))
    async with function.served(echo):
        assert [await client.body() for _ in range(3)] == [b"1", b"22", b"3"]


@pytest.mark.parametrize("cut", [10, -3], ids=["in the head", "in the body"])
async def test_one_that_comes_in_pieces_is_put_together(function: Deployed, client: Client, cut: int) -> None:
    async with function.served(echo):
        for _ in range(REPEATS):
            whole = request(function, b'{"a": 1}')
            client.send(whole[:cut])
            await client.writer.drain()
            await asyncio.sleep(0.02)  # so that it is not in the same read
            client.send(whole[cut:])
            assert await client.body() == b'{"a": 1}'


async def test_a_body_that_is_no_json_is_refused_each_time(function: Deployed, client: Client) -> None:
    async with function.served(echo):
        for body in (b"[1]", b"nay", b"[2]"):
            client.send(request(function, body))
            head, answer = await client.answer()
            assert head.startswith(b"HTTP/1.1 400 " if body == b"nay" else b"HTTP/1.1 200 ")
            assert answer == body or b"InvalidRequestContentException" in head


async def test_what_a_header_asks_for_holds_for_each(function: Deployed, client: Client) -> None:
    for _ in range(REPEATS):
        client.send(request(function, b"1", "x-amz-invocation-type: DryRun"))
        async with asyncio.timeout(10):
            head = await client._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 204 ")
    for number in range(REPEATS):
        client.send(request(function, b"1", "x-amz-invocation-type: Event"))
        head, _ = await client.answer()
        assert head.startswith(b"HTTP/1.1 202 ")
        assert await command(function.redis, "XLEN", function.queue.async_) == number + 1


async def test_a_connection_that_shall_be_closed_is(function: Deployed, client: Client) -> None:
    async with function.served(echo):
        client.send(request(function, b"1", "connection: close"))
        assert await client.body() == b"1"
        assert await client.ended()


async def test_a_function_that_fails_meanwhile_is_not_called(function: Deployed, client: Client) -> None:
    async with function.served(echo):
        client.send(request(function, b"1"))
        assert await client.body() == b"1"
    await function.change(state="Failed")
    client.send(request(function, b"1"))
    head, _ = await client.answer()
    assert head.startswith((b"HTTP/1.1 502 ", b"HTTP/1.1 409 ")), head


async def test_a_client_that_leaves_takes_its_call_back(function: Deployed, client: Client) -> None:
    async with function.served(echo):
        client.send(request(function, b"1"))
        assert await client.body() == b"1"
    client.send(request(function, b"1"))
    await wait_until_async(partial(waits, function), "the call is in the queue")
    client.writer.close()
    await wait_until_async(partial(waits, function, 0), "the call is taken back")


@pytest.mark.parametrize(
    "bodies",
    [[b"first", b"other"], [b"\xff\xfe", b"text!"], [b"", b""], ["ä".encode(), b'"\\']],
    ids=["text", "no text", "nothing", "what JSON escapes"],
)
@pytest.mark.parametrize("content_type", ["text/plain", "image/png"])
async def test_a_handler_gets_the_same_event_of_a_parsed_request(
    function: Deployed, client: Client, bodies: list[bytes], content_type: str
) -> None:
    headers = (f"content-type: {content_type}", "cookie: a=1; b=2", "x-amz-date: 20261126T120000Z")
    async with function.served(echo):
        requests = [fn_request(function, body, *headers) for body in bodies]
        parsed = await events(client, *requests, pieces=True)
        assert await events(client, *requests, *requests, pieces=False) == parsed * 2


async def test_a_handler_sees_what_differs_between_requests(function: Deployed, client: Client) -> None:
    async with function.served(echo):
        dates = [f"20261126T12000{second}Z" for second in range(REPEATS)]
        requests = [fn_request(function, b"x", f"x-amz-date: {date}") for date in dates]
        assert [event["headers"]["x-amz-date"] for event in await events(client, *requests, pieces=False)] == dates


async def test_each_answer_has_an_id_and_the_time_of_its_own(function: Deployed, client: Client) -> None:
    async with function.served(echo):
        ids = set()
        for _ in range(REPEATS):
            client.send(fn_request(function, b"x"))
            head, body = await client.answer()
            context = json.loads(body)["requestContext"]
            assert f"x-amzn-requestid: {context['requestId']}".encode() in head
            assert abs(context["timeEpoch"] / 1000 - time.time()) < 60
            ids.add(context["requestId"])
        assert len(ids) == REPEATS


async def test_a_functions_own_answer_goes_out_as_it_says(function: Deployed, client: Client) -> None:
    def teapot(record: Invocation) -> list[ReplyFrame]:
        answer = {"statusCode": 418, "headers": {"X-A": "b"}, "cookies": ["c=d"], "body": "short"}
        return [ReplyFrame(token=record.reply_token, payload=json.dumps(answer).encode())]

    async with function.served(teapot):
        for _ in range(REPEATS):
            client.send(fn_request(function, b"x"))
            head, body = await client.answer()
            assert head.startswith(b"HTTP/1.1 418 ")
            assert b"\r\nx-a: b\r\n" in head
            assert b"\r\nset-cookie: c=d\r\n" in head
            assert body == b"short"


async def test_allowed_origins_that_come_later_are_told_of(function: Deployed, client: Client) -> None:
    async with function.served(echo):
        for allowed in ([], ["https://app.example"]):
            await function.change(allowed_origins=allowed)
            client.send(fn_request(function, b"x"))
            head, _ = await client.answer()
            assert (b"\r\nvary: Origin\r\n" in head) == bool(allowed)


async def test_a_page_is_kept_out_whatever_was_known(function: Deployed, client: Client) -> None:
    async with function.served(echo):
        client.send(fn_request(function, b"x"))
        await client.body()
        for _ in range(REPEATS):
            client.send(fn_request(function, b"x", "origin: https://evil.example"))
            head, _ = await client.answer()
            assert head.startswith(b"HTTP/1.1 403 ")


async def test_a_function_that_is_gone_is_not_found(function: Deployed, client: Client) -> None:
    async with function.served(echo):
        client.send(fn_request(function, b"x"))
        await client.body()
    await remove(function)

    async def gone() -> bool:
        client.send(fn_request(function, b"x"))
        head, _ = await client.answer()
        return head.startswith(b"HTTP/1.1 404 ")

    await wait_until_async(gone, "it is not found")
