"""The signing secret of a function: who may see it, and that it is the one that posts are signed with."""

import time
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from forebay_common.credentials import Credential
from forebay_controller.authenticator import Authenticator
from forebay_controller.destinations.signing import secret_text, signing_secret
from support.management import HELLO, SIGNING_KEY, Management, management

pytestmark = pytest.mark.usefixtures("no_leaked_keys")

SECRET = "s" * 40
PATH = "/v1/functions/hello/signing-secret"
FUNCTION = {"runtime": "python3.13", "handler": "app.handler", "code": {"zip_base64": b64encode(HELLO).decode()}}


def credential(access_key_id: str, **narrowed: tuple[str, ...]) -> Credential:
    return Credential.derive(access_key_id, SECRET, region="us-east-1", now_s=time.time(), **narrowed)


@pytest.fixture
async def served(redis: Redis, prefix: str, tmp_path: Path) -> AsyncIterator[Management]:
    known = [
        credential("FBAKADMIN"),
        credential("FBAKINVOKE", scopes=("invoke",)),
        credential("FBAKELSEWHERE", namespaces=("team-*",)),
        credential("FBAKMINE", functions=("mine-*",)),
    ]
    authenticator = Authenticator({found.access_key_id: found for found in known}, region="us-east-1")
    async with management(redis, prefix, tmp_path, authenticator=authenticator) as running:
        yield running


async def ask(served: Management, method: str, path: str, key: str | None, document: object = None) -> httpx.Response:
    headers = {} if key is None else {"Authorization": f"Bearer {key}.{SECRET}"}
    async with httpx.AsyncClient(base_url=served.url, headers=headers) as client:
        return await client.request(method, path, json=document)


async def test_a_functions_secret_is_shown_and_is_another_one_when_it_is_made_anew(served: Management) -> None:
    seen = set()
    for _ in range(2):
        await ask(served, "PUT", "/v1/functions/hello", "FBAKADMIN", FUNCTION)
        answer = await ask(served, "GET", PATH, "FBAKADMIN")
        assert answer.status_code == 200
        (spec,) = served.registry.functions().values()
        assert answer.json() == {"secret": secret_text(signing_secret(SIGNING_KEY, spec.uid))}
        assert answer.headers["cache-control"] == "no-store"
        seen.add(answer.json()["secret"])
        await ask(served, "DELETE", "/v1/functions/hello", "FBAKADMIN")
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("key", "status", "code"),
    [
        (None, 403, "unauthenticated"),
        ("FBAKINVOKE", 403, "forbidden"),
        ("FBAKELSEWHERE", 403, "forbidden"),
        ("FBAKMINE", 403, "forbidden"),
    ],
)
async def test_who_may_not_manage_the_function_does_not_see_it(
    served: Management, key: str | None, status: int, code: str
) -> None:
    await ask(served, "PUT", "/v1/functions/hello", "FBAKADMIN", FUNCTION)
    answer = await ask(served, "GET", PATH, key)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert "whsec_" not in answer.text


async def test_a_function_that_is_not_there_has_none(served: Management) -> None:
    answer = await ask(served, "GET", PATH, "FBAKADMIN")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
