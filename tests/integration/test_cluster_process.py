"""The controller's process on a cluster: a real process on a scripted API server and a real Valkey."""

import asyncio
import base64
import json
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from forebay_common.keys import PlatformKeys
from forebay_common.queue import VersionQueue, delete_function_keys
from forebay_common.redis_client import command
from forebay_common.routing import RoutingEntry
from forebay_controller.cluster.access import redis_user, secret_name
from forebay_controller.cluster.api import FUNCTIONS, LEASES, NETWORK_POLICIES, PODS, SECRETS
from forebay_controller.cluster.resource import read
from forebay_controller.cluster.uninstall import Installation
from forebay_controller.make_secrets import make_secrets
from support.cluster_config import SETTINGS
from support.event_rig import Events
from support.ports import free_port
from support.queue_side import event
from support.scripted_api_server import ScriptedApiServer, scripted_api_server
from support.waiting import wait_until_async

HELLO: dict[str, Any] = {
    "apiVersion": "forebay.dev/v1alpha1",
    "kind": "Function",
    "metadata": {"name": "hello", "namespace": "team-a"},
    "spec": {
        "runtime": "python3.13",
        "handler": "app.handler",
        "code": {"inline": {"app.py": "def handler(event, context): return 1"}},
        "scale": {"minInstances": 1},
    },
}


