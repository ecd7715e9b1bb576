"""What every management request passes before its route: its credential, and the namespace that its path names.

`/ns/NAMESPACE` before any path selects a namespace; without it the default one is meant. Routes see the path without
it, and what the request may do to the functions of that namespace in their `Context`. A request whose credential is
missing or wrong learns nothing, not even which namespaces there are.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from forebay_common import auth_errors, limits, sigv4
from forebay_common.auth_errors import AuthError
from forebay_common.credentials import INVOKE, MANAGE
from forebay_controller import lambda_model
from forebay_controller.authenticator import Authenticator, Grant
from forebay_controller.code_links import PATH as CODE_PATH
from forebay_controller.lambda_errors import LambdaError, error_response
from forebay_controller.management import Functions, FunctionStore
from forebay_controller.request_body import BodyTooLargeError, RequestBodies, with_body
from forebay_controller.v1_errors import v1_error_response

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics", "/openapi.json"})
"""Paths of the process, not of a namespace's functions: they ask for no credential."""

_NAMESPACED = re.compile(rb"/ns/(?P<namespace>[^/]*)(?P<rest>(/.*)?)", re.DOTALL)
_STATE = "forebay"
_INVOCATIONS = ("/v1/invocations/", "/invocations/")
_V1 = ("/v1/", "/invocations/")
"""Paths whose errors are in /v1's shape."""

NO_CREDENTIAL = (
    "This needs a credential: send an API key (`Authorization: Bearer KEY` or `X-Api-Key: KEY`), or sign the request "
    "(AWS Signature Version 4). `forebay login` keeps one for the command line."
)


@dataclass(frozen=True, slots=True)
class Context:
    """What a request is about: a namespace's functions, what it may do to them, and the prefix that its path had.

    `prefix` is "" or `/ns/NAMESPACE`. `store` is where the functions of all namespaces are.
    """

    store: FunctionStore
    functions: Functions
    grant: Grant
    prefix: str


def context_of(scope: Scope) -> Context:
    """The context of a request that passed the gate."""
    context: Context = scope["state"][_STATE]
    return context


class Gate:
    """An ASGI application around the management API. `authenticator` None: nobody is asked for a credential."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        store: FunctionStore,
        default_namespace: str,
        authenticator: Authenticator | None,
        bodies: RequestBodies,
    ) -> None:
        self._app = app
        self._store = store
        self._default = default_namespace
        self._authenticator = authenticator
        self._bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through to its route, or answer why not in the shape that its path's clients read."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        raw_path, named = split_path(scope["raw_path"])
        namespace = self._default if named is None else named
        inner = {**scope, "path": unquote(raw_path.decode("ascii")), "raw_path": raw_path}
        try:
            async with self._admitted(scope, inner, receive, namespace) as (grant, admitted):
                await self._pass(admitted, receive, send, grant, "" if named is None else f"/ns/{named}")
        except AuthError as error:
            await _unauthenticated(inner, error)(scope, receive, send)
        except BodyTooLargeError:
            text = f"Request must be smaller than {limits.MANAGEMENT_REQUEST_MAX_BYTES} bytes"
            await _refused(inner, "too_large", LambdaError("RequestEntityTooLargeException", text))(
                scope, receive, send
            )

    @contextlib.asynccontextmanager
    async def _admitted(
        self, scope: Scope, inner: Scope, receive: Receive, namespace: str
    ) -> AsyncIterator[tuple[Grant, Scope]]:
        """Check the credential of `scope`, the request as it was sent; gives what it may do, and `inner` with its body.

        Raises AuthError, BodyTooLargeError, starlette.requests.ClientDisconnect.
        """
        # A link to code carries a signature of its own.
        if self._authenticator is None or inner["path"].startswith(f"{CODE_PATH}/"):
            yield Grant(namespace), inner
            return
        headers = sigv4.joined(scope["headers"])
        presented = self._authenticator.present(headers)
        grant = Grant(namespace, presented.credential)
        if presented.signed is None:
            yield grant, inner
            return
        async with self._bodies.read(Request(inner, receive)) as body:
            # Hashing megabytes would stall every other request.
            await asyncio.to_thread(self._authenticator.check, presented, scope, headers, body)
            yield grant, with_body(inner, body)

    async def _pass(self, scope: Scope, receive: Receive, send: Send, grant: Grant, prefix: str) -> None:
        """Give a request to its route, if it may do something of its kind in its namespace and that is served."""
        needed = scope_of(scope["path"])
        if not grant.allows_some(needed):
            await _forbidden(scope, grant, needed)(scope, receive, send)
            return
        functions = self._store.in_namespace(grant.namespace)
        if functions is None:
            served = self._store.namespaces_served
            text = f"The namespace {grant.namespace[:200]} is not one of those served here: {served}"
            await _refused(scope, "not_found", LambdaError("ResourceNotFoundException", text))(scope, receive, send)
            return
        state = {**scope.get("state", {}), _STATE: Context(self._store, functions, grant, prefix)}
        await self._app({**scope, "state": state}, receive, send)


def split_path(raw_path: bytes) -> tuple[bytes, str | None]:
    """A path as it was sent, without its namespace, and that namespace; None when it names none."""
    match = _NAMESPACED.fullmatch(raw_path)
    if match is None:
        return raw_path, None
    return match["rest"] or b"/", match["namespace"].decode("ascii")


def scope_of(path: str) -> str:
    """The scope that a path (without its namespace) takes: who may call a function may see what became of it."""
    return INVOKE if path.startswith(_INVOCATIONS) else MANAGE


def is_v1(path: str) -> bool:
    """Whether a path's clients read /v1's errors."""
    return path.startswith(_V1)


def _forbidden(scope: Scope, grant: Grant, needed: str) -> Response:
    """The answer to a credential that has not the scope, or not in this namespace."""
    if is_v1(scope["path"]):
        return v1_error_response("forbidden", grant.denied_text(scope=needed))
    return error_response(grant.denied(_operation_of(scope), "*"))


def _operation_of(scope: Scope) -> str:
    """The operation of Lambda's API that a request means; `*` when it cannot be told."""
    try:
        query = scope["query_string"].decode("latin-1")
        found = lambda_model.load().match(scope["method"], scope["raw_path"].decode("ascii"), query)
    except LambdaError:
        return "*"
    return "*" if found is None else found.operation.name


def _unauthenticated(scope: Scope, error: AuthError) -> Response:
    """The answer to a request whose credential is missing or wrong."""
    if not is_v1(scope["path"]):
        return error_response(error)
    missing = error.error_type == auth_errors.missing().error_type
    return v1_error_response("unauthenticated", NO_CREDENTIAL if missing else error.message)


def _refused(scope: Scope, v1_code: str, error: LambdaError) -> Response:
    return v1_error_response(v1_code, error.message) if is_v1(scope["path"]) else error_response(error)
