"""Settings of async delivery that change while a function runs, on a real platform."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from support.ledger import Ledger
from support.platform import Platform
from support.waiting import wait_until

FAILING = """
import os, urllib.request
def handler(event, context):
    urllib.request.urlopen(urllib.request.Request(os.environ["LEDGER"] + "/" + event, b"", method="POST"))
    raise ValueError(event)
"""
PATH = "/v1/functions/{}"


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with Ledger() as opened:
        yield opened


def send(platform: Platform, name: str, event: str) -> str:
    """Send an event; gives its invocation's path."""
    answer = platform.boto().invoke(FunctionName=name, InvocationType="Event", Payload=f'"{event}"'.encode())
    return f"/v1/invocations/{answer['ResponseMetadata']['RequestId']}"


def ended(platform: Platform, invocation: str) -> dict[str, Any]:
    found: dict[str, Any] = platform.api("GET", f"{invocation}?wait=20")
    return found


def test_retries_and_their_delays_reach_a_function_that_runs(platform: Platform, ledger: Ledger) -> None:
    name, client = "async-settings", platform.boto()
    platform.create(name, FAILING, Environment={"Variables": {"LEDGER": ledger.url}})
    first = ended(platform, send(platform, name, "platforms"))
    assert (first["status"], first["attempts"], ledger.entries()["platforms"]) == ("failed", 3, 3)

    client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=0)
    client.get_waiter("function_updated_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 20})
    second = ended(platform, send(platform, name, "none"))
    assert (second["status"], second["attempts"], ledger.entries()["none"]) == ("failed", 1, 1)

    platform.api("PUT", PATH.format(name), {"async": {"max_retries": 1, "retry_delays_s": [3600]}})
    client.get_waiter("function_updated_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 20})
    invocation = send(platform, name, "late")

    def delayed() -> bool:
        return bool(platform.api("GET", invocation)["status"] == "delayed")

    wait_until(delayed, "the event waits for its only retry", 20)
    due = datetime.fromisoformat(platform.api("GET", invocation)["next_attempt_at"])
    assert timedelta(minutes=50) < due - datetime.now(UTC) <= timedelta(hours=1)
    assert ledger.entries()["late"] == 1
    client.delete_function(FunctionName=name)
