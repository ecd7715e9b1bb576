"""Functions for the management API, on every replica: read from what the informer has seen, changed as resources.

The leader learns of a change as it learns of one by kubectl. What the API server answers to a write is taken in at
once, so that a client reads what it wrote.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from weakref import WeakValueDictionary

from redis.asyncio import Redis

from forebay_common import logs
from forebay_common.keys import FunctionKeys, PlatformKeys
from forebay_common.names import id_prefix
from forebay_common.spec import FunctionSpec
from forebay_controller import registry_rules as rules
from forebay_controller import settings_rules
from forebay_controller.cluster.api import FUNCTIONS, Api, ApiError, Object
from forebay_controller.cluster.config import ClusterConfig
from forebay_controller.cluster.informer import Informer, Key
from forebay_controller.cluster.names import Claims
from forebay_controller.cluster.resource import function_uid, read
from forebay_controller.cluster.status import read_observed
from forebay_controller.cluster.to_resource import change_patch, new_object
from forebay_controller.cluster.uploads import stage_blob
from forebay_controller.code_package import CodePackage
from forebay_controller.code_store import CodeStorageFullError, CodeStore
from forebay_controller.interfaces import FunctionStatus
from forebay_controller.management import VISIBLE_S, Decision, Place, Retire, StoreError

CHANGES_MAX = 6
"""How often a change is decided anew because somebody else's came first."""
DELETE_WAIT_S = 5.0
"""How long an answer waits for a deleted function to be gone."""

_log = logs.get(__name__)


class ResourceStore:
    """All Functions; implements `FunctionStore`. Begin with `start`, once the informer has listed."""

    has_pods = True

    def __init__(
        self,
        api: Api,
        functions: Informer,
        redis: Redis,
        platform: PlatformKeys,
        code: CodeStore,
        config: ClusterConfig,
    ) -> None:
        self.api = api
        self.functions = functions
        self.redis = redis
        self.platform = platform
        self.code = code
        self.config = config
        self.claims = Claims(functions)
        self._keys: dict[str, Key] = {}
        self._by_id_prefix: dict[bytes, dict[str, Key]] = {}
        self._locks: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()

    def start(self) -> None:
        """Follow the informer."""
        self.functions.subscribe(self._changed)
        for item in self.functions.objects.values():
            self._changed(None, item)

    @property
    def namespaces_served(self) -> str:
        """In words for people."""
        if not self.config.namespaces:
            return f"any namespace but {self.config.release_namespace}"
        *others, last = self.config.namespaces
        return f"{', '.join(others)} and {last}" if others else last

    def in_namespace(self, namespace: str) -> "NamespaceFunctions | None":
        """The functions of one namespace; None when it is not served."""
        return NamespaceFunctions(self, namespace) if self.config.serves(namespace) else None

    async def stage_blob(self, package: CodePackage) -> None:
        """Keep a package for a day. Raises CodeStorageFullError, redis.exceptions.RedisError."""
        await stage_blob(self.redis, self.platform, package)

    def get_status(self, uid: str) -> FunctionStatus:
        """A function as the leader has written it down; all zero for one that is not there."""
        item = self.functions.objects.get(self._keys.get(uid, ("", "")))
        return read_observed(item.get("status", {})) if item is not None else FunctionStatus()

    def with_id_prefix(self, prefix: bytes) -> list[Object]:
        """The objects of functions whose invocations' ids begin with `prefix`, in any namespace."""
        keys = self._by_id_prefix.get(prefix, {}).values()
        return [item for key in keys if (item := self.functions.objects.get(key)) is not None]

    def lock(self, namespace: str, name: str) -> asyncio.Lock:
        """One change of a function at a time by this replica."""
        lock = self._locks.get((namespace, name))
        if lock is None:
            lock = self._locks[namespace, name] = asyncio.Lock()
        return lock

    def code_bytes(self) -> int:
        """The packages that functions have now."""
        return sum(item.get("status", {}).get("codeSize", 0) for item in self.functions.objects.values())

    def _changed(self, old: Object | None, new: Object | None) -> None:
        item = new if new is not None else old
        assert item is not None
        self.claims.note(item, gone=new is None)
        uid = function_uid(item)
        if new is None:
            self._keys.pop(uid, None)
            alike = self._by_id_prefix.get(id_prefix(uid), {})
            alike.pop(uid, None)
            if not alike:
                self._by_id_prefix.pop(id_prefix(uid), None)
        else:
            key = (item["metadata"]["namespace"], item["metadata"]["name"])
            self._keys[uid] = self._by_id_prefix.setdefault(id_prefix(uid), {})[uid] = key


