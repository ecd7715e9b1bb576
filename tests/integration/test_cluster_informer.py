"""A copy of the cluster's objects stays right, whatever happens to its watch."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from forebay_controller.cluster.api import CONFIG_MAPS, Api, ApiError, Object
from forebay_controller.cluster.informer import Informer
from support.controller_rig import until
from support.scripted_api_server import ScriptedApiServer, scripted_api_server


@pytest.fixture
async def server() -> AsyncIterator[ScriptedApiServer]:
    async with scripted_api_server() as running:
        yield running


@pytest.fixture
async def api(server: ScriptedApiServer) -> AsyncIterator[Api]:
    client = server.api(watch_silent_s=5.0, retry_for_s=2.0)
    yield client
    await client.close()


class Story:
    """What an informer told, as `+name`, `~name`, `-name`."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, old: Object | None, new: Object | None) -> None:
        item = new if new is not None else old
        assert item is not None
        sign = "+" if old is None else "-" if new is None else "~"
        self.lines.append(sign + item["metadata"]["name"])


@pytest.fixture
async def story() -> Story:
    return Story()


@pytest.fixture
async def informer(server: ScriptedApiServer, api: Api, story: Story) -> AsyncIterator[Informer]:
    server.put(CONFIG_MAPS, config_map("first"))
    found = Informer(api, CONFIG_MAPS, on_change=story)
    await found.start()
    await until(lambda: server.watching == 1, "the watch is there")
    yield found
    await found.close()


def config_map(name: str, namespace: str = "team", **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace, **more}, "data": {}}


def names(informer: Informer) -> set[str]:
    return {name for _, name in informer.objects}


async def test_it_lists_then_follows_changes(server: ScriptedApiServer, informer: Informer, story: Story) -> None:
    assert names(informer) == {"first"}
    server.put(CONFIG_MAPS, config_map("second"))
    await until(lambda: "second" in names(informer), "the new one is seen")
    server.put(CONFIG_MAPS, {**config_map("second"), "data": {"a": "1"}})
    await until(lambda: story.lines[-1] == "~second", "its change is seen")
    assert informer.objects["team", "second"]["data"] == {"a": "1"}
    server.delete(CONFIG_MAPS, "team", "first")
    await until(lambda: names(informer) == {"second"}, "the deletion is seen")
    assert story.lines == ["+first", "+second", "~second", "-first"]


async def test_a_watch_that_ends_goes_on_without_another_list(
    server: ScriptedApiServer, informer: Informer, story: Story
) -> None:
    lists = server.count("GET", "configmaps") - server.count("GET", "configmaps", watch="true")
    server.end_watches()
    server.put(CONFIG_MAPS, config_map("second"))
    await until(lambda: story.lines == ["+first", "+second"], "what happened in between is seen once")
    assert server.count("GET", "configmaps") - server.count("GET", "configmaps", watch="true") == lists


async def test_it_lists_again_when_the_server_has_forgotten(
    server: ScriptedApiServer, informer: Informer, story: Story
) -> None:
    server.fail("GET", "watch=true", 503, times=2)
    server.end_watches()
    server.put(CONFIG_MAPS, config_map("second"))
    server.delete(CONFIG_MAPS, "team", "first")
    server.compact()
    await until(lambda: names(informer) == {"second"}, "the list shows what the watch could not")
    assert sorted(story.lines) == ["+first", "+second", "-first"]
    server.put(CONFIG_MAPS, config_map("third"))
    await until(lambda: "third" in names(informer), "it watches from the new list")


async def test_a_bookmark_spares_the_next_list(server: ScriptedApiServer, informer: Informer) -> None:
    for number in range(10):
        server.put(CONFIG_MAPS, config_map(f"other{number}", namespace="elsewhere"))
    server.bookmark()
    server.put(CONFIG_MAPS, config_map("second"))
    await until(lambda: "second" in names(informer), "the bookmark was read, too")
    server.compact()
    lists = server.count("GET", "configmaps") - server.count("GET", "configmaps", watch="true")
    server.end_watches()
    server.put(CONFIG_MAPS, config_map("third"))
    await until(lambda: "third" in names(informer), "the watch goes on")
    assert server.count("GET", "configmaps") - server.count("GET", "configmaps", watch="true") == lists


