"""What each instance of a function is doing: from the backend, its heartbeat and what it has leased. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from forebay_common.queue import InstanceReport
from forebay_controller.autoscale import Fleet

START_MAX_S = 120.0
"""An instance that says nothing for so long after its start will not come any more. Each runtime bounds its own
init far below this; the bound is for one that hangs before it can."""
DRAIN_MARGIN_S = 10.0
"""A draining instance may run its calls to their timeout, and then has this long to leave."""
HELD_UP_MAX_S = 600.0
"""An instance that waits for a node, or for its image, may do so for this long: it is what makes an autoscaler bring
a node. Then it makes way for a fresh attempt."""
SILENT_MAX_S = 60.0
"""A paused instance is killed after this: by then its leases are over, and it holds a place for nothing."""
RETURN_S = 5.0
"""So soon after Redis is back every instance has connected and sent its heartbeat."""


class State(StrEnum):
    """What an instance can do now; the values are labels of the metrics."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    DRAINING = "draining"
    FAILED = "failed"
    SILENT = "silent"
    """It runs, says the backend, but its heartbeat has expired: it is paused or cut off."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance as the controller knows it; times are seconds of the controller's clock.

    `ready_s`, `seen_s` (last heartbeat) and `drain_s` (when it was told to drain) are None until they happen.
    `refuses`: its own heartbeat says that it takes no further call, which a command to drain alone does not.
    `held_up`: why it does not come up for now; "" once it is ready. `init_failure`: why it answers calls with the error
    of its handler's start. `excused_s`: until then it is not silent, since Redis was away.
    """

    instance_id: str
    revision: int
    started_s: float
    state: State = State.STARTING
    reason: str = ""
    init_failure: str = ""
    pending: int = 0
    done: int = 0
    idle_since_s: float = 0.0
    ready_s: float | None = None
    seen_s: float | None = None
    drain_s: float | None = None
    refuses: bool = False
    held_up: str = ""
    excused_s: float = 0.0
    adopted: bool = False

    @property
    def serves(self) -> bool:
        """Whether it takes calls, now or once it is ready."""
        return self.state in _SERVING

    @property
    def takes_calls(self) -> bool:
        """Whether it takes calls now."""
        return self.state in _READY


_READY = frozenset({State.IDLE, State.BUSY})
_SERVING = _READY | {State.STARTING}


def observed(instance: Instance, heartbeat: InstanceReport | None, pending: int, now_s: float) -> Instance:
    """The instance after a look at its heartbeat and the number of calls it has leased."""
    if heartbeat is None:
        silent = instance.seen_s is not None and instance.drain_s is None and now_s >= instance.excused_s
        return replace(instance, pending=pending, state=State.SILENT if silent else instance.state)
    state = _state(instance, heartbeat, pending)
    used = pending > 0 or heartbeat.done != instance.done
    ready_s = instance.ready_s
    if ready_s is None and state in (State.IDLE, State.BUSY):
        ready_s = now_s
    return replace(
        instance,
        state=state,
        reason=heartbeat.reason,
        init_failure=heartbeat.init_failure,
        pending=pending,
        done=heartbeat.done,
        idle_since_s=now_s if used or instance.ready_s is None else instance.idle_since_s,
        ready_s=ready_s,
        seen_s=now_s,
        refuses=heartbeat.state in ("draining", "failed"),
        held_up=instance.held_up if ready_s is None else "",
    )


def after_absence(instance: Instance, gap_s: float, now_s: float) -> Instance:
    """The instance after `gap_s` in which nobody saw heartbeats: that time is not held against it.

    It could neither say that it lives nor leave, and has a moment to do so now.
    """
    return replace(
        instance,
        started_s=instance.started_s + gap_s,
        seen_s=None if instance.seen_s is None else instance.seen_s + gap_s,
        drain_s=None if instance.drain_s is None else instance.drain_s + gap_s,
        excused_s=now_s + RETURN_S,
    )


def _state(instance: Instance, heartbeat: InstanceReport, pending: int) -> State:
    if heartbeat.state == "failed":
        return State.FAILED
    if heartbeat.state == "draining" or instance.drain_s is not None:
        return State.DRAINING
    if heartbeat.state == "ready":
        return State.BUSY if pending else State.IDLE
    return State.STARTING


