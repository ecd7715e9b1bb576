"""What a function's settings may be, the same for Lambda's API and for /v1. Pure.

Lambda's own input constraints (patterns, lengths) come from the service model; here is what goes beyond it.
"""

import json
import re
from collections.abc import Mapping

from forebay_common import limits
from forebay_common.spec import AsyncSpec, FunctionSpec, ScaleSpec
from forebay_controller import destination_text
from forebay_controller.environment import RESERVED

RUNTIMES_SHOWN = (
    *(f"python3.{minor}" for minor in range(15, 7, -1)),
    "provided.al2023",
    "provided.al2",
    "provided",
)
"""What an error lists; `is_runtime` takes any python3.* and provided*."""

INSTANCES_MAX = 1_000
CONCURRENCY_MAX = 100
IDLE_MAX_S = 86_400
ASYNC_AGE_MIN_S = 60
ASYNC_RETRIES_MAX = 2
RETRY_DELAYS_MAX = ASYNC_RETRIES_MAX
ORIGINS_MAX = 100
HANDLER_MAX_CHARS = 128
ITS_OWN_DESTINATION = "You can't specify the function as a destination for itself."
MEASURED_SHOWN_MAX_CHARS = 64 * limits.KIB
"""An environment can be as large as a request; an error that repeats it should not be."""

_NAME = re.compile(r"[a-zA-Z0-9-_]+")
_RUNTIME = re.compile(r"python3\.\d{1,2}|provided(\.[a-z0-9]+)?")
_HANDLER = re.compile(r"[^\s]+")
_VARIABLE = re.compile(r"[a-zA-Z]([a-zA-Z0-9_])+")
_ORIGIN = re.compile(r"\*|https?://[a-zA-Z0-9.\-_\[\]:]+")


class SettingError(ValueError):
    """A setting that is refused; the message names it and says what is allowed."""


def is_runtime(name: str) -> bool:
    """Whether instances can be made for this runtime name."""
    return _RUNTIME.fullmatch(name) is not None


def check_name(name: str) -> None:
    """A new function's bare name. Raises SettingError."""
    if len(name) > limits.NAME_MAX_CHARS:
        raise SettingError(
            f"1 validation error detected: Value '{name[:200]}' at 'functionName' failed to satisfy constraint: "
            f"Member must have length less than or equal to {limits.NAME_MAX_CHARS}"
        )
    if not _NAME.fullmatch(name):
        raise SettingError(f"{name[:200]!r} is no function name: letters, digits, '-' and '_' are allowed")


def check(spec: FunctionSpec) -> None:
    """All settings of a function that is about to be saved. Raises SettingError for the first that is refused."""
    check_name(spec.name)
    if not spec.pod.image:
        _check_program(spec)
    _check_range("timeout_s", spec.timeout_s, 1, limits.TIMEOUT_MAX_S)
    _check_range("memory_mb", spec.memory_mb, limits.MEMORY_MIN_MB, limits.MEMORY_MAX_MB)
    check_environment(spec.env or {})
    _check_scale(spec.scale)
    _check_async(spec.async_, spec.name)
    _check_origins(spec.allowed_origins)


def check_environment(variables: Mapping[str, str]) -> None:
    """A function's environment variables, with AWS's texts. Raises SettingError."""
    for name, value in variables.items():
        if not _VARIABLE.fullmatch(name):
            raise SettingError(
                f"The environment variable name {name[:200]!r} is not allowed: two or more letters, digits and '_', "
                "a letter first"
            )
        if "\0" in value:
            raise SettingError(f"The environment variable {name} holds a NUL character")
    reserved = sorted(RESERVED & set(variables))
    if reserved:
        raise SettingError(
            "Lambda was unable to configure your environment variables because the environment variables you have "
            "provided contains reserved keys that are currently not supported for modification. "
            f"Reserved keys used in this request: {', '.join(reserved)}"
        )
    measured = json.dumps(variables, separators=(",", ":"), ensure_ascii=False)
    if len(measured.encode(errors="surrogatepass")) > limits.ENVIRONMENT_MAX_BYTES:
        raise SettingError(
            "Lambda was unable to configure your environment variables because the environment variables you have "
            f"provided exceeded the 4KB limit. String measured: {measured[:MEASURED_SHOWN_MAX_CHARS]}"
        )


