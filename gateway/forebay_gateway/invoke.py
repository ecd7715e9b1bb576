"""Lambda's Invoke: `POST /2015-03-31/functions/{FunctionName}/invocations`, in raw ASGI since it is the hot path."""

import base64
import binascii
import json
import re
import time
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple
from urllib.parse import parse_qs, unquote_to_bytes

from starlette.types import Message

from forebay_common import limits, record, sigv4
from forebay_common.credentials import Presented
from forebay_common.names import ID_PREFIX_BYTES, LATEST, function_arn, parse_reference
from forebay_common.tlv import pack_field
from forebay_gateway import admission, lambda_errors
from forebay_gateway.access import Access, needs_credential
from forebay_gateway.areas import INVOKE_END, INVOKE_START, split_namespace
from forebay_gateway.call_options import HEADERS, PLAIN, CallOptions, Once, fingerprint, key_among, read_options
from forebay_gateway.connection import ClientConnection
from forebay_gateway.dispatch import Dispatcher
from forebay_gateway.invoke_answer import (
    REPLAYED_LINE,
    STATUS_ACCEPTED,
    STATUS_DRY_RUN,
    STATUS_OK,
    InvokeAnswer,
    answered,
    refused,
    reply_head,
    whole_head,
)
from forebay_gateway.known_heads import Serve
from forebay_gateway.lambda_errors import ClientLeft, Refusal
from forebay_gateway.payload_check import json_problem
from forebay_gateway.request_body import BodyReader, Receive, declared_length
from forebay_gateway.table import Function, Route

DRY_RUN = "DryRun"
INVOCATION_TYPES = {
    b"Event": admission.EVENT,
    b"RequestResponse": admission.REQUEST_RESPONSE,
    b"DryRun": DRY_RUN,
}
LOG_TYPES = (b"None", b"Tail")
NAME_MAX_CHARS = 256
NAME_PATTERN = (
    r"(arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?(function:)?"
    r"([a-zA-Z0-9-_\.]+)(:(\$LATEST(\.PUBLISHED)?|[a-zA-Z0-9-_]+))?"
)
"""The service model's pattern of FunctionName; a test compares the two."""
QUALIFIER_PATTERN = r"\$(LATEST(\.PUBLISHED)?)|[a-zA-Z0-9-_$]+"
QUALIFIER_MAX_CHARS = 128
TRACE_ID_MAX_BYTES = 512
EMPTY_EVENT = b"{}"

_TARGETS_MAX = 4_096
_TARGET_MAX_BYTES = 256
"""How many paths are remembered, and how long one with its query may be."""
_NAME = re.compile(NAME_PATTERN)
_QUALIFIER = re.compile(QUALIFIER_PATTERN)
_UNSUPPORTED = {
    b"x-amz-durable-execution-name": "DurableExecutionName",
    b"x-amz-tenant-id": "TenantId",
}
"""Members of Invoke that this release does not have: refused, since ignoring them would change what they promise."""
_SMALL_BYTES = min(limits.ASYNC_REQUEST_MAX_BYTES, limits.SYNC_REQUEST_MAX_BYTES)
"""Up to here a body is within every limit."""


class Target(NamedTuple):
    """Whom a call is for; `arn` as called, with the qualifier only if the caller used one. `key`: `NAMESPACE/NAME`."""

    namespace: str
    name: str
    key: str
    version: str
    qualified: bool
    arn: str


class Request(NamedTuple):
    """What an Invoke's headers ask for; `extras` are packed fields of the record."""

    invocation_type: str
    log_tail: bool
    extras: bytes
    wait_ms: int
    options: CallOptions = PLAIN


_PLAIN = Request(admission.REQUEST_RESPONSE, log_tail=False, extras=b"", wait_ms=0)
_SPECIAL = frozenset(
    {
        b"x-amz-invocation-type",
        b"x-amz-log-type",
        b"x-amz-client-context",
        b"x-amzn-trace-id",
        b"x-forebay-wait-ms",
        *HEADERS,
        *_UNSUPPORTED,
    }
)
"""Headers that ask for anything; a request without them is `_PLAIN`."""


