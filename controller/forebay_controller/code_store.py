"""Code packages in Redis: content-addressed, in chunks under their function's tag, within one bound for all functions.

Written so that a death between any two commands leaves nothing that is never found: the index names a package
before its first chunk is written, and until after its last one is removed.
"""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, replace

from redis.asyncio import Redis

from forebay_common import limits
from forebay_common.keys import FunctionKeys
from forebay_common.redis_client import command
from forebay_controller.code_package import CodePackage

GRACE_MS = 600_000
"""How long code that nothing refers to any more is kept: an instance of the revision before may still fetch it."""


class CodeStorageFullError(Exception):
    """The package does not fit within the bound for all functions; the message gives the figures."""


@dataclass(frozen=True, slots=True)
class StoredPackage:
    """A package in the index; sizes in bytes. `unreferenced_since_ms` is Unix time, meaningless while referenced."""

    size: int
    chunks: int
    unreferenced_since_ms: int


class CodeStore:
    """All functions' packages, indexed in memory. Its methods are called by one task at a time for one function."""

    def __init__(
        self, redis: Redis, total_max_bytes: int = limits.CODE_TOTAL_MAX_BYTES, grace_ms: int = GRACE_MS
    ) -> None:
        self._redis = redis
        self.grace_ms = grace_ms
        self.total_max_bytes = total_max_bytes
        self._packages: dict[tuple[str, str], StoredPackage] = {}
        self.total_bytes = 0

    async def load(self, keys: FunctionKeys) -> list[str]:
        """Read one function's index; gives the digests it holds. Raises redis.exceptions.RedisError."""
        index: dict[bytes, bytes] = await command(self._redis, "HGETALL", keys.code_index())
        for sha256, raw in index.items():
            # The grace period starts anew: instances that the earlier controller started may be on their way.
            package = replace(StoredPackage(**json.loads(raw)), unreferenced_since_ms=_now_ms())
            self._keep(keys, sha256.decode(), package)
        return [sha256.decode() for sha256 in index]

    async def put(self, keys: FunctionKeys, package: CodePackage) -> None:
        """Store a package unless it is there. Raises CodeStorageFullError, redis.exceptions.RedisError."""
        count = -(-package.size // limits.CODE_CHUNK_BYTES)
        names = [keys.code(package.sha256, number) for number in range(count)]
        known = (keys.base, package.sha256) in self._packages
        if not known:
            self._check_room(package.size)
        stored = StoredPackage(package.size, count, _now_ms())
        self._keep(keys, package.sha256, stored)
        await self._write_index(keys, package.sha256, stored)
        if known and await command(self._redis, "EXISTS", *names) == count:
            return
        for number, name in enumerate(names):
            start = number * limits.CODE_CHUNK_BYTES
            await command(self._redis, "SET", name, package.data[start : start + limits.CODE_CHUNK_BYTES])

    async def mark_unreferenced(self, keys: FunctionKeys, sha256: str) -> None:
        """Start a package's grace period. Raises redis.exceptions.RedisError."""
        package = self._packages.get((keys.base, sha256))
        if package is not None:
            package = replace(package, unreferenced_since_ms=_now_ms())
            self._keep(keys, sha256, package)
            await self._write_index(keys, sha256, package)

    def grace_left_ms(self, keys: FunctionKeys, sha256: str) -> int:
        """How long a package that nothing refers to must be kept yet; 0 when it may go."""
        package = self._packages.get((keys.base, sha256))
        if package is None:
            return 0
        return max(0, package.unreferenced_since_ms + self.grace_ms - _now_ms())

    async def remove(self, keys: FunctionKeys, sha256: str) -> None:
        """Delete a package. Raises redis.exceptions.RedisError."""
        package = self._packages.get((keys.base, sha256))
        if package is not None:
            await command(self._redis, "UNLINK", *(keys.code(sha256, number) for number in range(package.chunks)))
            await command(self._redis, "HDEL", keys.code_index(), sha256)
            self._drop(keys, sha256)

    def forget(self, keys: FunctionKeys) -> None:
        """A function's keys are gone, its packages among them."""
        for base, sha256 in list(self._packages):
            if base == keys.base:
                self._drop(keys, sha256)

    async def chunks(self, keys: FunctionKeys, sha256: str) -> AsyncIterator[bytes]:
        """A package's bytes, chunk by chunk; ends early when it is deleted meanwhile.

        Raises redis.exceptions.RedisError.
        """
        package = await self._find(keys, sha256)
        for number in range(package.chunks if package is not None else 0):
            chunk: bytes | None = await command(self._redis, "GET", keys.code(sha256, number))
            if chunk is None:
                return
            yield chunk

    async def size(self, keys: FunctionKeys, sha256: str) -> int | None:
        """A package's bytes; None when it is not there. Raises redis.exceptions.RedisError."""
        package = await self._find(keys, sha256)
        return None if package is None else package.size

    async def _find(self, keys: FunctionKeys, sha256: str) -> StoredPackage | None:
        """A package in the index: in memory, or in Redis when another replica stored it."""
        known = self._packages.get((keys.base, sha256))
        if known is not None:
            return known
        raw: bytes | None = await command(self._redis, "HGET", keys.code_index(), sha256)
        return None if raw is None else StoredPackage(**json.loads(raw))

    def _check_room(self, size: int) -> None:
        if self.total_bytes + size > self.total_max_bytes:
            raise CodeStorageFullError(
                f"Code storage limit exceeded. The package takes {size} bytes; {self.total_bytes} of "
                f"{self.total_max_bytes} bytes are in use by all functions"
            )

    async def _write_index(self, keys: FunctionKeys, sha256: str, package: StoredPackage) -> None:
        entry = json.dumps(asdict(package), separators=(",", ":"))
        await command(self._redis, "HSET", keys.code_index(), sha256, entry)

    def _keep(self, keys: FunctionKeys, sha256: str, package: StoredPackage) -> None:
        self._drop(keys, sha256)
        self._packages[keys.base, sha256] = package
        self.total_bytes += package.size

    def _drop(self, keys: FunctionKeys, sha256: str) -> None:
        package = self._packages.pop((keys.base, sha256), None)
        if package is not None:
            self.total_bytes -= package.size


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
