"""What one writes first: a JSON envelope, LPUSH and BRPOP through redis-py, a reply key for each request.

`python -m benchmarks.naive serve PORT REDIS_URL` and `python -m benchmarks.naive work REDIS_URL`.
"""

import json
import sys
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import redis
import redis.asyncio
import uvicorn

QUEUE = "naive:queue"
_WAIT_S = 10


def make_app(url: str) -> Callable[..., Awaitable[None]]:
    """The gateway's part."""
    pool = redis.asyncio.BlockingConnectionPool.from_url(url, max_connections=128, timeout=_WAIT_S, socket_timeout=None)
    client = redis.asyncio.Redis(connection_pool=pool)

    async def app(
        _scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        body = (await receive()).get("body", b"")
        reply = f"naive:reply:{uuid.uuid4()}"
        await client.lpush(QUEUE, json.dumps({"reply": reply, "payload": body.decode()}))
        answer = await client.blpop([reply], timeout=_WAIT_S)
        payload = answer[1] if answer else b""
        headers = [(b"content-length", str(len(payload)).encode())]
        await send({"type": "http.response.start", "status": 200 if answer else 504, "headers": headers})
        await send({"type": "http.response.body", "body": payload})

    return app


def work(url: str) -> None:
    """The worker's part; it ends with its process."""
    client = redis.Redis.from_url(url, socket_timeout=None)
    while True:
        item = client.brpop([QUEUE], timeout=5)
        if item:
            job = json.loads(item[1])
            client.lpush(job["reply"], job["payload"])


if __name__ == "__main__":
    if sys.argv[1] == "work":
        work(sys.argv[2])
    else:
        uvicorn.run(
            make_app(sys.argv[3]), host="127.0.0.1", port=int(sys.argv[2]), loop="uvloop", http="httptools",
            access_log=False, log_level="error", lifespan="off",
        )  # fmt: skip
