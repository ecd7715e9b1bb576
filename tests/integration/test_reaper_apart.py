"""What Redis refuses of one function, or a part of it that is away, keeps the reaper from no other function."""

import time
from dataclasses import replace
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from forebay_common.keys import GROUP, PlatformKeys
from forebay_common.queue import StreamState
from forebay_common.redis_client import command
from forebay_controller.function_state import EMPTY_QUEUE, FunctionState
from forebay_controller.reaper import Reaper
from support.controller_rig import Rig
from support.queue_side import PROCESS, append, call, give, lease
from support.waiting import wait_until_async

pytestmark = pytest.mark.usefixtures("no_leaked_keys")

LEASE_MS = 400


class PartlyAway:
    """A client whose part that has certain keys does not answer while `away` is in them."""

    def __init__(self, redis: Redis) -> None:
        self.away = ""
        self._redis: Any = redis

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)

    async def execute_command(self, *parts: Any, **options: Any) -> Any:
        self._answer(parts)
        return await self._redis.execute_command(*parts, **options)

    async def xinfo_consumers(self, stream: str, group: str) -> Any:
        self._answer((stream,))
        return await self._redis.xinfo_consumers(stream, group)

    def _answer(self, parts: tuple[Any, ...]) -> None:
        if self.away and any(self.away in str(part) for part in parts):
            raise RedisConnectionError("nobody listens there")


class Found:
    """Stands for the controller: what the reaper has told it."""

    def __init__(self) -> None:
        self.consumers: list[str] = []

    def note_recovered(self, state: FunctionState, consumer: str, done: object) -> None:
        del state, done
        self.consumers.append(consumer)


class Apart:
    """A reaper and functions of which each has an instance that went silent long ago."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        self.rig = Rig(redis, prefix)
        self.redis = PartlyAway(redis)
        self.found = Found()
        self.states: dict[str, FunctionState] = {}
        self.leasing: dict[str, FunctionState] = {}
        self.keeping: dict[str, FunctionState] = {}
        self.reaper = Reaper(
            cast("Redis", self.redis),
            PlatformKeys(prefix),
            cast("Any", self.found),
            self,
            lease_ms=LEASE_MS,
        )

    async def function(self, silent: str) -> FunctionState:
        """One whose instance `silent` holds a call."""
        spec = await self.rig.create()
        state = FunctionState(spec, self.rig.queue(spec), hold(silent))
        await append(self.rig.redis, state.queue, call())
        (entry_id,) = await lease(self.rig.redis, state.queue.sync, silent)
        await give(self.rig.redis, state.queue.sync, entry_id, silent, 60_000)

        async def expired() -> bool:
            (consumer,) = await self.rig.redis.xinfo_consumers(state.queue.sync, GROUP)
            return bool(consumer["idle"] >= LEASE_MS)

        await wait_until_async(expired, "the consumer is idle for a lease")
        self.states[spec.uid] = self.leasing[spec.uid] = state
        return state

    async def reaped(self, consumer: str) -> float:
        """Go round until an instance is given up; gives how long that took in s."""
        began_s = time.monotonic()

        async def given_up() -> bool:
            await self.reaper.reap()
            return consumer in self.found.consumers

        await wait_until_async(given_up, f"{consumer} is given up")
        return time.monotonic() - began_s

    async def close(self) -> None:
        await self.rig.redis.unlink(self.rig.platform.reply(PROCESS))
        await self.rig.close()


def hold(consumer: str) -> Any:
    return replace(EMPTY_QUEUE, sync=StreamState(1, pending={consumer: 1}))


@pytest.fixture
async def apart(redis: Redis, prefix: str) -> Any:
    apart = Apart(redis, prefix)
    yield apart
    await apart.close()


async def test_a_function_with_a_broken_key_is_said_once_and_the_others_are_reaped(
    apart: Apart, caplog: pytest.LogCaptureFixture
) -> None:
    broken = await apart.function("broken")
    await command(apart.rig.redis, "UNLINK", broken.queue.sync)
    await command(apart.rig.redis, "SET", broken.queue.sync, "no stream")
    await apart.function("silent")
    await apart.reaper.reap()
    assert apart.found.consumers == ["silent"]
    await apart.reaper.reap()
    assert caplog.text.count("could not reap") == 1


async def test_a_part_of_redis_that_is_away_stops_nobody_else_and_is_given_a_lease_afterwards(apart: Apart) -> None:
    away = await apart.function("away")
    await apart.function("silent")
    apart.redis.away = away.queue.keys.base
    await apart.reaper.reap()
    assert apart.found.consumers == ["silent"]
    went_s = time.monotonic()

    async def longer_than_a_lease() -> bool:
        await apart.reaper.reap()
        return time.monotonic() > went_s + 1.5 * LEASE_MS / 1000

    await wait_until_async(longer_than_a_lease, "it was away for longer than a lease")
    apart.redis.away = ""
    assert await apart.reaped("away") > LEASE_MS / 2000


async def test_who_was_not_asked_for_while_a_part_was_away_has_a_lease_too(apart: Apart) -> None:
    away = await apart.function("away")
    idle = await apart.function("idle")
    for known in (apart.states, apart.leasing):
        del known[idle.spec.uid]
    apart.redis.away = away.queue.keys.base
    for _ in range(3):
        await apart.reaper.reap()
    apart.found.consumers.clear()
    apart.states[idle.spec.uid] = apart.leasing[idle.spec.uid] = idle
    assert await apart.reaped("idle") > LEASE_MS / 2000
