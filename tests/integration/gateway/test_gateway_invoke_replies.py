"""Replies of one and of many frames, claimed results, and frames that belong to nobody or make no reply."""

import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from forebay_common import frames, limits
from forebay_common.frames import KIND_CHUNK, KIND_END, KIND_ERROR, KIND_HEAD, KIND_WHOLE, ReplyFrame
from forebay_common.record import Invocation
from forebay_common.redis_client import command
from support.gateway_process import Deployed, GatewayProcess, echo

Part = tuple[int, int, bytes]
"""A frame's kind, sequence number and payload."""


def assert_answer_lost(response: httpx.Response) -> None:
    """The call has run and its answer is lost: no 5xx, since AWS clients would run it again."""
    assert response.status_code == 200
    assert response.headers["x-amz-function-error"] == "Unhandled"
    assert response.json()["errorType"] == "Runtime.Unknown"


def in_frames(*parts: Part, **last: Any) -> Any:
    """An instance that answers with these frames; `last` are further members of the last one."""

    def answer(record: Invocation) -> Sequence[ReplyFrame]:
        found = [
            ReplyFrame(token=record.reply_token, kind=kind, sequence=sequence, payload=payload)
            for kind, sequence, payload in parts[:-1]
        ]
        kind, sequence, payload = parts[-1]
        members: dict[str, Any] = {"kind": kind, "sequence": sequence, "payload": payload} | last
        return [*found, ReplyFrame(token=record.reply_token, **members)]

    return answer


async def test_a_reply_in_frames_is_put_together(function: Deployed, http: httpx.AsyncClient) -> None:
    parts = [(KIND_HEAD, 0, b'["'), (KIND_CHUNK, 1, b"a" * 200_000), (KIND_CHUNK, 2, b""), (KIND_END, 3, b'"]')]
    async with function.served(in_frames(*parts, version_run="3", duration_us=5)):
        response = await http.post(function.path)
    assert response.status_code == 200
    assert response.content == b'["' + b"a" * 200_000 + b'"]'
    assert response.headers["x-amz-executed-version"] == "3"


@pytest.mark.parametrize("sequence", [0, 2, 7])
async def test_an_error_in_the_middle_is_the_whole_answer_whatever_its_number(
    function: Deployed, http: httpx.AsyncClient, sequence: int
) -> None:
    parts = [(KIND_HEAD, 0, b"half of it"), (KIND_CHUNK, 1, b"more"), (KIND_ERROR, sequence, b'{"errorType": "E"}')]
    async with function.served(in_frames(*parts, error_kind=frames.ERROR_FUNCTION)):
        response = await http.post(function.path)
    assert response.headers["x-amz-function-error"] == "Unhandled"
    assert response.content == b'{"errorType": "E"}'


@pytest.mark.parametrize(
    "parts",
    [
        [(KIND_CHUNK, 0, b"")],
        [(KIND_END, 0, b"")],
        [(KIND_HEAD, 1, b"")],
        [(KIND_WHOLE, 1, b"")],
        [(KIND_HEAD, 0, b""), (KIND_END, 2, b"")],
        [(KIND_HEAD, 0, b""), (KIND_CHUNK, 1, b""), (KIND_CHUNK, 1, b"")],
        [(KIND_HEAD, 0, b""), (KIND_HEAD, 1, b"")],
        [(KIND_HEAD, 0, b""), (KIND_WHOLE, 1, b"")],
        [(KIND_HEAD, 0, b""), (KIND_WHOLE, 0, b"")],
    ],
    ids=[
        "chunk first", "end first", "head not first", "whole not first", "gap", "repeated chunk", "second head",
        "whole after head", "whole in place of a chunk",
    ],
)  # fmt: skip
async def test_frames_out_of_order_are_an_error_at_once(
    function: Deployed, http: httpx.AsyncClient, parts: list[Part]
) -> None:
    before = await function.gateway.metric("forebay_gateway_bad_replies_total")
    async with function.served(in_frames(*parts)):
        response = await http.post(function.path)
    assert_answer_lost(response)
    assert await function.gateway.metric("forebay_gateway_bad_replies_total") == before + 1


async def test_a_cut_frame_is_an_error_at_once(function: Deployed, http: httpx.AsyncClient, redis: Redis) -> None:
    class Cut(ReplyFrame):
        def encode(self) -> bytes:
            return super().encode()[:26]

    async with function.served(lambda record: [Cut(token=record.reply_token, payload=b"1")]):
        assert_answer_lost(await http.post(function.path))


async def test_a_version_that_would_forge_headers_is_refused(function: Deployed, http: httpx.AsyncClient) -> None:
    async with function.served(in_frames((KIND_WHOLE, 0, b"1"), version_run="1\r\nset-cookie: a=b")):
        response = await http.post(function.path)
    assert_answer_lost(response)
    assert "set-cookie" not in response.headers