def fleet(instances: Iterable[Instance], revision: int) -> Fleet:
    """A function's instances counted for the scaling decision: those of `revision` serve, others leave.

    A silent instance counts as neither: nothing says that it will ever take a call again.
    """
    counts = dict.fromkeys(State, 0)
    leaving = 0
    for instance in instances:
        if instance.serves and instance.revision == revision:
            counts[instance.state] += 1
        elif instance.state is not State.SILENT:
            leaving += 1
    return Fleet(starting=counts[State.STARTING], idle=counts[State.IDLE], busy=counts[State.BUSY], leaving=leaving)


def to_drain(instances: Iterable[Instance], revision: int, count: int, *, busy_too: bool = False) -> list[str]:
    """Which instances leave: the longest idle first, then the youngest still starting; busy ones only if told so."""
    serving = [instance for instance in instances if instance.revision == revision]
    idle = sorted((i for i in serving if i.state is State.IDLE), key=lambda i: i.idle_since_s)
    starting = sorted((i for i in serving if i.state is State.STARTING), key=lambda i: -i.started_s)
    busy = sorted((i for i in serving if i.state is State.BUSY and busy_too), key=lambda i: -i.started_s)
    return [instance.instance_id for instance in (idle + starting + busy)[:count]]


def longest_idle(instances: Iterable[Instance]) -> Instance | None:
    """The instance that has been idle for longest; None when none is idle."""
    idle = (instance for instance in instances if instance.state is State.IDLE)
    return min(idle, key=lambda instance: instance.idle_since_s, default=None)


def outdated(instances: Iterable[Instance], revision: int) -> list[str]:
    """Instances of another revision that still take calls: they are told to drain."""
    return [i.instance_id for i in instances if i.serves and i.revision != revision]


def to_replace(instances: Iterable[Instance], revision: int, wanted: int, instances_max: int) -> list[str]:
    """Which instances of another revision leave now, while new ones take their place: idle ones first.

    One whose handlers do not come up answers every call with that, so nothing is gained by keeping it. Of `wanted`
    instances each that is not ready yet in the new revision may be an older one, as long as there is room for a
    newcomer beside them within `instances_max`.
    """
    known = list(instances)
    new = [i for i in known if i.serves and i.revision == revision]
    broken = [i.instance_id for i in known if i.serves and i.revision != revision and i.init_failure]
    older = [i for i in known if i.serves and i.revision != revision and not i.init_failure]
    ready = sum(i.state is not State.STARTING for i in new)
    room = instances_max - len(new) - sum(not i.serves for i in known) - int(len(new) < wanted)
    keep = max(0, min(wanted - ready, room))
    order = {State.STARTING: 0, State.IDLE: 1, State.BUSY: 2}
    older.sort(key=lambda i: (order[i.state], i.idle_since_s))
    return broken + [i.instance_id for i in older[: max(0, len(older) - keep)]]


def held_up(instances: Iterable[Instance], revision: int) -> str:
    """Why nobody serves although instances were started: none comes up for now. "" while one serves, or may still."""
    serving = [i for i in instances if i.serves]
    return serving[0].held_up if serving and all(i.held_up and i.revision == revision for i in serving) else ""


def older_take_calls(instances: Iterable[Instance], revision: int) -> bool:
    """Whether an instance of an older revision may still take a call: an update is not finished before."""
    return any(i.revision < revision and not i.refuses for i in instances)


def came_up_after_drain(instance: Instance) -> bool:
    """Whether an instance that was told to leave says that it takes calls: it did not hear of it."""
    if instance.state is not State.DRAINING or instance.drain_s is None or instance.seen_s is None:
        return False
    return instance.seen_s > instance.drain_s and not instance.refuses


def overdue(instance: Instance, timeout_s: float, now_s: float) -> str:
    """Why an instance has to be killed, in words for people; "" when it may go on."""
    if instance.drain_s is not None and now_s - instance.drain_s > timeout_s + DRAIN_MARGIN_S:
        return "it did not leave after it was told to"
    if instance.held_up:
        return instance.held_up if now_s - instance.started_s > HELD_UP_MAX_S else ""
    if instance.state is State.STARTING and now_s - instance.started_s > START_MAX_S + timeout_s:
        return f"it was not ready within {START_MAX_S + timeout_s:.0f} s"
    if instance.state is State.SILENT and instance.seen_s is not None and now_s - instance.seen_s > SILENT_MAX_S:
        return "it has not been heard of for too long"
    return ""
