"""The gateway's process: one event loop, one HTTP server on it, and an end that lets waiting calls finish."""

import asyncio
import contextlib
import gc
import resource
import signal
import socket
from collections import Counter
from collections.abc import Iterator, Mapping

import uvicorn

from forebay_common.memory import keep_freed_memory
from forebay_gateway.access import Access
from forebay_gateway.app import create_app
from forebay_gateway.areas import Area
from forebay_gateway.asgi import Entry
from forebay_gateway.config import GatewayConfig
from forebay_gateway.connection import HttpConfig, Leaving
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
    """uvicorn's server, whose signals end in a clean exit: its own raises SIGTERM again at the end.

    Told to stop, it first serves on for `drain_s`.
    """

    def __init__(self, config: HttpConfig, drain_s: float) -> None:
        super().__init__(config)
        self._leaving = config.leaving
        self._drain_s = drain_s

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT stop the server; another one cuts the draining short, and then the wait for calls."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        yield

    def _stop(self) -> None:
        if self._leaving.begun or self._drain_s == 0:
            self.force_exit = self.should_exit
            self._exit()
        else:
            asyncio.get_running_loop().call_later(self._drain_s, self._exit)
        self._leaving.begun = True

    def _exit(self) -> None:
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError when the address is taken or is none."""
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


async def serve(config: GatewayConfig, listening: Mapping[socket.socket, frozenset[Area]]) -> None:
    """Serve on sockets, each with what it serves, until a signal asks to stop.

    Then it serves on for `config.drain_s`, and waiting calls get `config.stop_s` to finish.
    """
    core = Core(config)
    forwarder = Forwarder(config.controller_socket, url=config.controller_url)
    leaving = Leaving()
    ports = {opened.getsockname()[1]: areas for opened, areas in listening.items()}
    settings = HttpConfig(
        _entry(config, core, forwarder, leaving, ports),
        leaving,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        log_level="error",
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(config.stop_s)),
    )
    server = GatewayServer(settings, config.drain_s)
    keep_freed_memory()
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, *gc.get_threshold()[1:])
    async with asyncio.TaskGroup() as group:
        running = group.create_task(core.run())
        await server.serve(sockets=list(listening))
        core.dispatcher.stop()
        cancelled = server.server_state.tasks
        if cancelled:
            await asyncio.wait(cancelled, timeout=CANCELLED_S)
        await forwarder.close()
        running.cancel()


def _entry(
    config: GatewayConfig, core: Core, forwarder: Forwarder, leaving: Leaving, ports: Mapping[int, frozenset[Area]]
) -> Entry:
    guard = Guard(config.allowed_hosts, credentials_required=config.auth_required)
    bodies = BodyReader()
    refusals: Counter[Rule] = Counter()
    access = Access(core.credentials.find, config.region, refusals) if config.auth_required else None

    def count(refusal: GuardRefusal) -> None:
        refusals[refusal.rule] += 1

    def readiness() -> dict[str, bool]:
        return core.readiness() | ({"staying": False} if leaving.begun else {})

    invoke = InvokeHandler(
        core.dispatcher,
        bodies,
        region=config.region,
        account=config.account,
        namespace=config.namespace,
        access=access,
    )
    return Entry(
        guard=guard,
        invoke=invoke,
        functions=FunctionRoute(core.dispatcher, guard, bodies, count, namespace=config.namespace, access=access),
        forwarder=forwarder,
        app=create_app(readiness, core.counters, refusals, forwarder),
        refusals=refusals,
        ports=ports,
        access=access,
    )


def raise_file_limit() -> None:
    """Allow as many connections as the system lets this process have: each waiting caller holds one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
