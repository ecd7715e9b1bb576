"""Makes what runs match what is needed: read a batch of functions once, sort their instances, decide, act, tell.

The decision is in `autoscale.py`, what carries it out in `actions.py`. Whatever takes time runs beside the looks, so
that one function never makes another wait.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from redis.asyncio import Redis

from forebay_common import logs
from forebay_common.keys import PlatformKeys
from forebay_common.limits import HEARTBEAT_TTL_S
from forebay_common.queue import (
    CONTROLLER_CONSUMER,
    InstanceReport,
    QueueState,
    VersionQueue,
    create_queues,
    observe,
    read_instances,
)
from forebay_common.recovery import AWAY_S
from forebay_controller import backoff
from forebay_controller.actions import Actions
from forebay_controller.autoscale import Decision, Reason, decide
from forebay_controller.background import Background
from forebay_controller.delivery import Delivery
from forebay_controller.destinations.couriers import Couriers
from forebay_controller.function_state import EMPTY_QUEUE, FunctionState, Tempo
from forebay_controller.instances import (
    START_MAX_S,
    Instance,
    State,
    after_absence,
    came_up_after_drain,
    fleet,
    longest_idle,
    observed,
    older_take_calls,
    outdated,
    overdue,
    to_drain,
    to_replace,
)
from forebay_controller.interfaces import FunctionSource, InstanceBackend, RunningInstance
from forebay_controller.metrics import Metrics

_log = logs.get(__name__)

COMING_UP_S = 2.0
"""For so long a starting instance takes part in the bound on starts at once; one whose init is slow by itself must
not keep other functions from starting."""
ADOPTED_AGE_MAX_S = 60.0
"""An instance that an earlier controller started counts as this old at most, so that one whose heartbeat is not there
at the first look (Redis was restarted, too) has the time to send the next."""
ROOM_IDLE_S = 1.0
"""An instance idle for this long makes room for a function that has none, when the platform is full."""

assert HEARTBEAT_TTL_S < START_MAX_S - ADOPTED_AGE_MAX_S


class Reconciler:
    """Holds what is known of every function, and looks at batches of them; one look at a time.

    `leasing` and `keeping` are those functions that had leases, or results, when they were last looked at.

    `schedule(uid, tempo)` is told how often to look at a function from then on.
    """

    def __init__(
        self,
        redis: Redis,
        platform: PlatformKeys,
        source: FunctionSource,
        backend: InstanceBackend,
        metrics: Metrics,
        *,
        actions: Actions,
        delivery: Delivery,
        couriers: Couriers,
        background: Background,
        schedule: Callable[[str, Tempo], None],
        instances_max: int,
        clock: Callable[[], float],
    ) -> None:
        self.states: dict[str, FunctionState] = {}
        self.leasing: dict[str, FunctionState] = {}
        self.keeping: dict[str, FunctionState] = {}
        self._redis = redis
        self._platform = platform
        self._source = source
        self._backend = backend
        self._metrics = metrics
        self._actions = actions
        self._delivery = delivery
        self._couriers = couriers
        self._background = background
        self._schedule = schedule
        self._instances_max = instances_max
        self._clock = clock
        self._unix_offset_s = time.time() - clock()
        self._populated: dict[str, FunctionState] = {}
        self._looked_s = clock()
        # Counted once a batch: functions with instances may be many more than those in it.
        self._total = 0
        self._coming_up = 0

    def state_of(self, uid: str) -> FunctionState | None:
        """What is known of a function, as its source describes it now; None when neither knows it."""
        spec = self._source.functions().get(uid)
        state = self.states.get(uid)
        if spec is None:
            if state is not None:
                state.retiring = True
            return state
        if state is None:
            queue = VersionQueue(self._platform.function(spec.namespace, spec.name, uid))
            state = self.states[uid] = FunctionState(spec, queue)
        if spec.revision != state.spec.revision:
            state.forget_troubles()
        state.spec = spec
        return state

    def forget(self, uid: str) -> None:
        """A retired function has left."""
        state = self.states.pop(uid, None)
        for some in (self._populated, self.leasing, self.keeping):
            some.pop(uid, None)
        self._schedule(uid, Tempo.COLD)
        self._delivery.forget(uid)
        self._couriers.forget(uid)
        if state is not None:
            self._metrics.forget(state.spec.key)

    def exited(self, instance_id: str, reason: str) -> None:
        """The backend says that an instance is gone."""
        for state in self._populated.values():
            if instance_id in state.instances:
                self._actions.exited(state, instance_id, reason)
                return

    async def look(self, uids: Sequence[str]) -> None:
        """Look at these functions, and do what they need. Raises redis.exceptions.RedisError."""
        states = [state for uid in uids if (state := self.state_of(uid)) is not None]
        running = self._running()
        for state in states:
            self._take_up(state, running.get(state.spec.uid, {}))
        now_s = self._clock()
        reading = [state for state in states if state.reports_due(now_s)]
        heartbeats = [(state.queue.keys, instance_id) for state in reading for instance_id in state.instances]
        seen, reports = await asyncio.gather(
            observe(self._redis, [state.queue for state in states]) if states else _nothing_seen(),
            read_instances(self._redis, heartbeats) if heartbeats else _no_reports(),
        )
        now_s = self._clock()
        self._note_absence(now_s)
        for state in reading:
            state.reports_s = now_s
        self._count(now_s)
        for state, queue_state in zip(states, seen, strict=True):
            if self.states.get(state.spec.uid) is state:  # else it was forgotten while it was read
                self._look_at(state, queue_state, reports, now_s)

    def _note_absence(self, now_s: float) -> None:
        """Redis was away, or this process was stopped: no instance is to blame for what was not seen meanwhile."""
        gap_s, self._looked_s = now_s - self._looked_s, now_s
        if gap_s > AWAY_S:
            for state in self._populated.values():
                for instance_id, instance in state.instances.items():
                    state.instances[instance_id] = after_absence(instance, gap_s, now_s)

    def _count(self, now_s: float) -> None:
        instances = [i for state in self._populated.values() for i in state.instances.values()]
        self._total = len(instances)
        self._coming_up = sum(i.state is State.STARTING and now_s - i.started_s < COMING_UP_S for i in instances)

    def _running(self) -> dict[str, dict[str, RunningInstance]]:
        by_uid: dict[str, dict[str, RunningInstance]] = {}
        for instance in self._backend.instances().values():
            by_uid.setdefault(instance.uid, {})[instance.instance_id] = instance
        return by_uid

    def _take_up(self, state: FunctionState, running: Mapping[str, RunningInstance]) -> None:
        """Adopt instances that an earlier controller started, and let go of those whose end nobody reported."""
        adopted = running.keys() - state.instances.keys()
        for instance_id in adopted:
            known = running[instance_id]
            started_s = max(known.started_at_ms / 1000 - self._unix_offset_s, self._clock() - ADOPTED_AGE_MAX_S)
            state.instances[instance_id] = Instance(instance_id, known.revision, started_s, adopted=True)
        for instance_id, known in running.items():
            state.note_held_up(instance_id, known.held_up)
        if adopted:
            # What they were needed for is not known: they stay for an idle window, as if it had been just now.
            state.demand.note_needed(self._clock(), len(adopted))
        for instance_id in [*state.instances]:
            if instance_id not in running and instance_id not in self._actions.being_started:
                self._actions.exited(state, instance_id, "it is gone, and nobody saw it end")
        _note(self._populated, state, is_in=bool(state.instances))

    def _look_at(
        self,
        state: FunctionState,
        seen: QueueState | None,
        reports: Mapping[str, InstanceReport | None],
        now_s: float,
    ) -> None:
        if seen is None and not state.retiring:
            self._background.spawn(create_queues(self._redis, state.queue), f"make the queues of {state.spec.key}")
        state.seen = seen or EMPTY_QUEUE
        _note(self.leasing, state, is_in=state.seen.sync.in_flight + state.seen.async_.in_flight > 0)
        _note(self.keeping, state, is_in=state.seen.ended > 0)
        self._sort_instances(state, reports, now_s)
        state.note_troubles()
        self._recover_strangers(state)
        self._end_overdue(state, now_s)
        if state.retiring:
            self.drain_all(state)
        else:
            self._replace_outdated(state, now_s)
            self._scale(state, now_s)
        self._delivery.note(state.spec.uid, state.queue, state.seen.delayed_due_in_ms)
        if not state.retiring:
            self._couriers.note(state.spec.uid, state.queue, state.seen.outbox)
        self._metrics.observe(state.spec.key, state.seen, list(state.instances.values()))
        self._schedule(state.spec.uid, state.tempo)

    def _sort_instances(self, state: FunctionState, reports: Mapping[str, InstanceReport | None], now_s: float) -> None:
        for instance_id, before in [*state.instances.items()]:
            report = reports[instance_id] if instance_id in reports else state.reports.get(instance_id)
            state.reports[instance_id] = report
            if report is not None:
                self._metrics.reported(state.spec.key, instance_id, report)
                state.demand.note_counters(
                    now_s, instance_id, done=report.done, busy_us=report.busy_us, handler_us=report.handler_us
                )
            after = observed(before, report, state.seen.held_by(instance_id), now_s)
            state.instances[instance_id] = after
            self._note_passage(state, before, after, now_s)

    def _note_passage(self, state: FunctionState, before: Instance, after: Instance, now_s: float) -> None:
        """What an instance's passage from one state to the next says about the function's starts."""
        if after.state is State.FAILED and before.state is not State.FAILED:
            self._actions.count_failure(state, after, after.reason or "it failed without a reason")
            # It ends by itself; if not, as one that was told to leave.
            state.instances[after.instance_id] = replace(after, drain_s=now_s)
        if after.ready_s is None or after.revision != state.spec.revision:
            return
        if before.ready_s is None:
            state.backoff = backoff.got_ready(state.backoff)
            if not after.adopted:
                state.demand.note_start(now_s - after.started_s)
                self._metrics.started(state.spec.key, now_s - after.started_s)
        elif now_s - after.ready_s >= backoff.HEALTHY_S and after.serves:
            state.backoff = backoff.proved_healthy(state.backoff)

    def _recover_strangers(self, state: FunctionState) -> None:
        """Consumers that hold work and are no running instance died unseen: before this controller began."""
        for consumer in {*state.seen.sync.pending, *state.seen.async_.pending} - state.instances.keys():
            if consumer != CONTROLLER_CONSUMER or not (state.retiring or self._actions.is_refusing(state)):
                self._actions.recover(state, consumer)

    def _end_overdue(self, state: FunctionState, now_s: float) -> None:
        for instance in [*state.instances.values()]:
            if came_up_after_drain(instance):
                self._actions.remind(state, instance.instance_id)
            reason = overdue(instance, state.spec.timeout_s, now_s)
            if instance.state is State.SILENT and instance.revision != state.spec.revision:
                reason = "it is of an older revision and does not answer"
            if reason:
                self._actions.kill(state, instance.instance_id, reason)

    def drain_all(self, state: FunctionState) -> None:
        """Tell every instance of a function to leave."""
        for instance in [*state.instances.values()]:
            if instance.drain_s is None:
                self._actions.drain(state, instance.instance_id)

    def _replace_outdated(self, state: FunctionState, now_s: float) -> None:
        revision = state.spec.revision
        leaving = outdated(state.instances.values(), revision)
        if leaving and self._backend.replaces_first:
            wanted, most = state.replacements(now_s), state.spec.scale.max_instances
            leaving = to_replace(state.instances.values(), revision, wanted, most)
        for instance_id in leaving:
            self._actions.drain(state, instance_id)
        if not older_take_calls(state.instances.values(), revision):
            self._actions.apply_update(state)

    def _scale(self, state: FunctionState, now_s: float) -> None:
        load = state.load(now_s)
        state.demand.note_queued(now_s, load.queued)
        counts = fleet(state.instances.values(), state.spec.revision)
        decision = decide(load, counts, state.bounds(now_s, self._instances_max - self._total, self._backend))
        state.note_needed(now_s, decision)
        self._start(state, decision, now_s)
        for instance_id in to_drain(
            state.instances.values(), state.spec.revision, decision.drain, busy_too=decision.drain_busy
        ):
            self._drain(state, instance_id, decision.reason)
        refusal = state.refusal(now_s)
        if refusal and state.seen.sync.queued:
            self._actions.refuse_queued(state, refusal)
        state.status = state.observed_status(decision, now_s, self._unix_offset_s)
        self._actions.publish(state)
        self._source.note_status(state.spec.uid, state.status)

    def _start(self, state: FunctionState, decision: Decision, now_s: float) -> None:
        if decision.reason is Reason.PLATFORM_FULL and not state.serving:
            self._make_room(state, now_s)
        count = decision.start
        if count:
            # The first instance of a function never waits for another function's burst. The rest comes with the
            # next looks, when some are up, and only as far as it is needed then.
            allowed = max(0, self._backend.starts_at_once_max - self._coming_up)
            count = min(count, allowed if state.serving else max(1, allowed))
        for _ in range(count):
            self._actions.start(state)
        if count:
            self._populated[state.spec.uid] = state
            self._total += count
            self._coming_up += count
            self._metrics.decided("start", decision.reason, count)
            _log.info("starting instances: %d (%s)", count, decision.reason, extra={"function": state.spec.key})
        elif decision.desired > state.serving:
            self._metrics.decided("hold", decision.reason, 1)

    def _make_room(self, asking: FunctionState, now_s: float) -> None:
        """Let an instance of another function go that has been idle for longest and is above its minimum."""
        others = (s for s in self._populated.values() if s is not asking and s.serving > s.spec.scale.min_instances)
        idle = [(found.idle_since_s, s, found) for s in others if (found := longest_idle(s.instances.values()))]
        leaving = any(i.state is State.DRAINING for s in self._populated.values() for i in s.instances.values())
        since_s, state, instance = min(idle, key=lambda entry: entry[0], default=(now_s, asking, None))
        if instance is not None and not leaving and now_s - since_s >= ROOM_IDLE_S:
            self._drain(state, instance.instance_id, Reason.PLATFORM_FULL)

    def _drain(self, state: FunctionState, instance_id: str, reason: Reason) -> None:
        self._metrics.decided("drain", reason, 1)
        _log.info("draining an instance (%s)", reason, extra={"function": state.spec.key, "instance": instance_id})
        self._actions.drain(state, instance_id)


async def _nothing_seen() -> list[QueueState | None]:
    return []


async def _no_reports() -> dict[str, InstanceReport | None]:
    return {}


def _note(some: dict[str, FunctionState], state: FunctionState, *, is_in: bool) -> None:
    """Have a function among some, or not."""
    if is_in:
        some[state.spec.uid] = state
    else:
        some.pop(state.spec.uid, None)
