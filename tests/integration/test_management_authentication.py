"""Management calls where the platform asks for credentials: who comes in, and what they may see and change."""

import asyncio
import secrets
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from redis.asyncio import Redis

from forebay_common import limits
from forebay_common.credentials import Credential
from forebay_controller.authenticator import Authenticator
from support.management import HELLO, ROLE, Management, lambda_client, management, zip_of

pytestmark = pytest.mark.usefixtures("no_leaked_keys")

SECRET = "s" * 40
FUNCTION: dict[str, Any] = {
    "runtime": "python3.13",
    "handler": "app.handler",
    "code": {"zip_base64": b64encode(HELLO).decode()},
}


def credential(access_key_id: str, **narrowed: tuple[str, ...]) -> Credential:
    return Credential.derive(access_key_id, SECRET, region="us-east-1", now_s=time.time(), **narrowed)


CREDENTIALS = {
    found.access_key_id: found
    for found in (
        credential("FBAKADMIN"),
        credential("FBAKINVOKE", scopes=("invoke",)),
        credential("FBAKELSEWHERE", namespaces=("team-*",)),
        credential("FBAKMINE", functions=("mine-*",)),
    )
}


@pytest.fixture
async def served(redis: Redis, prefix: str, tmp_path: Path) -> AsyncIterator[Management]:
    authenticator = Authenticator(CREDENTIALS, region="us-east-1")
    async with management(redis, prefix, tmp_path, authenticator=authenticator) as running:
        yield running


def aws(served: Management, access_key_id: str = "FBAKADMIN", secret: str = SECRET, path: str = "") -> Any:
    return lambda_client(served.url + path, access_key_id, secret)


async def create(client: Any, name: str, code: bytes = HELLO) -> dict[str, Any]:
    found: dict[str, Any] = await asyncio.to_thread(
        client.create_function,
        FunctionName=name,
        Runtime="python3.13",
        Handler="app.handler",
        Role=ROLE,
        Code={"ZipFile": code},
    )
    return found


async def refused(client: Any, operation: str, **members: Any) -> tuple[int, str, str]:
    """Status, code and text of the error that boto3 reads."""
    with pytest.raises(ClientError) as raised:
        await asyncio.to_thread(getattr(client, operation), **members)
    found: Any = raised.value.response
    status = found["ResponseMetadata"]["HTTPStatusCode"]
    return status, found["Error"]["Code"], found["Error"].get("Message") or found.get("message") or found["Message"]


async def ask(served: Management, method: str, path: str, key: str = "", **rest: Any) -> httpx.Response:
    headers = {"X-Api-Key": f"{key}.{SECRET}"} if key else {}
    async with httpx.AsyncClient(base_url=served.url, timeout=30) as client:
        return await client.request(method, path, headers={**headers, **rest.pop("headers", {})}, **rest)


async def test_boto3_signs_and_is_let_in(served: Management) -> None:
    await create(aws(served), "hello")

    found = await asyncio.to_thread(aws(served).list_functions)

    assert [function["FunctionName"] for function in found["Functions"]] == ["hello"]


async def test_a_signature_covers_the_path_as_it_was_sent(served: Management) -> None:
    client = aws(served, path="/ns/default")
    await create(client, "hello")

    arn = "arn:aws:lambda:us-east-1:000000000000:function:hello"
    found = await asyncio.to_thread(client.get_function, FunctionName=arn, Qualifier="$LATEST")

    assert found["Configuration"]["FunctionArn"] == f"{arn}:$LATEST"


async def test_large_packages_are_signed_and_take_turns(served: Management) -> None:
    codes = [zip_of(app__py="#", data=secrets.token_bytes(2 * limits.MIB)) for _ in range(4)]

    made = await asyncio.gather(*(create(aws(served), f"large-{n}", code) for n, code in enumerate(codes)))

    assert [function["CodeSize"] for function in made] == [len(code) for code in codes]


