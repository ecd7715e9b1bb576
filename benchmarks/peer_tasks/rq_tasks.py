"""An echo in RQ, by its default worker, which forks for each job; a result is waited for on its stream."""

import os
from collections.abc import Callable
from typing import Any

from redis import Redis
from rq import Queue


def echo(event: Any) -> Any:
    """Give the event back."""
    return event


def connect(timeout_s: float) -> Callable[[Any], Any]:
    """A call that queues a job and waits for its result."""
    queue = Queue(connection=Redis(unix_socket_path=os.environ["PEER_SOCKET"]))

    def call(event: Any) -> Any:
        result = queue.enqueue(echo, event).latest_result(timeout=int(timeout_s))
        return None if result is None else result.return_value

    return call
