"""Changes under load: of a function, and of the platform by helm; no call fails because of them."""

from cluster.access import Cluster
from cluster.functions import WORKER, apply, deploy, function, wait_in_service
from cluster.load import bad, loading
from cluster.release import CHART, NAME, NAMESPACE, Release
from cluster.test_scaling import none_was_deleted_at_work, target
from cluster.watching import functions_in, pods_of

RATE = 8
MAINTENANCE_RATE = 110
CALLS = 10_000
OVERLOADED_S = 600.0  # where the machine does not keep that pace
SCALE = {"minInstances": 1, "maxInstances": 4, "idleSeconds": 5}


def test_a_changed_function_is_replaced_without_a_failed_call(cluster: Cluster, release: Release, tenant: str) -> None:
    deploy(cluster, tenant, function("changing", WORKER, scale=SCALE))
    with (
        pods_of(cluster, tenant, "changing") as pods,
        functions_in(cluster, tenant) as functions,
        loading(target(release, tenant, "changing", sleep_s=0.2), RATE) as load,
    ):
        old = set(pods.created())
        for change in ("first", "second"):
            env = [{"name": "CHANGE", "value": change}]
            apply(cluster, tenant, function("changing", WORKER, scale=SCALE, env=env))
            wait_in_service(cluster, tenant, functions, "changing")
        load.answered(RATE)
        pods.until(lambda: not old & set(pods.objects), "pods of the old spec are gone")
        load.stop()
        none_was_deleted_at_work(pods, [call for call in load.calls if call.good])
    assert not bad(load.calls)


def test_maintenance_costs_none_of_ten_thousand_calls(cluster: Cluster, release: Release, tenant: str) -> None:
    """helm upgrade and rollback, fewer gateways and more, the leader and the function's pods deleted."""
    admin = release.admin()
    scale = {"minInstances": 2, "maxInstances": 4, "concurrency": 4, "idleSeconds": 5}
    deploy(cluster, tenant, function("steady", WORKER, scale=scale))
    with (
        pods_of(cluster, tenant, "steady") as pods,
        loading(target(release, tenant, "steady", sleep_s=0.05), MAINTENANCE_RATE) as load,
    ):
        before = {name: set(release.pod_names(name)) for name in ("gateway", "controller")}
        change = ("--set=logLevel=debug", *release.settings)
        cluster.helm("upgrade", NAME, str(CHART), "-n", NAMESPACE, "--wait", "--timeout=100s", *change)
        between = {name: set(release.pod_names(name)) for name in before}
        assert all(not before[name] & between[name] for name in before), "the upgrade replaced nothing"
        cluster.helm("rollback", NAME, "1", "-n", NAMESPACE, "--wait", "--timeout=100s")
        for replicas in (1, 2):
            scaled = f"--replicas={replicas}"
            cluster.kubectl("scale", "deployment/forebay-gateway", f"--namespace={NAMESPACE}", scaled)
            cluster.kubectl("rollout", "status", "deployment/forebay-gateway", f"--namespace={NAMESPACE}")
            load.answered(MAINTENANCE_RATE)
        cluster.kubectl("delete", "pod", release.leader(), f"--namespace={NAMESPACE}", "--timeout=60s")
        for name in [*pods.objects]:
            cluster.kubectl("delete", "pod", name, f"--namespace={tenant}", "--timeout=60s")
        load.answered(max(1, CALLS - len(load.calls)), timeout_s=OVERLOADED_S)
        load.stop()
    assert not bad(load.calls)
    assert len(load.calls) >= CALLS
    assert release.admin() == admin
