"""Idempotency keys: one execution and one answer for a key and a request, at any gateway, whoever leaves or dies."""

import asyncio
import contextlib
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from forebay_common import frames, limits
from forebay_common.frames import ReplyFrame
from forebay_common.record import IDEMPOTENCY, TAG_IDEMPOTENCY, Invocation
from forebay_common.redis_client import command
from support.gateway_process import Deployed, GatewayProcess, echo
from support.queue_side import lease, records
from support.waiting import wait_until_async

EVENT = {"x-amz-invocation-type": "Event"}
REPLAYED = "idempotency-replayed"
LARGE = b'"' + b"x" * (limits.CLAIM_CHECK_BYTES + 1) + b'"'


@pytest.fixture
async def other(
    gateway: GatewayProcess, valkey_server: dict[str, Any], tmp_path: Path
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a second gateway of the same installation."""
    process = GatewayProcess(tmp_path, valkey_server, gateway.prefix)
    process.start()
    async with process.client() as client:
        yield client
    process.end()


async def stored(function: Deployed) -> list[bytes]:
    """What is kept under idempotency keys."""
    keys = [key async for key in function.redis.scan_iter(match=f"{function.queue.keys.base}:once:*")]
    return [await command(function.redis, "GET", key) for key in keys]


async def is_stored(function: Deployed, state: bytes) -> bool:
    return [value[32:33] for value in await stored(function)] == [state]


async def is_queued(function: Deployed, count: int) -> bool:
    return await function.length() == count


class Slow:
    """An instance's answers, each held back until the test lets it go; it counts what it was asked."""

    def __init__(self, payload: bytes = b'"done"') -> None:
        self.runs = 0
        self._payload = payload

    def __call__(self, record: Invocation) -> Sequence[ReplyFrame]:
        self.runs += 1
        return [ReplyFrame(token=record.reply_token, payload=self._payload)]


class TestEvents:
    async def test_a_repeat_is_accepted_as_the_first_one_and_queues_nothing(
        self, function: Deployed, http: httpx.AsyncClient, key: dict[str, str]
    ) -> None:
        first, second = [await http.post(function.path, content=b"1", headers=EVENT | key) for _ in range(2)]
        assert (first.status_code, second.status_code) == (202, 202)
        assert second.headers["x-amzn-requestid"] == first.headers["x-amzn-requestid"]
        assert REPLAYED not in first.headers
        assert second.headers[REPLAYED] == "true"
        assert len(await records(function.redis, function.queue.async_)) == 1

    async def test_it_is_one_event_however_many_ask_at_once_of_whichever_gateway(
        self, function: Deployed, http: httpx.AsyncClient, other: httpx.AsyncClient, key: dict[str, str]
    ) -> None:
        answers = await asyncio.gather(
            *(client.post(function.path, content=b"1", headers=EVENT | key) for client in (http, other) * 15)
        )
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.headers["x-amzn-requestid"] for answer in answers}) == 1
        assert sum(REPLAYED not in answer.headers for answer in answers) == 1
        assert len(await records(function.redis, function.queue.async_)) == 1

    async def test_a_repeat_is_one_also_when_the_event_has_ended(
        self, function: Deployed, http: httpx.AsyncClient, key: dict[str, str]
    ) -> None:
        async with function.served(echo) as instance:
            first = await http.post(function.path, headers=EVENT | key)
            await wait_until_async(lambda: _drained(function), "the event has run")
            second = await http.post(function.path, headers=EVENT | key)
        assert second.headers["x-amzn-requestid"] == first.headers["x-amzn-requestid"]
        assert len(instance.seen) == 1

    async def test_another_payload_is_refused(
        self, function: Deployed, http: httpx.AsyncClient, key: dict[str, str]
    ) -> None:
        await http.post(function.path, content=b"1", headers=EVENT | key)
        response = await http.post(function.path, content=LARGE, headers=EVENT | key)
        assert response.status_code == 422
        assert response.headers["x-amzn-errortype"] == "IdempotencyKeyReusedException"
        assert set(response.json()) == {"Type", "message"}
        assert REPLAYED not in response.headers
        assert len(await records(function.redis, function.queue.async_)) == 1
        await wait_until_async(lambda: _no_bodies(function), "the refused payload is deleted")

    async def test_a_repeat_with_a_large_payload_leaves_the_first_ones(
        self, function: Deployed, http: httpx.AsyncClient, key: dict[str, str]
    ) -> None:
        for _ in range(2):
            assert (await http.post(function.path, content=LARGE, headers=EVENT | key)).status_code == 202
        (record,) = await records(function.redis, function.queue.async_)

        async def only_its_own() -> bool:
            return await _bodies(function) == [f"{function.queue.keys.base}:{record.claim}"]

        await wait_until_async(only_its_own, "the repeat's payload is deleted")

    async def test_another_version_and_another_kind_of_call_are_other_requests(
        self, function: Deployed, http: httpx.AsyncClient, key: dict[str, str]
    ) -> None:
        await http.post(function.path, content=b"1", headers=EVENT | key)
        assert (await http.post(function.path, content=b"1", headers=key)).status_code == 422
        headers = key | {"prefer": "respond-async"}
        over_http = await http.post(f"/fn/{function.name}", content=b"1", headers=headers)
        assert over_http.status_code == 422
        assert list(over_http.json()) == ["message"]

    async def test_other_functions_have_keys_of_their_own(
        self, function: Deployed, http: httpx.AsyncClient, key: dict[str, str]
    ) -> None:
        await http.post(function.path, headers=EVENT | key)
        ((name, _),) = [(key, await function.redis.ttl(key)) async for key in _once_keys(function)]
        assert name.decode().startswith(f"{function.queue.keys.base}:once:")

    async def test_it_stands_for_the_retention_of_the_platform(
        self, function: Deployed, valkey_server: dict[str, Any], tmp_path: Path, key: dict[str, str]
    ) -> None:
        process = GatewayProcess(tmp_path, valkey_server, function.gateway.prefix, idempotency_retention_s=60)
        process.start()
        async with process.client() as client:
            await client.post(function.path, headers=EVENT | key)
        process.end()
        (name,) = [key async for key in _once_keys(function)]
        assert 50 < await function.redis.ttl(name) <= 60
        await function.redis.unlink(name)
        async with function.gateway.client() as client:
            answer = await client.post(function.path, headers=EVENT | key)
            assert REPLAYED not in answer.headers
        (name,) = [key async for key in _once_keys(function)]
        assert await function.redis.ttl(name) > 86_000
        assert len(await records(function.redis, function.queue.async_)) == 2

    async def test_a_group_and_a_delay_are_those_of_the_first(
        self, function: Deployed, http: httpx.AsyncClient, key: dict[str, str]
    ) -> None:
        first = await http.post(function.path, headers=EVENT | key | {"x-forebay-delay": "60", "x-forebay-group": "g"})
        second = await http.post(function.path, headers=EVENT | key)
        assert second.headers["x-amzn-requestid"] == first.headers["x-amzn-requestid"]
        assert await command(function.redis, "ZCARD", function.queue.delayed) == 1
        assert await command(function.redis, "XLEN", function.queue.async_) == 0


