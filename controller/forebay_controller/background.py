"""Work that runs beside the looks: started without waiting, never lost from sight."""

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from typing import Any

from redis.exceptions import RedisError

CANCEL_AGAIN_S = 0.1

_log = logging.getLogger(__name__)


class Background:
    """Tasks that nobody waits for. One that fails is logged; the next look finds what it left undone."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()

    def spawn(self, work: Coroutine[Any, Any, object], name: str) -> None:
        """Run `work` beside everything else."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def settle(self, timeout_s: float) -> None:
        """Wait for what is under way, at most `timeout_s`; then cancel the rest."""
        tasks = list(self._tasks)
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=timeout_s)
        await end_tasks(late)

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, RedisError):
            _log.warning("%s failed: %s", task.get_name(), error)
        elif error is not None:
            _log.error("%s failed", task.get_name(), exc_info=error)


async def end_tasks(tasks: Iterable[asyncio.Task[object]]) -> None:
    """Cancel tasks until they have ended: redis-py swallows a cancellation that meets it while it connects."""
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=CANCEL_AGAIN_S)
