"""One async event: where it is and how it ended, and cancelling it.

`live` (keys.py) knows the place of each event that has not ended or whose result is kept; the scripts read and change
it in the same step as the place itself.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from redis.asyncio import Redis

from forebay_common import scripts
from forebay_common.frames import ReplyFrame
from forebay_common.queue import VersionQueue
from forebay_common.record import ATTEMPT_OFFSET, FIRST_ACCEPTED_OFFSET, INVOCATION_ID_OFFSET, Invocation
from forebay_common.redis_client import run, run_many
from forebay_common.tlv import CodecError

QUEUED = "queued"
RUNNING = "running"
DELAYED = "delayed"
SUCCEEDED = "succeeded"
FAILED = "failed"
CANCELLED = "cancelled"
CANCELLING = "Cancelling"
"""The reason of a running event that was cancelled and whose instance has not stopped it yet."""
_WAITING = "waiting"
_ENDED = "ended"
_TRIM_BATCH = 100
_TRIMS_MAX = 100

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EventState:
    """An event at one moment. `status` is one of the words above; times in Redis's ms.

    `attempts`: starts made, of a running one with the one that it was leased for. `accepted_ms` of an event that was
    accepted for later is the time it was accepted for. `due_ms`: when a delayed one is due. `instance` holds a
    running one. `frame`: the last reply that is kept of an ended one. `entry_id`: in the async stream or in `ended`.
    """

    status: str
    attempts: int
    accepted_ms: int
    ended_ms: int | None = None
    due_ms: int | None = None
    instance: str = ""
    reason: str = ""
    frame: ReplyFrame | None = None
    entry_id: bytes = b""


class CancelResult(Enum):
    """What cancelling came to."""

    UNKNOWN = "unknown"
    """There is no such event (any more)."""
    CANCELLED = "cancelled"
    """It will not run (again)."""
    RUNNING = "running"
    """An instance holds it and is to be told; the event does not run again."""
    ENDED = "ended"
    """It had ended before."""


@dataclass(frozen=True, slots=True)
class Cancellation:
    """What cancelling came to; `instance` is to be told when it is RUNNING, else ""."""

    result: CancelResult
    instance: str = ""


async def find_event(redis: Redis, queue: VersionQueue, ids: Sequence[bytes]) -> list[EventState | None]:
    """The events with these invocation ids (16 bytes each), in one round trip; None for those not known (any more).

    Raises redis.exceptions.RedisError.
    """
    return [None if answer is None else _state(answer) for answer in await _find(redis, queue, ids)]


async def cancel_event(redis: Redis, queue: VersionQueue, invocation_id: bytes) -> Cancellation:
    """Cancel an event; with RUNNING the caller tells the instance: {"command": "cancel", "invocation_id": …}.

    Raises redis.exceptions.RedisError, CodecError when the event's record is a newer release's.
    """
    [answer] = await _find(redis, queue, [invocation_id])
    if answer is None:
        return Cancellation(CancelResult.UNKNOWN)
    if answer[0].decode() == _ENDED:
        return Cancellation(CancelResult.ENDED)
    # Group and claim are the same wherever the event has gone meanwhile.
    record = Invocation.decode(answer[4])
    keys = (queue.async_, queue.live, queue.delayed, queue.ended, queue.groups, queue.group(record.group_hash))
    arguments = (invocation_id, record.group_hash)
    outcome, *consumer = await run(redis, scripts.CANCEL_EVENT, (*keys, *queue.body(record.claim)), arguments)
    result = (CancelResult.UNKNOWN, CancelResult.CANCELLED, CancelResult.RUNNING, CancelResult.ENDED)[outcome]
    return Cancellation(result, consumer[0].decode() if consumer else "")


async def trim_ended(redis: Redis, queue: VersionQueue, retention_ms: int) -> int:
    """Forget how events ended that did so `retention_ms` ago or earlier; gives how many.

    Raises redis.exceptions.RedisError.
    """
    trimmed = 0
    for _ in range(_TRIMS_MAX):
        gone: int = await run(redis, scripts.TRIM_ENDED, (queue.ended, queue.live), (retention_ms, _TRIM_BATCH))
        trimmed += gone
        if gone < _TRIM_BATCH:
            break
    return trimmed


def frame_of(data: bytes) -> ReplyFrame | None:
    """A kept reply frame; None where none was kept, or a newer release's."""
    if not data:
        return None
    try:
        return ReplyFrame.decode(data)
    except CodecError as error:
        _log.warning("a kept reply cannot be read: %s", error)
        return None


async def _find(redis: Redis, queue: VersionQueue, ids: Sequence[bytes]) -> list[Any]:
    keys = (queue.async_, queue.live, queue.delayed, queue.ended)
    return await run_many(redis, [(scripts.FIND_EVENT, keys, (ident,)) for ident in ids])


def _state(answer: list[Any]) -> EventState:
    if answer[0].decode() == _ENDED:
        _, entry_id, how, frame = answer
        status, attempts, accepted_ms, reason = how.decode().split(" ", 3)
        return EventState(
            status,
            int(attempts),
            int(accepted_ms),
            ended_ms=int(entry_id.split(b"-", 1)[0]),
            reason=reason,
            frame=frame_of(frame),
            entry_id=entry_id,
        )
    place, entry_id, consumer, due_ms, raw = answer
    status = {_WAITING: QUEUED, "cancelling": RUNNING}.get(place.decode(), place.decode())
    # What lies at these offsets is the same in a newer release's record.
    moved_ms = int.from_bytes(raw[FIRST_ACCEPTED_OFFSET:INVOCATION_ID_OFFSET], "big")
    return EventState(
        status,
        raw[ATTEMPT_OFFSET] + bool(consumer),
        moved_ms or int(entry_id.split(b"-", 1)[0]),
        due_ms=due_ms if due_ms >= 0 else None,
        instance=consumer.decode(),
        reason=CANCELLING if place == b"cancelling" else "",
        entry_id=entry_id,
    )
