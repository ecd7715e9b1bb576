"""A failover by sentinels under load: for all parts of the platform a fault that passes by itself."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from support.ledger import Ledger
from support.platform import Platform, running_platform
from support.redis_servers import SentinelGroup
from support.waiting import wait_until

SOURCE = """
import urllib.request

def handler(event, context):
    urllib.request.urlopen(urllib.request.Request(f"{event['ledger']}/{event['id']}", method="POST"))
    return event["id"]
"""
UNCERTAIN_S = 0.1
"""Replication is not waited for here: what was accepted this shortly before the kill may be lost with the primary."""
SYNC_MAX_S = 31.0
FUNCTION_ERROR = 0


@pytest.fixture
def sentinels() -> Iterator[SentinelGroup]:
    group = SentinelGroup()
    try:
        group.start()
        yield group
    finally:
        group.close()


@pytest.fixture
def platform(sentinels: SentinelGroup) -> Iterator[Platform]:
    with running_platform("--async-retry-delays", "0.5,1", "--redis", sentinels.url) as running:
        yield running


@dataclass
class Load:
    """Callers that go on until they are told to stop; what they were answered, by when they began."""

    platform: Platform
    name: str
    ledger: Ledger
    accepted: dict[str, float] = field(default_factory=dict)
    answers: list[tuple[float, float, int]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.threads = [threading.Thread(target=self._call, args=(n, kind)) for n in range(3) for kind in ("s", "a")]

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def served_since(self, moment: float) -> bool:
        """Whether each kind of call, made after a moment, was taken."""
        synced = any(began > moment and status == 200 for began, _, status in list(self.answers))
        return synced and any(began > moment for began in list(self.accepted.values()))

    def _call(self, number: int, kind: str) -> None:
        count = 0
        path = f"/2015-03-31/functions/{self.name}/invocations"
        headers = {"X-Amz-Invocation-Type": "Event"} if kind == "a" else {}
        while not self.over.wait(0.005):
            count += 1
            ident = f"{kind}{number}-{count}"
            body = json.dumps({"id": ident, "ledger": self.ledger.url}).encode()
            began = time.monotonic()
            status, _, answer_headers = self.platform.http("POST", path, body, self.platform.authorization | headers)
            if kind == "s":
                failed = "x-amz-function-error" in answer_headers
                self.answers.append((began, time.monotonic() - began, FUNCTION_ERROR if failed else status))
            elif status == 202:
                self.accepted[ident] = began


@pytest.mark.parametrize("fault", ["killed", "hung"])
def test_a_primary_that_is_gone_costs_no_event_and_no_caller_waits_for_ever(
    platform: Platform, sentinels: SentinelGroup, fault: str
) -> None:
    platform.create("told", SOURCE, Timeout=5)
    with Ledger() as ledger:
        load = Load(platform, "told", ledger)
        load.start()
        try:
            wait_until(lambda: load.served_since(0), "calls are served")
            began = time.monotonic()
            wait_until(lambda: load.served_since(began + 1), "calls are served for a while")
            gone = time.monotonic()
            if fault == "killed":
                sentinels.first.kill()
            else:
                sentinels.first.pause()
            sentinels.wait_failed_over(sentinels.second)
            wait_until(lambda: load.served_since(gone + 3), "calls are served again", 30)
        finally:
            load.stop()
        certain = {ident for ident, moment in load.accepted.items() if not gone - UNCERTAIN_S < moment < gone}
        wait_until(lambda: not certain - set(ledger.entries()), "every accepted event has run", 60)
    assert max(took_s for _, took_s, _ in load.answers) < SYNC_MAX_S
    # A call that may have run is a function's error; one that was not accepted is refused.
    assert {status for _, _, status in load.answers} <= {FUNCTION_ERROR, 200, 503}
