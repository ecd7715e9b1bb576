"""Uploads: code packages that wait in Redis for the Function that names them, a day at most and within one bound.

Staged by whichever replica took them, for the leader to pick up.
"""

import json
import time

from redis.asyncio import Redis

from forebay_common import limits
from forebay_common.keys import PlatformKeys
from forebay_common.redis_client import command
from forebay_controller.code_package import CodePackage
from forebay_controller.code_store import CodeStorageFullError

TTL_S = 86_400
"""An upload that no Function has named by then is gone; the leader picks one up within a second."""
TAKEN_TTL_S = 900
"""How long one stays that a Function has taken up: for another that was sent with the same code."""


async def stage_blob(
    redis: Redis, platform: PlatformKeys, package: CodePackage, total_max_bytes: int = limits.CODE_TOTAL_MAX_BYTES
) -> None:
    """Keep an upload for a day, for the Function that is about to name it.

    Raises CodeStorageFullError when it does not fit beside the others, redis.exceptions.RedisError.
    """
    await _take_room(redis, platform, package, total_max_bytes)
    count = -(-package.size // limits.CODE_CHUNK_BYTES)
    for number in range(count):
        start = number * limits.CODE_CHUNK_BYTES
        chunk = package.data[start : start + limits.CODE_CHUNK_BYTES]
        await command(redis, "SET", platform.blob(package.sha256, number), chunk, "EX", TTL_S)
    index = json.dumps({"size": package.size, "chunks": count})
    # Last, and ending first: whoever finds it finds the whole.
    await command(redis, "SET", platform.blob_index(package.sha256), index, "EX", TTL_S - 60)


async def read_blob(redis: Redis, platform: PlatformKeys, sha256: str) -> bytes | None:
    """An upload; None when it is not there (any more). Raises redis.exceptions.RedisError."""
    names = await _chunks(redis, platform, sha256)
    if names is None:
        return None
    chunks: list[bytes | None] = [await command(redis, "GET", name) for name in names]
    found = [chunk for chunk in chunks if chunk is not None]
    return b"".join(found) if len(found) == len(chunks) else None


async def taken_up(redis: Redis, platform: PlatformKeys, package: CodePackage) -> None:
    """A Function has this package now: its upload need not stay for the day. Raises redis.exceptions.RedisError."""
    names = await _chunks(redis, platform, package.sha256)
    if names is None:
        return
    await command(redis, "EXPIRE", platform.blob_index(package.sha256), TAKEN_TTL_S - 60)
    for name in names:
        await command(redis, "EXPIRE", name, TAKEN_TTL_S)
    ends_s = int(time.time()) + TAKEN_TTL_S
    await command(redis, "ZADD", platform.blobs, "XX", ends_s, _member(package))


async def _chunks(redis: Redis, platform: PlatformKeys, sha256: str) -> list[str] | None:
    raw: bytes | None = await command(redis, "GET", platform.blob_index(sha256))
    return None if raw is None else [platform.blob(sha256, number) for number in range(json.loads(raw)["chunks"])]


async def _take_room(redis: Redis, platform: PlatformKeys, package: CodePackage, total_max_bytes: int) -> None:
    """Count an upload among the others before its first byte is there, so that two at once cannot exceed the bound."""
    now_s, member = int(time.time()), _member(package)
    await command(redis, "ZREMRANGEBYSCORE", platform.blobs, "-inf", now_s)
    is_new: int = await command(redis, "ZADD", platform.blobs, now_s + TTL_S, member)
    await command(redis, "EXPIRE", platform.blobs, TTL_S)
    members: list[bytes] = await command(redis, "ZRANGE", platform.blobs, 0, -1)
    used = sum(int(found.partition(b":")[2]) for found in members)
    if is_new and used > total_max_bytes:
        await command(redis, "ZREM", platform.blobs, member)
        raise CodeStorageFullError(
            f"Code storage limit exceeded. The upload takes {package.size} bytes; {used - package.size} of "
            f"{total_max_bytes} bytes are in use by uploads that no function has taken up yet, for a day at most"
        )


def _member(package: CodePackage) -> str:
    return f"{package.sha256}:{package.size}"
