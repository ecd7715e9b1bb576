"""Async events with a delay, a moment, a group, destinations: what reaches the queue, and that bad input does not."""

import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from forebay_common import limits
from forebay_common.names import id_prefix
from forebay_common.record import FLAG_DESTINATION_FAILURE, FLAG_DESTINATION_SUCCESS, Invocation
from forebay_common.redis_client import command
from support.gateway_process import Deployed, echo
from support.queue_side import records

EVENT = {"x-amz-invocation-type": "Event"}
DELAY_S = 3_600


async def everything(redis: Redis, function: Deployed) -> list[str]:
    """All keys of a function that only a call can have made."""
    queues = {function.queue.sync.encode(), function.queue.async_.encode()}
    found = [key async for key in redis.scan_iter(match=f"{function.queue.keys.base}:*") if key not in queues]
    assert await command(redis, "XLEN", function.queue.sync) == 0
    assert await command(redis, "XLEN", function.queue.async_) == 0
    return [key.decode() for key in found]


async def delayed(redis: Redis, function: Deployed) -> tuple[Invocation, int]:
    """The one event that waits for its time: its record, and when that is (Redis's ms)."""
    invocation_id, score = await command(redis, "ZRANGE", function.queue.delayed, 0, -1, "WITHSCORES")
    place: bytes = await command(redis, "HGET", function.queue.live, invocation_id)
    return Invocation.decode(place[1:]), int(score)


async def redis_ms(redis: Redis) -> float:
    seconds, microseconds = await redis.time()
    return seconds * 1000 + microseconds / 1000


class TestAcceptance:
    async def test_an_event_is_found_by_its_id_from_its_202_on(
        self, function: Deployed, http: httpx.AsyncClient, redis: Redis
    ) -> None:
        response = await http.post(function.path, content=b"1", headers=EVENT)
        invocation_id = uuid.UUID(response.headers["x-amzn-requestid"]).bytes
        ((entry_id, _),) = await command(redis, "XRANGE", function.queue.async_, "-", "+")
        assert await command(redis, "HGET", function.queue.live, invocation_id) == entry_id
        assert "idempotency-replayed" not in response.headers

    async def test_ids_tell_which_function_they_may_belong_to(
        self, function: Deployed, http: httpx.AsyncClient
    ) -> None:
        async with function.served(echo):
            answers = [
                await http.post(function.path, headers=EVENT),
                await http.post(function.path),
                await http.get(f"/fn/{function.name}"),
                await http.get(f"/fn/{function.name}", headers={"prefer": "respond-async"}),
                await http.post(function.path, content=b"no json"),
            ]
        ids = [uuid.UUID(answer.headers["x-amzn-requestid"]) for answer in answers]
        assert {found.bytes[:4] for found in ids} == {id_prefix(function.entry.uid)}
        assert len(set(ids)) == len(ids)
        assert {(found.version, found.variant) for found in ids} == {(4, uuid.RFC_4122)}

    @pytest.mark.parametrize(
        "flags", [0, FLAG_DESTINATION_SUCCESS, FLAG_DESTINATION_SUCCESS | FLAG_DESTINATION_FAILURE]
    )
    async def test_records_say_who_is_told_of_the_end(
        self, function: Deployed, http: httpx.AsyncClient, redis: Redis, flags: int
    ) -> None:
        await function.change(destinations=flags)
        await http.post(function.path, headers=EVENT)
        (record,) = await records(redis, function.queue.async_)
        assert record.flags == flags


