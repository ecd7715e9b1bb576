"""Empties the outboxes: one courier for each function that has anything in its own, as long as it has.

What is on its way stays in the outbox until it has arrived; what a courier knows beside (which records failed, when
they are due) is in memory alone. So a controller that dies loses nothing: the next one delivers from the start, and
what had arrived already comes again under the same ids.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping

from redis.asyncio import Redis
from redis.exceptions import RedisError

from forebay_common import logs
from forebay_common.events import FAILED, SUCCEEDED
from forebay_common.outbox import OutboxEntry, outbox_dead, outbox_done, read_outbox
from forebay_common.queue import VersionQueue
from forebay_common.redis_client import command
from forebay_common.spec import FunctionSpec
from forebay_controller import destination_text
from forebay_controller.background import end_tasks
from forebay_controller.destination_text import Destination
from forebay_controller.destinations.decisions import REASON_FAILED, Lane, id_before, is_over, order_of
from forebay_controller.destinations.slots import Slots
from forebay_controller.destinations.targets import DeliveryError, Targets, UndeliverableError
from forebay_controller.metrics import Metrics

PAGE_MAX = 16
RETRY_S = 0.5
"""While Redis is away."""

DELIVERED = "delivered"
RETRIED = "failed"
GIVEN_UP = "given_up"
DROPPED = "dropped"
OUTCOMES = (DELIVERED, RETRIED, GIVEN_UP, DROPPED)
NO_DESTINATION = "none"

_log = logs.get(__name__)

Functions = Callable[[], Mapping[str, FunctionSpec]]


class Couriers:
    """All couriers of one controller. `emptied(uid)` is called when one is done: the outbox looks different then."""

    def __init__(
        self,
        redis: Redis,
        functions: Functions,
        targets: Targets,
        metrics: Metrics,
        emptied: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._functions = functions
        self._targets = targets
        self._metrics = metrics
        self._emptied = emptied
        self._clock = clock
        self._couriers: dict[str, Courier] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def note(self, uid: str, queue: VersionQueue, outbox: int) -> None:
        """A look found so many entries in a function's outbox."""
        if not outbox:
            return
        if uid in self._couriers:
            self._couriers[uid].look()
            return
        courier = Courier(self._redis, uid, queue, self._functions, self._targets, self._metrics, self._clock)
        self._couriers[uid] = courier
        courier.start().add_done_callback(lambda done: self._ended(uid, courier, done))

    def forget(self, uid: str) -> None:
        """The function is deleted; what is left in its outbox goes with it."""
        courier = self._couriers.pop(uid, None)
        if courier is not None:
            self._end(courier)

    async def close(self, settle_s: float) -> None:
        """Begin nothing more, and let what is on its way arrive, at most `settle_s`."""
        couriers = [*self._couriers.values()]
        self._couriers.clear()
        await asyncio.gather(*(courier.settle(settle_s) for courier in couriers))
        await asyncio.gather(*(courier.end() for courier in couriers), *self._ending)

    def _end(self, courier: "Courier") -> None:
        ending = asyncio.create_task(courier.end())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def _ended(self, uid: str, courier: "Courier", task: asyncio.Task[None]) -> None:
        if self._couriers.get(uid) is not courier:
            return
        del self._couriers[uid]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("destinations are not told for now", exc_info=error, extra={"function": uid})
            self._end(courier)
        elif courier.worked:
            self._emptied(uid)


