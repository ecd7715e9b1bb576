"""What a pod's status says of its instance; statuses are as kubelets and schedulers write them."""

from typing import Any

import pytest

from forebay_controller.cluster.pod_status import TEXT_MAX_CHARS, Phase, PodView, end_of, judge

RUNNING = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}


def pod(runtime: dict[str, Any] | None = None, handlers: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    states = {"runtime": runtime, "handlers": handlers}
    containers = [{"name": name, "state": state} for name, state in states.items() if state is not None]
    return {"metadata": {"name": "fn-hello"}, "status": {"phase": "Running", "containerStatuses": containers, **status}}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


def ended(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


def condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, Any]:
    return {"conditions": [{"type": kind, "status": status, "reason": reason, "message": message}]}


UNSCHEDULABLE = condition("PodScheduled", "False", "Unschedulable", "0/1 nodes are available: 1 Insufficient memory.")


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        pytest.param({"status": {}}, Phase.COMING, id="just created"),
        pytest.param({"status": {"phase": "Pending"}}, Phase.COMING, id="not scheduled yet"),
        pytest.param(pod(waiting("ContainerCreating"), waiting("ContainerCreating")), Phase.COMING, id="being made"),
        pytest.param(pod(RUNNING, waiting("ContainerCreating")), Phase.COMING, id="one runs"),
        pytest.param(pod(RUNNING, RUNNING), Phase.UP, id="both run"),
    ],
)
def test_a_pod_on_its_way(status: dict[str, Any], phase: Phase) -> None:
    assert judge(status) == PodView(phase)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        pytest.param(
            {"status": {"phase": "Pending", **UNSCHEDULABLE}},
            "no node has room for it: 0/1 nodes are available: 1 Insufficient memory.",
            id="unschedulable",
        ),
        pytest.param(
            pod(RUNNING, waiting("ErrImagePull", "no such image")),
            "its image cannot be pulled: no such image",
            id="image",
        ),
        pytest.param(
            pod(RUNNING, waiting("ImagePullBackOff", "Back-off pulling\nimage")),
            "its image cannot be pulled: Back-off pulling image",
            id="image, again",
        ),
        pytest.param(
            pod(RUNNING, waiting("CreateContainerConfigError", 'secret "db" not found')),
            'its container cannot be configured: secret "db" not found',
            id="a secret that is not there",
        ),
        pytest.param(pod(waiting("InvalidImageName"), None), "its image's name is not valid", id="without a message"),
    ],
)
def test_a_pod_that_does_not_come_up_for_now_says_why(status: dict[str, Any], reason: str) -> None:
    assert judge(status) == PodView(Phase.HELD_UP, reason)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        pytest.param(pod(ended(0, "Completed"), RUNNING), "", id="it drained"),
        pytest.param(
            pod(ended(1, message="starting\nits handler cannot be imported\n"), ended(0)),
            "its handler cannot be imported",
            id="its runtime says why",
        ),
        pytest.param(pod(ended(1), RUNNING), "its runtime ended with exit code 1", id="without words"),
        pytest.param(pod(ended(137), RUNNING), "its runtime was killed by signal 9", id="killed"),
        pytest.param(
            pod(ended(137, "OOMKilled"), RUNNING), "its runtime ran out of memory and was killed", id="runtime's memory"
        ),
        pytest.param(
            pod(ended(1, message="the handlers' program is gone"), ended(137, "OOMKilled")),
            "the function used more than its memory and was killed",
            id="the function's memory",
        ),
        pytest.param(
            pod(ended(1), ended(3, message="Traceback\nKeyError: 'x'")),
            "the function's program ended with exit code 3: KeyError: 'x'",
            id="the handlers' last words",
        ),
        pytest.param(
            pod(None, None, phase="Failed", reason="Evicted", message="The node was low on resource: memory."),
            "its pod was evicted: The node was low on resource: memory.",
            id="evicted",
        ),
        pytest.param(
            pod(None, None, phase="Failed", reason="OutOfcpu", message="Pod was rejected"),
            "its node did not take the pod (OutOfcpu): Pod was rejected",
            id="rejected",
        ),
        pytest.param(
            pod(
                ended(137), ended(137), phase="Failed", **condition("DisruptionTarget", "True", "PreemptionByScheduler")
            ),
            "its pod had to make room for one of higher priority",
            id="preempted",
        ),
        pytest.param(
            pod(
                ended(0), ended(0), phase="Succeeded", **condition("DisruptionTarget", "True", "EvictionByEvictionAPI")
            ),
            "",
            id="drained by kubectl",
        ),
    ],
)
def test_a_pod_whose_runtime_has_ended_says_why(status: dict[str, Any], reason: str) -> None:
    assert judge(status) == PodView(Phase.ENDED, reason)


def test_handlers_that_ended_alone_leave_the_runtime_its_last_answers() -> None:
    status = pod(RUNNING, ended(128, "StartError", 'exec: "/nothing": no such file'))
    assert judge(status).phase is Phase.HANDLERS_ENDED
    assert judge(status).reason == 'the function\'s program cannot be started: exec: "/nothing": no such file'


def test_a_pod_that_somebody_deleted_ended_as_asked_and_one_whose_node_went_did_not() -> None:
    assert end_of(pod(RUNNING, RUNNING)) == ""
    gone = pod(RUNNING, RUNNING, **condition("DisruptionTarget", "True", "DeletionByTaintManager"))
    assert end_of(gone) == "its node is not usable any more"


def test_a_kubelets_pages_become_a_sentence() -> None:
    assert len(judge(pod(RUNNING, waiting("ErrImagePull", "x" * 10_000))).reason) == TEXT_MAX_CHARS
