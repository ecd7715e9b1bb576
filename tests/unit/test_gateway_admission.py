"""Which calls are let in, and how long their callers wait."""

from typing import Any

import pytest

from forebay_common import limits
from forebay_common.routing import RoutingEntry
from forebay_common.spec import FunctionSpec
from forebay_gateway import admission
from forebay_gateway.admission import SAMPLE_SPACING_S, SAMPLE_TTL_S, Sample


def entry(**changes: Any) -> RoutingEntry:
    members: dict[str, Any] = {
        "namespace": "default",
        "name": "f",
        "uid": "u",
        "arn": "arn:f",
        "state": "Active",
        "versions": {},
    }
    return RoutingEntry(**(members | changes))


def sync_answer(found: RoutingEntry, **observed: Any) -> tuple[int, str, str] | None:
    """Status, error type and reason of the refusal."""
    members: dict[str, Any] = {"own": 0, "others": 0, "waiting_total": 0, "waiting_max": 10, "now_ms": 1_000.0}
    refusal = admission.sync_refusal(found, observed.pop("size_bytes", 2), **(members | observed))
    return None if refusal is None else (refusal.status, refusal.error_type, refusal.reason)


THROTTLED = (429, "TooManyRequestsException", "ConcurrentInvocationLimitExceeded")


@pytest.mark.parametrize(
    ("changes", "observed", "answer"),
    [
        ({}, {}, None),
        ({"state": ""}, {}, None),
        ({"state": "Inactive"}, {}, None),
        ({"state": "Pending"}, {}, (409, "ResourceConflictException", "")),
        ({"state": "Failed"}, {}, (409, "ResourceConflictException", "")),
        ({}, {"size_bytes": limits.SYNC_REQUEST_MAX_BYTES}, None),
        ({}, {"size_bytes": limits.SYNC_REQUEST_MAX_BYTES + 1}, (413, "RequestTooLargeException", "")),
        ({"cannot_start": "no", "retry_at_ms": 1_001}, {}, (502, "ResourceNotReadyException", "")),
        ({"cannot_start": "no", "retry_at_ms": 1_000}, {}, None),
        ({}, {"waiting_total": 9}, None),
        ({}, {"waiting_total": 10}, (429, "TooManyRequestsException", "CallerRateLimitExceeded")),
        ({}, {"own": limits.SYNC_QUEUE_MAX - 1}, None),
        ({}, {"own": limits.SYNC_QUEUE_MAX}, THROTTLED),
        ({"sync_queue_max": 3}, {"own": 1, "others": 1}, None),
        ({"sync_queue_max": 3}, {"own": 1, "others": 2}, THROTTLED),
        ({"sync_queue_max": 3, "capacity": 1}, {"own": 1, "others": 2}, None),
        ({"sync_queue_max": 3, "capacity": 1}, {"own": 2, "others": 2}, THROTTLED),
    ],
)
def test_sync_calls(changes: dict[str, Any], observed: dict[str, Any], answer: tuple[int, str, str] | None) -> None:
    assert sync_answer(entry(**changes), **observed) == answer


@pytest.mark.parametrize(("retry_at_ms", "retry_after_s"), [(1_001, 1), (2_000, 1), (2_001, 2), (61_000, 60)])
def test_retry_after_is_when_the_next_start_is_tried(retry_at_ms: int, retry_after_s: int) -> None:
    refusal = admission.sync_refusal(
        entry(cannot_start="no", retry_at_ms=retry_at_ms),
        0, own=0, others=0, waiting_total=0, waiting_max=1, now_ms=1_000.0,
    )  # fmt: skip
    assert refusal is not None
    assert refusal.retry_after_s == retry_after_s


@pytest.mark.parametrize(
    ("changes", "size_bytes", "queued", "status"),
    [
        ({}, limits.ASYNC_REQUEST_MAX_BYTES, limits.ASYNC_QUEUE_MAX - 1, None),
        ({}, limits.ASYNC_REQUEST_MAX_BYTES + 1, 0, 413),
        ({}, 0, limits.ASYNC_QUEUE_MAX, 429),
        ({"async_queue_max": 5}, 0, 5, 429),
        ({"state": "Pending"}, 0, 0, 409),
        ({"cannot_start": "no", "retry_at_ms": 2**60}, 0, 0, None),
    ],
    ids=["fits", "too large", "full", "full by its own bound", "pending", "cannot start: events wait"],
)
def test_events(changes: dict[str, Any], size_bytes: int, queued: int, status: int | None) -> None:
    refusal = admission.async_refusal(entry(**changes), size_bytes, queued)
    assert (None if refusal is None else refusal.status) == status


@pytest.mark.parametrize(
    ("own_rule", "timeout_ms", "asked", "wait"),
    [
        (0, 3_000, 0, 30_000),
        (0, 20_000, 0, 30_000),
        (0, 60_000, 0, 70_000),
        (5_000, 60_000, 0, 5_000),
        (0, 3_000, 100, 100),
        (0, 3_000, 30_001, 30_000),
    ],
)
def test_wait(own_rule: int, timeout_ms: int, asked: int, wait: int) -> None:
    assert admission.wait_ms(entry(wait_ms=own_rule), timeout_ms, asked) == wait


@pytest.mark.parametrize("timeout_s", [1, 15, 20, 25, limits.TIMEOUT_MAX_S])
def test_an_initialisation_ends_before_its_first_callers_wait(timeout_s: int) -> None:
    spec = FunctionSpec("default", "f", "u", "python3.11", "app.handler", "", 0, timeout_s=timeout_s)
    assert spec.init_timeout_ms >= timeout_s * 1000
    assert spec.init_timeout_ms + limits.WAIT_MARGIN_MS <= admission.wait_ms(entry(), timeout_s * 1000, 0)


class TestSample:
    def test_nothing_is_known_at_first(self) -> None:
        sample = Sample()
        assert sample.wanted(0.0)
        assert sample.others(0.0) == 0

    def test_what_others_have_is_the_length_less_ones_own(self) -> None:
        sample = Sample()
        sample.seen(10, 4, 1.0)
        assert sample.others(1.0) == 6
        sample.seen(3, 4, 1.0)
        assert sample.others(1.0) == 0

    def test_it_counts_for_a_while(self) -> None:
        sample = Sample()
        sample.seen(10, 0, 1.0)
        assert sample.others(1.0 + SAMPLE_TTL_S) == 10
        assert sample.others(1.0 + SAMPLE_TTL_S + 0.01) == 0

    def test_it_is_asked_for_at_intervals(self) -> None:
        sample = Sample()
        sample.asked_s = 1.0
        assert not sample.wanted(1.0 + SAMPLE_SPACING_S / 2)
        assert sample.wanted(1.0 + SAMPLE_SPACING_S)
