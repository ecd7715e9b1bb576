"""How long parts were ready to run and had no CPU, as the kernel counts it: a busy machine is no fault of theirs."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CALLERS = "callers"
"""This program: it is all callers, the ledger, and the proxy before Redis."""

EXCUSED_MAX_S = 2.0


@dataclass(frozen=True, slots=True)
class Wait:
    """From one look to the next (monotonic), a part had to wait for a CPU for so long in all."""

    begin_s: float
    end_s: float
    part: str
    waited_s: float


class Starvation:
    """Looks at parts from time to time; `during` says what they suffered in a span."""

    def __init__(self) -> None:
        self._waits: list[Wait] = []
        self._last: dict[int, tuple[float, int]] = {}

    def look(self, now_s: float, parts: Iterable[tuple[int, str]]) -> None:
        """Look at living processes: pid, and which part it is (a gateway's is its URL, an instance's the instance)."""
        for pid, part in parts:
            waited_ns = _waited_ns(pid)
            if waited_ns is None:
                continue
            if pid in self._last:
                last_s, last_ns = self._last[pid]
                self._waits.append(Wait(last_s, now_s, part, (waited_ns - last_ns) / 1e9))
            self._last[pid] = (now_s, waited_ns)

    def during(self, begin_s: float, end_s: float, *parts: str) -> float:
        """Seconds that these parts waited in a span, together, since each waits for the one before it; at most a bound.

        Without a bound a long span would excuse everything on a busy machine.
        """
        waited_s = sum(
            wait.waited_s
            for wait in self._waits
            if wait.part in parts and wait.begin_s < end_s and wait.end_s > begin_s
        )
        return min(waited_s, EXCUSED_MAX_S)


def _waited_ns(pid: int) -> int | None:
    """The second figure of schedstat: ns on a run queue; of the process's first thread, which has its event loop."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
    return None
