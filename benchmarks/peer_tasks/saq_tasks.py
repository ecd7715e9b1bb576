"""An echo in SAQ: a worker of 64 at once. Its callers poll, by default each half second, here as often as is of use."""

import os
from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio import Redis
from saq.queue.redis import RedisQueue

_POLL_S = 0.005


async def echo(_context: dict[str, Any], *, event: Any) -> Any:
    """Give the event back."""
    return event


def _queue() -> Any:
    return RedisQueue(Redis(unix_socket_path=os.environ["PEER_SOCKET"]), max_concurrent_ops=64)


# A sweep gives up what a worker has just taken and not begun: none but the first, and its victims are run again.
settings = {"queue": _queue(), "functions": [echo], "concurrency": 64, "timers": {"sweep": 3600}}


async def connect(timeout_s: float) -> Callable[[Any], Awaitable[Any]]:
    """A call that queues a job and waits for its result."""
    queue = _queue()
    await queue.connect()

    async def call(event: Any) -> Any:
        return await queue.apply("echo", timeout=timeout_s, poll_interval=_POLL_S, retries=3, event=event)

    return call
