"""Instances as pods against a scripted API server: creation, refusals, ends, adoption, and pods that never go."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from forebay_controller.cluster import pod_backend
from forebay_controller.cluster.api import PODS
from forebay_controller.cluster.pod_backend import PodBackend
from forebay_controller.interfaces import InstanceStartError
from support.cluster_config import UID, cluster_config, function
from support.controller_rig import until
from support.scripted_api_server import ScriptedApiServer, scripted_api_server

SPEC = function()
KEPT = "test/kubelet"
"""A finalizer, in the place of the kubelet that has not ended a pod's containers yet."""


@dataclass
class Node:
    """A backend, and the part of a kubelet and a scheduler that a test plays."""

    server: ScriptedApiServer
    backend: PodBackend
    ends: list[tuple[str, str]] = field(default_factory=list)

    def pod(self, instance_id: str) -> dict[str, Any]:
        return self.server.get(PODS, "team-a", f"fn-hello-{instance_id}")

    def has(self, instance_id: str) -> bool:
        return self.server.has(PODS, "team-a", f"fn-hello-{instance_id}")

    def says(self, instance_id: str, *, keep: bool = False, **status: Any) -> None:
        pod = self.pod(instance_id)
        pod["status"] = status
        if keep:
            pod["metadata"]["finalizers"] = [KEPT]
        self.server.put(PODS, pod)

    def ended(self, instance_id: str, code: int, message: str = "", *, keep: bool = False) -> None:
        terminated = {"terminated": {"exitCode": code, "message": message}}
        self.says(instance_id, keep=keep, phase="Running", containerStatuses=[{"name": "runtime", "state": terminated}])

    def goes(self, instance_id: str) -> None:
        """The kubelet has ended it."""
        pod = self.pod(instance_id)
        pod["metadata"]["finalizers"] = []
        self.server.put(PODS, pod)
        self.server.delete(PODS, "team-a", pod["metadata"]["name"])

    def held_up(self, instance_id: str) -> str:
        return self.backend.instances()[instance_id].held_up


@pytest.fixture
async def server() -> AsyncIterator[ScriptedApiServer]:
    async with scripted_api_server() as running:
        yield running


@pytest.fixture
async def node(server: ScriptedApiServer) -> AsyncIterator[Node]:
    api = server.api(retry_for_s=1.0, request_timeout_s=5.0)
    node = Node(server, PodBackend(api, cluster_config()))
    node.backend.on_exit(lambda instance_id, reason: node.ends.append((instance_id, reason)))
    await node.backend.adopt({})
    yield node
    await node.backend.close()
    await api.close()


async def test_an_instance_is_known_as_soon_as_its_pod_was_asked_for(node: Node) -> None:
    await node.backend.start(SPEC, "a1")
    running = node.backend.instances()["a1"]
    assert (running.uid, running.revision, running.held_up) == (UID, 1, "")
    assert node.pod("a1")["spec"]["restartPolicy"] == "Never"


async def test_a_burst_of_two_hundred_is_created_side_by_side(node: Node) -> None:
    node.server.latency_s = 0.05
    began_s = time.monotonic()
    await asyncio.gather(*(node.backend.start(SPEC, f"{number:016x}") for number in range(200)))
    assert len(node.server.all(PODS)) == 200
    assert node.server.in_flight_most > 20
    assert time.monotonic() - began_s < 200 * node.server.latency_s, "one after the other takes longer"


async def test_a_pod_that_is_refused_tells_the_api_servers_reason(node: Node) -> None:
    node.server.fail("POST", "pods", 403, reason="Forbidden")
    with pytest.raises(InstanceStartError, match="Kubernetes refused its pod: as the test says"):
        await node.backend.start(SPEC, "a1")
    assert node.backend.instances() == {}


async def test_a_creation_whose_answer_was_lost_counts_once(node: Node) -> None:
    node.server.fail("POST", "pods", 500, done=True)
    await node.backend.start(SPEC, "a1")
    assert len(node.server.all(PODS)) == 1
    assert [*node.backend.instances()] == ["a1"]


async def test_too_many_requests_are_asked_for_again(node: Node) -> None:
    node.server.fail("POST", "pods", 429, headers={"Retry-After": "0"})
    await node.backend.start(SPEC, "a1")
    assert node.has("a1")


async def test_why_a_pod_does_not_come_up_is_known_and_forgotten_when_it_does(node: Node) -> None:
    await node.backend.start(SPEC, "a1")
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
    node.says("a1", phase="Pending", conditions=[condition])
    await until(lambda: node.held_up("a1") == "no node has room for it: 0/1 nodes", "it is known")
    node.says("a1", phase="Pending", conditions=[condition | {"status": "True"}])
    await until(lambda: node.held_up("a1") == "", "it is forgotten")
    assert node.ends == []


