"""The function table: its entries, its generations, and what is announced."""

import asyncio

import pytest
from redis.asyncio import Redis

from forebay_common.credentials import Credential
from forebay_common.function_table import (
    publish_credential,
    publish_entry,
    published_credentials,
    remove_credential,
    remove_entry,
)
from forebay_common.keys import PlatformKeys
from forebay_common.redis_client import command
from forebay_common.routing import RoutingEntry, VersionRoute

pytestmark = pytest.mark.usefixtures("no_leaked_keys")


def entry(name: str = "hello", capacity: int = 0) -> RoutingEntry:
    return RoutingEntry(
        namespace="default",
        name=name,
        uid="u1",
        arn=f"arn:aws:lambda:us-east-1:000000000000:function:{name}",
        state="Active",
        versions={"$LATEST": VersionRoute(1, 3_000, 128)},
        capacity=capacity,
    )


async def test_each_change_has_the_next_generation_and_is_announced(redis: Redis, platform_keys: PlatformKeys) -> None:
    async with redis.pubsub(ignore_subscribe_messages=True) as channel:
        await channel.subscribe(platform_keys.functions)
        generations = [
            await publish_entry(redis, platform_keys, entry()),
            await publish_entry(redis, platform_keys, entry("other")),
            await publish_entry(redis, platform_keys, entry(capacity=4)),
            await remove_entry(redis, platform_keys, "default/hello"),
        ]
        heard: list[bytes] = []
        async with asyncio.timeout(10):
            while len(heard) < 4:
                message = await channel.get_message(timeout=1)
                if message is not None:
                    heard.append(message["data"])

    assert generations == [1, 2, 3, 4]
    assert heard == [b"1 default/hello", b"2 default/other", b"3 default/hello", b"4 default/hello"]
    table = await command(redis, "HGETALL", platform_keys.functions)
    assert {field: RoutingEntry.from_json(value) for field, value in table.items()} == {
        b"default/other": entry("other")
    }


async def test_writing_or_removing_what_is_already_so_changes_nothing(
    redis: Redis, platform_keys: PlatformKeys
) -> None:
    assert await remove_entry(redis, platform_keys, "default/hello") == 0
    assert await publish_entry(redis, platform_keys, entry()) == 1
    assert await publish_entry(redis, platform_keys, entry()) == 1
    assert await command(redis, "GET", platform_keys.generation) == b"1"


async def test_access_keys_are_announced_under_the_same_generations(redis: Redis, platform_keys: PlatformKeys) -> None:
    key = Credential.derive("FBAKTEST", "secret", region="us-east-1", now_s=1795402236.0)
    async with redis.pubsub(ignore_subscribe_messages=True) as channel:
        await channel.subscribe(platform_keys.functions)
        generations = [
            await publish_credential(redis, platform_keys, key),
            await publish_entry(redis, platform_keys, entry()),
            await publish_credential(redis, platform_keys, key),
            await remove_credential(redis, platform_keys, "FBAKTEST"),
            await remove_credential(redis, platform_keys, "FBAKTEST"),
        ]
        heard: list[bytes] = []
        async with asyncio.timeout(10):
            while len(heard) < 3:
                message = await channel.get_message(timeout=1)
                if message is not None:
                    heard.append(message["data"])

    assert generations == [1, 2, 2, 3, 3]
    assert heard == [b"1 credentials/FBAKTEST", b"2 default/hello", b"3 credentials/FBAKTEST"]


async def test_published_access_keys_can_be_read_back(redis: Redis, platform_keys: PlatformKeys) -> None:
    key = Credential.derive("FBAKTEST", "secret", region="us-east-1", now_s=1795402236.0)
    await publish_credential(redis, platform_keys, key)
    assert await published_credentials(redis, platform_keys) == {"FBAKTEST"}
    stored = await command(redis, "HGET", platform_keys.credentials, "FBAKTEST")
    assert Credential.from_json("FBAKTEST", stored) == key
