"""What destinations may take of the platform: places under way, ids, memory of streams, time of records."""

import contextlib
import time
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import cast

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from forebay_common import scripts
from forebay_common.queue import delete_function_keys
from forebay_common.redis_client import command, run
from forebay_common.spec import FunctionSpec
from forebay_controller.destinations import document, streams
from forebay_controller.destinations.couriers import RETRY_S, Couriers
from forebay_controller.destinations.decisions import AT_ONCE_MAX, KEEP_MS, TOTAL_MAX
from forebay_controller.destinations.targets import Outgoing, Targets
from forebay_controller.metrics import Metrics
from forebay_controller.outbound import Outbound
from support.controller_rig import SIGNING_KEY, until
from support.destination_rig import LOOPBACK, DestinationRig
from support.queue_side import accept, event
from support.receiver import receiving

pytestmark = pytest.mark.usefixtures("no_leaked_keys")


@pytest.fixture
async def rig(redis: Redis, prefix: str) -> AsyncIterator[DestinationRig]:
    rig = DestinationRig(redis, prefix)
    await rig.controller.start()
    yield rig
    await rig.close()


async def sizes(rig: DestinationRig, name: str) -> list[int]:
    """Of the records in a stream, oldest first."""
    entries = await command(rig.redis, "XRANGE", rig.platform.stream("default", name), "-", "+")
    return [len(fields[b"record"]) for _, fields in entries]


def once_hash(key: str) -> bytes:
    return sha256(key.encode()).digest()[:16]


def once_key(rig: DestinationRig, spec: FunctionSpec, key: str) -> str:
    return rig.queue(spec).keys.once(once_hash(key))


async def accept_under(rig: DestinationRig, spec: FunctionSpec, key: str) -> None:
    """An event under an idempotency key."""
    assert (await accept(rig.redis, rig.queue(spec), event(), once=(once_hash(key), b"p" * 16, 60)))[0] == 0


