"""What the management API is given: its settings, and the part of the controller that it asks."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from forebay_controller.interfaces import FunctionStatus


@dataclass(frozen=True, slots=True)
class ManagementSettings:
    """`logs_dir` holds a folder of log files for each function name; `runtime_warning` may take long (a process)."""

    logs_dir: Path
    runtime_warning: Callable[[str], str]


class Instances(Protocol):
    """What the management API asks of the controller."""

    def get_status(self, uid: str) -> FunctionStatus:
        """A function as it was seen last; no I/O."""
        ...

    async def retire(self, uid: str) -> None:
        """End what runs and waits for a deleted function; returns when nothing uses its keys any more."""
        ...
