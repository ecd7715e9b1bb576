"""Bounds on waiting: queues, callers, deadlines, clients that leave; and telling the controller that work arrived."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from forebay_common.frames import ReplyFrame
from forebay_common.keys import GROUP, RECORD_FIELD, PlatformKeys
from forebay_common.record import Invocation
from forebay_common.redis_client import command
from support.gateway_process import AUTHORIZATION, Deployed, GatewayProcess, deploy, echo, remove
from support.queue_side import call, lease
from support.waiting import wait_until_async


def silent(_record: Invocation) -> Sequence[ReplyFrame]:
    """An instance that takes a call and says nothing."""
    return []


@contextlib.asynccontextmanager
async def waiting_call(gateway: GatewayProcess, function: Deployed, body: bytes = b"{}") -> AsyncIterator[Any]:
    """A call on a connection of its own, waiting in the queue; gives the stream to read its answer from."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    before = await function.length()
    writer.write(
        f"POST {function.path} HTTP/1.1\r\nhost: localhost\r\nauthorization: x\r\n"
        f"content-length: {len(body)}\r\n\r\n".encode()
        + body
    )
    await wait_until_async(lambda: _longer(function, before), "the call is queued")
    try:
        yield reader, writer
    finally:
        writer.close()


async def _longer(function: Deployed, than: int) -> bool:
    return await function.length() > than


class TestWaitOver:
    async def test_a_call_nobody_took_is_taken_back(self, function: Deployed, http: httpx.AsyncClient) -> None:
        started = time.monotonic()
        response = await http.post(function.path, headers={"x-forebay-wait-ms": "200"})
        took = time.monotonic() - started
        assert response.status_code == 429
        assert response.headers["x-amzn-errortype"] == "TooManyRequestsException"
        assert int(response.headers["retry-after"]) >= 1
        assert response.json()["Reason"] == "ConcurrentInvocationLimitExceeded"
        assert 0.2 <= took < 1.0
        assert await function.length() == 0

    async def test_a_large_payload_goes_with_its_call(
        self, function: Deployed, http: httpx.AsyncClient, redis: Redis
    ) -> None:
        payload = b'"' + b"x" * 300_000 + b'"'
        response = await http.post(function.path, content=payload, headers={"x-forebay-wait-ms": "100"})
        assert response.status_code == 429
        keys = [key async for key in redis.scan_iter(match=f"{function.queue.keys.base}:body:*")]
        assert keys == []

    async def test_a_call_that_was_taken_may_still_run_so_no_client_is_made_to_send_it_again(
        self, function: Deployed, http: httpx.AsyncClient
    ) -> None:
        async with function.served(silent):
            response = await http.post(function.path, headers={"x-forebay-wait-ms": "200"})
        assert response.status_code == 200
        assert response.headers["x-amz-function-error"] == "Unhandled"
        assert response.json()["errorType"] == "Runtime.Unknown"
        assert "may still be running" in response.json()["errorMessage"]

    async def test_the_wait_is_the_functions_own_rule_unless_less_is_asked(
        self, function: Deployed, http: httpx.AsyncClient
    ) -> None:
        await function.change(wait_ms=5_000)
        async with function.served(echo) as instance:
            for asked in ("2000", "60000"):
                await http.post(function.path, headers={"x-forebay-wait-ms": asked})
        assert [record.wait_ms for record in instance.seen] == [2_000, 5_000]


