"""What a call costs in things that can be counted, whatever machine counts them: Redis's commands, reads and writes.

The figures are those of docs/performance.md; a change that needs more of them is slower everywhere.
"""

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.platform import Platform, running_platform
from support.redis_servers import TcpServer

CALL_COMMANDS = ("xadd", "xreadgroup", "rpush", "xdel", "xack", "blmpop")
"""What a plain call needs, one of each; the rest of the platform's commands come by time, not by call."""
ALONE, TOGETHER = 300, 6_400
CONNECTIONS = 64


@pytest.fixture(scope="module")
def valkey() -> Iterator[TcpServer]:
    server = TcpServer("valkey", options=("--appendonly", "yes"))
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def platform(valkey: TcpServer) -> Iterator[Platform]:
    with running_platform("--redis", f"redis://:{valkey.password}@127.0.0.1:{valkey.port}") as running:
        running.create("echo", "def handler(event, context): return event")
        asyncio.run(load(running, CONNECTIONS, 3_000))
        yield running


async def load(platform: Platform, connections: int, calls: int) -> None:
    """So many calls in all, on so many connections, each of which has one under way; every answer is the right one."""
    numbers = itertools.count()
    authorization = platform.authorization["Authorization"]

    async def caller() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", platform.port)
        while (number := next(numbers)) < calls:
            body = json.dumps({"number": number}).encode()
            head = f"POST /2015-03-31/functions/echo/invocations HTTP/1.1\r\nhost: localhost:{platform.port}\r\n"
            head += f"authorization: {authorization}\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            assert await reader.readexactly(length) == body
        writer.close()

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(caller())


def commands(valkey: TcpServer) -> Counter[str]:
    """Redis's commands so far, by name."""
    found: Counter[str] = Counter()
    for line in valkey.ask("INFO", "commandstats").decode().splitlines():
        name, _, figures = line.removeprefix("cmdstat_").partition(":calls=")
        if figures:
            found[name] = int(figures.partition(",")[0])
    return found


def redis_io(valkey: TcpServer) -> int:
    """How often Redis has read from connections and written to them so far."""
    lines = dict(line.split(":") for line in valkey.ask("INFO", "stats").decode().splitlines() if ":" in line)
    return int(lines["total_reads_processed"]) + int(lines["total_writes_processed"])


def system_calls(pid: int) -> int:
    """Reads and writes of a process that its kernel has counted (of sockets, those by read(2) and write(2))."""
    lines = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(lines["syscr"]) + int(lines["syscw"])


class Counted:
    """What calls cost, for each of them."""

    def __init__(self, platform: Platform, valkey: TcpServer, connections: int, calls: int) -> None:
        [gateway] = platform.pids_of("forebay_gateway")
        before = commands(valkey), redis_io(valkey), system_calls(gateway)
        asyncio.run(load(platform, connections, calls))
        after = commands(valkey), redis_io(valkey), system_calls(gateway)
        self.commands = {name: (after[0][name] - before[0][name]) / calls for name in CALL_COMMANDS}
        self.redis_io = (after[1] - before[1]) / calls
        self.gateway_system_calls = (after[2] - before[2]) / calls


def test_a_call_alone_is_six_commands(platform: Platform, valkey: TcpServer) -> None:
    found = Counted(platform, valkey, 1, ALONE)
    assert all(0.95 <= count <= 1.05 for count in found.commands.values()), found.commands
    assert found.redis_io <= 8.5
    assert found.gateway_system_calls <= 6.2


def test_calls_together_share_them(platform: Platform, valkey: TcpServer) -> None:
    found = Counted(platform, valkey, CONNECTIONS, TOGETHER)
    assert found.commands["xadd"] == 1
    assert sum(found.commands.values()) <= 1.6
    assert found.redis_io <= 0.7
    assert found.gateway_system_calls <= 2.6, "one read and one write are the client's"
