"""0 -> N -> 0: pods follow the queue as docs/scaling.md says, and none is deleted while it works."""

import itertools

import pytest

from cluster.access import Cluster
from cluster.functions import WORKER, deploy, function, get
from cluster.load import Call, Target, bad, burst
from cluster.release import Release
from cluster.watching import Watch, deletion_asked, functions_in, pods_of
from forebay_controller.autoscale import Bounds, Fleet, Load, decide

IDLE_S = 1


def pods_for(calls: int, *, maximum: int, concurrency: int) -> int:
    """How many instances the formula starts for that many calls of a function that nothing is known of."""
    load = Load(queued=calls, in_flight=0, busy_slots=0, handler_s=None, start_s=0.2, standing_s=0, recent_instances=0)
    bounds = Bounds(min_instances=0, max_instances=maximum, concurrency=concurrency, platform_free=1000)
    return decide(load, Fleet(starting=0, idle=0, busy=0, leaving=0), bounds).start


def target(release: Release, namespace: str, name: str, **event: object) -> Target:
    """A function of the tenant, called with the admin's key."""
    return Target(release.url(namespace=namespace), name, release.admin().bearer, event)


@pytest.mark.parametrize(
    ("calls", "maximum", "concurrency", "sleep_s"),
    [(200, 8, 1, 0.1), (12, 20, 4, 4.0)],
    ids=["more-than-the-maximum", "by-concurrency"],
)
def test_a_burst_starts_as_many_pods_as_the_formula_says_and_all_of_them_go_again(
    cluster: Cluster, release: Release, tenant: str, calls: int, maximum: int, concurrency: int, sleep_s: float
) -> None:
    expected = pods_for(calls, maximum=maximum, concurrency=concurrency)
    scale = {"maxInstances": maximum, "concurrency": concurrency, "idleSeconds": IDLE_S}
    deploy(cluster, tenant, function("burst", WORKER, scale=scale, timeoutSeconds=20))
    with pods_of(cluster, tenant, "burst") as pods, functions_in(cluster, tenant) as functions:
        assert not pods.objects
        answered = burst(target(release, tenant, "burst", sleep_s=sleep_s), calls)
        assert not bad(answered)
        assert sorted(call.answer["number"] for call in answered) == list(range(calls))
        pods.until(lambda: not pods.objects, "no pod is left", timeout_s=60)
        functions.until(
            lambda: (s := functions.status("burst")).get("instances") == 0 and s.get("queued") == 0,
            "the status says so",
        )
        assert len(pods.created()) == expected
        assert {call.answer["pod"] for call in answered} <= set(pods.created())
        none_was_deleted_at_work(pods, answered)
    assert get(cluster, tenant, "burst")["status"]["ready"] == "True"


def none_was_deleted_at_work(pods: Watch, calls: list[Call]) -> None:
    """No pod's deletion was asked for while it ran one of these calls, by the clocks of pods and of this machine.

    One that was stopped before it was up may begin a call all the same, and finishes it within its grace period.
    """
    for name in pods.created():
        asked = pods.first(name, deletion_asked)
        for call in calls:
            if asked is not None and call.answer["pod"] == name:
                during = call.answer["began"] < asked < call.answer["ended"]
                assert not during, f"{name} was deleted at {asked} during {call.answer}"


def test_scale_in_takes_idle_pods_and_leaves_busy_ones(cluster: Cluster, release: Release, tenant: str) -> None:
    """One call of ten keeps a pod busy; the other pods leave, and the busy one stays until its call is over."""
    scale = {"maxInstances": 6, "idleSeconds": IDLE_S}
    deploy(cluster, tenant, function("mixed", WORKER, scale=scale, timeoutSeconds=30))
    everything: list[Call] = []
    with pods_of(cluster, tenant, "mixed") as pods:
        for _round in range(2):
            everything += burst(target(release, tenant, "mixed", sleep_s=0.3), 30)
            everything += burst(target(release, tenant, "mixed", sleep_s=4.0), 1)
        pods.until(lambda: not pods.objects, "no pod is left", timeout_s=60)
        assert not bad(everything)
        none_was_deleted_at_work(pods, everything)
        long_ones = [call for call in everything if call.answer["ended"] - call.answer["began"] > 3]
        first_long = long_ones[0].answer
        left = [name for name in pods.created() if (pods.first(name, deletion_asked) or 0) < first_long["ended"]]
        assert left, "no idle pod left while one was busy"
        assert first_long["pod"] not in left


def test_two_functions_do_not_wait_for_each_other(cluster: Cluster, release: Release, tenant: str) -> None:
    scale = {"maxInstances": 1, "idleSeconds": 30}
    deploy(
        cluster,
        tenant,
        function("flooded", WORKER, scale=scale, timeoutSeconds=20),
        function("quiet", WORKER, scale={"idleSeconds": 30}),
    )
    assert not bad(burst(target(release, tenant, "quiet", sleep_s=0), 1))
    with release.http(namespace=tenant) as http:
        for _ in range(100):
            http.post(
                "/2015-03-31/functions/flooded/invocations",
                json={"sleep_s": 0.5},
                headers={"X-Amz-Invocation-Type": "Event"},
            ).raise_for_status()
    calls = list(itertools.chain.from_iterable(burst(target(release, tenant, "quiet", sleep_s=0), 1) for _ in range(5)))
    assert not bad(calls)
    assert max(call.ended - call.began for call in calls) < 2
