"""Every Redis key has a TTL or stands on the permanent list: here is that list, and the search for the others."""

from redis.asyncio import Redis

from forebay_common.keys import PlatformKeys
from forebay_common.redis_client import command
from forebay_common.routing import RoutingEntry

_PERMANENT_OF_FUNCTION = ("q:", "spec", "code")
"""First parts, after the hash tag, of the keys that live as long as their function."""


async def leaked_keys(redis: Redis, prefix: str, functions: frozenset[str] = frozenset()) -> list[str]:
    """Keys under a prefix that have no TTL and are not permanent.

    Permanent: the function table with its access keys and generation, and the set of processes; reply lists of
    processes in that set (the reaper knows them); queues, spec and code of a function that still exists, which is one
    in the function table or in `functions` (its `NAMESPACE/NAME/UID`).
    """
    keys = PlatformKeys(prefix)
    allowed = {keys.functions, keys.credentials, keys.generation, keys.processes}
    members: set[bytes] = await command(redis, "SMEMBERS", keys.processes)
    allowed |= {keys.reply(member.decode()) for member in members}
    tags = set(functions)
    table: dict[bytes, bytes] = await command(redis, "HGETALL", keys.functions)
    for field, entry in table.items():
        tags.add(f"{field.decode()}/{RoutingEntry.from_json(entry).uid}")
    leaked = []
    async for raw in redis.scan_iter(match=f"{prefix}:*", count=1000):
        key = raw.decode()
        if key in allowed or _belongs_to(key, prefix, tags):
            continue
        if await redis.ttl(raw) == -1:
            leaked.append(key)
    return sorted(leaked)


def _belongs_to(key: str, prefix: str, tags: set[str]) -> bool:
    for tag in tags:
        base = f"{prefix}:{{{tag}}}:"
        if key.startswith(base):
            return key.removeprefix(base).startswith(_PERMANENT_OF_FUNCTION)
    return False
