"""Parts of the platform die under load: what was accepted is done, and the rest goes on."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from cluster.access import Cluster
from cluster.functions import WORKER, deploy, function, get
from cluster.load import Load, Target, bad, burst, loading
from cluster.release import NAMESPACE, Release
from cluster.test_scaling import none_was_deleted_at_work, target
from cluster.watching import Object, Watch, functions_in, pods_of, watching

RATE = 8
EVENTS_RATE = 20
KILLS = 3
TAKEOVER_S = 25.0  # the lease's 15 s, and what a standby needs on two busy cores
OUTAGE_S = 60.0
# Its one pod stays, and with it the log.
LASTING = {"minInstances": 1, "maxInstances": 1, "idleSeconds": 300}
# Writes down each event that it runs, where `kubectl logs` finds it.
LEDGER = """
def handler(event, context):
    print(f"ran <{event['number']}>", flush=True)
"""
# Is slower than they come, so that there are some which wait.
SLOW_LEDGER = f"import time\n{LEDGER}    time.sleep(0.25)\n"

# Sends each event that it runs on to the ledger, so that what it ran is known when its pod is gone.
RELAY = """
import json, os, urllib.request

def handler(event, context):
    key = f"{os.environ['AWS_ACCESS_KEY_ID']}.{os.environ['AWS_SECRET_ACCESS_KEY']}"
    headers = {"X-Amz-Invocation-Type": "Event", "Authorization": f"Bearer {key}"}
    url = f"{os.environ['AWS_ENDPOINT_URL_LAMBDA']}/2015-03-31/functions/ledger/invocations"
    urllib.request.urlopen(urllib.request.Request(url, json.dumps(event).encode(), headers), timeout=10).close()
"""


def events(release: Release, namespace: str, name: str) -> Target:
    """A function that is called with events."""
    found = target(release, namespace, name)
    return Target(found.base, name, {**found.headers, "X-Amz-Invocation-Type": "Event"}, {})


@contextlib.contextmanager
def every_accepted_event_is_run(
    cluster: Cluster, release: Release, namespace: str, name: str = "ledger"
) -> Iterator[Load]:
    """Events at a rate for the length of a block; afterwards each of those accepted must be in the ledger's log."""
    with loading(events(release, namespace, name), EVENTS_RATE) as load:
        yield load
    accepted = {call.number for call in load.calls if call.good}
    with functions_in(cluster, namespace) as functions:
        for each in dict.fromkeys((name, "ledger")):
            functions.until(partial(nothing_waits, functions, each), f"all events of {each} are done", timeout_s=90)
    logs = cluster.kubectl(
        "logs", "--selector=forebay.dev/function=ledger", f"--namespace={namespace}", "--all-containers", "--tail=-1"
    )
    missing = {number for number in accepted if f"ran <{number}>" not in logs}
    assert not missing, f"{len(missing)} of {len(accepted)} accepted events were not run: {sorted(missing)[:20]}"


def test_a_leader_killed_under_load_costs_no_call(cluster: Cluster, release: Release, tenant: str) -> None:
    scale = {"maxInstances": 4, "idleSeconds": 2}
    deploy(cluster, tenant, function("busy", WORKER, scale=scale, timeoutSeconds=20), function("cold", WORKER))
    with pods_of(cluster, tenant, "busy") as pods:
        with loading(target(release, tenant, "busy", sleep_s=0.2), RATE) as load:
            release.kill(release.leader())
            assert not bad(burst(target(release, tenant, "cold", sleep_s=0), 3)), "a cold function was not started"
            load.answered(RATE * 2)
        pods.until(lambda: not pods.objects, "the next leader scales in", timeout_s=60)
        none_was_deleted_at_work(pods, load.calls)
    assert not bad(load.calls)


