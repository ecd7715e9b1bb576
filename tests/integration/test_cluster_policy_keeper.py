"""Network policies stay as they should be, whatever changes around them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from forebay_common.spec import FunctionSpec, PodSpec
from forebay_controller.cluster import policy_keeper
from forebay_controller.cluster.acceptance import PrepareError
from forebay_controller.cluster.api import ENDPOINT_SLICES, NETWORK_POLICIES, Api
from forebay_controller.cluster.policy_keeper import NODES, PolicyKeeper
from support.cluster_config import cluster_config, function
from support.controller_rig import until
from support.scripted_api_server import ScriptedApiServer, scripted_api_server

EVERY, INTERNET = "forebay.forebay.functions", "forebay.forebay.internet"


@dataclass
class Rig:
    server: ScriptedApiServer
    api: Api
    functions: dict[str, FunctionSpec] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.keeper = PolicyKeeper(self.api, cluster_config(), lambda: self.functions, api_server_service="10.96.0.1")

    def has(self, name: str, namespace: str = "team-a") -> bool:
        return self.server.has(NETWORK_POLICIES, namespace, name)

    def excepted(self, address: str) -> bool:
        return address in str(self.server.get(NETWORK_POLICIES, "team-a", INTERNET)["spec"]["egress"])


def node(name: str, address: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": {"addresses": [{"type": "ExternalIP", "address": address}]}}


def endpoints(*addresses: str) -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": "kubernetes"}
    metadata = {"name": "kubernetes", "namespace": "default", "labels": labels}
    return {"metadata": metadata, "addressType": "IPv4", "endpoints": [{"addresses": [a]} for a in addresses]}


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with scripted_api_server() as server:
        server.put(NODES, node("one", "34.1.1.1"))
        server.put(ENDPOINT_SLICES, endpoints("35.1.1.1"))
        api = server.api(retry_for_s=0)
        rig = Rig(server, api)
        await rig.keeper.start()
        yield rig
        await rig.keeper.close()
        await api.close()


async def test_a_namespaces_policies_are_there_before_its_first_pod(rig: Rig) -> None:
    spec = function()
    await rig.keeper.ensure(spec)
    assert rig.has(EVERY)
    assert rig.has(INTERNET)
    assert rig.excepted("34.1.1.1/32")
    assert rig.excepted("35.1.1.1/32")
    requests = len(rig.server.requests)
    await rig.keeper.ensure(spec)
    assert len(rig.server.requests) == requests


async def test_new_nodes_and_other_addresses_of_the_api_server_are_left_out_too(rig: Rig) -> None:
    rig.functions["a"] = function()
    await rig.keeper.ensure(function())
    rig.server.put(NODES, node("two", "34.2.2.2"))
    await until(lambda: rig.excepted("34.2.2.2/32"), "the new node is left out")
    rig.server.put(ENDPOINT_SLICES, endpoints("35.2.2.2"))
    await until(lambda: rig.excepted("35.2.2.2/32") and not rig.excepted("35.1.1.1/32"), "the new address is left out")


async def test_a_policy_that_somebody_deletes_or_widens_is_made_again(rig: Rig) -> None:
    rig.functions["a"] = function()
    await rig.keeper.ensure(function())
    rig.server.delete(NETWORK_POLICIES, "team-a", EVERY)
    await until(lambda: rig.has(EVERY), "it is made again")
    rig.server.change_spec(NETWORK_POLICIES, "team-a", INTERNET, egress=[{}])
    await until(lambda: rig.excepted("34.1.1.1/32"), "it is as it was")


async def test_a_namespace_that_takes_no_policies_holds_up_no_other(rig: Rig) -> None:
    fault = rig.server.fail("PATCH", "namespaces/team-0/networkpolicies", 403, times=1_000)
    rig.functions["a"] = function(namespace="team-0")
    rig.functions["b"] = function(namespace="team-z")
    rig.server.put(NODES, node("two", "34.2.2.2"))
    await until(lambda: rig.has(INTERNET, "team-z"), "the other one's are there")
    assert fault.times < 1_000


async def test_what_no_function_needs_goes_once_no_instance_can_be_running(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_keeper, "UNUSED_FOR_S", 0.3)
    loop = asyncio.get_running_loop()
    rig.functions["a"] = function()
    await rig.keeper.ensure(function())
    began_s = loop.time()
    del rig.functions["a"]
    rig.server.put(NODES, node("two", "34.2.2.2"))
    await until(lambda: not rig.has(EVERY) and not rig.has(INTERNET), "they are gone")
    assert loop.time() - began_s >= 0.3


async def test_an_egress_that_cannot_be_read_is_a_problem_of_the_function(rig: Rig) -> None:
    with pytest.raises(PrepareError) as caught:
        await rig.keeper.ensure(function(pod=PodSpec(resource_name="hello", egress="example.com")))
    assert (caught.value.reason, caught.value.may_pass) == ("InvalidEgress", False)
