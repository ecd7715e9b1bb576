"""`forebay deploy`: package, send, and wait until the new code is what answers."""

from __future__ import annotations

import base64
import io
import sys
import time
import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from forebay_cli import package
from forebay_cli.errors import UserError
from forebay_cli.requirements import installed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from forebay_cli.client import Client

APPLIED_MAX_S = 60.0
POLL_S = 0.05
NO_DESTINATION = "none"
"""What `--on-success` and `--on-failure` are given to take a destination away."""


@dataclass(frozen=True, slots=True)
class DeployOptions:
    """What `deploy` was given; None and empty members leave a function's setting as it is."""

    handler: str | None = None
    runtime: str | None = None
    timeout_s: int | None = None
    memory_mb: int | None = None
    env: dict[str, str] = field(default_factory=dict)
    min_instances: int | None = None
    max_instances: int | None = None
    concurrency: int | None = None
    idle_s: float | None = None
    allowed_origins: tuple[str, ...] = ()
    image: str | None = None
    auth: str | None = None
    egress: str | None = None
    max_retries: int | None = None
    max_age_s: int | None = None
    retry_delays_s: tuple[float, ...] = ()
    on_success: str | None = None
    on_failure: str | None = None


def own_runtime() -> str:
    """The runtime name of the Python that runs this."""
    return f"python{sys.version_info.major}.{sys.version_info.minor}"


def parse_env(pairs: list[str]) -> dict[str, str]:
    """`K=V` options as a mapping. Raises UserError."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UserError(f"--env {pair!r}: write it as NAME=VALUE")
        found[name] = value
    return found


class Built(NamedTuple):
    """A package ready to be sent."""

    zipped: bytes
    handler: str
    runtime: str


def build_package(
    path: Path, options: DeployOptions, progress: Callable[[str], None], runtimes: Sequence[str] = ()
) -> Built:
    """Make the package and settle its handler and runtime, one of the platform's `runtimes`. Raises UserError."""
    source = package.read_source(path)
    if isinstance(source, bytes):
        with zipfile.ZipFile(io.BytesIO(source)) as archive:
            names = archive.namelist()
            handler = options.handler or package.guess_handler(names, archive)
        return Built(source, handler, options.runtime or choose_runtime(names, runtimes))
    handler = options.handler or package.guess_handler(list(source.files), source.files)
    runtime = options.runtime or choose_runtime(list(source.files), runtimes)
    if source.requirements is None or not runtime.startswith("python"):
        return Built(package.make_zip(source.files), handler, runtime)
    with installed(source.requirements, runtime, progress) as files:
        # The user's own files win over what pip installed under the same name.
        return Built(package.make_zip({**files, **source.files}), handler, runtime)


def choose_runtime(names: Sequence[str], runtimes: Sequence[str]) -> str:
    """The runtime for a package of these files where none was asked for: like our own Python, if the platform has it.

    `runtimes` are the platform's; none: it has any. Raises UserError when none of them fits.
    """
    bootstrap = package.BOOTSTRAP in names
    wanted = package.PROVIDED if bootstrap else own_runtime()
    if not runtimes or wanted in runtimes:
        return wanted
    start = "provided" if bootstrap else "python3."
    fitting = [name for name in runtimes if name.startswith(start)]
    if not fitting:
        raise UserError(f"this platform has no {start.rstrip('3.')} runtime, it has: {', '.join(runtimes)}")
    return max(fitting, key=lambda name: (len(name), name))


def put_document(built: Built | None, options: DeployOptions) -> dict[str, Any]:
    """The body of the PUT; only what was given, so that an update keeps the rest. `built` None: an image."""
    scale = {
        "min_instances": options.min_instances,
        "max_instances": options.max_instances,
        "concurrency": options.concurrency,
        "idle_s": options.idle_s,
    }
    async_ = {
        "max_retries": options.max_retries,
        "max_age_s": options.max_age_s,
        "retry_delays_s": list(options.retry_delays_s) or None,
        "on_success": options.on_success,
        "on_failure": options.on_failure,
    }
    document: dict[str, Any] = {
        "timeout_s": options.timeout_s,
        "memory_mb": options.memory_mb,
        "env": options.env or None,
        "scale": {name: value for name, value in scale.items() if value is not None} or None,
        "async": {name: _or_null(value) for name, value in async_.items() if value is not None} or None,
        "allowed_origins": list(options.allowed_origins) or None,
        "image": {"uri": options.image} if options.image else None,
        "auth": options.auth,
        "egress": options.egress,
    }
    if built is not None:
        document |= {
            "runtime": built.runtime,
            "handler": built.handler,
            "code": {"zip_base64": base64.b64encode(built.zipped).decode()},
        }
    return {name: value for name, value in document.items() if value is not None}


def _or_null(value: Any) -> Any:
    """A setting as /v1 has it, where null takes a destination away."""
    return None if value == NO_DESTINATION else value


def deploy(
    client: Client, name: str, path: Path | None, options: DeployOptions, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Deploy from a path, or the options' image. Returns the function once the new code is what answers.

    Raises UserError.
    """
    if (path is None) == (options.image is None):
        raise UserError("give what to deploy: a path, or --image")
    if options.image is not None and (options.handler or options.runtime):
        raise UserError("--handler and --runtime are for code: an image has its own entrypoint")
    runtimes = client.runtimes() if path is not None and options.runtime is None else []
    built = None if path is None else build_package(path, options, progress, runtimes)
    return deploy_package(client, name, built, options)


def deploy_package(client: Client, name: str, built: Built | None, options: DeployOptions) -> dict[str, Any]:
    """Deploy a package, or an image. Returns the function, and the deployment's `warnings`, once the new code answers.

    Raises UserError.
    """
    warnings = client.put_function(name, put_document(built, options))["warnings"]
    deadline = time.monotonic() + APPLIED_MAX_S
    while True:
        function = client.function(name)
        if state := _settled(function):
            if state == "Failed":
                raise UserError(f"{name} failed: {function.get('state_reason') or function.get('update_reason')}")
            return {**function, "warnings": warnings}
        if time.monotonic() > deadline:
            raise UserError(f"{name}: earlier code still runs after {APPLIED_MAX_S:.0f} s: see `forebay status {name}`")
        time.sleep(POLL_S)  # the API has no way to wait for a change


def _settled(function: dict[str, Any]) -> str:
    """`Active` or `Failed` once no change is under way, else ""."""
    states = {function["state"], function["update_status"] or "Successful"}
    if "Failed" in states:
        return "Failed"
    return "" if states & {"Pending", "InProgress"} else "Active"