async def test_it_outlasts_a_server_that_is_away(
    server: ScriptedApiServer, informer: Informer, caplog: pytest.LogCaptureFixture
) -> None:
    await server.away()
    await until(lambda: caplog.text.count("Unreachable") >= 2, "it is tried in vain")
    server.put(CONFIG_MAPS, config_map("second"))
    await server.start()
    await until(lambda: "second" in names(informer), "it is seen once the server is back")


async def test_a_silent_watch_is_noticed_and_made_anew(server: ScriptedApiServer) -> None:
    api = server.api(watch_silent_s=0.3)
    informer = Informer(api, CONFIG_MAPS)
    await informer.start()
    await until(lambda: server.watching == 1, "the watch is there")
    server.silent = True
    server.put(CONFIG_MAPS, config_map("lost"))
    await until(lambda: server.count("GET", "configmaps", watch="true") > 1, "another watch is asked for")
    server.silent = False
    server.end_watches()
    await until(lambda: "lost" in names(informer), "nothing is missed")
    await informer.close()
    await api.close()


async def test_what_a_write_answered_is_there_at_once_and_told_once(
    server: ScriptedApiServer, api: Api, informer: Informer, story: Story
) -> None:
    server.silent = True
    made = await api.create(CONFIG_MAPS, "team", config_map("mine"))
    informer.put(made)
    assert "mine" in names(informer)
    server.silent = False
    server.end_watches()
    server.put(CONFIG_MAPS, config_map("later"))
    await until(lambda: "later" in names(informer), "the watch has come past it")
    assert story.lines == ["+first", "+mine", "+later"]


async def test_an_answer_that_comes_after_the_watch_went_past_it_brings_nothing_back(
    server: ScriptedApiServer, api: Api, informer: Informer, story: Story
) -> None:
    made = await api.create(CONFIG_MAPS, "team", config_map("mine"))
    server.delete(CONFIG_MAPS, "team", "mine")
    await until(lambda: story.lines[-1] == "-mine", "its deletion is seen")
    informer.put(made)
    assert "mine" not in names(informer)


async def test_one_of_the_same_name_is_another_object(
    server: ScriptedApiServer, informer: Informer, story: Story
) -> None:
    server.fail("GET", "watch=true", 503, times=2)
    server.end_watches()
    server.delete(CONFIG_MAPS, "team", "first")
    server.put(CONFIG_MAPS, config_map("first"))
    server.compact()
    await until(lambda: len(story.lines) == 3, "the change is seen")
    assert story.lines == ["+first", "-first", "+first"]


async def test_only_the_namespaces_asked_for_are_seen(server: ScriptedApiServer, api: Api) -> None:
    for namespace in ("a", "b", "c"):
        server.put(CONFIG_MAPS, config_map("x", namespace=namespace))
    informer = Informer(api, CONFIG_MAPS, ("a", "b"))
    await informer.start()
    assert set(informer.objects) == {("a", "x"), ("b", "x")}
    await until(lambda: server.watching == 2, "both are watched")
    server.delete(CONFIG_MAPS, "b", "x")
    await until(lambda: set(informer.objects) == {("a", "x")}, "the deletion is seen")
    await informer.close()


async def test_a_field_selector_watches_one_object(server: ScriptedApiServer, api: Api, story: Story) -> None:
    informer = Informer(api, CONFIG_MAPS, ("team",), field_selector="metadata.name=one", on_change=story)
    await informer.start()
    await until(lambda: server.watching == 1, "the watch is there")
    server.put(CONFIG_MAPS, config_map("other"))
    server.put(CONFIG_MAPS, config_map("one"))
    await until(lambda: story.lines == ["+one"], "only that one is seen")
    await informer.close()


async def test_a_start_that_may_not_list_fails_with_the_reason(server: ScriptedApiServer, api: Api) -> None:
    server.fail("GET", "configmaps", 403, reason="Forbidden", times=1_000)
    informer = Informer(api, CONFIG_MAPS)
    with pytest.raises(ApiError) as caught:
        await informer.start(within_s=0.5)
    assert caught.value.reason == "Forbidden"


async def test_a_subscriber_can_leave(server: ScriptedApiServer, informer: Informer) -> None:
    story = Story()
    leave = informer.subscribe(story)
    server.put(CONFIG_MAPS, config_map("second"))
    await until(lambda: story.lines == ["+second"], "it is told")
    leave()
    server.put(CONFIG_MAPS, config_map("third"))
    await until(lambda: "third" in names(informer), "the third is seen")
    assert story.lines == ["+second"]
