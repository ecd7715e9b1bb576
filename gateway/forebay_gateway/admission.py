"""Which calls are let in. Pure: observations and `now` in, a refusal or None out; nothing is done for a refused call.

The length of a sync queue is estimated without asking for it on each call: the stream's length as sampled holds
this gateway's own calls and those of other gateways. Own calls are known exactly, so the estimate is what others
had at the sample and what this process has now, less what the function's handlers can hold at once. A sample is
taken at most each `SAMPLE_SPACING_S` and counts for `SAMPLE_TTL_S`: an old one would refuse calls to a queue that
has long been drained.
"""

import math

from forebay_common import limits
from forebay_common.routing import RoutingEntry
from forebay_gateway import lambda_errors
from forebay_gateway.lambda_errors import Refusal

SAMPLE_SPACING_S = 0.050
SAMPLE_TTL_S = 1.0

REQUEST_RESPONSE = "RequestResponse"
EVENT = "Event"

_ACTIVE = "Active"


class Sample:
    """A stream's length as last seen. `beside` is how much of it others had put there; `at_s` the loop's time."""

    __slots__ = ("asked_s", "at_s", "beside")

    def __init__(self) -> None:
        self.beside = 0
        self.at_s = -math.inf
        self.asked_s = -math.inf

    def seen(self, length: int, own: int, now_s: float) -> None:
        """A length has arrived while `own` entries were this process's."""
        self.beside = max(length - own, 0)
        self.at_s = now_s

    def wanted(self, now_s: float) -> bool:
        """Whether it is time to ask again."""
        return now_s - self.asked_s >= SAMPLE_SPACING_S

    def others(self, now_s: float) -> int:
        """What others have in the stream, as far as known."""
        return self.beside if now_s - self.at_s <= SAMPLE_TTL_S else 0


def state_refusal(entry: RoutingEntry) -> Refusal | None:
    """Whether the function's state lets calls in (Lambda's states)."""
    if entry.state in {"Pending", "Failed"}:
        return lambda_errors.not_active(entry.state)
    return None


def payload_limit(invocation_type: str) -> int:
    """Lambda's quota for a payload, in bytes."""
    return limits.ASYNC_REQUEST_MAX_BYTES if invocation_type == EVENT else limits.SYNC_REQUEST_MAX_BYTES


def size_refusal(size_bytes: int, invocation_type: str) -> Refusal | None:
    """Whether a payload fits its invocation type."""
    limit = payload_limit(invocation_type)
    if size_bytes > limit:
        return lambda_errors.too_large(size_bytes, invocation_type, limit)
    return None


def sync_refusal(
    entry: RoutingEntry,
    size_bytes: int,
    *,
    own: int,
    others: int,
    waiting_total: int,
    waiting_max: int,
    now_ms: float,
) -> Refusal | None:
    """Whether one more sync call may wait. `own` and `others` count the function's unanswered calls."""
    if entry.state != _ACTIVE:
        refusal = state_refusal(entry)
        if refusal is not None:
            return refusal
    if size_bytes > limits.SYNC_REQUEST_MAX_BYTES:
        return size_refusal(size_bytes, REQUEST_RESPONSE)
    if entry.cannot_start and now_ms < entry.retry_at_ms:
        return lambda_errors.cannot_start(entry.cannot_start, math.ceil((entry.retry_at_ms - now_ms) / 1000))
    if waiting_total >= waiting_max:
        return lambda_errors.throttled("CallerRateLimitExceeded")
    queued = own + others - entry.capacity
    if queued >= (entry.sync_queue_max or limits.SYNC_QUEUE_MAX):
        return lambda_errors.throttled("ConcurrentInvocationLimitExceeded")
    return None


def async_refusal(entry: RoutingEntry, size_bytes: int, queued: int) -> Refusal | None:
    """Whether one more event fits the function's queue of `queued` events."""
    refusal = state_refusal(entry) or size_refusal(size_bytes, EVENT)
    if refusal is None and queued >= (entry.async_queue_max or limits.ASYNC_QUEUE_MAX):
        return lambda_errors.throttled("FunctionInvocationRateLimitExceeded")
    return refusal


def wait_ms(entry: RoutingEntry, timeout_ms: int, asked_ms: int) -> int:
    """How long a caller waits in all: the function's own rule, or less when the caller asks for less (not 0)."""
    longest = entry.wait_ms or max(limits.WAIT_DEFAULT_MS, timeout_ms + limits.WAIT_MARGIN_MS)
    return min(longest, asked_ms) if asked_ms else longest
