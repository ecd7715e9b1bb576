"""Which functions are looked at when; work per tick grows with those that have work."""

import time
from functools import partial

from forebay_controller.function_state import Tempo
from forebay_controller.schedule import BATCH_MAX, SWEEP_LOOKS_MAX, SWEEP_TICKS, WARM_TICKS, Schedule


def taken(schedule: Schedule) -> list[str]:
    uids: list[str] = []
    while batch := schedule.take():
        assert len(batch) <= BATCH_MAX
        uids += batch
    return uids


def test_announcements_merge_until_they_are_taken() -> None:
    schedule = Schedule(list)
    for uid in ("a", "b", "a"):
        schedule.wake(uid)
    assert schedule.take() == ["a", "b"]
    assert schedule.take() == []


def test_a_tick_takes_the_hot_each_time_and_the_warm_each_second() -> None:
    schedule = Schedule(list)
    schedule.set_tempo("hot", Tempo.HOT)
    schedule.set_tempo("warm", Tempo.WARM)
    schedule.set_tempo("cold", Tempo.WARM)
    schedule.set_tempo("cold", Tempo.COLD)
    seen: list[str] = []
    for _ in range(3 * WARM_TICKS):
        schedule.tick()
        seen += taken(schedule)
    assert (seen.count("hot"), seen.count("warm"), seen.count("cold")) == (3 * WARM_TICKS, 3, 0)


def test_the_sweep_passes_by_every_function_once() -> None:
    for count in (10, SWEEP_TICKS, 1_000):
        uids = [f"f{number}" for number in range(count)]
        schedule = Schedule(partial(list, uids))
        for _ in range(2):
            seen: list[str] = []
            for _ in range(max(SWEEP_TICKS, count * WARM_TICKS // SWEEP_LOOKS_MAX)):
                schedule.tick()
                seen += taken(schedule)
            assert sorted(seen) == sorted(uids)


def test_ten_thousand_functions_of_which_fifty_are_active_cost_a_tick_little_more_than_the_fifty() -> None:
    schedule = Schedule(lambda: [f"f{number}" for number in range(10_000)])
    for number in range(50):
        schedule.set_tempo(f"f{number}", Tempo.HOT)
    looks = []
    began_s = time.process_time()
    for _ in range(SWEEP_TICKS):
        schedule.tick()
        looks.append(len(taken(schedule)))
    assert max(looks) <= 50 + SWEEP_LOOKS_MAX
    assert time.process_time() - began_s < 0.5
