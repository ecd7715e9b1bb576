"""When a record is tried again, when it is given up, and how many go to one destination at a time. Pure.

A record that was not taken waits for itself: 1, 2, 4 … 300 s, less a random part, so that one that its receiver refuses
holds up no other. A destination that takes nothing at all is asked by one record at a time, with pauses that grow to
30 s, until one is taken: a receiver that is down costs one connection, and is found again soon after it is up.
"""

import heapq
import math
from dataclasses import dataclass, field

RETRY_FIRST_S = 1.0
RETRY_MAX_S = 300.0
RETRY_JITTER = 0.25
"""The part of a delay that is left to chance, so that what failed together does not come again together."""
KEEP_MS = 86_400_000
"""For so long after the event's end its record is tried; then it is a dead letter."""
AT_ONCE_MAX = 8
"""Records on their way to one destination."""
TOTAL_MAX = 64
"""Posts under way, to all destinations together; and as many records on their way to functions and streams."""
FAILING_AFTER = 8
"""Failures in a row after which a destination counts as one that takes nothing."""
PAUSE_MAX_S = 30.0
WAITING_MAX = 10_000
"""Failed records whose next time is remembered, for one destination; what comes behind them waits in the outbox."""
HOPS_MAX = 16
"""How often an event may be passed on from function to function; one more and it would be a loop."""

REASON_FAILED = "DestinationFailed"
REASON_CHAIN = "DestinationChainTooLong"
REASON_STREAMS = "DestinationStreamsFull"

_EXPONENT_MAX = 16

assert FAILING_AFTER >= AT_ONCE_MAX  # all that were under way when a receiver went down count as its failures


def retry_delay_s(failures: int, chance: float) -> float:
    """How long a record waits after its `failures`-th failure; `chance` is a random number from 0 to 1."""
    delay_s = min(RETRY_MAX_S, RETRY_FIRST_S * math.pow(2, min(failures - 1, _EXPONENT_MAX)))
    return delay_s * (1 - RETRY_JITTER * chance)


def pause_s(failures_in_row: int) -> float:
    """How long nothing goes to a destination after so many failures in a row; 0 while it may only be one record."""
    over = failures_in_row - FAILING_AFTER
    return 0.0 if over < 0 else min(PAUSE_MAX_S, math.pow(2, min(over, _EXPONENT_MAX)))


def share_of(total: int, receivers: int) -> int:
    """How many of `total` slots one of so many receivers may hold: so many that one more receiver finds some free."""
    return max(1, total // (receivers + 1))


def is_over(ended_ms: int, now_ms: int, delay_s: float = 0.0) -> bool:
    """Whether a record's time is over, or would be in `delay_s`."""
    return now_ms + delay_s * 1000 > ended_ms + KEEP_MS


def order_of(entry_id: bytes) -> tuple[int, int]:
    """A stream entry's id as what can be compared; b"" comes before all."""
    milliseconds, _, sequence = (entry_id or b"0-0").partition(b"-")
    return int(milliseconds), int(sequence)


def id_before(entry_id: bytes) -> bytes:
    """The greatest id below one: what stands after it begins with that entry."""
    milliseconds, sequence = order_of(entry_id)
    if sequence:
        return b"%d-%d" % (milliseconds, sequence - 1)
    return b"%d-%d" % (milliseconds - 1, 0xFFFF_FFFF_FFFF_FFFF)


@dataclass(slots=True)
class Lane:
    """The records of one function for one destination: those under way, and those that wait after a failure.

    New ones and those that come again take turns, so that neither keep the others from their way. Times are those of
    the caller's clock, in seconds. `position`: up to where the outbox has been looked through.
    """

    position: bytes = b""
    in_flight: int = 0
    failures_in_row: int = 0
    opens_s: float = -math.inf
    was_new: bool = False
    """Whether the record that was sent off last was a new one."""
    _failures: dict[bytes, int] = field(default_factory=dict)
    _due: list[tuple[float, bytes]] = field(default_factory=list)

    @property
    def failing(self) -> bool:
        """Whether the destination takes nothing."""
        return self.failures_in_row >= FAILING_AFTER

    @property
    def empty(self) -> bool:
        """Whether nothing is under way, and nothing waits."""
        return not self.in_flight and not self._failures

    def has_failed(self, entry_id: bytes) -> bool:
        """Whether a record has been tried before, as far as this controller knows."""
        return entry_id in self._failures

    def free(self, now_s: float) -> int:
        """How many more records may be sent off now."""
        if now_s < self.opens_s:
            return 0
        return max(0, (1 if self.failing else AT_ONCE_MAX) - self.in_flight)

    def takes_new(self, now_s: float) -> bool:
        """Whether a record may be sent off that has not been tried before; asked before what is due is sent off."""
        kept = self.was_new and bool(self._due) and self._due[0][0] <= now_s
        return self.free(now_s) > kept and len(self._failures) < WAITING_MAX

    def begin(self) -> None:
        """A new record is sent off."""
        self.in_flight += 1
        self.was_new = True

    def begin_due(self, now_s: float) -> bytes | None:
        """Send a record off again; gives its entry id, None when none is due or none may go."""
        if not self._due or self._due[0][0] > now_s or not self.free(now_s):
            return None
        self.in_flight += 1
        self.was_new = False
        return heapq.heappop(self._due)[1]

    def delivered(self, entry_id: bytes) -> None:
        """The destination has taken a record."""
        self.failures_in_row = 0
        self.opens_s = -math.inf
        self.gone(entry_id)

    def gone(self, entry_id: bytes) -> None:
        """A record is not on its way any more, and that says nothing of its destination."""
        self.in_flight -= 1
        self._failures.pop(entry_id, None)

    def delay_s(self, entry_id: bytes, chance: float) -> float:
        """How long a record is to wait if it was not taken now."""
        return retry_delay_s(self._failures.get(entry_id, 0) + 1, chance)

    def failed(self, entry_id: bytes, now_s: float, delay_s: float | None) -> None:
        """The destination did not take a record; it is tried again in `delay_s`, with None never more."""
        self.failures_in_row += 1
        self.opens_s = now_s + pause_s(self.failures_in_row)
        if delay_s is None:
            self.gone(entry_id)
            return
        self.in_flight -= 1
        self._failures[entry_id] = self._failures.get(entry_id, 0) + 1
        heapq.heappush(self._due, (now_s + delay_s, entry_id))

    def next_s(self, now_s: float) -> float | None:
        """When something may be sent off that may not now; None: not before something arrives."""
        if now_s < self.opens_s:
            return self.opens_s
        return self._due[0][0] if self._due and self.free(now_s) else None