async def test_frames_that_belong_to_nobody_change_nothing(function: Deployed, http: httpx.AsyncClient) -> None:
    def forging(record: Invocation) -> Sequence[ReplyFrame]:
        real = ReplyFrame(token=record.reply_token, payload=b"1")
        return [ReplyFrame(token=bytes(16), payload=b"2"), real, ReplyFrame(token=record.reply_token, payload=b"3")]

    before = await function.gateway.metric("forebay_gateway_unknown_replies_total")
    async with function.served(forging):
        assert (await http.post(function.path)).content == b"1"
        assert (await http.post(function.path)).content == b"1"
    assert await function.gateway.metric("forebay_gateway_unknown_replies_total") == before + 4


class TestClaims:
    async def answer_under(
        self, function: Deployed, http: httpx.AsyncClient, result: bytes | None, claim: str = "result:r1"
    ) -> httpx.Response:
        """The response to a call whose result lies under a key of the function."""
        if result is not None:
            await function.redis.set(f"{function.queue.keys.base}:{claim}", result, ex=60)
        claimed = in_frames((KIND_WHOLE, 0, b""), payload=None, claim=claim)
        async with function.served(claimed):
            return await http.post(function.path)

    async def test_a_large_result_is_fetched_and_deleted(
        self, function: Deployed, http: httpx.AsyncClient, redis: Redis
    ) -> None:
        result = json.dumps("x" * (limits.REPLY_FRAME_MAX_BYTES + 1)).encode()
        response = await self.answer_under(function, http, result)
        assert response.status_code == 200
        assert response.content == result
        assert not await redis.exists(f"{function.queue.keys.base}:result:r1")

    async def test_the_largest_result_comes_through(self, function: Deployed, http: httpx.AsyncClient) -> None:
        result = b"1" * limits.RESPONSE_MAX_BYTES
        assert (await self.answer_under(function, http, result)).content == result

    async def test_a_result_above_the_quota_is_lambdas_error(self, function: Deployed, http: httpx.AsyncClient) -> None:
        response = await self.answer_under(function, http, b"1" * (limits.RESPONSE_MAX_BYTES + 1))
        assert response.status_code == 200
        assert response.headers["x-amz-function-error"] == "Unhandled"
        assert response.json() == {
            "errorType": "Function.ResponseSizeTooLarge",
            "errorMessage": "Response payload size exceeded maximum allowed payload size (6291556 bytes).",
        }

    async def test_a_result_that_is_gone_is_an_error_at_once(self, function: Deployed, http: httpx.AsyncClient) -> None:
        assert_answer_lost(await self.answer_under(function, http, None))

    async def test_a_reply_told_twice_is_one_answer(
        self, function: Deployed, http: httpx.AsyncClient, redis: Redis
    ) -> None:
        await redis.set(f"{function.queue.keys.base}:result:r1", "1", ex=60)
        claimed = [ReplyFrame(token=b"", payload=None, claim="result:r1")] * 2

        def twice(record: Invocation) -> Sequence[ReplyFrame]:
            for frame in claimed:
                frame.token = record.reply_token
            return claimed

        async with function.served(twice):
            assert (await http.post(function.path)).content == b"1"

    async def test_a_claim_reaches_results_only(self, function: Deployed, http: httpx.AsyncClient) -> None:
        assert_answer_lost(await self.answer_under(function, http, b"the code", claim="spec"))
        assert await function.redis.get(f"{function.queue.keys.base}:spec") == b"the code"

    async def test_claims_among_frames(self, function: Deployed, http: httpx.AsyncClient, redis: Redis) -> None:
        def answer(record: Invocation) -> Sequence[ReplyFrame]:
            token = record.reply_token
            return [
                ReplyFrame(token=token, kind=KIND_HEAD, payload=None, claim="result:a"),
                ReplyFrame(token=token, kind=KIND_CHUNK, sequence=1, payload=b"-"),
                ReplyFrame(token=token, kind=KIND_END, sequence=2, payload=None, claim="result:b"),
            ]

        for name in ("a", "b"):
            await redis.set(f"{function.queue.keys.base}:result:{name}", name * 3, ex=60)
        async with function.served(answer):
            assert (await http.post(function.path)).content == b"aaa-bbb"


async def test_the_process_is_known_while_it_lives(gateway: GatewayProcess, function: Deployed, redis: Redis) -> None:
    keys = function.platform
    async with function.served(echo) as instance, gateway.client() as client:
        await client.post(function.path)
    # Other tests' gateways may be known beside it.
    process = instance.seen[0].reply_address.removeprefix("reply:")
    assert process.encode() in await command(redis, "SMEMBERS", keys.processes)
    assert 0 < await redis.ttl(keys.process(process)) <= limits.HEARTBEAT_TTL_S
