"""uvicorn as the controller uses it: told where to listen, and stopped by the process in an order of its own."""

import contextlib
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

GRACEFUL_S = 1
"""What open requests (a log that is followed) get when the process stops."""
BACKLOG = 1_024


class HttpServer(uvicorn.Server):
    """uvicorn's server without its signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process."""
        yield


def make_server(app: ASGIApp, **where: Any) -> HttpServer:
    """A server for an application; `where` is uvicorn's `uds`, or `host` and `port`."""
    return HttpServer(
        uvicorn.Config(
            app,
            **where,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            log_level="error",
            backlog=BACKLOG,
            timeout_graceful_shutdown=GRACEFUL_S,
        )
    )
