"""History of one function: handler time, start time, what was needed within the idle window."""

import pytest

from forebay_controller.demand import START_DEFAULT_S, START_FLOOR_S, Demand, WindowMaximum


def test_window_keeps_the_maximum_until_it_has_left() -> None:
    window = WindowMaximum()
    for at_s, value in [(0.0, 1), (10.0, 7), (20.0, 3), (30.0, 0)]:
        window.record(at_s, value)
    assert window.maximum(30.0, 60.0) == 7
    assert window.maximum(79.9, 60.0) == 7
    assert window.maximum(80.0, 60.0) == 3
    assert window.maximum(89.9, 60.0) == 3
    assert window.maximum(90.0, 60.0) == 0


def test_a_value_holds_until_the_next_one() -> None:
    window = WindowMaximum()
    window.record(0.0, 5)
    assert window.maximum(1_000.0, 60.0) == 5


def test_an_end_is_not_moved_by_a_later_smaller_peak() -> None:
    window = WindowMaximum()
    for at_s, value in [(0.0, 5), (10.0, 2), (50.0, 3)]:
        window.record(at_s, value)
    assert window.maximum(70.0, 60.0) == 3


def test_window_memory_is_bounded_by_the_values_not_by_the_time() -> None:
    window = WindowMaximum()
    for tick in range(100_000):
        window.record(tick / 10, tick * 7919 % 20)
    assert len(window) <= 20


def test_handler_time_is_unknown_before_the_first_result_and_then_the_mean() -> None:
    demand = Demand()
    demand.note_counters(0.0, "a", done=0, busy_us=0)
    assert demand.handler_s is None
    demand.note_counters(1.0, "a", done=10, busy_us=1_000_000)
    demand.note_counters(1.0, "b", done=30, busy_us=1_000_000)
    assert demand.handler_s == pytest.approx(0.05)


def test_handler_time_follows_a_change() -> None:
    demand = Demand()
    demand.note_counters(0.0, "a", done=100, busy_us=10_000_000)
    demand.note_counters(120.0, "a", done=200, busy_us=10_100_000)
    assert demand.handler_s is not None
    assert demand.handler_s < 0.01


def test_the_handlers_own_share_of_it_is_known_where_instances_tell() -> None:
    demand = Demand()
    assert demand.own_s is None
    demand.note_counters(0.0, "a", done=0, busy_us=0, handler_us=0)
    demand.note_counters(1.0, "a", done=10, busy_us=1_000_000, handler_us=100_000)
    assert demand.own_s == pytest.approx(0.01)
    demand.note_counters(1.0, "of an older release", done=10, busy_us=1_000_000)
    assert demand.own_s == pytest.approx(0.055)


def test_handler_time_outlives_the_instances() -> None:
    demand = Demand()
    demand.note_counters(0.0, "a", done=10, busy_us=1_000_000)
    demand.forget("a")
    assert demand.handler_s == pytest.approx(0.1)


def test_start_time_has_a_default_a_floor_and_follows() -> None:
    demand = Demand()
    assert demand.start_s == START_DEFAULT_S
    demand.note_start(0.01)
    assert demand.start_s == START_FLOOR_S
    for _ in range(30):
        demand.note_start(2.0)
    assert demand.start_s == pytest.approx(2.0, rel=0.01)


def test_a_backlog_stands_from_its_first_call_until_the_queue_is_seen_empty() -> None:
    demand = Demand()
    demand.note_queued(1.0, 5)
    demand.note_queued(2.0, 9)
    assert demand.standing_s(3.0) == 2.0
    demand.note_queued(4.0, 0)
    assert demand.standing_s(5.0) == 0.0


def test_calls_that_no_look_has_seen_count_by_their_counters() -> None:
    demand = Demand()
    for instance in ("a", "b"):
        demand.note_counters(0.0, instance, done=0, busy_us=0)
    assert demand.slots_used(0.0) == 0
    demand.note_counters(5.0, "a", done=1, busy_us=1_000)
    assert demand.slots_used(5.0) == 1
    demand.note_counters(5.0, "b", done=50, busy_us=5_000_000)
    assert demand.slots_used(5.0) == 2
    assert demand.slots_used(12.0) == 0
