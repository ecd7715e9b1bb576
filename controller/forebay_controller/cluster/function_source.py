"""The leader's `FunctionSource`: Function resources become functions that instances run and gateways route to.

Each Function is worked on by a task of its own. What a resource asks for is accepted in one order, so that a death in
between is finished by the next leader: code and everything an instance needs are there, then the resource's status
names the revision, then instances may start and gateways are told, and last the status says that it is ready.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

from redis.asyncio import Redis

from forebay_common import logs
from forebay_common.keys import PlatformKeys
from forebay_common.queue import VersionQueue, create_queues
from forebay_common.redis_client import command
from forebay_common.routing import RoutingEntry
from forebay_common.spec import FunctionSpec
from forebay_controller.background import end_tasks
from forebay_controller.cluster import names
from forebay_controller.cluster.acceptance import Acceptance, NotAcceptedError, ObjectGoneError, Prepare, plain
from forebay_controller.cluster.api import FUNCTIONS, Api, ApiError, Object
from forebay_controller.cluster.code_source import CodeReader
from forebay_controller.cluster.config import ClusterConfig
from forebay_controller.cluster.config_map_watches import ConfigMapWatches
from forebay_controller.cluster.departure import Departure, Release, Retire
from forebay_controller.cluster.events import Event, Events
from forebay_controller.cluster.function_record import FunctionRecord
from forebay_controller.cluster.informer import Informer, Key
from forebay_controller.cluster.resource import FINALIZER, LAST_MODIFIED, FunctionResource, function_uid, read
from forebay_controller.cluster.routing_table import RoutingTable
from forebay_controller.cluster.status import Accepted, Problem, read_observed, ready_generation
from forebay_controller.cluster.status_writer import CONFLICTS_MAX, StatusWriter, current, refresh
from forebay_controller.cluster.work_queue import WorkQueue, backoff_s
from forebay_controller.code_store import CodeStore
from forebay_controller.interfaces import FunctionStatus

PROBLEM_FIRST_S = 2.0
PROBLEM_MOST_S = 300.0
PROBLEM_STAYS_S = 1_800.0
"""How often even a problem that only its user can solve is looked at again: what it depends on may have changed."""
CONFLICT_S = 0.05
LOAD_AT_ONCE = 50
_RETRY_MARGIN_MS = 5_000

_log = logs.get(__name__)


class FunctionSource:
    """Functions from Function resources. `load` before the Controller starts, `start` after; the leader's alone."""

    def __init__(
        self,
        api: Api,
        functions: Informer,
        redis: Redis,
        platform: PlatformKeys,
        code: CodeStore,
        reader: CodeReader,
        config: ClusterConfig,
        *,
        prepare: Prepare,
        release: Release,
        instance: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._functions = functions
        self._redis = redis
        self._platform = platform
        self._code = code
        self._config = config
        self._specs: dict[str, FunctionSpec] = {}
        self._records: dict[Key, FunctionRecord] = {}
        self._by_uid: dict[str, FunctionRecord] = {}
        self._callbacks: list[Callable[[str], None]] = []
        self._claims = names.Claims(functions)
        self._events = Events(api, instance, clock)
        self._statuses = StatusWriter(api, functions, self._events, config, clock)
        self._table = RoutingTable(redis, platform, region=config.region, account=config.account)
        self._queue: WorkQueue[Key] = WorkQueue(self._work)
        self._watches = ConfigMapWatches(api, self._queue.add)
        self._acceptance = Acceptance(redis, platform, code, reader, self._watches, self._statuses, prepare)
        self._departure = Departure(redis, platform, code, self._table, release)
        self._unsubscribe: Callable[[], None] | None = None
        self._left_over: asyncio.Task[None] | None = None

    # What the controller asks.

    def functions(self) -> Mapping[str, FunctionSpec]:
        """All functions that were accepted, by uid; a live view."""
        return MappingProxyType(self._specs)

    def on_change(self, callback: Callable[[str], None]) -> None:
        """Call `callback(uid)` whenever a function was created, changed or deleted."""
        self._callbacks.append(callback)

    async def publish_status(self, uid: str, status: FunctionStatus) -> None:
        """Tell gateways, when capacity or the reason why nothing starts changed, and the resource's readers.

        Raises redis.exceptions.RedisError.
        """
        record = self._by_uid.get(uid)
        if record is None or record.accepted is None:
            return
        self._statuses.observe(record, status)
        await self._table.publish(record, record.accepted.spec, status)

    def note_status(self, uid: str, status: FunctionStatus) -> None:
        """Take note of a function as a look has just found it."""
        record = self._by_uid.get(uid)
        if record is not None:
            record.looked_at.set()
            self._statuses.observe(record, status)

    async def update_applied(self, uid: str, revision: int) -> None:
        """No instance of an older revision takes calls any more."""
        record = self._by_uid.get(uid)
        if record is not None and revision > record.applied_revision:
            record.applied_revision = revision
            self._statuses.note(record)

    # Its life.

    async def load(self) -> None:
        """Take up what an earlier leader had accepted, and take out what gateways need not know any more.

        Raises redis.exceptions.RedisError.
        """
        self._unsubscribe = self._functions.subscribe(self._changed)
        self._claims.index()
        table = await self._table.read()
        items = [(key, item) for key, item in self._functions.objects.items() if self._was_accepted(key, item)]
        for start in range(0, len(items), LOAD_AT_ONCE):
            batch = items[start : start + LOAD_AT_ONCE]
            await asyncio.gather(*(self._take_up(key, item, table) for key, item in batch))
        known = {function_uid(item) for item in self._functions.objects.values()}
        for name, entry in table.items():
            if entry.uid not in known:
                await self._table.drop(name)

    def start(self, retire: Retire) -> None:
        """Begin to work on Functions; `retire(uid)` ends what runs and waits for one, as the Controller does."""
        self._departure.retire = retire
        self._events.start()
        for key in self._functions.objects:
            self._queue.add(key)
        self._left_over = asyncio.create_task(self._remove_left_over(), name="left-over keys")

    async def republish_all(self) -> None:
        """Redis came back and may have lost anything: see that all is there, entries, queues, code and users."""
        for record in self._records.values():
            record.settled, record.prepared, record.entry = False, None, None
            self._queue.add(record.key)

    async def close(self) -> None:
        """Stop; instances, entries and resources stay as they are."""
        if self._unsubscribe is not None:
            self._unsubscribe()
        if self._left_over is not None:
            await end_tasks([self._left_over])
        await self._queue.close()
        await self._statuses.close()
        await self._watches.close()
        await self._events.close()

    def _was_accepted(self, key: Key, item: Object) -> bool:
        accepted = bool(item.get("status", {}).get("revision"))
        return accepted and self._config.serves(key[0]) and self._claims.owner_of(item) is item

    async def _take_up(self, key: Key, item: Object, table: Mapping[str, RoutingEntry]) -> None:
        resource, status = read(item), item.get("status", {})
        spec = plain(resource.spec).with_changes(revision=status["revision"])
        # What the resource asks for may be newer than what instances run by.
        raw: bytes | None = await command(self._redis, "GET", self._acceptance.keys(spec).spec())
        if raw is not None:
            spec = FunctionSpec.from_json(raw)
        record = self._record(key, resource)
        record.touched = True
        record.accepted = Accepted(spec, ready_generation(status), status.get("codeSource", ""))
        record.applied_revision = status.get("appliedRevision", 0)
        record.observed = read_observed(status)
        entry = table.get(spec.key)
        if entry is not None and entry.uid == spec.uid:
            record.entry = entry
        for sha256 in await self._code.load(self._acceptance.keys(spec)):
            if sha256 != spec.code_sha256:
                record.old_code.add(sha256)
        self._specs[spec.uid] = spec

    # The work on one Function.

    def _changed(self, old: Object | None, new: Object | None) -> None:
        item = new if new is not None else old
        assert item is not None
        self._claims.note(item, gone=new is None)
        if old is not None and new is not None and _asked(old) == _asked(new):
            return  # it was our own status
        self._queue.add((item["metadata"]["namespace"], item["metadata"]["name"]))
        if new is None:
            for key in self._claims.rivals(item):
                self._queue.add(key)

    async def _work(self, key: Key) -> float | None:
        item = self._functions.objects.get(key)
        record = self._records.get(key)
        if record is not None and (item is None or function_uid(item) != record.uid):
            await self._leave(record)
        if item is None:
            return None
        resource = read(item)
        record = self._record(key, resource)
        record.spec = plain(resource.spec)
        try:
            if resource.deleting:
                await self._delete(record, item, resource)
                return None
            return await self._accept(record, item, resource)
        except ObjectGoneError:
            return None  # the watch brings the key back
        except ApiError as error:
            if error.status != 409:  # noqa: PLR2004 - Conflict
                raise
            return CONFLICT_S

    async def _accept(self, record: FunctionRecord, item: Object, resource: FunctionResource) -> float | None:
        problem = self._objection(item, resource)
        if problem is not None and not record.touched and problem.about == "name":
            record.problem = problem
            self._statuses.note(record)
            return None
        if FINALIZER not in resource.finalizers:
            item = await self._set_finalizer(record, present=True)
            resource = read(item)
        record.touched = True
        if problem is not None:
            return await self._refuse(record, problem)
        try:
            accepted = await self._acceptance.make_ready(record, item, resource)
        except NotAcceptedError as error:
            return await self._refuse(record, error.problem)
        before = record.accepted
        record.accepted, record.problem, record.problem_count = accepted, None, 0
        self._specs[record.uid] = accepted.spec
        await self._table.publish(record, accepted.spec, record.observed)
        self._statuses.note(record)
        if before is None or before.spec != accepted.spec:
            revision = accepted.spec.revision
            _log.info("function accepted", extra={"function": accepted.spec.key, "revision": revision})
            self._tell(record.uid)
        return await self._acceptance.sweep(record)

    async def _refuse(self, record: FunctionRecord, problem: Problem) -> float:
        """A spec cannot be acted on: what served before goes on, and callers of a new function hear why."""
        record.problem_count = record.problem_count + 1 if record.problem == problem else 1
        delay_s = PROBLEM_STAYS_S
        if problem.may_pass:
            delay_s = backoff_s(record.problem_count, first_s=PROBLEM_FIRST_S, most_s=PROBLEM_MOST_S)
        if record.problem != problem:
            _log.warning("function not accepted: %s", problem.message, extra={"function": record.spec.key})
        record.problem = problem
        self._statuses.note(record)
        if record.accepted is None:
            retry_at_ms = int((time.time() + delay_s) * 1000) + _RETRY_MARGIN_MS
            status = FunctionStatus(cannot_start=problem.message, retry_at_ms=retry_at_ms)
            # Events wait until it can run; calls are told why it cannot.
            await create_queues(self._redis, VersionQueue(self._acceptance.keys(record.spec)))
            await self._table.publish(record, record.spec, status)
        else:
            await self._table.publish(record, record.accepted.spec, record.observed)
        return delay_s

    async def _delete(self, record: FunctionRecord, item: Object, resource: FunctionResource) -> None:
        if FINALIZER not in resource.finalizers:
            await self._leave(record)
            return
        record.touched = True
        self._statuses.note(record)
        await self._leave(record)
        self._events.tell(item, Event("Normal", "Deleted", "Its instances have ended and its keys are removed"))
        await self._set_finalizer(record, present=False)

    async def _leave(self, record: FunctionRecord) -> None:
        """Nothing of a Function stays. Safe to repeat."""
        spec = record.accepted.spec if record.accepted is not None else record.spec
        if record.touched:
            if record.uid in self._specs:
                # One that an earlier leader started instances of must be seen once, or they would be cut off.
                await self._departure.first_look(record, self._tell)
            await self._departure.close(record, spec)
            self._specs.pop(record.uid, None)
            self._tell(record.uid)
            await self._departure.finish(spec)
            _log.info("function deleted", extra={"function": spec.key})
        await self._watches.follow(record.key, None)
        await self._statuses.forget(record)
        self._by_uid.pop(record.uid, None)
        if self._records.get(record.key) is record:
            del self._records[record.key]

    async def _set_finalizer(self, record: FunctionRecord, *, present: bool) -> Object:
        """Add our finalizer to a Function or take it away; gives the object.

        Raises ObjectGoneError, ApiError.
        """
        namespace, name = record.key
        for attempt in range(CONFLICTS_MAX):
            item = current(self._functions, record)
            if item is None:
                raise ObjectGoneError
            others = [value for value in item["metadata"].get("finalizers", ()) if value != FINALIZER]
            metadata = {
                "resourceVersion": item["metadata"]["resourceVersion"],
                "finalizers": [*others, FINALIZER] if present else others,
            }
            try:
                async with self._statuses.slots:
                    written = await self._api.merge_patch(FUNCTIONS, namespace, name, {"metadata": metadata})
            except ApiError as error:
                if error.status == 404:  # noqa: PLR2004 - Not Found
                    raise ObjectGoneError from error
                if error.status != 409 or attempt == CONFLICTS_MAX - 1:  # noqa: PLR2004 - Conflict
                    raise
                await refresh(self._api, self._functions, record)
            else:
                if present:
                    self._functions.put(written)
                return written
        raise ObjectGoneError

    def _objection(self, item: Object, resource: FunctionResource) -> Problem | None:
        """What can be told of a spec without looking anywhere else."""
        spec = resource.spec
        if not self._config.serves(spec.namespace):
            text = (
                f"Functions are not served in namespace {spec.namespace}, where the platform itself runs: use another"
            )
            return Problem("name", "NamespaceRefused", text, may_pass=False)
        owner = self._claims.owner_of(item)
        if owner is not None and function_uid(owner) != spec.uid:
            other = owner["metadata"]["name"]
            text = f"The function name {spec.name} is taken by Function {other}: choose another, or delete that one"
            return Problem("name", "NameTaken", text, may_pass=False)
        if resource.problem:
            return Problem("spec", "Invalid", resource.problem, may_pass=False)
        if not self._config.image_of(spec):
            text = f"{self._config.no_image(spec)}: choose one of them, or add it to the chart's value runtimes"
            return Problem("spec", "RuntimeUnknown", text, may_pass=False)
        return None

    def _record(self, key: Key, resource: FunctionResource) -> FunctionRecord:
        record = self._records.get(key)
        if record is None:
            record = self._records[key] = FunctionRecord(key, resource.spec.uid, plain(resource.spec))
            self._by_uid[record.uid] = record
        return record

    def _tell(self, uid: str) -> None:
        for callback in self._callbacks:
            callback(uid)

    async def _remove_left_over(self) -> None:
        """Keys of Functions that went while no leader was there to see it."""
        # Whatever comes later is in the records before it has a key.
        known = {function_uid(item) for item in self._functions.objects.values()}
        async for namespace, name, uid in self._departure.tags():
            if uid not in known and uid not in self._by_uid and self._config.serves(namespace):
                _log.info("removing what is left of a deleted function", extra={"function": f"{namespace}/{name}"})
                await self._departure.remove_keys(self._platform.function(namespace, name, uid))


def _asked(item: Object) -> tuple[object, ...]:
    """What of an object is ours to act on."""
    metadata = item["metadata"]
    return (
        metadata["uid"],
        metadata.get("generation"),
        metadata.get("deletionTimestamp"),
        metadata.get("finalizers"),
        metadata.get("annotations", {}).get(LAST_MODIFIED),
    )
