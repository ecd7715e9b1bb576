"""Changes under load: of a function, and of the platform by helm; no call fails because of them."""

from cluster.access import Cluster
from cluster.functions import WORKER, apply, deploy, function, wait_in_service
from cluster.load import bad, loading
from cluster.release import CHART, NAME, NAMESPACE, Release
from cluster.test_scaling import none_was_deleted_at_work, target
from cluster.watching import functions_in, pods_of

RATE = 8
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


def test_upgrade_and_rollback_cost_no_call(cluster: Cluster, release: Release, tenant: str) -> None:
    admin = release.admin()
    deploy(cluster, tenant, function("steady", WORKER, scale=SCALE))
    with (
        pods_of(cluster, tenant, "steady") as pods,
        loading(target(release, tenant, "steady", sleep_s=0.2), RATE) as load,
    ):
        before = {name: set(release.pod_names(name)) for name in ("gateway", "controller")}
        change = ("--set=logLevel=debug", *release.settings)
        cluster.helm("upgrade", NAME, str(CHART), "-n", NAMESPACE, "--wait", "--timeout=100s", *change)
        between = {name: set(release.pod_names(name)) for name in before}
        assert all(not before[name] & between[name] for name in before), "the upgrade replaced nothing"
        load.answered(RATE)
        cluster.helm("rollback", NAME, "1", "-n", NAMESPACE, "--wait", "--timeout=100s")
        load.answered(RATE)
        load.stop()
        none_was_deleted_at_work(pods, [call for call in load.calls if call.good])
    assert not bad(load.calls)
    assert release.admin() == admin
