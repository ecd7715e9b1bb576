"""What a pod's status says of the instance in it, in words for people (pure)."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from forebay_controller.cluster.api import Object
from forebay_controller.cluster.pod_template import HANDLERS, RUNTIME

TEXT_MAX_CHARS = 600
"""A reason goes into conditions, events and callers' answers; a kubelet's can be pages long."""

_HELD_UP = {
    "ErrImagePull": "its image cannot be pulled",
    "ImagePullBackOff": "its image cannot be pulled",
    "ErrImageNeverPull": "its image is not on the node and is never to be pulled",
    "InvalidImageName": "its image's name is not valid",
    "ImageInspectError": "its image cannot be read",
    "RegistryUnavailable": "its image's registry does not answer",
    "SignatureValidationFailed": "its image's signature is not valid",
    "CreateContainerConfigError": "its container cannot be configured",
    "CreateContainerError": "its container cannot be made",
    "RunContainerError": "its container cannot be started",
}
"""The kubelet's reasons for a container that waits and will not come up before something changes."""
_POD_REASONS = {
    "Evicted": "its pod was evicted",
    "NodeLost": "its node was lost",
    "Preempting": "its pod had to make room",
    "Shutdown": "its node was shut down",
    "Terminated": "its node was shut down",
    "DeadlineExceeded": "its pod ran for too long",
    "UnexpectedAdmissionError": "its node did not take the pod",
}
_DISRUPTIONS = {
    "PreemptionByScheduler": "its pod had to make room for one of higher priority",
    "DeletionByTaintManager": "its node is not usable any more",
    "DeletionByPodGC": "its node is gone",
    "TerminationByKubelet": "its node ended the pod",
}
"""Reasons of the condition DisruptionTarget. An eviction through the API (`kubectl drain`) ends in good order."""
_SIGNAL_BASE = 128
_OOM_KILLED = "OOMKilled"


class Phase(Enum):
    """How far an instance's pod is."""

    COMING = auto()
    HELD_UP = auto()
    UP = auto()
    HANDLERS_ENDED = auto()
    """The runtime still answers what it holds, then it is of no use."""
    ENDED = auto()
    """The runtime has ended: nothing is leased or answered any more."""


@dataclass(frozen=True, slots=True)
class PodView:
    """`reason`: why it is held up, or why it ended; "" when it ended as it was asked to."""

    phase: Phase
    reason: str = ""


def judge(pod: Object) -> PodView:
    """What a pod says of its instance."""
    status = pod.get("status") or {}
    containers = {item["name"]: item for item in status.get("containerStatuses") or ()}
    runtime, handlers = (_terminated(containers.get(name)) for name in (RUNTIME, HANDLERS))
    if runtime is not None or status.get("phase") in {"Failed", "Succeeded"}:
        return PodView(Phase.ENDED, _end_reason(status, runtime, handlers))
    if handlers is not None:
        return PodView(Phase.HANDLERS_ENDED, _handlers_reason(handlers))
    held_up = _held_up(status, containers)
    if held_up:
        return PodView(Phase.HELD_UP, held_up)
    running = all("running" in (item.get("state") or {}) for item in containers.values())
    return PodView(Phase.UP if containers and running else Phase.COMING)


def end_of(pod: Object) -> str:
    """Why an instance ended whose pod is gone from the API, by the last state that was seen of it."""
    view = judge(pod)
    if view.phase in {Phase.ENDED, Phase.HANDLERS_ENDED}:
        return view.reason
    return _disruption(pod.get("status") or {})


def _terminated(container: dict[str, Any] | None) -> dict[str, Any] | None:
    found = ((container or {}).get("state") or {}).get("terminated")
    return found if isinstance(found, dict) else None


def _end_reason(status: Object, runtime: dict[str, Any] | None, handlers: dict[str, Any] | None) -> str:
    pod_reason = status.get("reason", "")
    if pod_reason:
        text = _POD_REASONS.get(pod_reason, f"its node did not take the pod ({pod_reason})")
        return _with(text, status.get("message"))
    disruption = _disruption(status)
    if disruption and not (runtime is not None and runtime.get("exitCode") == 0):
        return disruption
    if handlers is not None and handlers.get("reason") == _OOM_KILLED:
        return _handlers_reason(handlers)
    if runtime is None:
        return "its pod ended before its runtime was started"
    if runtime.get("exitCode") == 0:
        return ""
    if runtime.get("reason") == _OOM_KILLED:
        return "its runtime ran out of memory and was killed"
    words = _last_words(runtime)
    # The runtime says what it saw; when it saw only its handlers go, theirs are the words that tell why.
    if handlers is not None and handlers.get("exitCode") and not words:
        return _handlers_reason(handlers)
    return words or f"its runtime {_how(runtime)}"


def _handlers_reason(handlers: dict[str, Any]) -> str:
    if handlers.get("reason") == _OOM_KILLED:
        return "the function used more than its memory and was killed"
    if handlers.get("reason") in {"StartError", "ContainerCannotRun"}:
        return _with("the function's program cannot be started", handlers.get("message"))
    return _with(f"the function's program {_how(handlers)}", _last_words(handlers))


def _how(terminated: dict[str, Any]) -> str:
    code = terminated.get("exitCode", 0)
    if code > _SIGNAL_BASE:
        return f"was killed by signal {code - _SIGNAL_BASE}"
    return f"ended with exit code {code}"


def _last_words(terminated: dict[str, Any]) -> str:
    """The last line of what a container said in the end."""
    lines = [line.strip() for line in (terminated.get("message") or "").splitlines() if line.strip()]
    return lines[-1][:TEXT_MAX_CHARS] if lines else ""


def _held_up(status: Object, containers: dict[str, dict[str, Any]]) -> str:
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            if condition.get("reason") == "SchedulingGated":
                return "something outside the platform keeps its pod from being scheduled"
            return _with("no node has room for it", condition.get("message"))
    for waiting in _waiting(containers):
        text = _HELD_UP.get(waiting.get("reason", ""))
        if text is not None:
            return _with(text, waiting.get("message"))
    return ""


def _waiting(containers: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for item in containers.values():
        waiting = (item.get("state") or {}).get("waiting")
        if waiting:
            yield waiting


def _disruption(status: Object) -> str:
    for condition in status.get("conditions") or ():
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            text = _DISRUPTIONS.get(condition.get("reason", ""))
            if text is not None:
                return _with(text, condition.get("message"))
    return ""


def _with(text: str, detail: str | None) -> str:
    detail = " ".join((detail or "").split())
    return f"{text}: {detail}"[:TEXT_MAX_CHARS] if detail else text
