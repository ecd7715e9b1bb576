"""Async events of a function for tests of what /v1 shows: what a gateway accepts and an instance does with it."""

import json
import secrets
from dataclasses import dataclass
from typing import Any

import httpx
from redis.asyncio import Redis

from forebay_common.frames import ERROR_FUNCTION, ERROR_NONE, ReplyFrame
from forebay_common.names import id_prefix
from forebay_common.queue import VersionQueue
from forebay_common.redis_client import command
from forebay_controller.event_json import invocation_text
from support import queue_side

INSTANCE = "0123456789abcdef"


@dataclass
class Events:
    """One function's events; ids are those that a gateway would give them."""

    redis: Redis
    queue: VersionQueue
    uid: str

    async def accept(self, payload: bytes | None = b'{"n": 1}', *, delay_ms: int = 0, **members: Any) -> str:
        """Accept an event; gives its id."""
        ident = id_prefix(self.uid) + secrets.token_bytes(12)
        record = queue_side.event(payload, invocation_id=ident, **members)
        assert await queue_side.accept(self.redis, self.queue, record, delay_ms=delay_ms) == [0, ident]
        return invocation_text(ident)

    async def lease(self, instance: str = INSTANCE) -> bytes:
        """Let an instance take the next event; gives the entry's id."""
        (entry_id,) = await queue_side.lease(self.redis, self.queue.async_, instance)
        return entry_id

    async def finish(self, entry_id: bytes, outcome: str, *, payload: bytes = b"null", **members: Any) -> None:
        """Finish an event as the instance that holds it."""
        kind = ERROR_NONE if outcome == "done" else ERROR_FUNCTION
        frame = ReplyFrame(token=bytes(16), payload=payload, error_kind=kind, duration_us=5_000)
        assert await queue_side.finish_async(
            self.redis, self.queue, entry_id, INSTANCE, outcome, frame=frame.encode(), **members
        )

    async def run(self, outcome: str = "done", *, payload: bytes = b"null", **members: Any) -> None:
        """Lease the next event and finish it."""
        await self.finish(await self.lease(), outcome, payload=payload, **members)

    async def die(self, payload: bytes = b'{"n": 1}', *, reason: str = "RetriesExhausted", **members: Any) -> str:
        """An event that ends as a dead letter; gives its id."""
        ident = await self.accept(payload, **members)
        error = json.dumps({"errorType": "ValueError", "errorMessage": f"no {payload[:20].decode()}"}).encode()
        await self.run("dead", payload=error, reason=reason)
        return ident

    async def told(self, instance: str = INSTANCE) -> list[dict[str, Any]]:
        """What an instance was told so far."""
        entries = await command(self.redis, "XRANGE", self.queue.keys.control(instance), "-", "+")
        return [json.loads(fields[b"c"]) for _, fields in entries]


def error_of(answer: httpx.Response) -> tuple[int, str, str]:
    """Status, code and text of an error."""
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]
