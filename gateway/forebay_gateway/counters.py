"""What the gateway counts, as plain numbers: the hot path increments, `metrics.py` reads when it is scraped.

All of it lives in the event loop's thread, so nothing here locks.
"""

from bisect import bisect_left

OK = "ok"
FUNCTION_ERROR = "function_error"
INSTANCE_LOST = "instance_lost"
CANNOT_START = "cannot_start"
NOT_STARTED = "not_started"
"""The caller's wait was over before an instance took the call."""
WAIT_OVER = "wait_over"
"""The caller's wait was over while the call may have been running."""
LEFT = "left"
"""The client closed its connection while it waited."""
THROTTLED = "throttled"
REJECTED = "rejected"
"""The request itself was wrong: too large, not JSON, an unknown version, a function that is not active."""
UNAVAILABLE = "unavailable"
"""Redis was away, or a reply could not be read."""
DELETED = "deleted"
ACCEPTED = "accepted"
"""An async event is in Redis."""
REPLAYED = "replayed"
"""A repeat of a call that was accepted before under its idempotency key: nothing ran for it."""

OUTCOMES = (
    OK, FUNCTION_ERROR, INSTANCE_LOST, CANNOT_START, NOT_STARTED, WAIT_OVER, LEFT, THROTTLED, REJECTED,
    UNAVAILABLE, DELETED, ACCEPTED, REPLAYED,
)  # fmt: skip

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)
"""Upper bounds of the histograms' buckets; one more bucket counts what lies above."""


class Histogram:
    """Observations in seconds. `counts[i]` is the number within bucket i alone (not cumulative)."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds


class FunctionCounters:
    """One function's numbers since this process first saw it.

    `outcomes`: calls by outcome (`OUTCOMES`). `waiting`: sync callers waiting now. `latency`: from acceptance to
    the answer, queue included. `duration`: the handler's own. `cold_start`: the handler's init, of calls it ran for.
    """

    __slots__ = ("cold_start", "duration", "latency", "outcomes", "waiting")

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = dict.fromkeys(OUTCOMES, 0)
        self.waiting = 0
        self.latency = Histogram()
        self.duration = Histogram()
        self.cold_start = Histogram()


class Counters:
    """The process's numbers.

    `functions` by `NAMESPACE/NAME`, dropped with the function. `waiting`: sync callers waiting now, all functions.
    `unknown_replies`: frames whose token belongs to no call here (its caller has left, or it was forged).
    `bad_replies`: frames of a waiting call that were cut, out of order or repeated. `cancelled` and
    `not_cancelled`: calls whose caller left or waited too long, by whether they were still unstarted.
    `unknown_functions`: calls that named none. `redis_lost`: connections to Redis that broke, by link.
    `table_generation`: the last change to the function table that is in effect here.
    """

    __slots__ = (
        "bad_replies",
        "cancelled",
        "functions",
        "not_cancelled",
        "redis_lost",
        "table_generation",
        "unknown_functions",
        "unknown_replies",
        "waiting",
    )

    def __init__(self) -> None:
        self.functions: dict[str, FunctionCounters] = {}
        self.waiting = 0
        self.unknown_replies = 0
        self.bad_replies = 0
        self.cancelled = 0
        self.not_cancelled = 0
        self.unknown_functions = 0
        self.redis_lost: dict[str, int] = {}
        self.table_generation = 0

    def function(self, key: str) -> FunctionCounters:
        """The numbers of one function, `NAMESPACE/NAME`, made at first use."""
        found = self.functions.get(key)
        if found is None:
            found = self.functions[key] = FunctionCounters()
        return found
