"""What happens to work whose instance is gone, to calls of a function that cannot run, and to dead processes' replies.

Every step here may be cut off by the controller's death and is then done again by the next one: a caller is told
before its entry is acknowledged (a second answer finds its token spent), and an async event moves in one script.
"""

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from forebay_common import function_errors, limits, once, scripts
from forebay_common.frames import ERROR_CANNOT_START, ERROR_INSTANCE_LOST, KIND_ERROR, ReplyFrame
from forebay_common.keys import GROUP, RECORD_FIELD, PlatformKeys
from forebay_common.queue import CONTROLLER_CONSUMER, VersionQueue
from forebay_common.record import Invocation
from forebay_common.redis_client import Call, Part, checked, command, pipeline, run, run_many
from forebay_common.tlv import CodecError

ATTEMPTS_DEFAULT = 1 + limits.ASYNC_RETRIES_DEFAULT
PROCESS_GRACE_S = 3_600
"""How long after a process's death replies for it may still come: above a call's longest wait and run together."""
AWAY_S = limits.HEARTBEAT_TTL_S - 2 * limits.HEARTBEAT_S
"""A Redis that does not answer for longer may let heartbeats expire of instances that live."""

_PAGE = 32
"""Records read at once: at most this many times CLAIM_CHECK_BYTES of memory."""
_ROUNDS_MAX = 2 * limits.SYNC_QUEUE_MAX // _PAGE
_RESTARTED = b"the platform was restarted before the call could start"

_log = logging.getLogger(__name__)

assert PROCESS_GRACE_S * 1000 > 2 * limits.TIMEOUT_MAX_S * 1000 + limits.WAIT_MARGIN_MS


@dataclass(slots=True)
class Recovered:
    """What was done with a gone instance's work. `left` is False while something is still leased to it."""

    sync_failed: int = 0
    async_requeued: int = 0
    async_delayed: int = 0
    async_dead: int = 0
    async_cancelled: int = 0
    left: bool = False


@dataclass(frozen=True, slots=True)
class _Lease:
    """One pending entry. `record` is None when the entry is gone or not readable to this release (`unreadable`)."""

    entry_id: bytes
    consumer: str
    record: Invocation | None
    unreadable: bool = False


async def abandon_instance(
    redis: Redis,
    platform: PlatformKeys,
    queue: VersionQueue,
    instance_id: str,
    *,
    attempts_max: int = ATTEMPTS_DEFAULT,
    delay_ms: int = 0,
    min_idle_ms: int = 0,
) -> Recovered:
    """Deal with everything a dead instance holds, then take it out of its function.

    Sync calls that it had leased are answered ERROR_INSTANCE_LOST; async events go back to the queue (after
    `delay_ms`) or, after `attempts_max` starts in all, to the dead letters. With `min_idle_ms` (the reaper) only
    leases that were not renewed for so long are touched. Safe to repeat. Raises redis.exceptions.RedisError.
    """
    done = Recovered()
    async for leases in _leases(redis, queue.sync, instance_id, min_idle_ms):
        done.sync_failed += await _fail(redis, platform, queue, leases, _lost)
    arguments = (instance_id, attempts_max, delay_ms, min_idle_ms)
    async for leases in _leases(redis, queue.async_, instance_id, min_idle_ms):
        results = await run_many(
            redis,
            [
                (scripts.RECLAIM_ASYNC, _reclaim_keys(queue, lease), (lease.entry_id, *arguments, _group(lease)))
                for lease in leases
                if not lease.unreadable
            ],
        )
        done.async_requeued += results.count(1)
        done.async_delayed += results.count(2)
        done.async_dead += results.count(3)
        done.async_cancelled += results.count(4)
    keys = (queue.sync, queue.async_, queue.keys.control(instance_id), queue.keys.instance(instance_id))
    done.left = await run(redis, scripts.LEAVE, keys, (instance_id, 0)) == 0
    return done


