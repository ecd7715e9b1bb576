"""What an instance's Redis user must be allowed, and no more: the rule of docs/queue-protocol.md, held to its word."""

import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from forebay_common import scripts
from forebay_common.keys import GROUP, PlatformKeys
from forebay_common.queue import VersionQueue
from forebay_common.redis_client import RedisSettings, command, connect, run
from support.queue_side import ADDRESS, append, call, event, finish_async, lease, start_instance

pytestmark = pytest.mark.usefixtures("no_leaked_keys")

OWN_KEYS = ("q:*", "instance:*", "body:*", "result:*")
STREAM_COMMANDS = ("xreadgroup", "xack", "xdel", "xadd", "xpending", "xrange", "xclaim", "xgroup")
COMMANDS = (*STREAM_COMMANDS, "evalsha", "time", "ping", "zadd", "get", "set", "unlink", "expire", "pexpire", "hset")


@pytest.fixture
async def instance(
    redis: Redis, valkey_server: dict[str, Any], queue: VersionQueue, platform_keys: PlatformKeys
) -> AsyncIterator[Redis]:
    """A client that may do what an instance of `queue`'s function may."""
    user, password = f"u{secrets.token_hex(4)}", secrets.token_hex(8)
    await command(
        redis,
        *("ACL", "SETUSER", user, "reset", "on", f">{password}", f"&{platform_keys.wake_channel}"),
        *(f"~{queue.keys.base}:{own}" for own in OWN_KEYS),
        *(f"+{name}" for name in (*COMMANDS, "publish")),
        *(f"(+get %R~{queue.keys.base}:code:*)", f"(+rpush ~{platform_keys.prefix}:reply:*)"),
    )
    client = connect(RedisSettings.from_json(valkey_server | {"username": user, "password": password}))
    yield client
    await client.aclose()
    await command(redis, "ACL", "DELUSER", user)


async def test_an_instance_can_do_its_whole_work(
    redis: Redis, instance: Redis, queue: VersionQueue, platform_keys: PlatformKeys
) -> None:
    await start_instance(instance, queue, "i1")
    await command(redis, "SET", queue.keys.code("ab" * 32, 0), b"chunk")
    assert await command(instance, "GET", queue.keys.code("ab" * 32, 0)) == b"chunk"
    for record in (call(), call(), *(event() for _ in range(4))):
        await append(redis, queue, record)
    answered, handed_back = await lease(instance, queue.sync, "i1", 2)
    events = await lease(instance, queue.async_, "i1", 4)

    assert await run(instance, scripts.EXTEND, (queue.async_,), ("i1", *events)) == events
    for entry_id, outcome in zip(events, ("done", "retry", "dead", "expired"), strict=True):
        assert await finish_async(instance, queue, entry_id, "i1", outcome, reason="RetriesExhausted") == 1
    assert await run(instance, scripts.RELEASE, (queue.sync,), ("i1", handed_back)) == 1
    await command(instance, "RPUSH", f"{platform_keys.prefix}:{ADDRESS}", b"frame")
    await command(instance, "XACK", queue.sync, GROUP, answered)
    await command(instance, "XDEL", queue.sync, answered)
    await command(instance, "PUBLISH", platform_keys.wake_channel, "default/hello/u1")
    keys = (queue.sync, queue.async_, queue.keys.control("i1"), queue.keys.instance("i1"))
    assert await run(instance, scripts.LEAVE, keys, ("i1", 1_000)) == 0
    await command(redis, "UNLINK", f"{platform_keys.prefix}:{ADDRESS}")


async def test_an_instance_can_do_nothing_else(
    instance: Redis, queue: VersionQueue, platform_keys: PlatformKeys
) -> None:
    other = VersionQueue(platform_keys.function("default", "other", "u9"))
    reply = f"{platform_keys.prefix}:{ADDRESS}"
    for forbidden in (
        ("EVAL", "return 1", 0),
        ("SCRIPT", "LOAD", "return 1"),
        ("FUNCTION", "LIST"),
        ("SCAN", 0),
        ("XADD", other.sync, "*", "r", "x"),
        ("GET", other.keys.code("ab" * 32, 0)),
        ("SET", queue.keys.code("ab" * 32, 0), "x"),
        ("GET", queue.keys.spec()),
        ("LRANGE", reply, 0, -1),
        ("EXPIRE", reply, 1),
        ("UNLINK", reply),
        ("HGETALL", platform_keys.functions),
        ("PUBLISH", platform_keys.functions, "1 default/hello"),
    ):
        with pytest.raises(NoPermissionError):
            await command(instance, *forbidden)
    with pytest.raises(NoPermissionError):
        await run(instance, scripts.PROMOTE, (other.delayed, other.async_), (1,))
