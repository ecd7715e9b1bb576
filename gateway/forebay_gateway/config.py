"""The gateway process's configuration file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from forebay_common.keys import DEFAULT_PREFIX
from forebay_common.redis_client import RedisSettings


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """What a gateway is told at its start.

    `controller_socket`: Unix socket that serves the management calls. `allowed_hosts`: Host names accepted beside
    loopback ones. `waiting_max`: callers that may wait in this process at once. `stop_s`: how long a stopping
    gateway lets waiting calls finish.
    """

    redis: RedisSettings
    controller_socket: str
    prefix: str = DEFAULT_PREFIX
    region: str = "us-east-1"
    account: str = "000000000000"
    namespace: str = "default"
    host: str = "127.0.0.1"
    port: int = 8480
    allowed_hosts: tuple[str, ...] = ()
    log_level: str = "info"
    waiting_max: int = 10_000
    stop_s: float = 30.0

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Read the file's object; members that only other processes use are ignored.

        Raises ValueError, saying what is missing or wrong.
        """
        known = {name: document[name] for name in cls.__dataclass_fields__ if name in document}
        missing = [name for name in ("redis", "controller_socket") if name not in known]
        if missing:
            raise ValueError(f"the configuration lacks {' and '.join(missing)}")
        known["redis"] = RedisSettings.from_json(known["redis"])
        known["allowed_hosts"] = tuple(known.get("allowed_hosts", ()))
        return cls(**known)


def read_config(path: Path) -> GatewayConfig:
    """The configuration in a file. Raises OSError, or ValueError when it is not what a gateway needs."""
    document = json.loads(path.read_text("utf-8"))
    if not isinstance(document, dict):
        raise ValueError("the configuration is not a JSON object")  # noqa: TRY004 - a file's content, not a type
    return GatewayConfig.from_json(document)
