"""A small closed-loop client: `python -m benchmarks.peer_tasks.driver MODULE CALLERS SECONDS`.

Each caller queues one echo, waits for its result, looks whether it is the event, and goes on. Callers are threads, or
tasks of one loop where the peer's client is asyncio. Prints the figures as one JSON object, in the form of `wrk.lua`.
"""

import asyncio
import importlib
import inspect
import json
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

EVENT = {"hello": "world"}
FIRST_TIMEOUT_S = 30.0
"""For a result; the first ones wait for the workers to start."""
CALLS_MAX = 20_000
"""Of one caller."""


def _checked(answer: Any) -> None:
    if answer != EVENT:
        raise RuntimeError(f"the echo came back as {answer!r}")


def run_threads(call: Callable[[Any], Any], callers: int, seconds: float) -> tuple[list[float], float]:
    """Latencies of all calls in seconds, and how long it took."""
    latencies: list[float] = []
    failures: list[Exception] = []
    start = threading.Barrier(callers + 1)

    def run() -> None:
        try:
            _checked(call(EVENT))
            start.wait(FIRST_TIMEOUT_S)
            end = time.perf_counter() + seconds
            for _ in range(CALLS_MAX):
                if (began := time.perf_counter()) >= end:
                    return
                _checked(call(EVENT))
                latencies.append(time.perf_counter() - began)
        except Exception as error:  # noqa: BLE001 - raised by the caller, which waits
            failures.append(error)
            start.abort()

    threads = [threading.Thread(target=run, daemon=True) for _ in range(callers)]
    for thread in threads:
        thread.start()
    try:
        start.wait(FIRST_TIMEOUT_S)
    except threading.BrokenBarrierError:
        raise failures[0] if failures else TimeoutError("the first calls were not answered") from None
    began = time.perf_counter()
    for thread in threads:
        thread.join(seconds + FIRST_TIMEOUT_S)
    if failures:
        raise failures[0]
    return latencies, time.perf_counter() - began


async def run_tasks(
    connect: Callable[[float], Awaitable[Callable[[Any], Awaitable[Any]]]], callers: int, seconds: float
) -> tuple[list[float], float]:
    """As `run_threads`, in one loop."""
    call = await connect(FIRST_TIMEOUT_S)
    latencies: list[float] = []

    async def run(end: float) -> None:
        for _ in range(CALLS_MAX):
            if (began := time.perf_counter()) >= end:
                return
            _checked(await call(EVENT))
            latencies.append(time.perf_counter() - began)

    for answer in await asyncio.gather(*(call(EVENT) for _ in range(callers))):
        _checked(answer)
    began = time.perf_counter()
    await asyncio.gather(*(run(began + seconds) for _ in range(callers)))
    return latencies, time.perf_counter() - began


def main(module: str, callers: int, seconds: float) -> None:
    """Measure and print."""
    connect = importlib.import_module(f"benchmarks.peer_tasks.{module}").connect
    if inspect.iscoroutinefunction(connect):
        latencies, took_s = asyncio.run(run_tasks(connect, callers, seconds))
    else:
        latencies, took_s = run_threads(connect(FIRST_TIMEOUT_S), callers, seconds)
    latencies.sort()
    figures = {
        "requests": len(latencies),
        "seconds": took_s,
        "errors": 0,
        "p50_us": latencies[len(latencies) // 2] * 1e6,
        "p99_us": latencies[len(latencies) * 99 // 100] * 1e6,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
