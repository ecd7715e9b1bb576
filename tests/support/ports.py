"""Ports for servers that a test starts by themselves."""

import os
import random
import socket

_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))

PORTS = range(10_000 + _WORKER, 30_000, _WORKERS)
"""Below those that the kernel gives to outgoing connections, which would come and go until the server listens.

Each worker of a run has its own: a port is free until its server listens, so two would find the same one free.
"""

_given: set[int] = set()


def free_port() -> int:
    """A port on loopback that nobody has, another one at each call of a process."""
    while True:
        port = random.choice(PORTS)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
