"""`/fn/NAME/any/path`: a function as an HTTP application, called with any method."""

import json
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from starlette.types import Receive, Scope, Send

from forebay_common import record, sigv4
from forebay_common.names import ID_PREFIX_BYTES, LATEST
from forebay_common.tlv import pack_field
from forebay_gateway import lambda_errors
from forebay_gateway.access import Access, needs_credential
from forebay_gateway.admission import EVENT, REQUEST_RESPONSE, payload_limit, size_refusal
from forebay_gateway.call_options import PLAIN, CallOptions, Once, fingerprint, key_among, read_options
from forebay_gateway.fn_answer import answer_of, cors_headers, refused, with_id
from forebay_gateway.fn_known import SPECIAL, KnownRequests
from forebay_gateway.fn_target import Target, target_of
from forebay_gateway.guard import Caller, Guard, GuardRefusal
from forebay_gateway.http_event import EventHead, Headers, HttpRequest
from forebay_gateway.http_response import JSON_TYPE, HttpAnswer, message, send_answer
from forebay_gateway.identifiers import uuid_text
from forebay_gateway.invoke import TRACE_ID_MAX_BYTES, read_wait_ms
from forebay_gateway.known_heads import Serve
from forebay_gateway.lambda_errors import REPLAYED, ClientLeft, Refusal
from forebay_gateway.quick_answer import PlainCalls
from forebay_gateway.replies import Reply
from forebay_gateway.request_body import BodyReader, declared_length
from forebay_gateway.sync_call import Connection
from forebay_gateway.table import Function, Route

PREFLIGHT_MAX_AGE_S = 600

_NO_NAME = "No function is named: the path is /fn/NAME and what the function shall see of it."


class Calls(PlainCalls, Protocol):
    """What is needed of the dispatcher (`dispatch.Dispatcher`)."""

    async def function(self, key: str) -> Function | None:
        """A function by `NAMESPACE/NAME`. Raises Refusal when that cannot be found out."""
        ...

    async def sync(
        self,
        function: Function,
        route: Route,
        payload: bytes,
        *,
        invocation_id: bytes,
        qualified: bool = False,
        extras: bytes = b"",
        asked_wait_ms: int = 0,
        once: Once | None = None,
        connection: Connection | None = None,
    ) -> Reply:
        """Run a call. Raises Refusal or ClientLeft."""
        ...

    async def accept_async(
        self,
        function: Function,
        route: Route,
        payload: bytes,
        *,
        invocation_id: bytes,
        qualified: bool = False,
        extras: bytes = b"",
        options: CallOptions = PLAIN,
        once: Once | None = None,
    ) -> bytes:
        """Queue an event; gives the id it is accepted under. Raises Refusal."""
        ...


class Options(NamedTuple):
    """What a request's headers ask of the platform; `extras` are packed fields of the record, `wait_ms` 0 is none.

    `delivery`: when, in which order and how often it is to run.
    """

    run_async: bool
    length_bytes: int
    wait_ms: int
    extras: bytes
    delivery: CallOptions


class AdmittedRequest(NamedTuple):
    """A request that may call its function; `secret` are the names of headers that the function must not see.

    `caller` is the id of its access key, "" where none is asked for.
    """

    function: Function
    route: Route
    options: Options
    body: bytes
    secret: frozenset[bytes]
    caller: str


def prefers_async(headers: Headers) -> bool:
    """Whether the client asks for `respond-async` (RFC 7240)."""
    return any(
        preference.split(b";", 1)[0].strip().lower() == b"respond-async"
        for name, value in headers
        if name == b"prefer"
        for preference in value.split(b",")
    )


def preflight_headers(headers: Headers) -> Headers | None:
    """What grants a CORS preflight all it asks for; None when the request is none."""
    asked = dict(headers)
    method = asked.get(b"access-control-request-method")
    if method is None:
        return None
    granted = [
        (b"access-control-allow-methods", method),
        (b"access-control-max-age", b"%d" % PREFLIGHT_MAX_AGE_S),
        (b"vary", b"Access-Control-Request-Method, Access-Control-Request-Headers"),
    ]
    names = asked.get(b"access-control-request-headers")
    if names is not None:
        granted.append((b"access-control-allow-headers", names))
    if asked.get(b"access-control-request-private-network") == b"true":
        granted.append((b"access-control-allow-private-network", b"true"))
    return granted


