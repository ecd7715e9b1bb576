"""The folder of one local instance: the files its two programs are started with."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

_PRIVATE = 0o600


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """What a later controller needs to adopt an instance: its processes by pid and start time."""

    uid: str
    revision: int
    code_sha256: str
    started_at_ms: int
    runtime: tuple[int, int]
    sandbox: tuple[int, int]


class InstanceFolder:
    """Paths and files under `RUN_DIR/instances/ID`."""

    def __init__(self, parent: Path, instance_id: str) -> None:
        self.path = parent / instance_id
        self.settings = self.path / "settings.json"
        self.credentials = self.path / "credentials.json"
        self.sandbox_config = self.path / "sandbox.json"
        self.socket = self.path / "socket" / "control.sock"
        self.tmp = self.path / "tmp"
        self.runtime_errors = self.path / "runtime.err"
        self.sandbox_errors = self.path / "sandbox.err"
        self.record = self.path / "instance.json"

    def create(self, mode: int) -> Self:
        """Make the folder with this mode: 0700 where the sandbox binds the parts that handlers see."""
        self.path.mkdir(mode=mode, parents=True)
        self.socket.parent.mkdir(mode=0o755)
        self.tmp.mkdir()
        self.tmp.chmod(0o1777)
        return self

    def write(self, path: Path, document: Mapping[str, Any]) -> None:
        """A JSON file that only its owner reads."""
        path.touch(_PRIVATE)
        path.write_text(json.dumps(document), encoding="utf-8")

    def write_record(self, record: InstanceRecord) -> None:
        """Write the record for a later controller, whole or not at all."""
        staged = self.record.with_suffix(".new")
        self.write(staged, asdict(record))
        staged.rename(self.record)

    def read_record(self) -> InstanceRecord | None:
        """The record, or None when a controller died before it wrote one."""
        try:
            raw = json.loads(self.record.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return InstanceRecord(**{**raw, "runtime": tuple(raw["runtime"]), "sandbox": tuple(raw["sandbox"])})

    def last_words(self) -> str:
        """The last line that either program wrote to its standard error; "" when there is none."""
        for path in (self.runtime_errors, self.sandbox_errors):
            lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
            said = [line.strip() for line in lines if line.strip()]
            if said:
                return said[-1][:500]
        return ""

    def remove(self) -> None:
        """Remove the folder; files that a function left in its /tmp may belong to another uid."""
        shutil.rmtree(self.path, ignore_errors=True)
