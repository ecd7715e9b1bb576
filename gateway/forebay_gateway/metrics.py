"""The gateway's numbers for Prometheus, read from `counters.py` when someone scrapes and not before.

Labels are bounded: functions that exist and have been called here, the fixed outcomes and rules, the links.
"""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from forebay_gateway import counters
from forebay_gateway.counters import BUCKETS_S, Counters, FunctionCounters, Histogram
from forebay_gateway.guard import Rule

Metric = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily

_FUNCTION = ("namespace", "function")
_BOUNDS = [*(str(bound) for bound in BUCKETS_S), "+Inf"]


def registry(numbers: Counters, refusals: Mapping[Rule, int]) -> CollectorRegistry:
    """A registry with this process's numbers; `refusals` counts the guard's by rule."""
    found = CollectorRegistry()
    ProcessCollector(registry=found)
    PlatformCollector(registry=found)
    GCCollector(registry=found)
    found.register(GatewayCollector(numbers, refusals))
    return found


class GatewayCollector(Collector):
    """Gives the numbers as they are at the time of the scrape."""

    def __init__(self, numbers: Counters, refusals: Mapping[Rule, int]) -> None:
        self._numbers = numbers
        self._refusals = refusals

    def collect(self) -> Iterable[Metric]:
        """All families."""
        called = [
            (tuple(key.split("/", 1)), function)
            for key, function in sorted(self._numbers.functions.items())
            if function.waiting or any(function.outcomes.values())
        ]
        yield from _by_function(called)
        yield from self._of_process()

    def _of_process(self) -> Iterator[Metric]:
        numbers = self._numbers
        refused = CounterMetricFamily(
            "forebay_gateway_refusals", "Requests that the guard let not in, by rule.", labels=["rule"]
        )
        for rule in Rule:
            refused.add_metric([rule.value], self._refusals.get(rule, 0))
        yield refused
        cancels = CounterMetricFamily(
            "forebay_gateway_abandoned_calls",
            "Calls whose caller left or waited too long, by whether an instance had taken them.",
            labels=["started"],
        )
        cancels.add_metric(["false"], numbers.cancelled)
        cancels.add_metric(["true"], numbers.not_cancelled)
        yield cancels
        lost = CounterMetricFamily(
            "forebay_gateway_redis_losses", "Connections to Redis that broke, by link.", labels=["link"]
        )
        for link, count in numbers.redis_lost.items():
            lost.add_metric([link], count)
        yield lost
        yield GaugeMetricFamily(
            "forebay_gateway_waiting_callers", "Sync callers waiting in this process.", value=numbers.waiting
        )
        yield GaugeMetricFamily(
            "forebay_gateway_table_generation",
            "The last change to the function table that is in effect here.",
            value=numbers.table_generation,
        )
        yield CounterMetricFamily(
            "forebay_gateway_unknown_functions", "Calls that named no function.", value=numbers.unknown_functions
        )
        yield CounterMetricFamily(
            "forebay_gateway_unknown_replies",
            "Reply frames whose token belongs to no call here.",
            value=numbers.unknown_replies,
        )
        yield CounterMetricFamily(
            "forebay_gateway_bad_replies", "Reply frames that could not be read.", value=numbers.bad_replies
        )


def _by_function(called: list[tuple[tuple[str, ...], FunctionCounters]]) -> Iterator[Metric]:
    invocations = CounterMetricFamily(
        "forebay_invocations", "Calls by function and outcome.", labels=[*_FUNCTION, "outcome"]
    )
    throttles = CounterMetricFamily(
        "forebay_throttles", "Calls answered with 429: a bound was reached, or no instance in time.", labels=_FUNCTION
    )
    in_flight = GaugeMetricFamily(
        "forebay_in_flight", "Sync calls accepted here and not answered yet.", labels=_FUNCTION
    )
    latency = HistogramMetricFamily(
        "forebay_latency_seconds", "Sync calls: from acceptance to the answer, queue included.", labels=_FUNCTION
    )
    duration = HistogramMetricFamily(
        "forebay_duration_seconds", "Sync calls: the handler's own time.", labels=_FUNCTION
    )
    cold_start = HistogramMetricFamily(
        "forebay_cold_start_seconds", "Sync calls that had to wait for a handler's init: its time.", labels=_FUNCTION
    )
    for labels, function in called:
        for outcome, count in function.outcomes.items():
            invocations.add_metric([*labels, outcome], count)
        throttles.add_metric(labels, function.outcomes[counters.THROTTLED] + function.outcomes[counters.NOT_STARTED])
        in_flight.add_metric(labels, function.waiting)
        for family, histogram in (
            (latency, function.latency),
            (duration, function.duration),
            (cold_start, function.cold_start),
        ):
            family.add_metric(labels, _cumulative(histogram), histogram.sum_s)
    yield from (invocations, throttles, in_flight, latency, duration, cold_start)


def _cumulative(histogram: Histogram) -> list[tuple[str, float]]:
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip(_BOUNDS, histogram.counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets
