"""The controller's metrics, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from forebay_common.queue import InstanceReport, QueueState
from forebay_common.recovery import Recovered
from forebay_controller.autoscale import Reason
from forebay_controller.instances import Instance, State

ASYNC_OUTCOMES = ("done", "retry", "dead", "expired", "cancelled")
_FUNCTION = ("namespace", "function")
_START_BUCKETS_S = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2, 2, 4, 8, 16, 32, 64)


class QueueGauges:
    """Each function's queues as the last look saw them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.queue_depth = Gauge(
            "forebay_queue_depth",
            "Calls and events that no instance holds.",
            (*_FUNCTION, "kind"),
            registry=registry,
        )
        self.queue_age = Gauge(
            "forebay_queue_oldest_age_seconds",
            "Age of the oldest call or event that no instance holds.",
            (*_FUNCTION, "kind"),
            registry=registry,
        )
        self.in_flight = Gauge(
            "forebay_leased", "Calls and events that an instance holds.", _FUNCTION, registry=registry
        )
        self.delayed = Gauge(
            "forebay_delayed_events", "Events that wait for a later attempt.", _FUNCTION, registry=registry
        )
        self.dead_letters = Gauge(
            "forebay_dead_letters", "Events that were given up and are kept.", _FUNCTION, registry=registry
        )
        self.grouped = Gauge(
            "forebay_grouped_events", "Events that wait for their group's turn.", _FUNCTION, registry=registry
        )
        self.results = Gauge(
            "forebay_kept_results", "Ended events whose result can be read.", _FUNCTION, registry=registry
        )
        self.outbox = Gauge(
            "forebay_destination_pending",
            "Ended events whose destination has not been told yet.",
            _FUNCTION,
            registry=registry,
        )

    def observe(self, function: str, seen: QueueState) -> None:
        """A function (NAMESPACE/NAME) as it is now."""
        labels = function.split("/")
        for kind, stream in (("sync", seen.sync), ("async", seen.async_)):
            self.queue_depth.labels(*labels, kind).set(stream.queued)
            self.queue_age.labels(*labels, kind).set((stream.oldest_age_ms or 0) / 1000)
        self.in_flight.labels(*labels).set(seen.sync.in_flight + seen.async_.in_flight)
        self.delayed.labels(*labels).set(seen.delayed)
        self.dead_letters.labels(*labels).set(seen.dead)
        self.outbox.labels(*labels).set(seen.outbox)
        self.grouped.labels(*labels).set(seen.grouped)
        self.results.labels(*labels).set(seen.ended)

    def forget(self, function: str) -> None:
        """The function is deleted."""
        labels = function.split("/")
        for kind in ("sync", "async"):
            self.queue_depth.remove(*labels, kind)
            self.queue_age.remove(*labels, kind)
        for gauge in (self.in_flight, self.delayed, self.dead_letters, self.outbox, self.grouped, self.results):
            gauge.remove(*labels)


class Metrics:
    """Counters and gauges of one controller, in a registry of their own; a deleted function's gauges go with it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._reported: dict[str, InstanceReport] = {}
        self._told: dict[str, set[tuple[str, str]]] = {}
        self._queues = QueueGauges(self.registry)
        self.destinations = Counter(
            "forebay_destination_records",
            "Ended events by what came of telling their destination: delivered, failed (it is tried again), given_up "
            "(a dead letter), dropped (there is no destination any more); by the kind of destination.",
            (*_FUNCTION, "kind", "outcome"),
            registry=self.registry,
        )
        self.instances = Gauge(
            "forebay_instances", "Instances by what they do.", (*_FUNCTION, "state"), registry=self.registry
        )
        self.decisions = Counter(
            "forebay_scaling_decisions",
            "Instances started or drained, and starts that had to wait, by reason.",
            ("action", "reason"),
            registry=self.registry,
        )
        self.lost_leases = Counter(
            "forebay_lost_leases",
            "Calls and events whose instance died while it held them, by what became of them.",
            ("outcome",),
            registry=self.registry,
        )
        self.async_events = Counter(
            "forebay_async_events",
            "Async events by what became of a delivery: done, retry, dead, expired or cancelled; from the instances' "
            "heartbeats.",
            (*_FUNCTION, "outcome"),
            registry=self.registry,
        )
        self.start_failures = Counter(
            "forebay_instance_start_failures", "Instances that did not get ready.", _FUNCTION, registry=self.registry
        )
        self.starts = Histogram(
            "forebay_instance_start_seconds",
            "From the decision to start an instance until it is ready.",
            _FUNCTION,
            buckets=_START_BUCKETS_S,
            registry=self.registry,
        )

    def render(self) -> bytes:
        """All of them in Prometheus's text format."""
        return generate_latest(self.registry)

    def observe(self, function: str, seen: QueueState, instances: list[Instance]) -> None:
        """A function (NAMESPACE/NAME) as the last look saw it."""
        labels = function.split("/")
        self._queues.observe(function, seen)
        counts = dict.fromkeys(State, 0)
        for instance in instances:
            counts[instance.state] += 1
        for state, count in counts.items():
            self.instances.labels(*labels, state.value).set(count)

    def reported(self, function: str, instance_id: str, report: InstanceReport) -> None:
        """An instance's counters, which only grow: what is new in them is counted."""
        before = self._reported.get(instance_id)
        self._reported[instance_id] = report
        for outcome in ASYNC_OUTCOMES:
            member = f"async_{outcome}"
            ended = getattr(report, member) - (getattr(before, member) if before else 0)
            if ended > 0:
                self.async_events.labels(*function.split("/"), outcome).inc(ended)

    def instance_gone(self, instance_id: str) -> None:
        """It reports nothing more."""
        self._reported.pop(instance_id, None)

    def started(self, function: str, duration_s: float) -> None:
        """An instance of a function is ready."""
        self.starts.labels(*function.split("/")).observe(duration_s)

    def start_failed(self, function: str) -> None:
        """An instance of a function did not get ready."""
        self.start_failures.labels(*function.split("/")).inc()

    def decided(self, action: str, reason: Reason, count: int) -> None:
        """A decision that starts or drains instances, or that holds a start back."""
        self.decisions.labels(action, reason.value).inc(count)

    def recovered(self, done: Recovered) -> None:
        """What became of a dead instance's work."""
        outcomes = {
            "caller_told": done.sync_failed,
            "requeued": done.async_requeued,
            "delayed": done.async_delayed,
            "dead_letter": done.async_dead,
            "cancelled": done.async_cancelled,
        }
        for outcome, count in outcomes.items():
            if count:
                self.lost_leases.labels(outcome).inc(count)

    def to_destination(self, function: str, kind: str, outcome: str) -> None:
        """What came of telling a destination of an event's end."""
        self.destinations.labels(*function.split("/"), kind, outcome).inc()
        self._told.setdefault(function, set()).add((kind, outcome))

    def forget(self, function: str) -> None:
        """The function is deleted."""
        labels = function.split("/")
        for kind, outcome in self._told.pop(function, ()):
            self.destinations.remove(*labels, kind, outcome)
        self._queues.forget(function)
        for state in State:
            self.instances.remove(*labels, state.value)
        for outcome in ASYNC_OUTCOMES:
            self.async_events.remove(*labels, outcome)
        for metric in (self.start_failures, self.starts):
            metric.remove(*labels)
