"""Calls in numbers: a burst at once, or so many a second while something is done to the platform."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import httpx

CALL_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Call:
    """One call as its caller saw it; `status` is 0 when no answer came. Times are wall-clock seconds."""

    number: int
    began: float
    ended: float
    status: int
    text: str
    function_error: str

    @property
    def good(self) -> bool:
        """Whether the function's own answer came."""
        return self.status in (200, 202) and not self.function_error

    @property
    def answer(self) -> dict[str, Any]:
        """The function's answer."""
        found: dict[str, Any] = json.loads(self.text)
        return found


@dataclass(frozen=True)
class Target:
    """A function to call by Invoke; `base` is the gateway's URL, with the namespace."""

    base: str
    name: str
    headers: dict[str, str]
    event: dict[str, Any]

    async def call(self, client: httpx.AsyncClient, number: int) -> Call:
        """One call, however it ends."""
        url = f"{self.base}/2015-03-31/functions/{self.name}/invocations"
        began = time.time()
        try:
            answer = await client.post(url, headers=self.headers, json={**self.event, "number": number})
        except httpx.HTTPError as error:
            return Call(number, began, time.time(), 0, repr(error), "")
        function_error = answer.headers.get("x-amz-function-error", "")
        return Call(number, began, time.time(), answer.status_code, answer.text, function_error)


def _client() -> httpx.AsyncClient:
    # A connection for each call: Services choose a pod for a connection, and none is used after its pod has left.
    return httpx.AsyncClient(
        timeout=CALL_TIMEOUT_S, limits=httpx.Limits(max_connections=None, max_keepalive_connections=0)
    )


def burst(target: Target, count: int) -> list[Call]:
    """`count` calls at the same time; returns when all are answered."""

    async def run() -> list[Call]:
        async with _client() as client:
            return list(await asyncio.gather(*(target.call(client, number) for number in range(count))))

    return asyncio.run(run())


class Load:
    """So many calls a second, whether or not earlier ones are answered, until it is stopped."""

    def __init__(self, target: Target, per_second: float) -> None:
        self.calls: list[Call] = []
        self._target = target
        self._every_s = 1 / per_second
        self._over = threading.Event()
        self._news = threading.Condition()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """No more calls; returns when those under way are answered."""
        self._over.set()
        self._thread.join()

    def answered(self, count: int, timeout_s: float = 60.0) -> None:
        """Return when so many more calls have been answered as the function should."""
        with self._news:
            wanted = self._good() + count
            assert self._news.wait_for(lambda: self._good() >= wanted, timeout_s), f"no answers: {self.calls[-5:]}"

    def _good(self) -> int:
        return sum(call.good for call in self.calls)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        async with _client() as client, asyncio.TaskGroup() as calls:
            number = 0
            while not self._over.is_set():
                calls.create_task(self._one(client, number))
                number += 1
                due += self._every_s
                await asyncio.sleep(max(0.0, due - loop.time()))  # the pace is the point

    async def _one(self, client: httpx.AsyncClient, number: int) -> None:
        call = await self._target.call(client, number)
        with self._news:
            self.calls.append(call)
            self._news.notify_all()


@contextlib.contextmanager
def loading(target: Target, per_second: float) -> Iterator[Load]:
    """Load for the length of a block, which begins once the first calls are answered."""
    with Load(target, per_second) as load:
        load.answered(3)
        yield load


def bad(calls: Sequence[Call]) -> list[str]:
    """A line for each call that the function did not answer."""
    return [
        f"{c.number} at {c.began:.3f} for {c.ended - c.began:.3f} s: {c.status} {c.text[:200]}"
        for c in calls
        if not c.good
    ]
