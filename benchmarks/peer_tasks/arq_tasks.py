"""An echo in arq. It polls, worker and caller alike: by default each half second, here as often as is of use."""

import os
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

from arq import create_pool
from arq.connections import RedisSettings

_POLL_S = 0.005
_SETTINGS = RedisSettings(unix_socket_path=os.environ["PEER_SOCKET"])


async def echo(_context: dict[str, Any], event: Any) -> Any:
    """Give the event back."""
    return event


class WorkerSettings:
    """What arq's command line looks for."""

    functions: ClassVar[list[Callable[..., Awaitable[Any]]]] = [echo]
    redis_settings = _SETTINGS
    poll_delay = _POLL_S
    max_jobs = 64


async def connect(timeout_s: float) -> Callable[[Any], Awaitable[Any]]:
    """A call that queues a job and waits for its result."""
    pool = await create_pool(_SETTINGS)

    async def call(event: Any) -> Any:
        job = await pool.enqueue_job("echo", event)
        return await job.result(timeout=timeout_s, poll_delay=_POLL_S)

    return call
