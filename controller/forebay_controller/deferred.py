"""Work for later: timers by key, each tried again while Redis is away, all ended together."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable

from redis.exceptions import RedisError

from forebay_common import logs
from forebay_controller.background import end_tasks

RETRY_S = 1.0

Job = Callable[[], Awaitable[float | None]]
"""What to do; gives the seconds after which to do it again, or None when it is done."""

_log = logs.get(__name__)


class Deferred:
    """Jobs under keys. A key that is waiting already keeps its first time; jobs say themselves when to come again."""

    def __init__(self) -> None:
        self._tasks: dict[Hashable, asyncio.Task[None]] = {}

    def schedule(self, key: Hashable, delay_s: float, job: Job) -> asyncio.Task[None]:
        """Run `job` after `delay_s`, unless the key has one already. Gives the task, to wait for without cancelling."""
        task = self._tasks.get(key)
        if task is None or task.done():
            task = asyncio.get_running_loop().create_task(self._run(key, delay_s, job))
            self._tasks[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
        return task

    async def close(self) -> None:
        """End everything that waits. What must not be lost is found again at the next start."""
        await end_tasks(list(self._tasks.values()))

    async def _run(self, key: Hashable, delay_s: float, job: Job) -> None:
        again_s: float | None = delay_s
        while again_s is not None:
            await asyncio.sleep(again_s)
            try:
                again_s = await job()
            except RedisError as error:
                _log.warning("deferred work waits for Redis: %s: %s", key, error)
                again_s = RETRY_S

    def _forget(self, key: Hashable, task: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("deferred work failed: %s", key, exc_info=error)
