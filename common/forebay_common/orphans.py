"""Sync calls that had not started when the process died that would have taken their answers: nobody waits for them."""

from collections.abc import Collection, Sequence

from redis.asyncio import Redis

from forebay_common import scripts
from forebay_common.frames import ERROR_CANNOT_START, KIND_ERROR, ReplyFrame
from forebay_common.keys import RECORD_FIELD, PlatformKeys
from forebay_common.queue import VersionQueue
from forebay_common.record import Invocation, idempotency
from forebay_common.redis_client import Part, checked, command, pipeline, run_many
from forebay_common.tlv import CodecError

_PAGE = 32
"""Records read at once: at most this many times CLAIM_CHECK_BYTES of memory."""
_REASON = b"the gateway that took the call was not heard of before it could start"


async def silent_processes(redis: Redis, platform: PlatformKeys) -> set[str]:
    """The processes that own a reply list and have no heartbeat. Raises redis.exceptions.RedisError."""
    members: set[bytes] = await command(redis, "SMEMBERS", platform.processes)
    idents = sorted(member.decode() for member in members)
    beats = checked(await pipeline(redis, [("EXISTS", platform.process(ident)) for ident in idents]))
    return {ident for ident, beat in zip(idents, beats, strict=True) if not beat}


async def drop_orphans(redis: Redis, platform: PlatformKeys, queue: VersionQueue, processes: Collection[str]) -> int:
    """Take the calls out of a queue that wait for these processes and that no instance has leased; gives how many.

    A process that was only stopped finds the reason on its list. A call with an idempotency key stays: somebody else
    may wait for its answer. Raises redis.exceptions.RedisError.
    """
    addresses = {f"reply:{ident}" for ident in processes}
    dropped = 0
    start = "-"
    while entries := await command(redis, "XRANGE", queue.sync, start, "+", "COUNT", _PAGE):
        start = f"({entries[-1][0].decode()}"
        orphans = [
            (entry_id, record)
            for entry_id, fields in entries
            if (record := _read(fields)) is not None and record.reply_address in addresses
        ]
        taken = await run_many(
            redis,
            [(scripts.CANCEL, (queue.sync, *queue.body(record.claim)), (entry_id,)) for entry_id, record in orphans],
        )
        gone = [record for (_, record), removed in zip(orphans, taken, strict=True) if removed]
        tells: list[Sequence[Part]] = [
            ("RPUSH", f"{platform.prefix}:{record.reply_address}", _refusal(record)) for record in gone
        ]
        checked(await pipeline(redis, tells))
        dropped += len(gone)
    return dropped


def _read(fields: dict[bytes, bytes]) -> Invocation | None:
    try:
        record = Invocation.decode(fields[RECORD_FIELD.encode()])
    except CodecError:
        return None  # a newer release's
    return record if idempotency(record) is None else None


def _refusal(record: Invocation) -> bytes:
    return ReplyFrame(
        token=record.reply_token, kind=KIND_ERROR, error_kind=ERROR_CANNOT_START, payload=_REASON
    ).encode()
