"""Ended events whose destination is to be told: reading them, and letting go of them."""

import logging
from dataclasses import dataclass

from redis.asyncio import Redis

from forebay_common import scripts
from forebay_common.events import frame_of
from forebay_common.frames import ReplyFrame
from forebay_common.queue import VersionQueue
from forebay_common.record import Invocation
from forebay_common.redis_client import command, run
from forebay_common.tlv import CodecError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """An ended event that has a destination. `status`: succeeded or failed; `record.attempt` counts its starts."""

    entry_id: bytes
    record: Invocation
    status: str
    reason: str
    frame: ReplyFrame | None

    @property
    def ended_ms(self) -> int:
        """When the event ended, in Redis's ms."""
        return int(self.entry_id.split(b"-", 1)[0])


async def read_outbox(redis: Redis, queue: VersionQueue, after: bytes = b"", limit: int = 32) -> list[OutboxEntry]:
    """The oldest entries after one (b"": from the first on). Fewer than `limit`: there were no more.

    An entry of a newer release stays for a controller that can read it. Raises redis.exceptions.RedisError.
    """
    found: list[OutboxEntry] = []
    while len(found) < limit:
        wanted = limit - len(found)
        start = f"({after.decode()}" if after else "-"
        entries: list[tuple[bytes, dict[bytes, bytes]]] = await command(
            redis, "XRANGE", queue.outbox, start, "+", "COUNT", wanted
        )
        for entry_id, fields in entries:
            after = entry_id
            try:
                entry = _entry(entry_id, fields)
            except CodecError as error:
                _log.warning("outbox entry cannot be read: %s", error, extra={"function": queue.keys.base})
                continue
            found.append(entry)
        if len(entries) < wanted:
            break
    return found


def _entry(entry_id: bytes, fields: dict[bytes, bytes]) -> OutboxEntry:
    record = Invocation.decode(fields[b"r"])
    return OutboxEntry(entry_id, record, fields[b"s"].decode(), fields[b"reason"].decode(), frame_of(fields[b"f"]))


async def outbox_done(redis: Redis, queue: VersionQueue, entry: OutboxEntry) -> None:
    """The destination has been told: the entry goes, with the event's body. Raises redis.exceptions.RedisError."""
    await run(redis, scripts.DISCARD, (queue.outbox, *queue.body(entry.record.claim)), (entry.entry_id,))


async def outbox_dead(redis: Redis, queue: VersionQueue, entry: OutboxEntry, reason: str) -> bool:
    """The destination cannot be told: the event is a dead letter. False when the entry was gone.

    Raises redis.exceptions.RedisError.
    """
    keys = (queue.outbox, queue.dead, *queue.body(entry.record.claim))
    return bool(await run(redis, scripts.OUTBOX_DEAD, keys, (entry.entry_id, reason)))
