"""Instance states from the backend, the heartbeat and the leases."""

from dataclasses import replace

import pytest

from forebay_common.queue import InstanceReport
from forebay_controller.autoscale import Fleet
from forebay_controller.instances import (
    Instance,
    State,
    after_absence,
    came_up_after_drain,
    fleet,
    held_up,
    observed,
    older_take_calls,
    outdated,
    overdue,
    to_drain,
    to_replace,
)

STARTED = Instance("i1", revision=1, started_s=100.0)
READY = replace(STARTED, state=State.IDLE, ready_s=100.3, seen_s=100.3, idle_since_s=100.3)


@pytest.mark.parametrize(
    ("before", "heartbeat", "pending", "state"),
    [
        (STARTED, None, 0, State.STARTING),
        (STARTED, InstanceReport("starting"), 0, State.STARTING),
        (STARTED, InstanceReport("ready"), 0, State.IDLE),
        (STARTED, InstanceReport("ready"), 2, State.BUSY),
        (STARTED, InstanceReport("failed", reason="no code"), 0, State.FAILED),
        (READY, None, 0, State.SILENT),
        (READY, InstanceReport("draining"), 1, State.DRAINING),
        (replace(READY, drain_s=101.0), InstanceReport("ready"), 0, State.DRAINING),
        (replace(READY, drain_s=101.0, state=State.DRAINING), None, 0, State.DRAINING),
        (replace(READY, state=State.SILENT), InstanceReport("ready"), 0, State.IDLE),
    ],
)
def test_state(before: Instance, heartbeat: InstanceReport | None, pending: int, state: State) -> None:
    assert observed(before, heartbeat, pending, 102.0).state is state


def test_ready_is_noted_once() -> None:
    first = observed(STARTED, InstanceReport("ready"), 0, 100.4)
    assert first.ready_s == 100.4
    assert observed(first, InstanceReport("ready"), 0, 105.0).ready_s == 100.4


@pytest.mark.parametrize(
    ("heartbeat", "pending", "idle_since_s"),
    [
        pytest.param(InstanceReport("ready"), 0, 100.3, id="nothing happened"),
        pytest.param(InstanceReport("ready"), 1, 110.0, id="it holds a call"),
        pytest.param(InstanceReport("ready", done=1), 0, 110.0, id="it finished one that no look has seen"),
    ],
)
def test_idle_time(heartbeat: InstanceReport, pending: int, idle_since_s: float) -> None:
    assert observed(READY, heartbeat, pending, 110.0).idle_since_s == idle_since_s


def test_fleet_counts_other_revisions_as_leaving_and_silent_ones_not_at_all() -> None:
    instances = [
        STARTED,
        READY,
        replace(READY, state=State.BUSY),
        replace(READY, revision=0),
        replace(READY, state=State.DRAINING),
        replace(READY, state=State.FAILED),
        replace(READY, state=State.SILENT),
    ]
    assert fleet(instances, revision=1) == Fleet(starting=1, idle=1, busy=1, leaving=3)


def test_the_longest_idle_leave_first_then_the_youngest_starting_and_never_a_busy_one() -> None:
    instances = [
        replace(READY, instance_id="busy", state=State.BUSY),
        replace(READY, instance_id="idle 5 s", idle_since_s=105.0),
        replace(STARTED, instance_id="started first"),
        replace(READY, instance_id="idle 9 s", idle_since_s=101.0),
        replace(STARTED, instance_id="started last", started_s=109.0),
        replace(READY, instance_id="old", revision=0, idle_since_s=0.0),
    ]
    order = ["idle 9 s", "idle 5 s", "started last", "started first"]
    assert to_drain(instances, revision=1, count=10) == order
    assert to_drain(instances, revision=1, count=1) == order[:1]
    assert to_drain(instances, revision=1, count=10, busy_too=True) == [*order, "busy"]


def test_outdated() -> None:
    instances = [
        READY,
        replace(READY, instance_id="old idle", revision=0),
        replace(READY, instance_id="old busy", revision=0, state=State.BUSY),
        replace(STARTED, instance_id="old starting", revision=0),
        replace(READY, instance_id="old leaving", revision=0, state=State.DRAINING),
    ]
    assert outdated(instances, revision=1) == ["old idle", "old busy", "old starting"]


def test_an_older_instance_takes_calls_until_it_says_itself_that_it_does_not() -> None:
    old = replace(READY, revision=0)
    told = observed(replace(old, drain_s=101.0), InstanceReport("ready"), 0, 101.1)
    heard = observed(told, InstanceReport("draining"), 0, 101.2)
    assert older_take_calls([READY, old], revision=1)
    assert older_take_calls([READY, told], revision=1)
    assert not older_take_calls([READY, heard], revision=1)


