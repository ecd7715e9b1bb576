"""Delayed events return to their queue on time: a clock for the earliest of each function."""

import asyncio
import heapq
import logging
from collections.abc import Callable

from redis.asyncio import Redis
from redis.exceptions import RedisError

from forebay_common.queue import VersionQueue, promote

AT_ONCE_MAX = 16
"""Functions served in one pass: each moves one page, so that a flood of one does not delay the others."""
RETRY_S = 0.2

_log = logging.getLogger(__name__)


class Delivery:
    """Knows when each function's next delayed event is due, and moves it then; `moved(uid)` is told of it."""

    def __init__(self, redis: Redis, moved: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._redis = redis
        self._moved = moved
        self._clock = clock
        self._due_s: dict[str, float] = {}
        self._queues: dict[str, VersionQueue] = {}
        self._heap: list[tuple[float, str]] = []
        self._earlier = asyncio.Event()

    def note(self, uid: str, queue: VersionQueue, due_in_ms: int | None) -> None:
        """A look, or a move, found the function's next event due in `due_in_ms`; None: there is none."""
        if due_in_ms is None:
            self.forget(uid)
            return
        due_s = self._clock() + due_in_ms / 1000
        self._queues[uid] = queue
        known_s = self._due_s.get(uid)
        # Two looks at one event differ by their own duration: not worth a new place in the heap.
        if known_s is not None and known_s <= due_s <= known_s + RETRY_S:
            return
        self._due_s[uid] = due_s
        heapq.heappush(self._heap, (due_s, uid))
        if self._heap[0][1] == uid:
            self._earlier.set()

    def forget(self, uid: str) -> None:
        """The function has no delayed event any more."""
        self._due_s.pop(uid, None)
        self._queues.pop(uid, None)

    async def run(self) -> None:
        """Deliver for ever."""
        while True:
            self._earlier.clear()
            try:
                async with asyncio.timeout(self._wait_s()):
                    await self._earlier.wait()
                continue
            except TimeoutError:
                pass  # the earliest is due
            await self._deliver(self.take_due())

    def take_due(self) -> list[str]:
        """The functions with an event that is due now, at most `AT_ONCE_MAX`."""
        now_s = self._clock()
        due: list[str] = []
        while self._heap and self._heap[0][0] <= now_s and len(due) < AT_ONCE_MAX:
            at_s, uid = heapq.heappop(self._heap)
            if self._due_s.get(uid) == at_s:
                del self._due_s[uid]
                due.append(uid)
        return due

    def _wait_s(self) -> float | None:
        return max(0.0, self._heap[0][0] - self._clock()) if self._heap else None

    async def _deliver(self, uids: list[str]) -> None:
        await asyncio.gather(*(self._deliver_one(uid, self._queues[uid]) for uid in uids))

    async def _deliver_one(self, uid: str, queue: VersionQueue) -> None:
        try:
            done = await promote(self._redis, queue)
        except RedisError as error:
            _log.warning("could not deliver delayed events: %s", error, extra={"function": queue.keys.base})
            self.note(uid, queue, int(RETRY_S * 1000))
            return
        self.note(uid, queue, done.due_in_ms)
        if done.moved:
            self._moved(uid)
