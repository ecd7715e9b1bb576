"""Whom an Invoke reaches and who may send one: forms of a name, qualifiers, and what a page would send."""

import asyncio
import re
import uuid
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from forebay_common.keys import PlatformKeys
from forebay_common.queue import VersionQueue, create_queues
from forebay_common.routing import VersionRoute
from support.gateway_process import Deployed, FakeInstance, GatewayProcess, deploy, echo, invoke_path, remove
from support.web import raw_exchange

ARN = "arn:aws:lambda:us-east-1:000000000000:function:"


def body_of(response: httpx.Response) -> dict[str, Any]:
    document: dict[str, Any] = response.json()
    return document


class TestNames:
    @pytest.mark.parametrize(
        ("reference", "qualified"),
        [
            ("{name}", False),
            ("{name}:$LATEST", True),
            ("000000000000:{name}", False),
            ("us-east-1:000000000000:{name}", False),
            ("000000000000:function:{name}:$LATEST", True),
            ("arn:aws:lambda:us-east-1:000000000000:function:{name}", False),
            ("arn:aws:lambda:us-east-1:000000000000:function:{name}:$LATEST", True),
        ],
    )
    async def test_every_form_of_a_name_reaches_the_function(
        self, function: Deployed, gateway: GatewayProcess, reference: str, *, qualified: bool
    ) -> None:
        client = gateway.boto()
        async with function.served(echo) as instance:
            name = reference.format(name=function.name)
            response = await asyncio.to_thread(client.invoke, FunctionName=name, Payload=b'{"n": 1}')
        assert response["StatusCode"] == 200
        assert response["ExecutedVersion"] == "$LATEST"
        assert response["Payload"].read() == b'{"n": 1}'
        assert instance.seen[0].arn == (f"{ARN}{function.name}:$LATEST" if qualified else "")

    async def test_a_qualifier_in_the_query_counts(self, function: Deployed, http: httpx.AsyncClient) -> None:
        async with function.served(echo) as instance:
            response = await http.post(function.path, params={"Qualifier": "$LATEST"})
        assert response.status_code == 200
        assert instance.seen[0].arn == f"{ARN}{function.name}:$LATEST"

    async def test_a_version_runs_from_its_own_queue(
        self, gateway: GatewayProcess, redis: Redis, platform_keys: PlatformKeys, http: httpx.AsyncClient
    ) -> None:
        versions = {"$LATEST": VersionRoute(2, 3_000, 128), "1": VersionRoute(1, 5_000, 128)}
        function = await deploy(gateway, redis, "versioned", versions=versions)
        first = VersionQueue(function.queue.keys, "1")
        await create_queues(redis, first)
        async with FakeInstance(redis, platform_keys, first, echo).running() as instance:
            assert (await http.post(invoke_path("versioned:1"))).status_code == 200
        (record,) = instance.seen
        assert (record.version, record.revision, record.timeout_ms) == ("1", 1, 5_000)
        assert record.arn == f"{ARN}versioned:1"
        await remove(function)
        await redis.unlink(first.sync, first.async_)

    @pytest.mark.parametrize(
        ("reference", "query", "status", "error", "message"),
        [
            ("nobody", {}, 404, "ResourceNotFoundException", f"Function not found: {ARN}nobody"),
            ("nobody:prod", {}, 404, "ResourceNotFoundException", f"Function not found: {ARN}nobody:prod"),
            ("a.b", {}, 404, "ResourceNotFoundException", f"Function not found: {ARN}a.b"),
            (
                "arn:aws:lambda:eu-west-1:000000000000:function:f",
                {},
                404,
                "ResourceNotFoundException",
                "Functions from 'eu-west-1' are not reachable in this region ('us-east-1')",
            ),
            (
                "f:$LATEST",
                {"Qualifier": "1"},
                400,
                "InvalidParameterValueException",
                "The derived qualifier from the function name does not match the specified qualifier.",
            ),
        ],
    )
    async def test_names_that_reach_nothing(
        self, http: httpx.AsyncClient, reference: str, query: dict[str, str], status: int, error: str, message: str
    ) -> None:
        response = await http.post(invoke_path(reference), params=query)
        assert response.status_code == status
        assert response.headers["x-amzn-errortype"] == error
        document = body_of(response)
        assert document["Type"] == "User"
        assert document.get("Message", document.get("message")) == message
        assert uuid.UUID(response.headers["x-amzn-requestid"])

    async def test_an_unknown_version_of_a_known_function(self, function: Deployed, http: httpx.AsyncClient) -> None:
        response = await http.post(function.path, params={"Qualifier": "42"})
        assert response.status_code == 404
        assert body_of(response) == {"Type": "User", "Message": f"Function not found: {ARN}{function.name}:42"}

    async def test_another_accounts_function_is_denied(self, http: httpx.AsyncClient) -> None:
        response = await http.post(invoke_path("123456789012:f"))
        assert response.status_code == 403
        assert response.headers["x-amzn-errortype"] == "AccessDeniedException"
        assert list(body_of(response)) == ["Message"]

    @pytest.mark.parametrize("reference", ["b@d", "a b", "", "x" * 257, "f:g:h"])
    async def test_what_is_no_name_breaks_the_model(self, http: httpx.AsyncClient, reference: str) -> None:
        response = await http.post(invoke_path(reference))
        assert response.status_code == 400
        assert response.headers["x-amzn-errortype"] == "ValidationException"
        document = body_of(response)
        assert list(document) == ["message"]
        assert re.match(r"[12] validation errors? detected: Value '.*' at 'functionName'", document["message"])


class TestWhoMayCall:
    async def test_without_authorization_nothing_comes_in(self, function: Deployed, gateway: GatewayProcess) -> None:
        async with httpx.AsyncClient(base_url=gateway.url) as client:
            response = await client.post(function.path)
        assert response.status_code == 403
        assert response.headers["x-amzn-errortype"] == "MissingAuthenticationTokenException"

    @pytest.mark.parametrize(
        "header",
        [{"host": "evil.example"}, {"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}],
    )
    async def test_a_pages_request_stays_out_also_after_a_clients_was_let_in(
        self, function: Deployed, http: httpx.AsyncClient, header: dict[str, str]
    ) -> None:
        async with function.served(echo):
            assert (await http.post(function.path)).status_code == 200
            assert (await http.post(function.path, headers=header)).status_code == 403

    async def test_repeated_host_headers_stay_out(self, function: Deployed, gateway: GatewayProcess) -> None:
        request = f"POST {function.path} HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n"
        headers = "authorization: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        assert (await raw_exchange(gateway.port, (request + headers).encode())).startswith(b"HTTP/1.1 400 ")

    async def test_headers_without_end_are_cut_off(self, gateway: GatewayProcess) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        # Just past the bound: what the server has not read when it closes would reset the connection.
        writer.write(b"GET /healthz HTTP/1.1\r\n" + b"x-filler: 12345678\r\n" * 6_000)
        await writer.drain()
        writer.write(b"x-filler: 12345678\r\n" * 600)
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 431 ")
        writer.close()
