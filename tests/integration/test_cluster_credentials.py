"""Access keys in Secrets, and functions' own: checked by every controller, published to gateways by the leader."""

import base64
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from forebay_common.credentials import Credential
from forebay_common.function_table import published_credentials
from forebay_common.keys import PlatformKeys
from forebay_common.redis_client import command
from forebay_controller.cluster import credentials_source
from forebay_controller.cluster.access import access_key_id
from forebay_controller.cluster.api import SECRETS
from forebay_controller.cluster.credential_secrets import LABEL, CredentialSecretError, key_pair_of, key_pairs
from forebay_controller.cluster.credentials_source import CredentialsSource
from support.cluster_config import UID, cluster_config, function
from support.controller_rig import until
from support.scripted_api_server import ScriptedApiServer, scripted_api_server
from support.waiting import wait_until_async

ID = "FBAKAAAABBBBCCCCDDDD"


def secret(name: str = "admin", **data: str) -> dict[str, Any]:
    members = {"accessKeyId": ID, "secretAccessKey": "s" * 40, **data}
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in members.items()}
    return {"metadata": {"name": name, "namespace": "forebay", "labels": {LABEL: "true"}}, "data": encoded}


@pytest.fixture
async def server() -> AsyncIterator[ScriptedApiServer]:
    async with scripted_api_server() as running:
        yield running


@pytest.fixture
async def source(server: ScriptedApiServer) -> AsyncIterator[CredentialsSource]:
    api = server.api()
    found = CredentialsSource(api, cluster_config())
    yield found
    await found.close()
    await api.close()


async def test_a_labelled_secret_is_an_access_key_as_long_as_it_is_there(
    server: ScriptedApiServer, source: CredentialsSource
) -> None:
    server.put(SECRETS, secret())
    await source.start()
    assert source.credentials[ID].allows("manage", "any", "any")
    server.put(SECRETS, secret(scopes="invoke", namespaces="team-a, team-b", functions="order-*"))
    await until(lambda: source.credentials[ID].scopes == ("invoke",), "it is changed")
    assert source.credentials[ID].allows("invoke", "team-b", "order-1")
    assert not source.credentials[ID].allows("invoke", "team-b", "other")
    server.delete(SECRETS, "forebay", "admin")
    await until(lambda: not source.credentials, "it is gone")


async def test_the_leader_publishes_what_is_there_and_takes_back_what_is_not(
    server: ScriptedApiServer, source: CredentialsSource, redis: Redis, platform_keys: PlatformKeys
) -> None:
    await command(redis, "HSET", platform_keys.credentials, "FBAKOLD", "{}")
    server.put(SECRETS, secret())
    await source.start()
    await source.publish(redis, platform_keys, [function()])
    own = access_key_id(UID)
    assert await published_credentials(redis, platform_keys) == {ID, own}
    raw = await command(redis, "HGET", platform_keys.credentials, own)
    assert Credential.from_json(own, raw).namespaces == ("team-a",)
    assert b"s" * 40 not in await command(redis, "HGET", platform_keys.credentials, ID)

    source.forget(UID)
    server.put(SECRETS, secret("second", accessKeyId="FBAKSECOND"))

    async def published() -> bool:
        return await published_credentials(redis, platform_keys) == {ID, "FBAKSECOND"}

    await wait_until_async(published, "changes are published")
    await command(redis, "DEL", platform_keys.credentials)
    source.publish_again()
    await wait_until_async(published, "all are published again")


async def test_signing_keys_are_renewed_with_the_days(
    server: ScriptedApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [1_780_000_000.0]
    monkeypatch.setattr(credentials_source, "RENEW_EVERY_S", 0.05)
    api = server.api()
    source = CredentialsSource(api, cluster_config(), clock=lambda: now_s[0])
    server.put(SECRETS, secret())
    await source.start()
    day = time.strftime("%Y%m%d", time.gmtime(now_s[0] + 3 * 86_400))
    assert day not in source.credentials[ID].signing_keys
    now_s[0] += 2 * 86_400
    await until(lambda: day in source.credentials[ID].signing_keys, "tomorrow's key is there")
    await source.close()
    await api.close()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"accessKeyId": ""}, "accessKeyId is 8 to 128 letters and digits"),
        ({"accessKeyId": "with.dot.in.it"}, "accessKeyId is 8 to 128 letters and digits"),
        ({"accessKeyId": "FBFNAAAABBBBCCCCDDDD"}, "as only functions' own do"),
        ({"secretAccessKey": "short"}, "secretAccessKey is 20 ASCII characters at least"),
        ({"scopes": "invoke,admin"}, "scopes are invoke and manage"),
        ({"namespaces": "a b"}, "namespaces has an entry that is no name"),
    ],
)
def test_a_secret_that_is_no_key_says_why_and_not_what_is_in_it(data: dict[str, str], reason: str) -> None:
    with pytest.raises(CredentialSecretError, match=reason):
        key_pair_of(secret(**data))


def test_nobody_takes_over_anothers_id() -> None:
    first, second = secret("b"), secret("a", secretAccessKey="t" * 40)
    first["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    second["metadata"]["creationTimestamp"] = "2026-01-02T00:00:00Z"
    found, problems = key_pairs([second, first])
    assert found[ID].secret_access_key == "s" * 40
    assert problems == {"a": "another Secret has the same accessKeyId"}


def test_a_list_that_is_there_and_empty_allows_nothing() -> None:
    pair = key_pair_of(secret(scopes="", functions=""))
    assert (pair.scopes, pair.functions, pair.namespaces) == ((), (), ("*",))
