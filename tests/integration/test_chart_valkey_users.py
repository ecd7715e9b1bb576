"""The users of the chart's Valkey, as its files make them: each can do its work and nothing else."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from forebay_common.credentials import Credential
from forebay_common.frames import ERROR_DELETED
from forebay_common.function_table import publish_credential, published_credentials, remove_credential
from forebay_common.keys import PlatformKeys
from forebay_common.queue import VersionQueue, create_queues, delete_function_keys, observe, send_control, wakes
from forebay_common.recovery import fail_queued_sync, reap_processes
from forebay_common.redis_client import RedisSettings, command, connect
from forebay_common.scripts import load_all
from forebay_controller.code_package import CodePackage
from forebay_controller.code_store import CodeStore
from support.chart_values import CHARTS
from support.queue_side import append, call, start_instance

RIGHTS = CHARTS / "forebay" / "files" / "controller-rights.acl"


@pytest.fixture
async def controller(redis: Redis, valkey_server: dict[str, Any], prefix: str) -> AsyncIterator[Redis]:
    """A client that may do what the chart lets the controller do."""
    user, password = f"u{secrets.token_hex(4)}", secrets.token_hex(8)
    rules = RIGHTS.read_text().replace("PREFIX", prefix).split()
    await command(redis, "ACL", "SETUSER", user, "reset", "on", f">{password}", *rules)
    client = connect(RedisSettings.from_json(valkey_server | {"username": user, "password": password}))
    yield client
    await client.aclose()
    await command(redis, "ACL", "DELUSER", user)


async def test_the_controller_can_do_its_whole_work(controller: Redis, platform_keys: PlatformKeys) -> None:
    await load_all(controller)
    queue = VersionQueue(platform_keys.function("default", "hello", secrets.token_hex(8)))
    await create_queues(controller, queue)
    await start_instance(controller, queue, "i1")
    await append(controller, queue, call())
    assert await observe(controller, [queue]) != [None]
    assert await send_control(controller, queue.keys, "i1", {"command": "drain"})
    await fail_queued_sync(controller, platform_keys, queue, ERROR_DELETED, b"it is gone")
    await reap_processes(controller, platform_keys)
    await publish_credential(
        controller, platform_keys, Credential.derive("FBAKTEST", "secret", region="us-east-1", now_s=0)
    )
    assert await published_credentials(controller, platform_keys) == {"FBAKTEST"}
    await remove_credential(controller, platform_keys, "FBAKTEST")
    await CodeStore(controller).put(queue.keys, CodePackage(b"package", "ab" * 32))
    await delete_function_keys(controller, queue.keys)


async def test_the_controller_hears_of_work(controller: Redis, platform_keys: PlatformKeys) -> None:
    heard = wakes(controller, platform_keys)
    assert await anext(heard) is None  # subscribed
    await command(controller, "PUBLISH", platform_keys.wake_channel, "default/hello/u1")
    async with asyncio.timeout(5):
        assert await anext(heard) == "default/hello/u1"
    await heard.aclose()


async def test_the_controller_can_make_functions_users(controller: Redis, redis: Redis, prefix: str) -> None:
    assert "run_id" in await command(controller, "INFO", "server")
    user = f"{prefix}-fn-u1"
    await command(controller, "ACL", "SETUSER", user, "reset", "on", ">secret", f"~{prefix}:{{a}}:*", "+ping")
    assert user.encode() in await command(controller, "ACL", "USERS")
    await command(controller, "ACL", "DELUSER", user)
    assert user.encode() not in await command(redis, "ACL", "USERS")


async def test_the_controller_can_do_nothing_else(controller: Redis) -> None:
    for parts in (
        ("FLUSHALL",),
        ("KEYS", "*"),
        ("CONFIG", "SET", "appendonly", "no"),
        ("SHUTDOWN", "NOSAVE"),
        ("MONITOR",),
        ("REPLICAOF", "192.0.2.1", "6379"),
        ("GET", "another:{functions}"),
        ("PUBLISH", "another", "x"),
    ):
        with pytest.raises(NoPermissionError):
            await command(controller, *parts)
