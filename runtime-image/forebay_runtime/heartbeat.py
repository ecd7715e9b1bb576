"""What an instance says about itself, as commands (see docs/queue-protocol.md, heartbeat)."""

from __future__ import annotations

import os
from time import time

from forebay_common.limits import HEARTBEAT_TTL_S
from forebay_runtime.redis_wire import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from forebay_common.keys import FunctionKeys
    from forebay_runtime.settings import Settings

STARTING = "starting"
READY = "ready"
DRAINING = "draining"
FAILED = "failed"

_REASON_MAX_CHARS = 500


class Heartbeat:
    """The instance's hash and control stream, which expire unless renewed."""

    def __init__(self, settings: Settings, keys: FunctionKeys) -> None:
        self.state = STARTING
        self.reason = ""
        self.init_failure = ""
        self.init_us = 0
        self._key = keys.instance(settings.instance_id)
        self._control = keys.control(settings.instance_id)
        self._wake = f"{settings.prefix}:wake"
        self._function = f"{settings.namespace}/{settings.name}/{settings.uid}"
        self._fixed = ("pid", os.getpid(), "revision", settings.revision, "started_ms", int(time() * 1000))

    def beat(self, counters: tuple[str | int, ...], *, announce: bool) -> tuple[bytes, int]:
        """The commands of one beat, and how many.

        `counters` are names and values in turn; `announce` wakes the controller, for a change of state.
        """
        words = ("reason", self.reason[:_REASON_MAX_CHARS], "init_failure", self.init_failure[:_REASON_MAX_CHARS])
        fields = ("state", self.state, *words, "init_us", self.init_us)
        commands = [
            ("HSET", self._key, *fields, *counters, *self._fixed),
            ("PEXPIRE", self._key, HEARTBEAT_TTL_S * 1000),
            ("PEXPIRE", self._control, HEARTBEAT_TTL_S * 1000),
            ("TIME",),
        ]
        if announce:
            commands.append(("PUBLISH", self._wake, self._function))
        return b"".join(map(command, commands)), len(commands)
