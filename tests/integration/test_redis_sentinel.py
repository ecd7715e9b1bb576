"""Finding the primary through sentinels: at each connection anew, and only a server that says itself that it is one."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from forebay_common.redis_client import command, connect
from forebay_common.redis_exchange import ExchangeError
from forebay_common.redis_sentinel import Sentinels
from forebay_common.redis_settings import Address, RedisSettings
from forebay_gateway.redis_link import RedisLink
from forebay_gateway.redis_links import Links
from forebay_gateway.resp import pack
from support.queue_side import call
from support.redis_servers import KINDS, PRIMARY_NAME, SentinelGroup, TcpServer
from support.runtime_rig import RuntimeRig
from support.waiting import wait_until, wait_until_async

NOBODY = Address("127.0.0.1", 1)


@pytest.fixture(scope="module", params=KINDS)
def group(request: pytest.FixtureRequest) -> Iterator[SentinelGroup]:
    with closing(SentinelGroup(request.param)) as servers:
        servers.start()
        yield servers


@pytest.fixture
def settings(group: SentinelGroup) -> RedisSettings:
    found = RedisSettings.from_json(group.settings)
    assert found == RedisSettings.from_url(group.url)
    return found


@asynccontextmanager
async def client_of(settings: RedisSettings) -> AsyncIterator[Redis]:
    client = connect(settings)
    try:
        yield client
    finally:
        await client.aclose()


def primary_of(group: SentinelGroup) -> TcpServer:
    found = group.primary
    assert found is not None
    return found


def hand_over(group: SentinelGroup) -> None:
    """Another server becomes the primary, and the one that was goes on as its replica."""
    before = primary_of(group)
    assert group.sentinels[0].ask("SENTINEL", "FAILOVER", PRIMARY_NAME) == b"+OK\r\n"
    wait_until(lambda: group.primary is not before and b"slave" in before.ask("ROLE"), "it is handed over", 30)


async def test_sentinels_that_are_away_are_passed_over(settings: RedisSettings, group: SentinelGroup) -> None:
    found = await Sentinels(replace(settings, nodes=(NOBODY, *settings.nodes))).primary()
    assert found == Address("127.0.0.1", primary_of(group).port)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"nodes": (NOBODY,)}, "127.0.0.1:1: "),
        ({"sentinel_master": "other"}, "it knows no primary 'other'"),
        ({"sentinel_password": "wrong"}, "WRONGPASS"),
    ],
)
async def test_where_no_sentinel_tells_it_is_said_why(
    settings: RedisSettings, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ExchangeError, match="no sentinel tells where the primary is") as raised:
        await Sentinels(replace(settings, **changes)).primary()
    assert says in str(raised.value)
    async with client_of(replace(settings, **changes)) as redis:
        with pytest.raises(RedisConnectionError):
            await command(redis, "PING")


async def test_a_primary_that_was_replaced_is_left_by_a_client_and_a_link(
    settings: RedisSettings, group: SentinelGroup
) -> None:
    ups = 0

    def count() -> None:
        nonlocal ups
        ups += 1

    link = Links(settings).commands("test", count, lambda: None)
    link.start()
    async with client_of(settings) as redis:
        assert await command(redis, "SET", "before", 1)

        async def is_up() -> bool:
            return link.connected

        await wait_until_async(is_up, "the link is up")
        await asyncio.to_thread(hand_over, group)

        async def writes() -> bool:
            with suppress(RedisError):
                return bool(await command(redis, "SET", "after", 1))
            return False

        await wait_until_async(writes, "the client writes to the new primary", 20)
        assert await command(redis, "GET", "before") == b"1"

        async def links() -> bool:
            if not link.connected:
                return False
            reply = asyncio.get_running_loop().create_future()
            link.write((pack("SET", "link", 1),), reply.set_result)
            return bool(await reply == b"OK")

        await wait_until_async(links, "the link writes to it", 20)
        assert ups >= 2
    await link.close()


class Misled:
    """A place that a sentinel is behind about: it names a replica first."""

    must_be_primary = True

    def __init__(self, *ports: int) -> None:
        self.ports = [*ports]

    async def find(self) -> Address:
        return Address("127.0.0.1", self.ports.pop(0) if len(self.ports) > 1 else self.ports[0])

    def is_stale(self) -> bool:
        return False

    def is_left(self, error: str) -> bool:
        return False


async def test_a_server_that_says_it_is_a_replica_is_not_taken_for_the_primary(
    settings: RedisSettings, group: SentinelGroup
) -> None:
    replica = next(server for server in group.servers if server is not primary_of(group))
    place = Misled(replica.port, primary_of(group).port)
    up = asyncio.Event()
    link = RedisLink(settings, "test", place=place, on_up=up.set)
    link.start()
    await asyncio.wait_for(up.wait(), 10)
    assert place.ports == [primary_of(group).port]
    reply = asyncio.get_running_loop().create_future()
    link.write((pack("SET", "k", 1),), reply.set_result)
    assert await asyncio.wait_for(reply, 10) == b"OK"
    await link.close()


async def test_an_instance_goes_on_with_the_new_primary(
    settings: RedisSettings, group: SentinelGroup, prefix: str
) -> None:
    async with client_of(settings) as redis, RuntimeRig(redis, group.settings, prefix) as rig:
        await rig.run()
        assert (await rig.invoke(b"1")).payload == b"1"
        await asyncio.to_thread(hand_over, group)

        async def queued() -> Any:
            with suppress(RedisError):
                return await rig.append(call(b"2"))

        await wait_until_async(queued, "the new primary takes calls", 20)
        [frame] = (await rig.replies(1)).values()
        assert frame.payload == b"2"
