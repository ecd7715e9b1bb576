"""The ends of events, told to other functions and to Redis streams; and controllers that die while they tell."""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import cast
from uuid import UUID

import pytest
from redis.asyncio import Redis

from forebay_common import limits, record
from forebay_common.acl import gateway_acl
from forebay_common.names import id_prefix
from forebay_common.redis_client import command
from forebay_common.spec import FunctionSpec
from forebay_controller.cluster.access import acl_rules
from forebay_controller.destinations.couriers import Couriers
from forebay_controller.destinations.decisions import HOPS_MAX
from forebay_controller.destinations.targets import Outgoing, Targets
from forebay_controller.metrics import Metrics
from forebay_controller.outbound import Outbound
from support.controller_rig import SIGNING_KEY, until
from support.crashing_redis import CrashingRedis
from support.destination_rig import LOOPBACK, DestinationRig
from support.receiver import Receiver, receiving
from support.waiting import wait_until_async

pytestmark = pytest.mark.usefixtures("no_leaked_keys")

COMMANDS_MAX = 30
"""More than the delivery of one record takes."""


@pytest.fixture
async def rig(redis: Redis, prefix: str) -> AsyncIterator[DestinationRig]:
    rig = DestinationRig(redis, prefix)
    yield rig
    await rig.close()


@pytest.fixture
async def running(rig: DestinationRig) -> DestinationRig:
    await rig.controller.start()
    return rig


async def stream_of(rig: DestinationRig, name: str) -> list[dict[bytes, bytes]]:
    entries = await command(rig.redis, "XRANGE", rig.platform.stream("default", name), "-", "+")
    return [fields for _, fields in entries]


async def test_a_function_gets_the_record_as_an_event_of_its_own(running: DestinationRig) -> None:
    target = await running.function(max_age_s=600, on_failure="stream:failures")
    spec = await running.function(on_success=f"function:{target.name}")
    ended = await running.end(spec, optional={record.TAG_TRACE_ID: b"Root=1-5"})
    await running.emptied(spec)
    (event,) = await running.events(target)
    assert event.payload is not None
    told = json.loads(event.payload)
    assert told["requestContext"]["requestId"] == str(UUID(bytes=ended.invocation_id))
    assert told["responsePayload"] == {"done": True}
    assert event.invocation_id.startswith(id_prefix(target.uid))
    assert UUID(bytes=event.invocation_id).version == 4
    assert (event.kind, event.wait_ms, event.timeout_ms) == (record.KIND_ASYNC, 600_000, 3_000)
    assert event.flags == record.FLAG_DESTINATION_FAILURE
    assert event.arn.endswith(f":function:{target.name}")
    assert event.optional == {record.TAG_HOPS: b"\x01", record.TAG_TRACE_ID: b"Root=1-5"}
    await until(lambda: running.backend.started, "an instance is started for it")


async def test_a_function_that_is_not_there_is_told_when_it_is(running: DestinationRig) -> None:
    target = await running.function()
    running.source.remove(target.uid)
    spec = await running.function(on_success=f"function:{target.name}")
    await running.end(spec)
    await running.refused(spec, "function")
    running.source.put(replace(target, state="Pending"))
    await running.refused(spec, "function", int(running.counted(spec, "function", "failed")) + 1)
    running.source.put(target)
    await running.emptied(spec)
    assert len(await running.events(target)) == 1


async def test_only_functions_of_the_same_namespace_are_told(running: DestinationRig) -> None:
    target = await running.function()
    running.source.put(replace(target, namespace="other"))
    spec = await running.function(on_success=f"function:{target.name}")
    await running.end(spec)
    await running.refused(spec, "function")
    assert await running.events(target) == []


