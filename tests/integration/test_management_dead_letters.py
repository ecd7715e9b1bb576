"""/v1/functions/NAME/dead-letters: listing, looking into, running again and purging events that were given up."""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from forebay_common.queue import VersionQueue
from forebay_common.redis_client import command
from support.event_rig import Events, error_of
from support.management import HELLO, Management, management
from support.waiting import wait_until_async

pytestmark = pytest.mark.usefixtures("no_leaked_keys")

PATH = "/v1/functions/hello/dead-letters"
FUNCTION: dict[str, Any] = {
    "runtime": "python3.13",
    "handler": "app.handler",
    "code": {"zip_base64": b64encode(HELLO).decode()},
}


@pytest.fixture
async def api(redis: Redis, prefix: str, tmp_path: Path) -> AsyncIterator[Management]:
    async with management(redis, prefix, tmp_path) as served:
        yield served


@pytest.fixture
async def http(api: Management) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=api.url, timeout=60) as client:
        yield client


@pytest.fixture
async def events(api: Management, http: httpx.AsyncClient) -> Events:
    (await http.put("/v1/functions/hello", json=FUNCTION)).raise_for_status()
    (spec,) = api.registry.by_name()
    return Events(api.redis, VersionQueue(api.registry.keys(spec)), spec.uid)


async def listed(http: httpx.AsyncClient, **query: Any) -> tuple[list[dict[str, Any]], str | None]:
    answer = await http.get(PATH, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["dead_letters"], answer.json()["next"]


async def test_a_function_without_dead_letters_has_an_empty_list(http: httpx.AsyncClient, events: Events) -> None:
    assert await listed(http) == ([], None)


async def test_dead_letters_are_listed_oldest_first_with_their_errors(http: httpx.AsyncClient, events: Events) -> None:
    first = await events.die(b'"a"')
    second = await events.die(b'"b"', reason="EventAgeExceeded")
    found, following = await listed(http)
    assert [letter["invocation_id"] for letter in found] == [first, second]
    assert following is None
    assert found[0] == {
        "id": found[0]["id"],
        "invocation_id": first,
        "reason": "RetriesExhausted",
        "attempts": 1,
        "accepted_at": found[0]["accepted_at"],
        "dead_at": found[0]["dead_at"],
        "error_type": "ValueError",
        "error_message": 'no "a"',
    }
    assert found[0]["accepted_at"] <= found[0]["dead_at"] <= found[1]["dead_at"]


async def test_pages_follow_each_other(http: httpx.AsyncClient, events: Events) -> None:
    idents = [await events.die() for _ in range(5)]
    seen: list[str] = []
    after = ""
    for size in (2, 2, 1):
        page, following = await listed(http, limit=2, after=after)
        assert len(page) == size
        seen += [letter["invocation_id"] for letter in page]
        after = following or ""
    assert seen == idents
    assert after == ""


async def now_ms(redis: Redis) -> int:
    seconds, microseconds = await command(redis, "TIME")
    return int(seconds) * 1000 + int(microseconds) // 1000


async def test_filters_choose_by_reason_and_time(http: httpx.AsyncClient, events: Events) -> None:
    await events.die()
    first_ms = await now_ms(events.redis)

    async def is_later() -> bool:
        return await now_ms(events.redis) > first_ms

    await wait_until_async(is_later, "the second one dies in another millisecond", every_s=0.001)
    aged = await events.die(reason="EventAgeExceeded")
    found, _ = await listed(http, reason="EventAgeExceeded")
    assert [letter["invocation_id"] for letter in found] == [aged]
    second = (await listed(http))[0][1]["dead_at"]
    assert len((await listed(http, since=second))[0]) == 1
    assert len((await listed(http, until="2020-01-01T00:00:00Z"))[0]) == 0
    assert len((await listed(http, since="1577836800.5", until="4102444800"))[0]) == 2


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"}, {"limit": "101"}, {"limit": "x"}, {"after": "x"}, {"after": "1-"}, {"since": "yesterday"},
        {"until": "2026-13-01T00:00:00Z"}, {"since": "2", "until": "1"}, {"reason": "x" * 101},
    ],
)  # fmt: skip
async def test_a_list_that_cannot_be_meant_is_refused(
    http: httpx.AsyncClient, events: Events, query: dict[str, str]
) -> None:
    assert error_of(await http.get(PATH, params=query))[:2] == (400, "invalid")


