"""The management API on a real loopback port, over a real Valkey, with a stand-in for the scaling side."""

import asyncio
import contextlib
import io
import socket
import zipfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import uvicorn
from botocore.config import Config
from fastapi import FastAPI
from redis.asyncio import Redis

from forebay_common.keys import PlatformKeys
from forebay_controller.app import create_app
from forebay_controller.authenticator import Authenticator
from forebay_controller.code_store import CodeStore
from forebay_controller.interfaces import FunctionStatus
from forebay_controller.log_reader import LogFiles
from forebay_controller.management import ManagementSettings, Place, Queues
from forebay_controller.registry import Registry

SIGNING_KEY = b"k" * 32
ROLE = "arn:aws:iam::000000000000:role/any"


class ScalingStandIn:
    """Does what the controller's scaling side does for the API: an update is applied once it is allowed to be."""

    def __init__(self, registry: Registry) -> None:
        self.retired: list[str] = []
        self.statuses: dict[str, FunctionStatus] = {}
        self.applies = True
        self._registry = registry
        self._tasks: set[asyncio.Task[None]] = set()
        registry.on_change(self._changed)

    def get_status(self, uid: str) -> FunctionStatus:
        return self.statuses.get(uid, FunctionStatus())

    async def retire(self, uid: str) -> None:
        self.retired.append(uid)

    def _changed(self, uid: str) -> None:
        spec = self._registry.functions().get(uid)
        if spec is not None and self.applies:
            task = asyncio.get_running_loop().create_task(self._registry.update_applied(uid, spec.revision))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


@dataclass
class Management:
    """A served management API. `url` is its address; `lambda_client` is boto3's, without retries."""

    url: str
    redis: Redis
    platform: PlatformKeys
    registry: Registry
    code: CodeStore
    scaling: ScalingStandIn
    lambda_client: Any
    logs_dir: Path

    async def aws(self, operation: str, **members: Any) -> dict[str, Any]:
        """One call of boto3's client, in a thread, without the transport's members in the answer."""
        answer: dict[str, Any] = await asyncio.to_thread(getattr(self.lambda_client, operation), **members)
        answer.pop("ResponseMetadata")
        return answer

    async def keys(self) -> set[str]:
        """All keys under the prefix."""
        return {key.decode() async for key in self.redis.scan_iter(match=f"{self.platform.prefix}:*")}


def zip_of(**files: bytes | str) -> bytes:
    """A package; a name's `__` stands for its dot."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            # A fixed time, so that the same files give the same bytes.
            archive.writestr(zipfile.ZipInfo(name.replace("__", ".")), data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


HELLO = zip_of(app__py="def handler(event, context):\n    return 'hello'\n")


@contextlib.asynccontextmanager
async def management(
    redis: Redis,
    prefix: str,
    folder: Path,
    *,
    code_total_max_bytes: int = 2**31,
    code_grace_ms: int = 600_000,
    warning: Callable[[str], str] = lambda _: "",
    authenticator: Authenticator | None = None,
) -> AsyncIterator[Management]:
    """Load the registry and serve the API until the end of the `with`."""
    platform = PlatformKeys(prefix)
    code = CodeStore(redis, code_total_max_bytes, code_grace_ms)
    registry = Registry(redis, platform, code, Place())
    await registry.load()
    scaling = ScalingStandIn(registry)
    settings = ManagementSettings(logs=LogFiles(folder / "logs"), runtime_warning=warning, signing_key=SIGNING_KEY)
    app = create_app(registry, scaling, Queues(redis, platform), settings, authenticator)
    try:
        async with serving(app) as url:
            yield Management(url, redis, platform, registry, code, scaling, lambda_client(url), folder / "logs")
    finally:
        await registry.close()


@contextlib.asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[str]:
    """Serve an application on a loopback port until the end of the `with`; gives its URL."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()  # a client that is faster than the server's start waits
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
        running = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running


def lambda_client(url: str, access_key_id: str = "any", secret_access_key: str = "any") -> Any:
    """A boto3 client that never retries."""
    return boto3.client(
        "lambda",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret_access_key,
        config=Config(retries={"max_attempts": 0}, read_timeout=30),
    )