@pytest.mark.parametrize(
    ("key", "secret", "code", "text"),
    [
        ("FBAKNOBODY", SECRET, "UnrecognizedClientException", "The security token included in the request is invalid."),
        ("FBAKADMIN", "wrong", "InvalidSignatureException", "The request signature we calculated does not match"),
    ],
)
async def test_wrong_keys_are_refused_as_aws_refuses_them(
    served: Management, key: str, secret: str, code: str, text: str
) -> None:
    status, found, message = await refused(aws(served, key, secret), "list_functions")

    assert (status, found) == (403, code)
    assert message.startswith(text)


async def test_a_body_that_was_changed_on_the_way_is_refused(served: Management) -> None:
    url = f"{served.url}/2015-03-31/functions"
    request = AWSRequest("POST", url, data=b'{"FunctionName": "a"}')
    SigV4Auth(Credentials("FBAKADMIN", SECRET), "lambda", "us-east-1").add_auth(request)

    answer = await ask(served, "POST", url, headers=dict(request.headers.items()), content=b'{"FunctionName": "b"}')

    assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (403, "InvalidSignatureException")


async def test_without_a_credential_lambda_and_v1_answer_each_in_its_shape(served: Management) -> None:
    by_lambda = await ask(served, "GET", "/2015-03-31/functions")
    by_v1 = await ask(served, "GET", "/v1/functions")

    assert (by_lambda.status_code, by_lambda.json()["message"]) == (403, "Missing Authentication Token")
    assert by_lambda.headers["x-amzn-errortype"] == "MissingAuthenticationTokenException"
    assert len(by_lambda.headers["x-amzn-requestid"]) == 36
    assert (by_v1.status_code, by_v1.json()["error"]["code"]) == (403, "unauthenticated")
    assert "X-Api-Key" in by_v1.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/functions", "/2015-03-31/functions", "/ns/none/v1/functions", "/anything"])
