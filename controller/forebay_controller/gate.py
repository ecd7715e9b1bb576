"""What every management request passes before its route: the namespace that its path names.

`/ns/NAMESPACE` before any path selects a namespace; without it the default one is meant. Routes see the path without
it, and the functions of that namespace in their request's `Context`.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send

from forebay_controller.lambda_errors import LambdaError, error_response
from forebay_controller.management import Functions, FunctionStore
from forebay_controller.v1_errors import v1_error_response

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics", "/openapi.json"})
"""Paths of the process, not of a namespace's functions."""

_NAMESPACED = re.compile(rb"/ns/(?P<namespace>[^/]*)(?P<rest>(/.*)?)", re.DOTALL)
_STATE = "forebay"


@dataclass(frozen=True, slots=True)
class Context:
    """What a request is about: a namespace's functions, and the prefix that its path had ("" or `/ns/NAMESPACE`)."""

    functions: Functions
    prefix: str


def context_of(scope: Scope) -> Context:
    """The context of a request that passed the gate."""
    context: Context = scope["state"][_STATE]
    return context


class Gate:
    """An ASGI application around the management API."""

    def __init__(self, app: ASGIApp, *, store: FunctionStore, default_namespace: str) -> None:
        self._app = app
        self._store = store
        self._default = default_namespace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through to its route, or answer why not in the shape that its path's clients read."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        raw_path, namespace = split_path(scope["raw_path"])
        prefix = "" if namespace is None else f"/ns/{namespace}"
        inner = {**scope, "path": unquote(raw_path.decode("ascii")), "raw_path": raw_path}
        name = self._default if namespace is None else namespace
        functions = self._store.in_namespace(name)
        if functions is None:
            text = f"The namespace {name[:200]} is not served here; {self._store.namespaces_served} is"
            await refuse(inner, receive, send, LambdaError("ResourceNotFoundException", text))
            return
        inner["state"] = {**scope.get("state", {}), _STATE: Context(functions, prefix)}
        await self._app(inner, receive, send)


def split_path(raw_path: bytes) -> tuple[bytes, str | None]:
    """A path as it was sent, without its namespace, and that namespace; None when it names none."""
    match = _NAMESPACED.fullmatch(raw_path)
    if match is None:
        return raw_path, None
    return match["rest"] or b"/", match["namespace"].decode("ascii")


async def refuse(scope: Scope, receive: Receive, send: Send, error: LambdaError) -> None:
    """Answer a request that goes no further, as /v1 or as Lambda's API."""
    in_v1 = scope["path"].startswith("/v1/")
    response = v1_error_response(_V1_CODES[error.code], error.message) if in_v1 else error_response(error)
    await response(scope, receive, send)


_V1_CODES = {"ResourceNotFoundException": "not_found"}
