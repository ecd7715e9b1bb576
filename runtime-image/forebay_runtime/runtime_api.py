"""Lambda's Runtime API on loopback, one listener for each slot, so that it is known which process a call belongs to.

Answers as AWS gives them: 202 for what is taken, 400 InvalidRequestID for a call that is not this process's, 403
InvalidStateTransition for a step out of order, 413 for a result above the quota. `awslambdaric` crashes on /next
without a Content-Type, and takes any but exactly `application/json` for bytes.
"""

from __future__ import annotations

from forebay_common.limits import RESPONSE_MAX_BYTES
from forebay_runtime.http_wire import HttpError, RequestParser, response
from forebay_runtime.lean import accept, quote, socket
from forebay_runtime.loop import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from forebay_runtime.http_wire import Request
    from forebay_runtime.loop import Loop

PREFIX = "/2018-06-01/runtime/"
CLOSES_AT_ONCE_S = 1.0
"""A client that connects for each request closes its connection with the answer, not in the midst of a call."""
KEEPING_CLIENTS = "aws-lambda-"
"""How AWS's own clients name themselves (aws-lambda-python/…, -nodejs/…, -go/…): they keep their connection."""
_CONNECTIONS_MAX = 64
_READ_BYTES = 256 * 1024
_STATUS_OK = b'{"status":"OK"}'

_STARTING = "starting"
_WAITING = "waiting"
_RUNNING = "running"
_ANSWERED = "answered"
_FAILED = "failed"