class TestCalls:
    async def test_a_repeat_gets_the_first_ones_answer_and_runs_nothing(
        self, function: Deployed, http: httpx.AsyncClient, key: dict[str, str]
    ) -> None:
        async with function.served(echo) as instance:
            first, second = [await http.post(function.path, content=b"[1]", headers=key) for _ in range(2)]
        assert (second.status_code, second.content) == (first.status_code, first.content) == (200, b"[1]")
        assert second.headers["x-amzn-requestid"] == first.headers["x-amzn-requestid"]
        assert second.headers["x-amz-executed-version"] == "$LATEST"
        assert REPLAYED not in first.headers
        assert second.headers[REPLAYED] == "true"
        (record,) = instance.seen
        assert IDEMPOTENCY.unpack(record.optional[TAG_IDEMPOTENCY])[2] == 86_400

    async def test_a_function_error_is_an_answer_too(
        self, function: Deployed, http: httpx.AsyncClient, key: dict[str, str]
    ) -> None:
        def fails(record: Invocation) -> Sequence[ReplyFrame]:
            document = b'{"errorMessage": "no"}'
            return [
                ReplyFrame(
                    token=record.reply_token, payload=document, kind=frames.KIND_ERROR,
                    error_kind=frames.ERROR_FUNCTION, log_tail=b"tail",
                )
            ]  # fmt: skip

        headers = key | {"x-amz-log-type": "Tail"}
        async with function.served(fails) as instance:
            first, second = [await http.post(function.path, headers=headers) for _ in range(2)]
        assert second.content == first.content
        for name in ("x-amz-function-error", "x-amz-log-result", "x-amzn-requestid"):
            assert second.headers[name] == first.headers[name]
        assert len(instance.seen) == 1

    async def test_it_runs_once_however_many_ask_at_once_of_whichever_gateway(
        self, function: Deployed, http: httpx.AsyncClient, other: httpx.AsyncClient, key: dict[str, str]
    ) -> None:
        asked = [
            asyncio.create_task(client.post(function.path, content=b"1", headers=key)) for client in (http, other) * 15
        ]
        await wait_until_async(lambda: is_stored(function, b"p"), "one is accepted")
        slow = Slow()
        async with function.served(slow):
            answers = await asyncio.gather(*asked)
        assert {(answer.status_code, answer.content) for answer in answers} == {(200, b'"done"')}
        assert len({answer.headers["x-amzn-requestid"] for answer in answers}) == 1
        assert sum(REPLAYED not in answer.headers for answer in answers) == 1
        assert slow.runs == 1

    async def test_many_that_wait_ask_redis_as_one(
        self, function: Deployed, http: httpx.AsyncClient, key: dict[str, str]
    ) -> None:
        async def gets() -> int:
            return int((await function.redis.info("commandstats")).get("cmdstat_get", {"calls": 0})["calls"])

        first = asyncio.create_task(http.post(function.path, headers=key))
        await wait_until_async(lambda: is_queued(function, 1), "the first is accepted")
        before, started = await gets(), time.monotonic()
        waiting = [http.post(function.path, headers=key | {"x-forebay-wait-ms": "1500"}) for _ in range(30)]
        answers = await asyncio.gather(*waiting)
        took_s = time.monotonic() - started
        # Each asks once in its script; then one asks for all, after 25, 38, 56, 84, 127, 190 and then each 250 ms.
        assert await gets() - before <= 30 + 7 + took_s / 0.25
        assert {answer.status_code for answer in answers} == {409}
        async with function.served(echo):
            assert (await first).status_code == 200

    async def test_another_payload_is_refused_whether_the_first_waits_or_is_done(
        self, function: Deployed, http: httpx.AsyncClient, key: dict[str, str]
    ) -> None:
        first = asyncio.create_task(http.post(function.path, content=b"1", headers=key))
        await wait_until_async(lambda: is_queued(function, 1), "the first is accepted")
        answers = [await http.post(function.path, content=b"2", headers=key)]
        async with function.served(echo):
            await first
            answers.append(await http.post(function.path, content=b"2", headers=key))
            answers.append(await http.post(function.path, content=b"1", headers=EVENT | key))
        assert [answer.status_code for answer in answers] == [422, 422, 422]

    async def test_a_large_payload_is_stored_once(
        self, function: Deployed, http: httpx.AsyncClient, key: dict[str, str]
    ) -> None:
        async with function.served(Slow()) as instance:
            answers = [await http.post(function.path, content=LARGE, headers=key) for _ in range(3)]
        assert [answer.content for answer in answers] == [b'"done"'] * 3
        assert len(instance.seen) == 1
        await wait_until_async(lambda: _no_bodies(function), "the payloads are deleted")

    @pytest.mark.parametrize("payload", [b'"' + b"x" * limits.RESULT_FRAME_MAX_BYTES + b'"', LARGE])
    async def test_an_answer_that_is_too_large_to_be_kept_is_the_first_callers_only(
        self, function: Deployed, http: httpx.AsyncClient, key: dict[str, str], payload: bytes
    ) -> None:
        claim = f"result:{secrets.token_hex(16)}"
        name = f"{function.queue.keys.base}:{claim}"

        def large(record: Invocation) -> Sequence[ReplyFrame]:
            if payload is LARGE:
                return [ReplyFrame(token=record.reply_token, payload=None, claim=claim)]
            return [ReplyFrame(token=record.reply_token, payload=payload)]

        async def gone() -> bool:
            return await function.redis.exists(name) == 0

        if payload is LARGE:
            await command(function.redis, "SET", name, LARGE, "EX", 60)
        async with function.served(large) as instance:
            first, *repeats = [await http.post(function.path, headers=key) for _ in range(3)]
        assert (first.status_code, first.content) == (200, payload)
        for repeat in repeats:
            assert (repeat.status_code, repeat.headers["x-amzn-errortype"]) == (409, "ResourceConflictException")
            assert first.headers["x-amzn-requestid"] in repeat.json()["message"]
        assert len(instance.seen) == 1
        await wait_until_async(gone, "what lay beside the answer is deleted")
        (value,) = await stored(function)
        assert len(value) < 1024

    async def test_a_repeats_end_leaves_the_first_alone(
        self, function: Deployed, http: httpx.AsyncClient, gateway: GatewayProcess, key: dict[str, str]
    ) -> None:
        first = asyncio.create_task(http.post(function.path, headers=key))
        await wait_until_async(lambda: is_queued(function, 1), "the first is accepted")
        started = time.monotonic()
        waited = await http.post(function.path, headers=key | {"x-forebay-wait-ms": "200"})
        assert time.monotonic() - started < 2.0
        assert (waited.status_code, waited.headers["x-amzn-errortype"]) == (409, "ResourceConflictException")
        assert int(waited.headers["retry-after"]) >= 1
        with contextlib.suppress(httpx.TimeoutException):
            await http.post(function.path, headers=key, timeout=0.2)
        await wait_until_async(lambda: _nobody_else_waits(gateway), "the gateway has noticed")
        assert await is_stored(function, b"p")
        assert await function.length() == 1
        async with function.served(echo) as instance:
            assert (await first).content == b"{}"
        assert len(instance.seen) == 1

    async def test_a_call_taken_back_unstarted_takes_its_key_with_it(
        self, function: Deployed, http: httpx.AsyncClient, key: dict[str, str]
    ) -> None:
        waited = await http.post(function.path, content=LARGE, headers=key | {"x-forebay-wait-ms": "50"})
        assert waited.status_code == 429
        assert await stored(function) == []
        async with function.served(echo):
            again = await http.post(function.path, content=LARGE, headers=key)
        assert (again.content, again.headers.get(REPLAYED)) == (LARGE, None)

    async def test_when_the_first_leaves_unstarted_a_repeat_that_waits_runs_in_its_place(
        self, function: Deployed, http: httpx.AsyncClient, other: httpx.AsyncClient, key: dict[str, str]
    ) -> None:
        headers = key | {"x-forebay-wait-ms": "700"}
        first = asyncio.create_task(http.post(function.path, content=LARGE, headers=headers))
        await wait_until_async(lambda: is_queued(function, 1), "the first is accepted")
        repeats = [
            asyncio.create_task(client.post(function.path, content=LARGE, headers=key))
            for client in (http, other, http, other)
        ]
        assert (await first).status_code == 429
        await wait_until_async(lambda: is_queued(function, 1), "a repeat is accepted")
        async with function.served(Slow()) as instance:
            answers = await asyncio.gather(*repeats)
        assert {(answer.status_code, answer.content) for answer in answers} == {(200, b'"done"')}
        assert len({answer.headers["x-amzn-requestid"] for answer in answers}) == 1
        assert sum(REPLAYED not in answer.headers for answer in answers) == 1
        # It waits for what is left of its own caller's wait.
        (record,) = instance.seen
        assert 25_000 < record.wait_ms < 29_700

    async def test_one_that_was_started_keeps_its_key_when_its_caller_leaves(
        self, function: Deployed, http: httpx.AsyncClient, key: dict[str, str]
    ) -> None:
        first = asyncio.create_task(http.post(function.path, headers=key | {"x-forebay-wait-ms": "300"}))
        await wait_until_async(lambda: is_queued(function, 1), "the first is accepted")
        (entry_id,) = await lease(function.redis, function.queue.sync, "i1")
        assert (await first).headers["x-amz-function-error"] == "Unhandled"
        repeat = asyncio.create_task(http.post(function.path, headers=key))
        await function.answer(entry_id, b'"late"')
        answer = await repeat
        assert (answer.content, answer.headers[REPLAYED]) == (b'"late"', "true")


