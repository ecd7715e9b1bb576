"""One gateway process for the tests of a test process, and a function of its own for each test."""

import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from support.gateway_process import Deployed, GatewayProcess, deploy, remove


@pytest.fixture(scope="session")
def gateway(valkey_server: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A real gateway, ready."""
    process = GatewayProcess(tmp_path_factory.mktemp("gateway"), valkey_server, f"t{secrets.token_hex(4)}")
    try:
        process.start()
        yield process
    finally:
        process.end()


@pytest.fixture
def prefix(gateway: GatewayProcess) -> str:
    """The gateway's: all tests of a process share it, each with its own function."""
    return gateway.prefix


@pytest.fixture
async def function(gateway: GatewayProcess, redis: Redis, no_leaked_keys: None) -> AsyncIterator[Deployed]:
    """A function that the gateway knows; nobody serves it until the test does."""
    deployed = await deploy(gateway, redis, f"f-{secrets.token_hex(4)}")
    yield deployed
    await remove(deployed)


@pytest.fixture
async def http(gateway: GatewayProcess) -> AsyncIterator[httpx.AsyncClient]:
    """A client that may call functions."""
    async with gateway.client() as client:
        yield client


@pytest.fixture
def key() -> dict[str, str]:
    """An idempotency key of the test's own, as a header."""
    return {"idempotency-key": f'"{secrets.token_hex(8)}"'}
