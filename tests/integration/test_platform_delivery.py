"""Scaling from nothing and back, and what survives a kill -9: on a platform of its own, under real load."""

import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.ledger import Ledger
from support.platform import Platform, alive, kill, running_platform
from support.waiting import wait_until

WRITER = """
import os, time, urllib.request
def handler(event, context):
    time.sleep(0.05)
    urllib.request.urlopen(urllib.request.Request(os.environ["LEDGER"] + "/" + event["id"], b"", method="POST"))
"""


@pytest.fixture(scope="module")
def fresh() -> Iterator[Platform]:
    """A platform that these tests may break."""
    with running_platform("--async-retry-delays", "0.3,0.6") as running:
        yield running


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with Ledger() as opened:
        yield opened


def total(platform: Platform, name: str) -> int:
    return int(sum(platform.status(name)["instances"].values()))


def test_a_burst_grows_instances_from_nothing_and_they_go_back_to_nothing(fresh: Platform) -> None:
    fresh.create(
        "burst", "import time\ndef handler(event, context):\n    time.sleep(0.1)\n    return event", MemorySize=128
    )
    fresh.scale("burst", max_instances=5, idle_s=1)
    assert total(fresh, "burst") == 0
    most = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.05):
            most = max(most, total(fresh, "burst"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda number: fresh.invoke("burst", number)[0], range(100)))
    done.set()
    watcher.join()
    assert answers == list(range(100))
    assert 2 <= most <= 5
    wait_until(lambda: total(fresh, "burst") == 0, "instances go back to nothing", 15)


def send_events(platform: Platform, name: str, count: int) -> set[str]:
    client = platform.boto(max_pool_connections=8)
    ids = {str(uuid.uuid4()) for _ in range(count)}

    def send(ident: str) -> None:
        answer = client.invoke(FunctionName=name, InvocationType="Event", Payload=f'{{"id": "{ident}"}}'.encode())
        assert answer["StatusCode"] == 202

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, ids))
    return ids


def finished(platform: Platform, name: str, ledger: Ledger, ids: set[str]) -> bool:
    status = platform.status(name)
    return ids <= ledger.entries().keys() and status["queued"] == status["in_flight"] == 0


@pytest.mark.parametrize("victim", ["handler process", "runtime", "sandbox", "controller", "gateway"])
def test_a_kill_in_a_burst_of_events_loses_none(fresh: Platform, ledger: Ledger, victim: str) -> None:
    name = f"writer-{victim.replace(' ', '-')}"
    fresh.create(name, WRITER, Environment={"Variables": {"LEDGER": ledger.url}}, Timeout=10)
    fresh.scale(name, max_instances=3)
    ids = send_events(fresh, name, 60)
    wait_until(lambda: len(ledger.entries()) >= 5, "events are running", 20)
    pid = pid_of(fresh, victim)
    kill(pid)
    wait_until(lambda: not alive(pid), "the victim is gone")
    fresh.wait_ready()
    wait_until(lambda: finished(fresh, name, ledger, ids), f"every event ran after a kill of the {victim}", 45, 0.1)
    assert set(ledger.entries()) == ids


def pid_of(platform: Platform, victim: str) -> int:
    if victim == "handler process":
        # The youngest process under a sandbox: handler processes are forked last.
        return max(platform.pids_of("zygote.py"))
    word = {"runtime": "forebay_runtime", "sandbox": "sandbox.py", "controller": "-m forebay_controller"}
    return platform.pids_of(word.get(victim, "-m forebay_gateway"))[0]


def test_what_became_of_events_is_counted(fresh: Platform) -> None:
    fresh.create("moody", "def handler(event, context): return 1 / event")
    client = fresh.boto()
    for payload in (b"1", b"0"):
        assert client.invoke(FunctionName="moody", InvocationType="Event", Payload=payload)["StatusCode"] == 202

    def counted() -> bool:
        metrics = fresh.http("GET", "/controller/metrics")[1].decode()
        return all(
            f'forebay_async_events_total{{function="moody",namespace="default",outcome="{outcome}"}} {count}.0'
            in metrics
            for outcome, count in {"done": 1, "retry": 2, "dead": 1}.items()
        )

    wait_until(counted, "one event is done; the other was retried twice and is dead", 20)


def test_a_sync_call_whose_instance_dies_is_told_so_at_once(fresh: Platform) -> None:
    fresh.create("sleeper", "import time\ndef handler(event, context): time.sleep(20)", Timeout=30)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(fresh.invoke, "sleeper")
        wait_until(lambda: fresh.status("sleeper")["in_flight"] == 1, "the call is running", 10)
        kill(fresh.runtimes("sleeper")[0])
        payload, answer = call.result(timeout=5)
    assert answer["FunctionError"] == "Unhandled"
    assert "died while it held this call" in payload["errorMessage"]


def test_functions_and_accepted_events_survive_a_restart(fresh: Platform, ledger: Ledger) -> None:
    fresh.create("kept", WRITER, Environment={"Variables": {"LEDGER": ledger.url}})
    fresh.scale("kept", max_instances=1)
    ids = send_events(fresh, "kept", 40)
    processes = list(fresh.processes())
    assert fresh.stop() == 0
    wait_until(lambda: not [pid for pid in processes if alive(pid)], "nothing keeps running", 10)
    fresh.start()
    wait_until(lambda: finished(fresh, "kept", ledger, ids), "every event ran", 30, 0.1)


def test_a_killed_platform_leaves_no_process_and_starts_again(fresh: Platform, ledger: Ledger) -> None:
    fresh.create("revived", WRITER, Environment={"Variables": {"LEDGER": ledger.url}})
    fresh.scale("revived", max_instances=2)
    ids = send_events(fresh, "revived", 30)
    processes = list(fresh.processes())
    fresh.crash()
    wait_until(lambda: not [pid for pid in processes if alive(pid)], "nothing keeps running", 15)
    fresh.start()
    # What an instance held when everything died comes back once its lease is over.
    wait_until(lambda: finished(fresh, "revived", ledger, ids), "every event ran", 60, 0.1)
