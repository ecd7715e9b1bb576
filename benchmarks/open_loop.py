"""Calls that come when they come, whether or not earlier ones are answered: what a latency's tail is really like.

`python -m benchmarks.open_loop PORT PATH PER_SECOND SECONDS` prints one JSON object: p50_us and p99_us counted from the
moment at which a call was due, requests, and errors.
"""

import asyncio
import json
import sys
import time
from collections import deque
from typing import cast

CONNECTIONS = 128
"""More calls than this under way wait here, and their time runs."""
LATE_MAX_S = 10.0
_BODY = b'{"hello": "world"}'
_OK = b"HTTP/1.1 200 "


class _Client(asyncio.Protocol):
    """A connection that has at most one call under way."""

    def __init__(self, run: "Run") -> None:
        self._run = run
        self._data = b""
        self._due_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self, due_s: float) -> None:
        self._due_s = due_s
        self._transport.write(self._run.request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        at = head.lower().find(b"content-length: ")
        if not end or len(body) < int(head[at + 16 :].split(b"\r\n", 1)[0]):
            return
        self._data = b""
        self._run.answered(self, self._due_s, good=head.startswith(_OK))


class Run:
    """So many calls a second, for so long."""

    def __init__(self, port: int, path: str, per_second: float, seconds: float) -> None:
        self._port = port
        self._every_s = 1 / per_second
        self._count = int(per_second * seconds)
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: benchmark\r\nContent-Length: {len(_BODY)}"
        self.request = head.encode() + b"\r\n\r\n" + _BODY
        self._free: deque[_Client] = deque()
        self._waiting: deque[float] = deque()
        self._took_us: list[float] = []
        self._errors = 0
        self._over = asyncio.Event()

    def answered(self, client: _Client, due_s: float, *, good: bool) -> None:
        """A call is over; its connection takes the next."""
        self._took_us.append((time.perf_counter() - due_s) * 1e6)
        self._errors += not good
        if len(self._took_us) == self._count:
            self._over.set()
        if self._waiting:
            client.send(self._waiting.popleft())
        else:
            self._free.append(client)

    async def run(self) -> dict[str, float]:
        """The figures."""
        loop = asyncio.get_running_loop()
        for _ in range(CONNECTIONS):
            _, client = await loop.create_connection(lambda: _Client(self), "127.0.0.1", self._port)
            self._free.append(client)
        start_s = time.perf_counter()
        sent = 0
        while sent < self._count:
            now_s = time.perf_counter()
            while sent < self._count and start_s + sent * self._every_s <= now_s:
                due_s = start_s + sent * self._every_s
                sent += 1
                if self._free:
                    self._free.popleft().send(due_s)
                else:
                    self._waiting.append(due_s)
            await asyncio.sleep(max(0.0, start_s + sent * self._every_s - time.perf_counter()))
        async with asyncio.timeout(LATE_MAX_S):
            await self._over.wait()
        took_us = sorted(self._took_us)
        return {
            "requests": len(took_us),
            "errors": self._errors,
            "p50_us": took_us[len(took_us) // 2],
            "p99_us": took_us[int(len(took_us) * 0.99)],
        }


if __name__ == "__main__":
    port, path, per_second, seconds = sys.argv[1:]
    print(json.dumps(asyncio.run(Run(int(port), path, float(per_second), float(seconds)).run())))
