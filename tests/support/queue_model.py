"""The model of the queue protocol, as docs/queue-protocol.md reads: where an entry can be, where each step takes it."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, cast

from redis.asyncio import Redis

from forebay_common.keys import GROUP, RECORD_FIELD
from forebay_common.queue import VersionQueue
from forebay_common.record import KIND_SYNC, Invocation
from forebay_common.recovery import ATTEMPTS_DEFAULT
from forebay_common.redis_client import command
from forebay_runtime.finishing import AGE_EXCEEDED, DEAD, DONE, EXPIRED, RETRIES_EXHAUSTED, RETRY

ALL_MAX = 1_000
LATER_MS = 3_600_000
QUEUED = "queued"
LEASED = "leased"
DELAYED = "delayed"
BURIED = "buried"
GONE = "gone"


@dataclass(frozen=True)
class Place:
    """Where an entry is. `consumer` of a lease; `deleted`: only its lease is left, which holds nothing any more."""

    where: str
    consumer: str = ""
    deleted: bool = False
    attempt: int = 0
    reason: str = ""


@dataclass(eq=False)
class Item:
    """A sync call or an event as the protocol has it; `told`: error kinds of the frames that its caller was sent."""

    record: Invocation
    first_id: bytes
    entry_id: bytes
    place: Place = field(default_factory=lambda: Place(QUEUED))
    begun: bool = False
    cancelled: bool = False
    told: list[int] = field(default_factory=list)

    @property
    def is_sync(self) -> bool:
        return self.record.kind == KIND_SYNC

    def held_by(self, name: str) -> bool:
        return self.place.where == LEASED and self.place.consumer == name


@dataclass
class Seen:
    """Where an entry was found, under which id, with which record."""

    place: Place
    entry_id: bytes
    record: Invocation | None


async def look(redis: Redis, queue: VersionQueue, items: Collection[Item]) -> dict[bytes, Seen]:
    """Every entry in Redis by its invocation id; `items` are those that the model knows."""
    found: dict[bytes, Seen] = {}

    def add(place: Place, entry_id: bytes, record: Invocation) -> None:
        assert record.invocation_id not in found, "an entry is in one place"
        found[record.invocation_id] = Seen(place, entry_id, record)

    for stream in (queue.sync, queue.async_):
        pending: Any = await redis.xpending_range(stream, GROUP, "-", "+", ALL_MAX)
        holders = {entry["message_id"]: entry["consumer"].decode() for entry in pending}
        for entry_id, fields in await command(redis, "XRANGE", stream, "-", "+"):
            record = Invocation.decode(fields[RECORD_FIELD.encode()])
            holder = holders.pop(entry_id, "")
            add(Place(LEASED if holder else QUEUED, holder, attempt=record.attempt), entry_id, record)
        for entry_id, holder in holders.items():
            leased = [item for item in items if item.held_by(holder) and item.entry_id == entry_id]
            [item] = [item for item in leased if item.is_sync == (stream == queue.sync)]
            found[item.record.invocation_id] = Seen(Place(LEASED, holder, deleted=True), entry_id, None)
    delayed = await redis.zrange(queue.delayed, 0, -1, withscores=True)
    seconds, micros = await command(redis, "TIME")
    now_ms = int(seconds) * 1000 + int(micros) / 1000
    for raw, score in cast("list[tuple[bytes, float]]", delayed):
        record = Invocation.decode(raw)
        add(Place(DELAYED, attempt=record.attempt, reason="due" if score <= now_ms else "later"), b"", record)
    for _, fields in await command(redis, "XRANGE", queue.dead, "-", "+"):
        record = Invocation.decode(fields[RECORD_FIELD.encode()])
        add(Place(BURIED, attempt=record.attempt, reason=fields[b"reason"].decode()), b"", record)
    return found


OUTCOMES = ((DONE, 0), (RETRY, 0), (RETRY, LATER_MS), (DEAD, 0), (EXPIRED, 0))


def after_finish(item: Item, outcome: str, delay_ms: int) -> Place:
    """Where an event goes when its holder finishes it so: the table of `finish_async`."""
    if outcome == DONE:
        return Place(GONE)
    if outcome == EXPIRED:
        return Place(BURIED, attempt=item.place.attempt, reason=AGE_EXCEEDED)
    started = item.place.attempt + 1
    if outcome == DEAD:
        return Place(BURIED, attempt=started, reason=RETRIES_EXHAUSTED)
    if delay_ms > item.record.wait_ms:
        return Place(BURIED, attempt=started, reason=AGE_EXCEEDED)
    return Place(DELAYED, attempt=started, reason="later" if delay_ms else "due")


def reclaimed(item: Item) -> Place:
    """Where a lease of a dead instance goes: a call is answered, an event has been started once more."""
    if item.is_sync:
        return Place(GONE)
    started = item.place.attempt + 1
    if started >= ATTEMPTS_DEFAULT:
        return Place(BURIED, attempt=started, reason=RETRIES_EXHAUSTED)
    return Place(QUEUED, attempt=started)


def order(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition(b"-")
    return int(milliseconds), int(number)
