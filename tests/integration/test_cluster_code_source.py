"""A function's code from wherever its resource says it is."""

import hashlib
import io
import secrets
import time
import zipfile
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from forebay_common.keys import PlatformKeys
from forebay_common.redis_client import command
from forebay_controller.cluster.api import CONFIG_MAPS, Api
from forebay_controller.cluster.code_source import CodeProblemError, CodeReader, make_zip, stored_size
from forebay_controller.cluster.resource import BlobCode, ConfigMapCode, InlineCode, ZipCode
from forebay_controller.cluster.uploads import TAKEN_TTL_S, read_blob, stage_blob
from forebay_controller.code_package import CodePackage, read_package
from forebay_controller.code_store import CodeStorageFullError, CodeStore
from forebay_controller.outbound import Outbound, OutboundError
from forebay_controller.outbound_rules import OutboundRefusedError, OutboundRules
from support.scripted_api_server import ScriptedApiServer, scripted_api_server

pytestmark = pytest.mark.usefixtures("no_leaked_keys")

PACKAGE = read_package(make_zip([("app.py", b"x = 1")]))


class Downloads(Outbound):
    """Answers by URL, or raises."""

    def __init__(self) -> None:
        super().__init__(OutboundRules())
        self.answers: dict[str, bytes | Exception] = {}

    async def fetch(self, url: str, *, max_bytes: int) -> bytes:
        answer = self.answers[url]
        if isinstance(answer, Exception):
            raise answer
        assert len(answer) <= max_bytes
        return answer


@pytest.fixture
async def server() -> AsyncIterator[ScriptedApiServer]:
    async with scripted_api_server() as running:
        yield running


@pytest.fixture
async def api(server: ScriptedApiServer) -> AsyncIterator[Api]:
    client = server.api(retry_for_s=0.3)
    yield client
    await client.close()


@pytest.fixture
async def downloads() -> Downloads:
    return Downloads()


@pytest.fixture
async def reader(api: Api, redis: Redis, platform_keys: PlatformKeys, downloads: Downloads) -> CodeReader:
    return CodeReader(api, redis, platform_keys, downloads)


