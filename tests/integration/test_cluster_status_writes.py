"""How often a Function's status and events are written, and that they are in the end, whatever happens."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from forebay_common.keys import PlatformKeys
from forebay_common.redis_client import command
from forebay_controller.cluster import status_writer
from forebay_controller.cluster.api import EVENTS, FUNCTIONS, Api
from forebay_controller.cluster.events import FUNCTION_MAX, SERIES_EVERY_S, Event, Events
from forebay_controller.interfaces import FunctionStatus
from support.controller_rig import until
from support.function_objects import function_object
from support.scripted_api_server import ScriptedApiServer, scripted_api_server
from support.source_rig import SourceRig


@pytest.fixture
async def server() -> AsyncIterator[ScriptedApiServer]:
    async with scripted_api_server() as running:
        yield running


@pytest.fixture
async def rig(server: ScriptedApiServer, redis: Redis, prefix: str) -> AsyncIterator[SourceRig]:
    made = SourceRig(server, redis, prefix)
    await made.lead()
    yield made
    await made.close()
    await command(redis, "UNLINK", PlatformKeys(prefix).functions)


async def settled(rig: SourceRig) -> str:
    """A function that is ready, and whose status is as it should be."""
    uid = rig.apply()
    await rig.ready()
    rig.source.note_status(uid, FunctionStatus(capacity=1, idle=1))
    await until(lambda: rig.status()["instances"] == 1, "it is written")
    return uid


async def test_looks_that_find_the_same_write_nothing(rig: SourceRig) -> None:
    uid = await settled(rig)
    writes = rig.status_writes()
    for _ in range(100):
        rig.source.note_status(uid, FunctionStatus(capacity=1, idle=1))
        await asyncio.sleep(0)
    rig.source.note_status(uid, FunctionStatus(capacity=2, idle=2))
    await until(lambda: rig.status()["instances"] == 2, "a change is written")
    assert rig.status_writes() == writes + 1


async def test_calls_that_come_and_go_are_written_now_and_then(rig: SourceRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_writer, "FIGURES_EVERY_S", 0.6)
    uid = await settled(rig)
    writes = rig.status_writes()
    started_s = asyncio.get_running_loop().time()
    for number in range(1, 201):
        rig.source.note_status(uid, FunctionStatus(capacity=1, idle=number % 2, busy=1 - number % 2, queued=number))
        await asyncio.sleep(0.005)
    await until(lambda: rig.status()["queued"] == 200, "the last figures are written")
    took_s = asyncio.get_running_loop().time() - started_s
    assert rig.status_writes() - writes <= took_s / 0.6 + 1


async def test_what_matters_does_not_wait_for_figures(rig: SourceRig) -> None:
    uid = await settled(rig)
    rig.source.note_status(uid, FunctionStatus(capacity=1, busy=1, queued=3))
    await asyncio.sleep(0)
    rig.source.note_status(uid, FunctionStatus(cannot_start="no", retry_at_ms=1_000, queued=3))
    async with asyncio.timeout(status_writer.FIGURES_EVERY_S / 2):
        await rig.condition("Ready", "StartFailed")
    assert rig.status()["queued"] == 3


async def test_a_burst_of_instances_is_a_handful_of_writes(rig: SourceRig) -> None:
    uid = await settled(rig)
    writes = rig.status_writes()
    for number in range(200):
        rig.source.note_status(uid, FunctionStatus(capacity=number, starting=number))
        await asyncio.sleep(0.002)
    await until(lambda: rig.status()["instances"] == 199, "the last state is written")
    assert rig.status_writes() - writes <= 8


async def test_a_status_is_written_although_others_change_the_object(server: ScriptedApiServer, rig: SourceRig) -> None:
    uid = await settled(rig)
    server.silent = True
    item = server.get(FUNCTIONS, "team", "hello")
    item["metadata"]["labels"] = {"by": "somebody"}
    server.put(FUNCTIONS, item)
    rig.source.note_status(uid, FunctionStatus(capacity=2, idle=2))
    await until(lambda: rig.status()["instances"] == 2, "it is written")
    assert server.get(FUNCTIONS, "team", "hello")["metadata"]["labels"] == {"by": "somebody"}


async def test_a_status_is_written_once_the_api_server_can(server: ScriptedApiServer, rig: SourceRig) -> None:
    uid = await settled(rig)
    server.fail("PATCH", "/status", 500, times=3)
    rig.source.note_status(uid, FunctionStatus(capacity=2, idle=2))
    await until(lambda: rig.status()["instances"] == 2, "it is written")


async def test_functions_go_on_while_the_api_server_is_away_and_catch_up_after(
    server: ScriptedApiServer, rig: SourceRig, caplog: pytest.LogCaptureFixture
) -> None:
    uid = await settled(rig)
    rig.looks = False
    await server.away()
    await rig.source.publish_status(uid, FunctionStatus(capacity=3, idle=3))
    entry = await rig.entry()
    assert entry is not None
    assert entry.capacity == 3, "gateways do not need the API server"
    server.change_spec(FUNCTIONS, "team", "hello", memory="256Mi")
    other = rig.apply("other")
    await until(lambda: caplog.text.count("watching functions: Unreachable") >= 2, "it is tried in vain")
    assert rig.spec(uid).memory_mb == 128
    await server.start()
    await rig.ready("other")
    await until(lambda: rig.spec(uid).memory_mb == 256, "the change is taken over")
    await until(lambda: rig.status()["instances"] == 3, "the status is written")
    assert other in rig.source.functions()


async def test_an_event_tells_who_what_and_why(server: ScriptedApiServer, rig: SourceRig) -> None:
    await settled(rig)
    await until(lambda: len(rig.events()) == 3, "events are written")
    assert [reason for reason, _ in rig.events()] == ["Revision", "CodeStored", "Scaled"]
    event = server.all(EVENTS)[0]
    item = server.get(FUNCTIONS, "team", "hello")
    assert event["regarding"]["uid"] == item["metadata"]["uid"]
    assert event["regarding"]["kind"] == "Function"
    assert event["metadata"]["namespace"] == "team"
    assert (event["reportingController"], event["reportingInstance"]) == ("forebay.dev/forebay-controller", "test")


class Clock:
    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
async def clock() -> Clock:
    return Clock()


@pytest.fixture
async def events(server: ScriptedApiServer, clock: Clock) -> AsyncIterator[Events]:
    api: Api = server.api(retry_for_s=0.2)
    made = Events(api, "test", clock)
    made.start()
    yield made
    await made.close()
    await api.close()


async def test_equal_events_become_one_with_a_count(server: ScriptedApiServer, events: Events, clock: Clock) -> None:
    item = function_object()
    for _ in range(5):
        events.tell(item, Event("Warning", "StartFailed", "it fell"))
    await until(lambda: server.count("POST", "/events") == 1, "the first is written")
    clock.now_s += SERIES_EVERY_S
    events.tell(item, Event("Warning", "StartFailed", "it fell"))
    await until(lambda: server.all(EVENTS)[0].get("series", {}).get("count") == 6, "the rest is counted")
    assert server.count("POST", "/events") == 1


async def test_a_function_that_never_rests_is_cut_off_and_others_are_not(
    server: ScriptedApiServer, events: Events
) -> None:
    item, other = function_object(), function_object("other")
    other["metadata"]["uid"] = "9b6a4f5c-92aa-4c53-8a5c-0d6f2f2c6d11"
    for number in range(FUNCTION_MAX + 50):
        events.tell(item, Event("Normal", "Scaled", f"Instances: {number}"))
    events.tell(other, Event("Normal", "Scaled", "Instances: 1"))
    await until(lambda: server.count("POST", "/events") == FUNCTION_MAX + 1, "the bound holds")
    assert [event["regarding"]["name"] for event in server.all(EVENTS)].count("other") == 1


async def test_an_event_that_cannot_be_written_is_forgotten(server: ScriptedApiServer, events: Events) -> None:
    server.fail("POST", "/events", 403, reason="Forbidden")
    events.tell(function_object(), Event("Normal", "Scaled", "Instances: 1"))
    events.tell(function_object(), Event("Normal", "Scaled", "Instances: 2"))
    await until(lambda: len(server.all(EVENTS)) == 1, "the next one is written")
