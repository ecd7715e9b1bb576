"""Fixtures for every test: a real Valkey for each test process, a prefix and a client for each test."""

import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from forebay_common.keys import PlatformKeys
from forebay_common.queue import VersionQueue, create_queues, delete_function_keys
from forebay_common.redis_client import RedisSettings, connect
from forebay_common.scripts import load_all
from support.leaks import leaked_keys
from support.valkey import ValkeyServer


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[dict[str, Any]]:
    """Settings (as `RedisSettings.from_json` takes them) of a Valkey that lives as long as this test process."""
    server = ValkeyServer()
    try:
        server.start()
        yield server.settings
    finally:
        server.close()


@pytest.fixture
def prefix() -> str:
    """A key prefix of the test's own."""
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
async def redis(valkey_server: dict[str, Any]) -> AsyncIterator[Redis]:
    """A client that answers bytes; the queue's scripts are loaded."""
    client = connect(RedisSettings.from_json(valkey_server))
    await load_all(client)
    yield client
    await client.aclose()


@pytest.fixture
async def no_leaked_keys(redis: Redis, prefix: str) -> AsyncIterator[None]:
    """Fails a test that leaves a key under its prefix without a TTL and off the permanent list (support.leaks).

    Ask for it in a whole file with `pytestmark = pytest.mark.usefixtures("no_leaked_keys")`.
    """
    yield
    leaked = await leaked_keys(redis, prefix)
    assert not leaked, f"keys that would stay for ever: {leaked}"


@pytest.fixture
def platform_keys(prefix: str) -> PlatformKeys:
    """The installation's keys outside any function."""
    return PlatformKeys(prefix)


@pytest.fixture
async def queue(redis: Redis, platform_keys: PlatformKeys) -> AsyncIterator[VersionQueue]:
    """The queues of a function `default/hello`; the function is deleted after the test."""
    version = VersionQueue(platform_keys.function("default", "hello", secrets.token_hex(8)))
    await create_queues(redis, version)
    yield version
    await delete_function_keys(redis, version.keys)
