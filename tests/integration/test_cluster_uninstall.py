"""Uninstalling takes back what the platform made and keeps Functions, over real HTTP, with troubles on the way."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from forebay_controller.cluster import uninstall as module
from forebay_controller.cluster.access import secret_name
from forebay_controller.cluster.api import FUNCTIONS, LEASES, NETWORK_POLICIES, PODS, SECRETS, Kind
from forebay_controller.cluster.resource import FINALIZER, read
from forebay_controller.cluster.uninstall import DEPLOYMENTS, Installation, UninstallError, uninstall
from support.controller_rig import until
from support.function_objects import function_object
from support.scripted_api_server import ScriptedApiServer, scripted_api_server

INSTALLATION = Installation("pool", "platform", "pool-forebay")
MADE = {"app.kubernetes.io/managed-by": "forebay", "app.kubernetes.io/part-of": "platform.pool"}
CONTROLLER = {"app.kubernetes.io/component": "controller", "app.kubernetes.io/instance": "pool"}


@pytest.fixture
async def server() -> AsyncIterator[ScriptedApiServer]:
    async with scripted_api_server() as running:
        put(running, DEPLOYMENTS, "platform", "pool-forebay-controller", spec={"replicas": 2})
        put(running, LEASES, "platform", "pool-forebay-controller")
        yield running


def put(server: ScriptedApiServer, kind: Kind, namespace: str, name: str, **members: Any) -> None:
    labels = members.pop("labels", {})
    server.put(kind, {"metadata": {"namespace": namespace, "name": name, "labels": labels}, **members})


def put_function(server: ScriptedApiServer, name: str = "hello", finalizers: tuple[str, ...] = (FINALIZER,)) -> None:
    """A Function with its pod, its Secret and its namespace's policy."""
    function = function_object(name)
    function["metadata"]["finalizers"] = [*finalizers]
    server.put(FUNCTIONS, function)
    put(server, PODS, "team", f"fn-{name}-1", labels=MADE)
    put(server, SECRETS, "team", secret_name(read(function).spec))
    put(server, NETWORK_POLICIES, "team", "platform.pool.functions", labels=MADE)


async def run(server: ScriptedApiServer, installation: Installation = INSTALLATION) -> None:
    api = server.api(retry_for_s=0)
    try:
        async with asyncio.timeout(10):
            await uninstall(api, installation)
    finally:
        await api.close()


async def test_functions_stay_without_our_finalizer_and_what_was_made_for_them_goes(server: ScriptedApiServer) -> None:
    put_function(server, finalizers=("shop.example/own", FINALIZER))
    put(server, PODS, "team", "another", labels={**MADE, "app.kubernetes.io/part-of": "platform.other"})
    put(server, SECRETS, "team", "another")
    await run(server)
    assert server.get(FUNCTIONS, "team", "hello")["metadata"]["finalizers"] == ["shop.example/own"]
    assert [pod["metadata"]["name"] for pod in server.all(PODS)] == ["another"]
    assert [secret["metadata"]["name"] for secret in server.all(SECRETS)] == ["another"]
    assert server.all(NETWORK_POLICIES) == []
    assert server.all(LEASES) == []


async def test_a_function_that_waits_for_its_deletion_is_gone_then(server: ScriptedApiServer) -> None:
    put_function(server)
    server.delete(FUNCTIONS, "team", "hello")
    await run(server)
    assert server.all(FUNCTIONS) == []


async def test_controllers_end_before_anything_is_taken_back(server: ScriptedApiServer) -> None:
    put_function(server)
    put(server, PODS, "platform", "leader", labels=CONTROLLER)
    running = asyncio.create_task(run(server))
    await until(lambda: server.watching == 1, "it waits for the controllers")
    assert server.get(DEPLOYMENTS, "platform", "pool-forebay-controller")["spec"]["replicas"] == 0
    assert server.count("DELETE", "") == 0
    server.delete(PODS, "platform", "leader")
    await running
    assert server.all(PODS) == []


async def test_controllers_that_do_not_end_are_named(
    server: ScriptedApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONTROLLERS_END_S", 0.1)
    put_function(server)
    put(server, PODS, "platform", "leader", labels=CONTROLLER)
    with pytest.raises(UninstallError, match="controllers do not end: leader; delete their pods"):
        await run(server)
    assert server.get(FUNCTIONS, "team", "hello")["metadata"]["finalizers"] == [FINALIZER]


async def test_pods_that_work_for_long_hold_up_nothing(
    server: ScriptedApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PODS_END_S", 0.1)
    put_function(server)
    at_work = server.get(PODS, "team", "fn-hello-1")
    at_work["metadata"]["finalizers"] = ["shop.example/own"]  # stands for the kubelet, which lets it finish
    server.put(PODS, at_work)
    await run(server)
    assert "deletionTimestamp" in server.get(PODS, "team", "fn-hello-1")["metadata"]
    assert not server.get(FUNCTIONS, "team", "hello")["metadata"]["finalizers"]


async def test_a_function_that_somebody_changes_meanwhile_loses_its_finalizer_all_the_same(
    server: ScriptedApiServer,
) -> None:
    put_function(server)
    conflict = server.fail("PATCH", "functions/hello", 409, reason="Conflict")
    await run(server)
    assert conflict.times == 0
    assert not server.get(FUNCTIONS, "team", "hello")["metadata"]["finalizers"]


async def test_an_installation_that_never_came_up_is_taken_back_too(server: ScriptedApiServer) -> None:
    """No Deployment, and a cluster that does not know Functions."""
    server.fail("PATCH", "deployments/pool-forebay-controller/scale", 404, reason="NotFound")
    server.fail("GET", "functions", 404, reason="NotFound")
    await run(server)
    assert server.all(LEASES) == []


async def test_only_the_namespaces_that_it_served_are_looked_at(server: ScriptedApiServer) -> None:
    put_function(server)
    await run(server, Installation("pool", "platform", "pool-forebay", ("shop",)))
    assert server.get(FUNCTIONS, "team", "hello")["metadata"]["finalizers"] == [FINALIZER]
    assert server.count("GET", "^/apis/forebay.dev/v1alpha1/functions") == 0


def test_a_configuration_that_is_no_clusters_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks release and release_namespace and full_name"):
        Installation.from_json({"redis": {}})
