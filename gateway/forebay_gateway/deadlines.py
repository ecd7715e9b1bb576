"""One coarse timer for all waiting calls: a timer of its own for each would cost more than the call's bookkeeping.

Calls due within the same slot of `SLOT_S` lie in one set, so adding and removing is O(1) and a finished call
leaves nothing behind. A deadline is met up to one slot late, never early.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

SLOT_S = 0.025


class Due(Protocol):
    """What can be put under a deadline; `slot` is the wheel's."""

    slot: int

    def due(self) -> None:
        """The deadline has passed. Must not raise."""


class Deadlines:
    """All deadlines of one process. `time` gives the loop's seconds."""

    def __init__(self, time: Callable[[], float]) -> None:
        self._time = time
        self._slots: dict[int, set[Due]] = {}
        self._next_slot = 0

    def add(self, call: Due, due_s: float) -> None:
        """Call `call.due()` at `due_s` (the loop's time) unless it is removed before."""
        slot = max(int(due_s / SLOT_S) + 1, self._next_slot)
        call.slot = slot
        found = self._slots.get(slot)
        if found is None:
            self._slots[slot] = {call}
        else:
            found.add(call)

    def remove(self, call: Due) -> None:
        """Forget a call; does nothing when it is not there."""
        found = self._slots.get(call.slot)
        if found is not None:
            found.discard(call)

    def expire(self) -> None:
        """Call `due()` on every call whose slot has passed."""
        now_slot = int(self._time() / SLOT_S)
        if len(self._slots) < now_slot + 1 - self._next_slot:
            passed = sorted(slot for slot in self._slots if slot <= now_slot)
        else:
            passed = [slot for slot in range(self._next_slot, now_slot + 1) if slot in self._slots]
        self._next_slot = now_slot + 1
        for slot in passed:
            for call in self._slots.pop(slot):
                call.due()

    async def run(self) -> None:
        """Expire for ever, once a slot."""
        while True:
            await asyncio.sleep(SLOT_S)
            self.expire()