async def test_a_drained_instance_is_deleted_and_holds_its_place_until_it_is_gone(node: Node) -> None:
    await node.backend.start(SPEC, "a1")
    node.ended("a1", 0, keep=True)
    await until(lambda: "deletionTimestamp" in node.pod("a1")["metadata"], "its pod is deleted")
    assert "a1" in node.backend.instances()
    node.goes("a1")
    await until(lambda: node.ends == [("a1", "")], "its end is told")
    assert node.backend.instances() == {}


async def test_a_crash_is_told_at_once_and_once_though_the_pod_takes_its_time(node: Node) -> None:
    await node.backend.start(SPEC, "a1")
    node.ended("a1", 1, "its handler cannot be imported", keep=True)
    await until(lambda: node.ends == [("a1", "its handler cannot be imported")], "its end is told")
    await until(lambda: "deletionTimestamp" in node.pod("a1")["metadata"], "its pod is deleted")
    node.goes("a1")
    await until(lambda: not node.has("a1"), "it is gone")
    assert len(node.ends) == 1


async def test_a_runtime_without_handlers_gets_time_for_its_last_answers(node: Node) -> None:
    await node.backend.start(SPEC, "a1")
    states = [
        {"name": "runtime", "state": {"running": {}}},
        {"name": "handlers", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}},
    ]
    node.says("a1", phase="Running", containerStatuses=states)
    await until(lambda: node.ends, "its end is told")
    assert node.ends == [("a1", "the function used more than its memory and was killed")]
    (deletion,) = [seen for seen in node.server.requests if seen.method == "DELETE"]
    assert deletion.body["gracePeriodSeconds"] == pod_backend.LAST_ANSWERS_S


async def test_a_killed_instance_ended_as_it_was_asked_to(node: Node) -> None:
    await node.backend.start(SPEC, "a1")
    await node.backend.kill("a1")
    await until(lambda: node.ends == [("a1", "")], "its end is told")
    assert not node.has("a1")


async def test_one_that_is_killed_while_its_pod_is_created_does_not_stay(node: Node) -> None:
    node.server.latency_s = 0.2
    starting = asyncio.create_task(node.backend.start(SPEC, "a1"))
    await until(lambda: "a1" in node.backend.instances(), "it is on its way")
    await node.backend.kill("a1")
    await starting
    await until(lambda: node.ends == [("a1", "")], "its end is told")
    assert node.server.all(PODS) == []


async def test_a_pod_that_somebody_deletes_ended_in_good_order(node: Node) -> None:
    await node.backend.start(SPEC, "a1")
    node.says("a1", phase="Running", containerStatuses=[{"name": "runtime", "state": {"running": {}}}])
    node.server.delete(PODS, "team-a", "fn-hello-a1")
    await until(lambda: node.ends == [("a1", "")], "its end is told")


async def test_the_next_leader_finds_pods_that_run_and_clears_away_ended_ones(node: Node) -> None:
    for instance_id in ("a1", "a2"):
        await node.backend.start(SPEC, instance_id)
    node.says("a1", phase="Running", containerStatuses=[{"name": "runtime", "state": {"running": {}}}])
    await node.backend.close()
    node.ended("a2", 1, "out of luck")
    api = node.server.api()
    next_one = PodBackend(api, cluster_config())
    ends: list[tuple[str, str]] = []
    next_one.on_exit(lambda instance_id, reason: ends.append((instance_id, reason)))
    await next_one.adopt({SPEC.uid: SPEC})
    assert ends == [("a2", "out of luck")]
    running = next_one.instances()["a1"]
    assert (running.uid, running.revision, running.started_at_ms) == (UID, 1, 1_767_225_600_000)
    await until(lambda: not node.has("a2"), "what is left of it is deleted")
    await next_one.close()
    await api.close()


async def test_a_pod_whose_node_does_not_answer_is_taken_away(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod_backend, "STUCK_AFTER_S", 0.2)
    await node.backend.start(SPEC, "a1")
    node.says("a1", keep=True, phase="Running")
    await node.backend.kill("a1")

    def forced() -> bool:
        return any(s.method == "DELETE" and s.body["gracePeriodSeconds"] == 0 for s in node.server.requests)

    await until(forced, "it is taken away")
    node.goes("a1")


async def test_a_pod_that_is_none_of_this_releases_is_left_alone(node: Node) -> None:
    stranger = {"metadata": {"name": "fn-hello-b1", "namespace": "team-a", "labels": {"forebay.dev/role": "function"}}}
    node.server.put(PODS, stranger)
    await node.backend.start(SPEC, "a1")
    await until(lambda: len(node.backend.instances()) == 1, "its own is known")
    assert node.server.count("DELETE", "pods") == 0
