"""What one function's load was: how long its handler runs, how long a start takes, what was needed lately.

Everything here is told the time and does no I/O, so that a quarter of an hour is tested in milliseconds.
"""

import math
from collections import deque
from dataclasses import dataclass

START_FLOOR_S = 0.2
START_DEFAULT_S = 0.4
"""T before the first start was seen: what a cold start is meant to take at most."""
START_WEIGHT = 0.3
HANDLER_HALF_LIFE_S = 30.0
USE_VALID_S = 2.5
"""A working instance tells its counters each second, and they are looked at each second: so long until the next."""


class WindowMaximum:
    """The largest value of a sliding window.

    Only values that can still become the maximum are kept, in falling order, so that the memory is bounded by
    the number of distinct values, however long the window.
    """

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: deque[tuple[float, int]] = deque()

    def record(self, now_s: float, value: int) -> None:
        """Note the value at `now_s`, which never goes back."""
        since_s = now_s
        while self._kept and self._kept[-1][1] <= value:
            # The entry before ends where the smaller one began, not now.
            since_s = self._kept.pop()[0]
        self._kept.append((since_s, value))

    def maximum(self, now_s: float, window_s: float) -> int:
        """The largest value that held at any time within the last `window_s`; 0 when nothing is known."""
        # An entry holds until the next one: the first whose successor lies within the window still counts.
        while len(self._kept) > 1 and self._kept[1][0] <= now_s - window_s:
            self._kept.popleft()
        return self._kept[0][1] if self._kept else 0

    def __len__(self) -> int:
        return len(self._kept)


@dataclass(slots=True)
class _Counters:
    """An instance's counters as last seen, and what they said about its use since the time before."""

    done: int
    busy_us: int
    handler_us: int
    at_s: float
    busy_share: float = 0.0
    worked: bool = False


class Demand:
    """One function's history."""

    __slots__ = ("_busy_s", "_counters", "_done", "_own_s", "_queued_since_s", "_results_at_s", "_start_s", "_window")

    def __init__(self) -> None:
        self._busy_s = 0.0
        self._own_s = 0.0
        self._done = 0.0
        self._results_at_s = 0.0
        self._start_s = 0.0
        self._queued_since_s: float | None = None
        self._counters: dict[str, _Counters] = {}
        self._window = WindowMaximum()

    @property
    def handler_s(self) -> float | None:
        """S: the mean handler time of recent results; None before the first."""
        return self._busy_s / self._done if self._done else None

    @property
    def own_s(self) -> float | None:
        """What of S is spent in the handler's own code; the rest is the way there and back. None before the first."""
        return self._own_s / self._done if self._done else None

    @property
    def start_s(self) -> float:
        """T: the moving average of start to ready."""
        return max(START_FLOOR_S, self._start_s or START_DEFAULT_S)

    def note_start(self, duration_s: float) -> None:
        """An instance took this long from the decision to ready."""
        self._start_s = duration_s + (self._start_s - duration_s) * (1 - START_WEIGHT if self._start_s else 0)

    def note_counters(
        self, now_s: float, instance_id: str, *, done: int, busy_us: int, handler_us: int | None = None
    ) -> None:
        """An instance's heartbeat counters, which only grow, from 0 at its start. `handler_us` None: as `busy_us`."""
        own_us = busy_us if handler_us is None else handler_us
        last = self._counters.get(instance_id)
        if last is None:
            self._counters[instance_id] = _Counters(done, busy_us, own_us, now_s, worked=done > 0)
            self._add_results(now_s, done, busy_us, own_us)
            return
        if done == last.done and busy_us == last.busy_us:
            return
        span_s = now_s - last.at_s
        busy_s = (busy_us - last.busy_us) / 1e6
        share = busy_s / span_s if span_s > 0 else 0.0
        self._add_results(now_s, done - last.done, busy_us - last.busy_us, own_us - last.handler_us)
        self._counters[instance_id] = _Counters(done, busy_us, own_us, now_s, busy_share=share, worked=True)

    def forget(self, instance_id: str) -> None:
        """The instance is gone; what it measured stays."""
        self._counters.pop(instance_id, None)

    def note_queued(self, now_s: float, queued: int) -> None:
        """How many calls are queued now."""
        if queued == 0:
            self._queued_since_s = None
        elif self._queued_since_s is None:
            self._queued_since_s = now_s

    def standing_s(self, now_s: float) -> float:
        """How long calls have been queued without a break."""
        return 0.0 if self._queued_since_s is None else now_s - self._queued_since_s

    def slots_used(self, now_s: float) -> int:
        """Handler processes in use on average, by the counters.

        Calls that are shorter than the time between two looks are seen by no look, only by what they leave in
        the counters.
        """
        fresh = [counters for counters in self._counters.values() if now_s - counters.at_s <= USE_VALID_S]
        used = math.ceil(sum(counters.busy_share for counters in fresh))
        return max(used, 1) if any(counters.worked for counters in fresh) else used

    def note_needed(self, now_s: float, instances: int) -> None:
        """How many instances the load needs now."""
        self._window.record(now_s, instances)

    def recent_instances(self, now_s: float, window_s: float) -> int:
        """The most that was needed within the window."""
        return self._window.maximum(now_s, window_s)

    def _add_results(self, now_s: float, done: int, busy_us: int, own_us: int) -> None:
        if done <= 0:
            return
        decay = 0.5 ** ((now_s - self._results_at_s) / HANDLER_HALF_LIFE_S) if self._done else 0.0
        self._done = self._done * decay + done
        self._busy_s = self._busy_s * decay + busy_us / 1e6
        self._own_s = self._own_s * decay + own_us / 1e6
        self._results_at_s = now_s
