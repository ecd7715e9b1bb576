"""The few system calls that Python 3.11 does not wrap: mounts, namespaces, process attributes.

Each raises OSError whose message names the call.
"""

import ctypes
import os

MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

CLONE_NEWNS = 0x0002_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000

_MOUNT_ATTR_RDONLY = 1
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_SYS_MOUNT_SETATTR = 442  # the same on all architectures

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttributes(ctypes.Structure):
    _fields_ = (
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("user_namespace", ctypes.c_uint64),
    )


def unshare(flags: int) -> None:
    """Leave the given namespaces for new ones; a new process namespace holds children only."""
    _check(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mount a file system, or bind a path (MS_BIND)."""
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode() or None
    )
    _check(result, f"mount {target}")


def bind(source: str, target: str) -> None:
    """Show a path, with what is mounted below it, at another."""
    mount(source, target, flags=MS_BIND | MS_REC)


def tmpfs(target: str, options: str) -> None:
    """A new empty file system in memory, without devices and set-uid programs."""
    mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, options)


def pivot_root(new_root: str, old_root: str) -> None:
    """Make `new_root` the root and hang the old one at `old_root`."""
    _check(_libc.pivot_root(new_root.encode(), old_root.encode()), "pivot_root")


def detach(target: str) -> None:
    """Unmount a whole tree."""
    _check(_libc.umount2(target.encode(), MNT_DETACH), f"umount {target}")


def make_read_only(target: str) -> None:
    """Make a mount and all mounts below it read-only. Linux 5.12 or newer."""
    _set_attributes(target, _AT_RECURSIVE, _MountAttributes(set=_MOUNT_ATTR_RDONLY))


def make_writable(target: str) -> None:
    """Make one mount writable again."""
    _set_attributes(target, 0, _MountAttributes(clear=_MOUNT_ATTR_RDONLY))


def end_with_parent(number: int) -> None:
    """Get a signal when the parent ends. A change of user ids resets it: call this after."""
    _prctl(_PR_SET_PDEATHSIG, number)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends; kept over exec."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def refuse_new_privileges() -> None:
    """Set-uid programs give nothing from here on, for this process and all it starts."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _set_attributes(target: str, flags: int, attributes: _MountAttributes) -> None:
    result = _libc.syscall(
        ctypes.c_long(_SYS_MOUNT_SETATTR),
        ctypes.c_int(_AT_FDCWD),
        target.encode(),
        ctypes.c_uint(flags),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )
    _check(result, f"mount_setattr {target}")


def _prctl(option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    _check(_libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero), f"prctl {option}")


def _check(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
