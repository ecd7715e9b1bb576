"""Callers under load, through a fault of Redis's: sync calls and events without a pause, and what they were told."""

import json
import threading
import time
from dataclasses import dataclass, field

from support.ledger import Ledger
from support.platform import Platform

SOURCE = """
import urllib.request

def handler(event, context):
    urllib.request.urlopen(urllib.request.Request(f"{event['ledger']}/{event['id']}", method="POST"))
    return event["id"]
"""
SYNC = "s"
EVENT = "a"
OK = 200
ACCEPTED = 202
FUNCTION_ERROR = 0


@dataclass
class Load:
    """Callers of functions that go on until they are told to stop.

    `accepted`: when each event that got a 202 was sent. `answers` of sync calls: when they were sent, how long they
    took, and the status, FUNCTION_ERROR for a function's error.
    """

    platform: Platform
    names: tuple[str, ...]
    ledger: Ledger
    accepted: dict[str, float] = field(default_factory=dict)
    answers: list[tuple[float, float, int]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.threads = [
            threading.Thread(target=self._call, args=(name, f"{kind}{number}", kind))
            for number, name in enumerate(self.names)
            for kind in (SYNC, EVENT)
        ]

    def start(self) -> None:
        """Begin to call."""
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        """End, once the last calls were answered."""
        self.over.set()
        for thread in self.threads:
            thread.join()

    def served_since(self, moment: float) -> bool:
        """Whether each kind of call, made after a moment, was taken."""
        synced = any(began > moment and status == OK for began, _, status in list(self.answers))
        return synced and any(began > moment for began in list(self.accepted.values()))

    def not_run(self) -> set[str]:
        """Accepted events that have not run."""
        return set(self.accepted) - set(self.ledger.entries())

    def _call(self, name: str, caller: str, kind: str) -> None:
        count = 0
        path = f"/2015-03-31/functions/{name}/invocations"
        headers = {"X-Amz-Invocation-Type": "Event"} if kind == EVENT else {}
        while not self.over.wait(0.005):
            count += 1
            ident = f"{caller}-{count}"
            body = json.dumps({"id": ident, "ledger": self.ledger.url}).encode()
            began = time.monotonic()
            status, _, answer_headers = self.platform.http("POST", path, body, self.platform.authorization | headers)
            if kind == SYNC:
                failed = "x-amz-function-error" in answer_headers
                self.answers.append((began, time.monotonic() - began, FUNCTION_ERROR if failed else status))
            elif status == ACCEPTED:
                self.accepted[ident] = began
