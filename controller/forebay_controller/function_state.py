"""What the reconciler remembers of one function between two looks, and what it tells others about it."""

import asyncio
import math
from dataclasses import dataclass, field, replace
from enum import IntEnum

from forebay_common.queue import InstanceReport, QueueState, StreamState, VersionQueue
from forebay_common.spec import FunctionSpec
from forebay_controller.autoscale import Bounds, Decision, Load, Reason
from forebay_controller.backoff import Backoff
from forebay_controller.demand import Demand
from forebay_controller.instances import Instance, State, fleet, held_up
from forebay_controller.interfaces import FunctionStatus, InstanceBackend

EMPTY_QUEUE = QueueState(StreamState(0), StreamState(0))
HELD_UP_RETRY_S = 5.0
"""While no instance comes up, gateways let a call through this often: it keeps the need for the instance alive."""
REPORTS_EVERY_S = 1.0
"""Heartbeats of instances whose state is settled are read this often: they change every few seconds."""


class Tempo(IntEnum):
    """How often a function is looked at without being asked."""

    COLD = 0
    """Nothing to do: in the slow sweep only."""
    WARM = 1
    """It has instances or delayed events."""
    HOT = 2
    """It has work, or an instance that comes or goes."""


@dataclass(slots=True)
class FunctionState:
    """One function: its spec, its queue as last seen, its instances and its history."""

    spec: FunctionSpec
    queue: VersionQueue
    seen: QueueState = EMPTY_QUEUE
    demand: Demand = field(default_factory=Demand)
    backoff: Backoff = field(default_factory=Backoff)
    instances: dict[str, Instance] = field(default_factory=dict)
    reports: dict[str, InstanceReport | None] = field(default_factory=dict)
    reports_s: float = float("-inf")
    status: FunctionStatus = field(default_factory=FunctionStatus)
    published: FunctionStatus | None = None
    published_s: float = float("-inf")
    publishing: bool = False
    applied_revision: int = 0
    retiring: bool = False
    held_up_retry_s: float = float("-inf")
    """When gateways are to let the next call through while no instance comes up."""
    held_up_last: str = ""
    """What held the last instance up; it holds until one gets further, also when none is left that waits."""
    init_failure: str = ""
    """Why the instances that were ready last had no handler; it holds until one has, also when none is left."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it retires and its last instance has ended."""

    @property
    def serving(self) -> int:
        """Instances of the current revision that take calls, now or once they are ready."""
        return fleet(self.instances.values(), self.spec.revision).serving

    @property
    def tempo(self) -> Tempo:
        """How often to look at it, by what was seen last."""
        moving = any(i.state in (State.STARTING, State.DRAINING, State.FAILED) for i in self.instances.values())
        if moving or self.seen.sync.length or self.seen.async_.length:
            return Tempo.HOT
        if self.instances or self.seen.delayed or self.spec.scale.min_instances or self.retiring:
            return Tempo.WARM
        return Tempo.COLD

    def reports_due(self, now_s: float) -> bool:
        """Whether the heartbeats have to be read with the next look.

        Before the first results every look asks for them: what is started meanwhile is started blindly.
        """
        if self.demand.handler_s is None:
            return True
        settled = all(i.state in (State.IDLE, State.BUSY) for i in self.instances.values())
        return not settled or now_s - self.reports_s >= REPORTS_EVERY_S

    def load(self, now_s: float) -> Load:
        """The observations that the scaling decision is made from."""
        serving = [i for i in self.instances.values() if i.serves and i.revision == self.spec.revision]
        concurrency = self.spec.scale.concurrency
        return Load(
            queued=self.seen.sync.queued + self.seen.async_.queued,
            in_flight=sum(instance.pending for instance in serving),
            busy_slots=sum(min(instance.pending, concurrency) for instance in serving),
            handler_s=self.demand.handler_s,
            own_s=self.demand.own_s,
            start_s=self.demand.start_s,
            standing_s=self.demand.standing_s(now_s),
            recent_instances=self.demand.recent_instances(now_s, self.spec.scale.idle_s),
        )

    def bounds(self, now_s: float, platform_free: int, backend: InstanceBackend) -> Bounds:
        """The limits that hold for the decision."""
        return Bounds(
            min_instances=max(self.spec.scale.min_instances, self.replacements(now_s)),
            max_instances=self.spec.scale.max_instances,
            concurrency=self.spec.scale.concurrency,
            platform_free=platform_free,
            quick_instances_max=backend.quick_instances_max,
            failing=self.backoff.failing,
            backing_off=self.backoff.blocks(now_s),
        )

    def note_needed(self, now_s: float, decision: Decision) -> None:
        """Remember what the load needs, also what only the counters have seen of it.

        Before the first results the need is a guess that errs on the side of starting. No more than one instance of
        it is remembered, or those that a first burst of short calls turns out not to need would stay for the whole
        idle window. That one is: a first call may be over before any counter tells of it.
        """
        used = math.ceil(self.demand.slots_used(now_s) / self.spec.scale.concurrency)
        needed = max(min(decision.needed, 1) if self.demand.handler_s is None else decision.needed, used)
        self.demand.note_needed(now_s, min(needed, self.spec.scale.max_instances))

    @property
    def hopeless(self) -> bool:
        """Starts fail and none is under way: nobody will serve the queued calls before the next attempt."""
        return self.backoff.failing and not any(i.serves for i in self.instances.values())

    @property
    def held_up(self) -> str:
        """Why none of its instances comes up for now; "" when one serves, or is on its way."""
        return held_up(self.instances.values(), self.spec.revision)

    def note_held_up(self, instance_id: str, held_up: str) -> None:
        """What the backend says of an instance: why it does not come up for now, "" when nothing is in its way."""
        instance = self.instances[instance_id]
        if instance.held_up != held_up and instance.ready_s is None:
            self.instances[instance_id] = replace(instance, held_up=held_up)
            self.held_up_last = held_up

    def note_troubles(self) -> None:
        """Remember what its instances suffer from, until one shows that it is over."""
        ready = [i for i in self.instances.values() if i.takes_calls and i.revision == self.spec.revision]
        if ready:
            self.held_up_last = ""
            self.init_failure = ready[0].init_failure if all(i.init_failure for i in ready) else ""

    def forget_troubles(self) -> None:
        """What kept an older revision from starting says nothing of a new one."""
        self.backoff = Backoff()
        self.held_up_last = self.init_failure = ""

    def replacements(self, now_s: float) -> int:
        """How many instances of the current revision take the places of older ones that still serve; 0 without any."""
        older = sum(i.serves and i.revision != self.spec.revision for i in self.instances.values())
        scale = self.spec.scale
        recent = self.demand.recent_instances(now_s, scale.idle_s)
        return min(older + self.serving, max(1, scale.min_instances, recent), scale.max_instances) if older else 0

    def refusal(self, now_s: float) -> str:
        """Why the queued calls are to be refused now; "" when they may wait."""
        if self.hopeless and self.backoff.blocks(now_s):
            return self.backoff.reason
        return self.held_up

    def cannot_start(self) -> str:
        """Why calls cannot be served; "" when they can.

        A failure among several first starts says nothing yet, while one of them may still succeed. Once it has
        been told, it stays until an instance is ready: the attempts in between are not worth an announcement, and
        that nobody asks for an instance for a while mends nothing.
        """
        ready = any(i.takes_calls for i in self.instances.values())
        told = self.hopeless or bool(self.status.cannot_start)
        failed = self.backoff.reason if self.backoff.failing and told and not ready else ""
        return self.held_up or failed or ("" if ready else self.held_up_last)

    def observed_status(self, decision: Decision, now_s: float, unix_offset_s: float) -> FunctionStatus:
        """What is told about the function; `unix_offset_s` leads from the controller's clock to Unix time."""
        counts = fleet(self.instances.values(), self.spec.revision)
        reason = self.cannot_start()
        if self.held_up and now_s >= self.held_up_retry_s:
            self.held_up_retry_s = now_s + HELD_UP_RETRY_S
        retry_s = self.backoff.retry_at_s if self.backoff.failing and not self.held_up else self.held_up_retry_s
        return FunctionStatus(
            capacity=counts.serving * self.spec.scale.concurrency,
            cannot_start=reason,
            init_failure="" if reason else self.init_failure,
            retry_at_ms=math.ceil((retry_s + unix_offset_s) * 1000) if reason else 0,
            queued=self.seen.sync.queued + self.seen.async_.queued,
            in_flight=self.seen.sync.in_flight + self.seen.async_.in_flight,
            dead_letters=self.seen.dead,
            starting=counts.starting,
            idle=counts.idle,
            busy=counts.busy,
            draining=counts.leaving,
            reason=reason or self._held_back(decision),
            held_back=not reason and decision.reason in {Reason.MAXIMUM, Reason.PLATFORM_FULL},
        )

    def _held_back(self, decision: Decision) -> str:
        if decision.reason is Reason.MAXIMUM:
            return f"calls wait: it runs as many instances as it may ({self.spec.scale.max_instances})"
        if decision.reason is Reason.PLATFORM_FULL:
            return "calls wait: the platform runs as many instances as it may"
        waiting = [i.held_up for i in self.instances.values() if i.held_up and i.serves]
        if waiting:
            return f"{len(waiting)} of its instances do not come up: {waiting[0]}"
        if self.init_failure:
            return f"no handler comes up: {self.init_failure}"
        return f"an instance did not start: {self.backoff.reason}" if self.backoff.failing else ""


def routing_changed(before: FunctionStatus | None, after: FunctionStatus) -> bool:
    """Whether something differs that the function's routing entry carries."""
    return before is None or _routed(before) != _routed(after)


def drift_only(before: FunctionStatus | None, after: FunctionStatus) -> bool:
    """Whether only the capacity moved, between two values that let calls be served: that may wait a moment."""
    if before is None or before.cannot_start != after.cannot_start:
        return False
    return bool(before.capacity) == bool(after.capacity)


def _routed(status: FunctionStatus) -> tuple[int, str, int]:
    return (status.capacity, status.cannot_start, status.retry_at_ms)
