"""What happens around the handlers' program: namespaces or a process group, the user it runs as, and its end.

The parent outside only waits. Killed, it takes the inside along: process 1 of a namespace dies with it, and the
kernel ends the namespace; without namespaces the handlers' program hears of it and kills what it started.
"""

import os
import resource
import select
import sys
from _json import encode_basestring_ascii as quote
from _json import make_scanner
from _signal import SIGKILL, SIGTERM  # type: ignore[import-not-found] # what `signal` wraps

from forebay_handlers import kernel, new_root, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

OPEN_FILES_MAX = 1_024
_DESCRIPTORS_MAX = 65_536
UNPRIVILEGED_ID = 65_534
_HERE = os.path.dirname(os.path.abspath(__file__))


class Config:
    """One sandbox.

    `isolation`: "namespaces" or "process_group". `interpreter` runs the handlers; `interpreter_prefix` holds its
    standard library. `socket_path` lies in a folder of its own. `hide`: folders that user code must not see.
    `uid` and `gid`: 0 keeps our own, which must not be root's. `supervisor_pid`: 0 when there is none to outlive.
    """

    __slots__ = (
        "boto_dir", "code_dir", "gid", "hide", "interpreter", "interpreter_prefix", "isolation", "socket_path",
        "supervisor_pid", "tmp_dir", "uid",
    )  # fmt: skip

    boto_dir: str
    code_dir: str
    gid: int
    hide: "list[str]"
    interpreter: str
    interpreter_prefix: str
    isolation: str
    socket_path: str
    supervisor_pid: int
    tmp_dir: str
    uid: int

    def __init__(self, document: "Any") -> None:
        """Raises ValueError for a member that is missing or forbidden."""
        for name in self.__slots__:
            if not isinstance(document, dict) or name not in document:
                raise ValueError(f"the sandbox's config lacks {name!r}")
            setattr(self, name, document[name])
        self.interpreter = os.path.realpath(self.interpreter)
        self.uid = self.uid or os.getuid()
        self.gid = self.gid or os.getgid()
        if self.uid == 0:
            raise ValueError("user code never runs as root: the config must name another uid")


def run(path: str) -> int:
    """Run the handlers' program as a config file says, until it ends; gives its exit status, 1 for a failed start."""
    try:
        with open(path, encoding="utf-8") as file:
            config = Config(_parse_json(file.read()))
        supervisor = os.pidfd_open(config.supervisor_pid) if config.supervisor_pid else None
        child = start(config, execute)
    except (OSError, ValueError) as error:
        return _failed(error)
    return _exit_status(_wait(config, child, supervisor))


def start(config: Config, then: "Callable[[Config], None]") -> int:
    """Start a process isolated as the config says; in it `then` is called. Gives its pid. Raises OSError."""
    # What the parent holds until it ends: how the child finds out that it had none left to be told of.
    alive, held = os.pipe()
    if config.isolation == "namespaces":
        _enter_process_namespace()
    else:
        kernel.adopt_orphans()
    pid = os.fork()
    if pid == 0:
        os.close(held)
        try:
            if config.isolation == "namespaces":
                _enter_mount_namespace(config)
                os.chdir(new_root.SOCKET_DIR)
                _become(config, alive, parent_gone=SIGKILL)
            else:
                kernel.adopt_orphans()
                os.chdir(os.path.dirname(config.socket_path))
                _become(config, alive, parent_gone=SIGTERM)
                _check_reachable(config)
            then(config)
        except OSError as error:
            os._exit(_failed(error))
        os._exit(0)
    os.close(alive)
    return pid


