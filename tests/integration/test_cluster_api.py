"""The Kubernetes API client against a server that has its troubles."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from forebay_controller.cluster.api import CONFIG_MAPS, FUNCTIONS, PODS, Api, ApiError, path_of
from support.scripted_api_server import ScriptedApiServer, scripted_api_server


@pytest.fixture
async def server() -> AsyncIterator[ScriptedApiServer]:
    async with scripted_api_server() as running:
        yield running


@pytest.fixture
async def api(server: ScriptedApiServer) -> AsyncIterator[Api]:
    client = server.api()
    yield client
    await client.close()


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "team"}, "data": data}


def test_paths_are_those_of_the_kubernetes_api() -> None:
    assert path_of(PODS, "team", "p", "log") == "/api/v1/namespaces/team/pods/p/log"
    assert path_of(FUNCTIONS, None) == "/apis/forebay.dev/v1alpha1/functions"
    assert path_of(CONFIG_MAPS, "team", "a/../b") == "/api/v1/namespaces/team/configmaps/a%2F..%2Fb"


async def test_objects_are_created_read_changed_and_deleted(api: Api) -> None:
    made = await api.create(CONFIG_MAPS, "team", config_map("one", a="1"))
    assert (await api.get(CONFIG_MAPS, "team", "one"))["metadata"]["uid"] == made["metadata"]["uid"]
    patched = await api.merge_patch(CONFIG_MAPS, "team", "one", {"data": {"a": None, "b": "2"}})
    assert patched["data"] == {"b": "2"}
    applied = await api.apply(CONFIG_MAPS, "team", "two", config_map("two", c="3"))
    assert applied["data"] == {"c": "3"}
    replaced = await api.replace(CONFIG_MAPS, "team", "two", {**applied, "data": {"d": "4"}})
    assert replaced["data"] == {"d": "4"}
    items, version = await api.list(CONFIG_MAPS, "team")
    assert {item["metadata"]["name"] for item in items} == {"one", "two"}
    assert version == replaced["metadata"]["resourceVersion"]
    await api.delete(CONFIG_MAPS, "team", "one")
    with pytest.raises(ApiError) as caught:
        await api.get(CONFIG_MAPS, "team", "one")
    assert (caught.value.status, caught.value.reason) == (404, "NotFound")


async def test_deleting_what_is_gone_or_was_replaced_by_another_is_no_error(api: Api) -> None:
    await api.delete(CONFIG_MAPS, "team", "none")
    made = await api.create(CONFIG_MAPS, "team", config_map("one"))
    await api.delete(CONFIG_MAPS, "team", "one", uid="00000000-0000-0000-0000-000000000000")
    assert (await api.get(CONFIG_MAPS, "team", "one"))["metadata"]["uid"] == made["metadata"]["uid"]


async def test_a_list_of_many_comes_in_pages_and_whole(server: ScriptedApiServer, api: Api) -> None:
    for number in range(1_101):
        server.put(CONFIG_MAPS, config_map(f"c{number}"))
    items, _ = await api.list(CONFIG_MAPS, "team")
    assert len({item["metadata"]["name"] for item in items}) == 1_101
    assert server.count("GET", "configmaps") == 3


async def test_a_list_whose_pages_expire_is_taken_in_one_piece(server: ScriptedApiServer, api: Api) -> None:
    for number in range(600):
        server.put(CONFIG_MAPS, config_map(f"c{number}"))
    server.fail("GET", "continue=", 410, reason="Expired")
    items, _ = await api.list(CONFIG_MAPS, "team")
    assert len(items) == 600


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_reads_are_repeated_while_the_server_cannot_answer(
    server: ScriptedApiServer, api: Api, status: int
) -> None:
    server.put(CONFIG_MAPS, config_map("one"))
    server.fail("GET", "configmaps", status, times=2)
    assert (await api.get(CONFIG_MAPS, "team", "one"))["metadata"]["name"] == "one"
    assert server.count("GET", "configmaps") == 3


async def test_retry_after_is_kept(server: ScriptedApiServer, api: Api) -> None:
    server.put(CONFIG_MAPS, config_map("one"))
    server.fail("GET", "configmaps", 429, headers={"Retry-After": "1"})
    started_s = time.monotonic()
    await api.get(CONFIG_MAPS, "team", "one")
    assert time.monotonic() - started_s > 0.75


async def test_a_refusal_is_not_repeated_and_has_the_servers_words(server: ScriptedApiServer, api: Api) -> None:
    server.fail("GET", "configmaps", 403, reason="Forbidden", times=5)
    with pytest.raises(ApiError) as caught:
        await api.get(CONFIG_MAPS, "team", "one")
    assert (caught.value.status, caught.value.reason, caught.value.message) == (403, "Forbidden", "as the test says")
    assert server.count("GET", "configmaps") == 1


def test_a_namespace_that_is_being_deleted_is_told_from_a_lack_of_rights() -> None:
    ending = 'pods "x" is forbidden: unable to create new content in namespace a because it is being terminated'
    assert ApiError(403, "Forbidden", ending).namespace_ends
    assert not ApiError(403, "Forbidden", 'pods is forbidden: User "x" cannot create resource "pods"').namespace_ends


async def test_reading_ends_after_its_time_with_the_last_error(server: ScriptedApiServer) -> None:
    server.fail("GET", "configmaps", 500, times=1_000)
    api = server.api(retry_for_s=0.5)
    started_s = time.monotonic()
    with pytest.raises(ApiError) as caught:
        await api.get(CONFIG_MAPS, "team", "one")
    await api.close()
    assert caught.value.status == 500
    assert time.monotonic() - started_s < 2


async def test_a_creation_is_repeated_only_when_nothing_was_done(server: ScriptedApiServer, api: Api) -> None:
    server.fail("POST", "configmaps", 429)
    await api.create(CONFIG_MAPS, "team", config_map("one"))
    assert server.count("POST", "configmaps") == 2
    server.fail("POST", "configmaps", 500, done=True)
    with pytest.raises(ApiError):
        await api.create(CONFIG_MAPS, "team", config_map("two"))
    assert server.count("POST", "configmaps") == 3


async def test_a_creation_under_a_name_of_our_own_is_repeated_and_found_done(
    server: ScriptedApiServer, api: Api
) -> None:
    server.fail("POST", "configmaps", 500, done=True)
    made = await api.create(CONFIG_MAPS, "team", config_map("one", a="1"), ours=True)
    assert made["data"] == {"a": "1"}
    assert len(server.all(CONFIG_MAPS)) == 1


async def test_a_change_that_depends_on_a_version_is_not_repeated(server: ScriptedApiServer, api: Api) -> None:
    made = server.put(CONFIG_MAPS, config_map("one"))
    server.fail("PATCH", "configmaps", 500, times=2)
    patch = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "data": {"a": "1"}}
    with pytest.raises(ApiError):
        await api.merge_patch(CONFIG_MAPS, "team", "one", patch)
    assert (await api.merge_patch(CONFIG_MAPS, "team", "one", {"data": {"a": "1"}}))["data"] == {"a": "1"}


async def test_a_server_that_is_away_is_named_unreachable(server: ScriptedApiServer) -> None:
    api = server.api(retry_for_s=0.3)
    await server.away()
    with pytest.raises(ApiError) as caught:
        await api.create(CONFIG_MAPS, "team", config_map("one"))
    assert (caught.value.status, caught.value.reason) == (0, "Unreachable")
    assert caught.value.may_pass
    await api.close()


async def test_a_creation_waits_for_a_server_that_comes_back(server: ScriptedApiServer, api: Api) -> None:
    await server.away()
    creating = asyncio.create_task(api.create(CONFIG_MAPS, "team", config_map("one")))
    await asyncio.wait({creating}, timeout=0.3)
    await server.start()
    assert (await creating)["metadata"]["name"] == "one"


async def test_a_request_that_hangs_is_given_up(server: ScriptedApiServer) -> None:
    api = server.api(request_timeout_s=0.2, retry_for_s=0.0)
    server.latency_s = 5.0
    with pytest.raises(ApiError) as caught:
        await api.get(CONFIG_MAPS, "team", "one")
    assert caught.value.reason == "Timeout"
    await api.close()


async def test_a_burst_of_200_pods_is_created_side_by_side(server: ScriptedApiServer, api: Api) -> None:
    server.latency_s = 0.05
    started_s = time.monotonic()
    pods = [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"p{number}"}} for number in range(200)]
    await asyncio.gather(*(api.create(PODS, "team", pod) for pod in pods))
    assert len(server.all(PODS)) == 200
    assert 32 <= server.in_flight_most <= 64
    assert time.monotonic() - started_s < 200 * server.latency_s, "one after the other takes longer"


async def test_requests_apart_do_not_wait_behind_others(server: ScriptedApiServer, api: Api) -> None:
    apart = api.apart(request_timeout_s=5, retry_for_s=1)
    server.put(CONFIG_MAPS, config_map("one"))
    server.latency_s = 0.3
    crowd = [asyncio.create_task(api.get(CONFIG_MAPS, "team", "one")) for _ in range(300)]
    await asyncio.sleep(0)
    started_s = time.monotonic()
    await apart.get(CONFIG_MAPS, "team", "one")
    assert time.monotonic() - started_s < 0.9
    await asyncio.gather(*crowd)
    await apart.close()


async def test_a_watch_tells_changes_and_bookmarks_until_the_server_ends_it(
    server: ScriptedApiServer, api: Api
) -> None:
    _, version = await api.list(CONFIG_MAPS, "team")
    server.put(CONFIG_MAPS, config_map("one"))
    seen = []
    async for kind, item in api.watch(CONFIG_MAPS, "team", resource_version=version):
        seen.append(kind)
        if kind == "ADDED":
            server.bookmark()
        if kind == "BOOKMARK":
            assert item["metadata"]["resourceVersion"] == str(server.version)
            server.delete(CONFIG_MAPS, "team", "one")
        if kind == "DELETED":
            server.end_watches()
    assert seen == ["ADDED", "BOOKMARK", "DELETED"]


async def test_a_watch_from_too_long_ago_says_so(server: ScriptedApiServer, api: Api) -> None:
    server.put(CONFIG_MAPS, config_map("one"))
    server.compact()
    with pytest.raises(ApiError) as caught:
        async for _ in api.watch(CONFIG_MAPS, "team", resource_version="1"):
            pass
    assert caught.value.status == 410


async def test_a_silent_watch_is_given_up(server: ScriptedApiServer) -> None:
    api = server.api(watch_silent_s=0.2)
    with pytest.raises(ApiError) as caught:
        async for _ in api.watch(CONFIG_MAPS, "team", resource_version=str(server.version)):
            pass
    assert caught.value.reason == "Timeout"
    await api.close()
