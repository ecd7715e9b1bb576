"""Lambda's management API, at the paths and in the shapes of AWS's service model. Invoke is the gateway's."""

import asyncio
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from forebay_common import limits, logs
from forebay_common.auth_errors import AuthError
from forebay_common.names import LATEST
from forebay_common.spec import FunctionSpec
from forebay_controller import lambda_configuration as conversion
from forebay_controller import lambda_event_config, lambda_images, lambda_model
from forebay_controller.code_links import CodeLinks
from forebay_controller.code_package import CodePackage, PackageError, PackageTooLargeError
from forebay_controller.code_store import CodeStorageFullError
from forebay_controller.gate import Context, context_of
from forebay_controller.lambda_calls import Call, Target, existing, json_response, named, read_marker, target_of
from forebay_controller.lambda_errors import LambdaError, error_response
from forebay_controller.management import Place, Retire, StoreError
from forebay_controller.request_body import BodyTooLargeError, RequestBodies
from forebay_controller.settings_rules import SettingError

LIST_PAGE = 50
CONCURRENT_EXECUTIONS = 1_000
TAGS_MAX = 50

_log = logs.get(__name__)


class LambdaApi:
    """The API as an ASGI application that answers every path."""

    def __init__(
        self,
        retire: Retire,
        runtime_warning: Callable[[str], str],
        links: CodeLinks,
        bodies: RequestBodies,
    ) -> None:
        self._retire = retire
        self._runtime_warning = runtime_warning
        self._links = links
        self._bodies = bodies
        self._model = lambda_model.load()
        self._operations: dict[str, Callable[[Call], Awaitable[Response]]] = {
            "CreateFunction": self._create_function,
            "DeleteFunction": self._delete_function,
            "GetAccountSettings": self._get_account_settings,
            "GetFunction": self._get_function,
            "GetFunctionConfiguration": self._get_function_configuration,
            "ListFunctions": self._list_functions,
            "ListTags": self._list_tags,
            "TagResource": self._tag_resource,
            "UntagResource": self._untag_resource,
            "UpdateFunctionCode": self._update_function_code,
            "UpdateFunctionConfiguration": self._update_function_configuration,
            **lambda_event_config.OPERATIONS,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request; every outcome is Lambda-shaped."""
        request = Request(scope, receive)
        request_id = str(uuid4())
        try:
            response = await self._answer(request)
        except ClientDisconnect:
            return
        except (LambdaError, AuthError) as error:
            response = error_response(error)
        except Exception:  # noqa: BLE001 - logged with its trace, which a client never sees
            _log.exception("a management request failed", extra={"request_id": request_id, "path": scope["path"]})
            response = error_response(LambdaError("ServiceException", "The request failed inside the platform"))
        response.headers["x-amzn-RequestId"] = request_id
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        raw_path = request.scope["raw_path"].decode("ascii", errors="replace")
        found = self._model.match(request.method, raw_path, request.scope["query_string"].decode("latin-1"))
        # An Invoke comes here only by another spelling of its path, which no client sends: the gateway serves it.
        if found is None or found.operation.name == "Invoke":
            text = f"{request.method} {unquote(raw_path)[:200]} is no operation of this API"
            raise LambdaError("UnknownOperationException", text)
        name = found.operation.name
        operation = self._operations.get(name)
        if operation is None:
            raise LambdaError("UnsupportedOperationException", f"The operation {name} is not supported yet")
        context = context_of(request.scope)
        try:
            async with self._bodies.read(request) as body:
                # Megabytes of JSON, base64 and zip would stall every other request.
                members, package = await asyncio.to_thread(self._read, context, found, body)
                return await operation(Call(name, context, members, package, _base_url(request)))
        except BodyTooLargeError as error:
            limit = limits.MANAGEMENT_REQUEST_MAX_BYTES
            text = f"Request must be smaller than {limit} bytes for the {name} operation"
            raise LambdaError("RequestEntityTooLargeException", text) from error
        except PackageTooLargeError as error:
            raise LambdaError("RequestEntityTooLargeException", str(error)) from error
        except (PackageError, SettingError) as error:
            raise LambdaError.invalid(str(error)) from error
        except CodeStorageFullError as error:
            raise LambdaError("CodeStorageExceededException", str(error)) from error
        except StoreError as error:
            raise LambdaError(_STORE_ERRORS[error.code], error.message) from error

    def _read(
        self, context: Context, request: lambda_model.Request, body: bytes
    ) -> tuple[dict[str, Any], CodePackage | None]:
        members = self._model.read(request, body)
        if request.operation.name not in _CHANGES:
            return members, None
        name = target_of(context.functions.place, members).name
        conversion.check_supported(members, name, images=context.store.has_pods)
        return members, conversion.read_code(members)

    async def _create_function(self, call: Call) -> Response:
        target = named(call)
        if target.qualifier:
            raise LambdaError.invalid("A function is created under a name without a version or alias")
        runtime = call.members.get("Runtime", "")
        warning = await asyncio.to_thread(self._runtime_warning, runtime) if runtime else ""

        def decide(old: FunctionSpec | None) -> FunctionSpec:
            if old is not None:
                raise LambdaError("ResourceConflictException", f"Function already exist: {target.name}")
            return conversion.wanted_on_create(
                call.members,
                call.package,
                namespace=call.place.namespace,
                name=target.name,
                warning=warning,
            )

        spec = await call.functions.change(target.name, decide, call.package)
        return json_response(_configuration(call.place, spec), 201)

    async def _update_function_code(self, call: Call) -> Response:
        target, package = named(call), call.package
        if package is None and not lambda_images.image_of(call.members):
            raise LambdaError.invalid(conversion.NO_CODE)

        def decide(old: FunctionSpec | None) -> FunctionSpec:
            spec = lambda_images.with_code(_changeable(old, target, call), call.members)
            if package is None:
                return spec
            return spec.with_changes(code_sha256=package.sha256, code_size=package.size)

        if call.members.get("DryRun"):
            spec = _require(call, target)
            decide(spec)
        else:
            spec = await call.functions.change(target.name, decide, package)
        return json_response(_configuration(call.place, spec, target))

    async def _update_function_configuration(self, call: Call) -> Response:
        target, members = named(call), call.members
        warning: str | None = None
        if "Runtime" in members:
            warning = await asyncio.to_thread(self._runtime_warning, members["Runtime"])

        def decide(old: FunctionSpec | None) -> FunctionSpec:
            spec = conversion.wanted_on_update(_changeable(old, target, call), members)
            return spec if warning is None else spec.with_changes(warning=warning)

        spec = await call.functions.change(target.name, decide)
        return json_response(_configuration(call.place, spec, target))

    async def _get_function(self, call: Call) -> Response:
        target = named(call)
        spec = _require(call, target)
        path = f"{call.context.prefix}{self._links.path(spec.uid, spec.code_sha256)}"
        document: dict[str, Any] = {
            "Configuration": _configuration(call.place, spec, target),
            "Code": lambda_images.shown_code(spec)
            if spec.pod.image
            else {"RepositoryType": "S3", "Location": f"{call.base_url}{path}"},
        }
        if tags := _tags(spec):
            document["Tags"] = tags
        return json_response(document)

    async def _get_function_configuration(self, call: Call) -> Response:
        target = named(call)
        return json_response(_configuration(call.place, _require(call, target), target))

    async def _list_functions(self, call: Call) -> Response:
        after = read_marker(call.members.get("Marker", ""))
        size = min(call.members.get("MaxItems", LIST_PAGE), LIST_PAGE)
        left = [spec for spec in call.context.grant.allowed(call.functions.by_name()) if spec.name > after]
        page = left[:size]
        qualified = call.members.get("FunctionVersion") == "ALL"
        items = [
            conversion.configuration(
                spec, region=call.place.region, account=call.place.account, qualified=qualified, listed=True
            )
            for spec in page
        ]
        marker = urlsafe_b64encode(page[-1].name.encode()).decode() if len(left) > size else None
        return json_response({"NextMarker": marker, "Functions": items})

    async def _delete_function(self, call: Call) -> Response:
        target = named(call)
        if target.qualifier == LATEST:
            text = "$LATEST version cannot be deleted without deleting the function."
            raise LambdaError.invalid(text)
        if target.qualifier:
            _require(call, Target(target.name, target.arn, ""))
            if not target.qualifier.isdecimal():
                raise LambdaError.invalid("Deletion of aliases is not currently supported.")
        elif not await call.functions.delete(target.name, self._retire):
            raise LambdaError.not_found(target.arn)
        return Response(status_code=204)

    async def _get_account_settings(self, call: Call) -> Response:
        usage = {
            "TotalCodeSize": call.functions.code.total_bytes,
            "FunctionCount": len(call.context.grant.allowed(call.functions.by_name())),
        }
        limit = {
            "TotalCodeSize": call.functions.code.total_max_bytes,
            "CodeSizeUnzipped": limits.UNZIPPED_MAX_BYTES,
            "CodeSizeZipped": limits.ZIP_MAX_BYTES,
            "ConcurrentExecutions": CONCURRENT_EXECUTIONS,
            "UnreservedConcurrentExecutions": CONCURRENT_EXECUTIONS,
        }
        return json_response({"AccountLimit": limit, "AccountUsage": usage})

    async def _list_tags(self, call: Call) -> Response:
        return json_response({"Tags": _tags(_require(call, named(call, "Resource")))})

    async def _tag_resource(self, call: Call) -> Response:
        await self._change_tags(call, lambda tags: {**tags, **call.members["Tags"]})
        return Response(status_code=204)

    async def _untag_resource(self, call: Call) -> Response:
        gone = set(call.members["TagKeys"])
        await self._change_tags(call, lambda tags: {key: value for key, value in tags.items() if key not in gone})
        return Response(status_code=204)

    async def _change_tags(self, call: Call, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
        target = named(call, "Resource")

        def decide(old: FunctionSpec | None) -> FunctionSpec:
            spec = existing(old, target)
            tags = change(_tags(spec))
            if len(tags) > TAGS_MAX:
                raise LambdaError.invalid(f"A function has {TAGS_MAX} tags at most, these are {len(tags)}")
            return spec.with_changes(aws={**spec.aws, "Tags": tags})

        await call.functions.annotate(target.name, decide)


_CHANGES = frozenset({"CreateFunction", "UpdateFunctionCode", "UpdateFunctionConfiguration"})
"""Operations whose input may hold what the platform does not support."""
_STORE_ERRORS = {
    "invalid": "InvalidParameterValueException",
    "conflict": "ResourceConflictException",
    "forbidden": "AccessDeniedException",
    "unavailable": "ServiceException",
}


def _base_url(request: Request) -> str:
    """Where the client sent its request to; a proxy that ended its TLS says so."""
    scheme = "https" if request.headers.get("x-forwarded-proto") == "https" else "http"
    return f"{scheme}://{request.headers.get('host', 'localhost')}"


def _require(call: Call, target: Target) -> FunctionSpec:
    return existing(call.functions.find(target.name), target)


def _changeable(old: FunctionSpec | None, target: Target, call: Call) -> FunctionSpec:
    spec = existing(old, target)
    conversion.check_changeable(spec, call.members.get("RevisionId"), target.arn)
    return spec


def _configuration(place: Place, spec: FunctionSpec, target: Target | None = None) -> dict[str, Any]:
    qualified = target is not None and target.qualifier == LATEST
    return conversion.configuration(spec, region=place.region, account=place.account, qualified=qualified)


def _tags(spec: FunctionSpec) -> dict[str, str]:
    tags: dict[str, str] = spec.aws.get("Tags", {})
    return tags
