"""Huey's side of `drain`: no-op tasks and the consumer's instance. The Redis socket is given as HUEY_SOCKET."""

import os

from huey import RedisHuey

huey = RedisHuey("bench", url=f"unix://{os.environ['HUEY_SOCKET']}", results=False)


def no_op() -> None:
    """Do nothing but say that it ran."""
    huey.storage.conn.incr("huey:done")


queue_no_op = huey.task()(no_op)


def fill(count: int) -> None:
    """Queue tasks. To be called from another main module: Huey names a task by its module."""
    for _ in range(count):
        queue_no_op()
