"""Freed memory is kept for the next large payload, in place of being mapped and cleared anew."""

import os
import platform
import subprocess
import sys

import pytest

from forebay_common.memory import MALLOC_ENVIRONMENT

LARGE_BLOCKS = """
import resource
{before}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def carry():
    blocks = [bytearray(b"x") * (5 << 20) for _ in range(4)]
carry()
at_first = faults()
for _ in range(20):
    carry()
print(faults() - at_first)
"""
PAGES = 20 * 4 * (5 << 20) // os.sysconf("SC_PAGE_SIZE")


def page_faults(before: str = "", environment: dict[str, str] | None = None) -> int:
    """How many pages the kernel had to clear for four large blocks, twenty times after the first."""
    script = LARGE_BLOCKS.format(before=before)
    told = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **(environment or {})},
    )
    return int(told.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such thresholds")
def test_large_blocks_are_cleared_once() -> None:
    assert page_faults() > PAGES / 2, "by the defaults"
    assert page_faults("from forebay_common.memory import keep_freed_memory; keep_freed_memory()") < PAGES / 4
    assert page_faults(environment=MALLOC_ENVIRONMENT) < PAGES / 4
