"""When records for a destination are tried again and given up: a day in simulated time."""

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from forebay_controller.destinations.decisions import (
    AT_ONCE_MAX,
    FAILING_AFTER,
    KEEP_MS,
    PAUSE_MAX_S,
    RETRY_JITTER,
    RETRY_MAX_S,
    WAITING_MAX,
    Lane,
    id_before,
    is_over,
    order_of,
    pause_s,
    retry_delay_s,
)

HOUR_S = 3_600.0


@dataclass
class Simulation:
    """One lane and its receiver, from event to event. `takes(record, now_s)`: whether the receiver does."""

    takes: Callable[[int, float], bool]
    answers_in_s: float = 0.1
    lane: Lane = field(default_factory=Lane)
    now_s: float = 0.0
    attempts: list[tuple[float, int]] = field(default_factory=list)
    delivered_s: dict[int, float] = field(default_factory=dict)
    given_up_s: dict[int, float] = field(default_factory=dict)
    under_way_most: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(1)
        self._new: deque[tuple[float, int]] = deque()
        self._under_way: list[tuple[float, int]] = []
        self._ended_s: dict[int, float] = {}

    def arrive(self, count: int, every_s: float = 0.0) -> None:
        for number in range(count):
            self._ended_s[number] = number * every_s
            self._new.append((number * every_s, number))

    def run(self, until_s: float) -> None:
        while True:
            while self._send_off():
                """What was given up has made room."""
            times = [self._under_way[0][0]] if self._under_way else []
            if (next_s := self.lane.next_s(self.now_s)) is not None:
                times.append(next_s)
            if self._new and self._new[0][0] > self.now_s:
                times.append(self._new[0][0])
            if not times or min(times) > until_s:
                return
            self.now_s = max(self.now_s, min(times))
            while self._under_way and self._under_way[0][0] <= self.now_s:
                self._answer(heapq.heappop(self._under_way)[1])

    def _send_off(self) -> bool:
        given_up = len(self.given_up_s)
        while self._new and self._new[0][0] <= self.now_s and self.lane.takes_new(self.now_s):
            _, number = self._new.popleft()
            self.lane.begin()
            self._attempt(number)
        while (entry_id := self.lane.begin_due(self.now_s)) is not None:
            self._attempt(order_of(entry_id)[1])
        return len(self.given_up_s) > given_up

    def _attempt(self, number: int) -> None:
        tried = self.lane.failing or self.lane.has_failed(entry(number))
        if tried and is_over(int(self._ended_s[number] * 1000), int(self.now_s * 1000)):
            self.given_up_s[number] = self.now_s
            self.lane.gone(entry(number))
            return
        self.attempts.append((self.now_s, number))
        heapq.heappush(self._under_way, (self.now_s + self.answers_in_s, number))
        self.under_way_most = max(self.under_way_most, len(self._under_way))

    def _answer(self, number: int) -> None:
        if self.takes(number, self.now_s):
            self.delivered_s[number] = self.now_s
            self.lane.delivered(entry(number))
            return
        delay_s = self.lane.delay_s(entry(number), self.random.random())
        over = is_over(int(self._ended_s[number] * 1000), int(self.now_s * 1000), delay_s)
        if over:
            self.given_up_s[number] = self.now_s
        self.lane.failed(entry(number), self.now_s, None if over else delay_s)


def entry(number: int) -> bytes:
    return b"1700000000000-%d" % number


def test_a_record_waits_twice_as_long_after_each_failure_up_to_five_minutes() -> None:
    longest = [retry_delay_s(failures, 0.0) for failures in range(1, 12)]
    assert longest == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert retry_delay_s(10_000, 0.0) == RETRY_MAX_S
    assert [retry_delay_s(failures, 1.0) for failures in range(1, 12)] == [
        delay_s * (1 - RETRY_JITTER) for delay_s in longest
    ]


def test_a_destination_pauses_only_once_it_takes_nothing() -> None:
    pauses = [pause_s(failures) for failures in range(FAILING_AFTER + 7)]
    assert pauses == [0.0] * FAILING_AFTER + [1, 2, 4, 8, 16, PAUSE_MAX_S, PAUSE_MAX_S]
    assert pause_s(10_000) == PAUSE_MAX_S


