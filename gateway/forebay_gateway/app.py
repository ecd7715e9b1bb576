"""What the gateway serves besides calls and management: health, metrics and the documentation."""

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import FastAPI, Header, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client.exposition import choose_encoder

from forebay_common import __version__
from forebay_gateway import metrics, openapi
from forebay_gateway.counters import Counters
from forebay_gateway.forwarder import Forwarder
from forebay_gateway.guard import Rule

Readiness = Callable[[], Mapping[str, bool]]
"""What must be true before calls can be served, by name; no I/O."""


def create_app(readiness: Readiness, numbers: Counters, refusals: Mapping[Rule, int], forwarder: Forwarder) -> FastAPI:
    """The application behind the raw routes. `refusals` counts what the guard let not in."""
    app = FastAPI(title="Forebay", version=__version__, openapi_url=None, docs_url=None, redoc_url=None)
    registry = metrics.registry(numbers, refusals)

    @app.get("/healthz", tags=["health"], summary="The process is alive")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get(
        "/readyz",
        tags=["health"],
        summary="Calls can be served: Redis is reachable and the function table is loaded",
        responses={503: {"description": "Not yet, or Redis is away; the members that are false say what is missing."}},
    )
    async def readyz() -> JSONResponse:
        checks = dict(readiness())
        ready = all(checks.values())
        return JSONResponse({"ready": ready, **checks}, status_code=200 if ready else 503)

    @app.get(
        "/metrics",
        tags=["metrics"],
        summary="The gateway's numbers for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}},
    )
    async def metrics_(accept: Annotated[str, Header()] = "") -> Response:
        encode, content_type = choose_encoder(accept)
        return Response(encode(registry), headers={"content-type": content_type})

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi_json() -> JSONResponse:
        return JSONResponse(openapi.merged(app.openapi(), await _controllers_document(forwarder)))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(openapi_url="/openapi.json", title="Forebay")

    return app


async def _controllers_document(forwarder: Forwarder) -> dict[str, Any] | None:
    found = await forwarder.fetch(b"/openapi.json")
    if found is None:
        return None
    try:
        document = json.loads(found)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
