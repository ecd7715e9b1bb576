"""A namespace in front of any management path: `/ns/NAMESPACE/…`."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from support.management import HELLO, ROLE, Management, lambda_client, management

pytestmark = pytest.mark.usefixtures("no_leaked_keys")


@pytest.fixture
async def served(redis: Redis, prefix: str, tmp_path: Path) -> AsyncIterator[Management]:
    async with management(redis, prefix, tmp_path) as running:
        yield running


async def create(served: Management) -> None:
    code = {"ZipFile": HELLO}
    await served.aws(
        "create_function", FunctionName="hello", Runtime="python3.13", Handler="app.handler", Role=ROLE, Code=code
    )


async def get(url: str) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.get(url)


async def test_aws_clients_reach_the_functions_of_a_namespace_by_its_base_path(served: Management) -> None:
    await create(served)
    client: Any = lambda_client(f"{served.url}/ns/default")

    found = await asyncio.to_thread(client.get_function, FunctionName="hello")

    assert found["Configuration"]["FunctionName"] == "hello"


async def test_a_code_link_keeps_the_base_path_and_gives_the_very_bytes(served: Management) -> None:
    await create(served)
    client: Any = lambda_client(f"{served.url}/ns/default")

    found = await asyncio.to_thread(client.get_function, FunctionName="hello")

    assert found["Code"]["Location"].startswith(f"{served.url}/ns/default/v1/code/")
    assert (await get(found["Code"]["Location"])).content == HELLO


async def test_v1_has_the_functions_of_a_namespace_under_its_base_path(served: Management) -> None:
    await create(served)

    found = (await get(f"{served.url}/ns/default/v1/functions")).json()

    assert [function["name"] for function in found["functions"]] == ["hello"]


@pytest.mark.parametrize("namespace", ["other", "", "%64efault", "default%2F"])
async def test_a_namespace_that_is_not_served_says_which_are(served: Management, namespace: str) -> None:
    by_v1 = await get(f"{served.url}/ns/{namespace}/v1/functions")
    by_lambda = await get(f"{served.url}/ns/{namespace}/2015-03-31/functions")

    assert (by_v1.status_code, by_v1.json()["error"]["code"]) == (404, "not_found")
    assert by_v1.json()["error"]["message"].endswith("is not one of those served here: default")
    assert (by_lambda.status_code, by_lambda.headers["x-amzn-errortype"]) == (404, "ResourceNotFoundException")
    assert by_lambda.json()["Message"].endswith("is not one of those served here: default")


@pytest.mark.parametrize("path", ["/ns/default", "/ns/default/", "/ns/default/ns/default/v1/functions"])
async def test_a_base_path_alone_or_twice_is_no_operation(served: Management, path: str) -> None:
    answer = await get(served.url + path)

    assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (404, "UnknownOperationException")