async def test_a_queue_that_is_full_takes_the_record_later(
    running: DestinationRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ASYNC_QUEUE_MAX", 1)
    target = await running.function()
    spec = await running.function(on_success=f"function:{target.name}")
    await command(running.redis, "ZADD", running.queue(target).delayed, 10**15, b"waits")
    await running.end(spec)
    await running.refused(spec, "function")
    assert await running.events(target) == []
    await command(running.redis, "ZREM", running.queue(target).delayed, b"waits")
    await running.emptied(spec)
    assert len(await running.events(target)) == 1


async def test_ends_that_wait_and_groups_count_for_a_queues_bound(
    running: DestinationRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ASYNC_QUEUE_MAX", 3)
    target = await running.function(on_success="http://127.0.0.1:1/closed")
    spec = await running.function(on_success=f"function:{target.name}")
    await command(running.redis, "HSET", running.queue(target).groups, "n", 2)
    await running.end(target)
    await running.refused(target, "url")
    await running.end(spec)
    await running.refused(spec, "function")
    assert await running.events(target) == []
    await command(running.redis, "HDEL", running.queue(target).groups, "n")
    await running.emptied(spec)


async def test_a_large_record_reaches_a_function_as_a_claim(running: DestinationRig) -> None:
    target = await running.function()
    spec = await running.function(on_success=f"function:{target.name}")
    large = json.dumps({"text": "x" * 600_000}).encode()
    await running.end(spec, body=large)
    await running.emptied(spec)
    (event,) = await running.events(target)
    assert event.payload is None
    key = f"{running.queue(target).keys.base}:{event.claim}"
    body: bytes = await command(running.redis, "GET", key)
    assert json.loads(body)["requestPayload"] == json.loads(large)
    assert await running.redis.ttl(key) > limits.ASYNC_AGE_MAX_S


async def test_a_record_that_no_function_may_get_is_a_dead_letter_at_once(running: DestinationRig) -> None:
    target = await running.function()
    spec = await running.function(on_success=f"function:{target.name}")
    await running.end(spec, body=json.dumps("x" * (limits.ASYNC_REQUEST_MAX_BYTES - 2)).encode())
    await running.emptied(spec)
    assert await running.dead(spec) == ["DestinationFailed"]
    assert await running.events(target) == []


async def test_a_chain_of_functions_ends(running: DestinationRig) -> None:
    target = await running.function()
    spec = await running.function(on_success=f"function:{target.name}")
    await running.end(spec, optional={record.TAG_HOPS: bytes([HOPS_MAX - 1])})
    await running.emptied(spec)
    (event,) = await running.events(target)
    assert event.optional[record.TAG_HOPS] == bytes([HOPS_MAX])
    await running.end(spec, optional={record.TAG_HOPS: bytes([HOPS_MAX])})
    await running.emptied(spec)
    assert len(await running.events(target)) == 1
    assert await running.dead(spec) == ["DestinationChainTooLong"]


async def test_the_end_of_a_chain_may_still_be_told_to_others(running: DestinationRig) -> None:
    name = running.new_name()
    spec = await running.function(on_success=f"stream:{name}")
    await running.end(spec, optional={record.TAG_HOPS: bytes([HOPS_MAX])})
    await running.emptied(spec)
    assert len(await stream_of(running, name)) == 1


async def test_a_stream_gets_the_record_and_its_id(running: DestinationRig) -> None:
    name = running.new_name()
    spec = await running.function(on_success=f"stream:{name}", on_failure=f"stream:{name}")
    ended = await running.end(spec)
    await running.end(spec, "failed", reason="RetriesExhausted")
    await running.emptied(spec)
    first, second = await stream_of(running, name)
    assert first.keys() == {b"id", b"record", b"total"}
    assert first[b"id"].decode().startswith(f"{UUID(bytes=ended.invocation_id)}_")
    told = [json.loads(fields[b"record"])["requestContext"]["condition"] for fields in (first, second)]
    assert sorted(told) == ["RetriesExhausted", "Success"]
    await running.counts(spec, "stream", "delivered", 2)


@pytest.mark.parametrize("words", [("XRANGE", "-", "+"), ("XADD", "*", "record", "forged"), ("UNLINK",)])
async def test_neither_functions_nor_gateways_get_at_a_stream(running: DestinationRig, words: tuple[str, ...]) -> None:
    stream = running.platform.stream("default", running.new_name())
    spec = await running.function(on_success="stream:any")
    users = {
        f"{running.prefix}-function": acl_rules(running.platform, spec, "password"),
        f"{running.prefix}-gateway": ("reset", "on", ">password", *gateway_acl(running.prefix)),
    }
    for user, rules in users.items():
        await command(running.redis, "ACL", "SETUSER", user, *rules)
        allowed = await command(running.redis, "ACL", "DRYRUN", user, words[0], stream, *words[1:])
        assert allowed != b"OK"
    await command(running.redis, "ACL", "DELUSER", *users)


async def test_hundreds_of_ends_are_told_once_each(running: DestinationRig) -> None:
    name = running.new_name()
    spec = await running.function(on_success=f"stream:{name}", on_failure=f"stream:{name}")
    for status in ("succeeded", "failed") * 150:
        await running.end(spec, status, wake=False)
    await running.wake(spec)
    await running.emptied(spec)
    ids = [fields[b"id"] for fields in await stream_of(running, name)]
    assert len(ids) == len(set(ids)) == 300


async def test_an_entry_of_a_later_release_stays_and_the_others_are_told(running: DestinationRig) -> None:
    name = running.new_name()
    spec = await running.function(on_success=f"stream:{name}")
    newer = ("r", b"\x09 of a later release", "s", "succeeded", "reason", "", "f", b"")
    await command(running.redis, "XADD", running.queue(spec).outbox, "*", *newer)
    await running.end_many(spec, 40)
    await running.emptied(spec)
    assert len(await stream_of(running, name)) == 40
    assert await running.redis.xlen(running.queue(spec).outbox) == 1


class OneLife:
    """A controller's couriers, whose process dies after so many commands."""

    def __init__(self, rig: DestinationRig, spec: FunctionSpec, commands: int) -> None:
        self.redis = CrashingRedis(rig.redis, commands)
        redis = cast("Redis", self.redis)
        outgoing = Outgoing("us-east-1", "000000000000", SIGNING_KEY, lambda: Outbound(LOOPBACK))
        targets = Targets(redis, rig.platform, rig.source.functions, outgoing, lambda _: None)
        self.couriers = Couriers(redis, rig.source.functions, targets, Metrics(), lambda _: None)
        self.couriers.note(spec.uid, rig.queue(spec), 1)

    async def live(self, rig: DestinationRig, spec: FunctionSpec) -> bool:
        """Run until everything is told, or it is dead; gives whether it had all the commands that it needed."""

        async def over() -> bool:
            return self.redis._left <= 0 or not await rig.outbox(spec)

        await wait_until_async(over, "all is told, or it is dead")
        await self.couriers.close(1.0)
        return self.redis._left > 0


async def told_after_each_crash(
    rig: DestinationRig, spec: FunctionSpec, reset: Callable[[], None], seen: Callable[[int], None]
) -> None:
    """End an event and kill the controller before its n-th command, for every n; another one takes it up."""
    for commands in range(COMMANDS_MAX):
        reset()
        await rig.end(spec, wake=False)
        survived = await OneLife(rig, spec, commands).live(rig, spec)
        if not survived:
            assert await OneLife(rig, spec, 1_000).live(rig, spec)
        await rig.emptied(spec)
        seen(commands)
        if survived:
            return
    raise AssertionError(f"a delivery took more than {COMMANDS_MAX} commands")


async def test_a_controller_that_dies_anywhere_tells_a_url_again_under_the_same_id(rig: DestinationRig) -> None:
    async with receiving() as receiver:
        spec = await rig.function(on_success=receiver.url)
        most = 0

        def seen(_: int) -> None:
            nonlocal most
            assert len({post.headers["webhook-id"] for post in receiver.posts}) == 1
            most = max(most, len(receiver.posts))

        await told_after_each_crash(rig, spec, lambda: _forget(receiver), seen)
        assert most == 2, "no crash fell between the post and its acknowledgement"


async def test_a_controller_that_dies_anywhere_tells_a_function_once(rig: DestinationRig) -> None:
    target = await rig.function()
    spec = await rig.function(on_success=f"function:{target.name}")
    lives: list[int] = []
    await told_after_each_crash(rig, spec, lambda: None, lives.append)
    events = await rig.events(target)
    assert len(events) == len({event.invocation_id for event in events}) == len(lives)
    assert await rig.redis.hlen(rig.queue(target).live) == len(lives)


async def test_a_controller_that_dies_anywhere_tells_a_stream_again_under_the_same_id(rig: DestinationRig) -> None:
    name = rig.new_name()
    spec = await rig.function(on_success=f"stream:{name}")
    lives: list[int] = []
    await told_after_each_crash(rig, spec, lambda: None, lives.append)
    ids = [fields[b"id"] for fields in await stream_of(rig, name)]
    assert len(set(ids)) == len(lives)
    assert len(ids) == len(lives) + 1, "a crash between the two comes once, and tells once more"


async def test_a_controller_that_dies_anywhere_gives_a_record_up_once(rig: DestinationRig) -> None:
    spec = await rig.function()
    lives: list[int] = []
    for commands in range(COMMANDS_MAX):
        await rig.end(spec, "failed", reason="RetriesExhausted", wake=False)
        lives.append(commands)
        if await OneLife(rig, spec, commands).live(rig, spec):
            break
        assert await OneLife(rig, spec, 1_000).live(rig, spec)
    assert await rig.dead(spec) == ["RetriesExhausted"] * len(lives)


def _forget(receiver: Receiver) -> None:
    receiver.posts.clear()
