"""Requests whose heads are known are held to their own credentials, each of them."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from redis.asyncio import Redis

from forebay_common.credentials import Credential
from forebay_common.function_table import publish_credential
from forebay_common.keys import PlatformKeys
from support.gateway_process import Deployed, GatewayProcess, deploy, echo, remove

REGION = "us-east-1"
KEY = ("FBAKONE", "secret-of_the_key")
REPEATS = 3


@pytest.fixture(scope="module")
def gateway(valkey_server: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    process = GatewayProcess(
        tmp_path_factory.mktemp("signed"), valkey_server, f"t{secrets.token_hex(4)}", auth="required"
    )
    process.headers = {"x-api-key": ".".join(KEY)}
    process.start(ready=False)
    yield process
    process.end()


@pytest.fixture
async def function(gateway: GatewayProcess, redis: Redis) -> AsyncIterator[Deployed]:
    """A function that answers with its event and needs the key."""
    key = Credential.derive(*KEY, region=REGION, now_s=time.time())
    await publish_credential(redis, PlatformKeys(gateway.prefix), key)
    gateway.wait_ready()
    deployed = await deploy(gateway, redis, f"f-{secrets.token_hex(4)}")
    async with deployed.served(echo):
        yield deployed
    await remove(deployed)


def signed(gateway: GatewayProcess, path: str, body: bytes) -> bytes:
    """A whole request, signed for this body."""
    request = AWSRequest("POST", gateway.url + path, data=body, headers={"host": f"127.0.0.1:{gateway.port}"})
    SigV4Auth(Credentials(*KEY), "lambda", REGION).add_auth(request)
    return whole(path, body, dict(request.headers.items()))


def whole(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    lines = [f"{name}: {value}" for name, value in {**headers, "content-length": str(len(body))}.items()]
    return "\r\n".join([f"POST {path} HTTP/1.1", *lines, "", ""]).encode() + body


async def answers(gateway: GatewayProcess, *requests: bytes) -> list[tuple[int, Any]]:
    """Status and document of each request's answer, sent one after the other on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    found = []
    async with asyncio.timeout(20):
        for request in requests:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = head.partition(b"content-length: ")[2].split(b"\r\n")[0]
            found.append((int(head.split()[1]), json.loads(await reader.readexactly(int(length)))))
    writer.close()
    return found


@pytest.mark.parametrize("path", ["/2015-03-31/functions/{}/invocations", "/fn/{}"])
async def test_each_signature_is_checked_against_its_own_request(
    gateway: GatewayProcess, function: Deployed, path: str
) -> None:
    path = path.format(function.name)
    good = [signed(gateway, path, b'{"n": %d}' % number) for number in range(REPEATS)]
    another_body = good[1].replace(b'"n": 1', b'"n": 7')
    before, _, after = good[1].partition(b"Signature=")
    another_signature = before + b"Signature=" + bytes(reversed(after[:64])) + after[64:]
    another_time = good[1].replace(b"x-amz-date: 20", b"x-amz-date: 19").replace(b"X-Amz-Date: 20", b"X-Amz-Date: 19")
    assert another_time != good[1]
    forged = [another_body, another_signature, another_time]
    found = await answers(gateway, good[0], *(request for pair in zip(forged, good, strict=True) for request in pair))
    assert [status for status, _ in found] == [200, *[403, 200] * 3]


async def test_a_function_sees_no_key_however_often_it_is_sent(gateway: GatewayProcess, function: Deployed) -> None:
    request = whole(f"/fn/{function.name}", b"{}", {"host": "localhost", "x-api-key": ".".join(KEY), "x-other": "seen"})
    found = await answers(gateway, *[request] * REPEATS)
    assert [status for status, _ in found] == [200] * REPEATS
    assert [("x-api-key" in event["headers"], event["headers"]["x-other"]) for _, event in found] == [
        (False, "seen")
    ] * REPEATS


async def test_what_became_a_key_is_not_shown_from_then_on(
    gateway: GatewayProcess, function: Deployed, redis: Redis
) -> None:
    """A public function may be sent anything; once it is one of our keys, the function must not see it."""
    await function.change(auth="none")
    later = (f"FBAK{secrets.token_hex(4).upper()}", "another-secret")
    request = whole(f"/fn/{function.name}", b"{}", {"host": "localhost", "x-api-key": ".".join(later)})
    before = await answers(gateway, *[request] * REPEATS)
    assert [event["headers"].get("x-api-key") for _, event in before] == [".".join(later)] * REPEATS
    key = Credential.derive(*later, region=REGION, now_s=time.time())
    await publish_credential(redis, PlatformKeys(gateway.prefix), key)
    await function.change(auth="none", capacity=5)
    after = await answers(gateway, *[request] * REPEATS)
    assert [event["headers"].get("x-api-key") for _, event in after] == [None] * REPEATS
