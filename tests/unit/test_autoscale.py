"""The scaling rule, case by case (docs/adr/0001-scaling-rule.md)."""

from dataclasses import replace

import pytest

from forebay_controller.autoscale import Bounds, Decision, Fleet, Load, Reason, decide, slots_needed

QUIET = Load(queued=0, in_flight=0, busy_slots=0, handler_s=0.1, start_s=0.35, standing_s=0.0, recent_instances=0)
NONE = Fleet(starting=0, idle=0, busy=0, leaving=0)
WIDE = Bounds(min_instances=0, max_instances=1_000, concurrency=1, platform_free=1_000)
# Four instances of an echo that callers keep busy: the way to it and back is what takes the time.
SATURATED = replace(QUIET, in_flight=64, busy_slots=4, handler_s=0.0004, own_s=0.00003, recent_instances=4)
TWO_CORES = replace(WIDE, quick_instances_max=1)


@pytest.mark.parametrize(
    ("queued", "in_flight", "handler_s", "slots"),
    [
        pytest.param(200, 0, 0.001, 1, id="a burst of short calls is done before a second instance is up"),
        pytest.param(200, 0, 0.1, 50, id="each slot works off four calls of 100 ms while another would start"),
        pytest.param(200, 0, 0.34, 100, id="just below the start time: two calls a slot"),
        pytest.param(200, 0, 0.36, 200, id="just above it: one slot for each call"),
        pytest.param(200, 0, 60.0, 200, id="long handlers get a slot each"),
        pytest.param(1, 0, 0.001, 1, id="one call needs one slot"),
        pytest.param(0, 0, 0.1, 0, id="no work needs none"),
        pytest.param(200, 0, None, 200, id="nothing is known of the handler yet: a slot each"),
        pytest.param(0, 8, None, 8, id="in flight counts before anything is known"),
        pytest.param(40, 0, 0.0, 1, id="a handler below the clock's resolution"),
    ],
)
def test_slots_by_handler_time(queued: int, in_flight: int, handler_s: float | None, slots: int) -> None:
    load = replace(QUIET, queued=queued, in_flight=in_flight, handler_s=handler_s)
    assert slots_needed(load) == slots


def test_slots_in_use_are_needed_even_where_fewer_would_clear_the_backlog() -> None:
    assert slots_needed(replace(QUIET, in_flight=10, busy_slots=10)) == 10


def test_a_leased_batch_of_short_calls_occupies_one_slot() -> None:
    assert slots_needed(replace(QUIET, in_flight=16, busy_slots=1, handler_s=0.0004)) == 1


def test_a_backlog_that_does_not_go_away_gets_slots_for_a_short_wait() -> None:
    burst = replace(QUIET, queued=30, in_flight=10, busy_slots=10, standing_s=0.7)
    assert slots_needed(burst) == 10
    assert slots_needed(replace(burst, standing_s=0.9)) == 20


