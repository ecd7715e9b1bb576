"""How a Function leaves: gateways forget it, its instances end, then everything of it is removed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from redis.asyncio import Redis

from forebay_common import logs
from forebay_common.frames import ERROR_DELETED
from forebay_common.keys import FunctionKeys, PlatformKeys
from forebay_common.queue import VersionQueue, delete_function_keys
from forebay_common.recovery import fail_queued_sync
from forebay_common.spec import FunctionSpec
from forebay_controller.cluster.function_record import FunctionRecord
from forebay_controller.cluster.routing_table import RoutingTable
from forebay_controller.code_store import CodeStore

FIRST_LOOK_S = 10.0
_SCAN_COUNT = 1_000

Retire = Callable[[str], Awaitable[None]]
"""Ends what runs and waits for a function, by uid; safe to repeat."""
Release = Callable[[FunctionSpec], Awaitable[None]]
"""Removes what was prepared for a function and does not go with its object (its Redis user); safe to repeat."""

_log = logs.get(__name__)


class Departure:
    """Every method may be called again, and raises redis.exceptions.RedisError."""

    def __init__(
        self, redis: Redis, platform: PlatformKeys, code: CodeStore, table: RoutingTable, release: Release
    ) -> None:
        self.retire: Retire | None = None
        self._redis = redis
        self._platform = platform
        self._code = code
        self._table = table
        self._release = release

    async def first_look(self, record: FunctionRecord, tell: Callable[[str], None]) -> None:
        """Wait until the controller has seen which instances a function has."""
        if record.looked_at.is_set():
            return
        tell(record.uid)
        try:
            async with asyncio.timeout(FIRST_LOOK_S):
                await record.looked_at.wait()
        except TimeoutError:
            _log.warning("a deleted function was not looked at in time", extra={"function": record.spec.key})

    async def close(self, record: FunctionRecord, spec: FunctionSpec) -> None:
        """From now on nobody can call it."""
        await self._table.remove(record, spec)

    async def finish(self, spec: FunctionSpec) -> None:
        """End what runs and waits, then remove what it had. Raises also what `release` raises."""
        assert self.retire is not None, "start comes before any work"
        await self.retire(spec.uid)
        keys = self._platform.function(spec.namespace, spec.name, spec.uid)
        await self.remove_keys(keys)
        await self._release(spec)

    async def remove_keys(self, keys: FunctionKeys) -> None:
        """Tell whoever still waits, and remove all keys."""
        # An earlier leader may have died before it told them.
        await fail_queued_sync(self._redis, self._platform, VersionQueue(keys), ERROR_DELETED, b"", leased=True)
        await delete_function_keys(self._redis, keys)
        self._code.forget(keys)

    async def tags(self) -> AsyncIterator[tuple[str, str, str]]:
        """Namespace, name and uid of every function that has a key."""
        start = f"{self._platform.prefix}:{{"
        escaped = "".join(f"\\{char}" if char in "*?[]\\^" else char for char in start)
        found: set[tuple[str, str, str]] = set()
        async for raw in self._redis.scan_iter(match=f"{escaped}*/*/*", count=_SCAN_COUNT):
            tag = raw.decode(errors="replace").removeprefix(start).partition("}")[0]
            namespace, _, rest = tag.partition("/")
            name, _, uid = rest.partition("/")
            if uid:
                found.add((namespace, name, uid))
        for entry in sorted(found):
            yield entry
