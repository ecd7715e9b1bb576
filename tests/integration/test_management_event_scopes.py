"""Whose events a credential may see, call off, run again and purge: like any other access, and no more is learnt."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from redis.asyncio import Redis

from forebay_common.credentials import Credential
from forebay_common.queue import VersionQueue, create_queues, delete_function_keys
from forebay_common.spec import FunctionSpec
from forebay_controller.app import create_app
from forebay_controller.authenticator import Authenticator
from forebay_controller.interfaces import FunctionStatus
from forebay_controller.log_reader import LogFiles
from forebay_controller.management import ManagementSettings
from support.event_rig import Events, error_of
from support.management import serving
from support.memory_functions import MemoryStore

SECRET = "s" * 40
UNKNOWN = "There is no invocation {}, or not any more"


def credential(access_key_id: str, **narrowed: tuple[str, ...]) -> Credential:
    return Credential.derive(access_key_id, SECRET, region="us-east-1", now_s=time.time(), **narrowed)


CREDENTIALS = {
    found.access_key_id: found
    for found in (
        credential("FBAKADMIN"),
        credential("FBAKINVOKE", scopes=("invoke",)),
        credential("FBAKMANAGE", scopes=("manage",)),
        credential("FBAKMINE", functions=("mine-*",)),
        credential("FBAKTEAMB", namespaces=("team-b",)),
    )
}


class NoInstances:
    def get_status(self, uid: str) -> FunctionStatus:
        return FunctionStatus(reason=uid)

    async def retire(self, uid: str) -> None:
        pass


@dataclass
class Served:
    url: str
    events: dict[str, Events]

    async def ask(self, method: str, path: str, key: str = "FBAKADMIN", **rest: object) -> httpx.Response:
        headers = {"X-Api-Key": f"{key}.{SECRET}"} if key else {}
        async with httpx.AsyncClient(base_url=self.url, timeout=30) as client:
            return await client.request(method, path, headers=headers, **rest)  # type: ignore[arg-type] # httpx's own


@pytest.fixture
async def served(redis: Redis, tmp_path: Path) -> AsyncIterator[Served]:
    store = MemoryStore(redis)
    events = {}
    for namespace, name in (("team-a", "mine-1"), ("team-a", "other"), ("team-b", "mine-1")):
        spec = FunctionSpec(namespace, name, uuid4().hex, "python3.13", "app.handler", "0" * 64, 1)
        functions = store.namespaces[namespace]
        functions.specs[name] = spec
        queue = VersionQueue(functions.keys(spec))
        await create_queues(redis, queue)
        events[f"{namespace}/{name}"] = Events(redis, queue, spec.uid)
    settings = ManagementSettings(LogFiles(tmp_path), lambda _: "", b"key", default_namespace="team-a")
    authenticator = Authenticator(CREDENTIALS, region="us-east-1")
    async with serving(create_app(store, NoInstances(), store.queues, settings, authenticator)) as url:
        yield Served(url, events)
    for found in events.values():
        await delete_function_keys(redis, found.queue.keys)


@pytest.mark.parametrize("path", ["/v1/invocations/{}", "/invocations/{}", "/ns/team-b/v1/invocations/{}"])
async def test_a_stranger_learns_nothing(served: Served, path: str) -> None:
    ident = await served.events["team-a/other"].accept()
    for method, suffix in (("GET", ""), ("POST", "/cancel")):
        answer = await served.ask(method, path.format(ident) + suffix, key="")
        assert error_of(answer)[:2] == (403, "unauthenticated")
    assert (await served.ask("GET", "/v1/functions/other/dead-letters", key="")).status_code == 403


async def test_who_may_invoke_reads_results_and_cancels_and_sees_no_dead_letters(served: Served) -> None:
    events = served.events["team-a/other"]
    ident = await events.accept()
    assert (await served.ask("GET", f"/v1/invocations/{ident}", "FBAKINVOKE")).json()["status"] == "queued"
    assert (await served.ask("POST", f"/v1/invocations/{ident}/cancel", "FBAKINVOKE")).status_code == 200
    await events.die()
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/1-0"), ("DELETE", "/1-0"), ("POST", "/redrive")):
        answer = await served.ask(method, f"/v1/functions/other/dead-letters{path}", "FBAKINVOKE")
        assert error_of(answer)[:2] == (403, "forbidden")
        assert "may not manage functions" in answer.text
    assert len((await served.ask("GET", "/v1/functions/other/dead-letters")).json()["dead_letters"]) == 1


async def test_who_may_only_manage_reads_dead_letters_and_no_results(served: Served) -> None:
    events = served.events["team-a/other"]
    ident = await events.accept()
    for method, path in (("GET", ""), ("POST", "/cancel")):
        answer = await served.ask(method, f"/v1/invocations/{ident}{path}", "FBAKMANAGE")
        assert error_of(answer)[:2] == (403, "forbidden")
        assert "may not invoke functions in the namespace team-a" in answer.text
    assert (await served.ask("GET", f"/v1/invocations/{ident}")).json()["status"] == "queued"
    assert (await served.ask("GET", "/v1/functions/other/dead-letters", "FBAKMANAGE")).status_code == 200


async def test_the_scope_of_a_path_is_not_widened_by_what_comes_after_it(served: Served) -> None:
    for path in (
        "/v1/invocations/../functions/other",
        "/v1/invocations/%2e%2e/functions/other",
        "/invocations//v1/status",
    ):
        answer = await served.ask("DELETE", path, "FBAKINVOKE")
        assert answer.status_code in {403, 404, 405}
    assert (await served.ask("GET", "/v1/functions/other")).status_code == 200


async def test_a_key_for_some_functions_does_not_learn_of_others_invocations(served: Served) -> None:
    others, mine = await served.events["team-a/other"].accept(), await served.events["team-a/mine-1"].accept()
    never = str(uuid4())
    for ident in (others, never):
        for method, path in (("GET", ""), ("GET", "?wait=30"), ("POST", "/cancel")):
            answer = await served.ask(method, f"/v1/invocations/{ident}{path}", "FBAKMINE")
            assert error_of(answer) == (404, "not_found", UNKNOWN.format(ident))
    assert (await served.ask("GET", f"/v1/invocations/{others}")).json()["status"] == "queued"
    assert (await served.ask("GET", f"/v1/invocations/{mine}", "FBAKMINE")).json()["function"] == "mine-1"


async def test_a_key_for_some_functions_may_not_touch_others_dead_letters(served: Served) -> None:
    await served.events["team-a/other"].die()
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/1-0"), ("DELETE", "/1-0"), ("POST", "/redrive")):
        answer = await served.ask(method, f"/v1/functions/other/dead-letters{path}", "FBAKMINE", json={"all": True})
        assert error_of(answer)[:2] == (403, "forbidden")
        unknown = await served.ask(method, f"/v1/functions/nobody/dead-letters{path}", "FBAKMINE", json={"all": True})
        assert error_of(unknown)[:2] == (403, "forbidden")
    assert len((await served.ask("GET", "/v1/functions/other/dead-letters")).json()["dead_letters"]) == 1


async def test_an_id_of_another_namespace_is_as_unknown_as_one_that_nobody_has(served: Served) -> None:
    ident = await served.events["team-b/mine-1"].accept()
    for method, path in (("GET", ""), ("POST", "/cancel")):
        answer = await served.ask(method, f"/ns/team-a/v1/invocations/{ident}{path}")
        assert error_of(answer) == (404, "not_found", UNKNOWN.format(ident))
    assert (await served.ask("GET", f"/ns/team-b/v1/invocations/{ident}")).json()["status"] == "queued"


async def test_a_key_of_another_namespace_is_refused_whatever_the_id(served: Served) -> None:
    ident = await served.events["team-a/other"].accept()
    for found in (ident, str(uuid4()), "x"):
        answer = await served.ask("GET", f"/v1/invocations/{found}", "FBAKTEAMB")
        assert error_of(answer)[:2] == (403, "forbidden")
    there = await served.ask("GET", f"/ns/team-b/v1/invocations/{ident}", "FBAKTEAMB")
    assert error_of(there) == (404, "not_found", UNKNOWN.format(ident))
    refused = await served.ask("GET", "/v1/functions/mine-1/dead-letters", "FBAKTEAMB")
    assert error_of(refused)[:2] == (403, "forbidden")


async def test_a_namespace_that_is_not_served_is_404(served: Served) -> None:
    answer = await served.ask("GET", f"/ns/nowhere/v1/invocations/{uuid4()}")
    assert error_of(answer)[:2] == (404, "not_found")
    assert error_of(await served.ask("GET", f"/ns/nowhere/invocations/{uuid4()}"))[:2] == (404, "not_found")
