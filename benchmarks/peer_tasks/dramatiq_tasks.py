"""An echo in Dramatiq: two processes of eight threads, its default; results by its Redis backend."""

import os
from collections.abc import Callable
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends.redis import RedisBackend

_URL = f"unix://{os.environ['PEER_SOCKET']}"

broker = RedisBroker(url=_URL)
broker.add_middleware(Results(backend=RedisBackend(url=_URL)))
dramatiq.set_broker(broker)


def echo(event: Any) -> Any:
    """Give the event back."""
    return event


queue_echo = dramatiq.actor(echo, store_results=True)


def connect(timeout_s: float) -> Callable[[Any], Any]:
    """A call that sends a message and waits for its result."""

    def call(event: Any) -> Any:
        return queue_echo.send(event).get_result(block=True, timeout=int(timeout_s * 1000))

    return call
