"""The runtime's entry: one instance, until it is told to end or cannot go on.

Exit codes: 0 drained or its function was deleted, 1 the instance failed (its heartbeat says why), 2 it was started
wrongly. In a pod the container's termination message says why, too.
"""

from __future__ import annotations

import gc
import os
import sys

from forebay_common.pod_layout import REDIS_VARIABLE, SETTINGS_VARIABLE
from forebay_runtime import container
from forebay_runtime.console import Console
from forebay_runtime.instance import Instance
from forebay_runtime.lean import signal
from forebay_runtime.loop import Loop
from forebay_runtime.process import ParentWatch, make_non_dumpable
from forebay_runtime.settings import RedisCredentials, Settings, read_json, take_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

USAGE = "usage: python -m forebay_runtime --settings FILE --credentials FILE | --pod | --wait-for-api"
SUPERVISOR_VARIABLE = "FOREBAY_SUPERVISOR_PID"
RECORD_VARIABLE = "FOREBAY_INSTANCE_RECORD"
"""The file by which a later controller finds this instance; it is there before anything can be leased, or never."""
_GC_THRESHOLD = 20_000
_PARENT_SIGNAL = signal.SIGUSR1


def main(arguments: list[str]) -> int:
    """Run an instance, or (`--wait-for-api`) wait for one beside us; gives the exit code."""
    if arguments == ["--wait-for-api"]:
        return container.wait_for_api()
    in_pod = arguments == ["--pod"]
    if not in_pod and (len(arguments) != 4 or arguments[0] != "--settings" or arguments[2] != "--credentials"):  # noqa: PLR2004
        sys.stderr.write(f"{USAGE}\n")
        return 2
    # Before there is a credential in our memory.
    make_non_dumpable()
    try:
        if in_pod:
            settings = Settings(take_json(os.environ, SETTINGS_VARIABLE), in_pod=True)
            credentials = RedisCredentials(take_json(os.environ, REDIS_VARIABLE))
        else:
            settings = Settings(read_json(arguments[1]))
            credentials = RedisCredentials(read_json(arguments[3]))
    except (OSError, ValueError, KeyError) as error:
        reason = f"the runtime cannot read what it is started with: {error!r}"
        sys.stderr.write(f"{reason}\n")
        if in_pod:
            container.leave_message(reason)
        return 2
    try:
        return _run(settings, credentials)
    except BaseException as error:
        if in_pod:
            container.leave_message(f"the runtime failed: {error!r}")
        raise


def _run(settings: Settings, credentials: RedisCredentials) -> int:
    console = Console(settings.name, settings.instance_id)
    loop = Loop()
    instance = Instance(loop, settings, credentials, console)
    signals = _Signals(loop, instance, console)
    if signals.abandoned():
        return 1
    instance.start()
    # What is there now stays: collections look at what calls leave behind, and seldom.
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)
    loop.run(instance.end_of_turn)
    instance.close()
    if instance.exit_code and settings.in_pod:
        container.leave_message(instance.reason)
    return instance.exit_code or 0


class _Signals:
    """Signals as events of the loop: SIGTERM and SIGINT drain; the parent's death is looked into."""

    def __init__(self, loop: Loop, instance: Instance, console: Console) -> None:
        self._loop = loop
        self._instance = instance
        self._console = console
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, _PARENT_SIGNAL):
            signal.signal(number, _note)
        loop.watch(self._read, self._on_signals)
        supervisor = os.environ.get(SUPERVISOR_VARIABLE, "")
        self._record = os.environ.get(RECORD_VARIABLE, "")
        self._parent = ParentWatch(int(supervisor), _PARENT_SIGNAL) if supervisor.isdigit() else None

    def abandoned(self) -> str:
        """Why nobody will ever look after this instance; "" while somebody does."""
        if self._parent is None:
            return ""
        if self._parent.alone():
            return "the platform's supervisor is gone"
        if self._record and self._parent.adopted and not os.path.exists(self._record):
            return "the controller died before it wrote down that it had started this instance"
        return ""

    def _on_signals(self, _: int) -> None:
        numbers = os.read(self._read, 512)
        if _PARENT_SIGNAL in numbers and (reason := self.abandoned()):
            self._console.error(reason)
            self._instance.end(1)
        elif signal.SIGTERM in numbers or signal.SIGINT in numbers:
            self._instance.drain()


def _note(_number: int, _frame: Any) -> None:
    """The wakeup descriptor carries the signal to the loop."""
