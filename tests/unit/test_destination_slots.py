"""How receivers share what may be under way together."""

import asyncio
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from forebay_controller.destinations.decisions import TOTAL_MAX, share_of
from forebay_controller.destinations.slots import Slots
from support.controller_rig import until


class Crowd:
    """Records for receivers that answer when a test says so."""

    def __init__(self, total: int) -> None:
        self.slots = Slots(total)
        self.under_way: Counter[str] = Counter()
        self.tasks: list[asyncio.Task[None]] = []
        self._answers: dict[str, asyncio.Event] = {}

    def send(self, receiver: str, count: int = 1) -> None:
        self._answers.setdefault(receiver, asyncio.Event())
        self.tasks += [asyncio.create_task(self._post(receiver)) for _ in range(count)]

    def answer(self, receiver: str) -> None:
        self._answers[receiver].set()

    async def _post(self, receiver: str) -> None:
        async with self.slots.hold(receiver):
            self.under_way[receiver] += 1
            await self._answers[receiver].wait()
        self.under_way[receiver] -= 1

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_slow_receivers_leave_room_for_another_one() -> None:
    crowd = Crowd(TOTAL_MAX)
    for number in range(20):
        crowd.send(f"slow{number}", 8)
    await until(lambda: crowd.under_way.total() == TOTAL_MAX, "all slots are taken at first")
    # Their first posts are over: what follows is shared.
    for number in range(20):
        crowd.answer(f"slow{number}")
    await asyncio.gather(*crowd.tasks)
    again = [f"again{number}" for number in range(20)]
    for receiver in again:
        crowd.send(receiver)
    await until(lambda: crowd.under_way.total() == len(again), "each has one")
    for receiver in again:
        crowd.send(receiver, 8)
    share = share_of(TOTAL_MAX, len(again))
    await until(lambda: all(crowd.under_way[receiver] == share for receiver in again), "each has its share")
    assert crowd.slots.has_room("quick")
    crowd.send("quick")
    await until(lambda: crowd.under_way["quick"] == 1, "another one is told at once")
    await crowd.close()


async def test_who_holds_least_is_next() -> None:
    crowd = Crowd(3)
    crowd.send("first", 3)
    await until(lambda: crowd.under_way["first"] == 1, "it is alone, and leaves room")
    crowd.send("second")
    crowd.send("third")
    await until(lambda: crowd.under_way.total() == 3, "each has one")
    assert not crowd.slots.has_room("fourth")
    crowd.send("fourth")
    crowd.answer("second")
    await until(lambda: crowd.under_way["fourth"] == 1, "it came before the first one's others")
    assert crowd.under_way["first"] == 1
    await crowd.close()


async def test_what_is_cancelled_gives_its_place_to_others() -> None:
    crowd = Crowd(1)
    crowd.send("holder")
    await until(lambda: crowd.under_way["holder"] == 1, "the only slot is taken")
    crowd.send("gone")
    crowd.send("next")
    await asyncio.sleep(0)
    crowd.tasks[1].cancel()
    crowd.answer("holder")
    await until(lambda: crowd.under_way["next"] == 1, "the next one is told")
    crowd.send("late")
    await asyncio.sleep(0)
    crowd.answer("next")
    await crowd.tasks[2]
    crowd.tasks[3].cancel()  # in the moment in which it was given the slot
    await asyncio.gather(crowd.tasks[3], return_exceptions=True)
    assert crowd.slots.has_room("anybody")
    await crowd.close()


@given(st.integers(1, 100), st.integers(1, 200))
def test_shares_leave_a_slot_free_where_there_are_more_slots_than_receivers(total: int, receivers: int) -> None:
    share = share_of(total, receivers)
    assert share >= 1
    if receivers < total:
        assert share * receivers < total or total == 1
