"""The local registry: where Functions come from on one machine, and where changes to them are made.

Each function's record is its spec, under its own tag; the function table (what gateways route by) is derived from
it. Records are in memory too, and this process is the only one that changes them: reads cost nothing, and after a
write that failed half-way memory says what Redis must hold. A record is written before its entry in the table, and
marked before it is taken out, so that a death in between is finished by the next start.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from types import MappingProxyType
from typing import Self
from uuid import uuid4
from weakref import WeakValueDictionary

from redis.asyncio import Redis
from redis.exceptions import RedisError

from forebay_common import logs
from forebay_common.frames import ERROR_DELETED
from forebay_common.function_table import publish_entry, remove_entry
from forebay_common.keys import FunctionKeys, PlatformKeys
from forebay_common.names import id_prefix
from forebay_common.queue import VersionQueue, create_queues, delete_function_keys
from forebay_common.recovery import fail_queued_sync
from forebay_common.redis_client import command
from forebay_common.routing import RoutingEntry
from forebay_common.spec import FunctionSpec
from forebay_controller import registry_rules as rules
from forebay_controller import settings_rules
from forebay_controller.code_package import CodePackage
from forebay_controller.code_store import CodeStore
from forebay_controller.deferred import RETRY_S, Deferred
from forebay_controller.interfaces import FunctionStatus
from forebay_controller.management import VISIBLE_S, Decision, Place, Retire, StoreError

DELETE_WAIT_S = 5.0
"""How long a deletion's answer waits for the function's last instance and key to be gone."""
_SCAN_COUNT = 1_000

_log = logs.get(__name__)


class Registry:
    """All functions of one installation, in one namespace. Call `load` before anything else.

    Implements `FunctionSource`, `FunctionStore` and `Functions`.
    """

    has_pods = False

    def __init__(self, redis: Redis, platform: PlatformKeys, code: CodeStore, place: Place) -> None:
        self.place = place
        self.code = code
        self._redis = redis
        self._platform = platform
        self._by_uid: dict[str, FunctionSpec] = {}
        self._uids: dict[str, str] = {}
        self._statuses: dict[str, FunctionStatus] = {}
        self._published: dict[str, RoutingEntry] = {}
        self._applied: dict[str, int] = {}
        self._visible_until_s: dict[str, float] = {}
        self._callbacks: list[Callable[[str], None]] = []
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        # The table is written under one lock, so that a late status cannot bring a deleted function back.
        self._table_lock = asyncio.Lock()
        self._deferred = Deferred()

    def functions(self) -> Mapping[str, FunctionSpec]:
        """All functions by uid; a live view."""
        return MappingProxyType(self._by_uid)

    def on_change(self, callback: Callable[[str], None]) -> None:
        """Call `callback(uid)` whenever a function was created, changed or deleted."""
        self._callbacks.append(callback)

    @property
    def namespaces_served(self) -> str:
        """The one namespace."""
        return self.place.namespace

    def in_namespace(self, namespace: str) -> Self | None:
        """This registry under its own namespace's name."""
        return self if namespace == self.place.namespace else None

    async def stage_blob(self, package: CodePackage) -> None:
        """Refused: only a Function resource names code by a digest. Raises StoreError."""
        text = f"No Function resource can name {package.sha256} on one machine: send code by PUT /v1/functions/NAME"
        raise StoreError("invalid", text)

    def find(self, name: str) -> FunctionSpec | None:
        """A function by its bare name."""
        uid = self._uids.get(self._key(name))
        return None if uid is None else self._by_uid[uid]

    def by_name(self) -> list[FunctionSpec]:
        """All functions, sorted by name."""
        return sorted(self._by_uid.values(), key=lambda spec: spec.name)

    def by_id_prefix(self, prefix: bytes) -> list[FunctionSpec]:
        """Those whose invocations' ids begin with `prefix`."""
        return [spec for uid, spec in self._by_uid.items() if id_prefix(uid) == prefix]

    def keys(self, spec: FunctionSpec) -> FunctionKeys:
        """A function's keys."""
        return self._platform.function(spec.namespace, spec.name, spec.uid)

    async def load(self) -> None:
        """Read what there is, finish what an earlier process left half done, and start the timers again.

        Raises redis.exceptions.RedisError.
        """
        table: dict[bytes, bytes] = await command(self._redis, "HGETALL", self._platform.functions)
        entries = {key.decode(): RoutingEntry.from_json(raw) for key, raw in table.items()}
        for key, entry in entries.items():
            keys = self._platform.function(entry.namespace, entry.name, entry.uid)
            if not await self._load_function(keys, entry):
                await remove_entry(self._redis, self._platform, key)
        await self._finish_half_done()
        for uid, spec in self._by_uid.items():
            await self._republish(uid)
            for sha256 in await self.code.load(self.keys(spec)):
                if sha256 != spec.code_sha256:
                    self._sweep_later(uid, sha256)
            if spec.state == rules.PENDING:
                self._activate_later(uid, VISIBLE_S)

    async def close(self) -> None:
        """Stop the timers."""
        await self._deferred.close()

    async def change(
        self, name: str, decide: Decision, package: CodePackage | None = None, *, visible_s: float = VISIBLE_S
    ) -> FunctionSpec:
        """Create or update a function; one change of a function at a time, all of it or nothing.

        `decide` gets the record as it is then. `package` is the code that the decided record names, needed when it
        names other code than before. Pending and InProgress last `visible_s` at least; with 0 a new function is
        active at once, and a change for which no instance is replaced is done at once. Raises what `decide` raises,
        SettingError, CodeStorageFullError, redis.exceptions.RedisError.
        """
        async with self._lock(name):
            old = self.find(name)
            wanted = decide(old)
            settings_rules.check(wanted)
            if old is None:
                assert package is not None
                new = await self._create(wanted, package, visible_s)
            else:
                new = await self._update(old, wanted, package, visible_s)
        done = "created" if old is None else "updated"
        _log.info("function %s", done, extra={"function": new.key, "revision": new.revision})
        return new

    async def annotate(self, name: str, decide: Decision) -> None:
        """Change what a record only carries (tags): neither its revision nor its status moves.

        Raises what `decide` raises, redis.exceptions.RedisError.
        """
        async with self._lock(name):
            await self._save(decide(self.find(name)))

    async def delete(self, name: str, retire: Retire) -> bool:
        """Delete a function; False when there is none. Its keys are gone, or will be as soon as `retire` is done.

        Raises redis.exceptions.RedisError.
        """
        async with self._lock(name):
            spec = self.find(name)
            if spec is None:
                return False
            gone = spec.with_changes(state=rules.DELETING)
            try:
                await self._write(gone)
                async with self._table_lock:
                    await remove_entry(self._redis, self._platform, spec.key)
                    self._drop(spec)
            except RedisError:
                self._restore_later(spec.uid)
                raise
            self._tell(spec.uid)
        _log.info("function deleted", extra={"function": spec.key})
        job = partial(self._finish_delete, gone, retire)
        await asyncio.wait({self._deferred.schedule(("delete", spec.uid), 0, job)}, timeout=DELETE_WAIT_S)
        return True

    async def publish_status(self, uid: str, status: FunctionStatus) -> None:
        """Tell gateways when capacity or the reason why nothing starts changed; kept up while Redis is away."""
        if uid in self._by_uid:
            self._statuses[uid] = status
            await self._republish_or_later(uid)

    def note_status(self, uid: str, status: FunctionStatus) -> None:
        """Nothing to do: whoever asks is answered from the reconciler's own memory."""

    async def update_applied(self, uid: str, revision: int) -> None:
        """No instance of an older revision takes calls any more."""
        if uid in self._by_uid:
            self._applied[uid] = max(revision, self._applied[uid])
            self._finish_update_later(uid)

    async def _create(self, wanted: FunctionSpec, package: CodePackage, visible_s: float) -> FunctionSpec:
        pending = visible_s > 0
        spec = rules.created(wanted, uid=uuid4().hex, now=datetime.now(UTC), pending=pending)
        keys = self.keys(spec)
        entry = self._entry(spec, FunctionStatus())
        complete = False
        try:
            await self.code.put(keys, package)
            await create_queues(self._redis, VersionQueue(keys))
            await self._write(spec)
            await publish_entry(self._redis, self._platform, entry)
            complete = True
        finally:
            if not complete:
                self._deferred.schedule(("delete", spec.uid), 0, partial(self._take_back, spec))
        self._keep(spec)
        self._published[spec.uid] = entry
        self._applied[spec.uid] = spec.revision
        self._tell(spec.uid)
        if pending:
            self._activate_later(spec.uid, visible_s)
        return spec

    async def _update(
        self, old: FunctionSpec, wanted: FunctionSpec, package: CodePackage | None, visible_s: float
    ) -> FunctionSpec:
        new = rules.updated(old, wanted, datetime.now(UTC))
        if visible_s == 0 and new.state != rules.PENDING and self._applied[new.uid] >= new.revision:
            new = rules.update_finished(new)
        if new.code_sha256 != old.code_sha256:
            assert package is not None
            await self.code.put(self.keys(new), package)
            # Whichever of the two is not the function's code when its grace period ends goes then.
            self._sweep_later(new.uid, new.code_sha256)
            self._sweep_later(new.uid, old.code_sha256)
            await self.code.mark_unreferenced(self.keys(new), old.code_sha256)
        await self._save(new)
        await self._republish_or_later(new.uid)
        self._visible_until_s[new.uid] = _now_s() + visible_s
        self._finish_update_later(new.uid)
        self._tell(new.uid)
        return new

    async def _save(self, spec: FunctionSpec) -> None:
        """Write a record and make it the current one."""
        try:
            await self._write(spec)
        except RedisError:
            self._restore_later(spec.uid)
            raise
        self._by_uid[spec.uid] = spec

    def _restore_later(self, uid: str) -> None:
        """A write failed and may have happened or not: write again what memory says."""
        self._published.pop(uid, None)
        self._deferred.schedule(("restore", uid), RETRY_S, partial(self._restore, uid))

    async def _restore(self, uid: str) -> None:
        spec = self._by_uid.get(uid)
        if spec is None:
            return
        async with self._lock(spec.name):
            spec = self._by_uid.get(uid)
            if spec is not None:
                await self._write(spec)
        await self._republish(uid)

    async def _write(self, spec: FunctionSpec) -> None:
        await command(self._redis, "SET", self.keys(spec).spec(), spec.to_json())

    async def _republish(self, uid: str) -> None:
        async with self._table_lock:
            spec = self._by_uid.get(uid)
            if spec is None:
                return
            entry = self._entry(spec, self._statuses.get(uid, FunctionStatus()))
            if self._published.get(uid) != entry:
                await publish_entry(self._redis, self._platform, entry)
                self._published[uid] = entry

    async def _republish_or_later(self, uid: str) -> None:
        try:
            await self._republish(uid)
        except RedisError as error:
            _log.warning("a function's routing entry waits for Redis: %s", error, extra={"function": uid})
            self._published.pop(uid, None)
            self._deferred.schedule(("publish", uid), RETRY_S, partial(self._republish, uid))

    def _activate_later(self, uid: str, delay_s: float) -> None:
        self._deferred.schedule(("activate", uid), delay_s, partial(self._activate, uid))

    async def _activate(self, uid: str) -> None:
        spec = self._by_uid.get(uid)
        if spec is None:
            return
        async with self._lock(spec.name):
            spec = self._by_uid.get(uid)
            if spec is not None and spec.state == rules.PENDING:
                await self._save(rules.activated(spec))
        await self._republish(uid)

    def _finish_update_later(self, uid: str) -> None:
        spec = self._by_uid[uid]
        if spec.update_status == rules.IN_PROGRESS and self._applied[uid] >= spec.revision:
            delay_s = max(0.0, self._visible_until_s.get(uid, 0.0) - _now_s())
            self._deferred.schedule(("finish", uid), delay_s, partial(self._finish_update, uid))

    async def _finish_update(self, uid: str) -> float | None:
        spec = self._by_uid.get(uid)
        if spec is None:
            return None
        async with self._lock(spec.name):
            spec = self._by_uid.get(uid)
            # Another update may have come meanwhile: then this one's end is of no interest any more.
            if spec is None or spec.update_status != rules.IN_PROGRESS or self._applied[uid] < spec.revision:
                return None
            left_s = self._visible_until_s.get(uid, 0.0) - _now_s()
            if left_s > 0:
                return left_s
            await self._save(rules.update_finished(spec))
            return None

    def _sweep_later(self, uid: str, sha256: str) -> None:
        self._deferred.schedule(("code", uid, sha256), self.code.grace_ms / 1000, partial(self._sweep, uid, sha256))

    async def _sweep(self, uid: str, sha256: str) -> float | None:
        """Delete code that is not the function's any more; while an update runs, old instances may need it."""
        spec = self._by_uid.get(uid)
        if spec is None:
            return None
        async with self._lock(spec.name):
            spec = self._by_uid.get(uid)
            if spec is None or spec.code_sha256 == sha256:
                return None
            left_ms = self.code.grace_left_ms(self.keys(spec), sha256)
            if spec.update_status == rules.IN_PROGRESS:
                left_ms = self.code.grace_ms
            if left_ms == 0:
                await self.code.remove(self.keys(spec), sha256)
            return left_ms / 1000 or None

    async def _finish_delete(self, spec: FunctionSpec, retire: Retire) -> None:
        await retire(spec.uid)
        await self._remove_keys(self.keys(spec))

    async def _take_back(self, spec: FunctionSpec) -> None:
        """Undo a creation that failed, unless its name was taken by another meanwhile."""
        async with self._lock(spec.name):
            if self.find(spec.name) is None:
                await remove_entry(self._redis, self._platform, spec.key)
        await self._remove_keys(self.keys(spec))

    async def _remove_keys(self, keys: FunctionKeys) -> None:
        # An earlier process may have died before it told those who wait.
        await fail_queued_sync(self._redis, self._platform, VersionQueue(keys), ERROR_DELETED, b"", leased=True)
        await delete_function_keys(self._redis, keys)
        self.code.forget(keys)

    async def _load_function(self, keys: FunctionKeys, entry: RoutingEntry) -> bool:
        """Take up one function of the table; False when its record is gone or says that it is being deleted."""
        raw: bytes | None = await command(self._redis, "GET", keys.spec())
        spec = None if raw is None else FunctionSpec.from_json(raw)
        if spec is None or spec.state == rules.DELETING:
            return False
        self._keep(spec)
        self._published[spec.uid] = entry
        # Its instances may live on: gateways keep what the earlier process found out until it is found out anew.
        self._statuses[spec.uid] = FunctionStatus(entry.capacity, entry.cannot_start, entry.retry_at_ms)
        return True

    async def _finish_half_done(self) -> None:
        """Keys of functions that the table does not name: publish a finished record, remove anything else."""
        known = {self.keys(spec).base for spec in self._by_uid.values()}
        found: set[str] = set()
        tag_start = f"{self._platform.prefix}:{{"
        async for raw in self._redis.scan_iter(match=f"{_escaped(tag_start)}*", count=_SCAN_COUNT):
            base, closed, _ = raw.decode(errors="replace").partition("}")
            if closed:
                found.add(base + closed)
        for base in sorted(found - known - {self._platform.functions}):
            namespace, _, rest = base.removeprefix(tag_start).removesuffix("}").partition("/")
            name, _, uid = rest.partition("/")
            keys = self._platform.function(namespace, name, uid)
            raw_spec: bytes | None = await command(self._redis, "GET", keys.spec())
            spec = None if raw_spec is None else FunctionSpec.from_json(raw_spec)
            if spec is not None and spec.state != rules.DELETING and spec.key not in self._uids:
                self._keep(spec)
            else:
                _log.info("removing what is left of a deleted function", extra={"function": base})
                await self._remove_keys(keys)

    def _entry(self, spec: FunctionSpec, status: FunctionStatus) -> RoutingEntry:
        return rules.routing_entry(spec, status, region=self.place.region, account=self.place.account)

    def _keep(self, spec: FunctionSpec) -> None:
        self._by_uid[spec.uid] = spec
        self._uids[spec.key] = spec.uid
        self._applied[spec.uid] = 0 if spec.update_status == rules.IN_PROGRESS else spec.revision

    def _drop(self, spec: FunctionSpec) -> None:
        del self._uids[spec.key]
        for by_uid in (self._by_uid, self._statuses, self._published, self._applied, self._visible_until_s):
            by_uid.pop(spec.uid, None)

    def _tell(self, uid: str) -> None:
        for callback in self._callbacks:
            callback(uid)

    def _lock(self, name: str) -> asyncio.Lock:
        key = self._key(name)
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        return lock

    def _key(self, name: str) -> str:
        return f"{self.place.namespace}/{name}"


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _escaped(text: str) -> str:
    """A text that SCAN's patterns take literally."""
    return "".join(f"\\{char}" if char in "*?[]\\^" else char for char in text)
