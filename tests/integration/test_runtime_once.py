"""Sync calls with an idempotency key: what a repetition finds, and that it finds it before the call is let go of."""

import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from forebay_common import scripts
from forebay_common.frames import (
    ERROR_EXPIRED,
    ERROR_FUNCTION,
    ERROR_NONE,
    ERROR_REFUSED,
    FLAG_PAYLOAD_OMITTED,
    ReplyFrame,
)
from forebay_common.limits import CLAIM_CHECK_BYTES, CLAIM_TTL_S, RESULT_FRAME_MAX_BYTES
from forebay_common.once import settlement
from forebay_common.record import IDEMPOTENCY, ONCE, ONCE_DONE, ONCE_PENDING, TAG_IDEMPOTENCY, Invocation
from forebay_common.redis_client import command, run, run_many
from forebay_runtime.console import Console
from forebay_runtime.finishing import Finisher
from forebay_runtime.leases import SYNC, Call, Leases
from support.crashing_redis import RecordingLink
from support.queue_side import call, lease
from support.runtime_rig import RuntimeRig

RETENTION_S = 7_200
KEY_HASH = hashlib.sha256(b"the key").digest()[:16]
PAYLOAD_HASH = hashlib.sha256(b"the payload").digest()[:16]
HANDLER = """
    def handler(event, context):
        if "raise" in event:
            raise ValueError(event["raise"])
        return "x" * event.get("size", 1)
"""


@pytest.fixture
async def rig(redis: Redis, valkey_server: dict[str, Any], prefix: str) -> AsyncIterator[RuntimeRig]:
    async with RuntimeRig(redis, valkey_server, prefix) as rig:
        yield rig


def with_key(payload: bytes | None = b"{}", **changes: Any) -> Invocation:
    return call(payload, **changes, optional={TAG_IDEMPOTENCY: IDEMPOTENCY.pack(KEY_HASH, PAYLOAD_HASH, RETENTION_S)})


async def accept(rig: RuntimeRig, record: Invocation) -> Any:
    """What a gateway does with such a call."""
    keys = (rig.queue.sync, rig.keys.once(KEY_HASH))
    arguments = (record.encode(), PAYLOAD_HASH, record.invocation_id)
    return await run(rig.redis, scripts.ACCEPT_ONCE, keys, arguments)


async def found(rig: RuntimeRig, record: Invocation) -> ReplyFrame:
    """What a repetition of a call finds."""
    state, ident, frame = await accept(rig, with_key())
    assert (state, ident) == (3, record.invocation_id)
    return ReplyFrame.decode(frame)


@pytest.mark.parametrize(
    ("payload", "error_kind"), [(b'{"size": 3}', ERROR_NONE), (b'{"raise": "no"}', ERROR_FUNCTION)]
)
async def test_a_repetition_finds_the_answer_for_as_long_as_the_key_is_kept(
    rig: RuntimeRig, payload: bytes, error_kind: int
) -> None:
    await rig.run(HANDLER)
    record = with_key(payload)
    assert (await accept(rig, record))[0] == 0

    answer = await rig.reply_to(record)

    assert answer.error_kind == error_kind
    again = await found(rig, record)
    assert (again.payload, again.error_kind, again.duration_us) == (answer.payload, error_kind, answer.duration_us)
    assert RETENTION_S - 60 < await rig.redis.ttl(rig.keys.once(KEY_HASH)) <= RETENTION_S
    assert await rig.queued(rig.queue.sync) == (0, 0)


@pytest.mark.parametrize("size", [RESULT_FRAME_MAX_BYTES, CLAIM_CHECK_BYTES])
async def test_of_a_large_answer_only_its_kind_is_kept_with_the_key(rig: RuntimeRig, size: int) -> None:
    await rig.run(HANDLER)
    record = with_key(json.dumps({"size": size}).encode())
    await accept(rig, record)

    answer = await rig.reply_to(record)

    assert not answer.flags & FLAG_PAYLOAD_OMITTED
    if answer.payload is None:
        result = f"{rig.keys.base}:{answer.claim}"
        assert await rig.redis.strlen(result) == size + 2
        assert CLAIM_TTL_S - 60 < await rig.redis.ttl(result) <= CLAIM_TTL_S
    else:
        assert len(answer.payload) == size + 2
    again = await found(rig, record)
    assert (again.payload, again.claim, again.error_kind) == (b"", "", ERROR_NONE)
    assert again.flags & FLAG_PAYLOAD_OMITTED
    assert RETENTION_S - 60 < await rig.redis.ttl(rig.keys.once(KEY_HASH)) <= RETENTION_S


