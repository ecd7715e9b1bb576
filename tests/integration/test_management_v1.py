"""/v1 over HTTP: what the command line and people's own tools use."""

import asyncio
import hashlib
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from forebay_common import limits
from forebay_common.record import FLAG_DESTINATION_FAILURE, FLAG_DESTINATION_SUCCESS
from forebay_common.redis_client import command
from forebay_common.routing import RoutingEntry
from forebay_controller.interfaces import FunctionStatus
from support.management import HELLO, Management, management, zip_of
from support.waiting import wait_until_async

pytestmark = pytest.mark.usefixtures("no_leaked_keys")

CODE = {"zip_base64": b64encode(HELLO).decode()}
MINIMAL: dict[str, Any] = {"runtime": "python3.11", "handler": "app.handler", "code": CODE}
HELLO_PATH = "/v1/functions/hello"
ASYNC: dict[str, Any] = dict.fromkeys(("max_retries", "max_age_s", "retry_delays_s", "on_success", "on_failure"))


@pytest.fixture
async def api(redis: Redis, prefix: str, tmp_path: Path) -> AsyncIterator[Management]:
    def warning(runtime: str) -> str:
        return "runs on another python" if runtime == "python3.9" else ""

    async with management(redis, prefix, tmp_path, warning=warning) as served:
        yield served


@pytest.fixture
async def http(api: Management) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=api.url, timeout=30) as client:
        yield client


async def put(http: httpx.AsyncClient, name: str = "hello", /, **members: Any) -> httpx.Response:
    if "async_" in members:
        members["async"] = members.pop("async_")
    return await http.put(f"/v1/functions/{name}", json=members)


