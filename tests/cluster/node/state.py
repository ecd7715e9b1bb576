"""What `up` changes on the machine, written down before it does, so that `down` can undo it at any time."""

import json
from dataclasses import asdict, dataclass, field

from .layout import FOLDER, STATE_FILE
from .processes import Recorded
from .report import NodeError


@dataclass
class State:
    """`sysctls` and `forward_policy` are values from before; `new_paths` were not there and are removed again."""

    processes: list[Recorded] = field(default_factory=list)
    sysctls: dict[str, str] = field(default_factory=dict)
    forward_policy: str | None = None
    new_paths: list[str] = field(default_factory=list)
    complete: bool = False

    def save(self) -> None:
        """Replace the file in one step: a reader sees the old or the new one."""
        fresh = STATE_FILE.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(self), indent=1))
        fresh.replace(STATE_FILE)

    def add(self, process: Recorded) -> Recorded:
        """Record a process that was just started."""
        self.processes.append(process)
        self.save()
        return process

    def running(self) -> bool:
        """Whether `up` came to its end and all of its processes still run."""
        return self.complete and all(process.alive() for process in self.processes)


def load() -> State | None:
    """The state of the node that is there, whole or not; None when there is none."""
    if not FOLDER.exists():
        return None
    if FOLDER.is_symlink() or FOLDER.stat().st_uid != 0:
        raise NodeError(f"{FOLDER} is not root's: it was not made by this program, so look what it is and remove it")
    try:
        members = json.loads(STATE_FILE.read_text())
    except FileNotFoundError:
        return State()  # ended between making the folder and writing the file: nothing was changed yet
    processes = [Recorded(**process) for process in members.pop("processes")]
    return State(processes=processes, **members)
