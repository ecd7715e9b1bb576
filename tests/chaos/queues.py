"""What stands in Redis: whether all work is done, the dead letters, and keys that nobody will remove."""

from dataclasses import dataclass

from redis.asyncio import Redis

from forebay_common.keys import DEFAULT_PREFIX, GROUP, RECORD_FIELD, PlatformKeys
from forebay_common.queue import VersionQueue
from forebay_common.record import Invocation
from forebay_common.redis_client import command
from forebay_common.routing import RoutingEntry
from support.leaks import leaked_keys

PLATFORM = PlatformKeys(DEFAULT_PREFIX)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter: of which call, why, after how many starts, and whether its payload is still there."""

    ident: str
    reason: str
    attempts: int
    payload_kept: bool


async def function_queues(redis: Redis) -> dict[str, VersionQueue]:
    """The queues of every function, by its name."""
    table: dict[bytes, bytes] = await command(redis, "HGETALL", PLATFORM.functions)
    entries = [RoutingEntry.from_json(raw) for raw in table.values()]
    return {entry.name: VersionQueue(PLATFORM.function(entry.namespace, entry.name, entry.uid)) for entry in entries}


async def unfinished(redis: Redis, queues: dict[str, VersionQueue]) -> dict[str, str]:
    """By function what is not done, and which instances hold how much of it; nothing for one with none."""
    found = {}
    for name, queue in queues.items():
        counts = (
            await command(redis, "XLEN", queue.sync),
            await command(redis, "XLEN", queue.async_),
            await command(redis, "ZCARD", queue.delayed),
        )
        if any(counts):
            holders = {**await _holders(redis, queue.sync), **await _holders(redis, queue.async_)}
            found[name] = "{} sync, {} async, {} delayed; held: {}".format(*counts, holders)
    return found


async def _holders(redis: Redis, stream: str) -> dict[str, int]:
    """How many entries of a stream each instance holds."""
    pending = await redis.xpending(stream, GROUP)
    return {holder["name"].decode(): holder["pending"] for holder in pending["consumers"] or ()}


async def dead_letters(redis: Redis, queues: dict[str, VersionQueue], idents: dict[str, str]) -> list[DeadLetter]:
    """All dead letters; `idents` are calls' own names by invocation id, for those without a payload."""
    found = []
    for queue in queues.values():
        entries = await command(redis, "XRANGE", queue.dead, "-", "+")
        for _, fields in entries:
            record = Invocation.decode(fields[RECORD_FIELD.encode()])
            payload = record.payload
            if record.claim:
                payload = await command(redis, "GET", f"{queue.keys.base}:{record.claim}")
            ident = _ident(payload) or idents.get(record.invocation_id.hex(), f"unknown {record.invocation_id.hex()}")
            found.append(DeadLetter(ident, fields[b"reason"].decode(), record.attempt, payload is not None))
    return found


def _ident(payload: bytes | None) -> str:
    """The call's own name, from `{"id": "c12", …`."""
    return payload.split(b'"', 4)[3].decode() if payload else ""


async def leaks(redis: Redis) -> list[str]:
    """Keys that would stay for ever although nobody needs them."""
    return await leaked_keys(redis, DEFAULT_PREFIX)


async def bodies(redis: Redis) -> int:
    """Payloads and results that are still there (each ends by its TTL)."""
    count = 0
    for pattern in ("body", "result"):
        count += len([key async for key in redis.scan_iter(match=f"{DEFAULT_PREFIX}:*:{pattern}:*", count=1000)])
    return count


async def left_of_functions(redis: Redis) -> list[str]:
    """Keys under any function's tag; there are none once all functions are deleted."""
    found = [key.decode() async for key in redis.scan_iter(match=f"{DEFAULT_PREFIX}:{{*", count=1000)]
    own = {PLATFORM.functions, PLATFORM.generation, PLATFORM.credentials}
    return sorted(key for key in found if key not in own)
