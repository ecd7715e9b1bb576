"""Huey's side of `drain`: `python -m benchmarks.huey_tasks COUNT` queues no-op tasks for `huey_consumer`.

The Redis socket is given as HUEY_SOCKET.
"""

import os
import sys

from huey import RedisHuey

huey = RedisHuey("bench", url=f"unix://{os.environ['HUEY_SOCKET']}", results=False)


def no_op() -> None:
    """Do nothing but say that it ran."""
    huey.storage.conn.incr("huey:done")


queue_no_op = huey.task()(no_op)


if __name__ == "__main__":
    for _ in range(int(sys.argv[1])):
        queue_no_op()
