"""A day of traffic leaves nothing behind: every kind of call and event, instances and gateways that come and go.

The day's hours pass by letting each key's remaining time be an hour shorter.
"""

import secrets

import pytest
from redis.asyncio import Redis

from forebay_common import limits
from forebay_common.events import cancel_event, trim_ended
from forebay_common.frames import ReplyFrame
from forebay_common.keys import GROUP, PlatformKeys
from forebay_common.outbox import outbox_dead, outbox_done, read_outbox
from forebay_common.queue import VersionQueue, observe, promote, trim_dead_letters
from forebay_common.record import FLAG_DESTINATION_FAILURE, FLAG_DESTINATION_SUCCESS, Invocation
from forebay_common.recovery import abandon_instance, reap_expired, reap_processes
from forebay_common.redis_client import command
from forebay_runtime.finishing import DEAD, DONE, RETRIES_EXHAUSTED, RETRY
from support.queue_side import (
    accept,
    accept_once,
    append,
    body_of,
    call,
    event,
    finish_async,
    lease,
    make_due,
    records,
    start_instance,
)

pytestmark = pytest.mark.usefixtures("no_leaked_keys")

HOURS = 24
HOUR_MS = 3_600_000
DEAD_AN_HOUR = 60
"""So many that their bound is reached within the day."""
KEY_RETENTION_S = 2 * 3_600
FRAME = ReplyFrame(token=bytes(16), payload=b'"done"').encode()
ROUNDS = 4
"""An event of a group of three is leased in the third at the latest, one that is tried again in the second."""

assert HOURS * DEAD_AN_HOUR > limits.DEAD_LETTERS_MAX


