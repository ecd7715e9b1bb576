"""`forebay up --watch DIR`: each sub-folder and .py file of DIR is a function, deployed again at each save.

A process of its own below the supervisor, which must not wait for pip: `python -m forebay_cli.watcher DIR URL`.
"""

import hashlib
import os
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from watchfiles import watch

from forebay_cli import defaults
from forebay_cli.client import Client
from forebay_cli.connection import Connection
from forebay_cli.deploy import DeployOptions, build_package, deploy_package
from forebay_cli.errors import UserError
from forebay_cli.function_commands import how_to_call

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
SETTLE_MS = 100
"""An editor's save is several events within a moment."""
TICK_MS = 250
"""The first deployment waits for one tick, so that watching has begun and no save falls between."""


def function_paths(folder: Path) -> dict[str, Path]:
    """The functions of a folder by name; a sub-folder of nothing but Kubernetes manifests and notes is none."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__")) or not (path.is_dir() or path.suffix == ".py"):
            continue
        if path.is_dir() and {file.suffix for file in path.iterdir()} - {".md"} == {".yaml"}:
            continue
        if NAME.fullmatch(path.stem if path.is_file() else path.name):
            found[path.stem if path.is_file() else path.name] = path
    return found


def touched(folder: Path, changed: Iterable[str]) -> set[str]:
    """Names of the direct members of a folder that changes lie in or are."""
    return {Path(path).relative_to(folder).parts[0] for path in changed if Path(path) != folder}


class Watcher:
    """Deploys the functions of one folder, and remembers of which bytes, so that only changes are deployed."""

    def __init__(self, folder: Path, client: Client) -> None:
        self._folder = folder
        self._client = client
        self._digests: dict[str, str] = {}

    def deploy(self, members: set[str] | None = None) -> None:
        """Deploy all functions, or those whose file or folder is named; an error is a line, not an end."""
        for name, path in function_paths(self._folder).items():
            if members is None or path.name in members:
                try:
                    self._deploy(name, path)
                except UserError as error:
                    tell(f"{name}: {error}")

    def _deploy(self, name: str, path: Path) -> None:
        began = time.monotonic()
        options = DeployOptions()
        built = build_package(path, options, lambda line: tell(f"{name}: {line}"))
        digest = hashlib.sha256(built.zipped).hexdigest()
        if self._digests.get(name) == digest:
            return
        deploy_package(self._client, name, built, options)
        self._digests[name] = digest
        tell(f"{name}: deployed ({time.monotonic() - began:.1f} s)  {how_to_call(self._client, name)}")


def tell(line: str) -> None:
    """One line to whoever watches."""
    print(line, flush=True)


def main(folder: Path, url: str) -> None:
    """Deploy, then again at each save, until the supervisor ends it."""
    with Client(Connection(url, os.environ.get(defaults.API_KEY_VARIABLE, ""))) as client:
        watcher = Watcher(folder, client)
        started = False
        for changes in watch(folder, step=SETTLE_MS, rust_timeout=TICK_MS, yield_on_timeout=True):
            if not started:
                watcher.deploy()
                started = True
            elif changes:
                watcher.deploy(touched(folder, (path for _, path in changes)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
