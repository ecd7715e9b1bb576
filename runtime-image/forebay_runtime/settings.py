"""What one instance is told at its start: a settings file (no secrets) and a credentials file."""

from forebay_runtime.lean import parse_json, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Settings:
    """An instance's settings, from JSON.

    Members: prefix, instance_id, namespace, name, uid, version, revision, arn, handler, runtime, mode ("python"
    or "bootstrap"), code_dir (where the runtime unpacks the code), task_root (the same folder as the handlers
    see it), code_sha256 (hexadecimal), code_size, timeout_ms, memory_mb, concurrency, env (the whole environment
    of a handler process), socket_path, boto_path (as the handlers see it, "" when there is none),
    retry_delays_ms (one for each retry), init_timeout_ms, log_path.
    """

    __slots__ = (
        "arn", "boto_path", "code_dir", "code_sha256", "code_size", "concurrency", "env", "handler",
        "init_timeout_ms", "instance_id", "log_path", "memory_mb", "mode", "name", "namespace", "prefix",
        "retry_delays_ms", "revision", "runtime", "socket_path", "task_root", "timeout_ms", "uid", "version",
    )  # fmt: skip
    arn: str
    boto_path: str
    code_dir: str
    code_sha256: str
    code_size: int
    concurrency: int
    env: "dict[str, str]"
    handler: str
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
    socket_path: str
    task_root: str
    timeout_ms: int
    uid: str
    version: str

    def __init__(self, document: "dict[str, Any]") -> None:
        for name in self.__slots__:
            setattr(self, name, document[name])

    def for_handlers(self) -> str:
        """What the handlers' program is told (SETUP), as JSON."""
        env = ",".join(f"{quote(name)}:{quote(value)}" for name, value in self.env.items())
        return (
            f'{{"mode":{quote(self.mode)},"task_root":{quote(self.task_root)},"handler":{quote(self.handler)},'
            f'"env":{{{env}}},"memory_mb":{self.memory_mb},"boto_path":{quote(self.boto_path)}}}'
        )


class RedisCredentials:
    """How to reach Redis: `unix_socket`, or `host` and `port` with or without `tls`; `username`, `password`, `db`."""

    __slots__ = ("db", "host", "password", "port", "tls", "unix_socket", "username")
    db: "int | None"
    host: "str | None"
    password: "str | None"
    port: "int | None"
    tls: "bool | None"
    unix_socket: "str | None"
    username: "str | None"

    def __init__(self, document: "dict[str, Any]") -> None:
        for name in self.__slots__:
            setattr(self, name, document.get(name))


def read_json(path: str) -> "dict[str, Any]":
    """A JSON object from a file. Raises OSError or ValueError."""
    with open(path, encoding="utf-8") as file:
        document = parse_json(file.read())
    if not isinstance(document, dict):
        raise ValueError(f"{path} holds no JSON object")  # noqa: TRY004 - of the file, not of an argument
    return document
