"""An echo in Celery: a list as the broker, results by the Redis backend's publications; its defaults otherwise."""

import os
from collections.abc import Callable
from typing import Any

from celery import Celery

_URL = f"redis+socket://{os.environ['PEER_SOCKET']}"

app = Celery("bench", broker=_URL, backend=_URL)


def echo(event: Any) -> Any:
    """Give the event back."""
    return event


queue_echo = app.task(echo)


def connect(timeout_s: float) -> Callable[[Any], Any]:
    """A call that queues a task and waits for its result."""

    def call(event: Any) -> Any:
        return queue_echo.delay(event).get(timeout=timeout_s)

    return call
