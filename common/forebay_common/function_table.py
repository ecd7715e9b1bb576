"""The function table that gateways route by, and the access keys they check requests by.

Both are written by the controller alone and announced under one count of generations.
"""

from redis.asyncio import Redis

from forebay_common import scripts
from forebay_common.credentials import Credential
from forebay_common.keys import PlatformKeys
from forebay_common.redis_client import command, run
from forebay_common.routing import RoutingEntry

CREDENTIAL_CHANGED = "credentials/"
"""Starts the announcement of a changed access key, where a function's starts with its namespace."""


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


async def publish_credential(redis: Redis, platform: PlatformKeys, credential: Credential) -> int:
    """Write an access key's record and tell the gateways; gives the table's generation.

    A record that is already there as it is changes nothing. Raises redis.exceptions.RedisError.
    """
    return await _change_credential(redis, platform, credential.access_key_id, credential.to_json())


async def remove_credential(redis: Redis, platform: PlatformKeys, access_key_id: str) -> int:
    """Take an access key away and tell the gateways; gives the table's generation.

    Raises redis.exceptions.RedisError.
    """
    return await _change_credential(redis, platform, access_key_id, b"")


async def published_credentials(redis: Redis, platform: PlatformKeys) -> set[str]:
    """Ids of the access keys that gateways accept now. Raises redis.exceptions.RedisError."""
    return {field.decode() for field in await command(redis, "HKEYS", platform.credentials)}


async def _change(redis: Redis, platform: PlatformKeys, key: str, entry: bytes) -> int:
    generation: int = await run(
        redis, scripts.PUBLISH_FUNCTION, (platform.functions, platform.generation), (platform.functions, key, entry)
    )
    return generation


async def _change_credential(redis: Redis, platform: PlatformKeys, access_key_id: str, record: bytes) -> int:
    generation: int = await run(
        redis,
        scripts.PUBLISH_CREDENTIAL,
        (platform.credentials, platform.generation),
        (platform.functions, access_key_id, record),
    )
    return generation
