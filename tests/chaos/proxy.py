"""What stands between every part and Redis: a proxy on a Unix socket that can hurt the connections of one process.

Whose a connection is, is told by its peer's pid (SO_PEERCRED), so one socket serves all parts.
"""

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field
from pathlib import Path

_CHUNK_BYTES = 65_536
_CREDENTIALS = struct.Struct("3i")


@dataclass(slots=True)
class Trouble:
    """What one process's connections suffer for now.

    `slow_s`: each chunk is late by so much. `mute`: requests arrive, replies do not. `refuse`: new connections are
    closed. `tear`: the next request is cut off after this part of its bytes (1: not). `flowing`: cleared while nothing
    passes.
    """

    slow_s: float = 0.0
    mute: bool = False
    refuse: bool = False
    tear: float = 1.0
    flowing: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.flowing.set()


class Line:
    """One connection through the proxy."""

    def __init__(self, pid: int, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.pid = pid
        self.half = False
        self._writers = (client, server)

    def close_client(self) -> None:
        """End the side of the process alone."""
        self.half = True
        self._writers[0].transport.abort()

    def close(self) -> None:
        """End both sides at once, unless Redis is not to hear of it yet."""
        if self.half:
            return
        for writer in self._writers:
            writer.transport.abort()


class RedisProxy:
    """Listens on `socket` and passes everything on to `target`; `troubles` are by the peer's pid."""

    def __init__(self, socket_path: Path, target: Path) -> None:
        self.socket = socket_path
        self._target = target
        self._lines: set[Line] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.troubles: dict[int, Trouble] = {}

    async def start(self) -> None:
        """Begin to listen."""
        self._server = await asyncio.start_unix_server(self._connected, self.socket)

    async def close(self) -> None:
        """End every connection and the server."""
        if self._server is not None:
            self._server.close()
        self.troubles.clear()
        for line in self._lines:
            line.half = False
        self.cut(None)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def cut(self, pid: int | None) -> int:
        """End the connections of a process (None: of all) at once; how many there were."""
        lines = [line for line in self._lines if pid is None or line.pid == pid]
        for line in lines:
            line.close()
        return len(lines)

    async def cut_half(self, pid: int, for_s: float) -> None:
        """End a process's connections on its side; Redis hears of it so much later, as when a network is cut.

        What Redis sends meanwhile is lost.
        """
        lines = [line for line in self._lines if line.pid == pid]
        for line in lines:
            line.close_client()
        try:
            await asyncio.sleep(for_s)
        finally:
            for line in lines:
                line.half = False
                line.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pid = _peer_pid(writer)
        trouble = self.troubles.get(pid)
        if trouble is not None and trouble.refuse:
            writer.transport.abort()
            return
        try:
            from_redis, to_redis = await asyncio.open_unix_connection(self._target)
        except OSError:
            writer.transport.abort()
            return
        line = Line(pid, writer, to_redis)
        self._lines.add(line)
        pumps = [
            asyncio.create_task(self._pump(line, reader, to_redis, is_request=True)),
            asyncio.create_task(self._pump(line, from_redis, writer, is_request=False)),
        ]
        self._tasks.update(pumps)
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            if line.half:
                # The other pump swallows what Redis says, until Redis is told.
                await asyncio.wait(pumps)
        finally:
            line.close()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._tasks.difference_update(pumps)
            self._lines.discard(line)

    async def _pump(
        self, line: Line, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_request: bool
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(_CHUNK_BYTES):
                trouble = self.troubles.get(line.pid)
                if trouble is not None:
                    if trouble.slow_s:
                        await asyncio.sleep(trouble.slow_s)
                    await trouble.flowing.wait()
                    if trouble.mute and not is_request:
                        continue
                    if trouble.tear < 1 and is_request:
                        await self._tear(trouble, writer, data)
                        return
                if line.half and not is_request:
                    continue
                writer.write(data)
                await writer.drain()

    async def _tear(self, trouble: Trouble, writer: asyncio.StreamWriter, data: bytes) -> None:
        """Let a part of a request through, then no more."""
        writer.write(data[: int(len(data) * trouble.tear)])
        trouble.tear = 1.0
        await writer.drain()


def _peer_pid(writer: asyncio.StreamWriter) -> int:
    raw = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[0])
