"""How long a client may keep a connection without a request on it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from forebay_gateway.connection import ClientConnection, HttpConfig, Leaving

KEEP_ALIVE_S = 1
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Answers later than a silent connection is kept."""
    await asyncio.sleep(KEEP_ALIVE_S + 0.3)
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    config = HttpConfig(app, Leaving(), timeout_keep_alive=KEEP_ALIVE_S, log_config=None)
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: ClientConnection(config, state, {}), "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def received(port: int, *sent: bytes) -> bytes:
    """What comes back for bytes sent one after the other, until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for data in sent:
        writer.write(data)
        await writer.drain()
    async with asyncio.timeout(10 * KEEP_ALIVE_S):
        found = await reader.read()
    writer.close()
    return found


async def test_a_connection_without_a_whole_request_is_closed(port: int) -> None:
    nothing, empty_line, half_a_head = received(port), received(port, b"\r\n"), received(port, REQUEST)
    assert set(await asyncio.gather(nothing, empty_line, half_a_head)) == {b""}


async def test_a_call_is_waited_for_and_then_the_connection_is_closed(port: int) -> None:
    call, half_a_next_head = received(port, REQUEST + b"\r\n"), received(port, REQUEST + b"\r\n", REQUEST)
    for answer in await asyncio.gather(call, half_a_next_head):
        assert answer.startswith(b"HTTP/1.1 204 ")