def error_of(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


async def routed(api: Management) -> RoutingEntry:
    return RoutingEntry.from_json(await command(api.redis, "HGET", api.platform.functions, "default/hello"))


async def test_a_put_creates_and_another_one_updates(http: httpx.AsyncClient, api: Management) -> None:
    created = await put(http, **MINIMAL)
    assert (created.status_code, created.json()["result"]) == (201, "created")
    assert created.json()["state"] == "Active"  # nobody has to wait for it
    updated = await put(http, scale={"max_instances": 3, "concurrency": 2}, allowed_origins=["https://a.example"])
    assert (updated.status_code, updated.json()["result"]) == (200, "updated")
    document = (await http.get(HELLO_PATH)).json()
    assert document["scale"] == {"min_instances": 0, "max_instances": 3, "concurrency": 2, "idle_s": 60.0}
    assert document["handler"] == "app.handler"
    assert document["code"]["size"] == len(HELLO)
    entry = await routed(api)
    assert (entry.max_capacity, entry.allowed_origins) == (6, ["https://a.example"])


async def test_a_document_has_all_settings(http: httpx.AsyncClient) -> None:
    await put(http, **MINIMAL, async_={"max_retries": 1}, timeout_s=40, env={"STAGE": "dev"})
    document = (await http.get(HELLO_PATH)).json()
    assert document["async"] == ASYNC | {"max_retries": 1}
    assert document["env"] == {"STAGE": "dev"}
    assert document["arn"] == "arn:aws:lambda:us-east-1:000000000000:function:hello"
    assert (await http.get("/v1/functions")).json() == {"functions": [document]}


async def test_null_in_async_means_the_platforms_default_again(http: httpx.AsyncClient, api: Management) -> None:
    wanted = {
        "max_retries": 1,
        "max_age_s": 60,
        "retry_delays_s": [1, 0.5],
        "on_success": "stream:done",
        "on_failure": "https://a.example/b",
    }
    await put(http, **MINIMAL, async_=wanted, timeout_s=40)
    assert (await http.get(HELLO_PATH)).json()["async"] == wanted
    assert ((await routed(api)).async_age_ms, (await routed(api)).wait_ms) == (60_000, 50_000)
    assert (await routed(api)).destinations == FLAG_DESTINATION_SUCCESS | FLAG_DESTINATION_FAILURE
    await put(http, async_={"max_age_s": None, "retry_delays_s": None, "on_failure": None})
    assert (await http.get(HELLO_PATH)).json()["async"] == ASYNC | {"max_retries": 1, "on_success": "stream:done"}
    assert (await routed(api)).async_age_ms == 21_600_000
    assert (await routed(api)).destinations == FLAG_DESTINATION_SUCCESS


@pytest.mark.parametrize(
    ("async_", "words"),
    [
        ({"max_retries": 3}, "async.max_retries is 3, 0 to 2 is allowed"),
        ({"retry_delays_s": [1, 2, 3]}, "async.retry_delays_s holds 3 delays, 2 are allowed"),
        ({"retry_delays_s": [-1]}, "async.retry_delays_s is -1.0, 0 to 21600 is allowed"),
        ({"retry_delays_s": "1"}, "async.retry_delays_s: Input should be a valid array"),
        ({"on_failure": "queue:a"}, "async.on_failure: 'queue:a' is no destination"),
        ({"on_failure": "function:hello"}, "async.on_failure: You can't specify the function as a destination"),
        ({"on_success": {"function": "a"}}, "async.on_success: Input should be a valid string"),
        ({"destination": "stream:a"}, "async.destination: Extra inputs are not permitted"),
    ],
)
async def test_async_settings_that_cannot_be_are_refused_and_change_nothing(
    http: httpx.AsyncClient, async_: dict[str, Any], words: str
) -> None:
    await put(http, **MINIMAL)
    before = (await http.get(HELLO_PATH)).json()
    status, code, message = error_of(await put(http, timeout_s=9, async_=async_))
    assert (status, code) == (400, "invalid")
    assert message.startswith(words)
    assert (await http.get(HELLO_PATH)).json() == before


async def test_a_warning_stays_until_the_runtime_changes(http: httpx.AsyncClient) -> None:
    created = await put(http, **MINIMAL | {"runtime": "python3.9"})
    assert created.json()["warnings"] == ["runs on another python"]
    assert (await put(http, timeout_s=5)).json()["warnings"] == ["runs on another python"]
    assert (await put(http, runtime="python3.11")).json()["warnings"] == []


async def test_a_put_supersedes_an_update_that_is_not_through(http: httpx.AsyncClient, api: Management) -> None:
    await put(http, **MINIMAL)
    api.scaling.applies = False
    assert (await put(http, timeout_s=4)).json()["update_status"] == "InProgress"
    assert (await put(http, timeout_s=5)).json()["revision"] == 3
    (uid,) = api.registry.functions()
    await api.registry.update_applied(uid, 2)
    assert (await http.get(HELLO_PATH)).json()["update_status"] == "InProgress"
    await api.registry.update_applied(uid, 3)

    async def applied() -> bool:
        return bool((await http.get(HELLO_PATH)).json()["update_status"] == "Successful")

    await wait_until_async(applied, "the update is applied")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"timeout_s": 0}, "timeout_s is 0, 1 to 900 is allowed"),
        ({"timeout_s": "3"}, "timeout_s: Input should be a valid integer"),
        ({"speed": 9}, "speed: Extra inputs are not permitted"),
        ({"scale": {"max": 9}}, "scale.max: Extra inputs are not permitted"),
        ({"runtime": "nodejs22.x"}, "Value nodejs22.x at 'runtime' failed to satisfy constraint"),
        ({"env": {"AWS_REGION": "x"}}, "reserved keys"),
        ({"code": {"zip_base64": "*"}}, "The code is not base64"),
        ({"code": {"zip_base64": "AAAA"}}, "Could not unzip uploaded file"),
    ],
)
async def test_what_is_refused_changes_nothing(
    http: httpx.AsyncClient, api: Management, members: dict[str, Any], message: str
) -> None:
    status, code, text = error_of(await put(http, **MINIMAL | members))
    assert (status, code) == (400, "invalid")
    assert message in text
    assert await api.keys() == set()
    await put(http, **MINIMAL)
    before = (await http.get(HELLO_PATH)).json()
    assert (await put(http, **{"memory_mb": 512} | members)).status_code == 400
    assert (await http.get(HELLO_PATH)).json() == before


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"env": {"AB": "\\ud800"}}'])
async def test_bodies_that_are_no_json_object_are_refused(http: httpx.AsyncClient, body: bytes) -> None:
    assert error_of(await http.put(HELLO_PATH, content=body))[:2] == (400, "invalid")


async def test_a_new_function_needs_code_and_a_good_name(http: httpx.AsyncClient) -> None:
    assert "a new one needs runtime, handler and code" in error_of(await put(http, timeout_s=3))[2]
    assert "is no function name" in error_of(await put(http, "a.b", **MINIMAL))[2]
    assert error_of(await put(http, "a" * 65, **MINIMAL))[:2] == (400, "invalid")


async def test_sizes_above_the_bounds_are_413(http: httpx.AsyncClient) -> None:
    too_large = b64encode(bytes(limits.ZIP_MAX_BYTES)).decode()
    answer = await put(http, **MINIMAL | {"code": {"zip_base64": too_large}})
    assert error_of(answer) == (413, "too_large", "Zipped size must be smaller than 52428800 bytes")
    answer = await http.put(HELLO_PATH, content=bytes(limits.MANAGEMENT_REQUEST_MAX_BYTES + 1))
    assert error_of(answer) == (413, "too_large", "A request is 70167211 bytes at most")


