"""Telling the controller that a function has work; `wake.py` decides when."""

import asyncio
import contextlib

from forebay_gateway import wake
from forebay_gateway.redis_link import Commands, NotConnected, ignore
from forebay_gateway.table import Function


class Waker:
    """Publishes the hints of one process."""

    def __init__(self, commands: Commands) -> None:
        self._loop = asyncio.get_running_loop()
        self._commands = commands

    def wake(self, function: Function, now_s: float, spacing_s: float) -> None:
        """Tell the controller to look at a function, now or as the burst's trailing hint."""
        load = function.load
        if now_s - load.wake_s > wake.QUIET_S:
            load.wake_run = 0
        spacing_s = wake.grown_spacing_s(spacing_s, load.wake_run)
        decision = wake.decide(now_s, load.wake_s, spacing_s, trailing=load.trailing_wake)
        if decision == "now":
            self._publish(function)
        elif decision == "later":
            load.trailing_wake = True
            self._loop.call_later(load.wake_s + spacing_s - now_s, self._publish, function)

    def _publish(self, function: Function) -> None:
        function.load.trailing_wake = False
        function.load.wake_s = self._loop.time()
        function.load.wake_run += 1
        with contextlib.suppress(NotConnected):
            self._commands.write((function.wake,), ignore)
