"""Reading a request's body: bounded, with a deadline, and aware of a client that goes away."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from forebay_gateway import lambda_errors
from forebay_gateway.lambda_errors import ClientLeft

Receive = Callable[[], Awaitable[Any]]

DEADLINE_S = 120.0
"""For the whole of a body that did not arrive with its headers."""
BUFFERED_MAX_BYTES = 512 * 1024 * 1024
"""Bodies that are still arriving, all requests together."""


class BodyReader:
    """Reads bodies under one bound for the whole process."""

    def __init__(self, buffered_max_bytes: int = BUFFERED_MAX_BYTES, deadline_s: float = DEADLINE_S) -> None:
        self._buffered_max_bytes = buffered_max_bytes
        self._deadline_s = deadline_s
        self._buffered_bytes = 0

    async def read(self, receive: Receive, limit_bytes: int) -> bytes:
        """The whole body. Raises Refusal (above the limit, too slow, too much at once) or ClientLeft."""
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        body: bytes = message.get("body", b"")
        if len(body) > limit_bytes:
            raise lambda_errors.too_large_unread(limit_bytes)
        if not message.get("more_body", False):
            return body
        return await self._read_rest(receive, body, limit_bytes)

    async def _read_rest(self, receive: Receive, first: bytes, limit_bytes: int) -> bytes:
        parts = [first]
        size = len(first)
        self._buffered_bytes += size
        try:
            async with asyncio.timeout(self._deadline_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientLeft
                    part = message.get("body", b"")
                    parts.append(part)
                    size += len(part)
                    self._buffered_bytes += len(part)
                    if size > limit_bytes:
                        raise lambda_errors.too_large_unread(limit_bytes)
                    if self._buffered_bytes > self._buffered_max_bytes:
                        raise lambda_errors.throttled("CallerRateLimitExceeded")
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise lambda_errors.body_timed_out() from None
        finally:
            self._buffered_bytes -= size


def declared_length(value: bytes | None) -> int:
    """The request's Content-Length; 0 when it has none (the server has refused one that is no number)."""
    return int(value) if value is not None and value.isdigit() else 0
