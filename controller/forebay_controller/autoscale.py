"""How many instances a function needs: observations in, a decision out. No I/O, no clock.

The rule and why it is this one: docs/adr/0001-scaling-rule.md. In short, with S the mean handler time and T
the time a new instance takes to be ready: a slot that exists now works off `1 + floor(T / S)` calls one after
the other before the last of them starts as late as a new instance would be ready. So that many calls need one
slot, and an instance is never started for a call that would have begun before the instance is up.
"""

import math
from dataclasses import dataclass, replace
from enum import StrEnum

QUICK_HANDLER_S = 0.000_25
"""A handler whose own code takes less spends most of a call's time on the way to it and back: then an instance's own
process is what a load saturates, and further instances help as long as there are cores for them."""
STANDING_PATIENCE_S = 0.1
"""How long a call may wait for its slot when the backlog does not go away: arrivals refill it."""


class Reason(StrEnum):
    """Why a decision is what it is; a label of the metrics, so a short closed list."""

    STEADY = "steady"
    WORK = "work"
    MINIMUM = "minimum"
    MAXIMUM = "maximum"
    PLATFORM_FULL = "platform_full"
    BACKING_OFF = "backing_off"
    PROBE = "probe"
    IDLE = "idle"
    OVER_MAXIMUM = "over_maximum"


@dataclass(frozen=True, slots=True)
class Load:
    """One function's work, as seen at one moment.

    `in_flight` and `busy_slots` count only what instances hold that go on taking calls: a draining instance
    finishes its own. `handler_s` is S (None before the first results), `own_s` what of it is in the handler's own
    code, `start_s` is T, `standing_s` how long calls have been queued without a break, `recent_instances` the most that
    was needed within the idle window.
    """

    queued: int
    in_flight: int
    busy_slots: int
    handler_s: float | None
    start_s: float
    standing_s: float
    recent_instances: int
    own_s: float | None = None

    @property
    def quick(self) -> bool:
        """Whether the handler is known to be so quick that an instance's own process takes longer than it."""
        return self.own_s is not None and self.own_s < QUICK_HANDLER_S


@dataclass(frozen=True, slots=True)
class Fleet:
    """A function's instances by what they can do now; `leaving` holds a place but takes no calls."""

    starting: int
    idle: int
    busy: int
    leaving: int

    @property
    def serving(self) -> int:
        """Those that take calls, now or once they are ready."""
        return self.starting + self.idle + self.busy


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of the function and of the platform, and what its failures allow.

    `platform_free`: instances that the whole platform may still start. `quick_instances_max`: so many instances of a
    quick handler have cores to run on, None without such a bound. `failing`: starts failed and none has
    succeeded since; `backing_off`: the next attempt is not due yet.
    """

    min_instances: int
    max_instances: int
    concurrency: int
    platform_free: int
    quick_instances_max: int | None = None
    failing: bool = False
    backing_off: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """`start` new instances, `drain` idle or starting ones; `needed` goes into the idle window's history.

    `drain_busy`: busy ones leave, too, where there are not enough others.
    """

    needed: int
    desired: int
    start: int
    drain: int
    reason: Reason
    drain_busy: bool = False


def slots_needed(load: Load) -> int:
    """Handler processes that the present work can make use of."""
    work = load.queued + load.in_flight
    if load.handler_s is None:
        return max(work, load.busy_slots)
    # Longer than this and the backlog is not a burst being worked off but a load that refills it: what is
    # started now will find work, so a call's wait is bounded by a constant rather than by a start.
    standing = load.standing_s > 2 * load.start_s + load.handler_s
    patience_s = min(load.start_s, STANDING_PATIENCE_S) if standing else load.start_s
    rounds = 1 + math.floor(patience_s / load.handler_s) if load.handler_s > 0 else max(1, work)
    return max(math.ceil(work / rounds), load.busy_slots)


def decide(load: Load, fleet: Fleet, bounds: Bounds) -> Decision:
    """The desired number of instances, and how many to start or drain for it."""
    if load.quick and bounds.quick_instances_max is not None:
        most = max(bounds.min_instances, min(bounds.max_instances, bounds.quick_instances_max))
        bounds = replace(bounds, max_instances=most)
    needed = math.ceil(slots_needed(load) / bounds.concurrency)
    desired = min(max(needed, bounds.min_instances), bounds.max_instances)
    if desired > fleet.serving:
        return _grow(needed, desired, fleet, bounds)
    keep = min(max(desired, load.recent_instances), bounds.max_instances)
    surplus = fleet.serving - keep
    over = fleet.serving > bounds.max_instances
    # What a quick handler's instance holds is done within milliseconds, and under load it is never seen idle.
    drain_busy = load.quick and over
    drain = max(0, min(surplus, fleet.idle + fleet.starting + (fleet.busy if drain_busy else 0)))
    if drain:
        reason = Reason.OVER_MAXIMUM if over else Reason.IDLE
        return Decision(needed, desired, 0, drain, reason, drain_busy)
    held = Reason.MAXIMUM if needed > bounds.max_instances else Reason.STEADY
    return Decision(needed, desired, 0, 0, held)


def _grow(needed: int, desired: int, fleet: Fleet, bounds: Bounds) -> Decision:
    if bounds.backing_off:
        return Decision(needed, desired, 0, 0, Reason.BACKING_OFF)
    # Instances that leave still hold memory and may still run a call: the maximum counts them.
    room = bounds.max_instances - fleet.serving - fleet.leaving
    start = max(0, min(desired - fleet.serving, room))
    reason = Reason.WORK if needed > fleet.serving else Reason.MINIMUM
    if not start:
        return Decision(needed, desired, 0, 0, Reason.MAXIMUM)
    if bounds.failing:
        # One attempt tells whether the cause is gone; a whole burst of them would fail alike.
        start = min(start, max(0, 1 - fleet.serving))
        reason = Reason.PROBE if start else Reason.BACKING_OFF
    if bounds.platform_free < start:
        return Decision(needed, desired, max(0, bounds.platform_free), 0, Reason.PLATFORM_FULL)
    return Decision(needed, desired, start, 0, reason)
