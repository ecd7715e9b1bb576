"""A client's connection: uvicorn's, with what a waiting call needs and a short way for whole bodies and answers.

ASGI's own ways cost too much on the hot path: hearing of a client that leaves takes a second task for each call, and
`receive` and `send` take four coroutines and a look at each header by regular expressions, a quarter of a call. What
is used here of uvicorn's request cycle are the members its own `receive` and `send` use; its version is pinned.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

if TYPE_CHECKING:
    from forebay_gateway.sync_call import SyncCall

HEAD_MAX_BYTES = 128 * 1024
"""Request line and headers together; the HTTP parser itself has no bound."""


class Leaving:
    """Whether the process was told to stop: it may serve on for a while, but wants its clients to go elsewhere."""

    __slots__ = ("begun",)

    def __init__(self) -> None:
        self.begun = False


class HttpConfig(Config):
    """uvicorn's configuration, with what all connections must know of the process."""

    def __init__(self, app: Callable[..., Any], leaving: Leaving, **settings: Any) -> None:
        super().__init__(app, http=ClientConnection, interface="asgi3", ws="none", lifespan="off", **settings)
        self.leaving = leaving


class ClientConnection(HttpToolsProtocol):
    """One client's connection. The request finds it as `scope["state"]["connection"]`.

    `call` is the call that waits, which is told when the client goes; `lost` stays true after that.
    """

    config: HttpConfig

    def __init__(self, config: HttpConfig, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.app_state = {**app_state, "connection": self}
        self.call: SyncCall | None = None
        self.lost = False
        self._head_bytes = 0
        self._answering: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        self._expect_more()

    def data_received(self, data: bytes) -> None:
        """Parse, and give up on headers without end."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._expect_more()
        if self.scope is None or (self.cycle is not None and self.cycle.scope is self.scope):
            self._head_bytes = 0
            return
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_MAX_BYTES:
            self.transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\r\n")
            self.transport.close()

    def _expect_more(self) -> None:
        """Close the connection if nothing comes for as long as one is kept between requests.

        uvicorn's own timer, which it sets after a response only: a client that sent half a head, or nothing, could
        stay for ever.
        """
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self.lost = True
        if self.call is not None:
            self.call.left()
        super().connection_lost(exc)

    def whole_body(self) -> bytes | None:
        """The body of the request being answered, if all of it is here; else it must be received."""
        cycle = self._answering
        if cycle is None or cycle.more_body or cycle.disconnected:
            return None
        body = bytes(cycle.body)
        cycle.body.clear()
        return body

    async def respond(self, status: int, head: bytes, body: bytes) -> None:
        """Send a whole answer. `head` are its header lines, which must be known to be well-formed."""
        cycle = self._answering
        assert cycle is not None
        if self.flow.write_paused and not self.lost:
            await self.flow.drain()
        if cycle.disconnected:
            return
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        ours = b"".join([b"%b: %b\r\n" % header for header in cycle.default_headers])
        if not cycle.keep_alive:
            ours += b"connection: close\r\n"
        self.transport.write(b"".join((STATUS_LINE[status], ours, head, b"\r\n", body)))
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        # Pipelined requests have cycles of their own; this one's turn has come.
        self._answering = cycle
        if self.config.leaving.begun:
            # The client's next request shall not meet the moment when idle connections are closed.
            cycle.keep_alive = False
        super()._start_asgi_task(cycle, app)