class TestTime:
    @pytest.mark.parametrize("header", ["x-forebay-delay", "x-forebay-at"])
    async def test_an_event_for_later_waits_and_counts_its_age_from_then(
        self, function: Deployed, http: httpx.AsyncClient, redis: Redis, header: str
    ) -> None:
        at = (datetime.now(UTC) + timedelta(seconds=DELAY_S)).isoformat()
        before = await redis_ms(redis)
        value = str(DELAY_S) if header == "x-forebay-delay" else at
        response = await http.post(function.path, content=b"7", headers=EVENT | {header: value})
        assert (response.status_code, response.content) == (202, b"")
        assert await command(redis, "XLEN", function.queue.async_) == 0
        record, due_ms = await delayed(redis, function)
        assert record.payload == b"7"
        assert record.invocation_id == uuid.UUID(response.headers["x-amzn-requestid"]).bytes
        assert abs(due_ms - before - DELAY_S * 1000) < 1_000
        assert record.first_accepted_ms == due_ms

    @pytest.mark.parametrize("headers", [{"x-forebay-delay": "0"}, {"x-forebay-at": "2026-01-01T00:00:00Z"}])
    async def test_now_and_the_past_mean_at_once(
        self, function: Deployed, http: httpx.AsyncClient, redis: Redis, headers: dict[str, str]
    ) -> None:
        assert (await http.post(function.path, headers=EVENT | headers)).status_code == 202
        assert await command(redis, "XLEN", function.queue.async_) == 1

    async def test_a_large_payload_outlives_the_delay_too(
        self, function: Deployed, http: httpx.AsyncClient, redis: Redis
    ) -> None:
        payload = b'"' + b"x" * limits.CLAIM_CHECK_BYTES + b'"'
        await http.post(function.path, content=payload, headers=EVENT | {"x-forebay-delay": "1209600"})
        record, _ = await delayed(redis, function)
        key = f"{function.queue.keys.base}:{record.claim}"
        assert await redis.strlen(key) == len(payload)
        assert await redis.ttl(key) > 1_209_600 + limits.ASYNC_AGE_MAX_S

    async def test_fn_takes_them_with_respond_async(
        self, function: Deployed, http: httpx.AsyncClient, redis: Redis
    ) -> None:
        headers = {"prefer": "respond-async", "x-forebay-delay": "60"}
        response = await http.post(f"/fn/{function.name}/x", headers=headers)
        assert response.status_code == 202
        record, _ = await delayed(redis, function)
        assert response.json() == {"invocationId": str(uuid.UUID(bytes=record.invocation_id))}


class TestGroups:
    async def test_events_of_one_group_take_turns_and_others_do_not_wait(
        self, function: Deployed, http: httpx.AsyncClient, redis: Redis
    ) -> None:
        for group, body in (("a", b"1"), ("a", b"2"), ("b", b"3")):
            headers = EVENT | {"x-forebay-group": group}
            assert (await http.post(function.path, content=body, headers=headers)).status_code == 202
        queued = await records(redis, function.queue.async_)
        assert [record.payload for record in queued] == [b"1", b"3"]
        assert len({record.group_hash for record in queued}) == 2
        assert await command(redis, "LLEN", function.queue.group(queued[0].group_hash)) == 1

    async def test_a_group_goes_with_a_delay(self, function: Deployed, http: httpx.AsyncClient, redis: Redis) -> None:
        headers = EVENT | {"x-forebay-group": "a", "x-forebay-delay": "60"}
        assert (await http.post(function.path, headers=headers)).status_code == 202
        record, _ = await delayed(redis, function)
        assert len(record.group_hash) == 16


BAD: list[dict[str, str]] = [
    {"x-forebay-delay": "soon"},
    {"x-forebay-delay": "-1"},
    {"x-forebay-delay": "1209601"},
    {"x-forebay-at": "tomorrow"},
    {"x-forebay-at": "2026-11-26T08:00:00"},
    {"x-forebay-at": "2099-01-01T00:00:00Z"},
    {"x-forebay-delay": "1", "x-forebay-at": "2026-11-26T08:00:00Z"},
    {"x-forebay-group": "a b"},
    {"x-forebay-group": "g" * 257},
    {"idempotency-key": '"'},
    {"idempotency-key": ""},
    {"idempotency-key": "k" * 256},
]


