"""The bodies of /v1, for their checks and for OpenAPI. Durations and sizes carry their unit in the name."""

from dataclasses import asdict
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from forebay_common import limits
from forebay_common.names import function_arn
from forebay_common.spec import AsyncSpec, FunctionSpec
from forebay_controller.interfaces import FunctionStatus
from forebay_controller.management import Place


class _Input(BaseModel):
    """Unknown members and other types are errors, not guesses."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)


class ScaleInput(_Input):
    """How many instances may run; absent members keep their value."""

    min_instances: int | None = None
    max_instances: int | None = None
    concurrency: int | None = Field(None, description="Handler processes of each instance")
    idle_s: float | None = Field(None, description="How long an instance without work is kept")


class AsyncInput(_Input):
    """Async delivery; null means the platform's default."""

    max_retries: int | None = Field(None, description="After a function error, 0 to 2")
    max_age_s: int | None = Field(None, description=f"60 to {limits.ASYNC_AGE_MAX_S}")
    retry_delays_s: list[float] | None = Field(None, description="Before each retry; the last one repeats")
    on_success: str | None = Field(
        None, description="Where successes are reported: function:NAME, stream:NAME, https://…; null: nowhere"
    )
    on_failure: str | None = Field(
        None, description="Where events are reported that are given up; null: they go to the dead letters"
    )

    def settings(self) -> dict[str, Any]:
        """The members that were given, as members of `AsyncSpec`."""
        unset = asdict(AsyncSpec())
        given = self.model_dump(exclude_unset=True)
        return {name: unset[name] if value is None else value for name, value in given.items()}


class CodeInput(_Input):
    """The function's code."""

    zip_base64: str = Field(description="A zip of at most 50 MB, 250 MB unpacked")


class ImageInput(_Input):
    """A container image in place of runtime, handler and code; absent members keep their value."""

    uri: str | None = Field(None, min_length=1, examples=["registry.example.com/team/function:1.4"])
    command: list[str] | None = Field(None, description="In place of the image's ENTRYPOINT")
    args: list[str] | None = Field(None, description="In place of the image's CMD")
    working_directory: str | None = None

    def settings(self) -> dict[str, Any]:
        """The members that were given, as members of `PodSpec`."""
        given = {"image": self.uri, "working_directory": self.working_directory}
        lists = {"command": self.command, "args": self.args}
        found: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return found | {name: tuple(value) for name, value in lists.items() if value is not None}


class FunctionInput(_Input):
    """A function to create or update. Absent members keep their value, or take the default in a new function."""

    runtime: str | None = Field(None, description="python3.* or provided*", examples=["python3.13"])
    handler: str | None = Field(None, examples=["app.handler"])
    timeout_s: int | None = None
    memory_mb: int | None = None
    env: dict[str, str] | None = None
    scale: ScaleInput | None = None
    async_: AsyncInput | None = Field(None, alias="async")
    allowed_origins: list[str] | None = Field(None, description="Pages that may call /fn/NAME; `*` for any")
    code: CodeInput | None = None
    image: ImageInput | None = None
    auth: Literal["key", "none"] | None = Field(None, description="Who may call it: who has a key for it, or anybody")
    egress: str | None = Field(
        None, description="What it may reach: internet, none, cluster, or a list with CIDR and CIDR:PORT"
    )

    def settings(self) -> dict[str, Any]:
        """The plain members that were given, as members of `FunctionSpec`."""
        names = ("runtime", "handler", "timeout_s", "memory_mb", "env", "auth")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.allowed_origins is not None:
            given["allowed_origins"] = tuple(self.allowed_origins)
        return given


class ScaleOutput(BaseModel):
    """How many instances may run."""

    min_instances: int
    max_instances: int
    concurrency: int
    idle_s: float


class AsyncOutput(BaseModel):
    """Async delivery; null: the platform's default, or no destination."""

    max_retries: int | None
    max_age_s: int | None
    retry_delays_s: list[float] | None
    on_success: str | None
    on_failure: str | None

    @classmethod
    def of(cls, async_: AsyncSpec) -> Self:
        """The document for one function's settings."""
        return cls(
            max_retries=async_.max_retries,
            max_age_s=async_.max_age_s,
            retry_delays_s=list(async_.retry_delays_s) or None,
            on_success=async_.on_success or None,
            on_failure=async_.on_failure or None,
        )


