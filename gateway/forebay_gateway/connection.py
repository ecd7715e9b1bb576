"""A client's connection: uvicorn's, with what a waiting call needs and a short way for whole bodies and answers.

ASGI's own ways cost too much on the hot path: hearing of a client that leaves takes a second task for each call, and
`receive` and `send` take four coroutines and a look at each header by regular expressions, a quarter of a call. What
is used here of uvicorn's request cycle are the members its own `receive` and `send` use; its version is pinned.

A request whose head is known (`known_heads.py`) has no cycle at all; `_known_body` is its body while it is served.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from forebay_common import logs
from forebay_gateway.known_heads import Headers, KnownHead, KnownHeads, Serve

if TYPE_CHECKING:
    from forebay_gateway.sync_call import SyncCall

HEAD_MAX_BYTES = 128 * 1024
"""Request line and headers together; the HTTP parser itself has no bound."""
_LEARNT_MAX_BYTES = 16 * 1024
"""From a request above this nothing is learnt, so that it need not be kept."""
_HELD_MAX_BYTES = 64 * 1024
"""Of what comes before the request that is served has been answered; beyond it nothing is read."""
_FAILED = b"content-type: application/json\r\ncontent-length: %d\r\n"
_FAILED_BODY = b'{"Type":"Service","message":"Internal error"}'

_log = logs.get(__name__)


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
        self._heads: dict[int, KnownHeads] = {}
        self._own: tuple[Any, bytes] = (None, b"")

    def heads_at(self, port: int) -> KnownHeads:
        """The heads known on a port."""
        return self._heads.setdefault(port, KnownHeads())

    def own_lines(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """The header lines of the server itself, `headers`, which is another list each second."""
        if headers is not self._own[0]:
            self._own = headers, b"".join([b"%b: %b\r\n" % header for header in headers])
        return self._own[1]


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
        self._between = True
        self._whole = b""
        self._known_body: bytes | None = None
        self._held: list[bytes] = []
        self._closes = False
        self._answered_s = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        self._heads = self.config.heads_at(self.server[1] or 0 if self.server else 0)
        self._expect_more()

    def data_received(self, data: bytes) -> None:
        """Serve at once what is known; parse the rest, and give up on headers without end."""
        if self._known_body is not None:
            self._hold(data)
            return
        self._whole = b""
        if self._between and (self.cycle is None or self.cycle.response_complete) and not self.config.leaving.begun:
            found = self._heads.match(data)
            if found is not None and self._serve(*found):
                return
            if len(data) <= _LEARNT_MAX_BYTES:
                self._whole = data
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

    def on_message_begin(self) -> None:
        """A request's first byte: until its last one the parser must have all that comes."""
        self._between = False
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """A request's last byte."""
        self._between = True
        super().on_message_complete()

    def learn(self, headers: Headers, serve: Serve) -> None:
        """The request that is being answered: requests that begin like it may be given to `serve` at once."""
        whole, self._whole = self._whole, b""
        if whole:
            self._heads.learn(whole, headers, serve)

    def shutdown(self) -> None:
        """The server stops: close now, or after the answer."""
        if self._known_body is None:
            super().shutdown()
        else:
            self._closes = True

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection unless requests with known heads have come, which set no timers of their own."""
        rest_s = self._answered_s + self.timeout_keep_alive - self.loop.time()
        if self._known_body is not None or rest_s > 0:
            wait_s = max(rest_s, 1.0)
            self.timeout_keep_alive_task = self.loop.call_later(wait_s, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def run(self, serving: Coroutine[Any, Any, None]) -> None:
        """Serve the request whose head is known in a task."""
        self.tasks.add(self.loop.create_task(self._run(serving)))

    def answer(self, status: int, head: bytes, body: bytes) -> None:
        """Send the whole answer to the request whose head is known, as `respond` does."""
        self._known_body = None
        if self.lost:
            return
        self.server_state.total_requests += 1
        self._answered_s = self.loop.time()
        ours = self.config.own_lines(self.server_state.default_headers)
        if self._closes or self.config.leaving.begun:
            ours += b"connection: close\r\n"
            self._closes = True
        self.transport.write(b"".join((STATUS_LINE[status], ours, head, b"\r\n", body)))
        if self._closes:
            self.transport.close()
        elif self._held:
            held, self._held = self._held, []
            self.flow.resume_reading()
            self.data_received(b"".join(held))

    def fail(self) -> None:
        """A mistake of ours, which is being handled: say it in the log, and to this client alone."""
        _log.exception("a request could not be served")
        if self._known_body is not None:
            self._closes = True
            self.answer(500, _FAILED % len(_FAILED_BODY), _FAILED_BODY)

    def _serve(self, known: KnownHead, body: bytes) -> bool:
        self._known_body = body
        try:
            served = known.serve(self, known.headers)
        except Exception:  # noqa: BLE001 - a mistake of ours
            self.fail()
            return True
        if not served:
            self._known_body = None
        return served

    async def _run(self, serving: Coroutine[Any, Any, None]) -> None:
        try:
            await serving
        except Exception:  # noqa: BLE001 - a mistake of ours
            self.fail()
        finally:
            task = asyncio.current_task(self.loop)
            assert task is not None
            self.tasks.discard(task)

    def _hold(self, data: bytes) -> None:
        """Keep what comes too early for after the answer."""
        self._held.append(data)
        if sum(map(len, self._held)) > _HELD_MAX_BYTES:
            self.flow.pause_reading()

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
        if self._known_body is not None:
            return self._known_body
        cycle = self._answering
        if cycle is None or cycle.more_body or cycle.disconnected:
            return None
        body = bytes(cycle.body)
        cycle.body.clear()
        return body

    async def respond(self, status: int, head: bytes, body: bytes) -> None:
        """Send a whole answer. `head` are its header lines, which must be known to be well-formed."""
        cycle = self._answering
        if self.flow.write_paused and not self.lost:
            await self.flow.drain()
        if self._known_body is not None:
            self.answer(status, head, body)
            return
        assert cycle is not None
        if cycle.disconnected:
            return
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        ours = self.config.own_lines(cycle.default_headers)
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
