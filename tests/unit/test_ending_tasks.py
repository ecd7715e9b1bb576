"""Work of the controller's ends with it, also where a library swallows the first cancellation."""

import asyncio
import contextlib

from forebay_controller.background import Background
from forebay_controller.deferred import Deferred

WELL_BEFORE_A_RETRY_S = 0.9


async def swallows_one_cancellation(begun: asyncio.Event) -> None:
    begun.set()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    await asyncio.Event().wait()


async def test_deferred_work_ends_with_its_registry() -> None:
    deferred, begun = Deferred(), asyncio.Event()
    task = deferred.schedule("job", 0, lambda: swallows_one_cancellation(begun))
    await begun.wait()
    async with asyncio.timeout(WELL_BEFORE_A_RETRY_S):
        await deferred.close()
    assert task.cancelled()


async def test_background_work_gets_its_time_and_ends_then() -> None:
    background, begun = Background(), asyncio.Event()
    background.spawn(swallows_one_cancellation(begun), "job")
    await begun.wait()
    async with asyncio.timeout(WELL_BEFORE_A_RETRY_S):
        await background.settle(0.01)
