"""The controller's configuration on a cluster: the member `cluster` of its file, and what of the rest it uses."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from hashlib import sha256
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Self

from forebay_common.keys import DEFAULT_PREFIX
from forebay_common.limits import RESULT_RETENTION_S
from forebay_common.redis_settings import RedisSettings
from forebay_common.spec import FunctionSpec
from forebay_controller.config import OutboundSettings, check_retention

INSTANCES_MAX = 1_000
"""Of all functions together; the cluster's own room is the bound that people mean."""
RETRY_DELAYS_S = (60.0, 120.0)
"""Lambda's own."""
LABEL_MAX_CHARS = 63
_CUT_CHARS = LABEL_MAX_CHARS - 11
PER_FUNCTION = "per-function"
SHARED = "shared"

_RUNTIME_RESOURCES: dict[str, Any] = {
    "requests": {"cpu": "20m", "memory": "48Mi"},
    "limits": {"cpu": "1", "memory": "256Mi"},
}
"""A runtime holds some 25 MB; payloads of 6 MB, several at a time, come on top."""


def release_id(namespace: str, release: str) -> str:
    """Which release something belongs to, as a label's value; one that would be too long ends in its hash."""
    name = f"{namespace}.{release}"
    return name if len(name) <= LABEL_MAX_CHARS else f"{name[:_CUT_CHARS]}-{sha256(name.encode()).hexdigest()[:10]}"


@dataclass(frozen=True, slots=True)
class RuntimeImage:
    """The container image that has a managed runtime's interpreter and the handlers' program."""

    image: str


@dataclass(frozen=True, slots=True)
class PodSettings:
    """What the operator adds to every function's pod; all as a pod's manifest has it."""

    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: list[dict[str, Any]] = field(default_factory=list)
    affinity: dict[str, Any] = field(default_factory=dict)
    topology_spread_constraints: list[dict[str, Any]] = field(default_factory=list)
    priority_class_name: str = ""
    runtime_class_name: str = ""
    runtime_resources: dict[str, Any] = field(default_factory=lambda: _RUNTIME_RESOURCES)


