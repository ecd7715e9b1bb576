"""Management calls, carried unchanged to the controller over its Unix socket or its address on a cluster.

The gateway verifies and understands none of them: the controller does. Request and response bodies stream both ways
(a log that is followed never ends), and whoever leaves first ends the other side.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from uuid import uuid4

import httpx
from starlette.types import Message, Receive, Scope, Send

from forebay_common import logs
from forebay_common.limits import MANAGEMENT_REQUEST_MAX_BYTES, MIB
from forebay_gateway import counters, lambda_errors
from forebay_gateway.http_event import Headers, connection_headers
from forebay_gateway.http_response import HttpAnswer, send_answer
from forebay_gateway.lambda_errors import Refusal

CONNECT_TIMEOUT_S = 5.0
HEAD_TIMEOUT_S = 60.0
"""From the request's last byte to the response's head. What follows the head may take as long as it likes."""
BODY_SILENCE_S = 30.0
"""Between two pieces of a request's body: large ones take turns at the controller, so a stalled one holds up others."""
CALLS_MAX = 256
"""Calls under way at once; each has a connection to the controller."""
FETCH_TIMEOUT_S = 2.0
FETCH_MAX_BYTES = 4 * MIB

CONNECT_RETRIES = 2
"""Over the network: connections that were refused, as by one of several controllers that just ended."""

AWAY = (
    "The controller is not answering; nothing was changed. It is restarted within seconds: try again. "
    "If this lasts, {where} says why."
)
WHERE_LOCAL = "the output of `forebay up`"
WHERE_CLUSTER = "the controller's log (kubectl logs)"
SILENT = "The controller did not answer in time. Look at the function's state before trying again."
BROKEN = "The connection to the controller was lost. Look at the function's state before trying again."

_log = logs.get(__name__)


class _ClientLeftError(Exception):
    """The client ended its request before its body was complete."""


class _TooLargeError(Exception):
    """The request's body went above the limit while it was read."""


class _SilentClientError(Exception):
    """The client stopped sending before its body was complete."""


