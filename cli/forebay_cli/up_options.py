"""The options of `forebay up`, checked before anything is started."""

import ipaddress
import re
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from forebay_cli import defaults
from forebay_cli.errors import UserError
from forebay_common.limits import IDEMPOTENCY_RETENTION_S, RESULT_RETENTION_S
from forebay_common.redis_settings import RedisSettings

PORT_MAX = 65_535
LOG_LEVELS = ("debug", "info", "warning", "error")
REGION = "us-east-1"
ACCOUNT = "000000000000"
PROCESS, FSYNC, REPLICA = "process", "fsync", "replica"
_AUTH = {"required": True, "off": False}
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252})")
RETRY_DELAY_MAX_S = 21_600.0
"""An async event's greatest age: no retry can be later."""


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What `up` was asked for. `redis` None: the embedded Valkey. `port` 0: any free one.

    `durability`: where an event is once it is accepted. `auth`: whether calls need a credential; None: beyond loopback
    only. `outbound_allow`: hosts, addresses and networks that are not public and that the platform may post to all
    the same. `result_retention_s`, `idempotency_retention_s`: how long it is known how an event ended, and what was
    accepted under a key.
    """

    data_dir: Path
    host: str = defaults.HOST
    port: int = defaults.PORT
    redis: RedisSettings | None = None
    durability: str = defaults.DURABILITY
    retry_delays_s: tuple[float, ...] = ()
    result_retention_s: int = RESULT_RETENTION_S
    idempotency_retention_s: int = IDEMPOTENCY_RETENTION_S
    watch: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    auth: bool | None = None
    allow_remote: bool = False
    outbound_allow: tuple[str, ...] = ()
    outbound_allow_http: bool = False
    log_level: str = "info"
    verbose: bool = False

    @property
    def auth_required(self) -> bool:
        """Whether calls need a credential. Raises UserError when the host has no address."""
        return self.auth if self.auth is not None else not is_loopback(self.host)


def parse_retry_delays(text: str, option: str = "--async-retry-delays") -> tuple[float, ...]:
    """Seconds before each retry of an async event, as `60,120`. Raises UserError."""
    try:
        delays = tuple(float(part) for part in text.split(","))
    except ValueError:
        delays = ()
    if not delays or not all(0 <= delay <= RETRY_DELAY_MAX_S for delay in delays):
        raise UserError(
            f"{option} {text!r}: write the seconds before each retry, as 1,2 (each at most {RETRY_DELAY_MAX_S:.0f})"
        )
    return delays


def check_log_level(text: str) -> str:
    """A known log level in lower case. Raises UserError."""
    level = text.lower()
    if level not in LOG_LEVELS:
        raise UserError(f"--log-level {text!r}: choose one of {', '.join(LOG_LEVELS)}")
    return level


def check_durability(text: str, *, embedded: bool) -> str:
    """`process`, `fsync` or `replica`, which the embedded Valkey has none of. Raises UserError."""
    if text not in {PROCESS, FSYNC, REPLICA}:
        raise UserError(f"--durability {text!r}: choose {PROCESS}, {FSYNC} or {REPLICA}")
    if text == REPLICA and embedded:
        raise UserError(
            "--durability replica: the embedded Valkey has no replica; give a Redis that has one by --redis URL, or "
            "choose fsync, which has each event on the disk before it is accepted"
        )
    return text


def parse_auth(text: str | None) -> bool | None:
    """`required` or `off`; None when not given. Raises UserError."""
    if text is None:
        return None
    if text not in _AUTH:
        raise UserError(f"--auth {text!r}: choose {' or '.join(_AUTH)}")
    return _AUTH[text]


def parse_outbound_allow(entries: Iterable[str]) -> tuple[str, ...]:
    """Host names, addresses and networks, as `OutboundRules.of` takes them. Raises UserError."""
    for entry in entries:
        if not _is_network(entry) and not ("/" not in entry and _HOST.fullmatch(entry)):
            text = f"--outbound-allow {entry!r}: write a host name, an address or a network, as 192.168.1.0/24"
            raise UserError(text)
    return tuple(entries)


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def check_platform() -> None:
    """Raise UserError where `up` cannot run."""
    if not sys.platform.startswith("linux"):
        raise UserError("`forebay up` needs Linux (namespaces and process control): run it in a Linux VM or container")


def check_address(host: str, port: int, *, allow_open: bool) -> None:
    """See that we may listen there: a valid address, not taken, and loopback unless `allow_open`. Raises UserError.

    `allow_open`: calls need a credential, or the user said that nobody needs one.
    """
    if not 0 <= port <= PORT_MAX:
        raise UserError(f"--port {port}: a port is a number from 1 to {PORT_MAX}, or 0 for any free one")
    addresses = resolve(host)
    if not allow_open and not is_loopback(host):
        raise UserError(
            f"--host {host} is reachable from other machines: leave --auth off away, so that calls need a key, or add "
            "--allow-remote if whoever reaches it may run code here"
        )
    for family, address in addresses:
        _try_bind(family, address, port, host)


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches a host. Raises UserError when it has no address."""
    return all(ipaddress.ip_address(address).is_loopback for _, address in resolve(host))


def resolve(host: str) -> list[tuple[socket.AddressFamily, str]]:
    """The addresses of a host. Raises UserError when there is none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {host!r} is no address of this machine: use {defaults.HOST} or ::1") from error
    return [(family, str(address[0])) for family, _, _, _, address in found]


def _try_bind(family: socket.AddressFamily, address: str, port: int, host: str) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the gateway will: connections of an earlier run in TIME_WAIT do not count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except PermissionError:
            raise UserError(f"port {port} needs root on this machine: choose one from 1024 up by --port") from None
        except OSError as error:
            if error.errno is not None and port and "in use" in (error.strerror or ""):
                raise UserError(
                    f"port {port} on {host} is taken by another program: stop it, or choose another by --port "
                    "(0 takes any free one)"
                ) from None
            raise UserError(f"cannot listen on {host}: {error.strerror}; use {defaults.HOST} or ::1") from None


def free_port(host: str) -> int:
    """A port nobody listens on right now."""
    family, address = resolve(host)[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def url_host(host: str) -> str:
    """How a program on this machine writes the host in a URL: wildcards are reached by loopback."""
    if host in {"0.0.0.0", "::"}:
        return defaults.HOST if host == "0.0.0.0" else "[::1]"
    return f"[{host}]" if ":" in host else host


def reachable_address(host: str) -> str:
    """A literal address by which this machine reaches a host it listens on (a name would need a resolver thread)."""
    return {"0.0.0.0": defaults.HOST, "::": "::1"}.get(host) or resolve(host)[0][1]


def gateway_allowed_hosts(options: UpOptions) -> list[str]:
    """The host names beside loopback's that requests may carry: those given, and the one listened on.

    Any of them where the platform listens everywhere and asks for credentials, which no page of another site has.
    """
    if options.host in {"0.0.0.0", "::"}:
        return ["*"] if options.auth_required else list(options.allowed_hosts)
    return [*([] if options.host == "localhost" else [options.host]), *options.allowed_hosts]
