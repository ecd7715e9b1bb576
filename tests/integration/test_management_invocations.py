"""/v1/invocations: what became of async events, waiting for their ends, and calling them off."""

import asyncio
import json
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from redis.asyncio import Redis

from forebay_common.frames import FLAG_PAYLOAD_OMITTED, ReplyFrame
from forebay_common.queue import VersionQueue
from forebay_common.redis_client import command
from forebay_controller import invocation_watch
from forebay_controller.invocation_watch import InvocationWatch
from support import queue_side
from support.event_rig import INSTANCE, Events, error_of
from support.management import HELLO, Management, management
from support.waiting import wait_until_async

pytestmark = pytest.mark.usefixtures("no_leaked_keys")

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
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=api.url, timeout=60, limits=limits) as client:
        yield client


@pytest.fixture
async def events(api: Management, http: httpx.AsyncClient) -> Events:
    (await http.put("/v1/functions/hello", json=FUNCTION)).raise_for_status()
    (spec,) = api.registry.by_name()
    return Events(api.redis, VersionQueue(api.registry.keys(spec)), spec.uid)


async def get(http: httpx.AsyncClient, ident: str, **query: Any) -> dict[str, Any]:
    answer = await http.get(f"/v1/invocations/{ident}", params=query)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def test_an_event_is_followed_from_the_queue_to_its_result(http: httpx.AsyncClient, events: Events) -> None:
    ident = await events.accept()
    queued = await get(http, ident)
    entry_id = await events.lease()
    running = await get(http, ident)
    await events.finish(entry_id, "done", payload=b'{"answer": 42}')
    done = await get(http, ident)
    assert [(found["status"], found["attempts"]) for found in (queued, running, done)] == [
        ("queued", 0), ("running", 1), ("succeeded", 1)
    ]  # fmt: skip
    assert (queued["function"], queued["id"], queued["ended_at"]) == ("hello", ident, None)
    assert (done["result"], done["duration_ms"], done["error"], done["reason"]) == ({"answer": 42}, 5.0, None, "")
    assert done["accepted_at"] == queued["accepted_at"] <= done["ended_at"]


async def test_a_failed_attempt_is_shown_as_delayed_and_the_last_one_as_failed(
    http: httpx.AsyncClient, events: Events
) -> None:
    ident = await events.accept()
    await events.run("retry", delay_ms=60_000, payload=b'{"errorType": "E"}')
    delayed = await get(http, ident)
    assert (delayed["status"], delayed["attempts"]) == ("delayed", 1)
    assert delayed["next_attempt_at"] > delayed["accepted_at"]
    other = await events.die()
    failed = await get(http, other)
    assert (failed["status"], failed["reason"], failed["result"]) == ("failed", "RetriesExhausted", None)
    assert failed["error"] == {"errorType": "ValueError", "errorMessage": 'no {"n": 1}'}


async def test_an_event_for_later_is_shown_with_its_time(http: httpx.AsyncClient, events: Events) -> None:
    found = await get(http, await events.accept(delay_ms=3_600_000))
    assert (found["status"], found["attempts"]) == ("delayed", 0)
    assert found["next_attempt_at"] == found["accepted_at"]


async def test_a_result_is_shown_as_the_function_wrote_it_and_no_page_takes_it_for_more(
    http: httpx.AsyncClient, events: Events
) -> None:
    ident = await events.accept()
    await events.run(payload=b'"\\ud800<script>"')
    answer = await http.get(f"/v1/invocations/{ident}")
    assert b'"result":"\\ud800<script>"' in answer.content
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"


async def test_a_result_that_was_too_large_to_be_kept_is_said_to_be(http: httpx.AsyncClient, events: Events) -> None:
    ident = await events.accept()
    frame = ReplyFrame(token=bytes(16), payload=b"", flags=FLAG_PAYLOAD_OMITTED)
    entry_id = await events.lease()
    await queue_side.finish_async(events.redis, events.queue, entry_id, INSTANCE, "done", frame=frame.encode())
    found = await get(http, ident)
    assert (found["status"], found["result"], found["payload_omitted"]) == ("succeeded", None, True)


async def test_the_path_without_the_version_is_the_same(http: httpx.AsyncClient, events: Events) -> None:
    ident = await events.accept()
    assert (await http.get(f"/invocations/{ident}")).json() == await get(http, ident)
    assert (await http.post(f"/invocations/{ident}/cancel")).json()["status"] == "cancelled"
    assert error_of(await http.get("/invocations/x"))[:2] == (400, "invalid")
    assert error_of(await http.get(f"/invocations/{ident}/nothing"))[:2] == (404, "not_found")


async def test_who_waits_is_answered_soon_after_the_end(http: httpx.AsyncClient, events: Events) -> None:
    ident = await events.accept()
    waiting = asyncio.create_task(waits(http, ident))
    await asyncio.wait({waiting}, timeout=0.3)
    assert not waiting.done()
    await events.run(payload=b"1")
    ended_s = time.monotonic()
    found = await waiting
    assert (found["status"], found["result"]) == ("succeeded", 1)
    assert time.monotonic() - ended_s < 2


