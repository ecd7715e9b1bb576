"""How much freed memory a process keeps for its next large payload.

By glibc's defaults what lies free at the heap's end goes back to the kernel as soon as it is twice as much as the
largest block so far, and is mapped and cleared page by page for the next one: of the 14 ms that 5 MiB of payload took a
runtime, 8 went there. Up to `KEPT_BYTES` stay instead. Other C libraries ignore all of it.
"""

import ctypes

KEPT_BYTES = 32 * 1024 * 1024
"""The most that glibc takes for M_MMAP_THRESHOLD (mallopt(3))."""

MALLOC_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(KEPT_BYTES),
    "MALLOC_TRIM_THRESHOLD_": str(KEPT_BYTES),
}
"""For a process that is about to be started."""

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def keep_freed_memory() -> None:
    """The same for the process that runs."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