async def test_a_stranger_learns_nothing_from_any_path(served: Management, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer local"}, {"Authorization": "local"}, {"X-Api-Key": "FBAKADMIN.x"}):
        answer = await ask(served, "GET", path, headers=headers)

        assert answer.status_code == 403
        assert "default" not in answer.text


async def test_an_api_key_comes_in_either_of_two_headers(served: Management) -> None:
    by_key = await ask(served, "GET", "/v1/functions", "FBAKADMIN")
    by_bearer = await ask(served, "GET", "/v1/functions", headers={"Authorization": f"Bearer FBAKADMIN.{SECRET}"})

    assert (by_key.status_code, by_bearer.status_code) == (200, 200)


async def test_a_code_link_is_its_own_credential(served: Management) -> None:
    await create(aws(served), "hello")
    found = await asyncio.to_thread(aws(served).get_function, FunctionName="hello")
    link = found["Code"]["Location"]

    assert (await ask(served, "GET", link)).content == HELLO
    assert (await ask(served, "GET", link[:-1] + "x")).status_code == 404


async def test_a_key_to_invoke_manages_nothing(served: Management) -> None:
    status, code, text = await refused(aws(served, "FBAKINVOKE"), "delete_function", FunctionName="hello")
    by_v1 = await ask(served, "DELETE", "/v1/functions/hello", "FBAKINVOKE")

    assert (status, code) == (403, "AccessDeniedException")
    assert text == "User: forebay:FBAKINVOKE is not authorized to perform: lambda:DeleteFunction on resource: *"
    assert (by_v1.status_code, by_v1.json()["error"]["code"]) == (403, "forbidden")
    assert "its scopes are invoke" in by_v1.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/2015-03-31/functions?" + "&".join(["a=1"] * 300), "/2015-03-31/nothing"])
async def test_a_key_that_manages_nothing_is_refused_whatever_it_asks(served: Management, path: str) -> None:
    answer = await ask(served, "GET", path, "FBAKINVOKE")

    assert answer.status_code == 403
    assert answer.json()["Message"].endswith("to perform: lambda:* on resource: *")


async def test_a_key_of_other_namespaces_manages_nothing_here_and_learns_of_its_own_only(served: Management) -> None:
    here = await ask(served, "GET", "/v1/functions", "FBAKELSEWHERE")
    there = await ask(served, "GET", "/ns/team-a/v1/functions", "FBAKELSEWHERE")

    assert here.status_code == 403
    assert there.status_code == 404


async def test_a_key_for_some_functions_sees_and_changes_no_others(served: Management) -> None:
    await create(aws(served), "other")
    mine = aws(served, "FBAKMINE")
    await create(mine, "mine-1")

    listed = await asyncio.to_thread(mine.list_functions)
    status, code, text = await refused(mine, "get_function", FunctionName="other")
    usage = await asyncio.to_thread(mine.get_account_settings)

    assert [function["FunctionName"] for function in listed["Functions"]] == ["mine-1"]
    assert usage["AccountUsage"]["FunctionCount"] == 1
    assert (status, code) == (403, "AccessDeniedException")
    assert text == (
        "User: forebay:FBAKMINE is not authorized to perform: lambda:GetFunction on resource: "
        "arn:aws:lambda:us-east-1:000000000000:function:other"
    )
    for operation, members in (
        ("delete_function", {}),
        ("update_function_code", {"ZipFile": HELLO}),
        ("update_function_configuration", {"Timeout": 5}),
        ("get_function_configuration", {}),
    ):
        assert (await refused(mine, operation, FunctionName="other", **members))[1] == "AccessDeniedException"
    with pytest.raises(ClientError, match="lambda:CreateFunction"):
        await create(mine, "another")
    arn = "arn:aws:lambda:us-east-1:000000000000:function:other"
    tagging: list[tuple[str, dict[str, Any]]] = [
        ("list_tags", {}),
        ("tag_resource", {"Tags": {"a": "b"}}),
        ("untag_resource", {"TagKeys": ["a"]}),
    ]
    for operation, tags in tagging:
        assert (await refused(mine, operation, Resource=arn, **tags))[1] == "AccessDeniedException"


async def test_a_key_for_some_functions_sees_and_changes_no_others_by_v1(served: Management) -> None:
    await create(aws(served), "other")
    await create(aws(served), "mine-1")

    listed = (await ask(served, "GET", "/v1/functions", "FBAKMINE")).json()["functions"]
    statuses = (await ask(served, "GET", "/v1/status", "FBAKMINE")).json()["functions"]
    denied = [
        await ask(served, "GET", "/v1/functions/other", "FBAKMINE"),
        await ask(served, "PUT", "/v1/functions/other", "FBAKMINE", json=FUNCTION),
        await ask(served, "PUT", "/v1/functions/new", "FBAKMINE", json=FUNCTION),
        await ask(served, "DELETE", "/v1/functions/other", "FBAKMINE"),
        await ask(served, "GET", "/v1/functions/other/status", "FBAKMINE"),
        await ask(served, "GET", "/v1/functions/other/logs", "FBAKMINE"),
    ]

    assert [function["name"] for function in listed] == ["mine-1"]
    assert list(statuses) == ["mine-1"]
    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in denied] == [(403, "forbidden")] * 6
    assert served.registry.find("other") is not None


async def test_a_signed_request_above_the_bound_is_refused_as_too_large(served: Management) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(limits.MANAGEMENT_REQUEST_MAX_BYTES // limits.MIB + 2):
            yield bytes(limits.MIB)

    url = f"{served.url}/2015-03-31/functions"
    request = AWSRequest("POST", url, data=b"{}")
    SigV4Auth(Credentials("FBAKADMIN", SECRET), "lambda", "us-east-1").add_auth(request)
    headers = {name: value for name, value in request.headers.items() if name.lower() != "content-length"}

    answer = await ask(served, "POST", url, headers=headers, content=chunks())

    assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (413, "RequestEntityTooLargeException")
