"""Requests that begin byte for byte like one before them: what such a head says is known and is not parsed again.

A client that calls over and over sends the same request line and headers each time, except where it signs them. To
parse them, and to make of them what ASGI wants, costs more than all the rest that a gateway does for a call. The same
bytes at the same place, the beginning of a request, mean the same; whatever differs in one byte is parsed.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from forebay_gateway.connection import ClientConnection

HEAD_MAX_BYTES = 2_048
HEADS_MAX = 1_024
_END = b"\r\n\r\n"
_NEVER_TWICE = frozenset({b"x-amz-date", b"x-amzn-trace-id", b"traceparent", b"idempotency-key", b"x-request-id"})
"""Headers that differ with each request."""
_SPECIAL = frozenset({b"connection", b"transfer-encoding", b"expect", b"upgrade"})
"""Headers that say something about the connection or the body's form, which the server looks at."""

Serve = Callable[["ClientConnection"], None]
"""Begins to serve a request whose body is there (`whole_body`); the connection is given the answer later."""


class KnownHead(NamedTuple):
    """How many bytes of body follow a head, and what serves the request."""

    body_bytes: int
    serve: Serve


class KnownHeads:
    """The heads that came in on one port: elsewhere the same bytes may ask for something else."""

    def __init__(self) -> None:
        self._known: dict[bytes, KnownHead] = {}

    def match(self, data: bytes) -> tuple[KnownHead, bytes] | None:
        """What `data`, from the beginning of a request, is if it is one whole request with a known head: and its body.

        None for anything else, above all for less or more than one request.
        """
        end = data.find(_END, 0, HEAD_MAX_BYTES) + len(_END)
        known = self._known.get(data[:end])
        if known is None or len(data) - end != known.body_bytes:
            return None
        return known, data[end:]

    def learn(self, data: bytes, headers: Mapping[bytes, bytes], serve: Serve) -> None:
        """Remember the head of `data`, if it is worth it and says all: `data` has been parsed as one whole request."""
        end = data.find(_END, 0, HEAD_MAX_BYTES) + len(_END)
        length = headers.get(b"content-length", b"")
        if end < len(_END) or not length.isdigit() or len(data) - end != int(length):
            return
        if headers.keys() & _SPECIAL or headers.keys() & _NEVER_TWICE:
            return
        if len(self._known) >= HEADS_MAX:
            self._known.clear()
        self._known[data[:end]] = KnownHead(int(length), serve)
