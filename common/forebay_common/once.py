"""Idempotency keys of sync calls whose instance cannot settle them: what a repeated call is answered from then on."""

from collections.abc import Sequence

from redis.asyncio import Redis

from forebay_common.keys import FunctionKeys
from forebay_common.record import ONCE, ONCE_DONE, Invocation, idempotency
from forebay_common.redis_client import Part, checked, pipeline


async def frames_of(redis: Redis, keys: FunctionKeys, records: Sequence[Invocation]) -> dict[bytes, bytes]:
    """Of those calls that stand under their key: invocation id -> the reply frame there, b"" while there is none.

    A frame means that the call had come to its end before its instance died, and that whoever repeats it is told so:
    the caller must be told the same. Raises redis.exceptions.RedisError.
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
        if invocation_id == record.invocation_id:
            frames[invocation_id] = value[ONCE.size :] if state == ONCE_DONE else b""
    return frames


def settle(keys: FunctionKeys, record: Invocation, frame: bytes, *, ran: bool) -> list[Sequence[Part]]:
    """For a call that stands under its key: a repeated one is answered alike, or runs where this one did not."""
    found = idempotency(record)
    if found is None:
        return []
    key_hash, payload_hash, _ = found
    if not ran:
        return [("UNLINK", keys.once(key_hash))]
    value = ONCE.pack(payload_hash, record.invocation_id, ONCE_DONE) + frame
    return [("SET", keys.once(key_hash), value, "XX", "KEEPTTL")]
