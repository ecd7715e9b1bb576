"""Failing starts slow down; single accidents cost nothing."""

from forebay_controller.backoff import Backoff, crashed, got_ready, proved_healthy, start_failed


def test_delays_double_up_to_a_minute() -> None:
    state, now_s, delays_s = Backoff(), 100.0, []
    for _ in range(8):
        state = start_failed(state, now_s=now_s + 0.5, started_s=now_s, reason="no such handler")
        delays_s.append(state.retry_at_s - now_s - 0.5)
        now_s = state.retry_at_s
    assert delays_s == [1, 2, 4, 8, 16, 32, 60, 60]


def test_blocks_only_until_the_next_attempt_is_due() -> None:
    state = start_failed(Backoff(), now_s=10.0, started_s=9.0, reason="x")
    assert state.blocks(10.9)
    assert not state.blocks(11.0)
    assert state.failing


def test_starts_that_were_under_way_together_fail_as_one() -> None:
    state = Backoff()
    for index in range(20):
        state = start_failed(state, now_s=10.0 + index / 100, started_s=9.0, reason=f"reason {index}")
    assert (state.failures, state.retry_at_s, state.reason) == (1, 11.0, "reason 19")


def test_an_instance_that_gets_ready_ends_the_failure_but_the_next_one_continues_the_series() -> None:
    state = start_failed(Backoff(), now_s=1.0, started_s=0.0, reason="x")
    state = got_ready(state)
    assert not state.blocks(1.1)
    assert start_failed(state, now_s=3.0, started_s=2.0, reason="x").retry_at_s == 5.0


def test_health_forgets_everything() -> None:
    failed = got_ready(start_failed(Backoff(), now_s=1.0, started_s=0.0, reason="x"))
    assert proved_healthy(failed) == Backoff()
    assert proved_healthy(crashed(Backoff(), now_s=1.0, started_s=0.0, reason="x")) == Backoff()


def test_two_crashes_are_accidents_a_third_within_seconds_is_a_loop() -> None:
    state = Backoff()
    for now_s in (10.0, 12.0):
        state = crashed(state, now_s=now_s, started_s=now_s - 1, reason="killed by signal 9")
        assert not state.failing
    state = crashed(state, now_s=14.0, started_s=13.0, reason="killed by signal 9")
    assert state.blocks(14.5)
    assert state.reason == "killed by signal 9"


def test_crashes_far_apart_never_count() -> None:
    state = Backoff()
    for hour in range(10):
        state = crashed(state, now_s=hour * 3600.0, started_s=0.0, reason="killed by signal 9")
    assert not state.failing