@dataclass(frozen=True, slots=True)
class NetworkPolicySettings:
    """What function pods may reach, in the terms of NetworkPolicies.

    `redis`, `gateway` and `dns` are egress rules ({"to": [...], "ports": [...]}) that every function gets.
    `blocked_cidrs` are never reached, whatever a function asks for; `cluster_cidrs` (pods and Services) not by
    `internet`. `read_nodes`: whether nodes' addresses may be read from the API, which takes a ClusterRole.
    """

    enabled: bool = True
    redis: list[dict[str, Any]] = field(default_factory=list)
    gateway: list[dict[str, Any]] = field(default_factory=list)
    dns: list[dict[str, Any]] = field(default_factory=list)
    blocked_cidrs: list[str] = field(default_factory=list)
    cluster_cidrs: list[str] = field(default_factory=list)
    read_nodes: bool = True


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """What a controller on a cluster is told at its start.

    `namespaces` that Functions are served in, () for all; `namespace` is the one that clients without `/ns/` get.
    `redis` is the controller's own way to Redis, `redis_for_functions` says where function pods find it (in mode
    `shared` also as whom). `gateway_url` is where functions find Invoke. `function_key` is what their secrets
    are derived from.
    """

    release: str
    release_namespace: str
    full_name: str
    redis: RedisSettings
    redis_for_functions: RedisSettings
    function_key: bytes
    runtime_image: str
    gateway_url: str
    runtimes: dict[str, RuntimeImage] = field(default_factory=dict)
    namespace: str = "default"
    namespaces: tuple[str, ...] = ()
    host: str = "0.0.0.0"
    port: int = 8490
    metrics_port: int = 8483
    prefix: str = DEFAULT_PREFIX
    region: str = "us-east-1"
    account: str = "000000000000"
    auth: str = "required"
    log_level: str = "info"
    instances_max: int = INSTANCES_MAX
    retry_delays_s: tuple[float, ...] = RETRY_DELAYS_S
    result_retention_s: float = RESULT_RETENTION_S
    redis_acl: str = PER_FUNCTION
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    pod: PodSettings = field(default_factory=PodSettings)
    network_policy: NetworkPolicySettings = field(default_factory=NetworkPolicySettings)
    outbound: OutboundSettings = field(default_factory=OutboundSettings)
    lease_duration_s: float = 15.0
    renew_deadline_s: float = 10.0
    retry_period_s: float = 2.0

    def image_of(self, spec: FunctionSpec) -> str:
        """The image that a function's handlers run in; "" when this installation has none for its runtime."""
        if spec.pod.image:
            return spec.pod.image
        found = self.runtimes.get(spec.runtime)
        return found.image if found is not None else ""

    def no_image(self, spec: FunctionSpec) -> str:
        """What is wrong with a function without an image, for people."""
        known = ", ".join(sorted(self.runtimes)) or "none"
        return f"This installation has no image for the runtime {spec.runtime} (it has: {known})"

    @property
    def release_id(self) -> str:
        """Value of the label `app.kubernetes.io/part-of` on everything that this release makes."""
        return release_id(self.release_namespace, self.release)

    @property
    def admin_secret(self) -> str:
        """Name of the Secret with the first key pair."""
        return f"{self.full_name}-admin"

    @property
    def redis_secret(self) -> str:
        """Name of the Secret with the platform's Redis passwords and the key that functions' are derived from."""
        return f"{self.full_name}-redis"

    def serves(self, namespace: str) -> bool:
        """Whether Functions of a namespace are served: never those beside the platform itself."""
        return namespace != self.release_namespace and (not self.namespaces or namespace in self.namespaces)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read the file's object: members of its own level, and those of `cluster`.

        Raises ValueError, saying what is missing or wrong, OSError when a file it names cannot be read.
        """
        members = _flat(document)
        key_file = members.pop("function_key_file", None)
        if key_file is not None:
            members["function_key"] = Path(key_file).read_bytes().strip()
        required = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}
        missing = sorted(required - members.keys())
        if missing:
            raise ValueError(f"the configuration lacks {' and '.join(missing)}")
        config = cls(**_typed(members, set(cls.__dataclass_fields__)))
        _check(config)
        return config


def _flat(document: Mapping[str, Any]) -> dict[str, Any]:
    members = {name: value for name, value in document.items() if name != "cluster"}
    return {**members, **document["cluster"]}


def _typed(members: Mapping[str, Any], known: set[str]) -> dict[str, Any]:
    """The members that the configuration knows, as its types."""
    typed = {name: value for name, value in members.items() if name in known}
    for name in ("redis", "redis_for_functions"):
        typed[name] = RedisSettings.from_json(typed[name])
    for name in ("namespaces", "image_pull_secrets", "retry_delays_s"):
        typed[name] = tuple(typed.get(name) or ())
    typed["retry_delays_s"] = tuple(float(delay_s) for delay_s in typed["retry_delays_s"]) or RETRY_DELAYS_S
    typed["runtimes"] = {name: RuntimeImage(**image) for name, image in (typed.get("runtimes") or {}).items()}
    for name, kind in (("pod", PodSettings), ("network_policy", NetworkPolicySettings), ("outbound", OutboundSettings)):
        given = typed.get(name) or {}
        unknown = set(given) - set(kind.__dataclass_fields__)
        if unknown:
            raise ValueError(f"unknown settings in {name}: {', '.join(sorted(unknown))}")
        typed[name] = kind(**{member: value for member, value in given.items() if value is not None})
    return typed


def _check(config: ClusterConfig) -> None:
    if not config.function_key:
        raise ValueError("function_key_file is empty")
    if config.release_namespace in config.namespaces:
        raise ValueError(f"Functions are not served in the platform's own namespace, {config.release_namespace}")
    if config.namespaces and config.namespace not in config.namespaces:
        raise ValueError(f"the default namespace {config.namespace} is not among those that are served")
    if config.redis_acl not in {PER_FUNCTION, SHARED}:
        raise ValueError(f"redis_acl is {PER_FUNCTION} or {SHARED}")
    if config.auth not in {"required", "off"}:
        raise ValueError("auth is required or off")
    if config.instances_max < 1:
        raise ValueError("instances_max is 1 at least")
    check_retention(config.result_retention_s)
    if min(config.retry_delays_s) < 0:
        raise ValueError("no retry delay is below 0")
    if not config.retry_period_s * 1.2 < config.renew_deadline_s < config.lease_duration_s:
        raise ValueError("retry_period_s is shorter than renew_deadline_s, and that than lease_duration_s")
    for cidr in (*config.network_policy.blocked_cidrs, *config.network_policy.cluster_cidrs):
        ip_network(cidr)  # raises ValueError with the CIDR in it
