"""One handler process's place in the instance: a state machine from spawn to exit, over and over.

    EMPTY --spawn--> STARTING --init done--> READY --(kill or end)--> DYING --exited--> EMPTY or FAILED
                        `--- init failed, timed out or ended ---> DYING --exited--> FAILED

A FAILED slot keeps why, for the first call that comes; a call after that starts it anew and waits for its init.
"""

from __future__ import annotations

from forebay_common.limits import BATCH_HANDLER_MAX_MS, BATCH_MAX, BATCH_WAIT_MAX_MS
from forebay_runtime.lean import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from forebay_runtime.failures import Failure
    from forebay_runtime.leases import Call
    from forebay_runtime.log_book import LogPipe
    from forebay_runtime.loop import Timer
    from forebay_runtime.peer import Peer
    from forebay_runtime.runtime_api import SlotApi

EMPTY = "empty"
STARTING = "starting"
READY = "ready"
DYING = "dying"
FAILED = "failed"

_AVERAGE_WEIGHT = 0.2
# A handler must prove itself: from here it takes a dozen short calls to come below the bound for batches.
_AVERAGE_AT_START_MS = 20 * BATCH_HANDLER_MAX_MS
# Lines of a handler that prints could not be told apart within a batch, so it gets none for so many calls.
_QUIET_CALLS = 50
_LAST_RESORT = BATCH_MAX + 1


class Slot:
    """State of one slot. Times are monotonic seconds.

    `calls`: the one that runs, then those of its batch that were sent with it. `started`: when the first of them
    could start. `timed_out`: the running call's deadline has passed and its process is being killed. `log_read_at`:
    the turn in which results were last looked at, and what had been printed before them.
    """

    __slots__ = (
        "api", "average_ms", "calls", "cold", "failure", "failure_told", "index", "init_us", "log_read_at", "peer",
        "pid", "pipe", "quiet_calls", "served", "spawned_at", "started", "state", "timed_out", "timer", "token",
        "unsent",
    )  # fmt: skip

    def __init__(self, index: int, timer: Timer) -> None:
        self.index = index
        self.timer = timer
        self.api: SlotApi | None = None
        self.calls: deque[Call] = deque()
        self.unsent: list[bytes] = []
        self.state = EMPTY
        self.failure: Failure | None = None
        self.failure_told = False
        self.peer: Peer | None = None
        self.pipe: LogPipe | None = None
        self.reset(b"", 0.0)

    def reset(self, token: bytes, now: float) -> None:
        """Forget the last process; the next one must present `token`."""
        self.token = token
        self.spawned_at = now
        self.started = 0.0
        self.init_us = 0
        self.pid = 0
        self.log_read_at = 0.0
        self.cold = True
        self.timed_out = False
        self.served = 0
        self.quiet_calls = _QUIET_CALLS
        self.average_ms = _AVERAGE_AT_START_MS

    @property
    def batches(self) -> bool:
        """Whether this handler is so quick that it may hold several calls at once."""
        return self.average_ms < BATCH_HANDLER_MAX_MS and self.quiet_calls >= _QUIET_CALLS and self.api is None

    @property
    def capacity(self) -> int:
        """How many calls it may hold in its present state, those it holds included."""
        if self.state != READY:
            return 1 if self.state == FAILED else 0
        if not self.batches:
            return 1
        # Whoever is last in a batch waits for all of it.
        quick = self.average_ms * BATCH_MAX <= BATCH_WAIT_MAX_MS
        return BATCH_MAX if quick else int(BATCH_WAIT_MAX_MS / self.average_ms)

    @property
    def room(self) -> int:
        """How many more calls it takes now."""
        if self.api is not None and self.state == READY and not self.api.waits:
            return 0
        return max(0, self.capacity - len(self.calls))

    def served_one(self, duration_ms: float) -> None:
        """The handler has answered a call."""
        self.served += 1
        self.quiet_calls += 1
        self.average_ms += _AVERAGE_WEIGHT * (duration_ms - self.average_ms)


def choose(slots: list[Slot]) -> Slot | None:
    """The slot for the next call: the emptiest that is ready, else a failed one; None when all are busy.

    Among equals the first, so that a quiet function keeps using the same, warm process.
    """
    best = None
    best_load = 0
    for slot in slots:
        if slot.room > 0:
            load = len(slot.calls) if slot.state == READY else _LAST_RESORT
            if not load:
                return slot
            if best is None or load < best_load:
                best, best_load = slot, load
    return best