class NamespaceFunctions:
    """The functions of one namespace; implements `Functions`."""

    def __init__(self, store: ResourceStore, namespace: str) -> None:
        self._store = store
        self._namespace = namespace
        self.place = Place(store.config.region, store.config.account, namespace)
        self.code = _Code(store)

    def find(self, name: str) -> FunctionSpec | None:
        """A function by its bare name; one that is being deleted is gone already."""
        item = self._item(name)
        return None if item is None else read(item).spec

    def by_name(self) -> list[FunctionSpec]:
        """All of them, sorted by name."""
        items = [item for (namespace, _), item in self._store.functions.objects.items() if namespace == self._namespace]
        specs = [read(item).spec for item in items if self._store.claims.owner_of(item) is item]
        return sorted((spec for spec in specs if spec.state != rules.DELETING), key=lambda spec: spec.name)

    def by_id_prefix(self, prefix: bytes) -> list[FunctionSpec]:
        """Those whose invocations' ids begin with `prefix`."""
        items = [item for item in self._store.with_id_prefix(prefix) if self._store.claims.owner_of(item) is item]
        specs = [read(item).spec for item in items if item["metadata"]["namespace"] == self._namespace]
        return [spec for spec in specs if spec.state != rules.DELETING]

    def keys(self, spec: FunctionSpec) -> FunctionKeys:
        """A function's keys."""
        return self._store.platform.function(spec.namespace, spec.name, spec.uid)

    async def change(
        self,
        name: str,
        decide: Decision,
        package: CodePackage | None = None,
        *,
        visible_s: float = VISIBLE_S,  # noqa: ARG002 - the leader's own steps can be seen
    ) -> FunctionSpec:
        """Create or update a function as a resource, which is one change whole or not at all.

        Somebody else may change it at the same moment: then it is decided anew on what that left. Raises what
        `decide` raises, SettingError, CodeStorageFullError, StoreError, redis.exceptions.RedisError.
        """
        staged = False
        async with self._store.lock(self._namespace, name):
            for _ in range(CHANGES_MAX):
                item = self._item(name)
                wanted = decide(None if item is None else read(item).spec)
                settings_rules.check(wanted)
                if package is not None and not staged:
                    self._check_room(package)
                    await self._store.stage_blob(package)
                    staged = True
                wanted = wanted.with_changes(last_modified=rules.timestamp(datetime.now(UTC)))
                written = await (self._create(wanted) if item is None else self._patch(item, wanted))
                if written is not None:
                    return read(written).spec
        raise StoreError("conflict", f"Function {name} is changed by others all the time: try again")

    async def annotate(self, name: str, decide: Decision) -> None:
        """Change what a record only carries. Raises what `decide` raises, StoreError."""
        async with self._store.lock(self._namespace, name):
            for _ in range(CHANGES_MAX):
                item = self._item(name)
                wanted = decide(None if item is None else read(item).spec)
                if item is not None and await self._patch(item, wanted) is not None:
                    return
        raise StoreError("conflict", f"Function {name} is changed by others all the time: try again")

    async def delete(self, name: str, retire: Retire) -> bool:  # noqa: ARG002 - the leader ends what runs
        """Delete a function; False when there is none. Returns when it is gone, or after a while. Raises StoreError."""
        async with self._store.lock(self._namespace, name):
            item = self._item(name)
            if item is None:
                return False
            metadata = item["metadata"]
            try:
                await self._store.api.delete(FUNCTIONS, self._namespace, metadata["name"], uid=metadata["uid"])
            except ApiError as error:
                raise _store_error(error) from error
        await self._gone(item)
        return True

    def _item(self, name: str) -> Object | None:
        item = self._store.claims.find(self._namespace, name)
        return None if item is None or "deletionTimestamp" in item["metadata"] else item

    def _check_room(self, package: CodePackage) -> None:
        used, most = self._store.code_bytes(), self._store.code.total_max_bytes
        if used + package.size > most:
            raise CodeStorageFullError(
                f"Code storage limit exceeded. The package takes {package.size} bytes; {used} of {most} bytes are in "
                "use by all functions"
            )

    async def _create(self, wanted: FunctionSpec) -> Object | None:
        """A new object, or None when one of its name is there that was not known: look again."""
        body = new_object(wanted)
        try:
            written = await self._store.api.create(FUNCTIONS, self._namespace, body)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise _store_error(error) from error
            await self._make_way(body["metadata"]["name"], wanted.name)
            return None
        self._store.functions.put(written)
        _log.info("function created", extra={"function": wanted.key})
        return written

    async def _make_way(self, object_name: str, name: str) -> None:
        """An object of the name that a new one would have is there: learn of it, or wait for one that is leaving.

        Raises StoreError when it is another function's and stays.
        """
        found = await self._fetch(object_name)
        if found is None:
            return
        if "deletionTimestamp" in found["metadata"]:
            if not await self._gone(found):
                text = f"Function {name} is still being deleted: it finishes what it runs. Try again in a moment"
                raise StoreError("conflict", text)
        elif read(found).spec.name != name:
            text = f"The name of the Function resource {object_name} is taken by function {read(found).spec.name}"
            raise StoreError("conflict", text)

    async def _patch(self, item: Object, wanted: FunctionSpec) -> Object | None:
        """The object as changed, or None when it was changed or deleted meanwhile: look again."""
        name = item["metadata"]["name"]
        try:
            written = await self._store.api.merge_patch(FUNCTIONS, self._namespace, name, change_patch(item, wanted))
        except ApiError as error:
            if error.status not in {404, 409}:
                raise _store_error(error) from error
            if await self._fetch(name) is None:
                await self._gone(item)
            return None
        self._store.functions.put(written)
        _log.info("function changed", extra={"function": wanted.key})
        return written

    async def _fetch(self, object_name: str) -> Object | None:
        """An object as it is now, taken in; None when there is none. Raises StoreError."""
        try:
            found = await self._store.api.get(FUNCTIONS, self._namespace, object_name)
        except ApiError as error:
            if error.status == 404:  # noqa: PLR2004 - Not Found
                return None
            raise _store_error(error) from error
        self._store.functions.put(found)
        return found

    async def _gone(self, item: Object) -> bool:
        """Whether an object is gone, or another one has its name, within `DELETE_WAIT_S`."""
        metadata, changed = item["metadata"], asyncio.Event()
        key = (metadata["namespace"], metadata["name"])

        def there() -> bool:
            known = self._store.functions.objects.get(key)
            return known is not None and known["metadata"]["uid"] == metadata["uid"]

        unsubscribe = self._store.functions.subscribe(lambda _old, _new: changed.set())
        try:
            async with asyncio.timeout(DELETE_WAIT_S):
                while there():
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            return False
        finally:
            unsubscribe()
        return True


