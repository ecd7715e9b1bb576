"""The processes of `forebay up`: started tied to the supervisor, reaped by it, found again by pid and start time.

Linux only: it rests on prctl(2) and /proc.
"""

import asyncio
import ctypes
import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
OPEN_FILES_MAX = 1 << 20
PROCESSES_FILE = "processes.json"
"""`[[pid, start ticks], …]` of the children, in the folder they run in."""
END_WAIT_S = 5.0
"""How long ended processes of an earlier `up` may take to disappear after SIGKILL."""

_LIBC = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def become_subreaper() -> None:
    """Make orphaned descendants children of this process, so that none can outlive it unseen."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def raise_open_files() -> None:
    """Raise the soft limit on open files to the hard one (bounded): each waiting caller is a socket."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def tie_to_parent(death_signal: int) -> Callable[[], None]:
    """For a child to call before it executes its program: it gets the signal when this process dies, however."""
    parent = os.getpid()

    def tie() -> None:
        _prctl(PR_SET_PDEATHSIG, death_signal)
        if os.getppid() != parent:  # it died before the line above: nobody would send the signal
            os._exit(1)

    return tie


def start_ticks(pid: int) -> int | None:
    """When a process started (clock ticks since boot, field 22 of /proc/PID/stat); None when there is none.

    A pid together with this names one process for good: pids are used again, start times are not. A zombie
    counts as gone.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command, field 2, may itself hold spaces and parentheses: count from its last one.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def children(pid: int) -> list[int]:
    """Direct children of a process, of all its threads; [] when it is gone."""
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                found.extend(int(child) for child in (thread / "children").read_text().split())
    return found


def descendants(pid: int) -> list[int]:
    """All processes below one, parents before children; one that moves meanwhile may be missed."""
    found: list[int] = []
    open_ = [pid]
    while open_:
        below = children(open_.pop())
        found.extend(below)
        open_.extend(below)
    return found


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process, named so that a later one with the same pid is not taken for it."""

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> "ProcessIdentity | None":
        """The identity of a living process, or None."""
        ticks = start_ticks(pid)
        return None if ticks is None else cls(pid, ticks)

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return start_ticks(self.pid) == self.start_ticks


def end_processes(identities: Iterable[ProcessIdentity]) -> int:
    """SIGKILL those that still run, with all below them, and wait until they are gone. Returns how many ran."""
    alive: list[ProcessIdentity] = []
    for identity in identities:
        if identity.alive():
            alive.append(identity)
            alive.extend(known for below in descendants(identity.pid) if (known := ProcessIdentity.of(below)))
    for identity in alive:
        if identity.alive():
            with suppress(ProcessLookupError):
                os.kill(identity.pid, signal.SIGKILL)
    deadline = time.monotonic() + END_WAIT_S
    for identity in alive:
        _wait_gone(identity, deadline)
    return len(alive)


def _wait_gone(identity: ProcessIdentity, deadline: float) -> None:
    """Block until a process that is no child of ours is gone, or the monotonic deadline is over."""
    try:
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return
    try:
        import select  # noqa: PLC0415 - only a cleanup after a crash comes here

        select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
    finally:
        os.close(descriptor)


@dataclass(eq=False, slots=True)
class Child:
    """One process of ours. `status` is the exit code, negative for a signal, None while it runs."""

    name: str
    identity: ProcessIdentity
    stdout: IO[bytes] | None
    stderr: IO[bytes] | None
    started_at: float
    exited: asyncio.Event = field(default_factory=asyncio.Event)
    status: int | None = None

    def send(self, number: int) -> None:
        """Send a signal unless it has ended. Nobody else can have the pid: only the reaper frees it."""
        if self.status is None:
            with suppress(ProcessLookupError):
                os.kill(self.identity.pid, number)

    def how_it_ended(self) -> str:
        """For people: `exit status 3`, `killed by SIGKILL`."""
        if self.status is None:
            return "still runs"
        if self.status < 0:
            return f"killed by {signal.Signals(-self.status).name}"
        return f"exit status {self.status}"


class ProcessTable:
    """Starts children and reaps every process that ends below this one, adopted orphans too.

    `subprocess`'s own waiting is not used: as a subreaper this process must wait for any child, and that takes the
    exit status from whoever else would wait for a single one.
    """

    def __init__(self, folder: Path, on_exit: Callable[[Child], None]) -> None:
        self._folder = folder
        self._record = folder / PROCESSES_FILE
        self._on_exit = on_exit
        self._children: dict[int, Child] = {}

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Reap from now on, in this loop."""
        loop.add_signal_handler(signal.SIGCHLD, self.reap)

    def spawn(
        self,
        name: str,
        args: Sequence[str],
        *,
        env: Mapping[str, str],
        death_signal: int,
        stdout: int | None = subprocess.DEVNULL,
        stderr: int = subprocess.PIPE,
    ) -> Child:
        """Start a program in a session of its own (the terminal's Ctrl-C is ours alone to hand on).

        It gets `death_signal` when this process dies, however it dies. Raises OSError when it cannot be started.
        """
        process = subprocess.Popen(
            args,
            env=dict(env),
            cwd=self._folder,  # nothing that lies about in the user's folder is imported by ours
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            preexec_fn=tie_to_parent(death_signal),  # noqa: PLW1509 - the supervisor has a single thread
        )
        process.returncode = 0  # reaped here; keeps Popen from waiting or warning at its end
        identity = ProcessIdentity(process.pid, start_ticks(process.pid) or 0)
        child = Child(name, identity, process.stdout, process.stderr, time.monotonic())
        self._children[process.pid] = child
        self._write_record()
        return child

    def reap(self) -> None:
        """Take the exit status of everything that ended."""
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._children.pop(pid, None)
            if child is None:
                continue  # an orphan that came to us
            child.status = os.waitstatus_to_exitcode(wait_status)
            child.exited.set()
            self._write_record()
            self._on_exit(child)

    def _write_record(self) -> None:
        """Leave word of what runs, for the next `up` on this data dir in case this one is killed."""
        document = [[child.identity.pid, child.identity.start_ticks] for child in self._children.values()]
        temporary = self._record.with_suffix(".tmp")
        temporary.write_text(json.dumps(document))
        temporary.replace(self._record)

    def end_all(self) -> list[str]:
        """SIGKILL and reap whatever is left below this process. Returns the names of own children among it.

        Killing a parent makes its children ours, so it goes in rounds until nothing is left.
        """
        names = [child.name for child in self._children.values()]
        while below := descendants(os.getpid()):
            for pid in below:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)  # blocks until one of them has ended
            self.reap()
        return names
