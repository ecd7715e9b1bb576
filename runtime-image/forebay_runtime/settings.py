"""What one instance is told at its start: a settings file (no secrets) and a credentials file."""

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Settings:
    """An instance's settings, from JSON.

    Members: prefix, instance_id, namespace, name, uid, version, revision, arn, handler, runtime, mode ("python"
    or "bootstrap"), code_dir (where the runtime unpacks the code), task_root (the same folder as the handlers
    see it), code_sha256 (hexadecimal), code_size, timeout_ms, memory_mb, concurrency, env (the whole environment
    of a handler process), socket_path, boto_path (as the handlers see it, "" when there is none),
    retry_delays_ms (one for each retry), lease_ms, init_timeout_ms, log_path.
    """

    __slots__ = (
        "arn", "boto_path", "code_dir", "code_sha256", "code_size", "concurrency", "env", "handler",
        "init_timeout_ms", "instance_id", "lease_ms", "memory_mb", "mode", "name", "namespace", "prefix",
        "retry_delays_ms", "revision", "runtime", "socket_path", "task_root", "timeout_ms", "uid", "version",
    )  # fmt: skip

    def __init__(self, document: "dict[str, Any]") -> None:
        for name in self.__slots__:
            setattr(self, name, document[name])


class RedisCredentials:
    """How to reach Redis: `unix_socket`, or `host` and `port` with or without `tls`; `username`, `password`, `db`."""

    __slots__ = ("db", "host", "password", "port", "tls", "unix_socket", "username")

    def __init__(self, document: "dict[str, Any]") -> None:
        for name in self.__slots__:
            setattr(self, name, document.get(name))


def read_json(path: str) -> "dict[str, Any]":
    """A JSON object from a file. Raises OSError or ValueError."""
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 - pathlib's import is milliseconds of a cold start
        document: dict[str, Any] = json.load(file)
    return document
