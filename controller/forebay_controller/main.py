"""The controller's process: start-up in phases, serving, and the end of the platform's instances with it."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from fastapi import FastAPI, Response
from redis.asyncio import Redis
from redis.exceptions import RedisError

from forebay_common import logs
from forebay_common.keys import PlatformKeys
from forebay_common.redis_client import command, connect
from forebay_controller.app import create_app
from forebay_controller.authenticator import Authenticator
from forebay_controller.code_store import CodeStore
from forebay_controller.config import ControllerConfig
from forebay_controller.controller import Controller, ControllerSettings
from forebay_controller.destinations.targets import Outgoing
from forebay_controller.http_server import make_server
from forebay_controller.interpreters import runtime_warning
from forebay_controller.key_ring import KeyRing
from forebay_controller.local_backend import LocalBackend
from forebay_controller.local_keys import LocalKeys, keys_of, signing_key_of
from forebay_controller.local_platform import make_local_backend
from forebay_controller.log_reader import LogFiles
from forebay_controller.management import ManagementSettings, Place, Queues
from forebay_controller.metrics import Metrics
from forebay_controller.registry import Registry

if TYPE_CHECKING:
    from forebay_controller.outbound import Outbound

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_log = logs.get(__name__)


async def serve(config: ControllerConfig) -> int:
    """Run until a signal asks to stop. Returns the exit status: 1 when a part of it ended by itself."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with _running(config) as (controller, app):
        server = make_server(app, uds=config.controller_socket)
        serving = asyncio.create_task(server.serve(), name="management server")
        failing = asyncio.create_task(controller.failed(), name="controller")
        asked = asyncio.create_task(stopping.wait(), name="signals")
        await asyncio.wait({serving, failing, asked}, return_when=asyncio.FIRST_COMPLETED)
        broken = not asked.done()
        for part in (serving, failing):
            if broken and part.done():
                _log.error("the %s ended by itself", part.get_name(), exc_info=part.exception())
        await (controller.leave() if broken else controller.stop())
        server.should_exit = True
        failing.cancel()
        await asyncio.wait({serving})
    return int(broken)


@contextlib.asynccontextmanager
async def _running(config: ControllerConfig) -> AsyncIterator[tuple[Controller, FastAPI]]:
    """Everything but the server, started in order and let go of in the opposite one.

    Raises redis.exceptions.RedisError, OSError when the data dir cannot be written, ValueError when its keys are none.
    """
    redis = connect(config.redis)
    platform = PlatformKeys(config.prefix)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(redis.aclose)
        code = CodeStore(redis)
        registry = Registry(redis, platform, code, Place(config.region, config.account, config.namespace))
        stack.push_async_callback(registry.close)
        keys = await asyncio.to_thread(keys_of, config.data_dir) if config.auth_required else None
        ring = KeyRing(redis, platform, keys or (), region=config.region)
        stack.push_async_callback(ring.close)
        _, backend, _ = await asyncio.gather(registry.load(), _backend(config, keys), ring.start())
        stack.push_async_callback(backend.close)
        signing_key = await asyncio.to_thread(signing_key_of, config.data_dir)
        controller = Controller(
            redis,
            platform,
            registry,
            backend,
            Outgoing(config.region, config.account, signing_key, lambda: _outbound(config)),
            settings=ControllerSettings(
                instances_max=config.instances_max, result_retention_s=config.result_retention_s
            ),
        )
        await controller.start()
        settings = ManagementSettings(
            logs=LogFiles(config.data_dir / "logs"),
            runtime_warning=runtime_warning,
            signing_key=signing_key,
            default_namespace=config.namespace,
        )
        authenticator = Authenticator(ring.credentials, region=config.region) if config.auth_required else None
        app = create_app(registry, controller, Queues(redis, platform), settings, authenticator)
        _add_health(app, redis, controller.metrics)
        yield controller, app


def _outbound(config: ControllerConfig) -> "Outbound":
    """The client for addresses that users name. Made when the first is needed: its import takes a third of a second."""
    from forebay_controller.outbound import Outbound  # noqa: PLC0415
    from forebay_controller.outbound_rules import ON_ONE_MACHINE, OutboundRules  # noqa: PLC0415

    allowed = config.outbound
    return Outbound(
        OutboundRules.of(allow_http=allowed.allow_http, allowed=allowed.allowed, names=ON_ONE_MACHINE),
    )


async def _backend(config: ControllerConfig, keys: LocalKeys | None) -> LocalBackend:
    access_key = None if keys is None else (keys.functions.access_key_id, keys.functions.secret_access_key)
    return await make_local_backend(
        prefix=config.prefix,
        redis=config.redis,
        region=config.region,
        account=config.account,
        gateway_url=config.gateway_url,
        run_dir=config.run_dir,
        data_dir=config.data_dir,
        retry_delays_s=config.retry_delays_s,
        access_key=access_key,
    )


def _add_health(app: FastAPI, redis: Redis, metrics: Metrics) -> None:
    """Whether the process lives, whether it can do its work, and what it has counted."""

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> Response:
        return Response("ok\n", media_type="text/plain")

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        try:
            await command(redis, "PING")
        except RedisError as error:
            return Response(f"Redis does not answer: {error}\n", status_code=503, media_type="text/plain")
        return Response("ready\n", media_type="text/plain")

    @app.get("/metrics", include_in_schema=False)
    async def show_metrics() -> Response:
        return Response(metrics.render(), headers={"content-type": _METRICS_TYPE})