class SlotApi:
    """One slot's server.

    States: starting until the first /next, then waiting (a /next is open), running, answered (its result is in and
    no /next has come yet); failed after /init/error.
    """

    def __init__(
        self,
        loop: Loop,
        on_init_done: Callable[[], None],
        on_init_error: Callable[[bytes], None],
        on_result: Callable[[bool, bytes], None],
        on_too_large: Callable[[], None],
        on_waiting: Callable[[], None],
        *,
        port: int = 0,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        """`port` 0 takes any.

        `on_lost` is told when the program closed the connection of its open /next, or the one on which it got the
        call that runs, other than as clients do that connect for each request: it may be gone. Raises OSError.
        """
        self._loop = loop
        self._on_init_done = on_init_done
        self._on_init_error = on_init_error
        self._on_result = on_result
        self._on_too_large = on_too_large
        self._on_waiting = on_waiting
        self._on_lost = on_lost
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.bind(("127.0.0.1", port))
        self._listener.listen(_CONNECTIONS_MAX)
        self._listener.setblocking(False)
        self._connections: list[_Connection] = []
        self._asking: _Connection | None = None
        self._running: _Connection | None = None
        self._answers_where_it_asks = False
        self._answered_at = 0.0
        self._state = _STARTING
        self._request_id = ""
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        loop.watch(self._listener.fileno(), self._on_connection)

    @property
    def waits(self) -> bool:
        """Whether a /next is open that a call can answer."""
        return self._asking is not None

    def reset(self) -> None:
        """The process is gone; the next one starts from the beginning."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        self._asking = self._running = None
        self._state = _STARTING
        self._request_id = ""

    def invoke(
        self, request_id: str, deadline_ms: int, arn: bytes, client_context: bytes, trace_id: bytes, payload: bytes
    ) -> None:
        """Answer the open /next with a call."""
        if self._asking is None:
            raise RuntimeError("no /next is open")
        headers = [
            ("Lambda-Runtime-Aws-Request-Id", request_id.encode()),
            ("Lambda-Runtime-Deadline-Ms", str(deadline_ms).encode()),
            ("Lambda-Runtime-Invoked-Function-Arn", arn),
            ("Lambda-Runtime-Trace-Id", trace_id),
        ]
        if client_context:
            headers.append(("Lambda-Runtime-Client-Context", client_context))
        self._answered_at = self._loop.now
        asking = self._running = self._asking
        self._asking = None
        self._state = _RUNNING
        self._request_id = request_id
        asking.send(response("200 OK", payload, tuple(headers)))

    def forget(self, connection: _Connection) -> None:
        """A connection has ended."""
        if connection in self._connections:
            self._connections.remove(connection)
        in_use = self._answers_where_it_asks or self._loop.now > self._answered_at + CLOSES_AT_ONCE_S
        lost = self._asking is connection or (self._running is connection and in_use)
        if self._running is connection:
            self._running = None
        if self._asking is connection:
            self._asking = None
            self._state = _ANSWERED
        if lost and self._on_lost is not None:
            self._on_lost()

    def handle(self, connection: _Connection, request: Request) -> None:
        """Answer a request, or keep it open."""
        action = request.path.removeprefix(PREFIX)
        if (request.method, action) == ("GET", "invocation/next"):
            self._next(connection, request)
        elif (request.method, action) == ("POST", "init/error"):
            self._init_error(connection, request)
        elif request.method == "POST" and action.startswith("invocation/"):
            self._result(connection, request, action.removeprefix("invocation/"))
        else:
            connection.send(_error("404 Not Found", "UnknownResource", f"no resource {request.path}"))

    def _on_connection(self, _: int) -> None:
        try:
            fd, _address = accept(self._listener)
        except OSError:
            # It has gone away again.
            return
        if len(self._connections) >= _CONNECTIONS_MAX:
            self._connections.pop(0).close()
        self._connections.append(_Connection(self._loop, socket.socket(fileno=fd), self))

    def _next(self, connection: _Connection, request: Request) -> None:
        if self._state in {_RUNNING, _FAILED} or (self._asking is not None and self._asking is not connection):
            connection.send(_invalid_state(f"/next while {self._state}"))
            return
        first = self._state == _STARTING
        self._running = None
        if first and request.headers.get("user-agent", "").startswith(KEEPING_CLIENTS):
            self._answers_where_it_asks = True
        self._state = _WAITING
        self._asking = connection
        if first:
            self._on_init_done()
        else:
            self._on_waiting()

    def _init_error(self, connection: _Connection, request: Request) -> None:
        if self._state != _STARTING:
            connection.send(_invalid_state(f"/init/error while {self._state}"))
            return
        self._state = _FAILED
        connection.send(response("202 Accepted", _STATUS_OK))
        self._on_init_error(_error_document(request))

    def _result(self, connection: _Connection, request: Request, rest: str) -> None:
        request_id, _, kind = rest.partition("/")
        if kind not in {"response", "error"}:
            connection.send(_error("404 Not Found", "UnknownResource", f"no resource {request.path}"))
        elif not self._request_id or request_id != self._request_id:
            connection.send(_error("400 Bad Request", "InvalidRequestID", "Invalid request ID"))
        elif self._state != _RUNNING:
            connection.send(_invalid_state(f"/{kind} while {self._state}"))
        else:
            self._state = _ANSWERED
            self._answers_where_it_asks = self._running is connection
            self._answer(connection, request, failed=kind == "error")

    def _answer(self, connection: _Connection, request: Request, *, failed: bool) -> None:
        if request.too_large:
            message = f"Exceeded maximum allowed payload size ({RESPONSE_MAX_BYTES} bytes)."
            connection.send(_error("413 Payload Too Large", "RequestEntityTooLarge", message))
            self._on_too_large()
            return
        connection.send(response("202 Accepted", _STATUS_OK))
        if failed:
            self._on_result(True, _error_document(request))
        elif "lambda-runtime-function-error-type" in request.headers:
            # The trailer of a streamed response that failed on its way.
            self._on_result(True, _streaming_error(request))
        else:
            self._on_result(False, request.body)


class _Connection:
    """One connection of the function's process."""

    __slots__ = ("_api", "_fd", "_loop", "_output", "_parser", "_socket")

    def __init__(self, loop: Loop, connection: socket.socket, api: SlotApi) -> None:
        self._loop = loop
        self._socket = connection
        self._api = api
        self._fd = connection.fileno()
        self._parser = RequestParser(RESPONSE_MAX_BYTES)
        self._output: list[bytes | memoryview] = []
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop.watch(self._fd, self._on_event)

    def send(self, data: bytes) -> None:
        """Send now what the socket takes, the rest when it takes more."""
        self._output.append(data)
        if len(self._output) == 1:
            self._write()

    def close(self) -> None:
        """Let go of the connection without telling anybody."""
        if self._fd >= 0:
            self._loop.unwatch(self._fd)
            self._socket.close()
            self._fd = -1

    def _on_event(self, event: int) -> None:
        if event & WRITE:
            self._write()
        if event & ~WRITE and self._fd >= 0:
            self._receive()

    def _write(self) -> None:
        while self._output and self._fd >= 0:
            data = self._output[0]
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._end()
                return
            if sent < len(data):
                self._output[0] = memoryview(data)[sent:]
                self._loop.change(self._fd, READ | WRITE)
                return
            del self._output[0]
        if self._fd >= 0:
            self._loop.change(self._fd, READ)

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end()
            return
        self._parser.feed(data)
        try:
            while (request := self._parser.next()) is not None and self._fd >= 0:
                self._api.handle(self, request)
            if self._parser.wants_continue():
                self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        except HttpError as error:
            self.send(_error("400 Bad Request", "BadRequest", str(error)))
            self._end()

    def _end(self) -> None:
        self.close()
        self._api.forget(self)


def _error(status: str, error_type: str, message: str) -> bytes:
    return response(status, f'{{"errorMessage":{quote(message)},"errorType":{quote(error_type)}}}'.encode())


def _invalid_state(message: str) -> bytes:
    return _error("403 Forbidden", "InvalidStateTransition", f"State transition is not allowed: {message}")


def _error_document(request: Request) -> bytes:
    """The error as the process sent it; when it sent none, the type from the header."""
    if request.body:
        return request.body
    error_type = request.headers.get("lambda-runtime-function-error-type", "Runtime.Unknown")
    return f'{{"errorType":{quote(error_type)},"errorMessage":""}}'.encode()


def _streaming_error(request: Request) -> bytes:
    from base64 import b64decode  # noqa: PLC0415 - only for a streamed response that failed

    try:
        document = b64decode(request.headers.get("lambda-runtime-function-error-body", ""), validate=True)
    except ValueError:
        document = b""
    request.body = document
    return _error_document(request)