@pytest.mark.parametrize(
    ("age_ms", "delay_s", "over"),
    [(0, 300, False), (KEEP_MS - 300_000, 300, False), (KEEP_MS - 299_999, 300, True), (KEEP_MS + 1, 0, True)],
)
def test_a_record_is_given_up_when_its_next_time_would_be_a_day_after_the_events_end(
    age_ms: int,
    delay_s: float,
    over: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    assert is_over(5_000, 5_000 + age_ms, delay_s) is over


def test_ids_are_ordered_as_numbers_and_have_a_predecessor() -> None:
    assert sorted([b"10-10", b"9-0", b"100-0", b"", b"10-2"], key=order_of) == [
        b"",
        b"9-0",
        b"10-2",
        b"10-10",
        b"100-0",
    ]
    assert id_before(b"10-2") == b"10-1"
    assert id_before(b"10-0") == b"9-18446744073709551615"


def test_a_receiver_that_takes_everything_gets_eight_at_a_time() -> None:
    simulation = Simulation(lambda _, __: True)
    simulation.arrive(100)
    simulation.run(HOUR_S)
    assert len(simulation.delivered_s) == len(simulation.attempts) == 100
    assert simulation.under_way_most == AT_ONCE_MAX
    assert simulation.now_s == pytest.approx(100 / AT_ONCE_MAX * 0.1, abs=0.1)


@pytest.mark.parametrize("down_s", [10.0, 120.0, HOUR_S, 6 * HOUR_S])
def test_a_receiver_that_was_down_gets_everything_within_minutes_of_being_up(down_s: float) -> None:
    simulation = Simulation(lambda _, now_s: now_s >= down_s)
    simulation.arrive(400)
    simulation.run(24 * HOUR_S)
    assert len(simulation.delivered_s) == 400
    assert not simulation.given_up_s
    assert min(simulation.delivered_s.values()) <= down_s + PAUSE_MAX_S + 1
    assert max(simulation.delivered_s.values()) <= down_s + PAUSE_MAX_S + RETRY_MAX_S + 10


def test_a_receiver_that_is_down_is_asked_twice_a_minute_however_much_waits() -> None:
    simulation = Simulation(lambda _, __: False)
    simulation.arrive(50_000)
    simulation.run(HOUR_S)
    in_last_half = sum(at_s > HOUR_S / 2 for at_s, _ in simulation.attempts)
    assert in_last_half <= HOUR_S / 2 / PAUSE_MAX_S + 1
    assert len(simulation.attempts) < 140


def test_what_a_receiver_never_took_is_given_up_after_a_day_all_of_it() -> None:
    simulation = Simulation(lambda _, __: False)
    simulation.arrive(5_000)
    simulation.run(30 * HOUR_S)
    assert len(simulation.given_up_s) == 5_000
    assert simulation.lane.empty
    day_s = KEEP_MS / 1000
    assert min(simulation.given_up_s.values()) > day_s - RETRY_MAX_S - 1
    assert max(simulation.given_up_s.values()) < day_s + 10 * PAUSE_MAX_S


def test_records_that_are_refused_hold_up_none_of_the_others() -> None:
    simulation = Simulation(lambda number, _: number % 4 != 0)
    simulation.arrive(4_000, every_s=1.0)
    simulation.run(24 * HOUR_S - 1)
    late_s = [at_s - number for number, at_s in simulation.delivered_s.items()]
    assert len(late_s) == 3_000
    assert max(late_s) < 10.0
    assert sum(late_s) / len(late_s) < 2.0


def test_a_record_older_than_a_day_is_tried_once_where_the_receiver_is_not_known_to_be_down() -> None:
    simulation = Simulation(lambda _, __: True)
    simulation.arrive(3)
    simulation.now_s = 30 * HOUR_S
    simulation.run(31 * HOUR_S)
    assert len(simulation.delivered_s) == 3


def test_so_many_failed_records_are_remembered_and_no_more() -> None:
    lane = Lane()
    for number in range(WAITING_MAX):
        lane.begin()
        lane.failed(entry(number), 0.0, 300.0)
        lane.failures_in_row = 0
        lane.opens_s = 0.0
    assert not lane.takes_new(1.0)
    assert lane.begin_due(301.0) is not None
    lane.delivered(entry(0))
    assert lane.takes_new(302.0)


def test_a_record_that_says_nothing_of_its_destination_changes_nothing_for_the_others() -> None:
    lane = Lane()
    lane.begin()
    lane.failed(entry(1), 0.0, 1.0)
    lane.begin()
    lane.gone(entry(2))
    assert lane.failures_in_row == 1
    assert not lane.empty
    assert lane.begin_due(1.0) == entry(1)
    lane.gone(entry(1))
    assert lane.empty
