"""A function's pod on this machine: the runtime and its handlers, started as the image's commands start them."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import forebay_handlers
import forebay_runtime
from forebay_common.pod_layout import (
    HANDLERS_COMMAND,
    REDIS_VARIABLE,
    RUNTIME_COMMAND,
    SETTINGS_VARIABLE,
    SOCKET_VARIABLE,
)
from support.runtime_rig import RuntimeRig
from support.waiting import wait_until

_RUNTIME = Path(forebay_runtime.__file__).parent
_HANDLERS = Path(forebay_handlers.__file__).parent
WAIT_S = 15.0


def _here(command: tuple[str, ...], folder: Path) -> list[str]:
    """An image's command with this interpreter and our own files."""
    _, *options, program, argument = (*command, "") if command == HANDLERS_COMMAND else command
    own = [sys.executable, *options, str(folder / Path(program).name)]
    return [*own, argument] if argument else own


class PodRig(RuntimeRig):
    """Both containers as processes; the runtime's log is what it writes to its standard output."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.settings["log_path"] = "-"
        self.container_env: dict[str, str] = {}
        self.program: subprocess.Popen[bytes]

    def start(self, **environment: str) -> None:
        """Start the runtime as its container does."""
        # The site's packages stand in for the image's folder, which has its dependency beside it.
        command = [part for part in _here(RUNTIME_COMMAND, _RUNTIME) if part != "-S"]
        with (self.folder / "runtime.err").open("ab") as errors, self.log_path.open("ab") as log:
            self.runtime = subprocess.Popen(
                command,
                env={
                    "PATH": os.environ["PATH"],
                    SETTINGS_VARIABLE: json.dumps(self.settings),
                    REDIS_VARIABLE: json.dumps(self.credentials),
                    **environment,
                },
                stderr=errors,
                stdout=log,
            )
        self._processes.append(self.runtime)

    def start_handlers(self) -> None:
        """Start the handlers' container: the managed one."""
        self._start_program(
            _here(HANDLERS_COMMAND, _HANDLERS),
            {SOCKET_VARIABLE: self.settings["socket_path"], **self.container_env},
        )
        self.handlers = self.program

    def start_image(self, command: list[str], **environment: str) -> None:
        """Start a container image's own program, once the Runtime API listens."""
        wait_until(self.api_listens, f"the Runtime API listens; it wrote: {self.errors()}", WAIT_S)
        api = {"AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self.settings['runtime_api_port']}"}
        self._start_program(command, {"PATH": os.environ["PATH"], **api, **environment})

    def _start_program(self, command: list[str], environment: dict[str, str]) -> None:
        with (self.folder / "handlers.err").open("ab") as errors:
            self.program = subprocess.Popen(
                command, env=environment, stderr=errors, stdout=errors, cwd=self.folder, start_new_session=True
            )
        self._processes.append(self.program)

    def api_listens(self) -> bool:
        """Whether the Runtime API takes connections."""
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", self.settings["runtime_api_port"])).close()
            return True
        return False

    def program_output(self) -> str:
        """What the handlers' container wrote."""
        return (self.folder / "handlers.err").read_text()
