"""When each function is looked at: at once when it is announced, by a tick while something goes on, else rarely.

All looks pass through one loop, in batches: so no function is looked at twice at a time, announcements that come
during a look merge into the next, and one write reads a whole batch. Work per tick grows with the functions that
have work; those that have none only pass by in the slow sweep, which makes a lost announcement harmless.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import islice

from redis.exceptions import RedisError

from forebay_controller.function_state import Tempo

TICK_S = 0.1
WARM_TICKS = 10
SWEEP_TICKS = 300
SWEEP_LOOKS_MAX = 10
"""With the warm ones, in one batch: however many functions there are that nobody calls, they cost no more than this."""
BATCH_MAX = 64
RETRY_S = 0.2

_log = logging.getLogger(__name__)

Look = Callable[[Sequence[str]], Awaitable[None]]


class Schedule:
    """Decides which functions are looked at when; `known` gives the uids of all functions."""

    def __init__(self, known: Callable[[], Iterable[str]]) -> None:
        self._known = known
        self._due: dict[str, None] = {}
        self._hot: dict[str, None] = {}
        self._warm: dict[str, None] = {}
        self._sweep: Iterator[str] = iter(())
        self._sweep_slice = 0
        self._sweep_at = 0
        self._ticks = 0
        self._some_due = asyncio.Event()

    def wake(self, uid: str) -> None:
        """Look at the function now."""
        self._due[uid] = None
        self._some_due.set()

    def wake_all(self) -> None:
        """Look at every function now."""
        self._due.update(dict.fromkeys(self._known()))
        self._some_due.set()

    def set_tempo(self, uid: str, tempo: Tempo) -> None:
        """How often to look at the function from now on."""
        self._hot.pop(uid, None)
        self._warm.pop(uid, None)
        if tempo is Tempo.HOT:
            self._hot[uid] = None
        elif tempo is Tempo.WARM:
            self._warm[uid] = None

    def tick(self) -> None:
        """Note what is due every `TICK_S`."""
        self._due.update(self._hot)
        if self._ticks % WARM_TICKS == 0:
            self._due.update(self._warm)
            self._due.update(dict.fromkeys(self._next_of_sweep()))
        self._ticks += 1
        if self._due:
            self._some_due.set()

    def _next_of_sweep(self) -> Iterator[str]:
        if self._ticks >= self._sweep_at:
            uids = list(self._known())
            self._sweep = iter(uids)
            self._sweep_slice = min(math.ceil(len(uids) * WARM_TICKS / SWEEP_TICKS), SWEEP_LOOKS_MAX)
            rounds = math.ceil(len(uids) / max(self._sweep_slice, 1))
            self._sweep_at = self._ticks + max(SWEEP_TICKS, rounds * WARM_TICKS)
        return islice(self._sweep, self._sweep_slice)

    async def run_ticks(self) -> None:
        """Tick for ever. Ticks that a busy loop missed are left out, not made up for."""
        loop = asyncio.get_running_loop()
        next_s = loop.time()
        while True:
            self.tick()
            next_s = max(next_s + TICK_S, loop.time())
            await asyncio.sleep(next_s - loop.time())

    async def run_looks(self, look: Look) -> None:
        """Call `look` for ever with what is due, the longest due first."""
        while True:
            await self._some_due.wait()
            batch = self.take()
            try:
                await look(batch)
            except RedisError as error:
                _log.warning("could not look at the queues: %s", error)
                self._due.update(dict.fromkeys(batch))
                self._some_due.set()
                await asyncio.sleep(RETRY_S)

    def take(self) -> list[str]:
        """The next batch that is due."""
        batch = [*islice(self._due, BATCH_MAX)]
        for uid in batch:
            del self._due[uid]
        if not self._due:
            self._some_due.clear()
        return batch
