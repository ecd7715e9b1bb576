"""Dead letters: listing, reading, redriving and purging them."""

import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from forebay_common import scripts
from forebay_common.events import frame_of
from forebay_common.frames import ReplyFrame
from forebay_common.keys import RECORD_FIELD
from forebay_common.queue import VersionQueue
from forebay_common.record import INVOCATION_ID_OFFSET, Invocation
from forebay_common.redis_client import Call, checked, command, pipeline, run_many
from forebay_common.tlv import CodecError

_PAGE = 32
"""Records read at once: at most this many times CLAIM_CHECK_BYTES of memory, and their frames."""
_ID_BYTES = 16
_Entry = tuple[bytes, dict[bytes, bytes]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that failed for good, or whose destination could not be told. Times in Redis's ms.

    `payload` is None when it lies under `claim` (`dead_payload` reads it), or when the record is a newer release's
    (then `readable` is False, and it cannot be redriven by this one).
    """

    entry_id: bytes
    invocation_id: bytes
    reason: str
    attempts: int
    accepted_ms: int
    payload: bytes | None = None
    claim: str = ""
    group_hash: bytes = b""
    frame: ReplyFrame | None = None
    readable: bool = True

    @property
    def dead_ms(self) -> int:
        """When it became a dead letter."""
        return int(self.entry_id.split(b"-", 1)[0])


@dataclass(frozen=True, slots=True)
class DeadPage:
    """Dead letters, oldest first; `next` is the `after` of the next page, "" after the last."""

    entries: list[DeadLetter]
    next: str = ""


async def list_dead(
    redis: Redis,
    queue: VersionQueue,
    *,
    after: str = "",
    limit: int = 50,
    reason: str = "",
    since_ms: int = 0,
    until_ms: int = 0,
) -> DeadPage:
    """A page of dead letters after an entry id, of one reason, dead in [since_ms, until_ms] (0: no bound).

    Raises redis.exceptions.RedisError; ResponseError for an `after` that is no entry id.
    """
    letters: list[DeadLetter] = []
    async for entry_id, fields in _entries(redis, queue, after, since_ms, until_ms):
        if reason and fields[b"reason"].decode() != reason:
            continue
        if len(letters) == limit:
            return DeadPage(letters, letters[-1].entry_id.decode())
        letters.append(_letter(entry_id, fields))
    return DeadPage(letters)


async def _entries(
    redis: Redis, queue: VersionQueue, after: str, since_ms: int, until_ms: int
) -> AsyncIterator[_Entry]:
    start = f"({after}" if after else "-"
    if since_ms and (not after or int(after.split("-", 1)[0]) < since_ms):
        start = str(since_ms)
    end = str(until_ms) if until_ms else "+"
    while True:
        entries: list[_Entry] = await command(redis, "XRANGE", queue.dead, start, end, "COUNT", _PAGE)
        for entry in entries:
            yield entry
        if len(entries) < _PAGE:
            return
        start = f"({entries[-1][0].decode()}"


async def get_dead(redis: Redis, queue: VersionQueue, entry_ids: Sequence[bytes]) -> list[DeadLetter | None]:
    """Dead letters by entry id; None for those that are gone. Raises redis.exceptions.RedisError."""
    letters: list[DeadLetter | None] = []
    for at in range(0, len(entry_ids), _PAGE):
        reads = [("XRANGE", queue.dead, ident, ident) for ident in entry_ids[at : at + _PAGE]]
        answers: Sequence[list[_Entry]] = checked(await pipeline(redis, reads))
        letters += [_letter(*entries[0]) if entries else None for entries in answers]
    return letters


async def dead_payload(redis: Redis, queue: VersionQueue, letter: DeadLetter) -> bytes | None:
    """A dead letter's payload, wherever it lies; None when it is gone. Raises redis.exceptions.RedisError."""
    if not letter.claim:
        return letter.payload
    payload: bytes | None = await command(redis, "GET", *queue.body(letter.claim))
    return payload


async def redrive(redis: Redis, queue: VersionQueue, entry_ids: Sequence[bytes]) -> int:
    """Make dead letters events again, accepted now and never started; gives how many there still were.

    Raises redis.exceptions.RedisError.
    """
    moved = 0
    for at in range(0, len(entry_ids), _PAGE):
        letters = await get_dead(redis, queue, entry_ids[at : at + _PAGE])
        calls = [_redrive(queue, letter) for letter in letters if letter is not None and letter.readable]
        moved += sum(await run_many(redis, calls))
    return moved


def _redrive(queue: VersionQueue, letter: DeadLetter) -> Call:
    keys = (queue.dead, queue.async_, queue.live, queue.ended, queue.groups, queue.group(letter.group_hash))
    return scripts.REDRIVE, (*keys, *queue.body(letter.claim)), (letter.entry_id, letter.group_hash)


async def purge(redis: Redis, queue: VersionQueue, entry_ids: Sequence[bytes] | None = None) -> int:
    """Remove dead letters (None: all there are) with their bodies; gives how many there still were.

    One that is redriven meanwhile keeps its body. Raises redis.exceptions.RedisError.
    """
    if entry_ids is None:
        entry_ids = [entry_id async for entry_id, _ in _entries(redis, queue, "", 0, 0)]
    purged = 0
    for at in range(0, len(entry_ids), _PAGE):
        letters = [found for found in await get_dead(redis, queue, entry_ids[at : at + _PAGE]) if found is not None]
        calls = [(scripts.DISCARD, (queue.dead, *queue.body(it.claim)), (it.entry_id,)) for it in letters]
        purged += sum(await run_many(redis, calls))
    return purged


def _letter(entry_id: bytes, fields: dict[bytes, bytes]) -> DeadLetter:
    raw, reason = fields[RECORD_FIELD.encode()], fields[b"reason"].decode()
    try:
        record = Invocation.decode(raw)
    except CodecError as error:
        _log.warning("dead letter cannot be read: %s", error)
        ident = raw[INVOCATION_ID_OFFSET : INVOCATION_ID_OFFSET + _ID_BYTES]
        return DeadLetter(entry_id, ident, reason, 0, 0, readable=False)
    return DeadLetter(
        entry_id,
        record.invocation_id,
        reason,
        record.attempt,
        record.first_accepted_ms,
        payload=record.payload,
        claim=record.claim,
        group_hash=record.group_hash,
        frame=frame_of(fields.get(b"f", b"")),
    )
