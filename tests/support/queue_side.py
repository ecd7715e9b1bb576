"""The other ends of the queue for tests: what a gateway appends and what an instance does, in plain commands."""

import secrets
from collections.abc import Sequence
from typing import Any, cast

from redis.asyncio import Redis

from forebay_common import limits, scripts
from forebay_common.frames import ReplyFrame
from forebay_common.keys import GROUP, RECORD_FIELD, PlatformKeys
from forebay_common.queue import VersionQueue
from forebay_common.record import IDEMPOTENCY, KIND_ASYNC, KIND_SYNC, TAG_IDEMPOTENCY, Invocation
from forebay_common.redis_client import command, run

PROCESS = "gateway-1"
ADDRESS = f"reply:{PROCESS}"


def call(payload: bytes | None = b'{"n": 1}', **changes: Any) -> Invocation:
    """A sync call as a gateway makes one."""
    members: dict[str, Any] = {
        "kind": KIND_SYNC,
        "invocation_id": secrets.token_bytes(16),
        "wait_ms": 30_000,
        "timeout_ms": 3_000,
        "reply_token": secrets.token_bytes(16),
        "reply_address": ADDRESS,
    }
    return Invocation(payload=payload, **(members | changes))


def event(payload: bytes | None = b'{"n": 1}', **changes: Any) -> Invocation:
    """An async event as a gateway makes one."""
    members = {"kind": KIND_ASYNC, "wait_ms": 21_600_000, "reply_token": b"", "reply_address": ""}
    return call(payload, **(members | changes))


async def append(redis: Redis, queue: VersionQueue, record: Invocation) -> bytes:
    """Put a record into the stream of its kind, as a gateway does; gives the entry id."""
    if record.kind == KIND_ASYNC:
        assert await accept(redis, queue, record) == [0, record.invocation_id]
        place: bytes = await command(redis, "HGET", queue.live, record.invocation_id)
        return place
    entry_id: bytes = await command(redis, "XADD", queue.sync, "NOMKSTREAM", "*", RECORD_FIELD, record.encode())
    return entry_id


async def accept(
    redis: Redis,
    queue: VersionQueue,
    record: Invocation,
    *,
    delay_ms: int = 0,
    once: Sequence[bytes | int] = (),
    body: Sequence[str] = (),
) -> Any:
    """Accept an event as a gateway does; `once`: hash of its idempotency key, hash of the payload, retention in s."""
    keys = [queue.async_, queue.live, queue.delayed, queue.groups, queue.group(record.group_hash)]
    arguments: list[bytes | int] = [record.encode(), record.invocation_id, delay_ms, record.group_hash]
    if once:
        key_hash, *rest = once
        assert isinstance(key_hash, bytes)
        keys.append(queue.keys.once(key_hash))
        arguments += rest
    keys += body
    return await run(redis, scripts.ACCEPT_ASYNC, keys, arguments)


async def accept_once(
    redis: Redis, queue: VersionQueue, record: Invocation, key_hash: bytes, payload_hash: bytes, retention_s: int = 60
) -> Any:
    """Accept a sync call with an idempotency key as a gateway does."""
    record.optional[TAG_IDEMPOTENCY] = IDEMPOTENCY.pack(key_hash, payload_hash, retention_s)
    arguments = (record.encode(), payload_hash, record.invocation_id)
    return await run(redis, scripts.ACCEPT_ONCE, (queue.sync, queue.keys.once(key_hash)), arguments)


async def lease(redis: Redis, stream: str, consumer: str, count: int = 1) -> list[bytes]:
    """Lease entries as an instance does; gives their ids."""
    answer = await command(redis, "XREADGROUP", "GROUP", GROUP, consumer, "COUNT", count, "STREAMS", stream, ">")
    return [entry_id for _, entries in answer for entry_id, _ in entries]


async def give(redis: Redis, stream: str, entry_id: bytes, consumer: str, idle_ms: int = 0) -> None:
    """Make `consumer` the holder of a leased entry, idle for so long."""
    await redis.xclaim(stream, GROUP, consumer, 0, [entry_id], idle=idle_ms, justid=True)


async def records(redis: Redis, stream: str) -> list[Invocation]:
    """The records in a stream, oldest first."""
    entries = await command(redis, "XRANGE", stream, "-", "+")
    return [Invocation.decode(fields[RECORD_FIELD.encode()]) for _, fields in entries]


async def pending_ids(redis: Redis, stream: str) -> list[bytes]:
    """Ids of the entries that somebody has leased."""
    return [entry["message_id"] for entry in await pending(redis, stream)]


async def pending(redis: Redis, stream: str) -> list[dict[str, Any]]:
    """The group's pending entries: message_id, consumer, time_since_delivered (ms), times_delivered."""
    entries: list[dict[str, Any]] = await redis.xpending_range(stream, GROUP, "-", "+", 100)
    return entries