class FunctionRoute:
    """Serves `/fn`.

    `namespace` is meant by a path that names none. `access` None: nobody is asked for a credential. `on_refusal` is
    told of every page that was not let in.
    """

    def __init__(
        self,
        calls: Calls,
        guard: Guard,
        bodies: BodyReader,
        on_refusal: Callable[[GuardRefusal], None],
        *,
        namespace: str,
        access: Access | None = None,
    ) -> None:
        self._calls = calls
        self._guard = guard
        self._bodies = bodies
        self._on_refusal = on_refusal
        self._namespace = namespace
        self._access = access

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, connection: Connection | None = None
    ) -> None:
        """Serve one request that the guard's Host rule has let in."""
        invocation_id = self._calls.random.uuid()
        target = target_of(scope["raw_path"])
        try:
            function = None if target is None else await self._function(target, known_only=self._access is not None)
        except Refusal as refusal:
            await self._send(scope, send, refused(refusal), [], invocation_id)
            return
        allowed = [] if function is None else function.entry.allowed_origins
        foreign = self._guard.check_site(caller, tuple(allowed))
        if foreign is not None:
            self._on_refusal(foreign)
            answer = HttpAnswer(foreign.status, foreign.headers(), foreign.body())
            await send_answer(send, answer, scope["method"])
            return
        origin = None if self._guard.is_own_origin(caller) else caller.origin
        cors = cors_headers(origin, allowed)
        if origin is not None and scope["method"] == "OPTIONS":
            granted = preflight_headers(scope["headers"])
            if granted is not None:
                await send_answer(send, HttpAnswer(204, [*cors, *granted], b""), "OPTIONS")
                return
        try:
            if target is None:
                answer = message(404, _NO_NAME)
            else:
                request = await self._admit(scope, receive, target, function)
                invocation_id = request.function.id_prefix + invocation_id[ID_PREFIX_BYTES:]
                answer, first_id = await self._call(scope, target, request, invocation_id, connection)
                if first_id != invocation_id:
                    invocation_id = first_id
                    answer = answer._replace(headers=[*answer.headers, REPLAYED])
        except Refusal as refusal:
            answer = refused(refusal)
        except ClientLeft:
            return
        await self._send(scope, send, answer, cors, invocation_id)

    def known(self, scope: Scope, headers: Mapping[bytes, bytes]) -> Serve | None:
        """What serves further requests with the head of one that the guard's Host rule has let in; None: this does."""
        target = target_of(scope["raw_path"])
        if target is None or not SPECIAL.isdisjoint(headers):
            return None
        return KnownRequests(
            self._calls,
            self._access,
            target,
            f"{target.namespace or self._namespace}/{target.name}",
            method=scope["method"],
            raw_path=scope["raw_path"],
            query=scope["query_string"],
            server_port=(scope["server"][1] or 0) if scope["server"] else 0,
        )

    async def _function(self, target: Target, *, known_only: bool) -> Function | None:
        """The function of a path. `known_only`: who has shown no credential makes nobody look it up in Redis."""
        key = f"{target.namespace or self._namespace}/{target.name}"
        return self._calls.known_function(key) if known_only else await self._calls.function(key)

    async def _admit(
        self, scope: Scope, receive: Receive, target: Target, function: Function | None
    ) -> AdmittedRequest:
        """A request that may call its function, read whole. Raises Refusal or ClientLeft."""
        headers = sigv4.joined(scope["headers"])
        options = _options(scope["headers"], headers)
        secret: frozenset[bytes] = frozenset()
        body, caller = None, ""
        if self._access is not None:
            if needs_credential(None if function is None else function.entry):
                body, caller = await self._admitted(self._access, scope, receive, headers, target, options)
            secret = self._access.secret_headers(headers)
            function = function or await self._function(target, known_only=False)
        route = None if function is None else function.routes.get(target.qualifier or LATEST)
        if function is None or route is None:
            raise lambda_errors.not_found(f"{target.name}:{target.qualifier}" if target.qualifier else target.name)
        if body is None:
            body = await self._body(options, receive)
        return AdmittedRequest(function, route, options, body, secret, caller)

    async def _call(
        self,
        scope: Scope,
        target: Target,
        request: AdmittedRequest,
        invocation_id: bytes,
        connection: Connection | None,
    ) -> tuple[HttpAnswer, bytes]:
        """The function's answer, or the platform's word that it was accepted, and the invocation that it is of.

        Raises Refusal or ClientLeft.
        """
        function, route, options = request.function, request.route, request.options
        sent, account = _request(scope, target, request.secret), function.entry.arn.split(":")[4]
        head = EventHead(sent, function=function.entry.name, account=account)
        event = head.event(request.body, uuid_text(invocation_id), time.time())
        once = once_of(scope, target, request) if options.delivery.key else None
        qualified = bool(target.qualifier)
        if options.run_async:
            accepted_id = await self._calls.accept_async(
                function,
                route,
                event,
                invocation_id=invocation_id,
                qualified=qualified,
                extras=options.extras,
                options=options.delivery,
                once=once,
            )
            return _accepted(accepted_id), accepted_id
        reply = await self._calls.sync(
            function,
            route,
            event,
            invocation_id=invocation_id,
            qualified=qualified,
            extras=options.extras,
            asked_wait_ms=options.wait_ms,
            once=once,
            connection=connection,
        )
        return answer_of(reply), reply.first_id or invocation_id

    async def _admitted(
        self,
        access: Access,
        scope: Scope,
        receive: Receive,
        headers: Mapping[bytes, bytes],
        target: Target,
        options: Options,
    ) -> tuple[bytes, str]:
        """The body of a request whose credential lets it call the function, and whose access key that is.

        Raises Refusal or ClientLeft.
        """
        presented = access.present(headers)
        body = await self._body(options, receive)
        access.check_invoke(
            presented,
            sigv4.Request(scope["method"], scope["raw_path"], scope["query_string"], headers),
            body,
            namespace=target.namespace or self._namespace,
            name=target.name,
            arn=target.name,
        )
        return body, presented.credential.access_key_id

    async def _body(self, options: Options, receive: Receive) -> bytes:
        invocation_type = EVENT if options.run_async else REQUEST_RESPONSE
        refusal = size_refusal(options.length_bytes, invocation_type)
        if refusal is not None:
            raise refusal
        return await self._bodies.read(receive, payload_limit(invocation_type))

    async def _send(self, scope: Scope, send: Send, answer: HttpAnswer, cors: Headers, invocation_id: bytes) -> None:
        await send_answer(send, with_id(answer, cors, invocation_id), scope["method"])


