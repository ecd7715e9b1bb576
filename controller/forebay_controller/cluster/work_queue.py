"""Work by key: one task for each key at a time and a backoff for each, so that none waits for another's trouble."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from redis.exceptions import RedisError

from forebay_common import logs
from forebay_controller.background import end_tasks
from forebay_controller.cluster.api import ApiError

BACKOFF_FIRST_S = 0.5
BACKOFF_MOST_S = 60.0

KeyT = TypeVar("KeyT", bound=Hashable)

_log = logs.get(__name__)


class WorkQueue(Generic[KeyT]):
    """Keys to be worked on. `work(key)` gives the seconds after which to come again, None for not by itself.

    How much is done at a time is bounded where it costs something, by what `work` itself asks for.
    """

    def __init__(self, work: Callable[[KeyT], Awaitable[float | None]]) -> None:
        self._work = work
        self._running: dict[KeyT, asyncio.Task[None]] = {}
        self._again: set[KeyT] = set()
        self._timers: dict[KeyT, asyncio.TimerHandle] = {}
        self._failures: dict[KeyT, int] = {}

    def add(self, key: KeyT) -> None:
        """Work on a key now; when it is being worked on, once more after that."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        if key in self._running:
            self._again.add(key)
        else:
            self._running[key] = asyncio.create_task(self._run(key), name=f"work on {key}")

    async def close(self) -> None:
        """End everything, whatever it is at."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        await end_tasks(list(self._running.values()))

    async def _run(self, key: KeyT) -> None:
        try:
            while True:
                self._again.discard(key)
                delay_s = await self._attempt(key)
                if key not in self._again:
                    break
        finally:
            del self._running[key]
        if delay_s is not None:
            self._timers[key] = asyncio.get_running_loop().call_later(delay_s, self.add, key)

    async def _attempt(self, key: KeyT) -> float | None:
        try:
            delay_s = await self._work(key)
        except (ApiError, RedisError) as error:
            _log.warning("work on %s failed, and is tried again: %s", key, error)
        except Exception:  # noqa: BLE001 - logged; a mistake of ours must not end the work on every other key
            _log.exception("work on %s failed, and is tried again", key)
        else:
            self._failures.pop(key, None)
            return delay_s
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        return backoff_s(failures)


def backoff_s(failures: int, *, first_s: float = BACKOFF_FIRST_S, most_s: float = BACKOFF_MOST_S) -> float:
    """How long to wait after so many failures in a row, spread so that nobody comes at the same moment."""
    longest_s = min(first_s * 2.0 ** min(failures - 1, 16), most_s)
    return longest_s * random.uniform(0.75, 1.0)  # noqa: S311 - spreads attempts, no secret
