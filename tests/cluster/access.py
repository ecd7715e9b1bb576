"""A cluster as tests and benchmarks use it: through kubectl and helm."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .node import build
from .node.report import Progress

CLIENTS = ("kubectl", "helm")
COMMAND_TIMEOUT_S = 120


def clients_in(folder: Path) -> dict[str, Path]:
    """The client programs of a folder that holds them, by name."""
    return {name: folder / name for name in CLIENTS}


def clients_of_this_machine(progress: Progress) -> dict[str, Path]:
    """The user's own client programs when all are installed; else those that are built for the node."""
    found = {name: Path(path) for name in CLIENTS if (path := shutil.which(name))}
    return found if len(found) == len(CLIENTS) else clients_in(build.programs(progress))


@dataclass(frozen=True)
class Cluster:
    """A cluster to test on, by its administrator's kubeconfig, with the client programs that fit it."""

    kubeconfig: Path
    programs: Mapping[str, Path]

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl and give its output; fails the test with what it said."""
        done = self.run("kubectl", *arguments, stdin=stdin)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def helm(self, *arguments: str) -> str:
        """Run helm likewise."""
        done = self.run("helm", *arguments)
        assert done.returncode == 0, f"helm {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def environment(self) -> dict[str, str]:
        """What kubectl and helm need to reach it."""
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig)}

    def json(self, *arguments: str) -> Any:
        """What `kubectl get` gives as JSON."""
        return json.loads(self.kubectl("get", *arguments, "--output=json"))

    def run(self, program: str, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run kubectl or helm, whatever its exit code."""
        command: list[str | Path] = [self.programs[program], *arguments]
        return subprocess.run(
            command,
            env=self.environment(),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_TIMEOUT_S,
        )
