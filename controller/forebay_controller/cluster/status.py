"""A Function's status: what the leader knows of it, as conditions, figures and words for people. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from forebay_common.spec import FunctionSpec
from forebay_controller import registry_rules as rules
from forebay_controller.cluster.api import Object
from forebay_controller.cluster.resource import FunctionResource, settings_hash
from forebay_controller.interfaces import FunctionStatus

READY = "Ready"
CODE_READY = "CodeReady"
ISOLATED = "Isolated"
INIT_FAILED = "InitFailed"
INSTANCES_HEALTHY = "InstancesHealthy"
MESSAGE_MAX_CHARS = 2_000
IMAGE = "image"
"""What stands in place of a runtime for a function with an image of its own."""

FIGURES = frozenset({"queued", "inFlight", "idleInstances", "busyInstances", "deadLetters"})
"""They move with every call: they alone are worth a write only now and then."""


class Problem(NamedTuple):
    """Why a Function's spec cannot be acted on: one word for programs, a sentence for people.

    `may_pass`: it may be over without anybody changing the Function.
    """

    about: Literal["name", "spec", "code", "access"]
    reason: str
    message: str
    may_pass: bool


@dataclass(frozen=True, slots=True)
class Accepted:
    """A spec that instances run by: of which generation, and from which code source (its fingerprint)."""

    spec: FunctionSpec
    generation: int
    code_source: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that a status is made of.

    `applied_revision`: no instance of an older one takes calls any more. `image`: what its handlers run in.
    `redis_shared`: it has no Redis user of its own.
    """

    resource: FunctionResource
    accepted: Accepted | None
    problem: Problem | None
    observed: FunctionStatus
    applied_revision: int
    selector: str
    image: str
    redis_shared: bool


class _Condition(NamedTuple):
    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str
    generation: int


def build(facts: Facts, before: Mapping[str, Any], now: datetime) -> Object:
    """The status; equal to the one before when nothing has changed. `now` is in UTC."""
    resource, accepted, observed = facts.resource, facts.accepted, facts.observed
    conditions = (_ready(facts), _code_ready(facts), _instances_healthy(facts), *_isolated(facts))
    ready = conditions[0]
    known = resource.observed if accepted is None and facts.problem is None else True
    spec = resource.spec if accepted is None else accepted.spec
    is_ready = ready.status == "True"
    failed_update = accepted is not None and facts.problem is not None
    status: Object = {
        "observedGeneration": resource.generation if known else before.get("observedGeneration"),
        "observedSpec": resource.spec_hash if known else before.get("observedSpec"),
        "functionName": spec.name,
        "invokePath": f"/ns/{spec.namespace}/fn/{spec.name}",
        "ready": "True" if is_ready else f"False: kubectl describe fn {spec.pod.resource_name} -n {spec.namespace}",
        "reason": _why(facts, ready),
        "message": "" if is_ready and not failed_update else _message(facts, ready),
        "state": _state(facts),
        "updateFailed": facts.problem.message if failed_update and facts.problem else "",
        "runtime": IMAGE if spec.pod.image else spec.runtime,
        "image": facts.image or None,
        "instances": observed.starting + observed.idle + observed.busy,
        "readyInstances": observed.idle + observed.busy,
        "startingInstances": observed.starting,
        "idleInstances": observed.idle,
        "busyInstances": observed.busy,
        "drainingInstances": observed.draining,
        "capacity": observed.capacity,
        "selector": facts.selector,
        "queued": observed.queued,
        "inFlight": observed.in_flight,
        "deadLetters": observed.dead_letters,
        "cannotStart": observed.cannot_start,
        "retryTime": _time(observed.retry_at_ms),
        "conditions": [_written(condition, before, now) for condition in conditions],
        **_revision(facts, before),
    }
    return {name: value for name, value in status.items() if value is not None}


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> Object:
    """A merge patch that leads from one status to the other; {} when they are equal."""
    patch: Object = {name: None for name in before if name not in after}
    return patch | {name: value for name, value in after.items() if before.get(name) != value}


def figures_only(patch: Mapping[str, Any]) -> bool:
    """Whether nothing changed but what moves with every call."""
    return patch.keys() <= FIGURES


