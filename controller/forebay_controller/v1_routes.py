"""Forebay's own management API: /v1."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import ValidationError

from forebay_common.spec import AsyncSpec, FunctionSpec, ScaleSpec
from forebay_controller import settings_rules
from forebay_controller.code_links import PATH as CODE_PATH
from forebay_controller.code_links import CodeLinks
from forebay_controller.code_package import CodePackage, decode_base64, read_package
from forebay_controller.gate import context_of
from forebay_controller.logs_text import LINES_MAX as LOG_LINES_MAX
from forebay_controller.logs_text import as_text
from forebay_controller.management import Functions, Instances, ManagementSettings
from forebay_controller.request_body import RequestBodies
from forebay_controller.v1_errors import V1Error
from forebay_controller.v1_models import (
    ErrorOutput,
    FunctionInput,
    FunctionList,
    FunctionOutput,
    PutOutput,
    StatusList,
    StatusOutput,
)

FOLLOWERS_MAX = 16
"""Each follower of a log holds a thread."""

_NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": ErrorOutput, "description": "No such function"}}
_BAD_INPUT: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorOutput, "description": "Refused; nothing changed"},
    413: {"model": ErrorOutput, "description": "The request, the package or all code together is too large"},
}
_PUT_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/FunctionInput"}}},
    }
}


class V1Api:
    """The routes under /v1, as methods over what they work on; `router` is what an application includes."""

    def __init__(
        self,
        instances: Instances,
        settings: ManagementSettings,
        links: CodeLinks,
        bodies: RequestBodies,
    ) -> None:
        self._instances = instances
        self._settings = settings
        self._links = links
        self._bodies = bodies
        self._followers = 0
        self.router = APIRouter(tags=["functions"])
        add = self.router.add_api_route
        one = "/v1/functions/{name}"
        add("/v1/functions", self.list_functions, methods=["GET"])
        add(one, self.get_function, methods=["GET"], responses=_NOT_FOUND)
        add(
            one,
            self.put_function,
            methods=["PUT"],
            response_model=PutOutput,
            responses={201: {"model": PutOutput, "description": "Created"}, **_BAD_INPUT},
            openapi_extra=_PUT_BODY,
        )
        add(one, self.delete_function, methods=["DELETE"], status_code=204, responses=_NOT_FOUND)
        add(f"{one}/status", self.get_status, methods=["GET"], responses=_NOT_FOUND)
        add(f"{one}/logs", self.get_logs, methods=["GET"], response_class=StreamingResponse, responses=_NOT_FOUND)
        add("/v1/status", self.list_statuses, methods=["GET"])
        add(
            f"{CODE_PATH}/{{uid}}/{{sha256}}/{{expires_s}}/{{signature}}",
            self.get_code,
            methods=["GET"],
            include_in_schema=False,
        )

    async def list_functions(self, request: Request) -> FunctionList:
        """All functions, by name."""
        context = context_of(request.scope)
        functions, specs = context.functions, context.grant.allowed(context.functions.by_name())
        return FunctionList(functions=[FunctionOutput.of(spec, functions.place) for spec in specs])

    async def get_function(self, name: str, request: Request) -> FunctionOutput:
        """One function's settings and state."""
        functions = _functions(request, name)
        return FunctionOutput.of(_require(functions, name), functions.place)

    async def put_function(self, name: str, request: Request, response: Response) -> PutOutput:
        """Create or update a function: all of it, or nothing."""
        functions = _functions(request, name)
        async with self._bodies.read(request) as body:
            # Megabytes of JSON, base64 and zip would stall every other request.
            wanted, package = await asyncio.to_thread(_read_put, body)
            del body
            warning = await asyncio.to_thread(self._settings.runtime_warning, wanted.runtime or "")
            existed = False

            def decide(old: FunctionSpec | None) -> FunctionSpec:
                nonlocal existed
                existed = old is not None
                first = _new_function(functions.place.namespace, name, wanted, package) if old is None else old
                return _changed(first, wanted, package, warning)

            spec = await functions.change(name, decide, package, visible_s=0)
        response.status_code = 200 if existed else 201
        return PutOutput(
            **FunctionOutput.members_of(spec, functions.place),
            result="updated" if existed else "created",
            warnings=[spec.warning] if spec.warning else [],
        )

    async def delete_function(self, name: str, request: Request) -> None:
        """Delete a function, its code, and the calls that wait for it."""
        if not await _functions(request, name).delete(name, self._instances.retire):
            raise _not_found(name)

    async def get_status(self, name: str, request: Request) -> StatusOutput:
        """A function's queue and instances as the controller saw them last."""
        return StatusOutput.of(self._instances.get_status(_require(_functions(request, name), name).uid))

    async def list_statuses(self, request: Request) -> StatusList:
        """The status of every function."""
        context = context_of(request.scope)
        specs = context.grant.allowed(context.functions.by_name())
        return StatusList(
            functions={spec.name: StatusOutput.of(self._instances.get_status(spec.uid)) for spec in specs}
        )

    async def get_logs(
        self,
        name: str,
        request: Request,
        *,
        follow: Annotated[bool, Query(description="Go on with the lines to come, until the client leaves")] = False,
        lines: Annotated[int, Query(ge=0, le=LOG_LINES_MAX)] = 100,
        format: Annotated[  # noqa: A002 - the query parameter's name
            Literal["text", "json"], Query(description="json: the stored lines, one object each")
        ] = "text",
    ) -> StreamingResponse:
        """The last lines of a function's log, all instances together by time."""
        functions = _functions(request, name)
        spec = _require(functions, name)
        as_json = format == "json"
        media_type = "application/x-ndjson" if as_json else "text/plain; charset=utf-8"
        if not follow:
            last = await self._settings.logs.tail(spec, lines)
            return StreamingResponse(_once(_rendered(last, as_json)), media_type=media_type)
        if self._followers >= FOLLOWERS_MAX:
            raise V1Error("too_many", f"{FOLLOWERS_MAX} readers follow logs already")
        return StreamingResponse(self._follow(functions, spec, lines, as_json=as_json), media_type=media_type)

    async def get_code(
        self, uid: str, sha256: str, expires_s: int, signature: str, request: Request
    ) -> StreamingResponse:
        """The bytes that Lambda's GetFunction links to; the link itself is the permission."""
        functions = context_of(request.scope).functions
        spec = next((spec for spec in functions.by_name() if spec.uid == uid), None)
        if spec is None or not self._links.allows(uid, sha256, expires_s, signature):
            raise V1Error("not_found", "This link is not valid, or not any more")
        keys = functions.keys(spec)
        size = await functions.code.size(keys, sha256)
        if size is None:
            raise V1Error("not_found", "This package is not stored any more")
        headers = {
            "Content-Length": str(size),
            "Content-Disposition": f'attachment; filename="{spec.name}.zip"',
            "Cache-Control": "private, no-store",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        return StreamingResponse(functions.code.chunks(keys, sha256), media_type="application/zip", headers=headers)

    async def _follow(
        self, functions: Functions, spec: FunctionSpec, lines: int, *, as_json: bool
    ) -> AsyncIterator[bytes]:
        self._followers += 1
        try:
            async for found in self._settings.logs.follow(spec, lines):
                if found:
                    yield _rendered(found, as_json)
                known = functions.find(spec.name)
                if known is None or known.uid != spec.uid:
                    return
        finally:
            self._followers -= 1


def _functions(request: Request, name: str) -> Functions:
    """The functions that a request means, if it may manage the one it names. Raises V1Error."""
    context = context_of(request.scope)
    if not context.grant.allows(name):
        raise V1Error("forbidden", context.grant.denied_text(name[:200]))
    return context.functions


def _require(functions: Functions, name: str) -> FunctionSpec:
    spec = functions.find(name)
    if spec is None:
        raise _not_found(name)
    return spec


def _new_function(namespace: str, name: str, wanted: FunctionInput, package: CodePackage | None) -> FunctionSpec:
    settings_rules.check_name(name)
    if wanted.runtime is None or wanted.handler is None or package is None:
        raise V1Error("invalid", f"There is no function {name} yet: a new one needs runtime, handler and code")
    return FunctionSpec(
        namespace=namespace,
        name=name,
        uid="",
        runtime=wanted.runtime,
        handler=wanted.handler,
        code_sha256="",
        code_size=0,
    )


def _read_put(body: bytes) -> tuple[FunctionInput, CodePackage | None]:
    """The body of a PUT. Raises V1Error, PackageError."""
    try:
        wanted = FunctionInput.model_validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        text = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}" for item in problems[:10])
        raise V1Error("invalid", text) from error
    return wanted, None if wanted.code is None else read_package(decode_base64(wanted.code.zip_base64))


def _changed(old: FunctionSpec, wanted: FunctionInput, package: CodePackage | None, warning: str) -> FunctionSpec:
    """A record with the members that a PUT gave."""
    changes = wanted.settings()
    if wanted.runtime is not None:
        changes["warning"] = warning
    if wanted.scale is not None:
        given = wanted.scale.model_dump(exclude_none=True)
        changes["scale"] = ScaleSpec(**{**asdict(old.scale), **given})
    if wanted.async_ is not None:
        changes["async_"] = AsyncSpec(**{**asdict(old.async_), **wanted.async_.model_dump(exclude_unset=True)})
    if package is not None:
        changes |= {"code_sha256": package.sha256, "code_size": package.size}
    return replace(old, **changes)


def _not_found(name: str) -> V1Error:
    return V1Error("not_found", f"There is no function {name[:200]}")


def _rendered(lines: list[bytes], as_json: bool) -> bytes:  # noqa: FBT001 - one of two forms
    if as_json:
        return b"".join(line + b"\n" for line in lines)
    return "".join(f"{as_text(line)}\n" for line in lines).encode()


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