@pytest.mark.parametrize(
    ("changes", "error_kind"),
    [
        ({"wait_ms": 10, "first_accepted_ms": 1}, ERROR_EXPIRED),
        ({"payload": None, "claim": "body:00"}, ERROR_REFUSED),
    ],
)
async def test_a_call_that_did_not_run_may_be_asked_for_again(
    rig: RuntimeRig, changes: dict[str, Any], error_kind: int
) -> None:
    await rig.run(HANDLER)
    record = with_key(**changes)
    await accept(rig, record)

    assert (await rig.reply_to(record)).error_kind == error_kind

    again = with_key(b'{"size": 2}')
    assert (await accept(rig, again))[0] == 0
    assert (await rig.reply_to(again)).payload == b'"xx"'


async def test_a_call_whose_handler_could_not_be_initialised_may_be_asked_for_again(rig: RuntimeRig) -> None:
    await rig.run("import nothing_of_that_name")
    record = with_key()
    await accept(rig, record)

    assert (await rig.reply_to(record)).error_kind == ERROR_FUNCTION

    assert (await accept(rig, with_key()))[0] == 0


async def test_a_key_that_has_expired_is_not_brought_back(rig: RuntimeRig) -> None:
    await rig.run(HANDLER)
    record = with_key()
    await rig.append(record)

    await rig.reply_to(record)

    assert not await rig.redis.exists(rig.keys.once(KEY_HASH))


async def test_whatever_is_lost_with_the_instance_a_repetition_finds_no_less_than_the_caller(
    rig: RuntimeRig,
) -> None:
    """It dies after each command of its last write."""
    await rig.prepare()
    leases = Leases()
    finisher = Finisher(
        rig.keys, rig.platform_keys.prefix, "$LATEST", "i", leases, Console("f", "i"), _never_fails, _is_never_lost
    )
    record = with_key()
    await accept(rig, record)
    [entry_id] = await lease(rig.redis, rig.queue.sync, "i")
    finisher.reply(Call(SYNC, entry_id, record, bytes(16), 0.0), b'"answer"')
    link = RecordingLink()
    finisher.flush(cast("Any", link))

    seen = []
    for commands in range(len(link.commands) + 1):
        await link.carry_out(rig.redis, commands)
        once = await command(rig.redis, "GET", rig.keys.once(KEY_HASH))
        told = await rig.redis.llen(rig.platform_keys.reply("gateway-1"))
        _, leased = await rig.queued(rig.queue.sync)
        seen.append((ONCE.unpack_from(once)[2], bool(told), leased))

    assert seen == [
        (ONCE_PENDING, False, 1),
        (ONCE_DONE, False, 1),
        (ONCE_DONE, True, 1),
        (ONCE_DONE, True, 1),
        (ONCE_DONE, True, 0),
    ]


@pytest.mark.parametrize("ran", [True, False])
async def test_an_end_that_comes_late_or_again_leaves_what_stands_under_the_key(rig: RuntimeRig, *, ran: bool) -> None:
    """A write that is sent again after a lost connection, when the key is another call's already."""
    await rig.prepare()
    finisher = Finisher(
        rig.keys, rig.platform_keys.prefix, "$LATEST", "i", Leases(), Console("f", "i"), _never_fails, _is_never_lost
    )
    first, second = with_key(), with_key()
    await accept(rig, first)
    [entry_id] = await lease(rig.redis, rig.queue.sync, "i")
    finisher.reply(Call(SYNC, entry_id, first, bytes(16), 0.0), b'"late"', ran=ran)
    link = RecordingLink()
    finisher.flush(cast("Any", link))
    await run_many(rig.redis, settlement(rig.keys, first, b"", ran=False))
    assert (await accept(rig, second))[0] == 0

    await link.carry_out(rig.redis, len(link.commands))

    assert await command(rig.redis, "GET", rig.keys.once(KEY_HASH)) == ONCE.pack(
        PAYLOAD_HASH, second.invocation_id, ONCE_PENDING
    )


def _never_fails(error: Exception) -> None:
    raise AssertionError(f"Redis refused a step: {error}")


def _is_never_lost() -> None:
    """No connection is lost."""