async def reap_expired(
    redis: Redis,
    platform: PlatformKeys,
    queue: VersionQueue,
    *,
    attempts_max: int = ATTEMPTS_DEFAULT,
    lease_ms: int = limits.LEASE_MS,
) -> dict[str, Recovered]:
    """Find instances of a version that went away unseen (no heartbeat, idle for `lease_ms`) and abandon them.

    Gives what was done, by instance id; nothing when Redis took longer than `AWAY_S` to say so, since then nobody could
    say that it lives. Raises redis.exceptions.RedisError.
    """
    began_s = monotonic()
    idle: dict[str, int] = {}
    try:
        for stream in (queue.sync, queue.async_):
            for consumer in await redis.xinfo_consumers(stream, GROUP):
                name = consumer["name"].decode()
                idle[name] = min(idle.get(name, consumer["idle"]), consumer["idle"])
    except ResponseError as error:
        if _is_deleted(error):
            return {}
        raise
    silent = [name for name, idle_ms in idle.items() if idle_ms >= lease_ms]
    beats = checked(await pipeline(redis, [("EXISTS", queue.keys.instance(name)) for name in silent]))
    if monotonic() - began_s > AWAY_S:
        return {}
    return {
        name: await abandon_instance(redis, platform, queue, name, attempts_max=attempts_max, min_idle_ms=lease_ms)
        for name, beat in zip(silent, beats, strict=True)
        if not beat
    }


async def fail_queued_sync(
    redis: Redis, platform: PlatformKeys, queue: VersionQueue, error_kind: int, payload: bytes, *, leased: bool = False
) -> int:
    """Answer every sync call that no instance has leased with `error_kind` and `payload`, and remove it.

    For a function that cannot start (ERROR_CANNOT_START) or is deleted (ERROR_DELETED). With `leased` (deletion)
    also the calls that instances hold, which may have run: they are answered ERROR_INSTANCE_LOST. Gives how many
    callers were answered.

    The calls are leased to the controller first, so that no instance starts one that is being answered; what an
    earlier controller had leased so is answered too. Safe to repeat. Raises redis.exceptions.RedisError.
    """

    def refused(lease: _Lease, record: Invocation) -> ReplyFrame:
        del lease
        return ReplyFrame(token=record.reply_token, kind=KIND_ERROR, error_kind=error_kind, payload=payload)

    answered = 0
    unreadable: list[bytes] = []
    cursor = b"0"
    # Bounded: callers may go on adding while the queue is being emptied; the next round takes those.
    for _ in range(_ROUNDS_MAX):
        leases = await _lease_as_controller(redis, queue.sync, cursor)
        if leases is None:
            return answered
        if not leases and cursor == b">":
            break
        # First what an earlier controller left behind, page by page, then what is new.
        cursor = leases[-1].entry_id if leases and cursor != b">" else b">"
        answered += await _fail(redis, platform, queue, leases, refused)
        unreadable += [lease.entry_id for lease in leases if lease.unreadable]
    if unreadable:
        await run(redis, scripts.RELEASE, (queue.sync, queue.sync), (CONTROLLER_CONSUMER, *unreadable))
    if leased:
        async for leases in _leases(redis, queue.sync, None, 0):
            answered += await _fail(redis, platform, queue, leases, _lost)
    return answered


async def reap_processes(redis: Redis, platform: PlatformKeys) -> int:
    """Remove the reply lists of processes without a heartbeat; gives how many such processes there are.

    A process stays in the set for `PROCESS_GRACE_S` after it was first seen dead, and its list is removed each
    time: instances that finish its last calls make the list anew. Raises redis.exceptions.RedisError.
    """
    members: set[bytes] = await command(redis, "SMEMBERS", platform.processes)
    idents = sorted(member.decode() for member in members)
    beats = checked(await pipeline(redis, [("EXISTS", platform.process(ident)) for ident in idents]))
    alive = [ident for ident, beat in zip(idents, beats, strict=True) if beat]
    gone = [ident for ident, beat in zip(idents, beats, strict=True) if not beat]
    # A process that was only stopped for a while starts its grace anew when it really dies.
    checked(await pipeline(redis, [("UNLINK", platform.process_gone(ident)) for ident in alive]))
    for ident in gone:
        marker = platform.process_gone(ident)
        # The marker's own TTL is the clock: half of it is the grace.
        *_, left_s = checked(
            await pipeline(
                redis,
                [
                    ("UNLINK", platform.reply(ident)),
                    ("SET", marker, "1", "NX", "EX", 2 * PROCESS_GRACE_S),
                    ("TTL", marker),
                ],
            )
        )
        if left_s <= PROCESS_GRACE_S:
            checked(await pipeline(redis, [("SREM", platform.processes, ident), ("UNLINK", marker)]))
    return len(gone)


def _lost(lease: _Lease, record: Invocation) -> ReplyFrame:
    """The answer to a call whose instance died; one that only a controller held has certainly not run."""
    if lease.consumer == CONTROLLER_CONSUMER:
        return ReplyFrame(token=record.reply_token, kind=KIND_ERROR, error_kind=ERROR_CANNOT_START, payload=_RESTARTED)
    document = function_errors.instance_lost(str(UUID(bytes=record.invocation_id)), lease.consumer)
    return ReplyFrame(token=record.reply_token, kind=KIND_ERROR, error_kind=ERROR_INSTANCE_LOST, payload=document)


