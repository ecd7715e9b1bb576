"""Entry of the handlers' program as a container's process 1: `python -I -S container.py`, FOREBAY_SOCKET its path.

It lives as long as its connection to the runtime, in the other container of the pod. The kubelet asks both to end
at the same time: the runtime finishes what it holds and then ends, so that request is its business alone.
"""

import os
import sys
from _signal import SIGTERM, signal  # type: ignore[import-not-found] # `signal` costs as much as the interpreter's start

SOCKET_VARIABLE = "FOREBAY_SOCKET"
CONNECT_WAIT_S = 120.0
"""The runtime's container is started first, but its image may have to be pulled while this one's is there."""
OPEN_FILES_MAX = 1_024
"""Lambda's number of file descriptors (Lambda quotas)."""


def main() -> None:
    """Serve the runtime at the socket until it goes away; in a forked child, run the user's code."""
    # What the bare interpreter itself stands on. Everything imported later gives way to a user's module of that name.
    essential = frozenset(sys.modules)
    # Process 1 gets no signal that it has not asked for; while there is no runtime nobody else would end it.
    signal(SIGTERM, _end)
    import resource  # noqa: PLC0415 - a user's module of that name is to win, so it is none of the above

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = OPEN_FILES_MAX if hard == resource.RLIM_INFINITY else min(OPEN_FILES_MAX, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # Last on the path and only for this moment: the user's code never sees our folder.
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path.append(home)
    from forebay_handlers import handler_process, supervisor  # noqa: PLC0415 - found only now

    sys.path.remove(home)
    child = supervisor.serve(os.environ[SOCKET_VARIABLE], CONNECT_WAIT_S, stays=True)
    if child is not None:
        handler_process.run(child, essential)


def _end(_number: int, _frame: object) -> None:
    os._exit(0)


if __name__ == "__main__":
    main()