class TestTheDeathOfAGateway:
    async def test_a_repeat_at_another_gateway_gets_the_answer_of_the_call_that_the_dead_one_had_accepted(
        self,
        function: Deployed,
        http: httpx.AsyncClient,
        valkey_server: dict[str, Any],
        tmp_path: Path,
        key: dict[str, str],
    ) -> None:
        dying = GatewayProcess(tmp_path, valkey_server, function.gateway.prefix)
        dying.start()
        async with dying.client() as client:
            first = asyncio.create_task(client.post(function.path, content=b"1", headers=key))
            await wait_until_async(lambda: is_queued(function, 1), "the first is accepted")
            (entry_id,) = await lease(function.redis, function.queue.sync, "i1")
            repeat = asyncio.create_task(http.post(function.path, content=b"1", headers=key))
            dying.end()
            with pytest.raises(httpx.TransportError):
                await first
        await function.answer(entry_id, b'"ran once"')
        answer = await repeat
        assert (answer.status_code, answer.content, answer.headers[REPLAYED]) == (200, b'"ran once"', "true")

    async def test_an_event_that_the_dead_one_had_accepted_is_not_accepted_again(
        self,
        function: Deployed,
        http: httpx.AsyncClient,
        valkey_server: dict[str, Any],
        tmp_path: Path,
        key: dict[str, str],
    ) -> None:
        dying = GatewayProcess(tmp_path, valkey_server, function.gateway.prefix)
        dying.start()
        async with dying.client() as client:
            first = await client.post(function.path, headers=EVENT | key)
        dying.end()
        second = await http.post(function.path, headers=EVENT | key)
        assert second.headers["x-amzn-requestid"] == first.headers["x-amzn-requestid"]
        assert len(await records(function.redis, function.queue.async_)) == 1


