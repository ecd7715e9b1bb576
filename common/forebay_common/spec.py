"""A function's whole spec: what the registry keeps and instances are made from."""

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from forebay_common import limits


@dataclass(frozen=True, slots=True)
class ScaleSpec:
    """How many instances may run, and how many handler processes each has (`concurrency`)."""

    min_instances: int = 0
    max_instances: int = limits.MAX_INSTANCES_DEFAULT
    concurrency: int = 1
    idle_s: float = limits.IDLE_DEFAULT_S


@dataclass(frozen=True, slots=True)
class AsyncSpec:
    """Async delivery: retries after a function error, the event's maximum age, and who is told of its end.

    None and empty `retry_delays_s` (before each retry, the last one repeats): the platform's. `on_success`,
    `on_failure`: "" or a destination, `function:NAME` (of the same namespace), `stream:NAME`, `https://…`, `http://…`.
    """

    max_retries: int | None = None
    max_age_s: int | None = None
    retry_delays_s: tuple[float, ...] = ()
    on_success: str = ""
    on_failure: str = ""

    @classmethod
    def from_members(cls, raw: dict[str, Any]) -> Self:
        """Read it from decoded JSON; members that a later release added are ignored."""
        known = {name: raw[name] for name in cls.__dataclass_fields__ if name in raw}
        known["retry_delays_s"] = tuple(known.get("retry_delays_s", ()))
        return cls(**known)


@dataclass(frozen=True, slots=True)
class PodSpec:
    """What only instances that are pods have; all empty on one machine.

    `resource_name`: the Function resource's metadata.name. `image`: a container image in place of runtime and code,
    with `command`, `args` and `working_directory` as in Lambda's ImageConfig. `cpu_millis`: 0 follows the memory.
    `env_from`: entries of a container's `env` whose value comes from a Secret or ConfigMap, as Kubernetes writes them.
    `egress`: `internet`, `none`, `cluster`, or a list of `CIDR` and `CIDR:PORT` separated by commas.
    """

    resource_name: str = ""
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_directory: str = ""
    image_pull_secrets: tuple[str, ...] = ()
    cpu_millis: int = 0
    env_from: tuple[dict[str, Any], ...] = ()
    egress: str = "internet"

    @classmethod
    def from_members(cls, raw: dict[str, Any]) -> Self:
        """Read it from decoded JSON; members that a later release added are ignored."""
        known = {name: raw[name] for name in cls.__dataclass_fields__ if name in raw}
        for name in ("command", "args", "image_pull_secrets", "env_from"):
            known[name] = tuple(known.get(name, ()))
        return cls(**known)


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """One function at one revision.

    `revision` counts changes of code and settings and names them to instances; `revision_id` is Lambda's UUID.
    `code_sha256` is hexadecimal. `state`, `update_status` and their reasons use Lambda's words. `aws` holds the
    members that Lambda's API carries and the platform does not use (Role, Description, Tags …), as sent. `auth` says
    who may invoke it where the platform asks for credentials: `key` (who has one that allows it) or `none` (anybody).
    """

    namespace: str
    name: str
    uid: str
    runtime: str
    handler: str
    code_sha256: str
    code_size: int
    revision: int = 1
    revision_id: str = ""
    last_modified: str = ""
    timeout_s: int = limits.TIMEOUT_DEFAULT_S
    memory_mb: int = limits.MEMORY_DEFAULT_MB
    env: dict[str, str] | None = None
    scale: ScaleSpec = field(default_factory=ScaleSpec)
    async_: AsyncSpec = field(default_factory=AsyncSpec)
    allowed_origins: tuple[str, ...] = ()
    auth: str = "key"
    pod: PodSpec = field(default_factory=PodSpec)
    aws: dict[str, Any] = field(default_factory=dict)
    state: str = "Pending"
    state_reason: str = ""
    state_reason_code: str = ""
    update_status: str = ""
    update_reason: str = ""
    update_reason_code: str = ""
    warning: str = ""

    @property
    def key(self) -> str:
        """`NAMESPACE/NAME`."""
        return f"{self.namespace}/{self.name}"

    @property
    def init_timeout_ms(self) -> int:
        """How long an instance's initialisation may take.

        Less than its first caller waits, so that the caller hears that it timed out, not that nothing was free.
        """
        return max(limits.INIT_MIN_MS, self.timeout_s * 1000)

    def with_changes(self, **changes: Any) -> Self:
        """A copy with some members replaced."""
        return replace(self, **changes)

    def to_json(self) -> bytes:
        """Compact JSON."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read a spec; members that a later release added are ignored."""
        raw = json.loads(data)
        known = {name: raw[name] for name in cls.__dataclass_fields__ if name in raw}
        known["scale"] = ScaleSpec(**known.get("scale", {}))
        known["async_"] = AsyncSpec.from_members(known.get("async_", {}))
        known["pod"] = PodSpec.from_members(known.get("pod", {}))
        known["allowed_origins"] = tuple(known.get("allowed_origins", ()))
        return cls(**known)
