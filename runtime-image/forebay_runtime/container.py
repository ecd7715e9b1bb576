"""What the runtime does only as a container of a pod: say why it ended, and wait for the one beside it."""

from __future__ import annotations

import os
import sys
from time import monotonic, sleep

from forebay_common.pod_layout import RUNTIME_API_PORT, TERMINATION_MESSAGE_MAX_BYTES, TERMINATION_MESSAGE_PATH
from forebay_runtime.lean import socket

API_WAIT_S = 30.0
_API_RETRY_S = 0.005


def leave_message(reason: str, path: str = TERMINATION_MESSAGE_PATH) -> None:
    """Make `reason` the container's termination message, which its pod's status shows."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    except OSError as error:
        # Not there, or another path was configured: the reason is on standard error as well.
        sys.stderr.write(f"no termination message could be left: {error}\n")
        return
    try:
        os.write(fd, reason.encode()[:TERMINATION_MESSAGE_MAX_BYTES])
    finally:
        os.close(fd)


def wait_for_api(port: int = RUNTIME_API_PORT, wait_s: float = API_WAIT_S) -> int:
    """Return 0 once the Runtime API of this pod takes connections, 1 when it does not in time."""
    deadline = monotonic() + wait_s
    while monotonic() < deadline:
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if connection.connect_ex(("127.0.0.1", port)) == 0:
                return 0
        finally:
            connection.close()
        # Nothing tells when another process starts to listen on a port.
        sleep(_API_RETRY_S)
    sys.stderr.write(f"the Runtime API does not listen on port {port} after {wait_s:.0f} s\n")
    return 1