class InvokeHandler:
    """Serves Invoke; one for the process.

    `namespace` is meant by a path that names none. `access` None: nobody is asked for a credential.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        bodies: BodyReader,
        *,
        region: str,
        account: str,
        namespace: str,
        access: Access | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._bodies = bodies
        self._region = region
        self._account = account
        self._namespace = namespace
        self._access = access
        self._targets: dict[tuple[bytes, bytes], Target] = {}

    async def __call__(
        self,
        connection: ClientConnection,
        raw_path: bytes,
        query: bytes,
        headers: Mapping[bytes, bytes],
        receive: Receive,
    ) -> None:
        """Answer one request whose path is an Invoke's; `headers` has each name once.

        One coroutine for the common case: each one more is paid for twice a call, on the way in and on the way back.
        """
        dispatcher = self._dispatcher
        invocation_id = dispatcher.random.uuid()
        try:
            target = self._target(raw_path, query)
            request = _PLAIN if _SPECIAL.isdisjoint(headers) else read_request(headers)
            function = dispatcher.known_function(target.key)
            payload, caller = None, ""
            if self._access is not None and needs_credential(None if function is None else function.entry):
                presented = self._access.present(headers)
                payload = await self._body(connection, headers, receive, request.invocation_type)
                sent = sigv4.Request("POST", raw_path, query, headers)
                caller = self._admitted(self._access, presented, sent, payload, target)
            if function is None:
                function = await self._function(target)
            invocation_id = function.id_prefix + invocation_id[ID_PREFIX_BYTES:]
            route = function.routes.get(target.version)
            if route is None:
                raise function.counted(lambda_errors.not_found(target.arn))
            if payload is None:
                payload = await self._payload(function, connection, headers, receive, request.invocation_type)
            else:
                payload = checked_json(function, payload)
            once = once_of(request, target, payload, caller) if request.options.key else None
            if request.invocation_type != admission.REQUEST_RESPONSE:
                status, accepted_id = await self._other(function, route, target, request, once, payload, invocation_id)
                head, body = b"", b""
            else:
                reply = await dispatcher.sync(
                    function,
                    route,
                    payload,
                    invocation_id=invocation_id,
                    qualified=target.qualified,
                    log_tail=request.log_tail,
                    extras=request.extras,
                    asked_wait_ms=request.wait_ms,
                    once=once,
                    connection=connection,
                )
                status, head, body = STATUS_OK, reply_head(reply, log_tail=request.log_tail), reply.payload
                accepted_id = reply.first_id or invocation_id
            if accepted_id != invocation_id:
                invocation_id, head = accepted_id, head + REPLAYED_LINE
        except Refusal as refusal:
            status, head, body = refused(refusal, invocation_id)
        except ClientLeft:
            return
        await connection.respond(status, whole_head(status, head, body, invocation_id), body)

    def known(self, raw_path: bytes, query: bytes, headers: Mapping[bytes, bytes]) -> Serve:
        """What serves further requests with the head that says this; such a head always has the same names."""
        if _SPECIAL.isdisjoint(headers):
            return partial(self._quick, raw_path, query)
        return partial(self._slow, raw_path, query)

    def _slow(
        self, raw_path: bytes, query: bytes, connection: ClientConnection, headers: Mapping[bytes, bytes]
    ) -> bool:
        connection.run(self(connection, raw_path, query, headers, _nothing_to_receive))
        return True

    def _quick(
        self, raw_path: bytes, query: bytes, connection: ClientConnection, headers: Mapping[bytes, bytes]
    ) -> bool:
        """Serve a plain call as `__call__` does, without a task: one is a quarter of what is left of a call here."""
        dispatcher = self._dispatcher
        invocation_id = dispatcher.random.uuid()
        try:
            target = self._target(raw_path, query)
            function = dispatcher.known_function(target.key)
            route = None if function is None else function.routes.get(target.version)
            if function is None or route is None:
                return self._slow(raw_path, query, connection, headers)
            body = connection.whole_body() or b""
            if self._access is not None and needs_credential(function.entry):
                sent = sigv4.Request("POST", raw_path, query, headers)
                self._admitted(self._access, self._access.present(headers), sent, body, target)
            invocation_id = function.id_prefix + invocation_id[ID_PREFIX_BYTES:]
            answer = InvokeAnswer(dispatcher, connection)
            answer.call = dispatcher.start(
                function, route, checked_json(function, body), invocation_id=invocation_id,
                qualified=target.qualified, connection=connection, settlement=answer,
            )  # fmt: skip
        except Refusal as refusal:
            connection.answer(*answered(*refused(refusal, invocation_id), invocation_id))
        return True

    async def _function(self, target: Target) -> Function:
        """A function that is not in the table here, asked for. Raises Refusal."""
        function = await self._dispatcher.function(target.key)
        if function is None:
            raise lambda_errors.not_found(target.arn)
        return function

    async def _other(
        self,
        function: Function,
        route: Route,
        target: Target,
        request: Request,
        once: Once | None,
        payload: bytes,
        invocation_id: bytes,
    ) -> tuple[int, bytes]:
        """Do an Event or a DryRun; gives the status of an answer without a body, and the invocation. Raises Refusal."""
        if request.invocation_type == DRY_RUN:
            refusal = admission.state_refusal(function.entry)
            if refusal is not None:
                raise function.counted(refusal)
            return STATUS_DRY_RUN, invocation_id
        accepted_id = await self._dispatcher.accept_async(
            function,
            route,
            payload,
            invocation_id=invocation_id,
            qualified=target.qualified,
            extras=request.extras,
            options=request.options,
            once=once,
        )
        return STATUS_ACCEPTED, accepted_id

    def _target(self, raw_path: bytes, query: bytes) -> Target:
        """Whom a path is for; clients call few names often, so the answer is kept. Raises Refusal."""
        found = self._targets.get((raw_path, query))
        if found is None:
            namespace, path = split_namespace(raw_path)
            segment = path[len(INVOKE_START) : -len(INVOKE_END)]
            found = parse_target(namespace or self._namespace, segment, query, self._region, self._account)
            if len(raw_path) + len(query) <= _TARGET_MAX_BYTES:
                if len(self._targets) >= _TARGETS_MAX:
                    self._targets.clear()
                self._targets[raw_path, query] = found
        return found

    def _admitted(self, access: Access, presented: Presented, sent: sigv4.Request, body: bytes, target: Target) -> str:
        """The access key of a request whose credential lets it call the function. Raises Refusal."""
        access.check_invoke(presented, sent, body, namespace=target.namespace, name=target.name, arn=target.arn)
        return presented.credential.access_key_id

    async def _payload(
        self,
        function: Function,
        connection: ClientConnection,
        headers: Mapping[bytes, bytes],
        receive: Receive,
        invocation_type: str,
    ) -> bytes:
        """The payload, found to be acceptable as far as that is looked at here. Raises Refusal or ClientLeft."""
        try:
            payload = await self._body(connection, headers, receive, invocation_type)
        except Refusal as refused:
            raise function.counted(refused) from None
        return checked_json(function, payload)

    async def _body(
        self, connection: ClientConnection, headers: Mapping[bytes, bytes], receive: Receive, invocation_type: str
    ) -> bytes:
        """The body as it was sent, within its limit. Raises Refusal or ClientLeft."""
        body = connection.whole_body()
        if body is None or len(body) > _SMALL_BYTES:
            length = declared_length(headers.get(b"content-length")) if body is None else len(body)
            refusal = admission.size_refusal(length, invocation_type)
            if refusal is not None:
                raise refusal
        if body is None:
            body = await self._bodies.read(receive, admission.payload_limit(invocation_type))
        return body


async def _nothing_to_receive() -> Message:
    raise AssertionError("a request that was known by its head is there as a whole")


def once_of(request: Request, target: Target, payload: bytes, caller: str) -> Once:
    """What makes an Invoke with an idempotency key run once: a repeat has the same type, version and payload.

    `caller` is the id of its access key, "" where none is asked for.
    """
    parts = (b"invoke", request.invocation_type.encode(), target.version.encode(), payload)
    return Once(key_among(request.options.key, caller), fingerprint(*parts))


def checked_json(function: Function, payload: bytes) -> bytes:
    """The event that a body stands for. Raises Refusal, counted, when it is no JSON."""
    problem = json_problem(payload) if payload else ""
    if problem:
        refusal = lambda_errors.invalid_content(f"Could not parse request body into json: {problem}")
        raise function.counted(refusal)
    return payload or EMPTY_EVENT


def parse_target(namespace: str, segment: bytes, query: bytes, region: str, account: str) -> Target:
    """Read a path segment and a query string, of a call in a namespace.

    Raises Refusal with what Lambda answers to a name it cannot take.
    """
    text = unquote_to_bytes(segment).decode(errors="replace")
    asked = parse_qs(query.decode("latin-1"), keep_blank_values=False).get("Qualifier", [""])[-1] if query else ""
    failures = _length_failures("functionName", text, NAME_MAX_CHARS, _NAME)
    if asked:
        failures += _length_failures("qualifier", asked, QUALIFIER_MAX_CHARS, _QUALIFIER)
    if failures:
        raise lambda_errors.validation(*failures)
    reference = parse_reference(text)
    if reference is None:
        # Lambda's pattern lets through what no function can be called (dots).
        raise lambda_errors.not_found(function_arn(region, account, text))
    if reference.region and reference.region != region:
        message = f"Functions from '{reference.region}' are not reachable in this region ('{region}')"
        refusal = lambda_errors.not_found("")
        refusal.message = message
        raise refusal
    if reference.account and reference.account != account:
        arn = function_arn(reference.region or region, reference.account, reference.name)
        raise lambda_errors.access_denied(
            f"The caller is not authorized to perform: lambda:InvokeFunction on resource: {arn}"
        )
    if asked and reference.qualifier and asked != reference.qualifier:
        raise lambda_errors.invalid_parameter(
            "The derived qualifier from the function name does not match the specified qualifier."
        )
    qualifier = asked or reference.qualifier
    arn = function_arn(region, account, reference.name, qualifier)
    key = f"{namespace}/{reference.name}"
    return Target(namespace, reference.name, key, qualifier or LATEST, bool(qualifier), arn)


def read_request(headers: Mapping[bytes, bytes]) -> Request:
    """What the headers ask for. Raises Refusal for values that Lambda does not take."""
    type_header = headers.get(b"x-amz-invocation-type", b"RequestResponse")
    log_header = headers.get(b"x-amz-log-type", b"None")
    invocation_type = INVOCATION_TYPES.get(type_header)
    if invocation_type is None or log_header not in LOG_TYPES:
        raise lambda_errors.validation(*_enum_failures(type_header, log_header))
    for name, member in _UNSUPPORTED.items():
        if name in headers:
            raise lambda_errors.invalid_parameter(f"{member} is not supported by this release")
    extras = b""
    context = headers.get(b"x-amz-client-context")
    if context:
        extras = pack_field(record.TAG_CLIENT_CONTEXT, client_context(context))
    trace_id = headers.get(b"x-amzn-trace-id")
    if trace_id and len(trace_id) <= TRACE_ID_MAX_BYTES:
        extras += pack_field(record.TAG_TRACE_ID, trace_id)
    wait = headers.get(b"x-forebay-wait-ms")
    options = read_options(headers, run_async=invocation_type == admission.EVENT, now_ms=time.time() * 1000)
    return Request(invocation_type, log_header == b"Tail", extras, 0 if wait is None else read_wait_ms(wait), options)


def client_context(value: bytes) -> bytes:
    """The client context's JSON as the handler gets it. Raises Refusal."""
    if len(value) > limits.CLIENT_CONTEXT_MAX_BYTES:
        raise lambda_errors.invalid_content(
            f"Client context must be no more than {limits.CLIENT_CONTEXT_MAX_BYTES} bytes when base64-encoded."
        )
    try:
        decoded = base64.b64decode(value, validate=True)
        is_object = isinstance(json.loads(decoded.decode()), dict)
    except (binascii.Error, ValueError, RecursionError):
        is_object = False
    if not is_object:
        raise lambda_errors.invalid_content("Client context must be a valid Base64-encoded JSON object.")
    return decoded


