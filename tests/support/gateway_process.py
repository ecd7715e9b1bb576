"""A real gateway process, and an instance's side of the queue for it to be answered by."""

import asyncio
import contextlib
import json
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
import httpx
from botocore.config import Config
from redis.asyncio import Redis

from forebay_common import names
from forebay_common.frames import ReplyFrame, kept_frame
from forebay_common.function_table import publish_entry, remove_entry
from forebay_common.keys import GROUP, RECORD_FIELD, PlatformKeys
from forebay_common.once import settlement
from forebay_common.queue import VersionQueue, create_queues, delete_function_keys
from forebay_common.record import KIND_SYNC, Invocation
from forebay_common.redis_client import command, run_many
from forebay_common.routing import RoutingEntry, VersionRoute
from support.ports import free_port
from support.waiting import wait_until, wait_until_async

Answer = Callable[[Invocation], Sequence[ReplyFrame]]
"""What an instance replies to a call; nothing when it stays silent."""

AUTHORIZATION = {"authorization": "test"}
START_MAX_S = 60
"""It imports a second's worth of modules, which takes long where many tests run beside it."""


class GatewayProcess:
    """`python -m forebay_gateway` on a port of its own; `log` holds what it wrote to stderr.

    `headers` are what its clients send; with `auth="required"` a test sets them to a credential.
    """

    def __init__(self, folder: Path, redis: dict[str, Any], prefix: str, **settings: Any) -> None:
        self.prefix = prefix
        self.headers = AUTHORIZATION
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "gateway.log"
        self._config = folder / "gateway.json"
        document = {
            "prefix": prefix,
            "redis": redis,
            "region": "us-east-1",
            "account": "000000000000",
            "controller_socket": str(folder / "controller.sock"),
            "port": self.port,
        }
        self._config.write_text(json.dumps(document | settings))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, ready: bool = True) -> None:
        """Start; returns when it is ready, or as soon as it answers at all."""
        command_line = [sys.executable, "-m", "forebay_gateway", "--config", str(self._config)]
        with self.log.open("ab") as sink:
            self.process = subprocess.Popen(command_line, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
        path = "/readyz" if ready else "/healthz"
        wait_until(lambda: self._answers(path), "the gateway is up", START_MAX_S, every_s=0.05)

    def wait_ready(self) -> None:
        """Return once it reaches Redis and knows the functions."""
        wait_until(lambda: self._answers("/readyz"), "the gateway is ready")

    def terminate(self) -> int:
        """SIGTERM; its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def end(self) -> None:
        """End it, however it is."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def client(self, **settings: Any) -> httpx.AsyncClient:
        """An HTTP client that may call functions."""
        return httpx.AsyncClient(base_url=self.url, headers=self.headers, timeout=20, **settings)

    async def metric(self, name: str) -> float:
        """One of its own numbers, without labels."""
        async with self.client() as client:
            text = (await client.get("/metrics")).text
        return next(float(line.split(" ")[1]) for line in text.splitlines() if line.startswith(f"{name} "))

    def boto(
        self, region: str = "us-east-1", *, key: tuple[str, str] = ("test", "test"), url: str | None = None
    ) -> Any:
        """A Lambda client that tries once; `url` may be another port or have a path."""
        return boto3.client(
            "lambda",
            endpoint_url=url or self.url,
            region_name=region,
            aws_access_key_id=key[0],
            aws_secret_access_key=key[1],
            config=Config(retries={"total_max_attempts": 1}, read_timeout=20),
        )

    def _answers(self, path: str) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the gateway ended: {self.log.read_text()}"
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(self.url + path, timeout=5).status_code == httpx.codes.OK
        return False


def routing_entry(queue: VersionQueue, **changes: Any) -> RoutingEntry:
    """The table's entry of a function whose queues are `queue`'s."""
    namespace, name, uid = queue.keys.base.partition("{")[2].rstrip("}").split("/")
    members: dict[str, Any] = {
        "namespace": namespace,
        "name": name,
        "uid": uid,
        "arn": names.function_arn("us-east-1", "000000000000", name),
        "state": "Active",
        "versions": {names.LATEST: VersionRoute(revision=7, timeout_ms=3_000, memory_mb=128)},
        "capacity": 4,
        "max_capacity": 4,
    }
    return RoutingEntry(**(members | changes))


def echo(record: Invocation) -> Sequence[ReplyFrame]:
    """The payload as it came."""
    return [ReplyFrame(token=record.reply_token, payload=record.payload, duration_us=1500)]


@dataclass(frozen=True)
class Deployed:
    """A function that `gateway` knows and that nobody serves yet."""

    gateway: GatewayProcess
    redis: Redis
    platform: PlatformKeys
    queue: VersionQueue
    entry: RoutingEntry

    @property
    def name(self) -> str:
        """The function's name."""
        return self.entry.name

    @property
    def path(self) -> str:
        """Where it is invoked."""
        return invoke_path(self.name)

    async def change(self, **changes: Any) -> None:
        """Publish another entry for it; returns once the gateway goes by it."""
        generation = await publish_entry(self.redis, self.platform, replace(self.entry, **changes))

        async def in_effect() -> bool:
            return await self.gateway.metric("forebay_gateway_table_generation") >= generation

        await wait_until_async(in_effect, "the change is in effect")

    def served(self, answer: Answer) -> contextlib.AbstractAsyncContextManager["FakeInstance"]:
        """An instance that answers its calls for the length of a block."""
        return FakeInstance(self.redis, self.platform, self.queue, answer).running()

    async def answer(self, entry_id: bytes, payload: bytes) -> None:
        """Answer a sync call that the test has leased."""
        ((_, fields),) = await command(self.redis, "XRANGE", self.queue.sync, entry_id, entry_id)
        record = Invocation.decode(fields[RECORD_FIELD.encode()])
        frame = ReplyFrame(token=record.reply_token, payload=payload)
        await finish(self.redis, self.platform, self.queue, entry_id, record, [frame])

    async def length(self) -> int:
        """Sync calls in its queue."""
        found: int = await command(self.redis, "XLEN", self.queue.sync)
        return found


def invoke_path(reference: str) -> str:
    """Invoke's path for a function's name, escaped as AWS clients do."""
    return f"/2015-03-31/functions/{quote(reference, safe='')}/invocations"


async def publish(redis: Redis, platform: PlatformKeys, queue: VersionQueue, **changes: Any) -> RoutingEntry:
    """Make a function's queues, and the function known to gateways."""
    await create_queues(redis, queue)
    entry = routing_entry(queue, **changes)
    await publish_entry(redis, platform, entry)
    return entry


async def deploy(
    gateway: GatewayProcess, redis: Redis, name: str, *, namespace: str = "default", **changes: Any
) -> Deployed:
    """Make a function known to a gateway, which need not run yet, with its queues."""
    platform = PlatformKeys(gateway.prefix)
    queue = VersionQueue(platform.function(namespace, name, secrets.token_hex(8)))
    entry = await publish(redis, platform, queue, **changes)
    return Deployed(gateway, redis, platform, queue, entry)


async def remove(function: Deployed) -> None:
    """Delete a function as the controller does."""
    await remove_entry(function.redis, function.platform, function.entry.key)
    await delete_function_keys(function.redis, function.queue.keys)


class FakeInstance:
    """Takes the calls of one function version and replies as it is told.

    `seen` are the records it has leased, their payloads fetched when they were claimed.
    """

    def __init__(self, redis: Redis, platform: PlatformKeys, queue: VersionQueue, answer: Answer) -> None:
        self.seen: list[Invocation] = []
        self.answer = answer
        self._redis = redis
        self._platform = platform
        self._queue = queue
        self._over = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["FakeInstance"]:
        """Work until the block ends."""
        self._over = False
        task = asyncio.create_task(self._work())
        try:
            yield self
        finally:
            # Not cancelled: redis-py's own timeouts can swallow a cancellation, and the task would go on for ever.
            self._over = True
            await task

    async def _work(self) -> None:
        streams = (self._queue.sync, self._queue.async_)
        while not self._over:
            answer = await command(
                self._redis,
                *("XREADGROUP", "GROUP", GROUP, "fake", "COUNT", 16, "BLOCK", 50, "STREAMS", *streams, ">", ">"),
            )
            for stream, entries in answer or ():
                for entry_id, fields in entries:
                    await self._finish(stream.decode(), entry_id, Invocation.decode(fields[RECORD_FIELD.encode()]))

    async def _finish(self, stream: str, entry_id: bytes, record: Invocation) -> None:
        self.seen.append(record)
        body = f"{self._queue.keys.base}:{record.claim}"
        if record.claim:
            record.payload = await command(self._redis, "GET", body)
        await finish(self._redis, self._platform, self._queue, entry_id, record, self.answer(record))
        if record.claim:
            await command(self._redis, "UNLINK", body)


async def finish(
    redis: Redis,
    platform: PlatformKeys,
    queue: VersionQueue,
    entry_id: bytes,
    record: Invocation,
    frames: Sequence[ReplyFrame],
) -> None:
    """End a leased call as an instance does: what a repeat of it finds, the reply, the acknowledgement."""
    if record.kind == KIND_SYNC and frames:
        encoded = [frame.encode() for frame in frames]
        kept = kept_frame(frames[-1], encoded[-1])
        await run_many(redis, settlement(queue.keys, record, kept, ran=True))
        await command(redis, "RPUSH", f"{platform.prefix}:{record.reply_address}", *encoded)
    stream = queue.sync if record.kind == KIND_SYNC else queue.async_
    await command(redis, "XACK", stream, GROUP, entry_id)
    await command(redis, "XDEL", stream, entry_id)
