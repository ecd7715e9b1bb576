"""Instance states from the backend, the heartbeat and the leases."""

from dataclasses import replace

import pytest

from forebay_common.queue import InstanceReport
from forebay_controller.autoscale import Fleet
from forebay_controller.instances import Instance, State, fleet, observed, older_take_calls, outdated, overdue, to_drain

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
