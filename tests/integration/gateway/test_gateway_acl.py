"""A real gateway does all its work as the Redis user of `forebay_common.acl`, and that user can do nothing else."""

import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from forebay_common import limits
from forebay_common.acl import gateway_acl
from forebay_common.credentials import Credential
from forebay_common.frames import ReplyFrame
from forebay_common.function_table import publish_credential, remove_credential
from forebay_common.keys import PlatformKeys
from forebay_common.redis_client import RedisSettings, command, connect
from support.gateway_process import Deployed, GatewayProcess, deploy, echo, remove
from support.waiting import wait_until_async

EVENT = {"x-amz-invocation-type": "Event"}
LARGE = b'"' + b"x" * limits.CLAIM_CHECK_BYTES + b'"'


@pytest.fixture
async def user(redis: Redis, valkey_server: dict[str, Any], prefix: str) -> AsyncIterator[dict[str, Any]]:
    """Where Redis is, as the gateway's user."""
    name, password = f"u{secrets.token_hex(4)}", secrets.token_hex(8)
    await command(redis, "ACL", "SETUSER", name, "reset", "on", f">{password}", *gateway_acl(prefix))
    yield valkey_server | {"username": name, "password": password}
    await command(redis, "ACL", "DELUSER", name)


@pytest.fixture
def prefix() -> str:
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
async def restricted(redis: Redis, user: dict[str, Any], prefix: str, tmp_path: Path) -> AsyncIterator[Deployed]:
    """A function of a gateway that is this user; credentials are required."""
    process = GatewayProcess(tmp_path, user, prefix, auth="required")
    process.headers = {"x-api-key": "FBAKTEST.secret"}
    platform = PlatformKeys(prefix)
    key = Credential.derive("FBAKTEST", "secret", region="us-east-1", now_s=1795402236.0)
    await publish_credential(redis, platform, key)
    process.start()
    function = await deploy(process, redis, "hello")
    yield function
    process.end()
    await remove(function)
    await remove_credential(redis, platform, "FBAKTEST")


async def denied(redis: Redis, name: str) -> list[Any]:
    """What Redis refused the user."""
    entries = [dict(zip(entry[::2], entry[1::2], strict=True)) for entry in await command(redis, "ACL", "LOG")]
    return [entry for entry in entries if entry[b"username"] == name.encode()]


async def test_a_gateway_can_do_its_whole_work(redis: Redis, user: dict[str, Any], restricted: Deployed) -> None:
    gateway = restricted.gateway
    async with gateway.client() as http:
        async with restricted.served(echo):
            for body in (b"{}", LARGE):
                answer = await http.post(restricted.path, content=body)
                assert (answer.status_code, answer.content) == (200, body)
                accepted = await http.post(restricted.path, content=body, headers={"x-amz-invocation-type": "Event"})
                assert accepted.status_code == 202
            assert (await http.get("/fn/hello/x")).status_code == 200
        # Nobody answers: the caller's wait ends, and the call, small or large, is taken back.
        for body in (b"{}", LARGE):
            for key in ({}, {"idempotency-key": f'"taken back {len(body)}"'}):
                waited = await http.post(restricted.path, content=body, headers={"x-forebay-wait-ms": "50"} | key)
                assert waited.status_code == 429
        assert await restricted.length() == 0
        await _deliver(restricted, http)
        await _answer_large(redis, restricted, http)
    await restricted.change(capacity=3)
    assert gateway.terminate() == 0
    assert await denied(redis, user["username"]) == []
    assert "NOPERM" not in gateway.log.read_text()


async def _deliver(function: Deployed, http: httpx.AsyncClient) -> None:
    """Calls and events once under their key, in a group, for later: small and large."""
    for body in (b"{}", LARGE):
        key = {"idempotency-key": f'"{len(body)}"'}
        async with function.served(echo):
            answers = [await http.post(function.path, content=body, headers=key) for _ in range(2)]
        assert answers[0].content == body
        # A large answer is not kept.
        assert [answer.status_code for answer in answers] == [200, 200 if body == b"{}" else 409]
        for number, extra in enumerate(({}, {"x-forebay-delay": "60"}, {"x-forebay-group": "g"})):
            for key in ({}, {"idempotency-key": f'"{number} {len(body)}"'}):
                for _ in range(2):
                    accepted = await http.post(function.path, content=body, headers=EVENT | extra | key)
                    assert accepted.status_code == 202


async def _answer_large(redis: Redis, function: Deployed, http: httpx.AsyncClient) -> None:
    """A reply that lies under a key of its own is fetched and deleted."""
    await command(redis, "SET", f"{function.queue.keys.base}:result:r1", LARGE)
    async with function.served(lambda record: [ReplyFrame(token=record.reply_token, payload=None, claim="result:r1")]):
        answer = await http.post(function.path, content=b"{}")
    assert answer.content == LARGE

    async def gone() -> bool:
        left: int = await command(redis, "EXISTS", f"{function.queue.keys.base}:result:r1")
        return left == 0

    await wait_until_async(gone, "the result is deleted")


async def test_a_gateways_user_can_do_nothing_else(redis: Redis, user: dict[str, Any], prefix: str) -> None:
    platform = PlatformKeys(prefix)
    function = platform.function("default", "hello", "u1")
    client = connect(RedisSettings.from_json(user))
    try:
        # What acceptance is held back for where events are to be on a replica.
        assert await command(client, "WAIT", 0, 1) == 0
        for forbidden in (
            ("EVAL", "return 1", 0),
            ("SCRIPT", "LOAD", "return 1"),
            ("FUNCTION", "LIST"),
            ("SCAN", 0),
            ("KEYS", "*"),
            ("FLUSHALL",),
            ("CONFIG", "GET", "*"),
            ("ACL", "LIST"),
            ("CLIENT", "LIST"),
            ("GET", function.code("ab" * 32, 0)),
            ("GET", function.spec()),
            ("GET", function.body("x")),
            ("SET", function.sync("$LATEST"), "x"),
            ("UNLINK", function.sync("$LATEST")),
            ("XRANGE", function.sync("$LATEST"), "-", "+"),
            ("XREADGROUP", "GROUP", "g", "c", "STREAMS", function.sync("$LATEST"), ">"),
            ("HSET", function.instance("i"), "state", "x"),
            ("XADD", function.control("i"), "*", "c", "{}"),
            ("HSET", platform.functions, "default/hello", "{}"),
            ("HSET", platform.credentials, "FBAKTEST", "{}"),
            ("SET", platform.generation, "7"),
            ("PUBLISH", platform.functions, "1 default/hello"),
            ("SMEMBERS", platform.processes),
            ("RPUSH", platform.reply("p"), "frame"),
            ("GET", f"other:{prefix}"),
        ):
            with pytest.raises(NoPermissionError):
                await command(client, *forbidden)
    finally:
        await client.aclose()


async def test_what_redis_refuses_a_user_is_found(redis: Redis, user: dict[str, Any]) -> None:
    client = connect(RedisSettings.from_json(user))
    with pytest.raises(NoPermissionError):
        await command(client, "KEYS", "*")
    await client.aclose()
    assert b"keys" in {entry[b"object"] for entry in await denied(redis, user["username"])}
