"""The controller's process on a cluster.

Every replica keeps all Functions and access keys by list and watch, serves the management API and is Ready. One of
them, the Lease's holder, also does the work: it is `leading.py`'s. A process that loses the Lease, or whose view of the
cluster has stopped, ends; Kubernetes starts it again, as a standby.
"""

import asyncio
import contextlib
import hmac
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from fastapi import FastAPI
from kubernetes.aio.config import ConfigException
from redis.asyncio import Redis

from forebay_common import logs
from forebay_common.keys import PlatformKeys
from forebay_common.redis_client import connect
from forebay_controller.app import create_app
from forebay_controller.authenticator import Authenticator
from forebay_controller.background import end_tasks
from forebay_controller.cluster.api import FUNCTIONS, Api, ApiError, connect_api
from forebay_controller.cluster.config import ClusterConfig
from forebay_controller.cluster.credentials_source import CredentialsSource
from forebay_controller.cluster.informer import Informer
from forebay_controller.cluster.leader import Leadership, LeadershipLostError, LeaseSettings
from forebay_controller.cluster.leading import Leading, Replica
from forebay_controller.cluster.pod_logs import PodLogs
from forebay_controller.cluster.process_endpoints import ProcessMetrics, process_app
from forebay_controller.cluster.resources_store import ResourceStore
from forebay_controller.code_store import CodeStore
from forebay_controller.destinations.signing import platform_signing_key
from forebay_controller.http_server import HttpServer, make_server
from forebay_controller.management import ManagementSettings, Queues

LEAVE_MAX_S = 3.0
"""For letting go of the work in good order. After a lost Lease less than the time until another one may take it."""

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What runs in every replica."""

    replica: Replica
    leadership: Leadership
    leading: Leading
    servers: list[HttpServer]


async def serve(config: ClusterConfig) -> int:
    """Run until a signal asks to stop.

    Returns the exit status: 1 when a part of it ended by itself, 2 when it cannot start.
    """
    try:
        return await _serve(config)
    except (ApiError, ConfigException) as error:
        _log.error("the controller cannot start: %s", error)
        return 2


async def _serve(config: ClusterConfig) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with _parts(config) as parts:
        serving = [asyncio.create_task(server.serve(), name="a server") for server in parts.servers]
        work = asyncio.create_task(_lead(parts), name="the leader's work")
        watching = asyncio.create_task(_failed(parts.replica), name="the view of the cluster")
        asked = asyncio.create_task(_happened(stopping), name="signals")
        await asyncio.wait({*serving, work, watching, asked}, return_when=asyncio.FIRST_COMPLETED)
        broken = not stopping.is_set()
        for part in (*serving, work, watching):
            if broken and part.done():
                _log.error("%s ended by itself: %s", part.get_name(), part.exception())
        # First the work, so that a standby goes on with it while the last management calls are answered here.
        await _leave(parts, work)
        for server in parts.servers:
            server.should_exit = True
        await end_tasks([watching, asked])
        await asyncio.wait(serving)
    return int(broken)


async def _happened(event: asyncio.Event) -> None:
    await event.wait()


async def _lead(parts: _Parts) -> None:
    """Wait for the Lease, do the leader's work as long as it is held. Raises what ends it."""
    await parts.leadership.acquire()
    holding = asyncio.create_task(parts.leadership.hold(), name="the Lease")
    working = asyncio.create_task(parts.leading.run(), name="the work")
    try:
        await asyncio.wait({holding, working}, return_when=asyncio.FIRST_COMPLETED)
        for part in (holding, working):
            if part.done():
                part.result()
    finally:
        await end_tasks([working, holding])


async def _leave(parts: _Parts, work: asyncio.Task[None]) -> None:
    lost = work.done() and not work.cancelled() and isinstance(work.exception(), LeadershipLostError)
    try:
        async with asyncio.timeout(LEAVE_MAX_S):
            await end_tasks([work])
            await parts.leading.close()
    except TimeoutError:
        _log.warning("some work did not end in time; the next leader finds what was left undone")
    if not lost:
        await parts.leadership.release()


async def _failed(replica: Replica) -> None:
    """Return, by raising its error, when this replica does not see any more what happens."""
    watches: Iterable[asyncio.Task[None]] = {
        asyncio.create_task(replica.functions.failed()),
        asyncio.create_task(replica.credentials.failed()),
    }
    try:
        done, _ = await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
        for watch in done:
            watch.result()
    finally:
        await end_tasks(watches)


@contextlib.asynccontextmanager
async def _parts(config: ClusterConfig) -> AsyncIterator[_Parts]:
    """Everything, started in order and let go of in the opposite one."""
    identity = f"{os.environ.get('POD_NAME') or socket.gethostname()}_{secrets.token_hex(4)}"
    async with contextlib.AsyncExitStack() as stack:
        api = await connect_api()
        stack.push_async_callback(api.close)
        redis = connect(config.redis)
        stack.push_async_callback(redis.aclose)
        replica = await _replica(config, api, redis, stack, identity)
        leadership = Leadership(
            api,
            LeaseSettings(
                config.release_namespace,
                f"{config.full_name}-controller",
                identity,
                config.lease_duration_s,
                config.renew_deadline_s,
                config.retry_period_s,
            ),
        )
        await leadership.start()
        stack.push_async_callback(leadership.close)
        metrics = ProcessMetrics()
        leading = Leading(replica, metrics)
        servers = [
            make_server(_management(replica, leading), host=config.host, port=config.port),
            make_server(process_app(metrics), host=config.host, port=config.metrics_port),
        ]
        yield _Parts(replica, leadership, leading, servers)


async def _replica(
    config: ClusterConfig, api: Api, redis: Redis, stack: contextlib.AsyncExitStack, identity: str
) -> Replica:
    functions = Informer(api, FUNCTIONS, config.namespaces)
    await functions.start()
    stack.push_async_callback(functions.close)
    credentials = CredentialsSource(api, config)
    await credentials.start()
    stack.push_async_callback(credentials.close)
    platform = PlatformKeys(config.prefix)
    code = CodeStore(redis)
    store = ResourceStore(api, functions, redis, platform, code, config)
    store.start()
    return Replica(config, identity, api, redis, platform, functions, credentials, code, store)


def _management(replica: Replica, leading: Leading) -> FastAPI:
    """The management API; on a standby it tells of instances what the leader has written down."""
    config = replica.config

    def runtime_warning(runtime: str) -> str:
        if not runtime or runtime in config.runtimes:
            return ""
        return f"this installation has no image for {runtime}; it has {', '.join(sorted(config.runtimes)) or 'none'}"

    settings = ManagementSettings(
        logs=PodLogs(replica.api, config),
        runtime_warning=runtime_warning,
        signing_key=platform_signing_key(config.function_key),
        default_namespace=config.namespace,
        runtimes=tuple(sorted(config.runtimes)),
        code_link_key=hmac.digest(config.function_key, b"code links", "sha256"),
    )
    authenticator = None
    if config.auth == "required":
        authenticator = Authenticator(replica.credentials.credentials, region=config.region)
    queues = Queues(replica.redis, replica.platform)
    return create_app(replica.store, leading, queues, settings, authenticator)
