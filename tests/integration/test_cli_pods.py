"""The command line where instances are pods: images, egress, namespaces."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis.asyncio import Redis

from forebay_common.spec import PodSpec
from forebay_controller.app import create_app
from forebay_controller.interfaces import FunctionStatus
from forebay_controller.log_reader import LogFiles
from forebay_controller.management import ManagementSettings
from support.management import serving
from support.memory_functions import MemoryStore
from support.platform import FOREBAY

IMAGE = "registry.example.com/team/function:1.4"
ENDS_WITHIN_S = 60


class NoInstances:
    def get_status(self, uid: str) -> FunctionStatus:
        return FunctionStatus(reason=uid)

    async def retire(self, uid: str) -> None:
        pass


@dataclass
class Cluster:
    store: MemoryStore
    environment: dict[str, str]

    async def forebay(self, *words: str) -> tuple[str, str]:
        """What a command that works says on stdout and stderr."""
        pipe = asyncio.subprocess.PIPE
        command = await asyncio.create_subprocess_exec(FOREBAY, *words, env=self.environment, stdout=pipe, stderr=pipe)
        async with asyncio.timeout(ENDS_WITHIN_S):
            out, err = await command.communicate()
        assert command.returncode == 0, err
        return out.decode(), err.decode()


@pytest.fixture
async def cluster(redis: Redis, tmp_path: Path) -> AsyncIterator[Cluster]:
    store = MemoryStore(redis)
    settings = ManagementSettings(LogFiles(tmp_path), lambda _: "", b"k" * 32, default_namespace="team-a")
    async with serving(create_app(store, NoInstances(), store.queues, settings)) as url:
        named = {"FOREBAY_ENDPOINT": url, "FOREBAY_API_KEY": "any.key", "XDG_CONFIG_HOME": str(tmp_path)}
        yield Cluster(store, {**os.environ, **named})


async def test_an_image_is_deployed_into_a_namespace_and_shown(cluster: Cluster) -> None:
    out, err = await cluster.forebay(
        "deploy", "hello", "--image", IMAGE, "--egress", "10.0.0.0/8:5432", "--auth", "none", "-n", "team-b"
    )

    assert out == "forebay invoke hello --namespace team-b\n"
    assert err == f"hello is deployed (image, {IMAGE})\n"
    spec = cluster.store.namespaces["team-b"].specs["hello"]
    assert (spec.auth, spec.pod) == ("none", PodSpec(image=IMAGE, egress="10.0.0.0/8:5432"))
    assert IMAGE in (await cluster.forebay("list", "-n", "team-b"))[0]
    assert json.loads((await cluster.forebay("list", "-o", "json"))[0]) == []


async def test_the_namespace_of_the_environment_is_meant_unless_a_command_says_another(cluster: Cluster) -> None:
    cluster.environment["FOREBAY_NAMESPACE"] = "team-b"
    await cluster.forebay("deploy", "hello", "--image", IMAGE)
    await cluster.forebay("deploy", "hello", "--image", IMAGE, "--namespace", "team-a")

    shown = json.loads((await cluster.forebay("get", "hello", "-o", "json"))[0])
    await cluster.forebay("delete", "hello", "--yes", "-n", "team-a")

    assert shown["namespace"] == "team-b"
    assert [len(cluster.store.namespaces[name].specs) for name in ("team-a", "team-b")] == [0, 1]