class TestBoto3:
    def client(self, gateway: GatewayProcess) -> Any:
        """A client whose every call has a key, the same for each of its attempts (docs/http.md)."""
        client = boto3.client(
            "lambda",
            endpoint_url=gateway.url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(read_timeout=1, retries={"total_max_attempts": 3, "mode": "standard"}),
        )

        def add_key(params: Any, **_: Any) -> None:
            params["headers"]["Idempotency-Key"] = f'"{uuid.uuid4()}"'

        client.meta.events.register("before-call.lambda.Invoke", add_key)
        return client

    async def test_a_call_that_is_sent_again_after_a_read_timeout_runs_once(
        self, function: Deployed, gateway: GatewayProcess
    ) -> None:
        client = self.client(gateway)
        left = await _left(gateway)

        async def sent_again() -> bool:
            waiting = await gateway.metric("forebay_gateway_waiting_callers")
            return waiting == 1 and await _left(gateway) == left + 1

        invoked = asyncio.create_task(asyncio.to_thread(client.invoke, FunctionName=function.name, Payload=b"{}"))
        await wait_until_async(lambda: is_queued(function, 1), "the call is accepted")
        (entry_id,) = await lease(function.redis, function.queue.sync, "i1")
        await wait_until_async(sent_again, "it is sent again")
        await function.answer(entry_id, b'"once"')
        answer = await invoked
        assert answer["Payload"].read() == b'"once"'
        assert answer["ResponseMetadata"]["HTTPHeaders"][REPLAYED] == "true"
        assert answer["ResponseMetadata"]["RetryAttempts"] >= 1
        assert await function.length() == 0

    async def test_a_key_for_another_request_is_an_error_of_its_own(
        self, function: Deployed, gateway: GatewayProcess
    ) -> None:
        client = gateway.boto()
        client.meta.events.register(
            "before-call.lambda.Invoke", lambda params, **_: params["headers"].update({"Idempotency-Key": '"k"'})
        )
        client.invoke(FunctionName=function.name, InvocationType="Event", Payload=b"1")
        with pytest.raises(ClientError) as error:
            client.invoke(FunctionName=function.name, InvocationType="Event", Payload=b"2")
        assert error.value.response["Error"]["Code"] == "IdempotencyKeyReusedException"
        assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 422


async def _drained(function: Deployed) -> bool:
    length: int = await command(function.redis, "XLEN", function.queue.async_)
    return length == 0


async def _bodies(function: Deployed) -> list[str]:
    return [key.decode() async for key in function.redis.scan_iter(match=f"{function.queue.keys.base}:body:*")]


async def _no_bodies(function: Deployed) -> bool:
    return not await _bodies(function)


def _once_keys(function: Deployed) -> AsyncIterator[bytes]:
    return function.redis.scan_iter(match=f"{function.queue.keys.base}:once:*")


async def _nobody_else_waits(gateway: GatewayProcess) -> bool:
    return await gateway.metric("forebay_gateway_waiting_callers") == 1


async def _left(gateway: GatewayProcess) -> float:
    return await gateway.metric('forebay_gateway_abandoned_calls_total{started="true"}')