async def test_who_waits_for_what_goes_on_is_told_so_in_the_end(http: httpx.AsyncClient, events: Events) -> None:
    ident = await events.accept()
    started_s = time.monotonic()
    assert (await get(http, ident, wait=0.5))["status"] == "queued"
    assert 0.5 <= time.monotonic() - started_s < 3


async def test_an_event_that_has_ended_is_not_waited_for(http: httpx.AsyncClient, events: Events) -> None:
    ident = await events.accept()
    await events.run()
    started_s = time.monotonic()
    assert (await get(http, ident, wait=30))["status"] == "succeeded"
    assert time.monotonic() - started_s < 5


@pytest.mark.parametrize("wait", ["-1", "30.1", "31", "x", "nan", "inf", ""])
async def test_a_wait_out_of_bounds_is_refused(http: httpx.AsyncClient, events: Events, wait: str) -> None:
    answer = await http.get(f"/v1/invocations/{await events.accept()}", params={"wait": wait})
    assert error_of(answer)[:2] == (400, "invalid")
    assert "wait" in answer.text


async def waits(http: httpx.AsyncClient, ident: str) -> dict[str, Any]:
    """Wait for an end, and for a place to wait in: those who only look whether there is one take one too."""
    while True:
        answer = await http.get(f"/v1/invocations/{ident}", params={"wait": "30"})
        if answer.status_code != 429:
            found: dict[str, Any] = answer.json()
            return found


async def test_more_than_may_wait_are_told_to_come_again(
    http: httpx.AsyncClient, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invocation_watch, "WAITING_MAX", 4)
    ident = await events.accept()
    waiting = [asyncio.create_task(waits(http, ident)) for _ in range(4)]

    async def refused() -> bool:
        answer = await http.get(f"/v1/invocations/{ident}", params={"wait": "0.01"})
        return answer.status_code == 429

    await wait_until_async(refused, "as many wait as may")
    answer = await http.get(f"/v1/invocations/{ident}", params={"wait": "10"})
    assert error_of(answer)[:2] == (429, "too_many")
    assert answer.headers["retry-after"] == "1"
    assert (await get(http, ident))["status"] == "queued"
    await events.run()
    assert {found["status"] for found in await asyncio.gather(*waiting)} == {"succeeded"}


async def test_who_leaves_makes_room(http: httpx.AsyncClient, events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invocation_watch, "WAITING_MAX", 4)
    ident = await events.accept()
    waiting = [asyncio.create_task(waits(http, ident)) for _ in range(4)]

    async def refused() -> bool:
        return (await http.get(f"/v1/invocations/{ident}", params={"wait": "0.01"})).status_code == 429

    await wait_until_async(refused, "as many wait as may")
    leaving = waiting.pop()
    leaving.cancel()

    async def admitted() -> bool:
        return not await refused()

    await wait_until_async(admitted, "there is room for another")
    await events.run()
    await asyncio.gather(*waiting)


async def evalsha_calls(redis: Redis) -> int:
    found = await command(redis, "INFO", "commandstats")
    return int(found.get("cmdstat_evalsha", {}).get("calls", 0))


async def test_all_who_wait_share_the_looks(redis: Redis, events: Events) -> None:
    watch = InvocationWatch(redis)
    ident = bytes.fromhex((await events.accept()).replace("-", ""))
    before = await evalsha_calls(redis)
    states = await asyncio.gather(*(watch.until_ended(events.queue, ident, 1) for _ in range(100)))
    assert {state.status for state in states if state is not None} == {"queued"}
    # Ten looks in a second, and at its end one for each waiter.
    assert await evalsha_calls(redis) - before <= 100 + 12
    assert watch.waiting == 0


async def test_events_of_several_functions_are_waited_for_together(
    http: httpx.AsyncClient, api: Management, events: Events
) -> None:
    (await http.put("/v1/functions/other", json=FUNCTION)).raise_for_status()
    spec = api.registry.find("other")
    assert spec is not None
    others = Events(api.redis, VersionQueue(api.registry.keys(spec)), spec.uid)
    idents = [await events.accept(), await others.accept()]
    waiting = [asyncio.create_task(waits(http, ident)) for ident in idents]
    await asyncio.wait(waiting, timeout=0.2)
    await others.run(payload=b'"other"')
    assert (await waiting[1])["result"] == "other"
    assert not waiting[0].done()
    await events.run(payload=b'"hello"')
    assert (await waiting[0])["result"] == "hello"