def files(package: CodePackage) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(package.data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def config_map(**members: Any) -> dict[str, Any]:
    return {"metadata": {"name": "lib", "namespace": "team"}, **members}


async def problem(reading: Any) -> CodeProblemError:
    with pytest.raises(CodeProblemError) as caught:
        await reading
    return caught.value


async def test_inline_files_are_packed(reader: CodeReader) -> None:
    package = await reader.read("team", InlineCode((("app.py", "é = 1"), ("lib/a.py", ""))))
    assert files(package) == {"app.py": "é = 1".encode(), "lib/a.py": b""}


async def test_a_bootstrap_can_be_executed_and_other_files_cannot(reader: CodeReader) -> None:
    package = await reader.read("team", InlineCode((("app.py", ""), ("bootstrap", "#!/bin/sh\n"))))
    with zipfile.ZipFile(io.BytesIO(package.data)) as archive:
        modes = {entry.filename: entry.external_attr >> 16 & 0o777 for entry in archive.infolist()}
    assert modes == {"app.py": 0o644, "bootstrap": 0o755}


async def test_equal_files_make_equal_packages(reader: CodeReader) -> None:
    one = await reader.read("team", InlineCode((("a.py", "1"), ("b.py", "2"))))
    two = await reader.read("team", InlineCode((("b.py", "2"), ("a.py", "1"))))
    assert one == two
    # Literal on purpose: another digest would replace the instances of every function with inline code.
    assert one.sha256 == "e7bdb788d94a8de09b9fcf7e845a6031072b42c9eb009db68232fb3fe106fdbd"


async def test_a_config_maps_keys_are_files_text_and_binary(server: ScriptedApiServer, reader: CodeReader) -> None:
    server.put(CONFIG_MAPS, config_map(data={"app.py": "x"}, binaryData={"data.bin": "AAH/"}))
    package = await reader.read("team", ConfigMapCode("lib"))
    assert files(package) == {"app.py": b"x", "data.bin": b"\x00\x01\xff"}


async def test_what_is_wrong_with_a_config_map_is_told(server: ScriptedApiServer, reader: CodeReader) -> None:
    missing = await problem(reader.read("team", ConfigMapCode("lib")))
    assert (missing.reason, missing.may_pass) == ("ConfigMapNotFound", True)
    assert "namespace team" in missing.message
    server.put(CONFIG_MAPS, config_map())
    assert (await problem(reader.read("team", ConfigMapCode("lib")))).reason == "ConfigMapEmpty"
    server.fail("GET", "configmaps", 403, times=100, reason="Forbidden")
    refused = await problem(reader.read("team", ConfigMapCode("lib")))
    assert refused.reason == "ConfigMapUnreadable"
    assert refused.message == "The ConfigMap lib could not be read: as the test says"


async def test_a_zip_is_fetched_and_must_have_its_digest(reader: CodeReader, downloads: Downloads) -> None:
    downloads.answers["https://a/x"] = PACKAGE.data
    assert await reader.read("team", ZipCode("https://a/x", PACKAGE.sha256)) == PACKAGE
    wrong = await problem(reader.read("team", ZipCode("https://a/x", "0" * 64)))
    assert (wrong.reason, wrong.may_pass) == ("DigestMismatch", False)
    assert PACKAGE.sha256 not in wrong.message


@pytest.mark.parametrize(
    ("answer", "reason", "may_pass"),
    [
        (OutboundRefusedError("a is 10.0.0.1, a private address"), "UrlRefused", False),
        (OutboundError("a answered 404"), "DownloadFailed", True),
    ],
)
async def test_a_url_that_gives_nothing_is_told(
    reader: CodeReader, downloads: Downloads, answer: Exception, reason: str, *, may_pass: bool
) -> None:
    downloads.answers["https://a/x"] = answer
    found = await problem(reader.read("team", ZipCode("https://a/x", "0" * 64)))
    assert (found.reason, found.may_pass) == (reason, may_pass)
    assert str(answer) in found.message


async def test_what_is_no_package_is_told(reader: CodeReader, downloads: Downloads) -> None:
    data = b"not a zip"
    downloads.answers["https://a/x"] = data
    found = await problem(reader.read("team", ZipCode("https://a/x", hashlib.sha256(data).hexdigest())))
    assert (found.reason, found.may_pass) == ("PackageInvalid", False)


async def test_an_upload_is_found_by_whoever_leads_and_expires(
    redis: Redis, platform_keys: PlatformKeys, reader: CodeReader
) -> None:
    large = read_package(make_zip([("data.bin", secrets.token_bytes(2_500_000))]))
    await stage_blob(redis, platform_keys, large)
    assert await reader.read("team", BlobCode(large.sha256, large.size)) == large
    keys = [key async for key in redis.scan_iter(match=f"{platform_keys.prefix}:*", count=1000)]
    assert len(keys) == 5
    lives_s = [await redis.ttl(key) for key in keys]
    assert all(86_000 < life_s <= 86_400 for life_s in lives_s)


async def test_an_upload_that_a_function_has_taken_up_makes_room_soon(
    redis: Redis, platform_keys: PlatformKeys, reader: CodeReader
) -> None:
    await stage_blob(redis, platform_keys, PACKAGE)
    source = BlobCode(PACKAGE.sha256, PACKAGE.size)
    await reader.stored(source, await reader.read("team", source))
    assert await reader.read("team", source) == PACKAGE
    names = [platform_keys.blob(PACKAGE.sha256, 0), platform_keys.blob_index(PACKAGE.sha256)]
    lives_s = [await redis.ttl(name) for name in names]
    assert all(0 < life_s <= TAKEN_TTL_S for life_s in lives_s)
    ends_s = await redis.zscore(platform_keys.blobs, f"{PACKAGE.sha256}:{PACKAGE.size}")
    assert ends_s is not None
    assert time.time() < ends_s <= time.time() + TAKEN_TTL_S


async def test_uploads_have_one_bound_which_those_that_expired_do_not_count_against(
    redis: Redis, platform_keys: PlatformKeys
) -> None:
    other = read_package(make_zip([("other.py", b"pass")]))
    bound = PACKAGE.size + other.size - 1
    await stage_blob(redis, platform_keys, PACKAGE, bound)
    await stage_blob(redis, platform_keys, PACKAGE, bound)
    with pytest.raises(CodeStorageFullError, match=f"{PACKAGE.size} of {bound} bytes are in use"):
        await stage_blob(redis, platform_keys, other, bound)
    assert await read_blob(redis, platform_keys, other.sha256) is None
    assert await read_blob(redis, platform_keys, PACKAGE.sha256) == PACKAGE.data
    await redis.zadd(platform_keys.blobs, {f"{PACKAGE.sha256}:{PACKAGE.size}": time.time() - 1})
    await stage_blob(redis, platform_keys, other, bound)


async def test_an_upload_that_is_gone_or_incomplete_is_told(
    redis: Redis, platform_keys: PlatformKeys, reader: CodeReader
) -> None:
    found = await problem(reader.read("team", BlobCode(PACKAGE.sha256, 1)))
    assert (found.reason, found.may_pass) == ("UploadNotFound", True)
    assert "send the code again" in found.message
    await stage_blob(redis, platform_keys, PACKAGE)
    await command(redis, "DEL", platform_keys.blob(PACKAGE.sha256, 0))
    assert await read_blob(redis, platform_keys, PACKAGE.sha256) is None
    await command(redis, "SET", platform_keys.blob(PACKAGE.sha256, 0), make_zip([("other", b"")]), "EX", 60)
    assert (await problem(reader.read("team", BlobCode(PACKAGE.sha256, 1)))).reason == "UploadNotFound"


async def test_a_package_counts_as_stored_only_when_all_of_it_is(redis: Redis, platform_keys: PlatformKeys) -> None:
    keys = platform_keys.function("team", "f", secrets.token_hex(16))
    large = read_package(make_zip([("data.bin", secrets.token_bytes(1_500_000))]))
    store = CodeStore(redis)
    assert await stored_size(redis, keys, large.sha256) is None
    await store.put(keys, large)
    assert await stored_size(redis, keys, large.sha256) == large.size
    await command(redis, "DEL", keys.code(large.sha256, 1))
    assert await stored_size(redis, keys, large.sha256) is None
    await store.remove(keys, large.sha256)
