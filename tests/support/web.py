"""ASGI applications on a real HTTP server, and clients that send what no library would."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers, which belong to pytest here."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, unix_socket: Path | None = None, *, port: int = 0) -> AsyncIterator[int]:
    """Serve `app` on a loopback port (0: a free one), or a Unix socket; gives the port (0 for a socket)."""
    if unix_socket is None:
        listener = socket.create_server(("127.0.0.1", port))
        port = listener.getsockname()[1]
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(unix_socket))
        port = 0
    listener.listen()
    config = uvicorn.Config(app, lifespan="off", log_level="critical", http="httptools", ws="none")
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield port
    finally:
        server.should_exit = True
        server.force_exit = True
        await asyncio.wait_for(task, 10)
        listener.close()
        if unix_socket is not None:
            _remove(unix_socket)


def _remove(path: Path) -> None:
    path.unlink()


async def raw_exchange(port: int, request: bytes, timeout_s: float = 10.0) -> bytes:
    """All that comes back for these bytes until the server closes; so the request asks it to, or is no request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            # A server that refuses before it has read everything resets the connection.
            with contextlib.suppress(ConnectionError):
                writer.write(request)
                while chunk := await reader.read(65_536):
                    answer += chunk
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return bytes(answer)
