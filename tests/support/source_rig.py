"""A leader's FunctionSource on a scripted API server and a real Valkey, without any instance."""

import asyncio
import json
from typing import Any

from redis.asyncio import Redis

from forebay_common.keys import PlatformKeys
from forebay_common.queue import delete_function_keys
from forebay_common.redis_client import RedisSettings, command
from forebay_common.routing import RoutingEntry
from forebay_common.spec import FunctionSpec
from forebay_controller.cluster.api import EVENTS, FUNCTIONS, Api, Object
from forebay_controller.cluster.code_source import CodeReader
from forebay_controller.cluster.config import ClusterConfig, RuntimeImage
from forebay_controller.cluster.function_source import FunctionSource
from forebay_controller.cluster.informer import Informer
from forebay_controller.cluster.resources_store import ResourceStore
from forebay_controller.code_store import CodeStore
from forebay_controller.interfaces import FunctionStatus
from forebay_controller.outbound import Outbound
from forebay_controller.outbound_rules import OutboundRules
from support.controller_rig import until
from support.function_objects import function_object
from support.scripted_api_server import ScriptedApiServer

SETTINGS = RedisSettings(host="127.0.0.1")


def config(prefix: str, **more: Any) -> ClusterConfig:
    return ClusterConfig(
        release="forebay", release_namespace="forebay", full_name="forebay", redis=SETTINGS,
        redis_for_functions=SETTINGS, function_key=b"k", runtime_image="r", gateway_url="http://g", prefix=prefix,
        runtimes={"python3.13": RuntimeImage("r")}, **more,
    )  # fmt: skip


class SourceRig:
    """One leader; `lead` begins another life of it, as after a takeover."""

    def __init__(self, server: ScriptedApiServer, redis: Redis, prefix: str, **settings: Any) -> None:
        self.server = server
        self.redis = redis
        self.platform = PlatformKeys(prefix)
        self.config = config(prefix, **settings)
        self.outbound = Outbound(OutboundRules())
        self.prepared: list[FunctionSpec] = []
        self.released: list[str] = []
        self.retired: list[str] = []
        self.told: list[str] = []
        self.prepare_error: Exception | None = None
        self.code_total_max_bytes = 2**31
        self.looks = True
        self._retire_gate = asyncio.Event()
        self._retire_gate.set()
        self._uids: set[tuple[str, str, str]] = set()

    async def lead(self) -> None:
        """Begin to lead."""
        self.api: Api = self.server.api(retry_for_s=2.0)
        self.informer = Informer(self.api, FUNCTIONS, self.config.namespaces)
        await self.informer.start()
        self.code = CodeStore(self.redis, self.code_total_max_bytes)
        self.store = ResourceStore(self.api, self.informer, self.redis, self.platform, self.code, self.config)
        self.store.start()
        self.source = FunctionSource(
            self.api, self.informer, self.redis, self.platform, self.code,
            CodeReader(self.api, self.redis, self.platform, self.outbound), self.config,
            prepare=self._prepare, release=self._release, instance="test",
        )  # fmt: skip
        await self.source.load()
        self.source.on_change(self._changed)
        self.source.start(self._retire)

    async def stop(self) -> None:
        """Stop leading, and leave everything as it is."""
        await self.source.close()
        await self.informer.close()
        await self.api.close()

    async def close(self) -> None:
        """Stop, and remove what functions left."""
        self.hold_retirement(hold=False)
        await self.stop()
        table: dict[bytes, bytes] = await command(self.redis, "HGETALL", self.platform.functions)
        for raw in table.values():
            entry = RoutingEntry.from_json(raw)
            self._uids.add((entry.namespace, entry.name, entry.uid))
        for item in self.server.all(FUNCTIONS):
            name = item["spec"].get("functionName", item["metadata"]["name"])
            self._uids.add((item["metadata"]["namespace"], name, item["metadata"]["uid"].replace("-", "")))
        for tag in self._uids:
            await delete_function_keys(self.redis, self.platform.function(*tag))

    # What a test does.

    def apply(self, name: str = "hello", *, namespace: str = "team", **spec: Any) -> str:
        """A new Function; gives its uid."""
        item = function_object(name, **spec)
        metadata = {"name": name, "namespace": namespace}
        made = self.server.put(FUNCTIONS, {**item, "metadata": metadata})
        return str(made["metadata"]["uid"]).replace("-", "")

    async def ready(self, name: str = "hello", namespace: str = "team") -> Object:
        """Wait until its status says that it is ready, as of its generation."""
        await until(lambda: self._is_ready(namespace, name), f"{name} is ready")
        return self.server.get(FUNCTIONS, namespace, name)

    async def condition(self, kind: str, reason: str, name: str = "hello", namespace: str = "team") -> Object:
        """Wait until a condition has a reason; gives the condition."""
        await until(lambda: self.conditions(name, namespace).get(kind, {}).get("reason") == reason, f"{kind} {reason}")
        return self.conditions(name, namespace)[kind]

    def conditions(self, name: str = "hello", namespace: str = "team") -> dict[str, Object]:
        return {item["type"]: item for item in self.status(name, namespace).get("conditions", ())}

    def status(self, name: str = "hello", namespace: str = "team") -> Object:
        status: Object = self.server.get(FUNCTIONS, namespace, name).get("status", {})
        return status

    async def entry(self, name: str = "hello", namespace: str = "team") -> RoutingEntry | None:
        raw: bytes | None = await command(self.redis, "HGET", self.platform.functions, f"{namespace}/{name}")
        return None if raw is None else RoutingEntry.from_json(raw)

    async def keys_of(self, uid: str) -> list[str]:
        return [key.decode() async for key in self.redis.scan_iter(match=f"{self.platform.prefix}:*{uid}*", count=1000)]

    def spec(self, uid: str) -> FunctionSpec:
        return self.source.functions()[uid]

    def events(self) -> list[tuple[str, str]]:
        """Reasons and notes, oldest first."""
        return [(item["reason"], item["note"]) for item in self.server.all(EVENTS)]

    def status_writes(self) -> int:
        return self.server.count("PATCH", "/status$")

    def hold_retirement(self, *, hold: bool = True) -> None:
        """Let a deletion wait for instances that do not end."""
        if hold:
            self._retire_gate.clear()
        else:
            self._retire_gate.set()

    async def package(self, uid: str) -> bytes:
        """The code that instances get."""
        spec = self.spec(uid)
        keys = self.platform.function(spec.namespace, spec.name, uid)
        index: dict[bytes, bytes] = await command(self.redis, "HGETALL", keys.code_index())
        chunks = json.loads(index[spec.code_sha256.encode()])["chunks"]
        parts = [await command(self.redis, "GET", keys.code(spec.code_sha256, at)) for at in range(chunks)]
        return b"".join(parts)

    def _is_ready(self, namespace: str, name: str) -> bool:
        item = self.server.get(FUNCTIONS, namespace, name)
        ready = self.conditions(name, namespace).get("Ready", {})
        return ready.get("status") == "True" and ready.get("observedGeneration") == item["metadata"]["generation"]

    async def _prepare(self, spec: FunctionSpec) -> None:
        if self.prepare_error is not None:
            raise self.prepare_error
        self.prepared.append(spec)

    async def _release(self, spec: FunctionSpec) -> None:
        self.released.append(spec.uid)

    async def _retire(self, uid: str) -> None:
        assert uid not in self.source.functions(), "it would be started anew"
        self.retired.append(uid)
        await self._retire_gate.wait()

    def _changed(self, uid: str) -> None:
        self.told.append(uid)
        if self.looks and uid in self.source.functions():
            self.source.note_status(uid, FunctionStatus())