def read_observed(status: Mapping[str, Any]) -> FunctionStatus:
    """What the leader saw last, for replicas that are not it."""
    healthy = _condition(status, INSTANCES_HEALTHY)
    held_back = healthy.get("reason") in _HELD_BACK.values()
    return FunctionStatus(
        capacity=status.get("capacity", 0),
        cannot_start=status.get("cannotStart", ""),
        retry_at_ms=_milliseconds(status.get("retryTime", "")),
        queued=status.get("queued", 0),
        in_flight=status.get("inFlight", 0),
        dead_letters=status.get("deadLetters", 0),
        starting=status.get("startingInstances", 0),
        idle=status.get("idleInstances", 0),
        busy=status.get("busyInstances", 0),
        draining=status.get("drainingInstances", 0),
        init_failure=healthy.get("message", "") if healthy.get("reason") == INIT_FAILED else "",
        reason=healthy.get("message", "") if held_back or healthy.get("status") == "False" else "",
        held_back=held_back,
    )


def ready_generation(status: Mapping[str, Any]) -> int:
    """Which generation's spec instances run by, as its condition Ready says; 0 when it does not."""
    generation: int = _condition(status, READY).get("observedGeneration", 0)
    return generation


def why_word(text: str) -> str:
    """One word for programs for what keeps an instance from running, by the words for people."""
    return next((word for fragment, word in _WORDS if fragment in text), "StartFailed")


def _revision(facts: Facts, before: Mapping[str, Any]) -> Object:
    """What the next leader, and every replica, must know of the accepted spec."""
    accepted = facts.accepted
    if accepted is None:
        names = ("revision", "settingsHash", "appliedRevision", "codeSource", "codeSha256", "codeSize")
        return {name: before.get(name) for name in names}
    return {
        "revision": accepted.spec.revision,
        "settingsHash": settings_hash(accepted.spec),
        "appliedRevision": max(facts.applied_revision, before.get("appliedRevision", 0)),
        "codeSource": accepted.code_source or None,
        "codeSha256": accepted.spec.code_sha256 or None,
        "codeSize": accepted.spec.code_size or None,
    }


def _state(facts: Facts) -> str:
    if facts.accepted is not None:
        return rules.ACTIVE
    return rules.FAILED if facts.problem is not None and not facts.problem.may_pass else rules.PENDING


def _ready(facts: Facts) -> _Condition:
    """Whether calls are answered: about the generation whose spec answers them, which may be an older one."""
    accepted, problem, observed = facts.accepted, facts.problem, facts.observed
    if facts.resource.deleting:
        text = "It is removed as soon as what it runs has ended"
        return _Condition(READY, "False", "Deleting", text, facts.resource.generation)
    if accepted is None:
        if problem is None:
            return _Condition(READY, "Unknown", "Pending", "The platform is about to take it up", 0)
        return _Condition(READY, "False", problem.reason, problem.message, facts.resource.generation)
    if observed.cannot_start:
        reason = why_word(observed.cannot_start)
        return _Condition(READY, "False", reason, _cannot_start(facts), accepted.generation)
    if observed.init_failure:
        return _Condition(READY, "False", INIT_FAILED, _init_failed(facts), accepted.generation)
    text = "Calls are answered"
    if problem is not None:
        text = f"Calls are answered by revision {accepted.spec.revision}, as it was before the last change"
    return _Condition(READY, "True", "CallsAnswered", text, accepted.generation)


def _code_ready(facts: Facts) -> _Condition:
    problem, resource = facts.problem, facts.resource
    if resource.code is None:
        return _Condition(CODE_READY, "True", "Image", "The image brings its own code", resource.generation)
    if problem is not None and problem.about == "code":
        return _Condition(CODE_READY, "False", problem.reason, problem.message, resource.generation)
    accepted = facts.accepted
    if accepted is not None and accepted.code_source == resource.code.fingerprint:
        text = f"The package {accepted.spec.code_sha256[:12]} is stored, {accepted.spec.code_size} bytes"
        return _Condition(CODE_READY, "True", "Stored", text, resource.generation)
    return _Condition(CODE_READY, "Unknown", "Pending", "The code has not been looked at yet", 0)