class TestBadInput:
    @pytest.mark.parametrize("headers", BAD, ids=str)
    async def test_malformed_and_out_of_range_headers_are_refused_before_anything_is_written(
        self, function: Deployed, http: httpx.AsyncClient, redis: Redis, headers: dict[str, str]
    ) -> None:
        payload = b'"' + b"x" * limits.CLAIM_CHECK_BYTES + b'"'
        response = await http.post(function.path, content=payload, headers=EVENT | headers)
        assert response.status_code == 400
        assert response.headers["x-amzn-errortype"] == "InvalidParameterValueException"
        assert response.json()["Type"] == "User"
        for name in headers:
            assert name in response.json()["message"].lower()
        over_http = await http.post(
            f"/fn/{function.name}", content=payload, headers={"prefer": "respond-async"} | headers
        )
        assert over_http.status_code == 400
        assert over_http.json() == {"message": response.json()["message"]}
        assert await everything(redis, function) == []

    @pytest.mark.parametrize(
        "headers",
        [{"x-forebay-delay": "1"}, {"x-forebay-at": "2026-11-26T08:00:00Z"}, {"x-forebay-group": "a"}],
        ids=str,
    )
    async def test_what_is_for_events_is_refused_elsewhere(
        self, function: Deployed, http: httpx.AsyncClient, redis: Redis, headers: dict[str, str]
    ) -> None:
        answers = [
            await http.post(function.path, headers=headers),
            await http.post(function.path, headers={"x-amz-invocation-type": "DryRun"} | headers),
            await http.post(f"/fn/{function.name}", headers=headers),
        ]
        assert [answer.status_code for answer in answers] == [400] * 3
        assert all("asynchronous" in answer.json()["message"] for answer in answers)
        assert await everything(redis, function) == []

    async def test_a_header_sent_twice_is_one_value_and_wrong(
        self, function: Deployed, http: httpx.AsyncClient
    ) -> None:
        twice = [("x-forebay-delay", "1"), ("x-forebay-delay", "2")]
        answers = [
            await http.post(function.path, headers=[*EVENT.items(), *twice]),
            await http.post(f"/fn/{function.name}", headers=[("prefer", "respond-async"), *twice]),
        ]
        assert [answer.status_code for answer in answers] == [400, 400]


class TestBound:
    @pytest.fixture
    def event(self, function: Deployed, http: httpx.AsyncClient) -> Any:
        async def send() -> int:
            return (await http.post(function.path, headers=EVENT)).status_code

        return send

    async def test_events_that_wait_for_their_destination_count(
        self, function: Deployed, redis: Redis, event: Any
    ) -> None:
        await function.change(async_queue_max=3)
        for _ in range(3):
            await command(redis, "XADD", function.queue.outbox, "*", "r", "record")
        # The first one samples the lengths with its own write.
        assert [await event() for _ in range(2)] == [202, 429]

    async def test_events_that_wait_for_their_turn_count(
        self, function: Deployed, redis: Redis, http: httpx.AsyncClient, event: Any
    ) -> None:
        await function.change(async_queue_max=3)
        await command(redis, "HSET", function.queue.groups, "n", 2)
        assert [await event() for _ in range(2)] == [202, 429]

    async def test_delayed_ones_and_groups_are_bounded_as_they_come(
        self, function: Deployed, redis: Redis, http: httpx.AsyncClient
    ) -> None:
        await function.change(async_queue_max=4)
        asked = [{"x-forebay-delay": "60"}, {"x-forebay-group": "a"}, {"x-forebay-group": "a"}, {}, {}]
        statuses = [(await http.post(function.path, headers=EVENT | headers)).status_code for headers in asked]
        assert statuses == [202, 202, 202, 202, 429]


async def test_a_burst_of_events_costs_one_command_each(
    function: Deployed, http: httpx.AsyncClient, redis: Redis
) -> None:
    await http.post(function.path, headers=EVENT)
    before = await redis.info("commandstats")
    started = time.monotonic()
    for _ in range(50):
        await http.post(function.path, headers=EVENT)
    took_s = time.monotonic() - started
    after = await redis.info("commandstats")

    def calls(name: str) -> int:
        return int(after[f"cmdstat_{name}"]["calls"]) - int(before.get(f"cmdstat_{name}", {"calls": 0})["calls"])

    assert calls("evalsha") == 50
    assert calls("zcard") <= took_s / 0.05 + 1
