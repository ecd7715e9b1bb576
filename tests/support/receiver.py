"""An HTTP server that others post to: what it got, and what it answers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field


@dataclass
class Post:
    """One request; names of headers in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """A receiver on loopback. `answer` gives the status, and perhaps more header lines, of each post's answer."""

    port: int = 0
    posts: list[Post] = field(default_factory=list)
    answer: Callable[[Post], str] = lambda _: "204 No Content"
    open_now: int = 0
    open_most: int = 0
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.may_answer.set()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def start(self) -> None:
        """Listen, on the port of before if there was one."""
        self._server = await asyncio.start_server(self._handle, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Listen no more, and end what is open."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None
        self.may_answer.set()
        if self._connections:
            await asyncio.wait(self._connections)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self.open_now += 1
        self.open_most = max(self.open_most, self.open_now)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._serve(reader, writer)
        finally:
            self.open_now -= 1
            self._connections.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        post = Post(first.split()[1], headers, await reader.readexactly(int(headers["content-length"])))
        self.posts.append(post)
        await self._until_may_answer(reader)
        writer.write(f"HTTP/1.1 {self.answer(post)}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()

    async def _until_may_answer(self, reader: asyncio.StreamReader) -> None:
        """Wait for it, or until the client has left."""
        tasks = [asyncio.create_task(self.may_answer.wait()), asyncio.create_task(reader.read())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@contextlib.asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver that listens until the end of the `with`."""
    receiver = Receiver()
    await receiver.start()
    try:
        yield receiver
    finally:
        await receiver.stop()