async def test_one_is_shown_with_its_event_and_error(http: httpx.AsyncClient, events: Events) -> None:
    ident = await events.die(b'{"order": 7}')
    (entry,), _ = await listed(http)
    answer = await http.get(f"{PATH}/{entry['id']}")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.json() == entry | {
        "payload": {"order": 7},
        "payload_base64": None,
        "payload_bytes": 12,
        "error": {"errorType": "ValueError", "errorMessage": 'no {"order": 7}'},
    }
    assert entry["invocation_id"] == ident


async def test_a_large_event_is_shown_whole(http: httpx.AsyncClient, events: Events) -> None:
    payload = json.dumps("x" * 900_000).encode()
    await command(events.redis, "SET", f"{events.queue.keys.base}:body:one", payload, "EX", 3600)
    await events.accept(None, claim="body:one")
    await events.run("dead", payload=b"{}", reason="RetriesExhausted", body=[f"{events.queue.keys.base}:body:one"])
    (entry,), _ = await listed(http)
    found = (await http.get(f"{PATH}/{entry['id']}")).json()
    assert (found["payload"], found["payload_bytes"]) == ("x" * 900_000, len(payload))
    await command(events.redis, "UNLINK", f"{events.queue.keys.base}:body:one")
    gone = (await http.get(f"{PATH}/{entry['id']}")).json()
    assert (gone["payload"], gone["payload_bytes"]) == (None, None)


async def redriven(http: httpx.AsyncClient, **body: Any) -> dict[str, int]:
    answer = await http.post(f"{PATH}/redrive", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, int] = answer.json()
    return found


async def test_one_is_run_again_under_its_id_with_all_attempts(http: httpx.AsyncClient, events: Events) -> None:
    ident = await events.die(b'"again"')
    await events.die()
    (entry, _), _ = await listed(http)
    assert await redriven(http, ids=[entry["id"], entry["id"]]) == {"redriven": 1, "missing": 0}
    found = (await http.get(f"/v1/invocations/{ident}")).json()
    assert (found["status"], found["attempts"], found["reason"]) == ("queued", 0, "")
    await events.run(payload=b'"done"')
    assert (await http.get(f"/v1/invocations/{ident}")).json()["result"] == "done"
    assert len((await listed(http))[0]) == 1


async def test_what_is_gone_is_counted_apart(http: httpx.AsyncClient, events: Events) -> None:
    await events.die()
    (entry,), _ = await listed(http)
    assert await redriven(http, ids=["1-0", entry["id"]]) == {"redriven": 1, "missing": 1}
    assert await redriven(http, ids=[entry["id"]]) == {"redriven": 0, "missing": 1}
    assert await redriven(http, ids=[]) == {"redriven": 0, "missing": 0}


async def test_all_are_run_again_in_batches(http: httpx.AsyncClient, events: Events) -> None:
    for _ in range(230):
        await events.die()
    assert await redriven(http, all=True) == {"redriven": 230, "missing": 0}
    assert await command(events.redis, "XLEN", events.queue.async_) == 230
    assert await listed(http) == ([], None)


async def test_those_that_fit_are_run_again(http: httpx.AsyncClient, events: Events) -> None:
    await events.die()
    aged = await events.die(reason="EventAgeExceeded")
    assert await redriven(http, all=True, until=1_577_836_800) == {"redriven": 0, "missing": 0}
    assert await redriven(http, all=True, reason="EventAgeExceeded", since=0.5) == {"redriven": 1, "missing": 0}
    assert (await http.get(f"/v1/invocations/{aged}")).json()["status"] == "queued"
    assert len((await listed(http))[0]) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"{}", b'{"all": false}', b'{"all": "yes"}', b'{"ids": [1]}', b'{"ids": ["x"]}',
        b'{"ids": ["1-0"], "all": true}', b'{"ids": ["1-0"], "reason": "x"}', b'{"all": true, "since": "yesterday"}',
        b'{"all": true, "since": -1}', b'{"all": true, "since": 1e30}', b'{"all": true, "since": 2, "until": 1}',
        b'{"all": true, "every": 1}', json.dumps({"ids": ["1-0"] * 1001}).encode(), b'{"all": true, "since": ""}x',
    ],
)  # fmt: skip
async def test_a_redrive_that_cannot_be_meant_is_refused_and_moves_nothing(
    http: httpx.AsyncClient, events: Events, body: bytes
) -> None:
    await events.die()
    assert error_of(await http.post(f"{PATH}/redrive", content=body))[:2] == (400, "invalid")
    assert len((await listed(http))[0]) == 1


