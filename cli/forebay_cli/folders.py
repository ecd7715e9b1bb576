"""The two folders of `forebay up`: the data dir, which lasts, and the run dir, which goes with it.

The data dir's `lock` file is held by flock as long as an `up` lives (the kernel lets go however it dies), and says
in JSON whose it is: pid, run_dir and url. What a killed `up` left behind is found through it.
"""

import fcntl
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from forebay_cli.errors import UserError
from forebay_cli.processes import PROCESSES_FILE, ProcessIdentity, end_processes
from forebay_controller.instance_folder import InstanceFolder
from forebay_controller.local_keys import LocalKeys, keys_of

RUN_DIR_PREFIX = "forebay-"
PRIVATE_FOLDER = "private"
SOCKET_PATH_MAX_BYTES = 107
LONGEST_SOCKET = "instances/" + "0" * 32 + "/socket/control.sock"


def default_data_dir() -> Path:
    """`$XDG_DATA_HOME/forebay`, or `~/.local/share/forebay`."""
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "forebay"


class Leftovers(NamedTuple):
    """What an earlier `up` on the same data dir left behind, and this one removed."""

    run_dir: Path
    processes: int


class DataDir:
    """A data dir, locked for this process. Raises UserError when another `up` has it or it cannot be made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock: IO[str] = (path / "lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"cannot use {path} as the data dir ({error.strerror}): name another by --data-dir"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = self._read()
            self._lock.close()
            raise UserError(
                f"another `forebay up` (pid {owner.get('pid', 'unknown')}) uses {path}"
                f"{' at ' + owner['url'] if 'url' in owner else ''}: stop it, or give this one its own --data-dir"
            ) from None

    def _read(self) -> dict[str, Any]:
        self._lock.seek(0)
        with suppress(ValueError):  # empty, or cut by a crash: then there is nothing to learn from it
            document = json.loads(self._lock.read())
            if isinstance(document, dict):
                return document
        return {}

    def write(self, **document: object) -> None:
        """Say whose lock it is."""
        self._lock.seek(0)
        self._lock.truncate()
        json.dump(document, self._lock)
        self._lock.flush()

    def clean_up_after_crash(self) -> Leftovers | None:
        """End and remove what an `up` that was killed on this data dir left; None when there is nothing."""
        recorded = self._read().get("run_dir")
        if not isinstance(recorded, str) or not is_own_run_dir(Path(recorded)):
            return None
        run_dir = Path(recorded)
        ended = end_processes(recorded_processes(run_dir))
        shutil.rmtree(run_dir, ignore_errors=True)
        return Leftovers(run_dir, ended)

    def close(self) -> None:
        """Let go of the lock; the file stays, since removing it would race with another `up`."""
        self._lock.seek(0)
        self._lock.truncate()
        self._lock.close()


def local_keys(data_dir: Path) -> LocalKeys:
    """The data dir's access keys, made at first need. Raises UserError when they cannot be read or made."""
    try:
        return keys_of(data_dir)
    except OSError as error:
        raise UserError(f"cannot use {data_dir} for access keys ({error.strerror}): see who owns it") from error
    except ValueError as error:
        raise UserError(str(error)) from error


def is_own_run_dir(path: Path) -> bool:
    """Whether a path is a folder that an `up` of this user made: it is removed whole, so be sure."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return (
        path.name.startswith(RUN_DIR_PREFIX)
        and stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.geteuid()
        and (path / PROCESSES_FILE).exists()
    )


def recorded_processes(run_dir: Path) -> Iterator[ProcessIdentity]:
    """The processes that an `up` and its controller wrote down; what is half-written names none."""
    with suppress(OSError, ValueError, TypeError):
        for pid, ticks in json.loads((run_dir / PROCESSES_FILE).read_bytes()):
            yield ProcessIdentity(int(pid), int(ticks))
    instances = run_dir / "instances"
    for folder in instances.iterdir() if instances.is_dir() else ():
        record = InstanceFolder(instances, folder.name).read_record()
        if record is not None:
            yield ProcessIdentity(*record.runtime)
            yield ProcessIdentity(*record.sandbox)


def make_run_dir() -> Path:
    """A new 0700 folder with a path short enough for the Unix sockets in it.

    Its folder `private` stays 0700 where the controller opens the run dir itself: without mount namespaces, handlers
    that run as another user pass through it to their own files.
    """
    for parent in (os.environ.get("XDG_RUNTIME_DIR"), "/tmp"):  # noqa: S108 - mkdtemp makes it 0700
        if parent and len(f"{parent}/{RUN_DIR_PREFIX}00000000/{LONGEST_SOCKET}".encode()) <= SOCKET_PATH_MAX_BYTES:
            with suppress(OSError):  # e.g. another user's XDG_RUNTIME_DIR after `su`
                run_dir = Path(tempfile.mkdtemp(prefix=RUN_DIR_PREFIX, dir=parent))
                (run_dir / PROCESSES_FILE).write_text("[]")
                (run_dir / PRIVATE_FOLDER).mkdir(mode=0o700)
                return run_dir
    raise UserError("cannot make a folder in /tmp: see that it exists and is writable")
