"""What /v1 answers about events while Redis is away: that, soon, and when to ask again."""

import asyncio
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from forebay_common.events import trim_ended
from forebay_common.queue import VersionQueue
from forebay_common.redis_client import command, connect
from forebay_common.redis_settings import RedisSettings
from forebay_common.scripts import load_all
from support.event_rig import Events, error_of
from support.management import HELLO, management
from support.redis_servers import TcpServer

AWAY = "Redis, which holds the queues, does not answer: try again"


@dataclass
class Served:
    server: TcpServer
    http: httpx.AsyncClient
    events: Events


@pytest.fixture
async def served(prefix: str, tmp_path: Path) -> AsyncIterator[Served]:
    server = TcpServer("valkey")
    try:
        server.start()
        redis = connect(RedisSettings.from_json(server.settings))
        await load_all(redis)
        async with management(redis, prefix, tmp_path) as api, httpx.AsyncClient(base_url=api.url, timeout=30) as http:
            code = {"zip_base64": b64encode(HELLO).decode()}
            members = {"runtime": "python3.13", "handler": "app.handler", "code": code}
            (await http.put("/v1/functions/hello", json=members)).raise_for_status()
            (spec,) = api.registry.by_name()
            yield Served(server, http, Events(redis, VersionQueue(api.registry.keys(spec)), spec.uid))
        await redis.aclose()
    finally:
        server.close()


async def test_every_question_about_events_is_answered_with_when_to_ask_again(served: Served) -> None:
    ident = await served.events.accept()
    served.server.kill()
    path = "/v1/functions/hello/dead-letters"
    for answer in (
        await served.http.get(f"/v1/invocations/{ident}"),
        await served.http.post(f"/v1/invocations/{ident}/cancel"),
        await served.http.get(path),
        await served.http.get(f"{path}/1-0"),
        await served.http.delete(path),
        await served.http.post(f"{path}/redrive", json={"all": True}),
    ):
        assert error_of(answer) == (503, "unavailable", AWAY)
        assert answer.headers["retry-after"] == "1"


async def test_a_redrive_that_breaks_off_says_how_far_it_came(served: Served) -> None:
    served.server.kill()
    answer = await served.http.post("/v1/functions/hello/dead-letters/redrive", json={"ids": ["1-0", "2-0"]})
    assert error_of(answer)[:2] == (503, "unavailable")
    assert "0 of 2 dead letters are queued again" in answer.text


async def test_who_waits_is_told_soon_and_the_next_one_is_served_again(served: Served) -> None:
    ident = await served.events.accept()
    waiting = [asyncio.create_task(served.http.get(f"/v1/invocations/{ident}", params={"wait": 30})) for _ in range(3)]
    await asyncio.wait(waiting, timeout=0.3)
    served.server.kill()
    killed_s = time.monotonic()
    for answer in await asyncio.gather(*waiting):
        assert error_of(answer) == (503, "unavailable", AWAY)
    assert time.monotonic() - killed_s < 10
    served.server.start()
    # What Redis held is gone with it; the wait's own loop begins anew.
    answer = await served.http.get(f"/v1/invocations/{ident}", params={"wait": 1})
    assert error_of(answer)[:2] == (404, "not_found")


async def test_a_redis_without_memory_moves_nothing_and_shows_what_there_is(served: Served) -> None:
    dead = await served.events.die()
    await trim_ended(served.events.redis, served.events.queue, 0)
    ident = await served.events.accept()
    await command(served.events.redis, "CONFIG", "SET", "maxmemory", 1)
    path = "/v1/functions/hello/dead-letters"
    refused = await served.http.post(f"{path}/redrive", json={"all": True})
    assert error_of(refused)[:2] == (503, "unavailable")
    assert refused.headers["retry-after"] == "1"
    (letter,) = (await served.http.get(path)).json()["dead_letters"]
    assert letter["invocation_id"] == dead
    # What makes room goes through.
    assert (await served.http.post(f"/v1/invocations/{ident}/cancel")).json()["status"] == "cancelled"
    assert (await served.http.delete(path)).json() == {"purged": 1}
