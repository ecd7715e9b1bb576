"""A controller on a real Valkey with a source and a backend that do what a test says."""

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from redis.asyncio import Redis

from forebay_common.frames import ReplyFrame
from forebay_common.keys import GROUP, RECORD_FIELD, PlatformKeys
from forebay_common.queue import VersionQueue, create_queues, delete_function_keys
from forebay_common.record import KIND_ASYNC, KIND_SYNC, Invocation
from forebay_common.redis_client import command
from forebay_common.spec import FunctionSpec, ScaleSpec
from forebay_controller.controller import Controller, ControllerSettings
from forebay_controller.destinations.targets import Outgoing
from forebay_controller.interfaces import ExitReport, FunctionStatus, RunningInstance
from forebay_controller.outbound import Outbound
from forebay_controller.outbound_rules import OutboundRules
from support.waiting import wait_until_async

REPLIES = "reply:test"
SIGNING_KEY = b"s" * 32


class ScriptedSource:
    """Functions as a test sets them; remembers what it was told."""

    def __init__(self) -> None:
        self.specs: dict[str, FunctionSpec] = {}
        self.statuses: list[tuple[str, FunctionStatus]] = []
        self.applied: list[tuple[str, int]] = []
        self._callbacks: list[Callable[[str], None]] = []

    def functions(self) -> Mapping[str, FunctionSpec]:
        return self.specs

    def on_change(self, callback: Callable[[str], None]) -> None:
        self._callbacks.append(callback)

    async def publish_status(self, uid: str, status: FunctionStatus) -> None:
        self.statuses.append((uid, status))

    def note_status(self, uid: str, status: FunctionStatus) -> None:
        pass

    async def update_applied(self, uid: str, revision: int) -> None:
        self.applied.append((uid, revision))

    def put(self, spec: FunctionSpec) -> None:
        self.specs[spec.uid] = spec
        self.changed(spec.uid)

    def remove(self, uid: str) -> None:
        del self.specs[uid]
        self.changed(uid)

    def changed(self, uid: str) -> None:
        for callback in self._callbacks:
            callback(uid)


class ScriptedBackend:
    """Instances that exist by name only; `on_start` may refuse them or make them do something."""

    def __init__(self) -> None:
        self.starts_at_once_max = 4
        self.quick_instances_max: int | None = None
        self.replaces_first = False
        self.running: dict[str, RunningInstance] = {}
        self.started: list[str] = []
        self.started_at_s: list[float] = []
        self.killed: list[str] = []
        self.start_error: Exception | None = None
        self.on_start: Callable[[FunctionSpec, str], Awaitable[None]] | None = None
        self._report: ExitReport = _nobody

    def instances(self) -> Mapping[str, RunningInstance]:
        return dict(self.running)

    def on_exit(self, report: ExitReport) -> None:
        self._report = report

    async def start(self, spec: FunctionSpec, instance_id: str) -> None:
        self.started_at_s.append(time.monotonic())
        if self.start_error is not None:
            raise self.start_error
        self.running[instance_id] = RunningInstance(instance_id, spec.uid, spec.revision, int(time.time() * 1000))
        self.started.append(instance_id)
        if self.on_start is not None:
            await self.on_start(spec, instance_id)

    async def stop(self, instance_id: str) -> None:
        await self.kill(instance_id)

    async def kill(self, instance_id: str) -> None:
        if instance_id in self.running:
            self.killed.append(instance_id)
            self.end(instance_id, "")

    def hold_up(self, instance_id: str, reason: str) -> None:
        """It does not come up for now; "" when it does after all."""
        self.running[instance_id] = replace(self.running[instance_id], held_up=reason)

    def end(self, instance_id: str, reason: str) -> None:
        del self.running[instance_id]
        self._report(instance_id, reason)

    async def adopt(self, functions: Mapping[str, FunctionSpec]) -> None:
        pass

    async def close(self, kill: Callable[[], Awaitable[None]] | None = None) -> None:
        pass


def _nobody(instance_id: str, reason: str) -> None:
    raise AssertionError(f"{instance_id} ended before anybody listened: {reason}")


