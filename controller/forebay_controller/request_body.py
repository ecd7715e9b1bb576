"""Reading request bodies within a bound, few large ones at a time: each is held several times over while it is read."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request
from starlette.types import Scope

from forebay_common import limits

LARGE_BYTES = limits.MIB
LARGE_AT_ONCE = 2
_DRAIN_FACTOR = 4
"""How much more than the bound is read and thrown away: a client that still sends does not read the answer."""


_KEPT = "forebay_body"


def with_body(scope: Scope, body: bytes) -> Scope:
    """A request whose body was read already, for whoever reads it again."""
    return {**scope, "state": {**scope.get("state", {}), _KEPT: body}}


class BodyTooLargeError(Exception):
    """The body is above the bound for a request."""


class RequestBodies:
    """One process's request bodies."""

    def __init__(self) -> None:
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """A body, to be used inside the `with`; large ones wait for each other.

        Raises BodyTooLargeError, starlette.requests.ClientDisconnect.
        """
        kept: bytes | None = request.scope.get("state", {}).get(_KEPT)
        if kept is not None:
            yield kept
            return
        length = request.headers.get("content-length", "0")
        # A body in chunks has no length: it may be anything.
        if "transfer-encoding" not in request.headers and length.isdecimal() and int(length) <= LARGE_BYTES:
            yield await _read(request, LARGE_BYTES)
        else:
            async with self._large:
                yield await _read(request, limits.MANAGEMENT_REQUEST_MAX_BYTES)


async def _read(request: Request, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size <= max_bytes:
            parts.append(part)
        elif size > max_bytes * _DRAIN_FACTOR:
            break
    if size > max_bytes:
        raise BodyTooLargeError
    return b"".join(parts)