def once_of(scope: Scope, target: Target, request: AdmittedRequest) -> Once:
    """What makes a request with an idempotency key run once: a repeat has the same method, path, query and body.

    Not the event that is made of it, which tells when and from where the request was sent. But whom the function takes
    its client for (`Authorization`, `Cookie`): no client is given what another was answered.
    """
    sent = (scope["method"].encode(), target.rest.encode("latin-1"), scope["query_string"], request.body)
    kind = b"fn async" if request.options.run_async else b"fn"
    headers = sigv4.joined(scope["headers"])
    client = [b"" if name in request.secret else headers.get(name, b"") for name in (b"authorization", b"cookie")]
    key = key_among(request.options.delivery.key, request.caller)
    return Once(key, fingerprint(kind, request.route.version.encode(), *sent, *client))


def _options(listed: Headers, headers: Mapping[bytes, bytes]) -> Options:
    """Read the headers, as they came and by name. Raises Refusal for a value that is none."""
    wait = headers.get(b"x-forebay-wait-ms")
    trace_id = headers.get(b"x-amzn-trace-id", b"")
    run_async = prefers_async(listed)
    return Options(
        run_async=run_async,
        length_bytes=declared_length(headers.get(b"content-length")),
        wait_ms=0 if wait is None else read_wait_ms(wait),
        extras=pack_field(record.TAG_TRACE_ID, trace_id) if 0 < len(trace_id) <= TRACE_ID_MAX_BYTES else b"",
        delivery=read_options(headers, run_async=run_async, now_ms=time.time() * 1000),
    )


def _request(scope: Scope, target: Target, secret: frozenset[bytes]) -> HttpRequest:
    """The request as its function may see it: without the headers in `secret`."""
    client, server = scope.get("client"), scope.get("server")
    return HttpRequest(
        method=scope["method"],
        prefix=target.prefix,
        raw_path=target.rest,
        query=scope["query_string"],
        http_version=scope["http_version"],
        scheme=scope["scheme"],
        headers=[header for header in scope["headers"] if header[0] not in secret],
        client_ip=client[0] if client else "",
        server_port=(server[1] or 0) if server else 0,
    )


def _accepted(invocation_id: bytes) -> HttpAnswer:
    document = json.dumps({"invocationId": uuid_text(invocation_id)}).encode()
    return HttpAnswer(202, [JSON_TYPE, (b"preference-applied", b"respond-async")], document)
