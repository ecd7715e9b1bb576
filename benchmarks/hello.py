"""The floor: a raw ASGI POST echo on uvicorn, `python -m benchmarks.hello PORT`; `/sleep` takes a millisecond."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Answer a request with its own body."""
    # Joined once: adding them up would copy a large body again and again.
    pieces = []
    more = True
    while more:
        message = await receive()
        pieces.append(message.get("body", b""))
        more = message.get("more_body", False)
    body = b"".join(pieces)
    if scope["path"] == "/sleep":
        await asyncio.sleep(0.001)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    uvicorn.run(
        app, host="127.0.0.1", port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False,
        log_level="error", lifespan="off",
    )  # fmt: skip
