"""What a controller's process says of itself, on a port of its own: whether it lives and works, and its counts."""

from fastapi import FastAPI, Response
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from forebay_controller.metrics import Metrics

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ProcessMetrics:
    """The process's own metrics, with the controller's while it leads."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._leads = Gauge("forebay_controller_leads", "1 while this controller leads.", registry=self._registry)
        self._leads.set(0)
        self._controller: Metrics | None = None

    def lead(self, metrics: Metrics) -> None:
        """From now on the controller's metrics are this process's, too."""
        self._controller = metrics
        self._leads.set(1)

    def render(self) -> bytes:
        """All of them in Prometheus's text format."""
        controller = self._controller.render() if self._controller is not None else b""
        return generate_latest(self._registry) + controller


def process_app(metrics: ProcessMetrics) -> FastAPI:
    """Health, readiness and metrics. Standbys are ready, too: they serve the management API."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/healthz")
    async def healthz() -> Response:
        return Response("ok\n", media_type="text/plain")

    @app.get("/readyz")
    async def readyz() -> Response:
        # The servers start when Functions and access keys have been listed: there is nothing else to wait for.
        return Response("ready\n", media_type="text/plain")

    @app.get("/metrics")
    async def show_metrics() -> Response:
        return Response(metrics.render(), headers={"content-type": METRICS_TYPE})

    return app
