"""Where Redis is and how a component is let in: one server, a Cluster, or a primary that sentinels know.

Written as URLs by people, as JSON in the components' configuration files. Imports nothing of Redis's clients.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

CONNECT_TIMEOUT_S = 5.0
"""Of every component, until it may send commands."""
PORT = 6379
SENTINEL_PORT = 26379
PORT_MAX = 65_535
_SERVER = {"redis": False, "rediss": True}
_CLUSTER = {"redis+cluster": False, "rediss+cluster": True}
_SENTINEL = {"redis+sentinel": False, "rediss+sentinel": True}
_WITH_TLS = _SERVER | _CLUSTER | _SENTINEL


class Address(NamedTuple):
    """Where one server listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, default_port: int = PORT) -> Self:
        """Read `HOST[:PORT]`; an IPv6 address stands in brackets. Raises ValueError."""
        host, port = text, ""
        if text.startswith("["):
            host, _, port = text[1:].partition("]")
        elif ":" in text:
            host, _, port = text.partition(":")
            port = f":{port}"
        if not host or (port and not port.removeprefix(":").isdecimal()) or "@" in host:
            raise ValueError(f"{text!r} is no HOST:PORT")
        number = int(port.removeprefix(":")) if port else default_port
        if not 0 < number <= PORT_MAX:
            raise ValueError(f"{number} is no port")
        return cls(host, number)

    def __str__(self) -> str:
        """As it is read."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """How to reach Redis; None means not set.

    One server: `unix_socket`, or `host` and `port`. A Cluster: `nodes` are some of its nodes, which tell of the
    others. Sentinel: `sentinel_master` is the name under which the sentinels, `nodes`, know the primary; they may ask
    for a user and a password of their own.

    `username`, `password` and `db` are the servers'. `tls` is for servers and sentinels alike; `ca_file` holds the
    authorities that their certificates are checked against, None the machine's own.
    """

    unix_socket: str | None = None
    host: str | None = None
    port: int = PORT
    tls: bool = False
    username: str | None = None
    password: str | None = None
    db: int = 0
    ca_file: str | None = None
    nodes: tuple[Address, ...] = ()
    sentinel_master: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None

    @property
    def is_cluster(self) -> bool:
        """Whether it is a Redis Cluster."""
        return bool(self.nodes) and self.sentinel_master is None

    def at(self, address: Address) -> Self:
        """The same for one server of several."""
        return replace(self, unix_socket=None, host=address.host, port=address.port, nodes=(), sentinel_master=None)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Read one of these; user and password are percent-encoded.

        `redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]`, `unix://[[USER]:PASSWORD@]/PATH[?db=N]`,
        `redis+cluster://[[USER]:PASSWORD@]HOST[:PORT][,HOST[:PORT]…]`,
        `redis+sentinel://[[USER]:PASSWORD@]HOST[:PORT][,HOST[:PORT]…]/MASTER[/DB]` with
        `?sentinel_username=…&sentinel_password=…` where the sentinels ask for those; with TLS `rediss…://`.

        Raises ValueError when it is none.
        """
        parts = urlsplit(url)
        credentials, _, hosts = parts.netloc.rpartition("@")
        user, _, password = credentials.partition(":")
        found = _place(parts, hosts)
        return cls(**found, username=unquote(user) or None, password=unquote(password) or None)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read the `redis` member of a process's configuration.

        `url` may stand in place of the members that say where it is; `nodes` are texts, HOST:PORT. `password_file` and
        `sentinel_password_file` name files with the passwords.

        Raises ValueError when it names no server, OSError when a file cannot be read.
        """
        document = {name: value for name, value in document.items() if value is not None}
        for name in ("password", "sentinel_password"):
            file = document.pop(f"{name}_file", None)
            if file is not None:
                document[name] = Path(file).read_text("utf-8").strip()
        url = document.pop("url", None)
        if url is not None:
            document = _members_of(cls.from_url(url)) | document
        unknown = set(document) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"unknown Redis settings: {', '.join(sorted(unknown))}")
        default_port = PORT if document.get("sentinel_master") is None else SENTINEL_PORT
        nodes = tuple(Address.parse(node, default_port) for node in document.pop("nodes", ()))
        settings = cls(**document, nodes=nodes)
        if [settings.unix_socket is None, settings.host is None, not nodes].count(False) != 1:
            raise ValueError("Redis settings need one of unix_socket, host and nodes")
        if settings.sentinel_master is not None and not nodes:
            raise ValueError("Redis settings with sentinel_master need nodes, the sentinels")
        if settings.is_cluster and settings.db:
            raise ValueError("Redis settings for a Cluster cannot have a db: there is only 0")
        return settings

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads, and an instance's runtime."""
        return _members_of(self)

    def __str__(self) -> str:
        """The URL, for people: without passwords."""
        scheme = "rediss" if self.tls else "redis"
        nodes = ",".join(map(str, self.nodes))
        if self.unix_socket is not None:
            return f"unix://{self.unix_socket}"
        if self.sentinel_master is not None:
            return f"{scheme}+sentinel://{nodes}/{self.sentinel_master}/{self.db}"
        if self.nodes:
            return f"{scheme}+cluster://{nodes}"
        return f"{scheme}://{Address(self.host or '', self.port)}/{self.db}"


def _members_of(settings: RedisSettings) -> dict[str, Any]:
    """The members that are set."""
    found = {field.name: getattr(settings, field.name) for field in fields(settings)}
    found["nodes"] = [str(node) for node in settings.nodes] or None
    return {name: value for name, value in found.items() if value is not None}


def _place(parts: SplitResult, hosts: str) -> dict[str, Any]:
    """The members of the settings that a URL's scheme, hosts, path and query stand for. Raises ValueError."""
    query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    if parts.scheme == "unix" and parts.path.startswith("/") and not hosts:
        return {"unix_socket": unquote(parts.path), "db": _db(query.pop("db", ""))} | _none_left(query)
    path = unquote(parts.path.strip("/"))
    found: dict[str, Any] = {"tls": _WITH_TLS.get(parts.scheme, False)}
    if parts.scheme in _SERVER:
        address = Address.parse(hosts)
        found |= {"host": address.host, "port": address.port, "db": _db(path)}
    elif parts.scheme in _CLUSTER and not path:
        found["nodes"] = tuple(map(Address.parse, hosts.split(",")))
    elif parts.scheme in _SENTINEL and path:
        name, _, db = path.partition("/")
        nodes = tuple(Address.parse(host, SENTINEL_PORT) for host in hosts.split(","))
        found |= {"nodes": nodes, "sentinel_master": name, "db": _db(db)}
        for member in ("sentinel_username", "sentinel_password"):
            found[member] = query.pop(member, None)
    else:
        raise ValueError(f"{parts.scheme}://{hosts}{parts.path} is no Redis URL")
    return found | _none_left(query)


def _db(text: str) -> int:
    if text and not text.isdecimal():
        raise ValueError(f"{text!r} is no database's number")
    return int(text or 0)


def _none_left(query: Mapping[str, str]) -> dict[str, Any]:
    if query:
        raise ValueError(f"{', '.join(query)} is no part of a Redis URL")
    return {}
