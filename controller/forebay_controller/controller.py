"""The controller as one object: its loops, and what the rest of the process asks of it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.exceptions import RedisError

from forebay_common import limits
from forebay_common.frames import ERROR_DELETED
from forebay_common.keys import PlatformKeys
from forebay_common.queue import wakes
from forebay_common.recovery import fail_queued_sync
from forebay_common.scripts import load_all
from forebay_controller.actions import Actions
from forebay_controller.background import Background, end_tasks
from forebay_controller.delivery import Delivery
from forebay_controller.destinations.couriers import Couriers
from forebay_controller.destinations.targets import Outgoing, Targets
from forebay_controller.function_state import FunctionState
from forebay_controller.instances import DRAIN_MARGIN_S
from forebay_controller.interfaces import FunctionSource, FunctionStatus, InstanceBackend
from forebay_controller.metrics import Metrics
from forebay_controller.reaper import EVERY_S, Reaper
from forebay_controller.reconcile import Reconciler
from forebay_controller.schedule import Schedule

INSTANCES_MAX = 100
STOP_DRAIN_S = 10.0
STOP_KILL_S = 3.0
LEAVE_SETTLE_S = 1.0
"""What is under way when the controller leaves gets this long; the next controller finds what was left undone."""
RETIRE_KILL_S = 10.0
"""A retired function's instance that outlives its kill for so long is left to the operating system."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """Bounds of one controller; the defaults are the product's."""

    instances_max: int = INSTANCES_MAX
    lease_ms: int = limits.LEASE_MS
    reap_every_s: float = EVERY_S
    result_retention_s: float = limits.RESULT_RETENTION_S
    stop_drain_s: float = STOP_DRAIN_S


class Controller:
    """Keeps the instances of all functions as they should be, from `start` to `stop`.

    `redis_returned` is called when the connection to Redis was lost and is there again: it may have lost anything.
    """

    def __init__(
        self,
        redis: Redis,
        platform: PlatformKeys,
        source: FunctionSource,
        backend: InstanceBackend,
        outgoing: Outgoing,
        *,
        settings: ControllerSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
        redis_returned: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.metrics = Metrics()
        self._settings = settings or ControllerSettings()
        self._redis_returned = redis_returned
        self._redis = redis
        self._platform = platform
        self._source = source
        self._backend = backend
        self._background = Background()
        self._schedule = Schedule(lambda: [*source.functions()])
        self._delivery = Delivery(redis, self._schedule.wake, clock)
        self._actions = Actions(
            redis, platform, source, backend, self.metrics, clock, self._background, self._schedule.wake
        )
        targets = Targets(redis, platform, source.functions, outgoing, self._schedule.wake)
        self._couriers = Couriers(redis, source.functions, targets, self.metrics, self._schedule.wake, clock)
        self._reconciler = Reconciler(
            redis,
            platform,
            source,
            backend,
            self.metrics,
            actions=self._actions,
            delivery=self._delivery,
            couriers=self._couriers,
            background=self._background,
            schedule=self._schedule.set_tempo,
            instances_max=self._settings.instances_max,
            clock=clock,
        )
        self._reaper = Reaper(
            redis,
            platform,
            self._actions,
            self._reconciler,
            lease_ms=self._settings.lease_ms,
            result_retention_s=self._settings.result_retention_s,
            every_s=self._settings.reap_every_s,
        )
        self._loops: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Take up the instances that are there, and begin to look. Raises redis.exceptions.RedisError."""
        await load_all(self._redis)
        self._backend.on_exit(self._reconciler.exited)
        await self._backend.adopt(self._source.functions())
        for instance in [*self._backend.instances().values()]:
            if instance.uid not in self._source.functions():
                # Its function was deleted while no controller ran, and its keys with it: it cannot be told to leave.
                await self._backend.kill(instance.instance_id)
        self._source.on_change(self._changed)
        self._schedule.wake_all()
        loops = {
            "looks": self._schedule.run_looks(self._reconciler.look),
            "ticks": self._schedule.run_ticks(),
            "wakes": self._listen(),
            "delivery": self._delivery.run(),
            "reaper": self._reaper.run(),
        }
        self._loops = [asyncio.create_task(loop, name=name) for name, loop in loops.items()]

    async def failed(self) -> None:
        """Return, by raising its error, when one of the loops ended: without it the controller is of no use."""
        done, _ = await asyncio.wait(self._loops, return_when=asyncio.FIRST_COMPLETED)
        for loop in done:
            loop.result()

    def get_status(self, uid: str) -> FunctionStatus:
        """A function as it was seen last; all zero for one that was never looked at."""
        state = self._reconciler.states.get(uid)
        return state.status if state is not None else FunctionStatus()

    async def retire(self, uid: str) -> None:
        """End what runs and waits for a function that its source does not know any more.

        Callers whose call has not begun are told at once; instances finish what they hold within the function's
        timeout and a margin, then they are killed. Returns when nothing uses the function's keys any more, so that
        they can be removed. Safe to repeat. Raises redis.exceptions.RedisError.
        """
        state = self._reconciler.states.get(uid)
        if state is None:
            return
        state.retiring = True
        self._reconciler.drain_all(state)
        self._schedule.wake(uid)
        await self._tell_deleted(state)
        try:
            async with asyncio.timeout(state.spec.timeout_s + DRAIN_MARGIN_S + RETIRE_KILL_S):
                while state.instances:
                    state.gone.clear()
                    await state.gone.wait()
        except TimeoutError:
            _log.error("instances of a deleted function do not end", extra={"function": state.spec.key})
        await self._tell_deleted(state, leased=True)
        self._reconciler.forget(uid)

    async def leave(self) -> None:
        """Stop looking; instances go on, and the next controller takes them up."""
        await end_tasks(self._loops)
        await asyncio.gather(self._background.settle(LEAVE_SETTLE_S), self._couriers.close(LEAVE_SETTLE_S))

    async def stop(self) -> None:
        """Stop the platform's instances: each may finish what it holds within `stop_drain_s`, then it is killed."""
        await self.leave()
        states = [*self._reconciler.states.values()]
        for state in states:
            state.retiring = True  # nothing is started, published or counted as a failure any more
            self._reconciler.drain_all(state)
        if not await self._ended(states, self._settings.stop_drain_s):
            for instance_id in [*self._backend.instances()]:
                await self._backend.kill(instance_id)
            await self._ended(states, STOP_KILL_S)
        await self._background.settle(STOP_KILL_S)

    async def _ended(self, states: list[FunctionState], timeout_s: float) -> bool:
        """Wait until no instance is left, at most `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                for state in states:
                    while state.instances:
                        state.gone.clear()
                        await state.gone.wait()
        except TimeoutError:
            return False
        return True

    async def _tell_deleted(self, state: FunctionState, *, leased: bool = False) -> None:
        await fail_queued_sync(self._redis, self._platform, state.queue, ERROR_DELETED, b"", leased=leased)

    def _changed(self, uid: str) -> None:
        # Known from now on, so that a function deleted before its first look can still be retired.
        self._reconciler.state_of(uid)
        self._schedule.wake(uid)

    async def _listen(self) -> None:
        connected = False
        async for announced in wakes(self._redis, self._platform):
            if announced is not None:
                self._schedule.wake(announced.rpartition("/")[2])
                continue
            # Redis may have been restarted, and announcements missed.
            try:
                await load_all(self._redis)
                if connected and self._redis_returned is not None:
                    await self._redis_returned()
            except RedisError as error:
                # Whatever runs a script here loads it itself; instances get theirs with the next reconnection.
                _log.warning("could not load the scripts: %s", error)
            connected = True
            self._schedule.wake_all()