async def test_who_waits_for_an_event_of_a_function_that_is_deleted_is_told(
    http: httpx.AsyncClient, events: Events
) -> None:
    ident = await events.accept()
    waiting = asyncio.create_task(http.get(f"/v1/invocations/{ident}", params={"wait": 30}))
    await asyncio.wait({waiting}, timeout=0.2)
    await http.delete("/v1/functions/hello")
    assert error_of(await waiting) == (404, "not_found", f"There is no invocation {ident}, or not any more")


async def test_ids_that_nobody_has_are_unknown(http: httpx.AsyncClient, events: Events) -> None:
    never = str(uuid4())
    for answer in (
        await http.get(f"/v1/invocations/{never}"),
        await http.get(f"/v1/invocations/{never}", params={"wait": 30}),
        await http.post(f"/v1/invocations/{never}/cancel"),
    ):
        assert error_of(answer) == (404, "not_found", f"There is no invocation {never}, or not any more")


@pytest.mark.parametrize("ident", ["x", "3f2504e0-4f89-41d3-9a0c-0305e82c330", "3f2504e04f8941d39a0c0305e82c3301"])
async def test_what_is_no_id_is_refused(http: httpx.AsyncClient, ident: str) -> None:
    for answer in (await http.get(f"/v1/invocations/{ident}"), await http.post(f"/v1/invocations/{ident}/cancel")):
        assert error_of(answer)[:2] == (400, "invalid")
        assert "no invocation id" in answer.text


async def test_an_event_that_waits_is_cancelled_and_never_runs(http: httpx.AsyncClient, events: Events) -> None:
    queued, delayed = await events.accept(), await events.accept(delay_ms=60_000)
    for ident in (queued, delayed):
        answer = await http.post(f"/v1/invocations/{ident}/cancel")
        assert answer.status_code == 200
        found = answer.json()
        assert (found["status"], found["attempts"], found["reason"]) == ("cancelled", 0, "Cancelled")
        assert found["ended_at"] is not None
    assert await command(events.redis, "XLEN", events.queue.async_) == 0
    assert await command(events.redis, "ZCARD", events.queue.delayed) == 0


async def test_cancelling_twice_says_the_same(http: httpx.AsyncClient, events: Events) -> None:
    ident = await events.accept()
    first = await http.post(f"/v1/invocations/{ident}/cancel")
    again = await http.post(f"/v1/invocations/{ident}/cancel")
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()


async def test_a_running_event_is_cancelled_by_its_instance(http: httpx.AsyncClient, events: Events) -> None:
    ident = await events.accept()
    await queue_side.start_instance(events.redis, events.queue, INSTANCE)
    entry_id = await events.lease()
    cancelling = asyncio.create_task(http.post(f"/v1/invocations/{ident}/cancel"))

    async def told() -> bool:
        return bool(await events.told())

    await wait_until_async(told, "its instance is told")
    assert (await events.told())[0] == {"command": "cancel", "invocation_id": ident.replace("-", "")}
    assert (await get(http, ident))["reason"] == "Cancelling"
    await events.finish(entry_id, "cancelled", reason="Cancelled")
    answer = await cancelling
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["attempts"]) == ("cancelled", 1)


async def test_a_running_event_that_is_not_ended_in_time_is_answered_with_202(
    http: httpx.AsyncClient, events: Events
) -> None:
    ident = await events.accept()
    await queue_side.start_instance(events.redis, events.queue, INSTANCE)
    await events.lease()
    started_s = time.monotonic()
    answer = await http.post(f"/v1/invocations/{ident}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "running")
    assert 4 < time.monotonic() - started_s < 15
    # It may have been handed to another one meanwhile: who has it is told again.
    assert len(await events.told()) > 1


async def test_an_event_that_has_ended_cannot_be_cancelled(http: httpx.AsyncClient, events: Events) -> None:
    ident = await events.accept()
    await events.run()
    answer = await http.post(f"/v1/invocations/{ident}/cancel")
    assert error_of(answer) == (409, "conflict", f"The invocation {ident} has ended already: it succeeded")
    assert (await get(http, ident))["status"] == "succeeded"


async def test_the_description_has_what_is_served(http: httpx.AsyncClient) -> None:
    paths = (await http.get("/openapi.json")).json()["paths"]
    assert {path for path in paths if "invocations" in path} == {
        "/v1/invocations/{invocation_id}",
        "/v1/invocations/{invocation_id}/cancel",
        "/invocations/{invocation_id}",
        "/invocations/{invocation_id}/cancel",
    }
    responses = paths["/v1/invocations/{invocation_id}"]["get"]["responses"]
    assert responses.keys() == {"200", "400", "404", "429"}
    (wait,) = [
        given for given in paths["/v1/invocations/{invocation_id}"]["get"]["parameters"] if given["name"] == "wait"
    ]
    assert (wait["schema"]["minimum"], wait["schema"]["maximum"]) == (0, 30)
    operations = [item["operationId"] for methods in paths.values() for item in methods.values()]
    assert len(operations) == len(set(operations))
    assert json.dumps(paths)