async def _fail(
    redis: Redis,
    platform: PlatformKeys,
    queue: VersionQueue,
    leases: Sequence[_Lease],
    answer: Callable[[_Lease, Invocation], ReplyFrame],
) -> int:
    """Answer leased sync calls, then remove them; gives how many callers were answered."""
    replies: dict[str, list[bytes]] = {}
    bodies: list[str] = []
    removed = [lease.entry_id for lease in leases if not lease.unreadable]
    under_key = await once.frames_of(redis, queue.keys, [lease.record for lease in leases if lease.record is not None])
    settlements: list[Call] = []
    for lease in leases:
        record = lease.record
        if record is None:
            continue
        frame = under_key.get(record.invocation_id, b"")
        if not frame:
            said = answer(lease, record)
            frame = said.encode()
            if record.invocation_id in under_key:
                ran = said.error_kind == ERROR_INSTANCE_LOST
                settlements += once.settlement(queue.keys, record, frame, ran=ran)
        if record.reply_address:
            replies.setdefault(record.reply_address, []).append(frame)
        bodies += queue.body(record.claim)
    # Who is told and calls again at once must find the key settled.
    if settlements:
        await run_many(redis, settlements)
    if replies:
        tells: list[Sequence[Part]] = [
            ("RPUSH", f"{platform.prefix}:{address}", *frames) for address, frames in replies.items()
        ]
        checked(await pipeline(redis, tells))
    if removed:
        # The caller knows by now; dying before this step only tells it again.
        drop: list[Sequence[Part]] = [("XACK", queue.sync, GROUP, *removed), ("XDEL", queue.sync, *removed)]
        if bodies:
            drop.append(("UNLINK", *bodies))
        checked(await pipeline(redis, drop, transaction=True))
    return sum(map(len, replies.values()))


async def _leases(redis: Redis, stream: str, consumer: str | None, min_idle_ms: int) -> AsyncIterator[list[_Lease]]:
    """Pages of a consumer's (or every consumer's) pending entries that were idle for at least so long."""
    start = "-"
    while True:
        try:
            pending: Any = await redis.xpending_range(
                stream, GROUP, start, "+", _PAGE, consumername=consumer, idle=min_idle_ms
            )
        except ResponseError as error:
            if _is_deleted(error):
                return
            raise
        if not pending:
            return
        ids = [entry["message_id"] for entry in pending]
        found = checked(await pipeline(redis, [("XRANGE", stream, ident, ident) for ident in ids]))
        yield [
            _read(ident, entry["consumer"].decode(), entries[0][1] if entries else None)
            for ident, entry, entries in zip(ids, pending, found, strict=True)
        ]
        start = f"({ids[-1].decode()}"


async def _lease_as_controller(redis: Redis, stream: str, cursor: bytes) -> list[_Lease] | None:
    """Lease a page of sync calls to the controller (cursor b">"), or read what it has leased after `cursor`.

    None when the function was deleted.
    """
    try:
        answer = await command(
            redis, "XREADGROUP", "GROUP", GROUP, CONTROLLER_CONSUMER, "COUNT", _PAGE, "STREAMS", stream, cursor
        )
    except ResponseError as error:
        if _is_deleted(error):
            return None
        raise
    if not answer:
        return []
    [(_, entries)] = answer
    return [_read(ident, CONTROLLER_CONSUMER, fields) for ident, fields in entries]


def _read(entry_id: bytes, consumer: str, fields: Mapping[bytes, bytes] | None) -> _Lease:
    if not fields:
        return _Lease(entry_id, consumer, None)
    try:
        return _Lease(entry_id, consumer, Invocation.decode(fields[RECORD_FIELD.encode()]))
    except (CodecError, KeyError) as error:
        # A newer release's record: it stays leased, or goes back, for a controller that knows it.
        _log.warning("queue entry cannot be read: %s", error, extra={"entry_id": entry_id, "instance": consumer})
        return _Lease(entry_id, consumer, None, unreadable=True)


def _reclaim_keys(queue: VersionQueue, lease: _Lease) -> list[str]:
    claim = "" if lease.record is None else lease.record.claim
    return [*queue.ending(_group(lease)), queue.keys.instance(lease.consumer), *queue.body(claim)]


def _group(lease: _Lease) -> bytes:
    return b"" if lease.record is None else lease.record.group_hash


def _is_deleted(error: ResponseError) -> bool:
    """Whether a command found no stream or group: the function was deleted meanwhile."""
    return str(error).startswith(("NOGROUP", "no such key"))