class Courier:
    """Delivers what is in one function's outbox; `run` returns when nothing is left there."""

    def __init__(
        self,
        redis: Redis,
        uid: str,
        queue: VersionQueue,
        functions: Functions,
        targets: Targets,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self.worked = False
        """Whether anything has left the outbox."""
        self._redis = redis
        self._uid = uid
        self._queue = queue
        self._functions = functions
        self._targets = targets
        self._metrics = metrics
        self._clock = clock
        self._lanes = {SUCCEEDED: Lane(), FAILED: Lane()}
        self._told: set[bytes] = set()
        self._running: list[asyncio.Task[None]] = []
        self._under_way: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._settling = False

    def look(self) -> None:
        """There may be new entries."""
        self._changed.set()

    def start(self) -> "asyncio.Task[None]":
        """Deliver from now on, until nothing is left; gives the task that does."""
        task = asyncio.create_task(self._run(), name=f"destinations of {self._queue.keys.base}")
        self._running.append(task)
        return task

    async def end(self) -> None:
        """Stop at once; what is on its way comes again."""
        await end_tasks(self._running)
        await end_tasks(self._under_way)

    async def _run(self) -> None:
        away = False
        while True:
            self._changed.clear()
            try:
                seen_all = await self._send_off()
            except RedisError as error:
                if not away:
                    _log.warning("could not read what destinations are to be told: %s", error, extra=self._extra())
                away = True
                await asyncio.sleep(RETRY_S)  # nobody announces that Redis is back
                continue
            away = False
            if seen_all and all(lane.empty for lane in self._lanes.values()):
                return
            await self._wait()

    async def settle(self, settle_s: float) -> None:
        """Send nothing more off, and wait for what is on its way, at most `settle_s`."""
        self._settling = True
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=settle_s)

    async def _wait(self) -> None:
        now_s = self._clock()
        times = [at_s for lane in self._lanes.values() if (at_s := lane.next_s(now_s)) is not None]
        try:
            async with asyncio.timeout(max(0.0, min(times) - now_s) if times else None):
                await self._changed.wait()
        except TimeoutError:
            return  # something is due

    async def _send_off(self) -> bool:
        """Send off what may go now; gives whether the whole outbox was seen. Raises redis.exceptions.RedisError."""
        while not self._settling:
            now_s = self._clock()
            more, seen_all = await self._send_new(now_s)
            for lane in self._lanes.values():
                while (entry_id := lane.begin_due(now_s)) is not None:
                    self._spawn(lane, entry_id, None)
            if not more:
                return seen_all
        return False

    async def _send_new(self, now_s: float) -> tuple[bool, bool]:
        """Send a page of new entries off; gives whether there may be more to send, and whether all were seen."""
        open_lanes = [lane for lane in self._lanes.values() if lane.takes_new(now_s)]
        if not open_lanes:
            return False, False
        after = min((lane.position for lane in open_lanes), key=order_of)
        wanted = min(PAGE_MAX, max(lane.free(now_s) for lane in open_lanes))
        entries = await read_outbox(self._redis, self._queue, after, wanted)
        self._take(entries, [*open_lanes], now_s)
        if len(entries) == wanted:
            return True, False
        return False, len(open_lanes) == len(self._lanes) and all(lane.free(now_s) for lane in open_lanes)

    def _take(self, entries: list[OutboxEntry], moving: list[Lane], now_s: float) -> None:
        """Send new entries off, each lane's up to the first that it has no room for."""
        for entry in entries:
            lane = self._lanes[entry.status]
            if lane in moving and order_of(lane.position) < order_of(entry.entry_id):
                if lane.takes_new(now_s):
                    lane.begin()
                    self._spawn(lane, entry.entry_id, entry)
                else:
                    moving.remove(lane)
            for passing in moving:
                passing.position = max(passing.position, entry.entry_id, key=order_of)

    def _spawn(self, lane: Lane, entry_id: bytes, entry: OutboxEntry | None) -> None:
        task = asyncio.create_task(self._attempt(lane, entry_id, entry))
        self._under_way.add(task)
        task.add_done_callback(lambda done: self._attempted(lane, entry_id, done))

    def _attempted(self, lane: Lane, entry_id: bytes, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # What nobody expected of one record must not keep the others from their way.
            _log.error("a record could not be made or sent", exc_info=error, extra=self._extra())
            lane.failed(entry_id, self._clock(), lane.delay_s(entry_id, 0.0))
        self._changed.set()

    async def _attempt(self, lane: Lane, entry_id: bytes, entry: OutboxEntry | None) -> None:
        """Try to deliver one record. `entry` None: it waited, and is read again."""
        slots, receiver = self._slots(lane)
        if not slots.has_room(receiver):
            entry = None  # it is read again at its turn: what thousands wait with would fill the memory
        async with slots.hold(receiver):
            try:
                entry = entry or await self._read(entry_id)
                spec = self._functions().get(self._uid)
                if entry is None or spec is None:
                    lane.gone(entry_id)
                else:
                    await self._deliver(lane, spec, entry)
            except (DeliveryError, RedisError) as error:
                await self._failed(lane, entry_id, entry, str(error))

    def _slots(self, lane: Lane) -> tuple[Slots, str]:
        """What a lane's records share with those for other receivers, and the name of theirs there."""
        spec = self._functions().get(self._uid)
        status = SUCCEEDED if lane is self._lanes[SUCCEEDED] else FAILED
        destination = None if spec is None else _destination(spec, status)
        if spec is None or destination is None:
            return self._targets.writes, self._uid
        return self._targets.slots(spec.namespace, destination)

    async def _read(self, entry_id: bytes) -> OutboxEntry | None:
        entries = await read_outbox(self._redis, self._queue, id_before(entry_id), 1)
        return entries[0] if entries and entries[0].entry_id == entry_id else None

    async def _deliver(self, lane: Lane, spec: FunctionSpec, entry: OutboxEntry) -> None:
        destination = _destination(spec, entry.status)
        if destination is None:
            await self._without_destination(spec, entry)
            lane.gone(entry.entry_id)
            return
        tried = lane.failing or lane.has_failed(entry.entry_id)
        if tried and is_over(entry.ended_ms, await self._redis_ms()):
            await self._bury(spec, entry, REASON_FAILED, "its time was over before it was its turn again")
            lane.gone(entry.entry_id)
            return
        if entry.entry_id not in self._told:
            try:
                await self._targets.deliver(spec, entry, destination)
            except UndeliverableError as error:
                await self._bury(spec, entry, error.reason, str(error))
                lane.gone(entry.entry_id)
                return
            self._told.add(entry.entry_id)
        await outbox_done(self._redis, self._queue, entry)
        self._told.discard(entry.entry_id)
        self.worked = True
        if lane.failing:
            _log.info("a destination takes records again", extra=self._extra())
        lane.delivered(entry.entry_id)
        self._metrics.to_destination(spec.key, destination.kind, DELIVERED)

    async def _failed(self, lane: Lane, entry_id: bytes, entry: OutboxEntry | None, why: str) -> None:
        spec = self._functions().get(self._uid)
        delay_s = lane.delay_s(entry_id, random.random())  # noqa: S311 - nothing secret
        over = False
        try:
            if spec is not None and entry is not None:
                destination = _destination(spec, entry.status)
                kind = destination.kind if destination is not None else NO_DESTINATION
                self._metrics.to_destination(spec.key, kind, RETRIED)
                if is_over(entry.ended_ms, await self._redis_ms(), delay_s):
                    await self._bury(spec, entry, REASON_FAILED, why)
                    over = True
        except RedisError as error:
            _log.warning("could not give a record up: %s", error, extra=self._extra())
        if not lane.failures_in_row:
            _log.warning("a destination did not take a record: %s", why, extra=self._extra())
        lane.failed(entry_id, self._clock(), None if over else delay_s)

    async def _without_destination(self, spec: FunctionSpec, entry: OutboxEntry) -> None:
        """The function does not name one any more: what failed is a dead letter, as if it had never named one."""
        if entry.status == FAILED:
            await outbox_dead(self._redis, self._queue, entry, entry.reason)
        else:
            await outbox_done(self._redis, self._queue, entry)
            _log.info("nobody is told of an event's success: the destination was taken away", extra=self._extra())
        self.worked = True
        self._metrics.to_destination(spec.key, NO_DESTINATION, DROPPED)

    async def _bury(self, spec: FunctionSpec, entry: OutboxEntry, reason: str, why: str) -> None:
        await outbox_dead(self._redis, self._queue, entry, reason)
        _log.warning("a record was given up, and is a dead letter: %s", why, extra=self._extra())
        self._told.discard(entry.entry_id)
        self.worked = True
        destination = _destination(spec, entry.status)
        self._metrics.to_destination(spec.key, destination.kind if destination else NO_DESTINATION, GIVEN_UP)

    async def _redis_ms(self) -> int:
        seconds, micros = await command(self._redis, "TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    def _extra(self) -> dict[str, str]:
        return {"function": self._queue.keys.base}


def _destination(spec: FunctionSpec, status: str) -> Destination | None:
    """Who is told of an event that ended so, by what the function says now."""
    text = spec.async_.on_success if status == SUCCEEDED else spec.async_.on_failure
    return destination_text.split(text) if text else None
