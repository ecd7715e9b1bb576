"""Where a Function's code comes from: its own spec, a ConfigMap, a URL, or an upload; all become one zip package.

What went wrong is told in words for people, with whether it may pass by itself.
"""

import asyncio
import hashlib
import io
import json
import zipfile
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterable

from redis.asyncio import Redis

from forebay_common import limits
from forebay_common.keys import FunctionKeys, PlatformKeys
from forebay_common.redis_client import command
from forebay_controller.cluster.api import CONFIG_MAPS, Api, ApiError
from forebay_controller.cluster.resource import BOOTSTRAP, BlobCode, CodeSource, ConfigMapCode, InlineCode, ZipCode
from forebay_controller.cluster.uploads import read_blob, taken_up
from forebay_controller.code_package import CodePackage, PackageError, read_package
from forebay_controller.code_store import StoredPackage
from forebay_controller.outbound import Outbound, OutboundError
from forebay_controller.outbound_rules import OutboundRefusedError

_ZIP_MOMENT = (1980, 1, 1, 0, 0, 0)
_FILE_MODE = 0o100644 << 16
_PROGRAM_MODE = 0o100755 << 16
"""That of `bootstrap`, which a `provided` runtime executes: neither a spec nor a ConfigMap can say it."""
_ON_UNIX = 3


class CodeProblemError(Exception):
    """Code that is not to be had; the message is for people.

    `reason` is one word for programs, `may_pass` whether it may be had later although nobody changes the Function.
    """

    def __init__(self, reason: str, message: str, *, may_pass: bool) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.may_pass = may_pass


class CodeReader:
    """Gets packages from wherever a Function's spec says they are."""

    def __init__(self, api: Api, redis: Redis, platform: PlatformKeys, outbound: Outbound) -> None:
        self._api = api
        self._redis = redis
        self._platform = platform
        self._outbound = outbound

    async def read(self, namespace: str, source: CodeSource) -> CodePackage:
        """The package of a source. Raises CodeProblemError, redis.exceptions.RedisError."""
        if isinstance(source, InlineCode):
            return await _packaged((path, text.encode()) for path, text in source.files)
        if isinstance(source, ConfigMapCode):
            return await _packaged(await self._config_map_files(namespace, source.name))
        if isinstance(source, ZipCode):
            return await _checked(await self._download(source))
        return await self._upload(source)

    async def stored(self, source: CodeSource, package: CodePackage) -> None:
        """A Function holds this package from now on. Raises redis.exceptions.RedisError."""
        if isinstance(source, BlobCode):
            await taken_up(self._redis, self._platform, package)

    async def _config_map_files(self, namespace: str, name: str) -> list[tuple[str, bytes]]:
        try:
            found = await self._api.get(CONFIG_MAPS, namespace, name)
        except ApiError as error:
            if error.status == 404:  # noqa: PLR2004 - Not Found
                text = f"There is no ConfigMap {name} in namespace {namespace}: create it, each key a file"
                raise CodeProblemError("ConfigMapNotFound", text, may_pass=True) from error
            text = f"The ConfigMap {name} could not be read: {error.message}"
            raise CodeProblemError("ConfigMapUnreadable", text, may_pass=True) from error
        files = [(key, text.encode()) for key, text in (found.get("data") or {}).items()]
        try:
            files += [(key, b64decode(text)) for key, text in (found.get("binaryData") or {}).items()]
        except Base64Error as error:
            text = f"The ConfigMap {name} holds binary data that is no base64"
            raise CodeProblemError("ConfigMapUnreadable", text, may_pass=False) from error
        if not files:
            text = f"The ConfigMap {name} holds nothing: add the code, each key a file"
            raise CodeProblemError("ConfigMapEmpty", text, may_pass=True)
        return files

    async def _download(self, source: ZipCode) -> bytes:
        try:
            data = await self._outbound.fetch(source.url, max_bytes=limits.ZIP_MAX_BYTES)
        except OutboundRefusedError as error:
            text = f"code.zip.url is not fetched: {error}"
            raise CodeProblemError("UrlRefused", text, may_pass=False) from error
        except OutboundError as error:
            text = f"code.zip.url could not be fetched: {error}"
            raise CodeProblemError("DownloadFailed", text, may_pass=True) from error
        found = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
        if found != source.sha256:
            # The digest found would tell a stranger what lies behind the URL.
            text = "What code.zip.url gives has another SHA-256 than code.zip.sha256 says: correct the one or the other"
            raise CodeProblemError("DigestMismatch", text, may_pass=False)
        return data

    async def _upload(self, source: BlobCode) -> CodePackage:
        data = await read_blob(self._redis, self._platform, source.sha256)
        package = None if data is None else await _checked(data)
        if package is None or package.sha256 != source.sha256:
            text = (
                f"No upload with the SHA-256 {source.sha256} is there (any more): send the code again, "
                "by forebay deploy or update-function-code"
            )
            raise CodeProblemError("UploadNotFound", text, may_pass=True)
        return package


async def stored_size(redis: Redis, keys: FunctionKeys, sha256: str) -> int | None:
    """The bytes of a package that a function holds, every chunk of it; None when it does not.

    Raises redis.exceptions.RedisError.
    """
    raw: bytes | None = await command(redis, "HGET", keys.code_index(), sha256)
    if raw is None:
        return None
    stored = StoredPackage(**json.loads(raw))
    names = [keys.code(sha256, number) for number in range(stored.chunks)]
    return stored.size if await command(redis, "EXISTS", *names) == len(names) else None


def make_zip(files: Iterable[tuple[str, bytes]]) -> bytes:
    """A zip of files whose bytes depend on nothing but names and contents, so that equal code is one package.

    Not compressed: what a compressor makes of the same input changes with its version.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path, content in sorted(files):
            entry = zipfile.ZipInfo(path, _ZIP_MOMENT)
            entry.create_system = _ON_UNIX
            entry.external_attr = _PROGRAM_MODE if path == BOOTSTRAP else _FILE_MODE
            archive.writestr(entry, content)
    return buffer.getvalue()


async def _packaged(files: Iterable[tuple[str, bytes]]) -> CodePackage:
    return await _checked(await asyncio.to_thread(make_zip, files))


async def _checked(data: bytes) -> CodePackage:
    try:
        return await asyncio.to_thread(read_package, data)
    except PackageError as error:
        raise CodeProblemError("PackageInvalid", str(error), may_pass=False) from error
