"""Work by key."""

import asyncio

import pytest

from forebay_controller.cluster.api import ApiError
from forebay_controller.cluster.work_queue import BACKOFF_MOST_S, WorkQueue, backoff_s
from support.controller_rig import until


class Worker:
    """Counts what it was asked for; fails, hangs and comes again as told."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.running: set[str] = set()
        self.errors: dict[str, list[Exception]] = {}
        self.again_s: dict[str, float] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.queue: WorkQueue[str] = WorkQueue(self)

    async def __call__(self, key: str) -> float | None:
        assert key not in self.running, "one task for each key at a time"
        self.running.add(key)
        try:
            if key.startswith("slow"):
                await self.gate.wait()
            self.done.append(key)
            if self.errors.get(key):
                raise self.errors[key].pop()
            return self.again_s.pop(key, None)
        finally:
            self.running.discard(key)


@pytest.fixture
async def worker() -> Worker:
    return Worker()


async def test_a_key_that_is_being_worked_on_is_worked_on_once_more(worker: Worker) -> None:
    worker.gate.clear()
    worker.queue.add("slow")
    await asyncio.sleep(0)
    for _ in range(5):
        worker.queue.add("slow")
    worker.gate.set()
    await until(lambda: worker.done == ["slow", "slow"], "once more, not five times")
    await worker.queue.close()


async def test_a_slow_key_delays_no_other(worker: Worker) -> None:
    worker.gate.clear()
    worker.queue.add("slow")
    worker.queue.add("quick")
    await until(lambda: worker.done == ["quick"], "the other is done")
    await worker.queue.close()


@pytest.mark.parametrize("error", [ApiError(0, "Unreachable", "away"), RuntimeError("a mistake of ours")])
async def test_a_key_that_failed_is_tried_again_by_itself(worker: Worker, error: Exception) -> None:
    worker.errors["bad"] = [error]
    worker.queue.add("bad")
    worker.queue.add("good")
    await until(lambda: sorted(worker.done) == ["bad", "bad", "good"], "it is tried again")
    await worker.queue.close()


async def test_work_says_when_it_comes_again_and_a_change_comes_before_that(worker: Worker) -> None:
    worker.again_s["key"] = 0.05
    worker.queue.add("key")
    await until(lambda: worker.done == ["key", "key"], "it comes again")
    worker.again_s["key"] = 3_600.0
    worker.queue.add("key")
    await until(lambda: len(worker.done) == 3, "it says to come much later")
    worker.queue.add("key")
    await until(lambda: len(worker.done) == 4, "a change does not wait")
    await worker.queue.close()


async def test_closing_ends_what_runs_and_what_waits(worker: Worker) -> None:
    worker.again_s["later"] = 60.0
    worker.gate.clear()
    worker.queue.add("slow")
    worker.queue.add("later")
    await until(lambda: worker.done == ["later"], "it is to come again")
    await worker.queue.close()
    assert not worker.running
    assert worker.queue._timers == {}


def test_backoff_grows_to_its_bound() -> None:
    assert backoff_s(1) <= 0.5
    assert 3 <= backoff_s(4) <= 4
    assert backoff_s(1_000) <= BACKOFF_MOST_S
