"""An echo in Huey: two worker processes; results are waited for on a list, which is an option of its storage."""

import os
from collections.abc import Callable
from typing import Any

from huey import RedisHuey

huey = RedisHuey("peer", url=f"unix://{os.environ['PEER_SOCKET']}", notify_result=True)


def echo(event: Any) -> Any:
    """Give the event back."""
    return event


queue_echo = huey.task()(echo)


def connect(timeout_s: float) -> Callable[[Any], Any]:
    """A call that queues a task and waits for its result."""

    def call(event: Any) -> Any:
        return queue_echo(event).get(blocking=True, timeout=timeout_s)

    return call
