"""A failover by sentinels under load: for all parts of the platform a fault that passes by itself."""

import time
from collections.abc import Iterator

import pytest

from support.call_load import FUNCTION_ERROR, SOURCE, Load
from support.ledger import Ledger
from support.platform import Platform, running_platform
from support.redis_servers import SentinelGroup
from support.waiting import wait_until

SYNC_MAX_S = 31.0


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
    options = ("--async-retry-delays", "0.5,1", "--durability", "replica")
    with running_platform("--redis", sentinels.url, *options) as running:
        yield running


@pytest.mark.parametrize("fault", ["killed", "hung"])
def test_a_primary_that_is_gone_costs_no_event_and_no_caller_waits_for_ever(
    platform: Platform, sentinels: SentinelGroup, fault: str
) -> None:
    platform.create("told", SOURCE, Timeout=5)
    with Ledger() as ledger:
        load = Load(platform, ("told",) * 3, ledger)
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
            sentinels.wait_failed_over()
            wait_until(lambda: load.served_since(gone + 3), "calls are served again", 30)
        finally:
            load.stop()
        wait_until(lambda: not load.not_run(), "every accepted event has run", 60)
    assert max(took_s for _, took_s, _ in load.answers) < SYNC_MAX_S
    # A call that may have run is a function's error; one that was not accepted is refused.
    assert {status for _, _, status in load.answers} <= {FUNCTION_ERROR, 200, 503}
