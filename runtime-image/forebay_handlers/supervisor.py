"""The zygote: a warm interpreter that forks handler processes when the runtime asks, and buries them.

One thread, no state beyond who runs in which slot. It never touches the user's code or payloads.
"""

import gc
import json
import os
import select
import signal
import sys

from forebay_handlers import processes
from forebay_handlers.connection import CONNECT_WAIT_S, Connection
from forebay_handlers.wire import (
    EXITED,
    EXITED_BODY,
    HELLO_SUPERVISOR,
    KILL,
    SETUP,
    SLOT_BODY,
    SPAWN,
    SPAWN_BODY,
    pack,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional

WARM = ("datetime", "decimal", "random", "threading", "typing", "dataclasses", "base64", "hashlib", "urllib.parse")
"""What most handlers import. Imported while there is nothing else to do: a fork inherits it for free."""

_FORK_FAILED = 1 << 8
"""The wait status reported when no process could be made: as if it had exited with status 1."""


class Child:
    """What a forked handler process knows about itself. `api` is the Runtime API's host:port (mode bootstrap)."""

    __slots__ = ("api", "setup", "slot", "socket_path", "token")

    def __init__(self, socket_path: str, setup: "Dict[str, Any]", body: bytes) -> None:
        self.socket_path = socket_path
        self.setup = setup
        self.slot, self.token = SPAWN_BODY.unpack_from(body)
        self.api = body[SPAWN_BODY.size :].decode()


class Supervisor:
    """Serves one runtime connection.

    `stays`: a request to end (SIGTERM) is left to the runtime, which finishes what it holds, ends, and so ends us.
    """

    def __init__(self, socket_path: str, wait_s: float = CONNECT_WAIT_S, *, stays: bool = False) -> None:
        self._socket_path = socket_path
        self._stays = stays
        self._to_warm = list(reversed(WARM))
        self._connection = Connection.wait_for(socket_path, wait_s, self._warm)
        self._setup: "Dict[str, Any]" = {}
        self._slots: "Dict[int, int]" = {}  # slot by pid
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    def serve(self) -> "Optional[Child]":
        """Do what the runtime asks until it goes away (None). In a forked child: return what the child is."""
        self._take_signals()
        python = ".".join(map(str, sys.version_info[:3]))
        self._connection.send(pack(HELLO_SUPERVISOR, json.dumps({"pid": os.getpid(), "python": python}).encode()))
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        poll.register(self._connection.fileno(), select.POLLIN)
        while True:
            ready = dict(poll.poll(0 if self._to_warm else None))
            if not ready:
                self._warm()
            if self._wake_read in ready and not self._took_signals():
                return None
            if self._connection.fileno() in ready:
                child, goes_on = self._took_frames()
                if child is not None or not goes_on:
                    return child

    def _warm(self) -> bool:
        """Import one module more; False when all are there."""
        if self._to_warm:
            __import__(self._to_warm.pop())
            return True
        return False

    def _took_frames(self) -> "tuple[Optional[Child], bool]":
        """Act on what the runtime sent; False once it has closed."""
        while True:
            frame = self._connection.next_frame()
            if frame is None:
                return None, False
            kind, body = frame
            if kind == SETUP:
                self._setup = json.loads(body)
            elif kind == SPAWN:
                child = self._spawn(body)
                if child is not None:
                    return child, True
            elif kind == KILL:
                self._kill(*SLOT_BODY.unpack(body))
            if not self._connection.has_data:
                return None, True

    def _spawn(self, body: bytes) -> "Optional[Child]":
        """Fork a handler process for a slot; returns in both, with what the child is in the child."""
        child = Child(self._socket_path, self._setup, body)
        # A collection in the child would write to, and so copy, every page it inherits.
        gc.freeze()
        try:
            pid = os.fork()
        except OSError as error:
            sys.stderr.write(f"a handler process could not be started: {error}\n")
            sys.stderr.flush()
            self._connection.send(pack(EXITED, EXITED_BODY.pack(child.slot, _FORK_FAILED)))
            return None
        if pid == 0:
            self._leave()
            return child
        self._slots[pid] = child.slot
        return None

    def _leave(self) -> None:
        """In a forked child: give back everything of the supervisor's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.close(self._wake_read)
        os.close(self._wake_write)
        self._connection.close()

    def _kill(self, slot: int) -> None:
        """End a slot's process and all it started; its end is reported when it is reaped."""
        for pid, of in self._slots.items():
            if of == slot:
                if len(self._slots) == 1:
                    processes.kill_everything_below()
                else:
                    processes.kill_tree(pid)

    def _take_signals(self) -> None:
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, _note)

    def _took_signals(self) -> bool:
        """Bury the dead; False when we are to end."""
        numbers = os.read(self._wake_read, 4096)
        if signal.SIGTERM in numbers and not self._stays:
            return False
        self._reap()
        return True

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            slot = self._slots.pop(pid, None)
            if slot is None:
                continue  # an orphan that we adopted
            # What a handler process leaves behind would hold memory and ports that its successor needs.
            if self._slots:
                processes.kill_session(pid)
            else:
                processes.kill_everything_below()
            self._connection.send(pack(EXITED, EXITED_BODY.pack(slot, status)))


def serve(socket_path: str, wait_s: float = CONNECT_WAIT_S, *, stays: bool = False) -> "Optional[Child]":
    """Serve the runtime at `socket_path`; None when it is gone and nothing of ours runs any more, or the child.

    `wait_s` and `stays` as for `Supervisor`. Raises SystemExit, with the reason, when the runtime does not come up.
    """
    try:
        supervisor = Supervisor(socket_path, wait_s, stays=stays)
    except OSError as error:
        raise SystemExit(f"the runtime did not open its socket {socket_path}: {error}") from None
    try:
        child = supervisor.serve()
    except ConnectionError:
        child = None  # the runtime is gone: the same as a closed connection
    if child is None:
        processes.kill_everything_below()
    return child


def _note(number: int, frame: "Any") -> None:
    """The wakeup descriptor carries the signal to the loop."""