def execute(config: Config) -> None:
    """Become the handlers' program: an empty environment, no descriptors but 0 to 2. Raises OSError."""
    inside = config.isolation == "namespaces"
    program = f"{new_root.PROGRAM_DIR if inside else _HERE}/zygote.py"
    # The socket's folder is the working directory: its own path may be too long for a socket's address.
    socket = os.path.basename(config.socket_path)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = OPEN_FILES_MAX if hard == resource.RLIM_INFINITY else min(OPEN_FILES_MAX, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.closerange(3, _DESCRIPTORS_MAX)
    os.execve(config.interpreter, [config.interpreter, "-I", "-S", program, socket], {})


def probe() -> int:
    """Print whether this machine gives us namespaces, by making a sandbox that runs nothing."""
    folder = f"/tmp/.forebay-probe-{os.getpid()}"  # noqa: S108 - mkdir refuses what is already there
    other_id = 0 if os.getuid() else UNPRIVILEGED_ID
    try:
        os.mkdir(folder, 0o700)
        reason = _why_not(
            Config(
                {
                    "isolation": "namespaces",
                    "interpreter": sys.executable,
                    "interpreter_prefix": sys.base_prefix,
                    "socket_path": f"{folder}/control.sock",
                    "code_dir": folder,
                    "tmp_dir": folder,
                    "boto_dir": folder,
                    "hide": [],
                    "uid": other_id,
                    "gid": other_id,
                    "supervisor_pid": 0,
                }
            )
        )
        os.rmdir(folder)
    except OSError as error:
        reason = str(error)
    sys.stdout.write(f'{{"namespaces": {"false" if reason else "true"}, "reason": {quote(reason)}}}\n')
    return 0


def _why_not(config: Config) -> str:
    """What keeps a sandbox from starting, "" when it starts. Raises OSError."""
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    child = start(config, _interpreter_runs)
    _, status = os.waitpid(child, 0)
    os.close(2)
    said = os.read(reading, select.PIPE_BUF).decode(errors="replace").strip()
    return said or ("" if status == 0 else f"the process in it ended with wait status {status}")


def _interpreter_runs(config: Config) -> None:
    if not os.access(config.interpreter, os.X_OK):
        raise PermissionError(f"{config.interpreter} cannot be run inside")


def _enter_process_namespace() -> None:
    """From here on children live in a process namespace; without root's rights, in a user namespace too."""
    uid, gid = os.getuid(), os.getgid()
    if uid == 0:
        kernel.unshare(kernel.CLONE_NEWPID)
        return
    kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID)
    # The kernel takes a group map from us only once we have given up on setgroups.
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def _enter_mount_namespace(config: Config) -> None:
    kernel.unshare(kernel.CLONE_NEWNS)
    shown = {
        new_root.TASK_ROOT: config.code_dir,
        new_root.PROGRAM_DIR: _HERE,
        new_root.SOCKET_DIR: os.path.dirname(config.socket_path),
    }
    if config.boto_dir:
        shown[new_root.RUNTIME_DIR] = config.boto_dir
    prefix = os.path.realpath(config.interpreter_prefix)
    closed = new_root.blocking_folder(prefix, config.uid, config.gid) if os.getuid() == 0 else ""
    new_root.enter(
        shown,
        config.hide,
        tmp_dir=config.tmp_dir,
        opened=(prefix, closed) if closed else None,
    )


def _become(config: Config, alive: int, *, parent_gone: int) -> None:
    """Take on the user that runs user code, and end with the parent (`parent_gone`: the signal for it)."""
    os.setsid()
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(config.gid, config.gid, config.gid)
        os.setresuid(config.uid, config.uid, config.uid)
    kernel.refuse_new_privileges()
    kernel.end_with_parent(parent_gone)
    poll = select.poll()
    poll.register(alive, 0)
    if poll.poll(0):
        os._exit(1)  # the parent was gone before it could be watched


def _check_reachable(config: Config) -> None:
    """Without a mount namespace the user's way is the machine's own: say what bars it. Raises PermissionError."""
    for path, mode in (
        (config.interpreter, os.X_OK),
        (f"{_HERE}/zygote.py", os.R_OK),
        (config.code_dir, os.R_OK | os.X_OK),
        (".", os.X_OK),
        (config.tmp_dir, os.W_OK | os.X_OK),
    ):
        if not os.access(path, mode):
            raise PermissionError(f"uid {config.uid}, which runs the handlers, cannot reach {path}")


def _wait(config: Config, child: int, supervisor: "int | None") -> int:
    """Wait for the end of the child, or bring it about when the supervisor is gone; gives the wait status."""
    poll = select.poll()
    poll.register(os.pidfd_open(child), select.POLLIN)
    if supervisor is not None:
        poll.register(supervisor, select.POLLIN)
    poll.poll()
    # It ended, or is to end now: as process 1 of its namespace it takes all others along.
    processes.send(child, SIGKILL)
    _, status = os.waitpid(child, 0)
    if config.isolation != "namespaces":
        processes.kill_everything_below()
    return status


class _Scanning:
    """What the C scanner reads from its decoder: JSON as the json module reads it by default."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float


def _parse_json(text: str) -> "Any":
    """A JSON value. Raises ValueError."""
    # By the C scanner itself: the json module brings re and enum, which take longer than all the rest of this start.
    try:
        return make_scanner(_Scanning)(text.strip(), 0)[0]  # type: ignore[arg-type]
    except (StopIteration, SystemError):
        # The second where it would make its own error, for which it wants the json module.
        raise ValueError("the sandbox's config is no JSON") from None


def _exit_status(wait_status: int) -> int:
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code


def _failed(error: Exception) -> int:
    sys.stderr.write(f"the handlers' sandbox could not be started: {error}\n")
    sys.stderr.flush()
    return 1