@pytest.mark.parametrize(
    ("instance", "now_s", "kill"),
    [
        (STARTED, 220.0, False),
        (STARTED, 230.0, True),
        (replace(READY, state=State.DRAINING, drain_s=200.0), 212.0, False),
        (replace(READY, state=State.DRAINING, drain_s=200.0), 214.0, True),
        (replace(READY, state=State.SILENT), 150.0, False),
        (replace(READY, state=State.SILENT), 170.0, True),
        (READY, 10_000.0, False),
    ],
)
def test_overdue(instance: Instance, now_s: float, kill: bool) -> None:  # noqa: FBT001 - a table's column
    assert bool(overdue(instance, timeout_s=3.0, now_s=now_s)) is kill


@pytest.mark.parametrize(
    "before",
    [READY, replace(READY, state=State.BUSY), replace(READY, state=State.DRAINING, drain_s=101.0), STARTED],
)
def test_the_time_in_which_redis_was_away_is_not_held_against_an_instance(before: Instance) -> None:
    back = after_absence(before, gap_s=900.0, now_s=1_001.0)

    at_once = observed(back, None, 0, 1_001.0)
    assert at_once.state is before.state
    assert overdue(at_once, 3.0, 1_001.0) == ""
    later = observed(at_once, None, 0, 1_300.0)
    assert overdue(later, 3.0, 1_300.0) != "", "it has had its time since"
    assert observed(at_once, InstanceReport("ready"), 0, 1_001.5).seen_s == 1_001.5


HELD_UP = replace(STARTED, held_up="no node has room for it")


def test_one_that_waits_for_a_node_may_do_so_for_longer_than_a_start_takes_and_not_for_ever() -> None:
    assert overdue(HELD_UP, 3.0, 100.0 + 500.0) == ""
    assert overdue(HELD_UP, 3.0, 100.0 + 601.0) == "no node has room for it"


@pytest.mark.parametrize(
    ("instances", "reason"),
    [
        pytest.param([], "", id="none"),
        pytest.param([HELD_UP, replace(HELD_UP, instance_id="i2")], "no node has room for it", id="all"),
        pytest.param([HELD_UP, STARTED], "", id="another may still come up"),
        pytest.param([HELD_UP, READY], "", id="another serves"),
        pytest.param([HELD_UP, replace(READY, revision=0)], "", id="one of an older revision serves"),
        pytest.param([HELD_UP, replace(READY, state=State.DRAINING)], "no node has room for it", id="the other leaves"),
    ],
)
def test_a_function_is_held_up_when_nobody_serves_or_may_soon(instances: list[Instance], reason: str) -> None:
    assert held_up(instances, revision=1) == reason


def test_what_held_an_instance_up_is_over_once_it_is_ready() -> None:
    assert observed(HELD_UP, InstanceReport("starting"), 0, 101.0).held_up
    assert not observed(HELD_UP, InstanceReport("ready"), 0, 101.0).held_up


def _named(name: str, state: State, revision: int, idle_since_s: float = 0.0) -> Instance:
    return replace(READY, instance_id=name, state=state, revision=revision, idle_since_s=idle_since_s)


OLD = [_named("busy", State.BUSY, 1), _named("idle", State.IDLE, 1, 5.0), _named("idle longer", State.IDLE, 1, 2.0)]


@pytest.mark.parametrize(
    ("new", "wanted", "instances_max", "leaving"),
    [
        pytest.param([], 3, 20, [], id="nothing replaces them yet"),
        pytest.param([], 1, 20, ["idle longer", "idle"], id="more than are needed"),
        pytest.param([State.STARTING] * 3, 3, 20, [], id="none is ready"),
        pytest.param([State.IDLE, State.STARTING], 3, 20, ["idle longer"], id="one is ready"),
        pytest.param([State.IDLE, State.BUSY, State.IDLE], 3, 20, ["idle longer", "idle", "busy"], id="all are ready"),
        pytest.param([], 3, 3, ["idle longer"], id="no room for a newcomer"),
        pytest.param([State.STARTING], 3, 4, ["idle longer"], id="no room for a second newcomer"),
        pytest.param([State.DRAINING], 3, 4, ["idle longer"], id="one that leaves takes up the room"),
        pytest.param([], 1, 1, ["idle longer", "idle", "busy"], id="one at most"),
    ],
)
def test_old_instances_leave_as_new_ones_are_ready(
    new: list[State], wanted: int, instances_max: int, leaving: list[str]
) -> None:
    instances = OLD + [_named(f"new{at}", state, 2) for at, state in enumerate(new)]
    assert to_replace(instances, 2, wanted, instances_max) == leaving


def test_an_old_instance_whose_handlers_do_not_come_up_leaves_at_once() -> None:
    broken = replace(_named("broken", State.IDLE, 1), init_failure="no module named x")
    assert to_replace([broken, *OLD], 2, wanted=4, instances_max=20) == ["broken"]


def test_an_instance_that_came_up_after_it_was_stopped_is_told_again() -> None:
    stopped = replace(STARTED, state=State.DRAINING, drain_s=100.0)
    assert not came_up_after_drain(stopped)
    assert came_up_after_drain(observed(stopped, InstanceReport("ready"), 0, 101.0))
    assert not came_up_after_drain(observed(stopped, InstanceReport("draining"), 0, 101.0))
