"""The function table in Redis, as the leader keeps it: one entry for each Function that has its name."""

from redis.asyncio import Redis

from forebay_common import logs
from forebay_common.function_table import publish_entry, remove_entry
from forebay_common.keys import PlatformKeys
from forebay_common.redis_client import command
from forebay_common.routing import RoutingEntry
from forebay_common.spec import FunctionSpec
from forebay_controller import registry_rules as rules
from forebay_controller.cluster.function_record import FunctionRecord
from forebay_controller.interfaces import FunctionStatus

_log = logs.get(__name__)


class RoutingTable:
    """Every method raises redis.exceptions.RedisError."""

    def __init__(self, redis: Redis, platform: PlatformKeys, *, region: str, account: str) -> None:
        self._redis = redis
        self._platform = platform
        self._region = region
        self._account = account
        self._owners: dict[str, str] = {}

    async def read(self) -> dict[str, RoutingEntry]:
        """All entries, by `NAMESPACE/NAME`."""
        table: dict[bytes, bytes] = await command(self._redis, "HGETALL", self._platform.functions)
        return {key.decode(): RoutingEntry.from_json(raw) for key, raw in table.items()}

    async def drop(self, key: str) -> None:
        """Take out an entry that no Function stands behind."""
        _log.info("removing a routing entry without a Function", extra={"function": key})
        await remove_entry(self._redis, self._platform, key)

    async def publish(self, record: FunctionRecord, spec: FunctionSpec, status: FunctionStatus) -> None:
        """Tell gateways of a function, unless they know just that. One that is being deleted stays out."""
        async with record.table_lock:
            if record.deleting:
                return
            entry = rules.routing_entry(spec, status, region=self._region, account=self._account)
            if record.entry == entry:
                return
            record.entry = None  # while it is not known which of the two is there
            self._owners[spec.key] = spec.uid
            await publish_entry(self._redis, self._platform, entry)
            record.entry = entry

    async def remove(self, record: FunctionRecord, spec: FunctionSpec) -> None:
        """Take a function out, and keep it out; the entry of another that has its name by now stays."""
        async with record.table_lock:
            record.deleting = True
            if self._owners.get(spec.key, spec.uid) == spec.uid:
                await remove_entry(self._redis, self._platform, spec.key)
                self._owners.pop(spec.key, None)
            record.entry = None
