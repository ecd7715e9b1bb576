"""What the controller does about a function: start, drain and kill instances, recover their work, tell callers."""

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import replace

from redis.asyncio import Redis
from redis.exceptions import RedisError

from forebay_common import limits
from forebay_common.frames import ERROR_CANNOT_START
from forebay_common.keys import PlatformKeys
from forebay_common.queue import read_instances, send_control
from forebay_common.recovery import Recovered, abandon_instance, fail_queued_sync
from forebay_common.spec import FunctionSpec
from forebay_controller import backoff
from forebay_controller.background import Background
from forebay_controller.function_state import FunctionState, drift_only, routing_changed
from forebay_controller.instances import Instance, State
from forebay_controller.interfaces import FunctionSource, InstanceBackend, InstanceStartError
from forebay_controller.metrics import Metrics

PUBLISH_EVERY_S = 0.05
"""A capacity that drifts is announced this often at most: each time every gateway reads the entry anew."""

_log = logging.getLogger(__name__)


class Actions:
    """Carries decisions out; `look_again(uid)` asks for a look at what has changed."""

    def __init__(
        self,
        redis: Redis,
        platform: PlatformKeys,
        source: FunctionSource,
        backend: InstanceBackend,
        metrics: Metrics,
        clock: Callable[[], float],
        background: Background,
        look_again: Callable[[str], None],
    ) -> None:
        self._redis = redis
        self._platform = platform
        self._source = source
        self._backend = backend
        self._metrics = metrics
        self._clock = clock
        self._background = background
        self._look_again = look_again
        self._starting: set[str] = set()
        self._told: set[str] = set()
        self._killed_for: dict[str, str] = {}
        self._recovering: set[str] = set()
        self._refusing: set[str] = set()

    @property
    def being_started(self) -> frozenset[str]:
        """Instances that the backend has been asked for and may not know yet."""
        return frozenset(self._starting)

    def start(self, state: FunctionState) -> None:
        """Start one instance; from now on it counts as starting."""
        instance_id = secrets.token_hex(8)
        state.instances[instance_id] = Instance(instance_id, state.spec.revision, self._clock())
        self._starting.add(instance_id)
        self._background.spawn(self._start(state, state.spec, instance_id), f"start {state.spec.key}")

    async def _start(self, state: FunctionState, spec: FunctionSpec, instance_id: str) -> None:
        try:
            await self._backend.start(spec, instance_id)
        except InstanceStartError as error:
            self._refused(state, instance_id, str(error))
        finally:
            self._starting.discard(instance_id)

    def _refused(self, state: FunctionState, instance_id: str, reason: str) -> None:
        """An instance could not even be started."""
        instance = state.instances.pop(instance_id, None)
        if not state.instances:
            state.gone.set()
        if instance is not None and instance.drain_s is None:
            self.count_failure(state, instance, reason)
        self._look_again(state.spec.uid)

    def drain(self, state: FunctionState, instance_id: str) -> None:
        """Tell an instance to finish what it holds and leave; from now on it counts as draining."""
        before = state.instances[instance_id]
        state.instances[instance_id] = replace(before, state=State.DRAINING, drain_s=self._clock())
        self._told.add(instance_id)
        self._background.spawn(self._drain(state, before), f"drain {state.spec.key}")

    async def _drain(self, state: FunctionState, before: Instance) -> None:
        instance_id = before.instance_id
        try:
            told = await self._tell_to_drain(state, instance_id)
        except RedisError:
            self._undo_drain(state, before)
            raise
        if told or instance_id not in state.instances:
            return
        if before.state is State.BUSY:
            # It cannot be told, and what it runs must not be cut off: the next look tries again.
            self._undo_drain(state, before)
        else:
            # Without a control stream it has not begun to take calls, or has already left.
            await self._backend.stop(instance_id)

    def remind(self, state: FunctionState, instance_id: str) -> None:
        """Tell an instance to leave that takes calls although it was stopped: it came up meanwhile.

        A runtime that is process 1 of its container does not hear a signal before it listens for it.
        """
        if instance_id not in self._told:
            self._told.add(instance_id)
            self._background.spawn(self._tell_to_drain(state, instance_id), f"drain {state.spec.key}")

    async def _tell_to_drain(self, state: FunctionState, instance_id: str) -> bool:
        told = False
        try:
            told = await send_control(self._redis, state.queue.keys, instance_id, {"command": "drain"})
        finally:
            if not told:
                self._told.discard(instance_id)
        return told

    def _undo_drain(self, state: FunctionState, before: Instance) -> None:
        current = state.instances.get(before.instance_id)
        if current is not None:
            state.instances[before.instance_id] = replace(current, state=before.state, drain_s=None)

    def kill(self, state: FunctionState, instance_id: str, reason: str) -> None:
        """End an instance at once; what it held is dealt with when its exit is reported."""
        if instance_id in self._killed_for:
            return
        self._killed_for[instance_id] = reason
        _log.warning("killing an instance: %s", reason, extra=_extra(state, instance_id))
        self._background.spawn(self._backend.kill(instance_id), f"kill {state.spec.key}")

    def exited(self, state: FunctionState, instance_id: str, reason: str) -> None:
        """An instance is gone: count it, recover its work, look at the function again."""
        instance = state.instances.pop(instance_id, None)
        state.reports.pop(instance_id, None)
        self._told.discard(instance_id)
        state.demand.forget(instance_id)
        words = self._killed_for.pop(instance_id, "") or reason
        if not state.instances:
            state.gone.set()
        if instance is not None and instance.drain_s is None and instance.ready_s is None:
            self._background.spawn(self._judge(state, instance, words), f"judge {state.spec.key}")
            return
        if instance is not None and instance.drain_s is None:
            self.count_failure(state, instance, words)
        self.recover(state, instance_id)
        self._look_again(state.spec.uid)

    async def _judge(self, state: FunctionState, instance: Instance, reason: str) -> None:
        """An instance ended that no look has seen ready: its last heartbeat tells whether it had been."""
        try:
            reports = await read_instances(self._redis, [(state.queue.keys, instance.instance_id)])
        except RedisError:
            reports = {}
        last = reports.get(instance.instance_id)
        if last is not None and last.state == "ready":
            instance = replace(instance, ready_s=self._clock())
        said = last.reason if last is not None and last.state == "failed" else ""
        self.count_failure(state, instance, said or reason)
        self.recover(state, instance.instance_id)
        self._look_again(state.spec.uid)

    def count_failure(self, state: FunctionState, instance: Instance, reason: str) -> None:
        """An instance ended by itself, or said that it must: before it was ready, or as a crash."""
        if instance.ready_s is None:
            self._start_failed(state, instance, reason or "it ended before it was ready")
        elif reason:
            _log.warning("an instance died: %s", reason, extra=_extra(state, instance.instance_id))
            if instance.revision == state.spec.revision:
                state.backoff = backoff.crashed(
                    state.backoff, now_s=self._clock(), started_s=instance.started_s, reason=reason
                )

    def _start_failed(self, state: FunctionState, instance: Instance, reason: str) -> None:
        _log.warning("an instance did not start: %s", reason, extra=_extra(state, instance.instance_id))
        self._metrics.start_failed(state.spec.key)
        # One of another revision says nothing of this one.
        if instance.revision == state.spec.revision:
            state.backoff = backoff.start_failed(
                state.backoff, now_s=self._clock(), started_s=instance.started_s, reason=reason
            )

    def recover(self, state: FunctionState, consumer: str) -> None:
        """Deal with what a consumer that is no running instance has leased."""
        if consumer not in self._recovering:
            self._recovering.add(consumer)
            self._background.spawn(self._recover(state, consumer), f"recover {state.spec.key}")

    async def _recover(self, state: FunctionState, consumer: str) -> None:
        try:
            last = (await read_instances(self._redis, [(state.queue.keys, consumer)]))[consumer]
            if last is not None:
                self._metrics.reported(state.spec.key, consumer, last)
            done = await abandon_instance(
                self._redis, self._platform, state.queue, consumer, attempts_max=attempts_max(state.spec)
            )
        finally:
            self._recovering.discard(consumer)
        if done.left:
            self._metrics.instance_gone(consumer)
        self.note_recovered(state, consumer, done)

    def note_recovered(self, state: FunctionState, consumer: str, done: Recovered) -> None:
        """Count and log what became of a dead instance's work, and have the requeued part looked at."""
        self._metrics.recovered(done)
        moved = done.sync_failed + done.async_requeued + done.async_delayed + done.async_dead + done.async_cancelled
        if moved:
            _log.warning("recovered %d leases of a dead instance", moved, extra=_extra(state, consumer))
            self._look_again(state.spec.uid)

    def refuse_queued(self, state: FunctionState, reason: str) -> None:
        """Tell the callers of a function that cannot start why, at once; its events stay queued."""
        uid = state.spec.uid
        if uid not in self._refusing:
            self._refusing.add(uid)
            self._background.spawn(self._refuse_queued(state, reason), f"refuse {state.spec.key}")

    def is_refusing(self, state: FunctionState) -> bool:
        """Whether the controller itself holds calls of the function, to answer them."""
        return state.spec.uid in self._refusing

    async def _refuse_queued(self, state: FunctionState, reason: str) -> None:
        try:
            await fail_queued_sync(self._redis, self._platform, state.queue, ERROR_CANNOT_START, reason.encode())
        finally:
            self._refusing.discard(state.spec.uid)

    def publish(self, state: FunctionState) -> None:
        """Make the status known where the routing entry carries something of it that has changed."""
        if routing_changed(state.published, state.status) and not state.publishing:
            state.publishing = True
            self._background.spawn(self._publish(state), f"publish {state.spec.key}")

    async def _publish(self, state: FunctionState) -> None:
        try:
            while not state.retiring and routing_changed(state.published, state.status):
                wait_s = state.published_s + PUBLISH_EVERY_S - self._clock()
                if wait_s > 0 and drift_only(state.published, state.status):
                    await asyncio.sleep(wait_s)
                status = state.status
                state.published_s = self._clock()
                await self._source.publish_status(state.spec.uid, status)
                state.published = status
        finally:
            state.publishing = False

    def apply_update(self, state: FunctionState) -> None:
        """Tell the source that no instance of an older revision takes calls any more, once for each revision."""
        revision = state.spec.revision
        if state.applied_revision != revision:
            state.applied_revision = revision
            self._background.spawn(self._apply_update(state, revision), f"apply {state.spec.key}")

    async def _apply_update(self, state: FunctionState, revision: int) -> None:
        try:
            await self._source.update_applied(state.spec.uid, revision)
        except RedisError:
            state.applied_revision = 0
            raise


def attempts_max(spec: FunctionSpec) -> int:
    """How often an event of this function is started in all."""
    retries = spec.async_.max_retries
    return 1 + (limits.ASYNC_RETRIES_DEFAULT if retries is None else retries)


def _extra(state: FunctionState, instance_id: str) -> dict[str, str]:
    return {"function": state.spec.key, "instance": instance_id}
