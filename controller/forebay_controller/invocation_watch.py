"""Waiting for the ends of invocations: one loop looks for all who wait on this controller.

Nothing announces an end (an announcement for each event would cost every event a publication that next to nobody
listens to), so it is looked for: soon at first, since most events are short, and more seldom the longer one waits.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from redis.asyncio import Redis

from forebay_common.events import CANCELLED, FAILED, SUCCEEDED, EventState, find_event
from forebay_common.queue import VersionQueue

WAITING_MAX = 200
"""Each holds a connection of a gateway's to this controller, of which the gateway has 256 for all it forwards."""
LOOK_FIRST_S = 0.1
LOOK_LAST_S = 0.5
SLOWER_BY = 0.1
"""The next look is so much of the time waited away: at most a tenth is added to what anybody waits for."""
TOGETHER_S = 0.05
"""Who is due so soon after another is looked for with it."""
QUEUES_AT_ONCE = 8

ENDED = frozenset({SUCCEEDED, FAILED, CANCELLED})


class TooManyWaitingError(Exception):
    """As many wait as may."""


@dataclass(eq=False, slots=True)
class _Waiter:
    queue: VersionQueue
    invocation_id: bytes
    since_s: float
    due_s: float
    found: asyncio.Future[EventState | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class InvocationWatch:
    """Those who wait on one controller. Its loop runs while there are any."""

    def __init__(self, redis: Redis, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._clock = clock
        self._waiters: set[_Waiter] = set()
        self._changed = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiters)

    async def until_ended(self, queue: VersionQueue, invocation_id: bytes, timeout_s: float) -> EventState | None:
        """An invocation's state once it has ended, or as it is after `timeout_s`; None when it is not known any more.

        Raises TooManyWaitingError, and what `find_event` raises.
        """
        if len(self._waiters) >= WAITING_MAX:
            raise TooManyWaitingError
        now_s = self._clock()
        waiter = _Waiter(queue, invocation_id, now_s, now_s + LOOK_FIRST_S)
        self._waiters.add(waiter)
        self._changed.set()
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._run(), name="ends of invocations")
        try:
            async with asyncio.timeout(timeout_s):
                return await waiter.found
        except TimeoutError:
            (state,) = await find_event(self._redis, queue, [invocation_id])
            return state
        finally:
            self._waiters.discard(waiter)
            self._changed.set()

    async def _run(self) -> None:
        while self._waiters:
            now_s = self._clock()
            due = [waiter for waiter in self._waiters if waiter.due_s <= now_s + TOGETHER_S]
            if due:
                await self._look(due)
            else:
                await self._pause(min(waiter.due_s for waiter in self._waiters) - now_s)

    async def _pause(self, seconds: float) -> None:
        """Until somebody is due, comes or goes."""
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _look(self, due: Iterable[_Waiter]) -> None:
        by_queue: dict[tuple[str, str], list[_Waiter]] = {}
        for waiter in due:
            by_queue.setdefault((waiter.queue.keys.base, waiter.queue.version), []).append(waiter)
        groups = [*by_queue.values()]
        for at in range(0, len(groups), QUEUES_AT_ONCE):
            await asyncio.gather(*(self._look_in(group) for group in groups[at : at + QUEUES_AT_ONCE]))

    async def _look_in(self, waiters: list[_Waiter]) -> None:
        """The waiters of one queue, in one round trip."""
        wanted = list({waiter.invocation_id: None for waiter in waiters})
        try:
            states = dict(zip(wanted, await find_event(self._redis, waiters[0].queue, wanted), strict=True))
        except Exception as error:  # noqa: BLE001 - it is theirs to raise, and nobody else's
            for waiter in waiters:
                self._waiters.discard(waiter)
                if not waiter.found.done():
                    waiter.found.set_exception(error)
            return
        for waiter in waiters:
            state = states[waiter.invocation_id]
            if state is not None and state.status not in ENDED:
                now_s = self._clock()
                waiter.due_s = now_s + next_look_s(now_s - waiter.since_s)
                continue
            self._waiters.discard(waiter)
            if not waiter.found.done():
                waiter.found.set_result(state)


def next_look_s(waited_s: float) -> float:
    """How long after a look the next one is worth it, for one who has waited so long."""
    return min(max(waited_s * SLOWER_BY, LOOK_FIRST_S), LOOK_LAST_S)
