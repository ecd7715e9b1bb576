"""How much memory a function's process has used, where it does not say so itself."""

from __future__ import annotations


def peak_rss_kib(pid: int) -> int:
    """A process's peak memory; 0 when it is gone or in a namespace that we do not see."""
    if pid <= 0:
        return 0
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"VmHWM:"):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0