class TestClientsThatLeave:
    async def test_an_unstarted_call_is_dropped(self, function: Deployed, gateway: GatewayProcess) -> None:
        async with waiting_call(gateway, function) as (_, writer):
            writer.close()
            await wait_until_async(lambda: _empty(function), "the call is taken back")

    async def test_a_started_call_stays_with_its_instance(self, function: Deployed, gateway: GatewayProcess) -> None:
        async with waiting_call(gateway, function) as (_, writer):
            await lease(function.redis, function.queue.sync, "i1")
            writer.close()
            await wait_until_async(lambda: _outcome(gateway, function, "left"), "the gateway has noticed")
        assert await function.length() == 1

    async def test_leaving_while_the_body_is_read_queues_nothing(
        self, function: Deployed, gateway: GatewayProcess, http: httpx.AsyncClient
    ) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        head = f"POST {function.path} HTTP/1.1\r\nhost: localhost\r\nauthorization: x\r\ncontent-length: 100\r\n\r\n"
        writer.write(head.encode() + b'{"half": ')
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        async with function.served(echo) as instance:
            # A later call's answer shows that the gateway has been past the one that left.
            assert (await http.post(function.path)).status_code == 200
        assert len(instance.seen) == 1

    async def test_pipelined_requests_are_answered_in_turn(self, function: Deployed, gateway: GatewayProcess) -> None:
        request = f"POST {function.path} HTTP/1.1\r\nhost: localhost\r\nauthorization: x\r\ncontent-length: 1\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        async with function.served(echo), asyncio.timeout(10):
            writer.write((request + "1" + request + "2").encode())
            for expected in (b"1", b"2"):
                await reader.readuntil(b"\r\n\r\n")
                assert await reader.readexactly(1) == expected
        writer.close()


async def _empty(function: Deployed) -> bool:
    return await function.length() == 0


async def _outcome(gateway: GatewayProcess, function: Deployed, outcome: str) -> bool:
    async with gateway.client() as client:
        text = (await client.get("/metrics")).text
    label = f'forebay_invocations_total{{function="{function.name}",namespace="default",outcome="{outcome}"}}'
    return any(line.startswith(label) and not line.endswith(" 0.0") for line in text.splitlines())


class TestQueueBounds:
    async def test_a_full_sync_queue_throttles_and_does_nothing(
        self, function: Deployed, gateway: GatewayProcess, http: httpx.AsyncClient
    ) -> None:
        await function.change(capacity=1, max_capacity=1, sync_queue_max=2)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(3):  # one that a handler could hold, two that wait
                await stack.enter_async_context(waiting_call(gateway, function))
            response = await http.post(function.path)
            assert response.status_code == 429
            assert response.headers["x-amzn-errortype"] == "TooManyRequestsException"
            assert int(response.headers["retry-after"]) >= 1
            assert response.json() == {
                "Type": "User",
                "message": "Rate Exceeded.",
                "Reason": "ConcurrentInvocationLimitExceeded",
            }
            assert await function.length() == 3
            async with function.served(echo):
                await wait_until_async(lambda: _empty(function), "the queue is drained")
                assert (await http.post(function.path)).status_code == 200

    async def test_what_other_gateways_queued_counts(self, function: Deployed, http: httpx.AsyncClient) -> None:
        await function.change(capacity=0, sync_queue_max=5)
        for _ in range(10):
            await command(function.redis, "XADD", function.queue.sync, "*", RECORD_FIELD, call().encode())
        # The first call samples the queue's length with its own write.
        assert (await http.post(function.path, headers={"x-forebay-wait-ms": "50"})).status_code == 429
        started = time.monotonic()
        assert (await http.post(function.path, headers={"x-forebay-wait-ms": "5000"})).status_code == 429
        assert time.monotonic() - started < 1.0
        assert await function.length() == 10

    async def test_a_full_async_queue_throttles(self, function: Deployed, http: httpx.AsyncClient) -> None:
        await function.change(async_queue_max=3)
        event = {"x-amz-invocation-type": "Event"}
        statuses = [(await http.post(function.path, headers=event)).status_code for _ in range(4)]
        assert statuses == [202, 202, 202, 429]
        refused = await http.post(function.path, headers=event)
        assert refused.json()["Reason"] == "FunctionInvocationRateLimitExceeded"
        assert await command(function.redis, "XLEN", function.queue.async_) == 3

    async def test_events_that_wait_for_a_retry_count_for_the_bound(
        self, function: Deployed, http: httpx.AsyncClient
    ) -> None:
        await function.change(async_queue_max=3)
        for number in range(3):
            await command(function.redis, "ZADD", function.queue.delayed, 4e12, f"record {number}")
        event = {"x-amz-invocation-type": "Event"}
        # The first one samples the lengths with its own write.
        assert [(await http.post(function.path, headers=event)).status_code for _ in range(2)] == [202, 429]

    async def test_callers_in_one_process_are_bounded(
        self, valkey_server: dict[str, Any], redis: Redis, tmp_path: Path
    ) -> None:
        platform = PlatformKeys("tbounded")
        process = GatewayProcess(tmp_path, valkey_server, platform.prefix, waiting_max=1)
        function = await deploy(process, redis, "f")
        try:
            process.start()
            async with waiting_call(process, function), process.client() as client:
                response = await client.post(function.path)
                assert response.status_code == 429
                assert response.json()["Reason"] == "CallerRateLimitExceeded"
        finally:
            process.end()
            await remove(function)


