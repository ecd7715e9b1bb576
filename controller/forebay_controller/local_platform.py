"""What this machine gives instances, found out once at the start: isolation and the boto3 folder."""

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from forebay_common.redis_settings import RedisSettings
from forebay_controller.boto_folder import make_boto_folder
from forebay_controller.local_backend import (
    NAMESPACES,
    OPEN_DIR,
    PROCESS_GROUP,
    SANDBOX,
    LocalBackend,
    LocalSettings,
)

_PROBE_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Isolation:
    """How user code is kept apart on this machine; `reason` says why it is not by namespaces."""

    kind: str
    reason: str


def probe_isolation() -> Isolation:
    """Try a sandbox; namespaces where the machine allows them, else a process group."""
    try:
        answer = subprocess.run(
            [sys.executable, "-I", "-S", str(SANDBOX), "--probe"],
            capture_output=True,
            timeout=_PROBE_TIMEOUT_S,
            check=True,
        )
        found = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return Isolation(PROCESS_GROUP, f"the probe failed: {error}")
    return Isolation(NAMESPACES if found["namespaces"] else PROCESS_GROUP, str(found["reason"]))


async def make_local_backend(
    *,
    prefix: str,
    redis: RedisSettings,
    region: str,
    account: str,
    gateway_url: str,
    run_dir: Path,
    data_dir: Path,
    retry_delays_s: tuple[float, ...],
    access_key: tuple[str, str] | None,
) -> LocalBackend:
    """The backend of this machine. Raises OSError when the data dir cannot be written.

    `access_key` (id and secret) is what functions call each other with; None where nobody asks for one.
    """
    isolation = await asyncio.to_thread(probe_isolation)
    shared = await asyncio.to_thread(_shared_folder, isolation.kind, run_dir, data_dir)
    boto_dir = await asyncio.to_thread(_boto_folder, shared)
    return LocalBackend(
        LocalSettings(
            prefix=prefix,
            redis=redis,
            region=region,
            account=account,
            gateway_url=gateway_url,
            run_dir=run_dir,
            data_dir=data_dir,
            code_dir=shared / "code",
            boto_dir=boto_dir,
            isolation=isolation.kind,
            retry_delays_s=retry_delays_s,
            supervisor_pid=int(os.environ.get("FOREBAY_SUPERVISOR_PID", "0")),
            access_key=access_key,
        )
    )


def _shared_folder(isolation: str, run_dir: Path, data_dir: Path) -> Path:
    """Where code lies that handlers read: not under root's home when they reach it as another uid by its own path."""
    if isolation == PROCESS_GROUP and os.geteuid() == 0:
        run_dir.chmod(OPEN_DIR)
        return run_dir
    return data_dir


def _boto_folder(parent: Path) -> Path:
    try:
        return make_boto_folder(parent / "boto")
    except metadata.PackageNotFoundError as error:
        raise FileNotFoundError(f"{error}: install forebay[controller], which brings boto3 for functions") from error