@dataclass
class Cluster:
    server: ScriptedApiServer
    folder: Path
    valkey: dict[str, Any]
    prefix: str

    @asynccontextmanager
    async def controller(self) -> AsyncIterator["Controller"]:
        port, metrics_port = free_port(), free_port()
        document = {
            **SETTINGS,
            "redis": self.valkey,
            "prefix": self.prefix,
            "auth": "required",
            "cluster": {
                **SETTINGS["cluster"],
                "function_key_file": str(self.folder / "key"),
                "host": "127.0.0.1",
                "port": port,
                "metrics_port": metrics_port,
                "network_policy": {"read_nodes": False},
            },
        }
        config = self.folder / f"{port}.json"
        config.write_text(json.dumps(document))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "forebay_controller", "--config", str(config)),
            env={"KUBECONFIG": str(self.folder / "kubeconfig"), "POD_NAME": f"controller-{port}"},
        )
        controller = Controller(process, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{metrics_port}")
        try:
            await wait_until_async(controller.ready, "the controller is ready", 30)
            yield controller
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def holder(self) -> str:
        if not self.server.has(LEASES, "forebay", "forebay-controller"):
            return ""
        return str(self.server.get(LEASES, "forebay", "forebay-controller")["spec"]["holderIdentity"])

    async def has_pods(self) -> bool:
        return bool(self.server.all(PODS))


@dataclass
class Controller:
    process: Process
    management: str
    own: str

    async def ready(self) -> bool:
        assert self.process.returncode is None, "the controller ended at its start"
        try:
            async with httpx.AsyncClient() as client:
                return (await client.get(f"{self.own}/readyz")).is_success
        except httpx.TransportError:
            return False

    async def leads(self) -> bool:
        async with httpx.AsyncClient() as client:
            return "forebay_controller_leads 1.0" in (await client.get(f"{self.own}/metrics")).text

    async def ends(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            return await self.process.wait()


@pytest.fixture
async def cluster(tmp_path: Path, valkey_server: dict[str, Any], redis: Redis, prefix: str) -> AsyncIterator[Cluster]:
    async with scripted_api_server() as server:
        server.created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        (tmp_path / "key").write_text("function key")
        context = {"name": "test", "context": {"cluster": "test", "user": "test"}}
        kubeconfig = {
            "current-context": "test",
            "contexts": [context],
            "clusters": [{"name": "test", "cluster": {"server": server.url}}],
            "users": [{"name": "test", "user": {}}],
        }
        (tmp_path / "kubeconfig").write_text(json.dumps(kubeconfig))
        api = server.api()
        await make_secrets(api, Installation("forebay", "forebay", "forebay"))
        await api.close()
        yield Cluster(server, tmp_path, valkey_server, prefix)
        for item in server.all(FUNCTIONS):
            spec = read(item).spec
            queue = VersionQueue(PlatformKeys(prefix).function(spec.namespace, spec.name, spec.uid))
            await delete_function_keys(redis, queue.keys)
            await command(redis, "ACL", "DELUSER", redis_user(prefix, spec.uid))
        platform = PlatformKeys(prefix)
        await command(redis, "UNLINK", platform.functions, platform.generation, platform.credentials)


async def test_a_function_becomes_a_pod_with_all_that_it_needs_and_leaves_nothing(
    cluster: Cluster, redis: Redis
) -> None:
    platform = PlatformKeys(cluster.prefix)
    async with cluster.controller() as controller:
        await wait_until_async(controller.leads, "it leads")
        cluster.server.put(FUNCTIONS, HELLO)
        await wait_until_async(cluster.has_pods, "its pod is created")
        spec = read(cluster.server.get(FUNCTIONS, "team-a", "hello")).spec
        (pod,) = cluster.server.all(PODS)
        assert pod["metadata"]["ownerReferences"][0]["name"] == "hello"
        assert cluster.server.has(SECRETS, "team-a", secret_name(spec))
        assert len(cluster.server.all(NETWORK_POLICIES)) == 2
        users = await command(redis, "ACL", "USERS")
        assert redis_user(cluster.prefix, spec.uid).encode() in users
        entry = RoutingEntry.from_json(await command(redis, "HGET", platform.functions, "team-a/hello"))
        assert (entry.uid, entry.auth) == (spec.uid, "key")
        # The installation's key, and the function's own.
        assert await command(redis, "HLEN", platform.credentials) == 2

        cluster.server.delete(FUNCTIONS, "team-a", "hello")

        async def gone() -> bool:
            return not cluster.server.has(FUNCTIONS, "team-a", "hello")

        await wait_until_async(gone, "the Function is gone", 30)
        assert redis_user(cluster.prefix, spec.uid).encode() not in await command(redis, "ACL", "USERS")
        assert await command(redis, "HLEN", platform.credentials) == 1
        assert await command(redis, "HLEN", platform.functions) == 0
        assert await controller.ends() == 0


async def test_a_standby_serves_management_and_goes_on_with_the_work_at_once(cluster: Cluster) -> None:
    api_key = read_api_key(cluster)
    async with cluster.controller() as first:
        await wait_until_async(first.leads, "one leads")
        async with cluster.controller() as second, httpx.AsyncClient() as client:
            url = f"{second.management}/ns/team-a/2015-03-31/functions"
            assert (await client.get(url)).status_code == 403
            assert (await client.get(url, headers={"X-Api-Key": api_key})).json()["Functions"] == []
            cluster.server.put(FUNCTIONS, HELLO)
            await wait_until_async(cluster.has_pods, "the leader creates its pod")
            (shown,) = (await client.get(url, headers={"X-Api-Key": api_key})).json()["Functions"]
            assert shown["FunctionName"] == "hello"
            assert not await second.leads()
            before = len(cluster.server.all(PODS))
            async with asyncio.timeout(5):  # far below the Lease's duration
                assert await first.ends() == 0
                await wait_until_async(second.leads, "the standby leads")
            assert second.management.rpartition(":")[2] in cluster.holder()
            assert len(cluster.server.all(PODS)) == before


async def test_a_standby_answers_for_events_and_tells_what_the_leader_counted(cluster: Cluster, redis: Redis) -> None:
    headers = {"X-Api-Key": read_api_key(cluster)}
    cluster.server.put(FUNCTIONS, HELLO)
    async with cluster.controller() as first:
        await wait_until_async(first.leads, "one leads")
        async with cluster.controller() as second, httpx.AsyncClient(headers=headers) as client:
            await wait_until_async(cluster.has_pods, "the leader has taken the function up")
            spec = read(cluster.server.get(FUNCTIONS, "team-a", "hello")).spec
            keys = PlatformKeys(cluster.prefix).function(spec.namespace, spec.name, spec.uid)
            events = Events(redis, VersionQueue(keys), spec.uid)
            v1 = f"{second.management}/ns/team-a/v1"
            dead, ident = await events.die(), await events.accept()

            waiting = asyncio.create_task(client.get(f"{v1}/invocations/{ident}?wait=30"))
            cancelled = await client.post(f"{v1}/invocations/{ident}/cancel")
            letters = (await client.get(f"{v1}/functions/hello/dead-letters")).json()["dead_letters"]

            assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
            assert (await waiting).json()["status"] == "cancelled"
            assert [letter["invocation_id"] for letter in letters] == [dead]
            elsewhere = await client.get(f"{second.management}/ns/team-b/v1/invocations/{dead}")
            assert elsewhere.status_code == 404

            async def counted() -> bool:
                status = (await client.get(f"{v1}/functions/hello/status")).json()
                return bool(status["dead_letters"] == 1)

            await wait_until_async(counted, "the standby tells what the leader has counted")
            assert cluster.server.get(FUNCTIONS, "team-a", "hello")["status"]["deadLetters"] == 1
            redriven = await client.post(f"{v1}/functions/hello/dead-letters/redrive", json={"all": True})
            assert redriven.json() == {"redriven": 1, "missing": 0}
            assert (await client.get(f"{v1}/invocations/{dead}")).json()["status"] == "queued"
            assert not await second.leads()


async def test_destinations_are_told_by_whoever_leads_and_every_replica_knows_the_secret(
    cluster: Cluster, redis: Redis
) -> None:
    stream = PlatformKeys(cluster.prefix).stream("team-a", "ends")
    told = {**HELLO["spec"], "async": {"onSuccess": {"stream": "ends"}}}
    cluster.server.put(FUNCTIONS, {**HELLO, "spec": told})
    headers = {"X-Api-Key": read_api_key(cluster)}

    async def entries(count: int) -> None:
        async def there() -> bool:
            return bool(await redis.xlen(stream) == count)

        await wait_until_async(there, f"{count} ends are told")

    async with cluster.controller() as first:
        await wait_until_async(first.leads, "one leads")
        async with cluster.controller() as second, httpx.AsyncClient(headers=headers) as client:
            await wait_until_async(cluster.has_pods, "the leader has taken the function up")
            spec = read(cluster.server.get(FUNCTIONS, "team-a", "hello")).spec
            queue = VersionQueue(PlatformKeys(cluster.prefix).function(spec.namespace, spec.name, spec.uid))
            path = "/ns/team-a/v1/functions/hello/signing-secret"
            secrets = [(await client.get(f"{one.management}{path}")).json()["secret"] for one in (first, second)]
            assert len(set(secrets)) == 1
            await put_ended(redis, queue)
            await entries(1)
            assert await first.ends() == 0
            await put_ended(redis, queue)
            await wait_until_async(second.leads, "the standby leads")
            await entries(2)
    await redis.unlink(stream)


async def put_ended(redis: Redis, queue: VersionQueue) -> None:
    """An event that has just succeeded."""
    fields = ("r", event(attempt=1).encode(), "s", "succeeded", "reason", "", "f", b"")
    await command(redis, "XADD", queue.outbox, "*", *fields)
    await command(redis, "PUBLISH", f"{queue.keys.base.partition(':')[0]}:wake", queue.keys.base.split("{")[1][:-1])


def read_api_key(cluster: Cluster) -> str:
    return base64.b64decode(cluster.server.get(SECRETS, "forebay", "forebay-admin")["data"]["apiKey"]).decode()
