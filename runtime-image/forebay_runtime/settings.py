"""What an instance is told at its start: settings (no secrets) and credentials, as files or a container's variables."""

from forebay_common.pod_layout import RUNTIME_API_PORT
from forebay_runtime.lean import parse_json, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import Any


class Settings:
    """An instance's settings, from JSON.

    Members: prefix, instance_id, namespace, name, uid, version, revision, arn, handler, runtime, mode ("python",
    "bootstrap", or "image" for a container image that brings its own code and connects to the Runtime API by itself),
    code_dir (where the runtime unpacks the code), task_root (the same folder as the handlers see it), code_sha256
    (hexadecimal), code_size, timeout_ms, memory_mb, concurrency, env (the whole environment of a handler process),
    socket_path, boto_path (as the handlers see it, "" when there is none), retry_delays_ms (one for each retry),
    init_timeout_ms, log_path ("-" is standard output). Of these, mode image reads neither code_*, task_root, env,
    socket_path nor boto_path; they may be empty, but not absent.

    May be absent: `inherited_env`, names of variables that handler processes take over from the environment of their
    own container, beside `env` and over it; `runtime_api_port`, where mode image serves the Runtime API.

    `in_pod` is no member: whether this is a container of a pod. There the containers' limits bound the memory, the
    code folder is this instance's own, and the other container may start much later than this one.
    """

    __slots__ = (
        "arn", "boto_path", "code_dir", "code_sha256", "code_size", "concurrency", "env", "handler", "in_pod",
        "inherited_env", "init_timeout_ms", "instance_id", "log_path", "memory_mb", "mode", "name", "namespace",
        "prefix", "retry_delays_ms", "revision", "runtime", "runtime_api_port", "socket_path", "task_root",
        "timeout_ms", "uid", "version",
    )  # fmt: skip
    arn: str
    boto_path: str
    code_dir: str
    code_sha256: str
    code_size: int
    concurrency: int
    env: "dict[str, str]"
    handler: str
    in_pod: bool
    inherited_env: "list[str]"
    init_timeout_ms: int
    instance_id: str
    log_path: str
    memory_mb: int
    mode: str
    name: str
    namespace: str
    prefix: str
    retry_delays_ms: "list[int]"
    revision: int
    runtime: str
    runtime_api_port: int
    socket_path: str
    task_root: str
    timeout_ms: int
    uid: str
    version: str

    def __init__(self, document: "dict[str, Any]", *, in_pod: bool = False) -> None:
        """Raises KeyError for a member that is missing."""
        self.in_pod = in_pod
        self.inherited_env = document.get("inherited_env") or []
        self.runtime_api_port = document.get("runtime_api_port") or RUNTIME_API_PORT
        for name in self.__slots__:
            if name not in {"in_pod", "inherited_env", "runtime_api_port"}:
                setattr(self, name, document[name])

    def for_handlers(self) -> str:
        """What the handlers' program is told (SETUP), as JSON."""
        env = ",".join(f"{quote(name)}:{quote(value)}" for name, value in self.env.items())
        inherited = ",".join(map(quote, self.inherited_env))
        # A limit on address space would refuse what a program only reserves; the container's counts what it uses.
        memory_mb = 0 if self.in_pod else self.memory_mb
        return (
            f'{{"mode":{quote(self.mode)},"task_root":{quote(self.task_root)},"handler":{quote(self.handler)},'
            f'"env":{{{env}}},"inherited_env":[{inherited}],"memory_mb":{memory_mb},'
            f'"boto_path":{quote(self.boto_path)}}}'
        )


class RedisCredentials:
    """How to reach Redis: `unix_socket`, or `host` and `port`; `username`, `password`, `db`; with or without `tls`.

    Instead of one server: `nodes` (HOST:PORT), the sentinels that know the primary by the name `sentinel_master`, with
    a user and a password of their own. As `forebay_common.redis_settings` writes it.

    The authorities that the server's certificate is checked against: `ca` (PEM text), else `ca_file`, else the
    machine's own.
    """

    __slots__ = (
        "ca", "ca_file", "db", "host", "nodes", "password", "port", "sentinel_master", "sentinel_password",
        "sentinel_username", "tls", "unix_socket", "username",
    )  # fmt: skip
    ca: "str | None"
    ca_file: "str | None"
    db: "int | None"
    host: "str | None"
    nodes: "list[str] | None"
    password: "str | None"
    port: "int | None"
    sentinel_master: "str | None"
    sentinel_password: "str | None"
    sentinel_username: "str | None"
    tls: "bool | None"
    unix_socket: "str | None"
    username: "str | None"

    def __init__(self, document: "dict[str, Any]") -> None:
        for name in self.__slots__:
            setattr(self, name, document.get(name))


def read_json(path: str) -> "dict[str, Any]":
    """A JSON object from a file. Raises OSError or ValueError."""
    with open(path, encoding="utf-8") as file:
        return _object(file.read(), path)


def take_json(environ: "MutableMapping[str, str]", name: str) -> "dict[str, Any]":
    """A JSON object from an environment variable, which is removed: no child and no report shows it.

    Raises KeyError when there is none, ValueError.
    """
    return _object(environ.pop(name), name)


def _object(text: str, source: str) -> "dict[str, Any]":
    document = parse_json(text)
    if not isinstance(document, dict):
        raise ValueError(f"{source} holds no JSON object")  # noqa: TRY004 - of the text, not of an argument
    return document