class Traffic:
    """The traffic of hours; `ends` says how each event is to end that does not simply succeed."""

    def __init__(self, redis: Redis, platform: PlatformKeys, queue: VersionQueue) -> None:
        self.redis = redis
        self.platform = platform
        self.queue = queue
        self.ends: dict[bytes, list[str]] = {}

    async def hour(self, number: int) -> None:
        """One hour: a new gateway and a new instance, which both die in its end."""
        gateway, instance = f"gateway-{number}", f"instance-{number}"
        await command(self.redis, "SET", self.platform.process(gateway), "gateway", "EX", limits.HEARTBEAT_TTL_S)
        await command(self.redis, "SADD", self.platform.processes, gateway)
        await start_instance(self.redis, self.queue, instance)
        await self.calls(instance, gateway)
        await self.accept_events()
        await self.run_events(instance)
        for entry in await read_outbox(self.redis, self.queue):
            if entry.status == "succeeded":
                await outbox_done(self.redis, self.queue, entry)
            else:
                assert await outbox_dead(self.redis, self.queue, entry, "DestinationFailed")
        await self.deaths(instance, gateway)

    async def calls(self, instance: str, gateway: str) -> None:
        """Sync calls, one of them with an idempotency key, one with a large payload."""
        await accept_once(self.redis, self.queue, call(), secrets.token_bytes(16), bytes(16), KEY_RETENTION_S)
        large = call()
        body = await body_of(self.redis, self.queue, large)
        await append(self.redis, self.queue, large)
        for entry_id in await lease(self.redis, self.queue.sync, instance, 2):
            await command(self.redis, "RPUSH", self.platform.reply(gateway), b"frame")
            await command(self.redis, "XDEL", self.queue.sync, entry_id)
            await command(self.redis, "XACK", self.queue.sync, GROUP, entry_id)
        await command(self.redis, "UNLINK", body)

    async def accept_events(self) -> None:
        """Of each kind some."""
        for number in range(DEAD_AN_HOUR):
            dying = event()
            body = [await body_of(self.redis, self.queue, dying)] if number % 10 == 0 else []
            await self.accept(dying, DEAD, body=body)
        for _ in range(10):
            await self.accept(event())
            await self.accept(event(), once=(secrets.token_bytes(16), bytes(16), KEY_RETENTION_S))
            await self.accept(event(), delay_ms=60_000)
            await self.accept(event(), RETRY)
            await self.accept(event(flags=FLAG_DESTINATION_SUCCESS))
            await self.accept(event(flags=FLAG_DESTINATION_FAILURE), DEAD)
            cancelled = event()
            await self.accept(cancelled)
            await cancel_event(self.redis, self.queue, cancelled.invocation_id)
        for group in (secrets.token_bytes(16), secrets.token_bytes(16)):
            for _ in range(3):
                await self.accept(event(group_hash=group))

    async def accept(self, record: Invocation, *ends: str, **how: object) -> None:
        """An event that ends so, one attempt after the other, and then well."""
        self.ends[record.invocation_id] = list(ends)
        assert await accept(self.redis, self.queue, record, **how) == [0, record.invocation_id]  # type: ignore[arg-type]

    async def run_events(self, instance: str) -> None:
        """Run all there are, those of a later time too."""
        for _ in range(ROUNDS):
            await make_due(self.redis, self.queue)
            await promote(self.redis, self.queue)
            waiting = {record.invocation_id: record for record in await records(self.redis, self.queue.async_)}
            for record in waiting.values():
                [entry_id] = await lease(self.redis, self.queue.async_, instance)
                ends = self.ends.get(record.invocation_id) or [DONE]
                await finish_async(
                    self.redis, self.queue, entry_id, instance, ends.pop(0), delay_ms=1_000,
                    reason=RETRIES_EXHAUSTED, frame=FRAME, group=record.group_hash,
                    body=self.queue.body(record.claim),
                )  # fmt: skip

    async def deaths(self, instance: str, gateway: str) -> None:
        """The instance dies with a call and an event, its gateway while a reply is on the way."""
        await append(self.redis, self.queue, call(reply_address=f"reply:{gateway}"))
        await append(self.redis, self.queue, event())
        await lease(self.redis, self.queue.sync, instance)
        await lease(self.redis, self.queue.async_, instance)
        assert (await abandon_instance(self.redis, self.platform, self.queue, instance)).left
        await start_instance(self.redis, self.queue, "heir")
        await self.run_events("heir")
        assert (await abandon_instance(self.redis, self.platform, self.queue, "heir")).left

    async def pass_an_hour(self) -> None:
        """Every key's remaining time is an hour shorter, and the controller has looked at all it looks at."""
        async for key in self.redis.scan_iter(match=f"{self.platform.prefix}:*", count=1000):
            left_ms = await command(self.redis, "PTTL", key)
            if left_ms >= 0:
                # A time that is over removes the key.
                await command(self.redis, "PEXPIRE", key, left_ms - HOUR_MS)
        await reap_expired(self.redis, self.platform, self.queue, lease_ms=0)
        await reap_processes(self.redis, self.platform)
        await trim_ended(self.redis, self.queue, 0)
        [state] = await observe(self.redis, [self.queue])
        assert state is not None
        while await trim_dead_letters(self.redis, self.queue, state.dead):
            pass

    async def sizes(self) -> dict[str, int]:
        """How many keys there are, and how much is in those that stay."""
        keys = [key async for key in self.redis.scan_iter(match=f"{self.platform.prefix}:*", count=1000)]
        queue, found = self.queue, {"keys": len(keys)}
        for name in ("sync", "async_", "dead", "ended", "outbox"):
            found[name] = await command(self.redis, "XLEN", getattr(queue, name))
        found["processes"] = await command(self.redis, "SCARD", self.platform.processes)
        for name in ("live", "groups"):
            # Those of events and groups, beside the sums.
            fields = await command(self.redis, "HKEYS", getattr(queue, name))
            found[name] = sum(len(field) == 16 for field in fields)
        for stream in (queue.sync, queue.async_):
            found[f"consumers of {stream}"] = len(await self.redis.xinfo_consumers(stream, GROUP))
        return found


@pytest.mark.timeout(240)
async def test_a_day_of_traffic_leaves_no_growth(
    redis: Redis, platform_keys: PlatformKeys, queue: VersionQueue
) -> None:
    traffic = Traffic(redis, platform_keys, queue)
    sizes = []
    for number in range(HOURS):
        await traffic.hour(number)
        await traffic.pass_an_hour()
        sizes.append(await traffic.sizes())
    # By then as many dead letters are kept as are kept at all, and keys and dead gateways are remembered for hours.
    settled = sizes[-4]
    assert sizes[-1] == settled
    assert settled["dead"] == limits.DEAD_LETTERS_MAX
    assert settled["live"] == settled["ended"] == settled["groups"] == settled["outbox"] == 0
    assert settled["processes"] <= 3
