"""The gateway's process: one event loop, one HTTP server on it, and an end that lets waiting calls finish."""

import asyncio
import contextlib
import gc
import resource
import signal
import socket
from collections import Counter
from collections.abc import Iterator

import uvicorn

from forebay_gateway.app import create_app
from forebay_gateway.asgi import Entry
from forebay_gateway.config import GatewayConfig
from forebay_gateway.connection import ClientConnection
from forebay_gateway.core import Core
from forebay_gateway.fn_route import FunctionRoute
from forebay_gateway.forwarder import Forwarder
from forebay_gateway.guard import Guard, GuardRefusal, Rule
from forebay_gateway.invoke import InvokeHandler
from forebay_gateway.request_body import BodyReader

BACKLOG = 4_096
KEEP_ALIVE_S = 75
"""Above what clients keep idle connections for (boto3, 60 s), so that they close first and no request is lost."""
GC_THRESHOLD = 50_000
"""Allocations between collections of the youngest objects: a call's own die by reference count."""
CANCELLED_S = 1.0
"""What cancelled calls get to take themselves out of the queue."""


class GatewayServer(uvicorn.Server):
    """uvicorn's server, whose signals end in a clean exit: its own raises SIGTERM again at the end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT stop the server; a second one does not wait for calls."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        yield

    def _stop(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError when the address is taken or is none."""
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


async def serve(config: GatewayConfig, listening: socket.socket) -> None:
    """Serve until a signal asks to stop; waiting calls then get `config.stop_s` to finish."""
    core = Core(config)
    forwarder = Forwarder(config.controller_socket)
    server = GatewayServer(
        uvicorn.Config(
            _entry(config, core, forwarder),
            http=ClientConnection,
            interface="asgi3",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            log_level="error",
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(config.stop_s)),
        )
    )
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, *gc.get_threshold()[1:])
    async with asyncio.TaskGroup() as group:
        running = group.create_task(core.run())
        await server.serve(sockets=[listening])
        cancelled = server.server_state.tasks
        if cancelled:
            await asyncio.wait(cancelled, timeout=CANCELLED_S)
        await forwarder.close()
        running.cancel()


def _entry(config: GatewayConfig, core: Core, forwarder: Forwarder) -> Entry:
    guard = Guard(config.allowed_hosts)
    bodies = BodyReader()
    refusals: Counter[Rule] = Counter()

    def count(refusal: GuardRefusal) -> None:
        refusals[refusal.rule] += 1

    return Entry(
        guard=guard,
        invoke=InvokeHandler(core.dispatcher, bodies, config.region, config.account),
        functions=FunctionRoute(core.dispatcher, guard, bodies, count),
        forwarder=forwarder,
        app=create_app(core.readiness, core.counters, refusals, forwarder),
        refusals=refusals,
    )


def raise_file_limit() -> None:
    """Allow as many connections as the system lets this process have: each waiting caller holds one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
