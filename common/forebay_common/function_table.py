"""The function table that gateways route by: written by the controller alone, announced under generations."""

from redis.asyncio import Redis

from forebay_common import scripts
from forebay_common.keys import PlatformKeys
from forebay_common.redis_client import run
from forebay_common.routing import RoutingEntry


async def publish_entry(redis: Redis, platform: PlatformKeys, entry: RoutingEntry) -> int:
    """Write a function's entry and tell the gateways; gives the table's generation.

    An entry that is already there as it is changes nothing. Raises redis.exceptions.RedisError.
    """
    return await _change(redis, platform, entry.key, entry.to_json())


async def remove_entry(redis: Redis, platform: PlatformKeys, key: str) -> int:
    """Take a function (`NAMESPACE/NAME`) out of the table and tell the gateways; gives the table's generation.

    Raises redis.exceptions.RedisError.
    """
    return await _change(redis, platform, key, b"")


async def _change(redis: Redis, platform: PlatformKeys, key: str, entry: bytes) -> int:
    generation: int = await run(
        redis, scripts.PUBLISH_FUNCTION, (platform.functions, platform.generation), (platform.functions, key, entry)
    )
    return generation
