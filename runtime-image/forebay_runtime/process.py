"""What the process does to itself: nobody reads its memory, and it does not outlive the platform.

prctl through `_ctypes`: the `ctypes` package above it costs a tenth of a runtime's start, this a hundredth.
"""

from __future__ import annotations

import _ctypes
import os

_PR_SET_PDEATHSIG = 1
_PR_GET_DUMPABLE = 3
_PR_SET_DUMPABLE = 4


class _Int(_ctypes._SimpleCData):  # type: ignore[type-arg]  # noqa: SLF001 - as ctypes.c_int is made
    _type_ = "i"


class _Function(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL
    _restype_ = _Int


_prctl = _Function(_ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl"))  # type: ignore[arg-type]


def make_non_dumpable() -> None:
    """Keep other processes of this user from reading our memory and descriptors. Raises OSError."""
    if _prctl(_PR_SET_DUMPABLE, 0) != 0 or _prctl(_PR_GET_DUMPABLE, 0) != 0:
        raise OSError("the process cannot be made non-dumpable, so its credentials would be readable")


class ParentWatch:
    """Ends the process with the platform's supervisor, and not with the controller that started it.

    The kernel signals when the parent is gone. The supervisor is the tree's subreaper: after the controller's
    death it is our parent, and everything goes on; any other parent means that the supervisor is gone as well.
    """

    def __init__(self, supervisor_pid: int, signal_number: int) -> None:
        self._signal_number = signal_number
        self._supervisor_pid = supervisor_pid
        self._parents = {supervisor_pid, os.getppid()} if os.getppid() != 1 else {supervisor_pid}
        _prctl(_PR_SET_PDEATHSIG, signal_number)

    def alone(self) -> bool:
        """Whether the supervisor is gone; asked after the signal, and once after construction."""
        _prctl(_PR_SET_PDEATHSIG, self._signal_number)
        return os.getppid() not in self._parents

    @property
    def adopted(self) -> bool:
        """Whether the controller that started this process is gone, and the supervisor has taken it over."""
        return os.getppid() == self._supervisor_pid