@dataclass
class Rig:
    """The controller under test and its surroundings."""

    redis: Redis
    prefix: str
    settings: ControllerSettings = field(default_factory=ControllerSettings)
    outbound_rules: OutboundRules = field(default_factory=OutboundRules)

    def __post_init__(self) -> None:
        self.platform = PlatformKeys(self.prefix)
        self.source = ScriptedSource()
        self.backend = ScriptedBackend()
        self.controller = self.new_controller()
        self._created: dict[str, FunctionSpec] = {}

    def new_controller(self) -> Controller:
        outgoing = Outgoing("us-east-1", "000000000000", SIGNING_KEY, lambda: Outbound(self.outbound_rules))
        return Controller(self.redis, self.platform, self.source, self.backend, outgoing, settings=self.settings)

    async def close(self) -> None:
        """Stop, and remove what functions leave."""
        await self.controller.leave()
        for instance_id in list(self.backend.running):
            await self.leave(instance_id)
        await self.controller.stop()
        for spec in self._created.values():
            await delete_function_keys(self.redis, self.queue(spec).keys)
        await command(self.redis, "UNLINK", self.platform.reply("test"))

    def queue(self, spec: FunctionSpec) -> VersionQueue:
        return VersionQueue(self.platform.function(spec.namespace, spec.name, spec.uid))

    async def create(self, *, timeout_s: int = 3, **scale: Any) -> FunctionSpec:
        """A function with its queues, known to the source."""
        uid = secrets.token_hex(4)
        spec = FunctionSpec(
            namespace="default", name=f"f{uid}", uid=uid, runtime="python3.13", handler="app.handler",
            code_sha256="0" * 64, code_size=1, timeout_s=timeout_s, scale=ScaleSpec(**scale),
        )  # fmt: skip
        self._created[uid] = spec
        await create_queues(self.redis, self.queue(spec))
        self.source.put(spec)
        return spec

    def update(self, spec: FunctionSpec) -> FunctionSpec:
        """Its next revision."""
        new = replace(spec, revision=spec.revision + 1)
        self.source.put(new)
        return new

    async def call(self, spec: FunctionSpec, count: int = 1, *, kind: int = KIND_SYNC, wake: bool = True) -> None:
        """Queue calls as a gateway does."""
        queue = self.queue(spec)
        stream = queue.sync if kind == KIND_SYNC else queue.async_
        for _ in range(count):
            record = Invocation(
                kind=kind, invocation_id=secrets.token_bytes(16), wait_ms=60_000, timeout_ms=3_000, payload=b"{}",
                reply_token=secrets.token_bytes(16) if kind == KIND_SYNC else b"",
                reply_address=REPLIES if kind == KIND_SYNC else "",
            )  # fmt: skip
            await command(self.redis, "XADD", stream, "NOMKSTREAM", "*", RECORD_FIELD, record.encode())
        if wake:
            await self.wake(spec)

    async def send_event(self, spec: FunctionSpec) -> None:
        await self.call(spec, kind=KIND_ASYNC)

    async def wake(self, spec: FunctionSpec) -> None:
        await command(self.redis, "PUBLISH", self.platform.wake_channel, f"{spec.key}/{spec.uid}")

    async def beat(self, instance_id: str, state: str = "ready", *, wake: bool = True, **fields: Any) -> None:
        """An instance's heartbeat, with its control stream, announced as a runtime does."""
        spec, keys = self._of(instance_id)
        if not await command(self.redis, "EXISTS", keys.control(instance_id)):
            await command(self.redis, "XGROUP", "CREATE", keys.control(instance_id), GROUP, "0", "MKSTREAM")
        values = {"state": state, "revision": self.backend.running[instance_id].revision, **fields}
        pairs = [part for pair in values.items() for part in pair]
        await command(self.redis, "HSET", keys.instance(instance_id), *pairs)
        await command(self.redis, "PEXPIRE", keys.instance(instance_id), 15_000)
        await command(self.redis, "EXPIRE", keys.control(instance_id), 15)
        if wake:
            await self.wake(spec)

    async def lease(self, instance_id: str, count: int = 1, *, kind: int = KIND_SYNC) -> list[bytes]:
        """Let an instance take queued work; gives the entries' ids."""
        spec, _ = self._of(instance_id)
        queue = self.queue(spec)
        stream = queue.sync if kind == KIND_SYNC else queue.async_
        answer = await command(
            self.redis, "XREADGROUP", "GROUP", GROUP, instance_id, "COUNT", count, "STREAMS", stream, ">"
        )
        return [entry_id for _, entries in answer or [] for entry_id, _ in entries]

    async def finish(self, instance_id: str, entry_ids: list[bytes]) -> None:
        """Acknowledge sync calls."""
        spec, _ = self._of(instance_id)
        stream = self.queue(spec).sync
        await command(self.redis, "XACK", stream, GROUP, *entry_ids)
        await command(self.redis, "XDEL", stream, *entry_ids)

    async def replies(self, count: int) -> list[ReplyFrame]:
        """The next `count` replies."""
        frames = []
        for _ in range(count):
            answer = await command(self.redis, "BLPOP", self.platform.reply("test"), 5)
            assert answer is not None, "no reply within 5 s"
            frames.append(ReplyFrame.decode(answer[1]))
        return frames

    async def commands(self, instance_id: str) -> list[str]:
        """What an instance was told so far."""
        _, keys = self._of(instance_id)
        entries = await command(self.redis, "XRANGE", keys.control(instance_id), "-", "+")
        return [json.loads(fields[b"c"])["command"] for _, fields in entries]

    async def leave(self, instance_id: str) -> None:
        """A drained instance goes."""
        await command(self.redis, "UNLINK", *self.instance_keys(instance_id))
        self.backend.end(instance_id, "")

    def instance_keys(self, instance_id: str) -> tuple[str, str]:
        _, keys = self._of(instance_id)
        return keys.instance(instance_id), keys.control(instance_id)

    def _of(self, instance_id: str) -> tuple[FunctionSpec, Any]:
        spec = self._created[self.backend.running[instance_id].uid]
        return spec, self.queue(spec).keys


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for something that another task of this process does."""

    async def holds() -> object:
        await asyncio.sleep(0)
        return condition()

    await wait_until_async(holds, what)
