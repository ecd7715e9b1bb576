"""The management API as one ASGI application: /v1 and Lambda's operations. Gateways forward both unchanged."""

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import forebay_common
from forebay_common import limits, logs
from forebay_common.tlv import CodecError
from forebay_controller.authenticator import Authenticator
from forebay_controller.code_links import CodeLinks
from forebay_controller.code_package import PackageError, PackageTooLargeError
from forebay_controller.code_store import CodeStorageFullError
from forebay_controller.gate import Gate, is_v1
from forebay_controller.lambda_routes import LambdaApi
from forebay_controller.management import FunctionStore, Instances, ManagementSettings, Queues, StoreError
from forebay_controller.request_body import BodyTooLargeError, RequestBodies
from forebay_controller.settings_rules import SettingError
from forebay_controller.v1_dead_letters import DeadLettersApi
from forebay_controller.v1_destinations import DestinationsApi
from forebay_controller.v1_errors import V1Error, v1_error_response
from forebay_controller.v1_invocations import InvocationsApi
from forebay_controller.v1_models import FunctionInput
from forebay_controller.v1_routes import V1Api

REDIS_RETRY_S = 1
"""Told to clients while Redis is away."""
UPGRADE_RETRY_S = 10

_log = logs.get(__name__)


def create_app(
    store: FunctionStore,
    instances: Instances,
    queues: Queues,
    settings: ManagementSettings,
    authenticator: Authenticator | None = None,
) -> FastAPI:
    """The application. Routes added to it later win over Lambda's paths, which take whatever is left.

    With an `authenticator` every request needs a credential, but for the process's own paths (`gate.OPEN_PATHS`).
    """
    links, bodies = CodeLinks(settings.code_link_key), RequestBodies()
    app = FastAPI(title="Forebay", version=forebay_common.__version__, docs_url=None, redoc_url=None)
    app.include_router(V1Api(instances, settings, links, bodies).router)
    app.include_router(InvocationsApi(queues).router)
    app.include_router(DeadLettersApi(queues, bodies).router)
    app.include_router(DestinationsApi(settings.signing_key).router)
    lambda_api = LambdaApi(instances.retire, settings.runtime_warning, links, bodies)

    async def anything_else(scope: Scope, receive: Receive, send: Send) -> None:
        if is_v1(scope["path"]):
            await v1_error_response("not_found", f"There is nothing at {scope['path'][:200]}")(scope, receive, send)
        else:
            await lambda_api(scope, receive, send)

    # The last one added is the outermost.
    app.add_middleware(
        Gate,
        store=store,
        default_namespace=settings.default_namespace,
        authenticator=authenticator,
        bodies=bodies,
    )
    app.add_middleware(_Failsafe)
    app.router.default = anything_else
    _answer_errors(app)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign] # FastAPI's documented way to extend it
    return app


def _answer_errors(app: FastAPI) -> None:
    """Every error of /v1 in its own shape."""

    @app.exception_handler(V1Error)
    async def known(_: Request, error: V1Error) -> Response:
        return v1_error_response(error.code, error.message, retry_after_s=error.retry_after_s)

    @app.exception_handler(RedisConnectionError)
    @app.exception_handler(RedisTimeoutError)
    async def redis_away(_: Request, error: RedisError) -> Response:
        _log.warning("Redis does not answer a management request: %s", error)
        text = "Redis, which holds the queues, does not answer: try again"
        return v1_error_response("unavailable", text, retry_after_s=REDIS_RETRY_S)

    @app.exception_handler(OutOfMemoryError)
    @app.exception_handler(ReadOnlyError)
    async def redis_full(_: Request, error: RedisError) -> Response:
        _log.warning("Redis does not take what a management request writes: %s", error)
        text = f"Redis takes no changes now, and nothing was changed: {error}"
        return v1_error_response("unavailable", text, retry_after_s=REDIS_RETRY_S)

    @app.exception_handler(CodecError)
    async def newer(_: Request, error: CodecError) -> Response:
        _log.warning("an event cannot be read: %s", error)
        text = "A newer release of the platform has written this: ask again when all controllers are of that release"
        return v1_error_response("unavailable", text, retry_after_s=UPGRADE_RETRY_S)

    @app.exception_handler(StoreError)
    async def not_done(_: Request, error: StoreError) -> Response:
        return v1_error_response(error.code, error.message)

    @app.exception_handler(SettingError)
    @app.exception_handler(PackageError)
    async def refused(_: Request, error: Exception) -> Response:
        return v1_error_response("invalid", str(error))

    @app.exception_handler(PackageTooLargeError)
    @app.exception_handler(CodeStorageFullError)
    async def too_large(_: Request, error: Exception) -> Response:
        return v1_error_response("too_large", str(error))

    @app.exception_handler(BodyTooLargeError)
    async def body_too_large(_: Request, __: Exception) -> Response:
        return v1_error_response("too_large", f"A request is {limits.MANAGEMENT_REQUEST_MAX_BYTES} bytes at most")

    @app.exception_handler(RequestValidationError)
    async def bad_parameters(_: Request, error: RequestValidationError) -> Response:
        problems = [f"{item['loc'][-1]}: {item['msg']}" for item in error.errors()]
        return v1_error_response("invalid", "; ".join(problems))

    @app.exception_handler(HTTPException)
    async def by_the_framework(_: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid")
        return v1_error_response(code, str(error.detail))


class _Failsafe:
    """Turns what nobody expected into an answer without a trace; the trace goes to the log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            return
        except Exception:
            _log.exception("a management request failed", extra={"path": scope.get("path", "")})
            if started:
                raise  # the server must break the connection off, or a cut answer would look whole
            await v1_error_response("internal", "The request failed inside the platform")(scope, receive, send)


_BAD_PARAMETERS = {
    "description": "A parameter is not what it may be",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorOutput"}}},
}


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The description, with the body that /v1's PUT reads by itself, in a thread.

    What FastAPI would answer to bad parameters is answered here in /v1's shape, with 400.
    """
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        schema = FunctionInput.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas |= {**schema.pop("$defs"), "FunctionInput": schema}
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        for operation in (found for item in document["paths"].values() for found in item.values()):
            if operation["responses"].pop("422", None) is not None:
                operation["responses"].setdefault("400", _BAD_PARAMETERS)
        app.openapi_schema = document
    return app.openapi_schema