async def test_one_that_is_malformed_keeps_all_from_being_run(http: httpx.AsyncClient, events: Events) -> None:
    await events.die()
    (entry,), _ = await listed(http)
    answer = await http.post(f"{PATH}/redrive", json={"ids": [entry["id"], "x"]})
    assert error_of(answer)[:2] == (400, "invalid")
    assert len((await listed(http))[0]) == 1


async def test_one_and_all_are_purged_for_good(http: httpx.AsyncClient, events: Events) -> None:
    for _ in range(3):
        await events.die()
    entries, _ = await listed(http)
    assert (await http.delete(f"{PATH}/{entries[1]['id']}")).status_code == 204
    assert error_of(await http.delete(f"{PATH}/{entries[1]['id']}")) == (
        404, "not_found", f"The function hello has no dead letter {entries[1]['id']}, or not any more"
    )  # fmt: skip
    assert (await http.delete(PATH)).json() == {"purged": 2}
    assert await listed(http) == ([], None)
    assert (await http.delete(PATH)).json() == {"purged": 0}


async def test_the_controller_looks_again_after_what_changes_dead_letters(
    http: httpx.AsyncClient, api: Management, events: Events
) -> None:
    async with aclosing(api.redis.pubsub()) as announced:
        await announced.subscribe(api.platform.wake_channel)
        for _ in range(3):
            await events.die()
        entries, _ = await listed(http)
        await redriven(http, ids=[entries[0]["id"]])
        await http.delete(f"{PATH}/{entries[1]['id']}")
        await http.delete(PATH)
        told: list[str] = []
        async with asyncio.timeout(10):
            while len(told) < 3:
                message = await announced.get_message(ignore_subscribe_messages=True, timeout=1)
                if message is not None:
                    told.append(message["data"].decode())
    assert told == [f"default/hello/{events.uid}"] * 3


async def test_what_is_not_there_is_404(http: httpx.AsyncClient, events: Events) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/1-0"), ("DELETE", "/1-0")):
        answer = await http.request(method, f"/v1/functions/nobody/dead-letters{path}")
        assert error_of(answer) == (404, "not_found", "There is no function nobody")
    answer = await http.post("/v1/functions/nobody/dead-letters/redrive", json={"all": True})
    assert error_of(answer)[:2] == (404, "not_found")
    assert error_of(await http.get(f"{PATH}/1-0"))[:2] == (404, "not_found")
    assert error_of(await http.get(f"{PATH}/x"))[:2] == (400, "invalid")
    assert error_of(await http.delete(f"{PATH}/x"))[:2] == (400, "invalid")
    assert error_of(await http.post(f"{PATH}/1-0"))[:2] == (405, "method_not_allowed")


async def test_a_deleted_functions_dead_letters_are_not_a_new_ones(http: httpx.AsyncClient, events: Events) -> None:
    await events.die()
    await http.delete("/v1/functions/hello")
    await http.put("/v1/functions/hello", json=FUNCTION)
    assert await listed(http) == ([], None)


async def test_the_description_has_what_is_served(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    path = "/v1/functions/{name}/dead-letters"
    served = {
        f"{method} {name}" for name, item in document["paths"].items() if name.startswith(path) for method in item
    }
    assert served == {
        f"get {path}", f"delete {path}", f"post {path}/redrive", f"get {path}/{{entry}}", f"delete {path}/{{entry}}",
    }  # fmt: skip
    body = document["paths"][f"{path}/redrive"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"]["ids"]["anyOf"][0]["maxItems"] == 1_000
