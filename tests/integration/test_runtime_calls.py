"""The runtime with the real handlers' program: what a caller gets for each way a call can go."""

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from redis.asyncio import Redis

from forebay_common.frames import (
    ERROR_EXPIRED,
    ERROR_FUNCTION,
    ERROR_NONE,
    ERROR_REFUSED,
    FLAG_COLD,
    KIND_ERROR,
    KIND_WHOLE,
)
from forebay_common.limits import CLAIM_CHECK_BYTES, RESPONSE_MAX_BYTES
from forebay_common.record import FLAG_LOG_TAIL, Invocation
from support.queue_side import call, event, records
from support.runtime_rig import RuntimeRig
from support.waiting import wait_until_async


@pytest.fixture
async def rig(redis: Redis, valkey_server: dict[str, Any], prefix: str) -> AsyncIterator[RuntimeRig]:
    rig = RuntimeRig(redis, valkey_server, prefix)
    yield rig
    await rig.close()


async def test_a_call_is_answered_and_leaves_nothing(rig: RuntimeRig) -> None:
    await rig.run()

    first = await rig.invoke(b'{"n": 1}')
    second = await rig.invoke(b'{"n": 2}')

    assert (first.kind, first.error_kind, first.payload) == (KIND_WHOLE, ERROR_NONE, b'{"n": 1}')
    assert first.flags & FLAG_COLD
    assert first.init_us > 0
    assert (second.payload, second.flags, second.init_us) == (b'{"n": 2}', 0, 0)
    assert await rig.drain() == 0
    assert await rig.queued(rig.queue.sync) == (0, 0)
    assert await rig.heartbeat() == {}
    assert await rig.redis.exists(rig.keys.control(rig.instance_id)) == 0
