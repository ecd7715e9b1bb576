"""Processes that are watched by pidfd, so that a controller can also watch those that an earlier one started."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Self

_STAT_START_TIME = 19
"""Index of the start time among the fields after the command name in /proc/PID/stat (proc(5), field 22)."""


def start_time_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when there is no such process.

    With the pid it names a process for good: pids are used again, the pair is not.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(")")[2].split()[_STAT_START_TIME])


class WatchedProcess:
    """A running process, ours or inherited; `on_exit` is called once, in the event loop, when it is gone."""

    def __init__(self, pid: int, pidfd: int, child: subprocess.Popen[bytes] | None) -> None:
        self.pid = pid
        self.started = start_time_ticks(pid) or 0
        self.gone = False
        self._pidfd = pidfd
        self._child = child

    @classmethod
    def of_child(cls, child: subprocess.Popen[bytes]) -> Self:
        """Watch a process that this one started."""
        return cls(child.pid, os.pidfd_open(child.pid), child)

    @classmethod
    def of_stranger(cls, pid: int, started: int) -> Self | None:
        """Watch a process by pid and start time; None when it is gone."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        # Only after the descriptor is held does the pid stay this process's own, so the check comes second.
        if start_time_ticks(pid) != started:
            os.close(pidfd)
            return None
        return cls(pid, pidfd, None)

    def watch(self, on_exit: Callable[[], None]) -> None:
        """Call `on_exit` when the process has ended."""
        loop = asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(self._pidfd)
            self.gone = True
            os.close(self._pidfd)
            if self._child is not None:
                self._child.wait()
            on_exit()

        loop.add_reader(self._pidfd, ended)

    @property
    def exit_code(self) -> int | None:
        """The exit code once it is gone; negative for a signal; None for a process another one started."""
        return None if self._child is None else self._child.returncode

    def send(self, number: signal.Signals) -> None:
        """Send a signal to exactly this process; nothing happens when it is gone."""
        if self.gone:
            return
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return
