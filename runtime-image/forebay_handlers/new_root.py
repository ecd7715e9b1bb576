"""The file tree that user code sees: the machine's own, read-only, with Lambda's folders in place.

Called in a process that has a mount namespace of its own and may mount in it.
"""

import os
import stat

from forebay_handlers import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence

TASK_ROOT = "/var/task"
RUNTIME_DIR = "/var/runtime"
SOCKET_DIR = "/var/forebay/socket"
PROGRAM_DIR = "/var/forebay/forebay_handlers"

_OLD = "/.old"
_MADE_HERE = frozenset({"dev", "proc", "tmp", "var"})
_DEVICES = ("full", "null", "random", "urandom", "zero")
_DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}


def blocking_folder(path: str, uid: int, gid: int) -> str:
    """The topmost folder on the way to `path` that this user may not pass; "" when the way is free."""
    folder = ""
    for name in os.path.realpath(path).split("/")[1:-1]:
        folder += "/" + name
        found = os.stat(folder)
        if uid == found.st_uid:
            may_pass = found.st_mode & stat.S_IXUSR
        elif gid == found.st_gid:
            may_pass = found.st_mode & stat.S_IXGRP
        else:
            may_pass = found.st_mode & stat.S_IXOTH
        if not may_pass:
            return folder
    return ""


def enter(shown: "dict[str, str]", hidden: "Sequence[str]", *, tmp_dir: str, opened: "tuple[str, str] | None") -> None:
    """Make the new tree this process's root; raises OSError, after which the process must end.

    `shown`: folders by the path where they appear, read-only. `hidden`: folders that appear empty. `tmp_dir`
    becomes /tmp. `opened`: a folder, and above it the one that nobody else may pass: that one then holds
    nothing but the way to the folder.
    """
    sources = {target: _OLD + os.path.realpath(source) for target, source in shown.items()}
    covered = [os.path.realpath(path) for path in hidden]
    tmp_source = _OLD + os.path.realpath(tmp_dir)
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    # Any folder will do to build in: once it is the root, the old tree is whole again below it.
    kernel.tmpfs("/tmp", "mode=755,size=1m")  # noqa: S108
    os.mkdir("/tmp" + _OLD)  # noqa: S108
    kernel.pivot_root("/tmp", "/tmp" + _OLD)  # noqa: S108
    os.chdir("/")
    os.umask(0o022)
    _show_entries("", _MADE_HERE)
    _make_devices()
    os.mkdir("/var")
    _show_entries("/var", frozenset(target.split("/")[2] for target in sources))
    for target, source in sources.items():
        _show_folder(source, target)
    _show_folder(tmp_source, "/tmp")  # noqa: S108
    if opened is not None:
        folder, closed = opened
        kernel.tmpfs(closed, "mode=755,size=64k")
        _show_folder(_OLD + folder, folder)
    for path in covered:
        if os.path.isdir(path):
            kernel.tmpfs(path, "mode=755,size=4k")
    os.mkdir("/proc")
    # Before the old tree goes: without rights of its own a namespace may mount /proc only where it sees one whole.
    kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    kernel.detach(_OLD)
    os.rmdir(_OLD)
    kernel.make_read_only("/")
    for path in ("/dev/shm", "/proc", "/tmp"):  # noqa: S108
        kernel.make_writable(path)


def _show_entries(folder: str, except_for: "frozenset[str]") -> None:
    """Show each entry of a folder of the old tree at its own path."""
    with os.scandir(_OLD + folder) as entries:
        for entry in entries:
            target = f"{folder}/{entry.name}"
            if entry.name in except_for:
                continue
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), target)
            elif entry.is_dir():
                _show_folder(entry.path, target)
            elif entry.is_file():
                _show_file(entry.path, target)


def _show_folder(source: str, target: str) -> None:
    os.makedirs(target, exist_ok=True)
    kernel.bind(source, target)


def _show_file(source: str, target: str) -> None:
    os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    kernel.bind(source, target)


def _make_devices() -> None:
    os.mkdir("/dev")
    for name in _DEVICES:
        _show_file(f"{_OLD}/dev/{name}", f"/dev/{name}")
    for name, target in _DEVICE_LINKS.items():
        os.symlink(target, f"/dev/{name}")
    os.mkdir("/dev/shm")  # noqa: S108
    kernel.tmpfs("/dev/shm", "mode=1777,size=64m")  # noqa: S108
