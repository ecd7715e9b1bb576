"""Redis streams that are destinations: bounded in bytes, entries and age each, and in number for each namespace."""

import asyncio
import time

from redis.asyncio import Redis

from forebay_common import limits, scripts
from forebay_common.keys import PlatformKeys
from forebay_common.redis_client import checked, command, pipeline, run

ENTRIES_MAX = 100_000
BYTES_MAX = 32 * limits.MIB
"""Of records in one stream."""
STREAMS_MAX = 32
"""Of one namespace: with BYTES_MAX at most 1 GiB."""
KEEP_S = 14 * 86_400
"""A stream goes so long after its last record."""
_RENEW_S = 3_600
"""So seldom is it noted that a stream is in use."""


class StreamsFullError(Exception):
    """A namespace has as many streams as it may; the message is for people."""


class Streams:
    """Writes records to streams, and knows which a namespace has."""

    def __init__(self, redis: Redis, platform: PlatformKeys) -> None:
        self._redis = redis
        self._platform = platform
        self._renew_at_s: dict[str, float] = {}
        self._claiming = asyncio.Lock()

    async def add(self, namespace: str, name: str, record_id: str, record: bytes) -> None:
        """Add a record; the oldest go where there are too many. Raises StreamsFullError, redis RedisError."""
        stream = self._platform.stream(namespace, name)
        if time.monotonic() >= self._renew_at_s.get(stream, 0.0):
            async with self._claiming:  # two that claim one name at once would hide from each other that it is new
                await self._claim(namespace, name)
            self._renew_at_s[stream] = time.monotonic() + _RENEW_S
        await run(self._redis, scripts.ADD_TO_STREAM, (stream,), (record_id, record, ENTRIES_MAX, BYTES_MAX, KEEP_S))

    async def _claim(self, namespace: str, name: str) -> None:
        if await self._note(namespace, name):
            return
        await self._forget_deleted(namespace)
        if not await self._note(namespace, name):
            raise StreamsFullError(f"the namespace {namespace} has {STREAMS_MAX} streams, as many as it may")

    async def _note(self, namespace: str, name: str) -> bool:
        """Whether a stream is one of the namespace's, which it becomes where there is room."""
        names = self._platform.streams(namespace)
        keep_s = KEEP_S + _RENEW_S
        now_s = time.time()
        _, added, _, count = checked(
            await pipeline(
                self._redis,
                [
                    ("ZREMRANGEBYSCORE", names, "-inf", now_s),
                    ("ZADD", names, now_s + keep_s, name),
                    ("EXPIRE", names, keep_s),
                    ("ZCARD", names),
                ],
                transaction=True,
            )
        )
        if added and count > STREAMS_MAX:
            await command(self._redis, "ZREM", names, name)
            return False
        return True

    async def _forget_deleted(self, namespace: str) -> None:
        names: list[bytes] = await command(self._redis, "ZRANGE", self._platform.streams(namespace), 0, -1)
        streams = [self._platform.stream(namespace, name.decode()) for name in names]
        found = checked(await pipeline(self._redis, [("EXISTS", stream) for stream in streams]))
        gone = [name for name, exists in zip(names, found, strict=True) if not exists]
        if gone:
            await command(self._redis, "ZREM", self._platform.streams(namespace), *gone)
