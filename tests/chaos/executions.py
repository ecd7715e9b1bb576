"""A ledger outside the platform that knows when each execution began and ended, and in which instance."""

import socketserver
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Self

START = "start"
END = "end"
FAIL = "fail"
TOLD = "told-"
"""Followed by the condition: the function that is told how another function's event has ended got the record."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger: at a monotonic time, a `start`, `end`, `fail` or `told-…` of a call in an instance."""

    at_s: float
    what: str
    ident: str
    instance: str


class Executions:
    """Takes `WHAT IDENT INSTANCE` lines over TCP; answers each with how often IDENT had been started before it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: list[Entry] = []
        self._starts: Counter[str] = Counter()
        executions = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                try:
                    for line in self.rfile:
                        self.wfile.write(b"%d\n" % executions.add(line.decode()))
                except ConnectionError:
                    return  # a handler process was killed

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler, bind_and_activate=True)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, line: str) -> int:
        """Write a line; how often its call had been started before."""
        what, ident, instance = line.split()
        with self._lock:
            self._entries.append(Entry(time.monotonic(), what, ident, instance))
            before = self._starts[ident]
            self._starts[ident] += what == START
        return before

    def busy(self) -> set[str]:
        """Instances that have begun an execution and not ended it."""
        open_: Counter[tuple[str, str]] = Counter()
        for entry in self.entries():
            if entry.what.startswith(TOLD):
                continue
            open_[entry.instance, entry.ident] += 1 if entry.what == START else -1
        return {instance for (instance, _), count in open_.items() if count > 0}

    def entries(self) -> list[Entry]:
        """All lines, oldest first."""
        with self._lock:
            return list(self._entries)
