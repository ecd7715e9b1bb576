"""Requests to `/fn` whose head is known: what it says, the beginning of their events included, is made once."""

import time
from collections.abc import Mapping

from forebay_common import sigv4
from forebay_common.names import ID_PREFIX_BYTES, LATEST
from forebay_gateway.access import Access, needs_credential
from forebay_gateway.call_options import HEADERS
from forebay_gateway.connection import ClientConnection
from forebay_gateway.fn_answer import answer_of, cors_headers, refused, whole, with_id
from forebay_gateway.fn_target import Target
from forebay_gateway.http_event import EventHead, HttpRequest
from forebay_gateway.http_event import Headers as ListedHeaders
from forebay_gateway.identifiers import uuid_text
from forebay_gateway.lambda_errors import Refusal
from forebay_gateway.quick_answer import Answer, PlainCalls, QuickAnswer
from forebay_gateway.replies import Reply
from forebay_gateway.table import Function

SPECIAL = frozenset({b"origin", b"sec-fetch-site", b"prefer", b"x-amzn-trace-id", b"x-forebay-wait-ms", *HEADERS})
"""Headers that ask for anything, or tell of a page: requests with them are not served here."""


class FunctionAnswer(QuickAnswer):
    """The answer to a request of a method."""

    __slots__ = ("_cors", "_method")

    def __init__(self, calls: PlainCalls, connection: ClientConnection, method: str, cors: ListedHeaders) -> None:
        super().__init__(calls, connection)
        self._method = method
        self._cors = cors

    def answer(self, reply: Reply, invocation_id: bytes) -> Answer:
        """The function's answer."""
        return whole(with_id(answer_of(reply), self._cors, invocation_id), self._method)

    def refusal(self, refusal: Refusal, invocation_id: bytes) -> Answer:
        """The platform's."""
        return whole(with_id(refused(refusal), self._cors, invocation_id), self._method)


class KnownRequests:
    """Serves requests whose method, path and query are known, and which headers they have (none of `SPECIAL`).

    `key` is `NAMESPACE/NAME` of the function, `server_port` the port they come in on.
    """

    def __init__(
        self,
        calls: PlainCalls,
        access: Access | None,
        target: Target,
        key: str,
        *,
        method: str,
        raw_path: bytes,
        query: bytes,
        server_port: int,
    ) -> None:
        self._calls = calls
        self._access = access
        self._target = target
        self._key = key
        self._method = method
        self._raw_path = raw_path
        self._query = query
        self._server_port = server_port
        self._made: tuple[object, ...] = ()
        self._head: EventHead | None = None

    def __call__(self, connection: ClientConnection, headers: Mapping[bytes, bytes]) -> bool:
        """Serve one, as `FunctionRoute` does, without a task; False when its function is not known here."""
        calls, target = self._calls, self._target
        function = calls.known_function(self._key)
        route = None if function is None else function.routes.get(target.qualifier or LATEST)
        if function is None or route is None:
            return False
        invocation_id = function.id_prefix + calls.random.uuid()[ID_PREFIX_BYTES:]
        body = connection.whole_body() or b""
        answer = FunctionAnswer(calls, connection, self._method, cors_headers(None, function.entry.allowed_origins))
        try:
            secret = self._admitted(self._access, function, headers, body) if self._access is not None else frozenset()
            head = self._event_head(function, headers, secret, connection.client[0] if connection.client else "")
            answer.call = calls.start(
                function, route, head.event(body, uuid_text(invocation_id), time.time()), invocation_id=invocation_id,
                qualified=bool(target.qualifier), connection=connection, settlement=answer,
            )  # fmt: skip
        except Refusal as refusal:
            connection.answer(*answer.refusal(refusal, invocation_id))
        return True

    def _admitted(
        self, access: Access, function: Function, headers: Mapping[bytes, bytes], body: bytes
    ) -> frozenset[bytes]:
        """The names of the headers that the function must not see. Raises Refusal when it must not be called."""
        if needs_credential(function.entry):
            sent = sigv4.Request(self._method, self._raw_path, self._query, headers)
            name = function.entry.name
            namespace = self._key.partition("/")[0]
            access.check_invoke(access.present(headers), sent, body, namespace=namespace, name=name, arn=name)
        return access.secret_headers(headers)

    def _event_head(
        self, function: Function, headers: Mapping[bytes, bytes], secret: frozenset[bytes], client_ip: str
    ) -> EventHead:
        """The beginning of the events of requests like this one: the last one's as long as nothing in it differs."""
        made = (function.entry, headers, secret, client_ip)
        if self._head is None or made != self._made:
            target = self._target
            request = HttpRequest(
                method=self._method,
                prefix=target.prefix,
                raw_path=target.rest,
                query=self._query,
                http_version="1.1",
                scheme="http",
                headers=[header for header in headers.items() if header[0] not in secret],
                client_ip=client_ip,
                server_port=self._server_port,
            )
            account = function.entry.arn.split(":")[4]
            self._head = EventHead(request, function=function.entry.name, account=account)
            self._made = made
        return self._head
