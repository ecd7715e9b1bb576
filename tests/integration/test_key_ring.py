"""What the controller publishes of access keys, and when."""

import time
from pathlib import Path

import pytest
from redis.asyncio import Redis

from forebay_common import sigv4
from forebay_common.credentials import Credential
from forebay_common.function_table import publish_credential
from forebay_common.keys import PlatformKeys
from forebay_common.redis_client import command
from forebay_controller.key_pairs import KeyPair
from forebay_controller.key_ring import KeyRing
from forebay_controller.local_keys import FILE, keys_of

REGION = "eu-west-1"
NOON_S = 1_769_860_800.0
DAY_S = 86_400.0


class Clock:
    def __init__(self) -> None:
        self.now_s = NOON_S

    def __call__(self) -> float:
        return self.now_s


async def published(redis: Redis, platform: PlatformKeys) -> dict[str, Credential]:
    found: dict[bytes, bytes] = await command(redis, "HGETALL", platform.credentials)
    return {key.decode(): Credential.from_json(key.decode(), raw) for key, raw in found.items()}


async def test_redis_gets_each_key_without_its_secret_and_loses_those_that_are_gone(redis: Redis, prefix: str) -> None:
    platform, clock = PlatformKeys(prefix), Clock()
    earlier, now = KeyPair.new(), KeyPair("FBAKNOW", "s" * 40, ("invoke",), ("team-a",), ("mine-*",))
    await publish_credential(redis, platform, earlier.credential(REGION, clock()))
    ring = KeyRing(redis, platform, [now], region=REGION, clock=clock)

    await ring.start()

    assert await published(redis, platform) == ring.credentials == {"FBAKNOW": now.credential(REGION, NOON_S)}
    assert now.secret_access_key.encode() not in await command(redis, "HGET", platform.credentials, "FBAKNOW")
    await ring.close()


async def test_signing_keys_go_on_with_the_days(redis: Redis, prefix: str) -> None:
    platform, clock, pair = PlatformKeys(prefix), Clock(), KeyPair.new()
    ring = KeyRing(redis, platform, [pair], region=REGION, clock=clock)
    await ring.publish()
    before = set(ring.credentials[pair.access_key_id].signing_keys)

    clock.now_s += DAY_S
    await ring.publish()

    found = (await published(redis, platform))[pair.access_key_id].signing_keys
    days = [time.strftime("%Y%m%d", time.gmtime(NOON_S + days * DAY_S)) for days in range(3)]
    assert sorted(found) == days
    assert len(before & set(found)) == 2
    assert found[days[2]] == sigv4.signing_key(pair.secret_access_key, days[2], REGION)


def test_local_keys_are_made_once_for_their_owner_alone(tmp_path: Path) -> None:
    made = keys_of(tmp_path)

    assert keys_of(tmp_path) == made
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    assert (made.admin.scopes, made.functions.scopes) == (("invoke", "manage"), ("invoke",))
    assert made.admin.access_key_id.startswith("FBAK")
    assert len(made.admin.access_key_id) == 20
    assert len(made.admin.secret_access_key) == 40
    assert made.admin.api_key == f"{made.admin.access_key_id}.{made.admin.secret_access_key}"


def test_a_keys_file_that_is_none_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"admin": 1}')

    with pytest.raises(ValueError, match="remove it to have new ones made"):
        keys_of(tmp_path)
