"""Programs in the background: started with a log, recorded by pid and start time, ended by that record alone."""

import fcntl
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .layout import CACHE, LOGS
from .report import NodeError

END_TIMEOUT_S = 10.0
POLL_S = 0.05
LOG_END_LINES = 15


@dataclass(frozen=True)
class Recorded:
    """A process as it was started; `started_ticks` tells it from a later one with the same pid."""

    name: str
    pid: int
    started_ticks: int

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return started_ticks(self.pid) == self.started_ticks


def started_ticks(pid: int) -> int | None:
    """When a process started, in ticks since boot (proc(5), field 22 of stat); None when it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


def start(name: str, command: Sequence[str | Path]) -> Recorded:
    """Start a program in a session of its own; its output goes to LOGS/name.log.

    Not by `subprocess`, which takes a child that it does not end for a leak: these outlive this process.
    """
    log = str(LOGS / f"{name}.log")
    pid = os.posix_spawnp(
        str(command[0]),
        [str(argument) for argument in command],
        {"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigdef=[signal.SIGPIPE],  # Python ignores it, and a child would inherit that
    )
    ticks = started_ticks(pid)
    if ticks is None:
        raise NodeError(f"{name} ended as it started:\n{log_end(name)}")
    return Recorded(name, pid, ticks)


def kill(processes: Sequence[Recorded]) -> None:
    """End them at once, and return when they are gone; nothing that they hold is kept, so they need no time for it."""
    handles = [(process.name, handle) for process in processes if (handle := _handle(process)) is not None]
    try:
        for _, handle in handles:
            _kill(handle)
        for name, handle in handles:
            if not _ended(handle, END_TIMEOUT_S):
                raise NodeError(f"{name} does not end even when killed")
    finally:
        for _, handle in handles:
            os.close(handle)


def _handle(process: Recorded) -> int | None:
    """A pidfd, which can never mean another process; checked after it is open, hence no race."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    if process.alive():
        return handle
    os.close(handle)
    return None


def _kill(handle: int) -> None:
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        return  # ended meanwhile, which was the aim


def _ended(handle: int, timeout_s: float) -> bool:
    readable, _, _ = select.select([handle], [], [], timeout_s)
    return bool(readable)


def wait_until(check: Callable[[], bool], what: str, timeout_s: float, needs: Sequence[Recorded] = ()) -> None:
    """Return once `check` is true; the components announce their readiness by no event, only by answering.

    Raises NodeError naming `what` after the timeout, or at once when a process it needs has ended.
    """
    deadline = time.monotonic() + timeout_s
    while not check():
        for process in needs:
            if not process.alive():
                raise NodeError(f"{process.name} ended while waiting until {what}:\n{log_end(process.name)}")
        if time.monotonic() > deadline:
            logs = "\n".join(log_end(process.name) for process in needs)
            raise NodeError(f"not within {timeout_s:.0f} s: {what}\n{logs}")
        time.sleep(POLL_S)


@contextmanager
def locked(what: str) -> Iterator[None]:
    """One at a time: a second caller waits for the first, and finds its result."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def log_end(name: str) -> str:
    """The last lines of a program's log, with where the rest is."""
    path = LOGS / f"{name}.log"
    lines = path.read_text(errors="replace").splitlines()[-LOG_END_LINES:]
    return "\n".join([f"--- end of {path}", *lines])


def run(command: Sequence[str | Path], *, what: str, stdin: str | None = None) -> str:
    """Run a short command to its end and give its output; a failure is a NodeError with what it said."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NodeError(f"{what}: {command[0]} failed with {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout
