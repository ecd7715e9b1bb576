"""The gateway process's configuration file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from forebay_common.keys import DEFAULT_PREFIX
from forebay_common.limits import IDEMPOTENCY_RETENTION_MAX_S, IDEMPOTENCY_RETENTION_S
from forebay_common.redis_settings import RedisSettings
from forebay_gateway.areas import API, EVERYTHING, FUNCTIONS, INVOKES, PROCESS, Area
from forebay_gateway.durability import DURABILITIES
from forebay_gateway.durability import PROCESS as PROCESS_DURABILITY

AUTH_OFF = "off"
AUTH_REQUIRED = "required"
"""A year."""
PORTS = ("port", "functions_port", "invoke_port", "metrics_port")


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """What a gateway is told at its start.

    Management calls go to `controller_socket` (a Unix socket) or `controller_url` (`http://HOST:PORT`), one of both.
    `auth`: `required` or `off`. `namespace`: what a path without `/ns/NAMESPACE` means. `port` serves everything but
    what has a port of its own: `functions_port` (`/fn`), `invoke_port` (Invoke, beside `port`), `metrics_port`
    (health, metrics and documents, beside `port`, without a credential); 0: there is none. `allowed_hosts`: Host names
    accepted beside loopback ones, `*` for all. `waiting_max`: callers that may wait in this process at once.
    `durability`: when an event counts as accepted (`durability.py`). `idempotency_retention_s`: how long an idempotency
    key stands for its call. A gateway that is told to stop goes on accepting for `drain_s`, saying that it is not
    ready, so that whoever sends it requests can turn elsewhere; then it lets waiting calls finish for `stop_s`.
    """

    redis: RedisSettings
    controller_socket: str = ""
    controller_url: str = ""
    prefix: str = DEFAULT_PREFIX
    region: str = "us-east-1"
    account: str = "000000000000"
    namespace: str = "default"
    auth: str = AUTH_OFF
    host: str = "127.0.0.1"
    port: int = 8480
    functions_port: int = 0
    invoke_port: int = 0
    metrics_port: int = 0
    allowed_hosts: tuple[str, ...] = ()
    log_level: str = "info"
    waiting_max: int = 10_000
    durability: str = PROCESS_DURABILITY
    idempotency_retention_s: int = IDEMPOTENCY_RETENTION_S
    drain_s: float = 0.0
    stop_s: float = 30.0

    @property
    def auth_required(self) -> bool:
        """Whether calls need a credential."""
        return self.auth == AUTH_REQUIRED

    @property
    def ports(self) -> dict[int, frozenset[Area]]:
        """The ports to listen on, the main one first, and what each serves."""
        main = API if self.functions_port else EVERYTHING
        found = {self.port: main, self.functions_port: FUNCTIONS, self.invoke_port: INVOKES, self.metrics_port: PROCESS}
        return {port: areas for port, areas in found.items() if port}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Read the file's object; members that only other processes use are ignored.

        Raises ValueError, saying what is missing or wrong.
        """
        known = {name: document[name] for name in cls.__dataclass_fields__ if name in document}
        if "redis" not in known:
            raise ValueError("the configuration lacks redis")
        if bool(known.get("controller_socket")) == bool(known.get("controller_url")):
            raise ValueError("the configuration needs either controller_socket or controller_url")
        if known.get("auth", AUTH_OFF) not in {AUTH_OFF, AUTH_REQUIRED}:
            raise ValueError(f"auth is {AUTH_REQUIRED} or {AUTH_OFF}, not {known['auth']}")
        if known.get("durability", PROCESS_DURABILITY) not in DURABILITIES:
            raise ValueError(f"durability is one of {', '.join(DURABILITIES)}, not {known['durability']}")
        retention_s = known.get("idempotency_retention_s", cls.__dataclass_fields__["idempotency_retention_s"].default)
        if not isinstance(retention_s, int) or not 1 <= retention_s <= IDEMPOTENCY_RETENTION_MAX_S:
            raise ValueError(f"idempotency_retention_s is 1 to {IDEMPOTENCY_RETENTION_MAX_S}, not {retention_s}")
        ports = [port for name in PORTS if (port := known.get(name, cls.__dataclass_fields__[name].default))]
        if len(ports) != len(set(ports)):
            raise ValueError(f"each of {', '.join(PORTS)} needs a number of its own")
        known["redis"] = RedisSettings.from_json(known["redis"])
        known["allowed_hosts"] = tuple(known.get("allowed_hosts", ()))
        return cls(**known)


def read_config(path: Path) -> GatewayConfig:
    """The configuration in a file. Raises OSError, or ValueError when it is not what a gateway needs."""
    document = json.loads(path.read_text("utf-8"))
    if not isinstance(document, dict):
        raise ValueError("the configuration is not a JSON object")  # noqa: TRY004 - a file's content, not a type
    return GatewayConfig.from_json(document)
