"""Deadlines on a wheel, wakes of the controller, pauses between attempts: all with a clock of the test's own."""

import pytest

from forebay_gateway import wake
from forebay_gateway.deadlines import SLOT_S, Deadlines
from forebay_gateway.redis_link import BACKOFF_MAX_S, BACKOFF_MIN_S, backoff_s


class Call:
    """A call that notes when it was due."""

    def __init__(self, clock: "Clock") -> None:
        self.slot = 0
        self.due_at: float | None = None
        self._clock = clock

    def due(self) -> None:
        assert self.due_at is None
        self.due_at = self._clock.now


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class TestDeadlines:
    def run(self, clock: Clock, deadlines: Deadlines, until: float) -> None:
        while clock.now < until:
            clock.now += SLOT_S
            deadlines.expire()

    @pytest.mark.parametrize("wait_s", [0.0, 0.001, SLOT_S, 0.2, 30.0])
    def test_each_is_met_within_fifty_milliseconds_and_never_early(self, wait_s: float) -> None:
        clock = Clock()
        deadlines = Deadlines(clock)
        call = Call(clock)
        deadlines.add(call, clock.now + wait_s)
        self.run(clock, deadlines, 140.0)
        assert call.due_at is not None
        assert 100.0 + wait_s <= call.due_at <= 100.0 + wait_s + 0.05

    def test_a_removed_one_never_comes(self) -> None:
        clock = Clock()
        deadlines = Deadlines(clock)
        calls = [Call(clock) for _ in range(3)]
        for call in calls:
            deadlines.add(call, 101.0)
        deadlines.remove(calls[1])
        deadlines.remove(calls[1])
        self.run(clock, deadlines, 102.0)
        assert [call.due_at is None for call in calls] == [False, True, False]

    def test_a_loop_that_was_held_up_catches_up(self) -> None:
        clock = Clock()
        deadlines = Deadlines(clock)
        first, last = Call(clock), Call(clock)
        deadlines.add(first, 101.0)
        deadlines.add(last, 500.0)
        deadlines.expire()
        clock.now = 400.0
        deadlines.expire()
        assert (first.due_at, last.due_at) == (400.0, None)
        self.run(clock, deadlines, 501.0)
        assert last.due_at is not None

    def test_one_that_is_due_already_comes_at_the_next_look(self) -> None:
        clock = Clock()
        deadlines = Deadlines(clock)
        deadlines.expire()
        call = Call(clock)
        deadlines.add(call, 50.0)
        clock.now += 2 * SLOT_S
        deadlines.expire()
        assert call.due_at is not None


@pytest.mark.parametrize(
    ("waiting", "capacity", "max_capacity", "wanted"),
    [
        (1, 0, 4, True),
        (2, 2, 4, False),
        (3, 2, 4, True),
        (9, 4, 4, False),
        (9, 4, 0, True),
    ],
)
def test_sync_calls_wake_when_they_outgrow_what_is_there(
    waiting: int, capacity: int, max_capacity: int, *, wanted: bool
) -> None:
    assert wake.sync_wanted(waiting, capacity, max_capacity) is wanted


@pytest.mark.parametrize(
    ("now_s", "trailing", "decision"),
    [(1.02, False, "now"), (1.02, True, "now"), (1.019, False, "later"), (1.019, True, "no")],
)
def test_wakes_keep_their_distance_and_the_last_one_comes_late(now_s: float, decision: str, *, trailing: bool) -> None:
    assert wake.decide(now_s, 1.0, wake.SYNC_SPACING_S, trailing=trailing) == decision


@pytest.mark.parametrize("failures", [0, 1, 3, 10, 1_000])
def test_backoff_grows_to_its_bound_and_is_spread(failures: int) -> None:
    longest = min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2 ** min(failures, 10))
    assert backoff_s(failures, 0.0) == longest / 2
    assert longest / 2 < backoff_s(failures, 0.999) < longest


def test_hints_in_a_row_come_as_seldom_as_the_controller_looks_by_itself() -> None:
    spacings_s = [wake.grown_spacing_s(wake.SYNC_SPACING_S, run) for run in range(5)]
    assert spacings_s == [0.02, 0.04, 0.08, wake.SPACING_MAX_S, wake.SPACING_MAX_S]
    assert wake.grown_spacing_s(wake.ASYNC_SPACING_S, 10_000) == wake.SPACING_MAX_S