async def test_a_large_package_does_not_stall_other_requests(http: httpx.AsyncClient) -> None:
    big = zip_of(
        app__py="x", data__bin=hashlib.shake_128(b"seed").digest(24 * limits.MIB), zeros=bytes(100 * limits.MIB)
    )
    body = json.dumps(MINIMAL | {"code": {"zip_base64": b64encode(big).decode()}}).encode()
    uploading = asyncio.create_task(http.put(HELLO_PATH, content=body))
    answered = 0
    while not uploading.done():
        assert (await http.get("/v1/functions")).status_code == 200
        answered += 1
    assert uploading.result().status_code == 201
    # A loop that stands still answers one: the request that was on its way when it stopped.
    assert answered > 2


async def test_a_deleted_function_is_gone(http: httpx.AsyncClient, api: Management) -> None:
    await put(http, **MINIMAL)
    assert (await http.delete(HELLO_PATH)).status_code == 204
    assert len(api.scaling.retired) == 1
    assert await api.keys() == {api.platform.generation}
    for answer in (
        await http.get(HELLO_PATH),
        await http.delete(HELLO_PATH),
        await http.get(f"{HELLO_PATH}/status"),
        await http.get(f"{HELLO_PATH}/logs"),
    ):
        assert error_of(answer) == (404, "not_found", "There is no function hello")


async def test_status_is_what_the_controller_saw_last(http: httpx.AsyncClient, api: Management) -> None:
    await put(http, **MINIMAL)
    (uid,) = api.registry.functions()
    api.scaling.statuses[uid] = FunctionStatus(
        queued=3, in_flight=2, dead_letters=5, starting=1, idle=4, busy=2, reason="burst"
    )
    status = (await http.get(f"{HELLO_PATH}/status")).json()
    assert status == {
        "queued": 3,
        "in_flight": 2,
        "dead_letters": 5,
        "instances": {"starting": 1, "idle": 4, "busy": 2, "draining": 0},
        "reason": "burst",
    }
    assert (await http.get("/v1/status")).json() == {"functions": {"hello": status}}


def log_line(time: str, message: str) -> str:
    return (
        json.dumps({"time": time, "function": "hello", "instance": "i", "invocation_id": "", "message": message}) + "\n"
    )


async def test_logs_of_all_instances_are_merged_by_time(http: httpx.AsyncClient, api: Management) -> None:
    await put(http, **MINIMAL)
    assert (await http.get(f"{HELLO_PATH}/logs")).text == ""
    folder = api.logs_dir / "hello"
    folder.mkdir(parents=True)
    (folder / "one.log").write_text(log_line("01", "first") + log_line("03", "third\n"))
    (folder / "two.log").write_text(log_line("02", "second") + '{"time": "04", "mess')
    assert (await http.get(f"{HELLO_PATH}/logs")).text == "01 first\n02 second\n03 third\n"
    answer = await http.get(f"{HELLO_PATH}/logs", params={"lines": "1", "format": "json"})
    assert answer.text == log_line("03", "third\n")
    assert error_of(await http.get(f"{HELLO_PATH}/logs", params={"lines": "-1"}))[:2] == (400, "invalid")


async def test_a_followed_log_goes_on_until_the_function_is_deleted(http: httpx.AsyncClient, api: Management) -> None:
    await put(http, **MINIMAL)
    file = api.logs_dir / "hello" / "one.log"
    file.parent.mkdir(parents=True)
    file.write_text(log_line("01", "old"))
    async with http.stream("GET", f"{HELLO_PATH}/logs", params={"follow": "true"}) as answer:
        lines = answer.aiter_lines()
        assert await anext(lines) == "01 old"
        with file.open("a") as log:
            log.write(log_line("02", "new"))
        assert await asyncio.wait_for(anext(lines), 10) == "02 new"
        (file.parent / "two.log").write_text(log_line("03", "from another instance"))
        assert await asyncio.wait_for(anext(lines), 10) == "03 from another instance"
        await http.delete(HELLO_PATH)
        assert [line async for line in lines] == []


async def test_paths_that_are_not_there_answer_in_the_same_shape(http: httpx.AsyncClient) -> None:
    assert error_of(await http.get("/v1/nothing"))[:2] == (404, "not_found")
    assert error_of(await http.post(HELLO_PATH))[:2] == (405, "method_not_allowed")


async def test_the_description_knows_the_body_of_a_put(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    body = document["paths"]["/v1/functions/{name}"]["put"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/FunctionInput"}
    assert "zip_base64" in schemas["CodeInput"]["properties"]
    assert "async" in schemas["FunctionInput"]["properties"]
    assert not any(path.startswith("/20") for path in document["paths"])


async def test_an_unforeseen_failure_shows_no_trace(
    http: httpx.AsyncClient, api: Management, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Any:
        raise RuntimeError("a secret of the platform's")

    monkeypatch.setattr(api.registry, "by_name", broken)
    answer = await http.get("/v1/functions")
    assert error_of(answer) == (500, "internal", "The request failed inside the platform")
    answer = await http.get("/2015-03-31/functions")
    assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (500, "ServiceException")
    assert answer.json() == {"Type": "Service", "Message": "The request failed inside the platform"}
