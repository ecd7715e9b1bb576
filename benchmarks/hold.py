"""Callers that wait: `python -m benchmarks.hold PORT COUNT PATH …` makes COUNT calls, shared among the paths.

Prints a line once all are sent, and keeps their connections until its input ends.
"""

import asyncio
import resource
import sys

AT_ONCE = 100
"""Connections that are being made at the same time."""


async def hold(port: int, count: int, paths: list[str]) -> None:
    """Make the calls and wait."""
    gate = asyncio.Semaphore(AT_ONCE)
    transports: list[asyncio.BaseTransport] = []

    async def call(path: str) -> None:
        async with gate:
            transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, "127.0.0.1", port)
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: benchmark\r\nContent-Length: 2\r\n\r\n"
            transport.write(head.encode() + b"{}")
            transports.append(transport)

    await asyncio.gather(*(call(paths[number % len(paths)]) for number in range(count)))
    print("sent", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for transport in transports:
        transport.close()


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(hold(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
