"""Functions of several namespaces in memory, where instances are pods: what a cluster's store is to the API."""

from datetime import UTC, datetime
from uuid import uuid4

from redis.asyncio import Redis

from forebay_common.keys import FunctionKeys, PlatformKeys
from forebay_common.names import id_prefix
from forebay_common.spec import FunctionSpec
from forebay_controller import registry_rules as rules
from forebay_controller import settings_rules
from forebay_controller.code_package import CodePackage
from forebay_controller.code_store import CodeStore
from forebay_controller.management import VISIBLE_S, Decision, Place, Queues, Retire, StoreError


class MemoryFunctions:
    """One namespace's. `refusal` is raised by the next change."""

    def __init__(self, namespace: str, code: CodeStore) -> None:
        self.place = Place(namespace=namespace)
        self.code = code
        self.specs: dict[str, FunctionSpec] = {}
        self.refusal: StoreError | None = None

    def find(self, name: str) -> FunctionSpec | None:
        return self.specs.get(name)

    def by_name(self) -> list[FunctionSpec]:
        return sorted(self.specs.values(), key=lambda spec: spec.name)

    def by_id_prefix(self, prefix: bytes) -> list[FunctionSpec]:
        return [spec for spec in self.specs.values() if id_prefix(spec.uid) == prefix]

    def keys(self, spec: FunctionSpec) -> FunctionKeys:
        return PlatformKeys("memory").function(spec.namespace, spec.name, spec.uid)

    async def change(
        self, name: str, decide: Decision, package: CodePackage | None = None, *, visible_s: float = VISIBLE_S
    ) -> FunctionSpec:
        del package, visible_s
        if self.refusal is not None:
            raise self.refusal
        old, now = self.find(name), datetime.now(UTC)
        wanted = decide(old)
        settings_rules.check(wanted)
        if old is None:
            made = rules.created(wanted, uid=uuid4().hex, now=now, pending=False)
        else:
            made = rules.update_finished(rules.updated(old, wanted, now))
        self.specs[name] = made
        return made

    async def annotate(self, name: str, decide: Decision) -> None:
        self.specs[name] = decide(self.find(name))

    async def delete(self, name: str, retire: Retire) -> bool:
        spec = self.specs.pop(name, None)
        if spec is not None:
            await retire(spec.uid)
        return spec is not None


class MemoryStore:
    """All of them; `blobs` holds what was uploaded."""

    has_pods = True
    namespaces_served = "team-a and team-b"

    def __init__(self, redis: Redis) -> None:
        self.queues = Queues(redis, PlatformKeys("memory"))
        code = CodeStore(redis)
        self.namespaces = {name: MemoryFunctions(name, code) for name in ("team-a", "team-b")}
        self.blobs: dict[str, CodePackage] = {}

    def in_namespace(self, namespace: str) -> MemoryFunctions | None:
        return self.namespaces.get(namespace)

    async def stage_blob(self, package: CodePackage) -> None:
        self.blobs[package.sha256] = package
