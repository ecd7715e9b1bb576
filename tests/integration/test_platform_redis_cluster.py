"""The whole platform on a Redis Cluster of three nodes: functions, reply lists and tables lie on different ones."""

import json
import secrets
import time
from collections.abc import Iterator
from functools import partial

import pytest

from forebay_common.redis_slots import slot_of
from support.call_load import FUNCTION_ERROR, SOURCE, Load
from support.ledger import Ledger
from support.platform import Platform, running_platform
from support.redis_servers import ClusterServers, lines_of
from support.waiting import wait_until

SYNC_MAX_S = 31.0
ECHO = "def handler(event, context): return event"


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterServers]:
    servers = ClusterServers(replicas=True)
    try:
        servers.start()
        yield servers
    finally:
        servers.close()


@pytest.fixture(scope="module")
def platform(cluster: ClusterServers) -> Iterator[Platform]:
    options = ("--async-retry-delays", "0.5,1", "--durability", "replica")
    with running_platform("--redis", cluster.url, *options) as running:
        yield running


def key_of(cluster: ClusterServers, name: str) -> str:
    """A key of a function's."""
    table = "forebay:{functions}"
    entry = cluster.holder(table).ask("HGET", table, f"default/{name}").split(b"\r\n")[1]
    return f"forebay:{{default/{name}/{json.loads(entry)['uid']}}}:spec"


def create_on_each_node(platform: Platform, cluster: ClusterServers, source: str, prefix: str) -> list[str]:
    """Functions, one on each primary."""
    found: dict[int, str] = {}
    for number in range(30):
        name = f"{prefix}-{number}"
        platform.create(name, source, Timeout=5)
        found.setdefault(cluster.holder(key_of(cluster, name)).port, name)
        if len(found) == 3:
            return list(found.values())
    raise AssertionError("thirty functions lie on two nodes")


def test_calls_are_answered_whichever_node_a_function_is_on(platform: Platform, cluster: ClusterServers) -> None:
    for name in create_on_each_node(platform, cluster, ECHO, "echo"):
        for number in range(20):
            assert platform.invoke(name, {"n": number})[0] == {"n": number}


def test_payloads_that_lie_under_keys_of_their_own(platform: Platform, cluster: ClusterServers) -> None:
    """Also a function's first call: the controller hears of it once it is in the queue, behind its payload."""
    text = secrets.token_hex(1_000_000)
    for number in range(10):
        platform.create(f"large-{number}", ECHO, Timeout=5)
        assert platform.invoke(f"large-{number}", text)[0] == text


def test_events_run_and_failed_ones_again(platform: Platform, cluster: ClusterServers) -> None:
    source = """
import urllib.request

def handler(event, context):
    urllib.request.urlopen(urllib.request.Request(f"{event['ledger']}/{event['id']}", method="POST"))
    if event["fails"]:
        raise ValueError(event["id"])
"""
    names = create_on_each_node(platform, cluster, source, "event")
    with Ledger() as ledger:
        for name in names:
            for fails in (False, True):
                event = {"ledger": ledger.url, "id": f"{name}-{fails}", "fails": fails}
                platform.invoke(name, event, InvocationType="Event")
        wanted = {f"{name}-False": 1 for name in names} | {f"{name}-True": 3 for name in names}
        wait_until(lambda: ledger.entries() == wanted, "events have run, failed ones three times", 20)


def test_instances_are_started_for_a_backlog_and_a_deleted_function_leaves_no_key(
    platform: Platform, cluster: ClusterServers
) -> None:
    source = "import time\ndef handler(event, context): time.sleep(0.5)\n"
    platform.create("busy", source, Timeout=5)
    uid = key_of(cluster, "busy").partition("}")[0].rpartition("/")[2]
    for _ in range(30):
        platform.invoke("busy", {}, InvocationType="Event")
    wait_until(lambda: len(platform.runtimes("busy")) > 1, "there are more instances", 20)
    platform.boto().delete_function(FunctionName="busy")
    wait_until(lambda: not keys_of(cluster, uid), "nothing is left of it", 30)


def keys_of(cluster: ClusterServers, uid: str) -> list[str]:
    """A function's keys, wherever they are."""
    return [key for server in cluster.servers if server.runs for key in lines_of(server.ask("KEYS", f"*{uid}*"))]


def test_a_slot_that_moves_costs_no_call_and_no_event(platform: Platform, cluster: ClusterServers) -> None:
    names = create_on_each_node(platform, cluster, SOURCE, "moved")
    keys = [key_of(cluster, names[0]), "forebay:{functions}"]
    with Ledger() as ledger:
        load = Load(platform, tuple(names), ledger)
        load.start()
        try:
            wait_until(lambda: load.served_since(0), "calls are served", 20)
            for key in keys:
                source = cluster.holder(key)
                target = next(server for server in cluster.primaries if server is not source)
                cluster.move_slot(slot_of(key.encode()), source, target)
                began = time.monotonic()
                wait_until(partial(load.served_since, began + 1), "calls are served on", 20)
        finally:
            load.stop()
        wait_until(lambda: not load.not_run(), "every accepted event has run", 60)
    assert max(took_s for _, took_s, _ in load.answers) < SYNC_MAX_S
    assert {status for _, _, status in load.answers} == {200}


def test_a_primary_that_dies_costs_no_event_and_no_caller_waits_for_ever(
    platform: Platform, cluster: ClusterServers
) -> None:
    names = create_on_each_node(platform, cluster, SOURCE, "failed")
    with Ledger() as ledger:
        load = Load(platform, tuple(names), ledger)
        load.start()
        try:
            wait_until(lambda: load.served_since(0), "calls are served", 20)
            began = time.monotonic()
            wait_until(lambda: load.served_since(began + 1), "calls are served for a while")
            key = key_of(cluster, names[0])
            primary = cluster.holder(key)
            gone = time.monotonic()
            primary.kill()
            wait_until(lambda: cluster.holder(key) is not primary, "a replica has its slots", 30)
            # It is the new one's replica, without which no event is accepted.
            primary.start()
            wait_until(lambda: load.served_since(gone + 5), "calls are served again", 30)
        finally:
            load.stop()
        wait_until(lambda: not load.not_run(), "every accepted event has run", 60)
    assert max(took_s for _, took_s, _ in load.answers) < SYNC_MAX_S
    # A call that may have run is a function's error; one that was not accepted is refused.
    assert {status for _, _, status in load.answers} <= {FUNCTION_ERROR, 200, 503}
    for name in names:
        assert platform.invoke(name, {"ledger": ledger.url, "id": "x"})[1]["StatusCode"] == 200