@pytest.mark.parametrize(
    ("load", "fleet", "bounds", "decision"),
    [
        pytest.param(
            replace(QUIET, queued=1, handler_s=None),
            NONE,
            WIDE,
            Decision(needed=1, desired=1, start=1, drain=0, reason=Reason.WORK),
            id="the first call starts one",
        ),
        pytest.param(
            replace(QUIET, queued=200, handler_s=0.001),
            replace(NONE, idle=1),
            WIDE,
            Decision(needed=1, desired=1, start=0, drain=0, reason=Reason.STEADY),
            id="a burst at a warm short function starts none",
        ),
        pytest.param(
            replace(QUIET, queued=199, in_flight=1, busy_slots=1),
            replace(NONE, busy=1),
            WIDE,
            Decision(needed=50, desired=50, start=49, drain=0, reason=Reason.WORK),
            id="a burst at a warm 100 ms function is answered at once",
        ),
        pytest.param(
            replace(QUIET, queued=200),
            replace(NONE, starting=50),
            WIDE,
            Decision(needed=50, desired=50, start=0, drain=0, reason=Reason.STEADY),
            id="starting instances are capacity: the same work starts none again",
        ),
        pytest.param(
            replace(QUIET, queued=200, handler_s=None),
            NONE,
            replace(WIDE, max_instances=20),
            Decision(needed=200, desired=20, start=20, drain=0, reason=Reason.WORK),
            id="the function's maximum",
        ),
        pytest.param(
            replace(QUIET, queued=200, handler_s=None),
            replace(NONE, busy=20),
            replace(WIDE, max_instances=20),
            Decision(needed=200, desired=20, start=0, drain=0, reason=Reason.MAXIMUM),
            id="at the maximum the rest waits",
        ),
        pytest.param(
            replace(QUIET, queued=10, handler_s=None),
            replace(NONE, leaving=18),
            replace(WIDE, max_instances=20),
            Decision(needed=10, desired=10, start=2, drain=0, reason=Reason.WORK),
            id="instances that leave count towards the maximum until they are gone",
        ),
        pytest.param(
            replace(QUIET, queued=10, handler_s=None),
            NONE,
            replace(WIDE, platform_free=3),
            Decision(needed=10, desired=10, start=3, drain=0, reason=Reason.PLATFORM_FULL),
            id="the platform's bound",
        ),
        pytest.param(
            replace(QUIET, queued=10, handler_s=None),
            NONE,
            replace(WIDE, concurrency=4),
            Decision(needed=3, desired=3, start=3, drain=0, reason=Reason.WORK),
            id="several handler processes in an instance",
        ),
        pytest.param(
            QUIET,
            NONE,
            replace(WIDE, min_instances=2),
            Decision(needed=0, desired=2, start=2, drain=0, reason=Reason.MINIMUM),
            id="the minimum is kept without work",
        ),
        pytest.param(
            replace(QUIET, recent_instances=5),
            replace(NONE, idle=5),
            WIDE,
            Decision(needed=0, desired=0, start=0, drain=0, reason=Reason.STEADY),
            id="what was needed within the idle window stays",
        ),
        pytest.param(
            QUIET,
            replace(NONE, idle=5),
            WIDE,
            Decision(needed=0, desired=0, start=0, drain=5, reason=Reason.IDLE),
            id="scale to zero",
        ),
        pytest.param(
            QUIET,
            replace(NONE, idle=5),
            replace(WIDE, min_instances=2),
            Decision(needed=0, desired=2, start=0, drain=3, reason=Reason.IDLE),
            id="never below the minimum",
        ),
        pytest.param(
            replace(QUIET, in_flight=3, busy_slots=3, recent_instances=3),
            replace(NONE, busy=3, idle=2),
            WIDE,
            Decision(needed=3, desired=3, start=0, drain=2, reason=Reason.IDLE),
            id="only the surplus of a working function leaves",
        ),
        pytest.param(
            QUIET,
            replace(NONE, busy=2, idle=1),
            WIDE,
            Decision(needed=0, desired=0, start=0, drain=1, reason=Reason.IDLE),
            id="never more than are idle",
        ),
        pytest.param(
            replace(QUIET, recent_instances=5),
            replace(NONE, idle=5),
            replace(WIDE, max_instances=2),
            Decision(needed=0, desired=0, start=0, drain=3, reason=Reason.OVER_MAXIMUM),
            id="a lowered maximum does not wait for the window",
        ),
        pytest.param(
            SATURATED,
            replace(NONE, busy=4),
            TWO_CORES,
            Decision(needed=4, desired=1, start=0, drain=3, reason=Reason.OVER_MAXIMUM, drain_busy=True),
            id="busy instances of a quick handler leave where there are no cores for them",
        ),
        pytest.param(
            SATURATED,
            replace(NONE, busy=1),
            TWO_CORES,
            Decision(needed=4, desired=1, start=0, drain=0, reason=Reason.MAXIMUM),
            id="and no more of them start",
        ),
        pytest.param(
            SATURATED,
            replace(NONE, busy=4),
            WIDE,
            Decision(needed=4, desired=4, start=0, drain=0, reason=Reason.STEADY),
            id="they stay where instances bring their cores along",
        ),
        pytest.param(
            SATURATED,
            replace(NONE, busy=4),
            replace(TWO_CORES, min_instances=2),
            Decision(needed=4, desired=2, start=0, drain=2, reason=Reason.OVER_MAXIMUM, drain_busy=True),
            id="but never below the minimum",
        ),
        pytest.param(
            replace(SATURATED, handler_s=0.0011, own_s=0.001),
            replace(NONE, busy=4),
            TWO_CORES,
            Decision(needed=4, desired=4, start=0, drain=0, reason=Reason.STEADY),
            id="a handler that takes its time has its instances, busy or not",
        ),
        pytest.param(
            QUIET,
            replace(NONE, starting=2),
            WIDE,
            Decision(needed=0, desired=0, start=0, drain=2, reason=Reason.IDLE),
            id="starting instances that nothing needs any more leave too",
        ),
        pytest.param(
            replace(QUIET, queued=50, handler_s=None),
            NONE,
            replace(WIDE, failing=True, backing_off=True),
            Decision(needed=50, desired=50, start=0, drain=0, reason=Reason.BACKING_OFF),
            id="no start before the next attempt is due",
        ),
        pytest.param(
            replace(QUIET, queued=50, handler_s=None),
            NONE,
            replace(WIDE, failing=True),
            Decision(needed=50, desired=50, start=1, drain=0, reason=Reason.PROBE),
            id="one instance probes whether starts work again",
        ),
        pytest.param(
            replace(QUIET, queued=50, handler_s=None),
            replace(NONE, starting=1),
            replace(WIDE, failing=True),
            Decision(needed=50, desired=50, start=0, drain=0, reason=Reason.BACKING_OFF),
            id="while the probe is under way no other starts",
        ),
    ],
)
def test_decision(load: Load, fleet: Fleet, bounds: Bounds, decision: Decision) -> None:
    assert decide(load, fleet, bounds) == decision
