"""Idempotency keys of sync calls whose instance cannot settle them: what a repeated call is answered from then on."""

from collections.abc import Sequence

from redis.asyncio import Redis

from forebay_common import scripts
from forebay_common.frames import FLAG_PAYLOAD_OMITTED, HEADER
from forebay_common.keys import FunctionKeys
from forebay_common.record import ONCE, ONCE_DONE, Invocation, idempotency
from forebay_common.redis_client import Call, checked, pipeline


async def frames_of(redis: Redis, keys: FunctionKeys, records: Sequence[Invocation]) -> dict[bytes, bytes]:
    """Of those calls that stand under their key: invocation id -> the reply frame there, b"" while there is none.

    A frame means that the call had come to its end before its instance died, and that whoever repeats it is told so:
    the caller must be told the same. A call whose answer was too large to be kept is left out: nobody can be told it.
    Raises redis.exceptions.RedisError.
    """
    asked = [(record, found[0]) for record in records if (found := idempotency(record)) is not None]
    if not asked:
        return {}
    values: Sequence[bytes | None] = checked(
        await pipeline(redis, [("GET", keys.once(key_hash)) for _, key_hash in asked])
    )
    frames = {}
    for (record, _), value in zip(asked, values, strict=True):
        if value is None or len(value) < ONCE.size:
            continue
        _, invocation_id, state = ONCE.unpack_from(value)
        frame = value[ONCE.size :] if state == ONCE_DONE else b""
        if invocation_id == record.invocation_id and not _is_without_payload(frame):
            frames[invocation_id] = frame
    return frames


def _is_without_payload(frame: bytes) -> bool:
    return len(frame) >= HEADER.size and bool(HEADER.unpack_from(frame)[3] & FLAG_PAYLOAD_OMITTED)


def settlement(keys: FunctionKeys, record: Invocation, frame: bytes, *, ran: bool) -> list[Call]:
    """For a call that stands under its key: a repeated one is answered alike, or runs where this one did not.

    None for a call without a key. It does nothing when the call does not stand there, pending, any more.
    """
    found = idempotency(record)
    if found is None:
        return []
    key_hash, payload_hash, retention_s = found
    state = ONCE_DONE if ran else b""
    arguments = (payload_hash, record.invocation_id, state, frame if ran else b"", retention_s)
    return [(scripts.SETTLE_ONCE, (keys.once(key_hash),), arguments)]
