"""Delays, groups and idempotency keys on the whole platform: run by real instances, asked for over real HTTP."""

import json
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from support.ledger import Ledger
from support.platform import Platform, kill
from support.waiting import wait_until

EVENT = {"x-amz-invocation-type": "Event"}
WRITER = """
import os, time, urllib.request
def write(mark, event):
    path = "/".join((os.environ["LEDGER"], event["group"], str(event["n"]), mark))
    urllib.request.urlopen(urllib.request.Request(path, b"", method="POST"))
def handler(event, context):
    write("start", event)
    time.sleep(event.get("s", 0))
    write("end", event)
    if event.get("fail"):
        raise ValueError("no")
"""
ONCE = """
import time, uuid
def handler(event, context):
    time.sleep(event.get("s", 0))
    if event.get("fail"):
        raise ValueError(str(uuid.uuid4()))
    return {"made": str(uuid.uuid4()), "filler": "x" * event.get("size", 0)}
"""


@pytest.fixture
def client(platform: Platform) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=platform.url, headers={"authorization": "test"}, timeout=60) as found:
        yield found


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with Ledger() as opened:
        yield opened


@pytest.fixture
def writer(platform: Platform, ledger: Ledger) -> str:
    """The path of a function that writes its starts and ends into the ledger."""
    name = f"writer-{secrets.token_hex(3)}"
    platform.create(name, WRITER, Environment={"Variables": {"LEDGER": ledger.url}}, Timeout=10)
    platform.scale(name, max_instances=3)
    return f"/2015-03-31/functions/{name}/invocations"


@pytest.fixture
def once(platform: Platform) -> str:
    """A function that makes something new each time it runs."""
    name = f"once-{secrets.token_hex(3)}"
    platform.create(name, ONCE, Timeout=20)
    return name


def key() -> dict[str, str]:
    return {"idempotency-key": f'"{secrets.token_hex(8)}"'}


def send(client: httpx.Client, path: str, document: dict[str, Any], headers: dict[str, str]) -> httpx.Response:
    answer = client.post(path, content=json.dumps(document), headers=headers)
    assert answer.status_code in {200, 202}, answer.text
    return answer


def test_events_of_a_group_run_one_after_another_and_a_stuck_one_holds_up_its_group_alone(
    client: httpx.Client, writer: str, ledger: Ledger
) -> None:
    for n in range(4):
        for group in ("stuck", "b", "c"):
            event = {"group": group, "n": n, "s": 0.05, "fail": group == "stuck" and n == 0}
            send(client, writer, event, EVENT | {"x-forebay-group": group})
    wait_until(lambda: ledger.entries()["stuck/3/end"] == 1, "all have run", 30)
    written = list(ledger.entries())
    for group in ("stuck", "b", "c"):
        expected = [f"{group}/{n}/{mark}" for n in range(4) for mark in ("start", "end")]
        assert [entry for entry in written if entry.startswith(f"{group}/")] == expected
    # It was tried three times, with pauses of half a second and a second, before its group went on without it.
    assert ledger.entries()["stuck/0/end"] == 3
    assert written.index("b/3/end") < written.index("stuck/1/start")
    assert written.index("c/3/end") < written.index("stuck/1/start")


def test_events_run_at_their_time(client: httpx.Client, writer: str, ledger: Ledger) -> None:
    send(client, writer, {"group": "warm", "n": 0}, EVENT)
    wait_until(lambda: ledger.entries()["warm/0/end"] == 1, "an instance is there")
    started = time.monotonic()
    at = (datetime.now(UTC) + timedelta(seconds=1.5)).isoformat()
    send(client, writer, {"group": "delay", "n": 0}, EVENT | {"x-forebay-delay": "1.5"})
    send(client, writer, {"group": "at", "n": 0}, EVENT | {"x-forebay-at": at})
    send(client, writer, {"group": "now", "n": 0}, EVENT)
    seen: dict[str, float] = {}

    def all_seen() -> bool:
        for group in ("delay", "at", "now"):
            if ledger.entries()[f"{group}/0/start"]:
                seen.setdefault(group, time.monotonic() - started)
        return len(seen) == 3

    wait_until(all_seen, "all have run")
    assert seen["now"] <= min(seen["at"], seen["delay"])
    # The gateway's clock and Redis's count in milliseconds.
    assert seen["at"] >= 1.45
    assert seen["delay"] >= 1.45


def test_a_repeated_call_is_answered_as_the_first_one_was(platform: Platform, client: httpx.Client, once: str) -> None:
    path = f"/2015-03-31/functions/{once}/invocations"
    for document in ({"n": 1}, {"size": 60_000}, {"fail": True}):
        headers = key()
        answers = [send(client, path, document, headers) for _ in range(3)]
        assert len({answer.content for answer in answers}) == 1
        assert len({answer.headers["x-amzn-requestid"] for answer in answers}) == 1
        assert [answer.headers.get("idempotency-replayed") for answer in answers] == [None, "true", "true"]
        assert {"x-amz-function-error" in answer.headers for answer in answers} == {"fail" in document}
        assert send(client, path, document, key()).content != answers[0].content


def test_an_answer_that_is_too_large_to_be_kept_is_not_made_again(client: httpx.Client, once: str) -> None:
    path = f"/2015-03-31/functions/{once}/invocations"
    headers = key()
    first = send(client, path, {"size": 400_000}, headers)
    repeat = client.post(path, content=json.dumps({"size": 400_000}), headers=headers)
    assert (repeat.status_code, repeat.headers["x-amzn-errortype"]) == (409, "ResourceConflictException")
    assert first.headers["x-amzn-requestid"] in repeat.json()["message"]


def test_calls_sent_at_the_same_time_run_once(client: httpx.Client, once: str) -> None:
    headers = key()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.get(f"/fn/{once}", headers=headers), range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["made"] for answer in answers}) == 1


def test_a_call_whose_instance_died_is_not_run_again_under_its_key(
    platform: Platform, client: httpx.Client, once: str
) -> None:
    path = f"/2015-03-31/functions/{once}/invocations"
    headers = key()
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(send, client, path, {"s": 15}, headers) for _ in range(2)]
        wait_until(lambda: platform.status(once)["in_flight"] == 1, "the call runs", 20)
        for pid in platform.runtimes(once):
            kill(pid)
        answers = [call.result() for call in calls]
    answers.append(send(client, path, {"s": 15}, headers))
    assert {answer.headers["x-amz-function-error"] for answer in answers} == {"Unhandled"}
    assert len({answer.content for answer in answers}) == 1
    assert len({answer.headers["x-amzn-requestid"] for answer in answers}) == 1