async def test_as_many_slow_receivers_as_would_take_all_places_hold_up_no_other(rig: DestinationRig) -> None:
    async with contextlib.AsyncExitStack() as open_:
        slow = [await open_.enter_async_context(receiving()) for _ in range(TOTAL_MAX // AT_ONCE_MAX)]
        for receiver in slow:
            receiver.may_answer.clear()
            await rig.end_many(await rig.function(on_success=receiver.url), 2 * AT_ONCE_MAX)
            await until(lambda receiver=receiver: receiver.open_now >= AT_ONCE_MAX - 1, "it has its share")  # type: ignore[misc]
        quick = await open_.enter_async_context(receiving())
        other = await rig.function(on_success=quick.url)
        for told in range(1, 4):
            await rig.end(other)
            await until(lambda told=told: len(quick.posts) == told, "the quick one is told")  # type: ignore[misc]
        for receiver in slow:
            receiver.may_answer.set()
        await until(lambda: all(len(receiver.posts) == 2 * AT_ONCE_MAX for receiver in slow), "all are told")


async def test_a_users_idempotency_key_stands_in_no_destinations_way(rig: DestinationRig) -> None:
    target = await rig.function()
    spec = await rig.function(on_success=f"function:{target.name}")
    await rig.end(spec, wake=False)
    (entry,) = await rig.outbox(spec)
    key = f"destination/{spec.uid}/{entry.entry_id.decode()}"
    await accept_under(rig, target, key)
    await rig.wake(spec)
    await rig.emptied(spec)
    assert len(await rig.events(target)) == 2


async def test_another_record_under_a_records_id_is_no_delivery(rig: DestinationRig) -> None:
    target = await rig.function()
    spec = await rig.function(on_success=f"function:{target.name}")
    await rig.end(spec, wake=False)
    (entry,) = await rig.outbox(spec)
    key = f"\0destination/{spec.uid}/{entry.entry_id.decode()}"
    await accept_under(rig, target, key)
    await rig.wake(spec)
    await rig.refused(spec, "function")
    assert len(await rig.outbox(spec)) == 1
    await rig.redis.unlink(once_key(rig, target, key))
    await rig.emptied(spec)
    assert len(await rig.events(target)) == 2


async def test_a_record_that_can_never_be_made_is_given_up_after_its_time(
    rig: DestinationRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = rig.new_name()
    spec = await rig.function(on_success=f"stream:{name}")
    made = document.invocation_record
    seconds, _ = await rig.redis.time()
    poisoned = await rig.end(spec, entry_id=f"{seconds * 1000 - KEEP_MS + 1_500}-0", wake=False)

    def make(entry: object, *rest: object) -> bytes:
        if entry.record.invocation_id == poisoned.invocation_id:  # type: ignore[attr-defined]
            raise KeyError("what nobody expected")
        return made(entry, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(document, "invocation_record", make)
    await rig.end_many(spec, 3)
    await until(lambda: rig.counted(spec, "stream", "delivered") == 3, "the others are told")
    await rig.emptied(spec)
    assert await rig.dead(spec) == ["DestinationFailed"]


async def test_a_stream_holds_so_many_bytes_and_the_oldest_go(
    rig: DestinationRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 200_000
    monkeypatch.setattr(streams, "BYTES_MAX", most)
    name = rig.new_name()
    spec = await rig.function(on_success=f"stream:{name}")
    await rig.end_many(spec, 300)
    await rig.emptied(spec)
    small = await sizes(rig, name)
    assert len(small) == 300
    assert sum(small) <= most
    for _ in range(4):
        await rig.end(spec, result=b'"%s"' % (b"x" * 60_000))
        await rig.emptied(spec)
    held = await sizes(rig, name)
    assert [size for size in held if size > 60_000] == held[-3:], "the newest are kept"
    assert most - max(held) <= sum(held) <= most
    await rig.end(spec, result=b'"%s"' % (b"x" * most))
    await rig.emptied(spec)
    assert len(await sizes(rig, name)) == 1, "a record is taken, however large"


async def test_what_a_reader_deletes_makes_room(redis: Redis, prefix: str) -> None:
    stream = f"{prefix}:{{stream/default/read}}"

    async def add(size: int) -> bytes:
        entry_id: bytes = await run(redis, scripts.ADD_TO_STREAM, (stream,), ("id", b"x" * size, 1_000, 1_000, 60))
        return entry_id

    for _ in range(50):
        await redis.xdel(stream, await add(100))
    kept = [await add(100) for _ in range(10)]
    assert [entry_id for entry_id, _ in await command(redis, "XRANGE", stream, "-", "+")] == kept
    await redis.unlink(stream)
    kept = [await add(100) for _ in range(10)]
    assert [entry_id for entry_id, _ in await command(redis, "XRANGE", stream, "-", "+")] == kept
    await command(redis, "XADD", stream, "*", "field", "of somebody else")
    await add(100)
    await redis.unlink(stream)


async def test_a_stream_goes_two_weeks_after_its_last_record(rig: DestinationRig) -> None:
    name = rig.new_name()
    spec = await rig.function(on_success=f"stream:{name}")
    await rig.end(spec)
    await rig.emptied(spec)
    stream = rig.platform.stream("default", name)
    assert 0 < await rig.redis.ttl(stream) <= streams.KEEP_S
    await rig.redis.expire(stream, 60)
    await rig.end(spec)
    await rig.emptied(spec)
    assert await rig.redis.ttl(stream) > 60


async def test_a_namespace_has_so_many_streams_until_one_is_deleted(
    rig: DestinationRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "STREAMS_MAX", 2)
    names = [rig.new_name() for _ in range(3)]
    specs = [await rig.function(on_success=f"stream:{name}") for name in names]
    for spec in specs:
        await rig.end_many(spec, 2)
        await rig.emptied(spec)
    assert [len(await rig.dead(spec)) for spec in specs] == [0, 0, 2]
    assert set(await rig.dead(specs[2])) == {"DestinationStreamsFull"}
    assert not await rig.redis.exists(rig.platform.stream("default", names[2]))
    await rig.redis.unlink(rig.platform.stream("default", names[0]))
    await rig.end(specs[2])
    await rig.emptied(specs[2])
    assert len(await sizes(rig, names[2])) == 1


class Away:
    """A client of a Redis that is away; notes when it was asked."""

    def __init__(self) -> None:
        self.asked_s: list[float] = []

    async def execute_command(self, *parts: object, **options: object) -> object:
        del parts, options
        self.asked_s.append(time.monotonic())
        raise RedisConnectionError("nobody listens there")


async def test_while_redis_is_away_it_is_asked_twice_a_second(redis: Redis, prefix: str) -> None:
    rig = DestinationRig(redis, prefix)
    spec = await rig.function(on_success=f"stream:{rig.new_name()}")
    away = Away()
    client = cast("Redis", away)
    outgoing = Outgoing("us-east-1", "000000000000", SIGNING_KEY, lambda: Outbound(LOOPBACK))
    targets = Targets(client, rig.platform, rig.source.functions, outgoing, lambda _: None)
    couriers = Couriers(client, rig.source.functions, targets, Metrics(), lambda _: None)
    couriers.note(spec.uid, rig.queue(spec), 1)
    await until(lambda: len(away.asked_s) == 4, "it has been asked")
    assert away.asked_s[3] - away.asked_s[0] > 2.5 * RETRY_S
    couriers.note(spec.uid, rig.queue(spec), 1)
    asked = len(away.asked_s)
    couriers.forget(spec.uid)
    await couriers.close(1.0)
    assert len(away.asked_s) <= asked + 1
    await rig.close()


async def test_a_deleted_function_leaves_nothing_of_what_waited(rig: DestinationRig) -> None:
    async with receiving() as receiver:
        receiver.may_answer.clear()
        spec = await rig.function(on_success=receiver.url)
        await rig.end(spec, body=b'{"large": 1}')
        await until(lambda: receiver.open_now == 1, "it is on its way")
        rig.source.remove(spec.uid)
        await rig.controller.retire(spec.uid)
        await delete_function_keys(rig.redis, rig.queue(spec).keys)
        receiver.may_answer.set()
        await until(lambda: receiver.open_now == 0, "nobody waits for the receiver any more")
        assert await rig.redis.keys(f"{rig.queue(spec).keys.base}:*") == []
