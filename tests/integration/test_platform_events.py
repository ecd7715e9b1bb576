"""Events on a real platform, by the commands: results, cancelling what waits and what runs, dead letters."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support.platform import FOREBAY, Platform
from support.waiting import wait_until

Run = Callable[..., "subprocess.CompletedProcess[str]"]

CODE = """
import time

def handler(event, context):
    if event.get("fail"):
        raise ValueError(event["fail"])
    if "sleep" in event:
        time.sleep(event["sleep"])
    return {"attempt for": context.aws_request_id}
"""


@pytest.fixture
def forebay(platform: Platform, tmp_path: Path) -> Run:
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path), "FOREBAY_ENDPOINT": platform.url}

    def run(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        ended = subprocess.run(
            [FOREBAY, *words], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90,
            check=False,
        )  # fmt: skip
        assert ended.returncode == code, ended
        assert "Traceback" not in ended.stderr
        return ended

    return run


def send(forebay: Run, name: str, event: object) -> str:
    return forebay("invoke", name, "--async", "-d", json.dumps(event)).stdout.strip()


def test_an_events_result_is_waited_for_by_its_id(forebay: Run, platform: Platform) -> None:
    platform.create("events-result", CODE)
    ident = send(forebay, "events-result", {})
    assert json.loads(forebay("invocation", "wait", ident).stdout) == {"attempt for": ident}
    found = json.loads(forebay("invocation", "get", ident, "-o", "json").stdout)
    assert (found["function"], found["status"], found["attempts"]) == ("events-result", "succeeded", 1)
    assert found["duration_ms"] > 0
    aliased, body, _ = platform.http("GET", f"/invocations/{ident}", None, platform.authorization)
    assert (aliased, json.loads(body)) == (200, found)
    assert platform.http("GET", f"/invocations/{ident}")[0] == 403


def test_the_gateways_description_has_the_paths_about_events(platform: Platform) -> None:
    paths = json.loads(platform.http("GET", "/openapi.json")[1])["paths"]
    for path in ("/v1/invocations/{invocation_id}", "/invocations/{invocation_id}"):
        assert paths[path]["get"]["security"] == [{"authorization": []}]
        assert "409" in paths[f"{path}/cancel"]["post"]["responses"]
    assert "/v1/functions/{name}/dead-letters/redrive" in paths


def test_a_running_event_is_cancelled_and_its_process_ended(forebay: Run, platform: Platform) -> None:
    platform.create("events-cancel", CODE, Timeout=600)
    platform.scale("events-cancel", max_instances=1)
    ident = send(forebay, "events-cancel", {"sleep": 500})

    def running() -> bool:
        return bool(json.loads(forebay("invocation", "get", ident, "-o", "json").stdout)["status"] == "running")

    wait_until(running, "it runs", 30)
    cancelled = forebay("invocation", "cancel", ident)
    assert cancelled.stderr == "cancelled, attempts: 1\n"
    found = json.loads(forebay("invocation", "get", ident, "-o", "json").stdout)
    assert (found["status"], found["reason"]) == ("cancelled", "Cancelled")
    # There is one handler process: it would sleep on, and the next event would wait for it.
    following = send(forebay, "events-cancel", {})
    assert json.loads(forebay("invocation", "wait", following, "--timeout", "60").stdout) == {"attempt for": following}


def test_events_that_were_given_up_are_listed_mended_and_run_again(forebay: Run, platform: Platform) -> None:
    platform.create("events-dead", CODE)
    platform.api("PUT", "/v1/functions/events-dead", {"async": {"max_retries": 0}})
    ident = send(forebay, "events-dead", {"fail": "no such order"})
    failed = forebay("invocation", "wait", ident, code=1)
    assert json.loads(failed.stdout)["errorMessage"] == "no such order"
    assert "RetriesExhausted" in failed.stderr
    listed = json.loads(forebay("dead-letters", "list", "events-dead", "-o", "json").stdout)
    assert [(letter["invocation_id"], letter["error_type"]) for letter in listed] == [(ident, "ValueError")]
    wait_until(lambda: platform.status("events-dead")["dead_letters"] == 1, "it is counted")
    labels = '{function="events-dead",namespace="default"}'
    _, metrics, _ = platform.http("GET", "/controller/metrics")
    assert f"forebay_dead_letters{labels} 1.0" in metrics.decode()

    platform.api("PUT", "/v1/functions/events-dead", {"handler": "app.handler", "env": {"MENDED": "1"}})
    assert forebay("dead-letters", "redrive", "events-dead", "--all").stderr == "1 queued again\n"
    assert "ValueError" in forebay("invocation", "wait", ident, code=1).stdout
    wait_until(lambda: platform.status("events-dead")["dead_letters"] == 1, "it died again")
    assert forebay("dead-letters", "purge", "events-dead", "--all", "--yes").stderr == "1 deleted\n"
    wait_until(lambda: platform.status("events-dead")["dead_letters"] == 0, "none is counted any more")