class Forwarder:
    """The way to the controller: a Unix socket, or with `url` (`http://HOST:PORT`) over the network.

    Every call has its own connection: none can be stale after a controller's restart, and where there are several
    controllers they share the calls.
    """

    def __init__(
        self,
        controller_socket: str = "",
        *,
        url: str = "",
        request_max_bytes: int = MANAGEMENT_REQUEST_MAX_BYTES,
        head_timeout_s: float = HEAD_TIMEOUT_S,
        body_silence_s: float = BODY_SILENCE_S,
    ) -> None:
        self._transport = httpx.AsyncHTTPTransport(
            uds=controller_socket or None,
            retries=CONNECT_RETRIES if url else 0,
            limits=httpx.Limits(max_connections=CALLS_MAX, max_keepalive_connections=0),
        )
        self._url = url or "http://controller"
        self._away = AWAY.format(where=WHERE_CLUSTER if url else WHERE_LOCAL)
        self._request_max_bytes = request_max_bytes
        self._head_timeout_s = head_timeout_s
        self._body_silence_s = body_silence_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send, *, raw_path: bytes | None = None) -> None:
        """Serve one HTTP request by the controller; `raw_path` replaces the path when it has another name there."""
        if _declared_length(scope["headers"]) > self._request_max_bytes:
            await _refuse(scope, send, self._too_large(scope))
            return
        body = _Body(receive, self._request_max_bytes, self._body_silence_s)
        exchange = asyncio.create_task(self._exchange(scope, body, send, raw_path or scope["raw_path"]))
        leaving = asyncio.create_task(body.client_left())
        try:
            await asyncio.wait((exchange, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            exchange.cancel()
            leaving.cancel()
            await asyncio.wait((exchange, leaving))
        if not exchange.cancelled():
            exchange.result()

    async def fetch(self, raw_path: bytes) -> bytes | None:
        """The body of a GET that the controller answers with 200; None when it is away or answers otherwise."""
        request = self._request("GET", raw_path, [(b"host", b"controller")], None)
        with contextlib.suppress(httpx.TransportError, TimeoutError):
            async with asyncio.timeout(FETCH_TIMEOUT_S):
                response = await self._transport.handle_async_request(request)
                async with contextlib.aclosing(response):
                    found = bytearray()
                    async for chunk in response.aiter_raw():
                        found += chunk
                        if len(found) > FETCH_MAX_BYTES:
                            return None
                    return bytes(found) if response.status_code == httpx.codes.OK else None
        return None

    async def close(self) -> None:
        """End all connections."""
        await self._transport.aclose()

    async def _exchange(self, scope: Scope, body: "_Body", send: Send, raw_path: bytes) -> None:
        target = raw_path + b"?" + scope["query_string"] if scope["query_string"] else raw_path
        dropped = connection_headers(scope["headers"])
        headers = [header for header in scope["headers"] if header[0] not in dropped]
        content = body.chunks() if _has_body(scope["headers"]) else None
        request = self._request(scope["method"], target, headers, content)
        try:
            async with asyncio.timeout(None) as deadline:
                body.deadline = deadline
                body.after_s = self._head_timeout_s
                if content is None:
                    body.ended()
                response = await self._transport.handle_async_request(request)
        except _ClientLeftError:
            return
        except _TooLargeError:
            await _refuse(scope, send, self._too_large(scope))
        except _SilentClientError:
            await _refuse(scope, send, lambda_errors.body_timed_out())
        except httpx.PoolTimeout:
            await _refuse(scope, send, lambda_errors.throttled("CallerRateLimitExceeded"))
        except httpx.LocalProtocolError:
            await _refuse(scope, send, lambda_errors.invalid_content("The request is not valid HTTP."))
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            _log.warning("the controller is not answering: %r", error)
            await _refuse(scope, send, lambda_errors.unavailable(self._away))
        except httpx.TransportError as error:
            _log.warning("the connection to the controller was lost: %r", error)
            await _refuse(scope, send, lambda_errors.unavailable(BROKEN))
        except TimeoutError:
            _log.warning("the controller did not answer in time", extra={"path": scope["path"]})
            await _refuse(scope, send, lambda_errors.unavailable(SILENT))
        else:
            async with contextlib.aclosing(response):
                await _pass_on(response, send)

    def _request(
        self, method: str, target: bytes, headers: Headers, content: AsyncGenerator[bytes, None] | None
    ) -> httpx.Request:
        """A request whose target goes out as it is: `httpx.URL` would spell its escapes its own way."""
        timeout = {"connect": CONNECT_TIMEOUT_S, "pool": CONNECT_TIMEOUT_S, "read": None, "write": None}
        extensions = {"target": target, "timeout": timeout}
        return httpx.Request(method, self._url, headers=headers, content=content, extensions=extensions)

    def _too_large(self, scope: Scope) -> Refusal:
        operation = _UPLOADS.get((scope["method"], scope["path"].rpartition("/")[2]), "")
        text = f"Request must be smaller than {self._request_max_bytes} bytes"
        return Refusal(
            413,
            "RequestEntityTooLargeException",
            f"{text} for the {operation} operation" if operation else text,
            counters.REJECTED,
        )


_UPLOADS = {("POST", "functions"): "CreateFunction", ("PUT", "code"): "UpdateFunctionCode"}
"""Operations whose requests are large, by method and the path's last segment; AWS's text names them."""


class _Body:
    """A request's body as it arrives, bounded; once it is complete, the client's leaving."""

    def __init__(self, receive: Receive, max_bytes: int, silence_s: float) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._silence_s = silence_s
        self._complete = asyncio.Event()
        self.deadline: asyncio.Timeout | None = None
        self.after_s = 0.0

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body's pieces. Raises _ClientLeftError, _TooLargeError and _SilentClientError."""
        size = 0
        while True:
            message = await self._next()
            if message["type"] == "http.disconnect":
                raise _ClientLeftError
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._max_bytes:
                raise _TooLargeError
            if chunk:
                yield chunk
            if not message.get("more_body", False):
                break
        self.ended()

    async def _next(self) -> Message:
        try:
            async with asyncio.timeout(self._silence_s):
                return await self._receive()
        except TimeoutError:
            raise _SilentClientError from None

    def ended(self) -> None:
        """The request is complete: from now on the response's head is waited for."""
        self._complete.set()
        if self.deadline is not None:
            self.deadline.reschedule(asyncio.get_running_loop().time() + self.after_s)

    async def client_left(self) -> None:
        """Wait until the client closes its connection after a complete request."""
        await self._complete.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _declared_length(headers: Headers) -> int:
    """The Content-Length; 0 when there is none (the HTTP server has refused those that are no number)."""
    return next((int(value) for name, value in headers if name == b"content-length"), 0)


def _has_body(headers: Headers) -> bool:
    return _declared_length(headers) > 0 or any(name == b"transfer-encoding" for name, _ in headers)


_SERVERS = frozenset({b"date", b"server"})
"""Headers that each HTTP server adds of its own; the gateway's does too."""


async def _pass_on(response: httpx.Response, send: Send) -> None:
    """Send the controller's response. When it breaks off, the client's connection does too: it must not look whole."""
    raw = [(name.lower(), value) for name, value in response.headers.raw]
    dropped = connection_headers(raw)
    headers = [header for header in raw if header[0] not in dropped and header[0] not in _SERVERS]
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    try:
        async for chunk in response.aiter_raw():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    except httpx.TransportError as error:
        _log.warning("the controller broke off its response: %r", error)
        return
    await send({"type": "http.response.body", "body": b""})


async def _refuse(scope: Scope, send: Send, refusal: Refusal) -> None:
    headers = [*refusal.headers(), (b"x-amzn-requestid", str(uuid4()).encode())]
    await send_answer(send, HttpAnswer(refusal.status, headers, refusal.body()), scope["method"])