def needs_new_instances(old: FunctionSpec, new: FunctionSpec) -> bool:
    """Whether instances of `old` cannot serve `new`: what they were started with differs."""
    return instance_settings(old) != instance_settings(new)


def instance_settings(spec: FunctionSpec) -> dict[str, object]:
    """What an instance is started with, by name: when any of it changes, instances are replaced.

    The pull secrets are among it since an instance whose image cannot be pulled never looks at other ones.
    """
    pod = spec.pod
    return {
        "runtime": spec.runtime,
        "handler": spec.handler,
        "code_sha256": spec.code_sha256,
        "timeout_s": spec.timeout_s,
        "memory_mb": spec.memory_mb,
        "env": spec.env or {},
        "concurrency": spec.scale.concurrency,
        "max_retries": None if spec.async_.max_retries == limits.ASYNC_RETRIES_DEFAULT else spec.async_.max_retries,
        "retry_delays_s": spec.async_.retry_delays_s,
        "image": pod.image,
        "command": pod.command,
        "args": pod.args,
        "working_directory": pod.working_directory,
        "image_pull_secrets": pod.image_pull_secrets,
        "cpu_millis": pod.cpu_millis,
        "env_from": pod.env_from,
        "egress": pod.egress,
    }


def _check_program(spec: FunctionSpec) -> None:
    if not is_runtime(spec.runtime):
        raise SettingError(
            f"Value {spec.runtime[:200]} at 'runtime' failed to satisfy constraint: "
            f"Member must satisfy enum value set: [{', '.join(RUNTIMES_SHOWN)}] or be a valid ARN"
        )
    if len(spec.handler) > HANDLER_MAX_CHARS or not _HANDLER.fullmatch(spec.handler):
        raise SettingError(f"handler must be 1 to {HANDLER_MAX_CHARS} characters without white space")


def _check_scale(scale: ScaleSpec) -> None:
    _check_range("scale.max_instances", scale.max_instances, 1, INSTANCES_MAX)
    _check_range("scale.min_instances", scale.min_instances, 0, INSTANCES_MAX)
    _check_range("scale.concurrency", scale.concurrency, 1, CONCURRENCY_MAX)
    _check_range("scale.idle_s", scale.idle_s, 0, IDLE_MAX_S)
    if scale.min_instances > scale.max_instances:
        raise SettingError(
            f"scale.min_instances ({scale.min_instances}) is above scale.max_instances ({scale.max_instances})"
        )


def _check_async(async_: AsyncSpec, function_name: str) -> None:
    if async_.max_retries is not None:
        _check_range("async.max_retries", async_.max_retries, 0, ASYNC_RETRIES_MAX)
    if async_.max_age_s is not None:
        _check_range("async.max_age_s", async_.max_age_s, ASYNC_AGE_MIN_S, limits.ASYNC_AGE_MAX_S)
    if len(async_.retry_delays_s) > RETRY_DELAYS_MAX:
        raise SettingError(
            f"async.retry_delays_s holds {len(async_.retry_delays_s)} delays, {RETRY_DELAYS_MAX} are allowed: one "
            "before each retry"
        )
    for delay_s in async_.retry_delays_s:
        _check_range("async.retry_delays_s", delay_s, 0, limits.ASYNC_AGE_MAX_S)
    for name in ("on_success", "on_failure"):
        _check_destination(f"async.{name}", getattr(async_, name), function_name)


def _check_destination(name: str, text: str, function_name: str) -> None:
    if not text:
        return
    try:
        found = destination_text.parse(text)
    except destination_text.DestinationError as error:
        raise SettingError(f"{name}: {error}") from error
    if found == (destination_text.FUNCTION, function_name):
        raise SettingError(f"{name}: {ITS_OWN_DESTINATION}")


def _check_origins(origins: tuple[str, ...]) -> None:
    if len(origins) > ORIGINS_MAX:
        raise SettingError(f"allowed_origins holds {len(origins)} origins, {ORIGINS_MAX} are allowed")
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise SettingError(
                f"allowed_origins: {origin[:200]!r} is no origin, such as https://app.example.com, and not '*'"
            )


def _check_range(name: str, value: float, minimum: float, maximum: float) -> None:
    if not minimum <= value <= maximum:
        raise SettingError(f"{name} is {value}, {minimum} to {maximum} is allowed")