def _instances_healthy(facts: Facts) -> _Condition:
    observed = facts.observed
    generation = facts.accepted.generation if facts.accepted is not None else facts.resource.generation
    running = observed.starting + observed.idle + observed.busy
    if observed.reason and observed.held_back:
        word = next((word for part, word in _HELD_BACK.items() if part in observed.reason), "HeldBack")
        return _Condition(INSTANCES_HEALTHY, "True", word, observed.reason, generation)
    if observed.init_failure:
        return _Condition(INSTANCES_HEALTHY, "False", INIT_FAILED, observed.init_failure, generation)
    if observed.reason or observed.cannot_start:
        reason = observed.cannot_start or observed.reason
        return _Condition(INSTANCES_HEALTHY, "False", why_word(reason), observed.reason or reason, generation)
    if not running:
        text = "None runs: the next call starts one" if facts.accepted is not None else "None runs"
        return _Condition(INSTANCES_HEALTHY, "True", "NoneNeeded", text, generation)
    return _Condition(INSTANCES_HEALTHY, "True", "Running", "Instances run, or are on their way", generation)


def _isolated(facts: Facts) -> tuple[_Condition, ...]:
    """Said only where something is missing: an operator chose that, and whoever uses the function should know."""
    if not facts.redis_shared:
        return ()
    text = "All functions' runtimes use one Redis user (the chart's value redis.acl is shared), which reaches all keys"
    return (_Condition(ISOLATED, "False", "SharedRedisUser", text, facts.resource.generation),)


def _cannot_start(facts: Facts) -> str:
    spec = facts.resource.spec
    reason = facts.observed.cannot_start
    word = why_word(reason)
    look = _LOOK.get(word, "kubectl logs -n {namespace} -l {selector} -c handlers --tail=50")
    command = look.format(namespace=spec.namespace, selector=facts.selector, name=spec.pod.resource_name)
    return f"No instance comes up: {reason}. Next: {command}"


def _init_failed(facts: Facts) -> str:
    spec = facts.resource.spec
    container = "handlers" if spec.pod.image else "runtime"
    command = f"kubectl logs -n {spec.namespace} -l {facts.selector} -c {container} --tail=50"
    return f"No handler comes up, and each call is answered with that: {facts.observed.init_failure}. Next: {command}"


def _why(facts: Facts, ready: _Condition) -> str:
    if facts.accepted is not None and facts.problem is not None and ready.status == "True":
        return facts.problem.reason
    return "" if ready.status == "True" else ready.reason


def _message(facts: Facts, ready: _Condition) -> str:
    if ready.status == "True" and facts.problem is not None:
        return f"The last change is not applied: {facts.problem.message}"[:MESSAGE_MAX_CHARS]
    return ready.message[:MESSAGE_MAX_CHARS]


def _written(condition: _Condition, before: Mapping[str, Any], now: datetime) -> Object:
    old = _condition(before, condition.type)
    same = old.get("status") == condition.status
    since = old.get("lastTransitionTime") if same else None
    written: Object = {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message[:MESSAGE_MAX_CHARS],
        "lastTransitionTime": since or _stamp(now),
    }
    if condition.generation:
        written["observedGeneration"] = condition.generation
    return written


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return next((item for item in status.get("conditions", ()) if item.get("type") == kind), {})


def _time(unix_ms: int) -> str | None:
    return _stamp(datetime.fromtimestamp(unix_ms / 1000, UTC)) if unix_ms else None


def _stamp(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _milliseconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000) if text else 0


_HELD_BACK = {"the platform runs as many": "PlatformFull", "as many instances as it may": "MaximumReached"}
_WORDS = (
    ("its image", "ImagePullFailed"),
    ("no node has room", "Unschedulable"),
    ("keeps its pod from being scheduled", "Unschedulable"),
    ("more than its memory", "OutOfMemory"),
    ("ran out of memory", "OutOfMemory"),
    ("was evicted", "Evicted"),
    ("had to make room", "Preempted"),
    ("its node", "NodeLost"),
    ("cannot be configured", "ContainerConfigError"),
    ("cannot be made", "ContainerConfigError"),
    ("cannot be started", "ContainerConfigError"),
    ("it was not ready within", "InitTimedOut"),
)
"""What the words for people hold, and the one word for it; the first that fits."""
_PODS = "kubectl describe pods -n {namespace} -l {selector}"
_LOOK = {
    "ImagePullFailed": _PODS,
    "Unschedulable": _PODS,
    "ContainerConfigError": _PODS,
    "Evicted": "kubectl get events -n {namespace}",
    "NodeLost": "kubectl get nodes",
    "OutOfMemory": "kubectl edit fn {name} -n {namespace}, and raise spec.memory",
}
