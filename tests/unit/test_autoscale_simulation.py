"""The rule over minutes of load, in virtual time: decision, history and instances together."""

import heapq
import time
from dataclasses import dataclass, field

import pytest

from forebay_controller.autoscale import Bounds, Decision, Fleet, Load, decide
from forebay_controller.demand import Demand

TICK_S = 0.1


@dataclass
class Simulation:
    """A function with instances of one slot each; a tick looks, decides and acts as the controller does."""

    handler_s: float
    start_s: float = 0.4
    idle_s: float = 60.0
    min_instances: int = 0
    max_instances: int = 1_000
    now_s: float = 0.0
    queued: int = 0
    slots: int = 0
    done: int = 0
    starts: int = 0
    drains: int = 0
    peak: int = 0
    starting: list[float] = field(default_factory=list)
    running: list[float] = field(default_factory=list)
    demand: Demand = field(default_factory=Demand)

    def warm(self, instances: int) -> None:
        """Instances that are ready, of a function whose handler time is known."""
        self.slots = instances
        self.demand.note_counters(self.now_s, "before", done=10, busy_us=int(self.handler_s * 1e7))
        self.demand.note_start(self.start_s)

    def tick(self, arrivals: int = 0) -> Decision:
        """One look every 100 ms, with calls that arrived since the last."""
        self.queued += arrivals
        self._run()
        self.demand.note_queued(self.now_s, self.queued)
        busy = len(self.running)
        load = Load(
            queued=self.queued,
            in_flight=busy,
            busy_slots=busy,
            handler_s=self.demand.handler_s,
            start_s=self.demand.start_s,
            standing_s=self.demand.standing_s(self.now_s),
            recent_instances=self.demand.recent_instances(self.now_s, self.idle_s),
        )
        fleet = Fleet(starting=len(self.starting), idle=self.slots - busy, busy=busy, leaving=0)
        bounds = Bounds(self.min_instances, self.max_instances, concurrency=1, platform_free=1_000)
        decision = decide(load, fleet, bounds)
        self.demand.note_needed(self.now_s, decision.needed)
        for _ in range(decision.start):
            heapq.heappush(self.starting, self.now_s + self.start_s)
        self.starts += decision.start
        self.drains += decision.drain
        self.slots -= min(decision.drain, self.slots - busy)
        self.peak = max(self.peak, self.slots + len(self.starting))
        return decision

    def _run(self) -> None:
        """Let the time until the next look pass: ends and starts of calls, instances that get ready."""
        end_s = self.now_s + TICK_S
        while True:
            self._lease()
            next_s = min(self.running[:1] + self.starting[:1], default=end_s)
            if next_s >= end_s:
                break
            self.now_s = max(self.now_s, next_s)
            while self.running and self.running[0] <= self.now_s:
                heapq.heappop(self.running)
                self.done += 1
            while self.starting and self.starting[0] <= self.now_s:
                heapq.heappop(self.starting)
                self.slots += 1
                self.demand.note_start(self.start_s)
        self.now_s = end_s
        if self.done:
            self.demand.note_counters(self.now_s, "all", done=self.done, busy_us=int(self.done * self.handler_s * 1e6))

    def _lease(self) -> None:
        for _ in range(min(self.queued, self.slots - len(self.running))):
            heapq.heappush(self.running, self.now_s + self.handler_s)
            self.queued -= 1


@pytest.mark.parametrize(
    ("handler_s", "most"),
    [
        pytest.param(0.001, 1, id="1 ms"),
        pytest.param(0.1, 50, id="100 ms"),
        pytest.param(1.0, 200, id="1 s"),
    ],
)
def test_a_burst_of_200_at_a_warm_function_is_worked_off_by_no_more_than_it_takes(handler_s: float, most: int) -> None:
    simulation = Simulation(handler_s)
    simulation.warm(1)
    decision = simulation.tick(arrivals=200)
    assert simulation.slots + len(simulation.starting) <= most
    for _ in range(30):
        simulation.tick()
    assert simulation.done == 200
    assert simulation.peak <= most, f"further looks at the same burst started more: {decision}"


def test_a_burst_is_done_about_two_starts_after_it_came() -> None:
    simulation = Simulation(handler_s=0.1)
    simulation.tick(arrivals=200)
    while simulation.done < 200:
        simulation.tick()
    assert simulation.now_s < 1.2


def test_a_quarter_of_an_hour_of_steady_load_starts_instances_once() -> None:
    simulation = Simulation(handler_s=0.1)
    began = time.perf_counter()
    for _ in range(600):
        simulation.tick(arrivals=10)
    settled = simulation.starts
    for _ in range(8_400):
        simulation.tick(arrivals=10)
    assert time.perf_counter() - began < 10
    assert simulation.starts - settled <= 2, "a steady load must not start and drain all the time"
    assert simulation.queued == 0
    assert 10 <= simulation.slots <= 30


def test_oscillating_load_keeps_its_instances_between_the_waves() -> None:
    simulation = Simulation(handler_s=0.1)
    changes = []
    for second in range(300):
        arrivals = 20 if second % 20 < 10 else 0
        for _ in range(10):
            simulation.tick(arrivals)
        changes.append(simulation.starts + simulation.drains)
    assert changes[-1] == changes[100], "what the unknown first wave started too much has left, and then all is calm"
    assert simulation.slots >= 20


def test_after_the_last_wave_everything_leaves_when_the_idle_window_is_over() -> None:
    simulation = Simulation(handler_s=0.1, idle_s=60.0)
    for _ in range(50):
        simulation.tick(arrivals=20)
    while simulation.queued or simulation.running:
        simulation.tick()
    last_work_s = simulation.now_s
    while simulation.now_s < last_work_s + 59:
        simulation.tick()
    assert simulation.slots > 0
    while simulation.now_s < last_work_s + 62:
        simulation.tick()
    assert simulation.slots == 0


def test_minimum_and_maximum_hold_at_all_times() -> None:
    simulation = Simulation(handler_s=0.5, min_instances=2, max_instances=5, idle_s=1.0)
    for tick in range(400):
        simulation.tick(arrivals=100 if tick == 50 else 0)
        assert simulation.slots + len(simulation.starting) <= 5
        assert simulation.slots + len(simulation.starting) >= 2
    assert simulation.peak == 5
    assert simulation.slots == 2
    assert simulation.done == 100


def test_callers_that_never_stop_are_not_left_to_wait_for_a_start_each_time() -> None:
    """40 callers in a closed loop: each calls again as soon as it has its answer."""
    simulation = Simulation(handler_s=0.1)
    simulation.warm(1)
    simulation.tick(arrivals=40)
    for _ in range(100):
        answered = 40 - simulation.queued - len(simulation.running)
        simulation.tick(arrivals=answered)
    assert simulation.slots >= 20


def test_a_saturated_short_handler_does_not_fill_the_machine() -> None:
    simulation = Simulation(handler_s=0.001)
    simulation.warm(1)
    simulation.tick(arrivals=64)
    for _ in range(100):
        simulation.tick(arrivals=64 - simulation.queued - len(simulation.running))
    assert simulation.peak <= 2