async def replies(redis: Redis, platform: PlatformKeys, process: str = PROCESS) -> list[ReplyFrame]:
    """Take all frames off a process's reply list."""
    key = platform.reply(process)
    frames = await command(redis, "LRANGE", key, 0, -1)
    await command(redis, "UNLINK", key)
    return [ReplyFrame.decode(frame) for frame in frames]


async def start_instance(redis: Redis, queue: VersionQueue, instance_id: str, state: str = "ready") -> None:
    """An instance's heartbeat and control stream, with the TTL that they have."""
    for key in (queue.keys.instance(instance_id), queue.keys.control(instance_id)):
        if key.endswith(":control"):
            await command(redis, "XGROUP", "CREATE", key, GROUP, "0", "MKSTREAM")
        else:
            await command(redis, "HSET", key, "state", state, "pid", 4711, "busy_us", 1500)
        await command(redis, "PEXPIRE", key, 15_000)


async def finish_async(
    redis: Redis,
    queue: VersionQueue,
    entry_id: bytes,
    consumer: str,
    outcome: str,
    *,
    delay_ms: int = 0,
    reason: str = "",
    frame: bytes = b"",
    group: bytes = b"",
    body: Sequence[str] = (),
) -> int:
    """Finish an event as the instance `consumer`."""
    keys = (*queue.ending(group), *body)
    arguments = (entry_id, consumer, outcome, delay_ms, reason, frame, group)
    finished: int = await run(redis, scripts.FINISH_ASYNC, keys, arguments)
    return finished


async def finish_done(
    redis: Redis, queue: VersionQueue, held: Sequence[tuple[bytes, Invocation]], consumer: str, frame: bytes
) -> list[int]:
    """Finish events (entry id and record), each started for the first time, together as the instance `consumer`."""
    places = sorted((int(entry_id.split(b"-")[0]), int(entry_id.split(b"-")[1])) for entry_id, _ in held)
    words: list[Any] = [consumer, *(b"%d-%d" % place for place in (places[0], places[-1]))]
    for entry_id, record in held:
        accepted_ms = entry_id.split(b"-")[0].decode()
        words += (entry_id, record.invocation_id, f"succeeded 1 {accepted_ms} ", frame)
    answers: list[int] = await run(redis, scripts.FINISH_DONE, (queue.async_, queue.live, queue.ended), words)
    return answers


async def length(redis: Redis, queue: VersionQueue) -> tuple[int, int, int, int]:
    """Entries in the sync and async streams, the delayed set and the dead letters."""
    return (
        await command(redis, "XLEN", queue.sync),
        await command(redis, "XLEN", queue.async_),
        await command(redis, "ZCARD", queue.delayed),
        await command(redis, "XLEN", queue.dead),
    )


async def delayed(redis: Redis, queue: VersionQueue) -> list[tuple[Invocation, float]]:
    """The delayed events and when each is due, soonest first."""
    members = cast("list[tuple[bytes, float]]", await redis.zrange(queue.delayed, 0, -1, withscores=True))
    found = []
    for ident, due in members:
        waiting: bytes = await command(redis, "HGET", queue.live, ident)
        assert waiting.startswith(b"d")
        found.append((Invocation.decode(waiting[1:]), due))
    return found


async def make_due(redis: Redis, queue: VersionQueue) -> None:
    """Let the time pass until every delayed event is due."""
    for ident in await command(redis, "ZRANGE", queue.delayed, 0, -1):
        await command(redis, "ZADD", queue.delayed, "XX", 1, ident)


async def waiting(redis: Redis, queue: VersionQueue, group_hash: bytes) -> list[Invocation]:
    """The events of a group that wait for their turn, the next one first."""
    found = []
    for ident in await command(redis, "LRANGE", queue.group(group_hash), 0, -1):
        place: bytes = await command(redis, "HGET", queue.live, ident)
        assert place.startswith(b"g")
        found.append(Invocation.decode(place[1:]))
    return found


async def dead(redis: Redis, queue: VersionQueue) -> list[tuple[Invocation, str]]:
    """The dead letters with their reasons, oldest first."""
    entries = await command(redis, "XRANGE", queue.dead, "-", "+")
    return [(Invocation.decode(fields[RECORD_FIELD.encode()]), fields[b"reason"].decode()) for _, fields in entries]


async def keys_of(redis: Redis, queue: VersionQueue) -> list[str]:
    """All keys under the function's tag."""
    return sorted([key.decode() async for key in redis.scan_iter(match=f"{queue.keys.base}:*", count=1000)])


def accepted(entry_id: bytes) -> int:
    """The time in an entry's id, in ms."""
    return int(entry_id.split(b"-")[0])


async def body_of(redis: Redis, queue: VersionQueue, record: Invocation) -> str:
    """A claimed payload as a gateway writes it."""
    record.payload, record.claim = None, f"body:{record.invocation_id.hex()}"
    key = queue.keys.body(record.invocation_id.hex())
    await command(redis, "SET", key, b"x" * 1000, "EX", limits.CLAIM_TTL_S)
    return key