def test_a_standby_takes_over_from_a_leader_that_is_gone(cluster: Cluster, release: Release, tenant: str) -> None:
    deploy(cluster, tenant, function("cold", WORKER, timeoutSeconds=20))
    before = release.leader()
    with watching(cluster, f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases") as leases:
        leases.until(lambda: leases.objects, "the lease")
        cluster.kubectl("delete", "pod", before, f"--namespace={NAMESPACE}", "--force", "--grace-period=0")

        def taken() -> bool:
            (lease,) = leases.objects.values()
            return lease["spec"].get("holderIdentity") not in ("", None, before)

        leases.until(taken, "another controller leads", timeout_s=TAKEOVER_S)
    assert not bad(burst(target(release, tenant, "cold", sleep_s=0), 1))
    cluster.kubectl("rollout", "status", "deployment/forebay-controller", f"--namespace={NAMESPACE}", "--timeout=60s")


def test_a_gateway_killed_under_load_loses_no_event_and_only_its_own_callers(
    cluster: Cluster, release: Release, tenant: str
) -> None:
    deploy(
        cluster,
        tenant,
        function("ledger", LEDGER, scale=LASTING),
        function("busy", WORKER, scale={"maxInstances": 4}),
    )
    with (
        every_accepted_event_is_run(cluster, release, tenant),
        loading(target(release, tenant, "busy", sleep_s=0.2), RATE) as load,
    ):
        release.kill(release.pod_names("gateway")[0])
        load.answered(RATE * 4)
    lost = [call for call in load.calls if not call.good]
    assert all(call.status in (0, 503) for call in lost), bad(load.calls)
    assert len(lost) < len(load.calls) / 2, bad(load.calls)
    assert not bad(burst(target(release, tenant, "busy", sleep_s=0), 4))


def test_a_restarted_redis_keeps_every_accepted_event_and_knows_functions_users_again(
    cluster: Cluster, release: Release, tenant: str
) -> None:
    deploy(cluster, tenant, function("ledger", SLOW_LEDGER, scale=LASTING))
    uid = get(cluster, tenant, "ledger")["metadata"]["uid"].replace("-", "")
    with every_accepted_event_is_run(cluster, release, tenant) as load:
        cluster.kubectl("delete", "pod", "forebay-valkey-0", f"--namespace={NAMESPACE}", "--timeout=60s")
        load.answered(EVENTS_RATE, timeout_s=OUTAGE_S)
    assert uid in release.redis_users()
    assert not bad(burst(target(release, tenant, "ledger"), 1))


def test_a_drained_node_costs_no_call(cluster: Cluster, release: Release, tenant: str) -> None:
    """`kubectl drain` evicts the function's pod: the call that runs there is answered first, the next one elsewhere."""
    deploy(cluster, tenant, function("held", WORKER, timeoutSeconds=20, scale={"minInstances": 1}))
    assert not bad(burst(target(release, tenant, "held", sleep_s=0), 1))
    (pod,) = cluster.json("pods", f"--namespace={tenant}", "--selector=forebay.dev/function=held")["items"]
    node = pod["spec"]["nodeName"]
    with ThreadPoolExecutor() as callers, functions_in(cluster, tenant) as functions:
        running = callers.submit(burst, target(release, tenant, "held", sleep_s=8.0), 1)
        functions.until(lambda: functions.status("held").get("inFlight") == 1, "the call runs")
        try:
            cluster.kubectl(
                *("drain", node, f"--pod-selector=forebay.dev/function=held,forebay.dev/instance={instance_of(pod)}"),
                *("--delete-emptydir-data", "--ignore-daemonsets", "--timeout=60s"),
            )
            (call,) = running.result()
            assert call.good, call
            assert call.answer["pod"] == pod["metadata"]["name"]
        finally:
            cluster.kubectl("uncordon", node)
    assert not bad(burst(target(release, tenant, "held", sleep_s=0), 1))


def instance_of(pod: Object) -> str:
    """The id of a pod's instance."""
    found: str = pod["metadata"]["labels"]["forebay.dev/instance"]
    return found


def test_killed_instances_lose_the_calls_that_ran_there_and_no_event(
    cluster: Cluster, release: Release, tenant: str
) -> None:
    """kill -9 of runtimes: whose call ran there is told so at once; events are run by others."""
    scale = {"minInstances": 2, "maxInstances": 2, "idleSeconds": 300}
    deploy(
        cluster,
        tenant,
        function("ledger", LEDGER, scale=LASTING),
        function("relay", RELAY, scale=scale, timeoutSeconds=20),
        function("busy", WORKER, scale=scale, timeoutSeconds=20),
    )
    victims: dict[str, tuple[float, float]] = {}
    with (
        pods_of(cluster, tenant, "busy") as busy,
        pods_of(cluster, tenant, "relay") as relays,
        every_accepted_event_is_run(cluster, release, tenant, "relay"),
        loading(target(release, tenant, "busy", sleep_s=0.2), RATE) as load,
    ):
        for _ in range(KILLS):
            for pods in (busy, relays):
                pods.until(partial(others_run, pods, victims), "a pod that runs")
                name = min(running(pods) - victims.keys())
                began = time.time()
                release.kill(name, tenant, "runtime")
                victims[name] = (began, time.time())
            load.answered(RATE * 2)
    for call in load.calls:
        if call.good:
            _, dead = victims.get(call.answer["pod"], (0.0, call.ended))
            assert call.answer["ended"] <= dead, call
        else:
            assert call.status == 200, call
            assert "died while it held this call" in call.text, call
            assert any(call.began < dead and began < call.ended for began, dead in victims.values()), call
    lost = [call for call in load.calls if not call.good]
    assert len(lost) <= KILLS, bad(load.calls)


def nothing_waits(functions: Watch, name: str) -> bool:
    """Whether a function's status tells of no event that waits or runs."""
    status = functions.status(name)
    return status.get("queued") == 0 and status.get("inFlight") == 0


def others_run(pods: Watch, victims: Mapping[str, object]) -> bool:
    """Whether a pod runs that has not been hit yet."""
    return bool(running(pods) - victims.keys())


def running(pods: Watch) -> set[str]:
    """Names of the pods whose containers all run."""
    return {
        name
        for name, pod in pods.objects.items()
        if (states := pod["status"].get("containerStatuses")) and all("running" in state["state"] for state in states)
    }
