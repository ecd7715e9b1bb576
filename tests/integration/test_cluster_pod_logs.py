"""Functions' logs on a cluster, read from an API server that has its troubles."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

import pytest

from forebay_common.spec import FunctionSpec, PodSpec
from forebay_controller.cluster.api import PODS, Object
from forebay_controller.cluster.ownership import function_labels
from forebay_controller.cluster.pod_logs import PODS_MAX, PodLogs, containers
from forebay_controller.management import StoreError
from support.cluster_config import cluster_config, function
from support.scripted_api_server import ScriptedApiServer, scripted_api_server
from support.scripted_pod_logs import ScriptedPodLogs
from support.waiting import wait_until_async

CONFIG = cluster_config()
HELLO = function()
IMAGE = function(pod=PodSpec(resource_name="hello", image="app:1"))
FOLLOW_MAX_S = 15.0


def pod(name: str, *, created: int = 0, state: str = "running", spec: FunctionSpec = HELLO) -> Object:
    statuses: list[Object] = [{"name": container, "state": {state: {}}} for container in ("runtime", "handlers")]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "team-a",
            "labels": function_labels(CONFIG, spec),
            "creationTimestamp": f"2026-01-01T00:00:{created:02}Z",
        },
        "spec": {},
        "status": {"containerStatuses": statuses},
    }


def stamp(second: float) -> str:
    return f"2026-01-31T12:00:{second:06.3f}Z"


def line(second: float, message: str) -> bytes:
    return json.dumps({"time": stamp(second), "message": message}).encode()


@dataclass
class Rig:
    server: ScriptedApiServer
    files: ScriptedPodLogs
    logs: PodLogs

    async def say(self, pod_name: str, second: float, message: str) -> None:
        """A line of a function, which the node stamps a moment later."""
        await self.files.write(pod_name, "runtime", line(second, message), stamp(second + 0.002))

    async def until_followed(self, followers: int, watches: int = 1) -> None:
        """Wait until so many streams of logs, and watches, are open."""

        async def are_open() -> bool:
            return (self.files.followers, self.server.watching) == (followers, watches)

        await wait_until_async(are_open, f"{followers} logs are followed")

    async def messages(self, lines: int = 100, spec: FunctionSpec = HELLO) -> list[str]:
        return [json.loads(found)["message"] for found in await self.logs.tail(spec, lines)]


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with scripted_api_server() as server:
        api = server.api(retry_for_s=0.0)
        yield Rig(server, ScriptedPodLogs(server), PodLogs(api, CONFIG))
        await api.close()


async def take(following: AsyncGenerator[list[bytes], None], count: int) -> list[str]:
    """The next messages of a log that is followed."""
    found: list[str] = []
    async with asyncio.timeout(FOLLOW_MAX_S):
        while len(found) < count:
            found += [json.loads(one)["message"] for one in await anext(following)]
    return found


async def test_the_last_lines_of_all_pods_come_by_time(rig: Rig) -> None:
    for name in ("a", "b"):
        rig.server.put(PODS, pod(name))
    await rig.say("a", 1, "one")
    await rig.say("b", 2, "two")
    await rig.say("a", 3, "three")

    assert await rig.messages() == ["one", "two", "three"]
    assert await rig.messages(2) == ["two", "three"]
    assert await rig.messages(0) == []


async def test_a_pod_that_ended_is_read_and_one_that_has_not_begun_is_not(rig: Rig) -> None:
    rig.server.put(PODS, pod("ended", state="terminated"))
    rig.server.put(PODS, pod("waiting", state="waiting"))
    await rig.say("ended", 1, "last words")

    assert await rig.messages() == ["last words"]
    assert rig.server.count("GET", "/pods/waiting/log") == 0


async def test_a_pod_that_is_gone_meanwhile_spoils_nothing(rig: Rig) -> None:
    for name in ("here", "gone"):
        rig.server.put(PODS, pod(name))
    await rig.say("here", 1, "one")
    rig.server.fail("GET", "/pods/gone/log", 404)

    assert await rig.messages() == ["one"]


async def test_pods_that_cannot_be_listed_are_told(rig: Rig) -> None:
    rig.server.fail("GET", "/pods", 403, times=1_000)

    with pytest.raises(StoreError, match="cannot be listed") as raised:
        await rig.messages()
    assert raised.value.code == "unavailable"


async def test_an_images_own_output_stands_between_the_runtimes_lines(rig: Rig) -> None:
    rig.server.put(PODS, pod("a", spec=IMAGE))
    await rig.say("a", 1, "START")
    await rig.files.write("a", "handlers", b"printed by the image", "2026-01-31T12:00:01.500000000Z")
    await rig.say("a", 2, "END")

    assert await rig.messages(spec=IMAGE) == ["START", "printed by the image", "END"]
    assert await rig.messages(spec=HELLO) == ["START", "END"]


async def test_following_goes_on_after_the_last_lines_without_a_gap_or_a_repetition(rig: Rig) -> None:
    rig.server.put(PODS, pod("a"))
    for number in range(5):
        await rig.say("a", 1 + number / 10, f"before {number}")

    async with aclosing(rig.logs.follow(HELLO, 3)) as following:
        assert await take(following, 3) == ["before 2", "before 3", "before 4"]
        await rig.say("a", 1.9, "between")
        assert await take(following, 1) == ["between"]
        await rig.say("a", 5, "after")
        assert await take(following, 1) == ["after"]


async def test_following_without_last_lines_begins_with_the_next_one(rig: Rig) -> None:
    rig.server.put(PODS, pod("a"))
    await rig.say("a", 1, "before")

    async with aclosing(rig.logs.follow(HELLO, 0)) as following:
        assert await anext(following) == []
        reading = asyncio.create_task(take(following, 1))
        await rig.until_followed(1)
        await rig.say("a", 2, "after")
        assert await reading == ["after"]


async def test_a_new_pod_is_taken_up_from_its_first_line(rig: Rig) -> None:
    async with aclosing(rig.logs.follow(HELLO, 10)) as following:
        assert await anext(following) == []
        await rig.say("new", 1, "first")
        rig.server.put(PODS, pod("new"))
        await rig.say("new", 2, "second")

        assert await take(following, 2) == ["first", "second"]


async def test_a_stream_that_breaks_off_is_taken_up_where_it_ended(rig: Rig) -> None:
    rig.server.put(PODS, pod("a"))
    await rig.say("a", 1, "one")
    async with aclosing(rig.logs.follow(HELLO, 10)) as following:
        assert await take(following, 1) == ["one"]
        await rig.say("a", 2.0, "two")
        assert await take(following, 1) == ["two"]
        await rig.files.break_off()
        await rig.say("a", 2.5, "three")

        assert await take(following, 1) == ["three"]


async def test_an_ended_container_is_read_to_its_end_and_left(rig: Rig) -> None:
    rig.server.put(PODS, pod("a"))
    await rig.say("a", 1, "one")
    async with aclosing(rig.logs.follow(HELLO, 10)) as following:
        assert await take(following, 1) == ["one"]
        await rig.say("a", 2, "last")
        assert await take(following, 1) == ["last"]
        rig.server.put(PODS, pod("a", state="terminated"))
        await rig.files.end("a", "runtime")
        reading = asyncio.create_task(take(following, 1))
        await rig.until_followed(0)
        rig.server.put(PODS, pod("b"))
        await rig.say("b", 3, "of another")

        assert await reading == ["of another"]


async def test_whoever_stops_following_leaves_nothing_open(rig: Rig) -> None:
    rig.server.put(PODS, pod("a"))
    async with aclosing(rig.logs.follow(HELLO, 10)) as following:
        await anext(following)
        reading = asyncio.create_task(take(following, 1))
        await rig.until_followed(1)
        await rig.say("a", 1, "one")
        await reading

    await rig.until_followed(0, watches=0)


async def test_pods_that_cannot_be_listed_are_told_before_anything_is_followed(rig: Rig) -> None:
    rig.server.fail("GET", "/pods", 403, times=1_000)

    with pytest.raises(StoreError, match="cannot be listed"):
        await anext(rig.logs.follow(HELLO, 10))


def test_only_the_newest_pods_are_read() -> None:
    pods = [pod(f"p{number}", created=number) for number in range(PODS_MAX + 5)]

    assert [one.pod for one in containers(HELLO, reversed(pods))] == [f"p{n}" for n in range(5, PODS_MAX + 5)]