class TestWakes:
    @pytest.fixture
    async def wakes(self, redis: Redis, platform_keys: PlatformKeys, function: Deployed) -> AsyncIterator[Any]:
        """Counts the wakes for the test's function that come within a time."""
        function_name = function.queue.keys.base.partition("{")[2].rstrip("}")
        async with redis.pubsub() as channel:
            await channel.subscribe(platform_keys.wake_channel)

            async def heard(within_s: float) -> int:
                count = 0
                end = time.monotonic() + within_s
                while (left := end - time.monotonic()) > 0:
                    message = await channel.get_message(ignore_subscribe_messages=True, timeout=left)
                    count += message is not None and message["data"].decode() == function_name
                return count

            yield heard

    async def test_a_call_that_no_handler_awaits_wakes_the_controller(
        self, function: Deployed, http: httpx.AsyncClient, wakes: Any
    ) -> None:
        await function.change(capacity=0, max_capacity=4)
        await http.post(function.path, headers={"x-forebay-wait-ms": "20"})
        assert await wakes(0.3) == 1

    async def test_a_burst_wakes_at_intervals_and_once_more_at_its_end(
        self, function: Deployed, http: httpx.AsyncClient, wakes: Any
    ) -> None:
        await function.change(capacity=0, max_capacity=4)
        wait = {"x-forebay-wait-ms": "20"}
        await asyncio.gather(*(http.post(function.path, headers=wait) for _ in range(30)))
        assert 2 <= await wakes(0.5) <= 15

    @pytest.mark.parametrize(("capacity", "max_capacity"), [(4, 8), (1, 1)], ids=["idle handlers", "at the maximum"])
    async def test_nobody_is_woken_for_nothing(
        self, function: Deployed, http: httpx.AsyncClient, wakes: Any, capacity: int, max_capacity: int
    ) -> None:
        await function.change(capacity=capacity, max_capacity=max_capacity)
        wait = {"x-forebay-wait-ms": "20"}
        await asyncio.gather(*(http.post(function.path, headers=wait) for _ in range(3)))
        assert await wakes(0.2) == 0

    async def test_events_wake_always(self, function: Deployed, http: httpx.AsyncClient, wakes: Any) -> None:
        event = {"x-amz-invocation-type": "Event"}
        for _ in range(5):
            await http.post(function.path, headers=event)
        assert 1 <= await wakes(0.3) <= 3


async def test_a_page_without_authorization_uses_no_place_in_the_queue(
    function: Deployed, gateway: GatewayProcess
) -> None:
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        assert (await client.post(function.path)).status_code == 403
        assert await command(function.redis, "XLEN", function.queue.sync) == 0
        assert (await client.post("/nothing", headers=AUTHORIZATION)).status_code == 503


async def test_the_group_sees_nothing_of_calls_taken_back(function: Deployed, http: httpx.AsyncClient) -> None:
    await http.post(function.path, headers={"x-forebay-wait-ms": "30"})
    pending = await command(function.redis, "XPENDING", function.queue.sync, GROUP)
    assert pending["pending"] == 0