def read_wait_ms(value: bytes) -> int:
    """The wait a caller asks for. Raises Refusal unless it is a positive number of milliseconds."""
    text = value.decode("latin-1")
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or int(text) == 0:
        raise lambda_errors.invalid_parameter(f"X-Forebay-Wait-Ms must be a number of milliseconds above 0, not {text}")
    return int(text)


def _length_failures(member: str, value: str, max_chars: int, pattern: re.Pattern[str]) -> list[str]:
    """How a value breaks the service model's bounds for a member."""
    failures = []
    start = f"Value '{value}' at '{member}' failed to satisfy constraint: Member must "
    if pattern.fullmatch(value) is None:
        failures.append(f"{start}satisfy regular expression pattern: {pattern.pattern}")
    if not value:
        failures.append(f"{start}have length greater than or equal to 1")
    if len(value) > max_chars:
        failures.append(f"{start}have length less than or equal to {max_chars}")
    return failures


def _enum_failures(type_header: bytes, log_header: bytes) -> list[str]:
    found = (
        ("invocationType", type_header, tuple(INVOCATION_TYPES)),
        ("logType", log_header, LOG_TYPES),
    )
    return [
        f"Value '{value.decode('latin-1')}' at '{member}' failed to satisfy constraint: "
        f"Member must satisfy enum value set: [{', '.join(allowed.decode() for allowed in values)}]"
        for member, value, values in found
        if value not in values
    ]
