"""The leader's work: Functions become instances that run and entries that gateways route to."""

import asyncio
import contextlib
import os
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from forebay_common import logs
from forebay_common.keys import PlatformKeys
from forebay_common.redis_client import command
from forebay_common.spec import FunctionSpec
from forebay_controller.background import end_tasks
from forebay_controller.cluster.api import Api
from forebay_controller.cluster.code_source import CodeReader
from forebay_controller.cluster.config import PER_FUNCTION, ClusterConfig
from forebay_controller.cluster.credentials_source import CredentialsSource
from forebay_controller.cluster.function_access import FunctionAccess, rules_of
from forebay_controller.cluster.function_source import FunctionSource
from forebay_controller.cluster.handler_reports import HandlerReports
from forebay_controller.cluster.informer import Informer
from forebay_controller.cluster.pod_backend import PodBackend
from forebay_controller.cluster.policy_keeper import PolicyKeeper
from forebay_controller.cluster.process_endpoints import ProcessMetrics
from forebay_controller.cluster.redis_users import RedisUsers
from forebay_controller.cluster.resource import read
from forebay_controller.cluster.resources_store import ResourceStore
from forebay_controller.code_store import CodeStore
from forebay_controller.controller import Controller, ControllerSettings
from forebay_controller.destinations.signing import platform_signing_key
from forebay_controller.destinations.targets import Outgoing
from forebay_controller.interfaces import FunctionStatus
from forebay_controller.outbound import Outbound
from forebay_controller.outbound_rules import OutboundRules

REDIS_EVERY_S = 0.5

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Replica:
    """What every controller has, leading or not. `identity` is who it is in the election and in events."""

    config: ClusterConfig
    identity: str
    api: Api
    redis: Redis
    platform: PlatformKeys
    functions: Informer
    credentials: CredentialsSource
    code: CodeStore
    store: ResourceStore


class Leading:
    """What only the leader does; implements the management API's `Instances` for leaders and standbys."""

    def __init__(self, replica: Replica, metrics: ProcessMetrics) -> None:
        self._replica = replica
        self._metrics = metrics
        self._controller: Controller | None = None
        self._stack = contextlib.AsyncExitStack()

    def get_status(self, uid: str) -> FunctionStatus:
        """A function as this controller saw it last, or as the one that leads has written it down."""
        if self._controller is not None:
            return self._controller.get_status(uid)
        return self._replica.store.get_status(uid)

    async def retire(self, uid: str) -> None:
        """Nothing: a deleted Function's finalizer makes the leader do it."""

    async def run(self) -> None:
        """Take the work up and do it. Raises what ends it; close it all the same."""
        await self._redis_answers()
        controller, backend = await self._start()
        parts = [asyncio.create_task(controller.failed()), asyncio.create_task(backend.failed())]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        finally:
            await end_tasks(parts)

    async def close(self) -> None:
        """Let go of the work; instances go on."""
        self._controller = None
        await self._stack.aclose()

    async def _start(self) -> tuple[Controller, PodBackend]:
        """Everything in order: nothing may be routed or started before what it needs is there."""
        replica, stack = self._replica, self._stack
        reports = HandlerReports(replica.redis)
        stack.push_async_callback(reports.close)
        backend = PodBackend(replica.api, replica.config, reports.changed)
        stack.push_async_callback(backend.close)
        policies = await self._policies()
        access = await self._access(policies)
        outbound = Outbound(_outbound_rules(replica.config), own_addresses=policies.cluster_addresses)
        source = FunctionSource(
            replica.api,
            replica.functions,
            replica.redis,
            replica.platform,
            replica.code,
            CodeReader(replica.api, replica.redis, replica.platform, outbound),
            replica.config,
            prepare=access.prepare,
            release=access.release,
            instance=replica.identity,
        )
        stack.push_async_callback(source.close)
        await source.load()

        async def redis_returned() -> None:
            replica.credentials.publish_again()
            await source.republish_all()

        controller = Controller(
            replica.redis,
            replica.platform,
            source,
            backend,
            Outgoing(
                region=replica.config.region,
                account=replica.config.account,
                signing_key=platform_signing_key(replica.config.function_key),
                make_outbound=lambda: outbound,
            ),
            settings=ControllerSettings(
                instances_max=replica.config.instances_max, result_retention_s=replica.config.result_retention_s
            ),
            redis_returned=redis_returned,
        )
        stack.push_async_callback(controller.leave)
        await controller.start()
        source.start(controller.retire)
        self._controller = controller
        self._metrics.lead(controller.metrics)
        return controller, backend

    async def _policies(self) -> PolicyKeeper:
        replica = self._replica
        policies = PolicyKeeper(
            replica.api,
            replica.config,
            lambda: _served(replica),
            api_server_service=os.environ.get("KUBERNETES_SERVICE_HOST", ""),
        )
        self._stack.push_async_callback(policies.close)
        await policies.start()
        return policies

    async def _access(self, policies: PolicyKeeper) -> FunctionAccess:
        replica, stack = self._replica, self._stack
        users = None
        if replica.config.redis_acl == PER_FUNCTION:
            users = RedisUsers(replica.config.redis, replica.config.prefix)
            stack.push_async_callback(users.close)
            await users.start({uid: rules_of(replica.config, spec) for uid, spec in _served(replica).items()})
        await replica.credentials.publish(replica.redis, replica.platform, _served(replica).values())
        return FunctionAccess(
            replica.api, replica.config, policies=policies, credentials=replica.credentials, users=users
        )

    async def _redis_answers(self) -> None:
        """Wait for Redis: at an installation it comes up beside the controllers. Nothing tells when, so it is asked."""
        told = False
        while True:
            try:
                await command(self._replica.redis, "PING")
            except (AuthenticationError, ResponseError):
                raise
            except RedisError as error:
                if not told:
                    _log.warning("waiting for Redis: %s", error)
                    told = True
                await asyncio.sleep(REDIS_EVERY_S)
            else:
                return


def _served(replica: Replica) -> dict[str, FunctionSpec]:
    """The functions that may have instances, by uid."""
    resources = [read(item) for item in replica.functions.objects.values()]
    return {
        resource.spec.uid: resource.spec
        for resource in resources
        if replica.config.serves(resource.spec.namespace) and not resource.problem
    }


def _outbound_rules(config: ClusterConfig) -> OutboundRules:
    policy = config.network_policy
    return OutboundRules.of(
        allow_http=config.outbound.allow_http,
        allowed=config.outbound.allowed,
        refused=(*policy.cluster_cidrs, *policy.blocked_cidrs),
    )
