"""Waiting for a condition that announces itself by no event; bounded, for tests only."""

import asyncio
import time
from collections.abc import Awaitable, Callable


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 10.0, every_s: float = 0.01) -> None:
    """Return once `condition()` is true; fails the test, naming `what`, after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_s} s")
        time.sleep(every_s)


async def wait_until_async(
    condition: Callable[[], Awaitable[object]], what: str, timeout_s: float = 10.0, every_s: float = 0.01
) -> None:
    """The same for a condition that must be awaited."""
    deadline = time.monotonic() + timeout_s
    while not await condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_s} s")
        await asyncio.sleep(every_s)
