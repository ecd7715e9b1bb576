"""Forebay's own management API: /v1."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from forebay_common.spec import FunctionSpec
from forebay_controller.code_links import PATH as CODE_PATH
from forebay_controller.code_links import CodeLinks
from forebay_controller.code_package import read_package
from forebay_controller.gate import Context, context_of
from forebay_controller.logs_text import LINES_MAX as LOG_LINES_MAX
from forebay_controller.logs_text import as_text
from forebay_controller.management import Functions, Instances, ManagementSettings
from forebay_controller.request_body import RequestBodies
from forebay_controller.v1_access import functions_of, not_found, require
from forebay_controller.v1_changes import changed, check_destinations, missing_destinations, new_function, read_put
from forebay_controller.v1_errors import V1Error
from forebay_controller.v1_models import (
    ErrorOutput,
    FunctionList,
    FunctionOutput,
    PutOutput,
    RuntimeList,
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


_BLOB_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
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
        add("/v1/runtimes", self.list_runtimes, methods=["GET"])
        add(
            "/v1/blobs/{sha256}",
            self.put_blob,
            methods=["PUT"],
            status_code=204,
            responses=_BAD_INPUT,
            openapi_extra=_BLOB_BODY,
        )
        add(
            f"{CODE_PATH}/{{uid}}/{{sha256}}/{{expires_s}}/{{signature}}",
            self.get_code,
            methods=["GET"],
            include_in_schema=False,
        )

    async def list_functions(self, request: Request) -> FunctionList:
        """All functions, by name."""
        context = context_of(request.scope)
        specs = context.grant.allowed(context.functions.by_name())
        return FunctionList(functions=[_output(context, spec) for spec in specs])

    async def get_function(self, name: str, request: Request) -> FunctionOutput:
        """One function's settings and state."""
        return _output(context_of(request.scope), require(functions_of(request, name), name))

    async def put_function(self, name: str, request: Request, response: Response) -> PutOutput:
        """Create or update a function: all of it, or nothing."""
        functions, has_pods = functions_of(request, name), context_of(request.scope).store.has_pods
        async with self._bodies.read(request) as body:
            # Megabytes of JSON, base64 and zip would stall every other request.
            wanted, package = await asyncio.to_thread(read_put, body, has_pods=has_pods)
            del body
            check_destinations(wanted, context_of(request.scope).grant)
            warning = await asyncio.to_thread(self._settings.runtime_warning, wanted.runtime or "")
            existed = False

            def decide(old: FunctionSpec | None) -> FunctionSpec:
                nonlocal existed
                existed = old is not None
                first = new_function(functions.place.namespace, name, wanted, package) if old is None else old
                return changed(first, wanted, package, warning)

            spec = await functions.change(name, decide, package, visible_s=0)
        response.status_code = 200 if existed else 201
        return PutOutput(
            **FunctionOutput.members_of(spec, functions.place, has_pods=has_pods),
            result="updated" if existed else "created",
            warnings=[*([spec.warning] if spec.warning else []), *missing_destinations(spec, functions)],
        )

    async def delete_function(self, name: str, request: Request) -> None:
        """Delete a function, its code, and the calls that wait for it."""
        if not await functions_of(request, name).delete(name, self._instances.retire):
            raise not_found(name)

    async def get_status(self, name: str, request: Request) -> StatusOutput:
        """A function's queue and instances as the controller saw them last."""
        return StatusOutput.of(self._instances.get_status(require(functions_of(request, name), name).uid))

    async def list_runtimes(self) -> RuntimeList:
        """The managed runtimes of this platform."""
        return RuntimeList(runtimes=list(self._settings.runtimes))

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
        functions = functions_of(request, name)
        spec = require(functions, name)
        as_json = format == "json"
        media_type = "application/x-ndjson" if as_json else "text/plain; charset=utf-8"
        if not follow:
            last = await self._settings.logs.tail(spec, lines)
            return StreamingResponse(_once(_rendered(last, as_json)), media_type=media_type)
        if self._followers >= FOLLOWERS_MAX:
            raise V1Error("too_many", f"{FOLLOWERS_MAX} readers follow logs already")
        # The first lines are awaited here, so that what cannot be read is an error's answer and no broken stream.
        stream = self._follow(functions, spec, lines, as_json=as_json)
        first = await anext(stream)
        return StreamingResponse(_after(first, stream), media_type=media_type)

    async def put_blob(self, sha256: str, request: Request) -> None:
        """Upload a code package (a zip), for a Function resource that names it: `code: {blob: {sha256: …}}`.

        It is kept for a day, or for a quarter of an hour once a Function has taken it up. All that wait are 2 GiB at
        most.
        """
        async with self._bodies.read(request) as body:
            package = await asyncio.to_thread(read_package, body)
        if package.sha256 != sha256.lower():
            raise V1Error("invalid", f"The body's SHA-256 is {package.sha256}, not {sha256[:200]}")
        await context_of(request.scope).store.stage_blob(package)

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
    ) -> AsyncGenerator[bytes, None]:
        """The log's lines as they come, b"" now and then."""
        self._followers += 1
        try:
            async with aclosing(self._settings.logs.follow(spec, lines)) as arriving:
                async for found in arriving:
                    yield _rendered(found, as_json)
                    known = functions.find(spec.name)
                    if known is None or known.uid != spec.uid:
                        return
        finally:
            self._followers -= 1


def _output(context: Context, spec: FunctionSpec) -> FunctionOutput:
    return FunctionOutput.of(spec, context.functions.place, has_pods=context.store.has_pods)


def _rendered(lines: list[bytes], as_json: bool) -> bytes:  # noqa: FBT001 - one of two forms
    if as_json:
        return b"".join(line + b"\n" for line in lines)
    return "".join(f"{as_text(line)}\n" for line in lines).encode()


async def _after(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    async with aclosing(rest):
        yield first
        async for data in rest:
            if data:
                yield data


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
