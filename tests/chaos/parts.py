"""The processes of the platform, found below what this program started, by pid and start time."""

import json
import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from forebay_cli.processes import ProcessIdentity, children, descendants

from . import plan


@dataclass(frozen=True, slots=True)
class Process:
    """A living process: which part it is; `instance` of a function, else "" ; `name` for the timeline."""

    identity: ProcessIdentity
    part: str
    name: str
    instance: str = ""

    @property
    def pid(self) -> int:
        """Its pid."""
        return self.identity.pid

    def send(self, number: signal.Signals) -> bool:
        """Send a signal; False when it has ended."""
        if not self.identity.alive():
            return False
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)
            return True
        return False


class ProcessTree:
    """Looks below the supervisor; remembers every process it has ever seen."""

    def __init__(self) -> None:
        self.roots: list[int] = []
        self.seen: dict[ProcessIdentity, str] = {}

    def look(self) -> list[Process]:
        """All parts that live now, by pid."""
        found: list[Process] = []
        for root in self.roots:
            for pid in (root, *descendants(root)):
                identity = ProcessIdentity.of(pid)
                command = _command(pid)
                if identity is None:
                    continue
                self.seen[identity] = command
                found += _parts(identity, command)
        return sorted(found, key=lambda process: process.pid)

    def left_over(self) -> list[str]:
        """Those that live of all that were ever seen."""
        return [f"{identity.pid} {command}" for identity, command in self.seen.items() if identity.alive()]


def _parts(identity: ProcessIdentity, command: str) -> list[Process]:
    words = command.split()
    if "-m forebay_gateway" in command:
        return [Process(identity, plan.GATEWAY, "gateway")]
    if "-m forebay_controller" in command:
        return [Process(identity, plan.CONTROLLER, "controller")]
    if words and Path(words[0]).name == "valkey-server":
        return [Process(identity, plan.VALKEY, "valkey")]
    if "forebay_runtime" in command and "--settings" in words:
        instance = _instance(words[words.index("--settings") + 1])
        return [Process(identity, plan.RUNTIME, f"runtime of {instance}", instance)]
    if "sandbox.py" in command and "--config" in words:
        instance = _instance(words[words.index("--config") + 1])
        sandbox = Process(identity, plan.SANDBOX, f"sandbox of {instance}", instance)
        return [sandbox, *_handlers(identity.pid, instance)]
    return []


def _handlers(sandbox: int, instance: str) -> list[Process]:
    """The handler processes: the leaves below a sandbox, below its zygote."""
    found = []
    for zygote in children(sandbox):
        for pid in descendants(zygote):
            identity = ProcessIdentity.of(pid)
            if identity is not None and not children(pid):
                found.append(Process(identity, plan.HANDLER, f"handler process {pid} of {instance}", instance))
    return found


def _instance(file: str) -> str:
    """The instance whose folder a file lies in."""
    return Path(file).parent.name


def _command(pid: int) -> str:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def run_dir_of(data_dir: Path) -> Path:
    """The run dir of the `up` that holds a data dir."""
    return Path(json.loads((data_dir / "lock").read_text())["run_dir"])