class CodeOutput(BaseModel):
    """The code package that is stored."""

    sha256: str
    size: int


class ImageOutput(BaseModel):
    """The container image that is run in place of runtime, handler and code."""

    uri: str
    command: list[str]
    args: list[str]
    working_directory: str


class FunctionOutput(BaseModel):
    """A function's settings and state."""

    model_config = ConfigDict(populate_by_name=True)

    namespace: str
    name: str
    arn: str
    runtime: str = Field(description="Empty for an image, as the handler")
    handler: str
    timeout_s: int
    memory_mb: int
    env: dict[str, str]
    scale: ScaleOutput
    async_: AsyncOutput = Field(alias="async")
    allowed_origins: list[str]
    auth: str
    code: CodeOutput | None
    image: ImageOutput | None
    egress: str | None = Field(description="null where instances are no pods")
    revision: int = Field(description="Counts changes for which instances are replaced")
    revision_id: str
    last_modified: str
    state: str = Field(description="Pending, Active or Failed")
    state_reason: str
    update_status: str = Field(description="InProgress, Successful or Failed")
    update_reason: str
    warning: str

    @classmethod
    def members_of(cls, spec: FunctionSpec, place: Place, *, has_pods: bool) -> dict[str, Any]:
        """The members for one function; `has_pods` as in `FunctionStore`."""
        same = (
            "namespace", "name", "auth", "runtime", "handler", "timeout_s", "memory_mb", "revision", "revision_id",
            "last_modified", "state", "state_reason", "update_status", "update_reason", "warning",
        )  # fmt: skip
        scale, pod = spec.scale, spec.pod
        image = ImageOutput(
            uri=pod.image, command=list(pod.command), args=list(pod.args), working_directory=pod.working_directory
        )
        return {name: getattr(spec, name) for name in same} | {
            "arn": function_arn(place.region, place.account, spec.name),
            "env": spec.env or {},
            "scale": ScaleOutput(
                min_instances=scale.min_instances,
                max_instances=scale.max_instances,
                concurrency=scale.concurrency,
                idle_s=scale.idle_s,
            ),
            "async_": AsyncOutput.of(spec.async_),
            "allowed_origins": list(spec.allowed_origins),
            "code": None if pod.image else CodeOutput(sha256=spec.code_sha256, size=spec.code_size),
            "image": image if pod.image else None,
            "egress": pod.egress if has_pods else None,
        }

    @classmethod
    def of(cls, spec: FunctionSpec, place: Place, *, has_pods: bool) -> Self:
        """The document for one function."""
        return cls(**cls.members_of(spec, place, has_pods=has_pods))


class PutOutput(FunctionOutput):
    """The function after a PUT, and what the PUT did."""

    result: Literal["created", "updated"]
    warnings: list[str]


class FunctionList(BaseModel):
    """All functions, by name."""

    functions: list[FunctionOutput]


class InstanceCounts(BaseModel):
    """Instances by what they do."""

    starting: int
    idle: int
    busy: int
    draining: int


class StatusOutput(BaseModel):
    """A function's queue and instances as the controller saw them last."""

    queued: int
    in_flight: int
    dead_letters: int = Field(description="Events that were given up and are kept")
    instances: InstanceCounts
    reason: str = Field(description="Why there are as many instances as there are, or why none starts")

    @classmethod
    def of(cls, status: FunctionStatus) -> Self:
        """The document for one status."""
        return cls(
            queued=status.queued,
            in_flight=status.in_flight,
            dead_letters=status.dead_letters,
            instances=InstanceCounts(
                starting=status.starting, idle=status.idle, busy=status.busy, draining=status.draining
            ),
            reason=status.cannot_start or status.reason,
        )


class StatusList(BaseModel):
    """The status of every function, by name."""

    functions: dict[str, StatusOutput]


class RuntimeList(BaseModel):
    """The managed runtimes that functions can have; empty: any that the machine has an interpreter for."""

    runtimes: list[str]


class ErrorMember(BaseModel):
    """What went wrong; `code` is for programs, `message` for people."""

    code: Literal[
        "invalid", "unauthenticated", "forbidden", "not_found", "method_not_allowed", "conflict", "too_large",
        "too_many", "internal", "unavailable",
    ]  # fmt: skip
    message: str


class ErrorOutput(BaseModel):
    """The body of every error."""

    error: ErrorMember