class _Code:
    """The packages in Redis, by whichever replica they were stored; implements `StoredCode`."""

    def __init__(self, store: ResourceStore) -> None:
        self._store = store

    @property
    def total_bytes(self) -> int:
        return self._store.code_bytes()

    @property
    def total_max_bytes(self) -> int:
        return self._store.code.total_max_bytes

    async def size(self, keys: FunctionKeys, sha256: str) -> int | None:
        return await self._store.code.size(keys, sha256)

    def chunks(self, keys: FunctionKeys, sha256: str) -> AsyncIterator[bytes]:
        return self._store.code.chunks(keys, sha256)


def _store_error(error: ApiError) -> StoreError:
    """What the API server refused, in its own words; what it could not do, in ours."""
    if error.status == 403:  # noqa: PLR2004 - Forbidden: rights, a quota, or an admission policy
        return StoreError("forbidden", f"Kubernetes does not allow it: {error.message}")
    if error.status == 404:  # noqa: PLR2004 - Not Found: the namespace
        return StoreError("invalid", error.message)
    if error.status == 409:  # noqa: PLR2004 - Conflict
        return StoreError("conflict", error.message)
    if error.may_pass:
        return StoreError("unavailable", f"The Kubernetes API cannot do it now: {error.message}")
    return StoreError("invalid", error.message)
