"""The controller process's configuration file."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from forebay_common.keys import DEFAULT_PREFIX
from forebay_common.limits import RESULT_RETENTION_MAX_S, RESULT_RETENTION_MIN_S, RESULT_RETENTION_S
from forebay_common.redis_settings import RedisSettings
from forebay_controller.controller import INSTANCES_MAX

RETRY_DELAYS_S = (60.0, 120.0)
"""Lambda's own."""
AUTH_OFF = "off"
AUTH_REQUIRED = "required"
GATEWAY_URL = "http://127.0.0.1:8480"


@dataclass(frozen=True, slots=True)
class OutboundSettings:
    """What the platform's own HTTP requests may reach beyond public https addresses.

    Each of `allowed` is a host name, an address or a CIDR.
    """

    allow_http: bool = False
    allowed: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ControllerConfig:
    """What a controller is told at its start.

    `controller_socket`: Unix socket that management calls are served on. `gateway_url`: where functions find the
    platform's Lambda API. `retry_delays_s`: before each retry of an async event. `instances_max`: of all functions
    together. `result_retention_s`: how long it is known how an async event ended. `auth`: `required` (`local_keys` in
    the data dir), or `off`.
    """

    redis: RedisSettings
    controller_socket: str
    run_dir: Path
    data_dir: Path
    prefix: str = DEFAULT_PREFIX
    region: str = "us-east-1"
    account: str = "000000000000"
    namespace: str = "default"
    gateway_url: str = GATEWAY_URL
    retry_delays_s: tuple[float, ...] = RETRY_DELAYS_S
    instances_max: int = INSTANCES_MAX
    result_retention_s: float = RESULT_RETENTION_S
    log_level: str = "info"
    auth: str = AUTH_OFF
    outbound: OutboundSettings = field(default_factory=OutboundSettings)

    @property
    def auth_required(self) -> bool:
        """Whether management calls need a credential."""
        return self.auth == AUTH_REQUIRED

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Read the file's object; members that only other processes use are ignored.

        Raises ValueError, saying what is missing or wrong.
        """
        known = {name: document[name] for name in cls.__dataclass_fields__ if name in document}
        missing = [name for name in ("redis", "controller_socket", "run_dir", "data_dir") if name not in known]
        if missing:
            raise ValueError(f"the configuration lacks {' and '.join(missing)}")
        known["redis"] = RedisSettings.from_json(known["redis"])
        known["run_dir"] = Path(known["run_dir"])
        known["data_dir"] = Path(known["data_dir"])
        known["retry_delays_s"] = tuple(float(delay_s) for delay_s in known.get("retry_delays_s", RETRY_DELAYS_S))
        known["outbound"] = OutboundSettings(**known.get("outbound", {}))
        config = cls(**known)
        if not config.retry_delays_s or min(config.retry_delays_s) < 0:
            raise ValueError("retry_delays_s needs one delay at least, and none below 0")
        if config.instances_max < 1:
            raise ValueError("instances_max is 1 at least")
        check_retention(config.result_retention_s)
        if config.auth not in {AUTH_OFF, AUTH_REQUIRED}:
            raise ValueError(f"auth is {AUTH_REQUIRED} or {AUTH_OFF}, not {config.auth}")
        return config


def check_retention(seconds: float) -> None:
    """How long it is known how events ended. Raises ValueError when it cannot be so long."""
    if not isinstance(seconds, (int, float)) or not RESULT_RETENTION_MIN_S <= seconds <= RESULT_RETENTION_MAX_S:
        raise ValueError(f"result_retention_s is {RESULT_RETENTION_MIN_S} to {RESULT_RETENTION_MAX_S}, not {seconds}")


def read_document(path: Path) -> dict[str, Any]:
    """A configuration file's object. Raises OSError, or ValueError when it is none."""
    document = json.loads(path.read_text("utf-8"))
    if not isinstance(document, dict):
        raise ValueError("the configuration is not a JSON object")  # noqa: TRY004 - a file's content, not a type
    return document
