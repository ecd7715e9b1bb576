"""When to try again after instances that did not start: a state in, a state out. No clock.

A failed start delays the next by 1, 2, 4 … 60 s. All starts that were under way when one failed count as one
failure, since they fail for one cause. An instance that dies after it was ready counts only when that repeats
quickly: one death is an accident that costs nothing but the calls it held.
"""

from dataclasses import dataclass, replace

DELAY_FIRST_S = 1.0
DELAY_MAX_S = 60.0
CRASHES_MAX = 3
CRASH_WINDOW_S = 10.0
HEALTHY_S = 10.0
"""An instance that has been ready for this long has proved that the function can run."""

_EXPONENT_MAX = 16


@dataclass(frozen=True, slots=True)
class Backoff:
    """A function's failures. Times are those of the caller's clock, in seconds.

    `failures` in a row; `failing` until an instance gets ready; `reason` of the last one, for people.
    """

    failures: int = 0
    failing: bool = False
    reason: str = ""
    failed_at_s: float = float("-inf")
    retry_at_s: float = float("-inf")
    crashes_s: tuple[float, ...] = ()

    def blocks(self, now_s: float) -> bool:
        """Whether the next attempt is not due yet."""
        return self.failing and now_s < self.retry_at_s


def start_failed(state: Backoff, *, now_s: float, started_s: float, reason: str) -> Backoff:
    """An instance that was started at `started_s` ended, or gave up, before it was ready."""
    if state.failing and started_s < state.failed_at_s:
        return replace(state, reason=reason)
    failures = state.failures + 1
    delay_s = min(DELAY_MAX_S, DELAY_FIRST_S * 2 ** min(failures - 1, _EXPONENT_MAX))
    return replace(state, failures=failures, failing=True, reason=reason, failed_at_s=now_s, retry_at_s=now_s + delay_s)


def crashed(state: Backoff, *, now_s: float, started_s: float, reason: str) -> Backoff:
    """An instance died by itself after it had been ready."""
    recent = (*(at_s for at_s in state.crashes_s if now_s - at_s <= CRASH_WINDOW_S), now_s)[-CRASHES_MAX:]
    state = replace(state, crashes_s=recent)
    if len(recent) < CRASHES_MAX:
        return state
    return start_failed(state, now_s=now_s, started_s=started_s, reason=reason)


def got_ready(state: Backoff) -> Backoff:
    """An instance is ready: calls can be served. The count stays, so that a crash loop still slows down."""
    return replace(state, failing=False) if state.failing else state


def proved_healthy(state: Backoff) -> Backoff:
    """An instance has stayed ready for `HEALTHY_S`: past failures say nothing any more."""
    return Backoff() if state.failures or state.crashes_s else state
