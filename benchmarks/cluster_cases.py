"""Benchmarks on a cluster. Each takes the stage and returns its figures; targets are those of docs/performance.md."""

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from benchmarks.cluster_stage import LABEL, Change, ClusterStage, PodWatch, apply, kubectl
from benchmarks.figures import Figure, judge, rotated_rounds, spread
from benchmarks.stage import NO_OP

REACTIONS = 60
FUNCTIONS = 6
COLD_STARTS = 9
BURST_CALLS = 200
SLEEPER = "import time\n\ndef handler(event, context):\n    time.sleep(0.1)\n"
COLD = {"idleSeconds": 1}
# What a function's pod must be as well, so that the bare pod does not differ in it.
_CLOSED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "runAsUser": 65534,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def _of(name: str, kind: str) -> Callable[[Change], bool]:
    """Changes of one kind to a function's pods."""
    return lambda change: change.kind == kind and change.pod["metadata"].get("labels", {}).get(LABEL) == name


def reaction(stage: ClusterStage) -> list[Figure]:
    """From an event's being sent to its pod's being seen, one cold function after the other on a quiet cluster.

    That is more than what the target is about, from queued to the request that creates the pod: the gateway's part,
    the API server's and the way of a watch are in it.
    """
    names = [f"reaction-{number}" for number in range(FUNCTIONS)]
    stage.deploy(*names, source=NO_OP, scale=COLD)
    took_ms = []
    with stage.pods() as pods:
        for number in range(REACTIONS):
            name = names[number % FUNCTIONS]
            began = time.perf_counter()
            stage.invoke(name, event=True)
            took_ms.append((pods.next(_of(name, "ADDED"), f"the pod of {name}").at - began) * 1000)
            # Quiet again: the pod has come and gone, so the next start does not share the machine with this one.
            pods.next(_of(name, "DELETED"), f"the end of {name}'s pod")
    p99 = statistics.quantiles(took_ms, n=100, method="inclusive")[98]
    return [judge("reaction_p50", took_ms, "ms", ""), judge("reaction_p99", [p99], "ms", "<= 100")]


def _bare_pod(stage: ClusterStage, pods: PodWatch, image: str) -> float:
    """Seconds from a pod's creation until it is seen to be Ready: one container that just runs.

    It has its service account's token, as every pod has unless it is told otherwise. That is a volume, and a kubelet
    looks each 300 ms whether volumes are mounted: a pod without any is Ready so much earlier, and can hold nothing.
    """
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "infinity"],
        "securityContext": _CLOSED,
    }
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
    apply(stage.namespace, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bare"}, "spec": spec})

    def is_bare(change: Change) -> bool:
        return bool(change.pod["metadata"]["name"] == "bare")

    created = pods.next(lambda change: is_bare(change) and change.kind == "ADDED", "the bare pod").at
    ready = pods.next(lambda change: is_bare(change) and change.ready, "the bare pod's start").at
    kubectl("delete", "pod", "bare", "-n", stage.namespace, "--wait=false")
    pods.next(lambda change: is_bare(change) and change.kind == "DELETED", "the bare pod's end")
    return ready - created


def cold_start_pod(stage: ClusterStage) -> list[Figure]:
    """The first call of a function without any pod, from request to answer, over a bare pod's start."""
    stage.deploy("cold", source=NO_OP, scale=COLD)
    with stage.pods() as pods:

        def cold() -> float:
            began = time.perf_counter()
            stage.invoke("cold")
            took = time.perf_counter() - began
            pods.next(_of("cold", "DELETED"), "the end of the cold function's pod")
            return took

        stage.invoke("cold")
        image = stage.runtime_image()
        pods.next(_of("cold", "DELETED"), "the end of the first pod")
        results = rotated_rounds(COLD_STARTS, {"bare": lambda: _bare_pod(stage, pods, image), "cold": cold})
    ratio = statistics.median(results["cold"]) / statistics.median(results["bare"])
    return [
        judge("cold_start_pod", [ratio], "x bare pod", "<= 1.3", floor_spread=spread(results["bare"])),
        judge("cold_start_pod_ms", [took * 1000 for took in results["cold"]], "ms", ""),
        judge("bare_pod_ms", [took * 1000 for took in results["bare"]], "ms", ""),
    ]


def burst_pods(stage: ClusterStage) -> list[Figure]:
    """200 calls of 100 ms at once to a function without any pod: how many pods, and how long until all is answered."""
    stage.deploy("burst", source=SLEEPER)
    with stage.pods() as pods, ThreadPoolExecutor(BURST_CALLS) as callers:
        began = time.perf_counter()
        calls = [callers.submit(stage.invoke, "burst") for _ in range(BURST_CALLS)]
        for call in calls:
            call.result()
        took = time.perf_counter() - began
        names = pods.names(_of("burst", "ADDED"))
    return [judge("burst_pods", [len(names)], "pods", "", timed=False), judge("burst_seconds", [took], "s", "")]


CLUSTER_CASES: dict[str, Callable[[ClusterStage], list[Figure]]] = {
    "reaction": reaction,
    "cold_start_pod": cold_start_pod,
    "burst_pods": burst_pods,
}
