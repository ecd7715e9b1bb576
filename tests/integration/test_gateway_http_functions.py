"""`/fn` over real HTTP through a real gateway process and a real queue."""

import json
import secrets
import uuid
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from forebay_common import frames
from forebay_common.keys import PlatformKeys
from forebay_common.record import KIND_ASYNC
from support.gateway_process import GatewayProcess
from support.http_functions import http_function
from support.waiting import wait_until_async

KEYS = PlatformKeys(f"t{secrets.token_hex(4)}")


@pytest.fixture(scope="module")
def gateway(valkey_server: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    process = GatewayProcess(tmp_path_factory.mktemp("gateway"), valkey_server, KEYS.prefix)
    process.start()
    yield process
    process.end()


@pytest.fixture
async def client(gateway: GatewayProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url) as found:
        yield found


def result(value: Any) -> bytes:
    return json.dumps(value).encode()


async def test_a_string_is_printed_without_its_quotes(redis: Redis, client: httpx.AsyncClient) -> None:
    async with http_function(redis, KEYS, lambda _: result("Hello World")) as hello:
        answer = await client.get(hello.path)
    assert (answer.status_code, answer.text) == (200, "Hello World")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-amzn-requestid"] == str(uuid.UUID(bytes=hello.invoked[0].invocation_id))


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
async def test_any_method_reaches_the_handler(redis: Redis, client: httpx.AsyncClient, method: str) -> None:
    async with http_function(redis, KEYS, lambda event: result(event["requestContext"]["http"])) as app:
        answer = await client.request(method, f"{app.path}/a%20b/c?x=1", content=b"")
    assert answer.json()["method"] == method
    assert answer.json()["path"] == "/a%20b/c"


async def test_the_whole_request_is_in_the_event(redis: Redis, client: httpx.AsyncClient) -> None:
    body = bytes(range(256))
    headers = {"X-Amzn-Trace-Id": "Root=1-x", "Cookie": "a=1; b=2", "Content-Type": "image/png"}
    async with http_function(redis, KEYS, lambda _: result(None)) as app:
        answer = await client.post(f"{app.path}/up?k=1&k=2", content=body, headers=headers)
    event = app.events[0]
    assert answer.text == "null"
    assert b64decode(event["body"]) == body
    assert event["isBase64Encoded"] is True
    assert event["cookies"] == ["a=1", "b=2"]
    assert event["queryStringParameters"] == {"k": "1,2"}
    assert event["headers"]["x-forwarded-port"] == str(client.base_url.port)
    assert event["requestContext"]["requestId"] == answer.headers["x-amzn-requestid"]
    assert app.invoked[0].optional[0x80] == b"Root=1-x"


async def test_status_headers_cookies_and_binary_body_come_back(redis: Redis, client: httpx.AsyncClient) -> None:
    formatted = {
        "statusCode": 201,
        "headers": {"X-Made": "yes", "Content-Type": "image/png"},
        "cookies": ["a=1", "b=2; Path=/"],
        "body": "/wA=",
        "isBase64Encoded": True,
    }
    async with http_function(redis, KEYS, lambda _: result(formatted)) as app:
        answer = await client.get(app.path)
    assert (answer.status_code, answer.content, answer.headers["x-made"]) == (201, b"\xff\x00", "yes")
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2; Path=/"]


async def test_head_has_the_headers_of_get_and_no_body(redis: Redis, client: httpx.AsyncClient) -> None:
    async with http_function(redis, KEYS, lambda _: result("Hello")) as app:
        answer = await client.head(app.path)
        assert (answer.content, answer.headers["content-length"]) == (b"", "5")
        assert (await client.get(app.path)).text == "Hello"


@pytest.mark.parametrize("kind", [frames.ERROR_FUNCTION, frames.ERROR_INSTANCE_LOST])
async def test_a_failed_function_is_lambdas_502(redis: Redis, client: httpx.AsyncClient, kind: int) -> None:
    failure = {"payload": b'{"errorMessage": "secret"}', "error_kind": kind}
    async with http_function(redis, KEYS, lambda _: failure) as app:
        answer = await client.get(app.path)
    assert (answer.status_code, answer.text) == (502, "Internal Server Error")
    assert answer.headers["x-amz-function-error"] == "Unhandled"
    assert uuid.UUID(answer.headers["x-amzn-requestid"])


@pytest.mark.parametrize(
    "broken",
    [
        {"statusCode": 99},
        {"statusCode": 200, "headers": {"X": "a\r\nSet-Cookie: evil=1"}},
        {"statusCode": 200, "body": "%", "isBase64Encoded": True},
    ],
)
async def test_an_answer_that_is_none_is_a_502_too(
    redis: Redis, client: httpx.AsyncClient, broken: dict[str, Any]
) -> None:
    async with http_function(redis, KEYS, lambda _: result(broken)) as app:
        answer = await client.get(app.path)
    assert (answer.status_code, answer.text) == (502, "Internal Server Error")
    assert "set-cookie" not in answer.headers


async def test_a_function_that_cannot_start_says_why_and_when_to_try_again(
    redis: Redis, client: httpx.AsyncClient
) -> None:
    failure = {"payload": b"no module named app", "error_kind": frames.ERROR_CANNOT_START}
    async with http_function(redis, KEYS, lambda _: failure) as app:
        answer = await client.get(app.path)
    assert (answer.status_code, answer.json()) == (502, {"message": "no module named app"})
    assert int(answer.headers["retry-after"]) >= 1


async def test_a_call_that_nobody_takes_in_time_is_a_429(redis: Redis, client: httpx.AsyncClient) -> None:
    expired = {"payload": b"", "error_kind": frames.ERROR_EXPIRED}
    async with http_function(redis, KEYS, lambda _: expired) as app:
        answer = await client.get(app.path)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"
    assert answer.json() == {"message": "Rate Exceeded."}


@pytest.mark.parametrize("path", ["/fn/nobody", "/fn/nobody/x", "/fn", "/fn/", "/fn/a.b", "/fn/%00", "/fn/%2e%2e/v1"])
async def test_what_names_no_function_is_a_404(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert answer.status_code == 404
    assert list(answer.json()) == ["message"]


async def test_respond_async_is_accepted_and_runs(redis: Redis, client: httpx.AsyncClient) -> None:
    async with http_function(redis, KEYS, lambda _: result(None)) as app:
        answer = await client.post(f"{app.path}/later", content=b"{}", headers={"Prefer": "Respond-Async; x, wait=1"})

        async def ran() -> bool:
            return bool(app.invoked)

        await wait_until_async(ran, "the event runs")
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "respond-async"
    assert answer.json() == {"invocationId": str(uuid.UUID(bytes=app.invoked[0].invocation_id))}
    assert app.invoked[0].kind == KIND_ASYNC
    assert app.events[0]["rawPath"] == "/later"


@pytest.mark.parametrize(
    ("size_bytes", "headers"), [(6_291_457, {}), (1_048_577, {"Prefer": "respond-async"})], ids=["sync", "async"]
)
@pytest.mark.parametrize("length", ["declared", "found out"])
async def test_a_body_above_the_quota_is_a_413(
    redis: Redis, client: httpx.AsyncClient, size_bytes: int, headers: dict[str, str], length: str
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(size_bytes // 65_536 + 1):
            yield b"x" * 65_536

    content = b"x" * size_bytes if length == "declared" else pieces()
    async with http_function(redis, KEYS, lambda _: result(None)) as app:
        answer = await client.post(app.path, content=content, headers=headers)
    assert answer.status_code == 413
    assert app.invoked == []


async def test_metrics_tell_of_functions_that_exist(redis: Redis, client: httpx.AsyncClient) -> None:
    cold = {"payload": b"1", "flags": frames.FLAG_COLD, "init_us": 20_000, "duration_us": 3_000}
    async with http_function(redis, KEYS, lambda _: cold) as app:
        await client.get(app.path)
        await client.get("/fn/nobody-at-all")
        text = (await client.get("/metrics")).text
    samples = {
        (sample.name, sample.labels.get("outcome") or sample.labels.get("le")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("function") == app.name and sample.labels["namespace"] == "default"
    }
    assert samples["forebay_invocations_total", "ok"] == 1
    assert samples["forebay_invocations_total", "function_error"] == 0
    assert samples["forebay_throttles_total", None] == 0
    assert samples["forebay_in_flight", None] == 0
    assert samples["forebay_latency_seconds_count", None] == 1
    assert samples["forebay_duration_seconds_bucket", "0.0025"] == 0
    assert samples["forebay_duration_seconds_bucket", "0.005"] == 1
    assert samples["forebay_duration_seconds_bucket", "+Inf"] == 1
    assert samples["forebay_cold_start_seconds_sum", None] == 0.02
    assert "nobody-at-all" not in text
