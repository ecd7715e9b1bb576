"""Function resources become functions that instances run and gateways route to."""

import asyncio
import io
import zipfile
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from forebay_common.keys import PlatformKeys
from forebay_common.queue import VersionQueue, observe
from forebay_common.redis_client import command
from forebay_controller.cluster.acceptance import PrepareError
from forebay_controller.cluster.api import CONFIG_MAPS, FUNCTIONS
from forebay_controller.cluster.resource import FINALIZER
from forebay_controller.interfaces import FunctionStatus
from support.controller_rig import until
from support.scripted_api_server import ScriptedApiServer, scripted_api_server
from support.source_rig import SourceRig
from support.waiting import wait_until_async

pytestmark = pytest.mark.usefixtures("no_leaked_keys")


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


def inline(text: str) -> dict[str, dict[str, str]]:
    return {"inline": {"app.py": text}}


async def test_a_new_function_is_stored_prepared_published_and_ready(rig: SourceRig) -> None:
    uid = rig.apply()
    item = await rig.ready()
    spec = rig.spec(uid)
    assert item["metadata"]["finalizers"] == [FINALIZER]
    assert (spec.revision, spec.name, spec.namespace, spec.state) == (1, "hello", "team", "Active")
    assert [made.uid for made in rig.prepared] == [uid]
    assert rig.told == [uid]
    with zipfile.ZipFile(io.BytesIO(await rig.package(uid))) as archive:
        assert archive.namelist() == ["app.py"]
    entry = await rig.entry()
    assert entry is not None
    assert (entry.uid, entry.state, entry.cannot_start, entry.versions["$LATEST"].revision) == (uid, "Active", "", 1)
    [queues] = await observe(rig.redis, [VersionQueue(rig.platform.function("team", "hello", uid))])
    assert queues is not None
    status = item["status"]
    assert status["ready"] == "True"
    assert (status["revision"], status["state"], status["codeSha256"]) == (1, "Active", spec.code_sha256)
    assert status["selector"] == f"forebay.dev/function-uid={uid}"


async def test_the_status_names_a_revision_before_instances_may_bear_it(
    server: ScriptedApiServer, rig: SourceRig
) -> None:
    server.fail("PATCH", "/status", 500, times=3)
    uid = rig.apply()
    await until(lambda: server.count("PATCH", "/status$") >= 1, "the revision is to be written")
    assert uid not in rig.source.functions()
    assert await rig.entry() is None
    await rig.ready()
    assert rig.spec(uid).revision == rig.status()["revision"] == 1


async def test_it_says_ready_only_when_gateways_can_know(server: ScriptedApiServer, rig: SourceRig) -> None:
    uid = rig.apply()
    await until(lambda: uid in rig.source.functions(), "it is accepted")
    writes = [seen.body["status"] for seen in server.requests if seen.path.endswith("/status")]
    assert "conditions" not in writes[0]
    await rig.ready()


async def test_settings_that_need_new_instances_make_a_revision_and_others_do_not(
    server: ScriptedApiServer, rig: SourceRig
) -> None:
    uid = rig.apply()
    await rig.ready()
    server.change_spec(FUNCTIONS, "team", "hello", scale={"minInstances": 2})
    await until(lambda: rig.spec(uid).scale.min_instances == 2, "the minimum is taken over")
    assert rig.spec(uid).revision == 1
    server.change_spec(FUNCTIONS, "team", "hello", memory="256Mi")
    await until(lambda: rig.spec(uid).revision == 2, "there is another revision")
    item = await rig.ready()
    assert item["status"]["revision"] == 2
    entry = await rig.entry()
    assert entry is not None
    assert entry.versions["$LATEST"].memory_mb == 256
    assert rig.told == [uid] * 3


async def test_an_update_is_applied_once_no_older_instance_takes_calls(
    server: ScriptedApiServer, rig: SourceRig
) -> None:
    uid = rig.apply()
    await rig.ready()
    await rig.source.update_applied(uid, 1)
    await until(lambda: rig.status().get("appliedRevision") == 1, "the first is applied")
    server.change_spec(FUNCTIONS, "team", "hello", timeoutSeconds=9)
    await until(lambda: rig.spec(uid).revision == 2, "there is another revision")
    await rig.ready()
    functions = rig.store.in_namespace("team")
    assert functions is not None
    found = functions.find("hello")
    assert found is not None
    assert found.update_status == "InProgress"
    await rig.source.update_applied(uid, 2)
    await until(lambda: rig.status().get("appliedRevision") == 2, "the second is applied")


async def test_code_that_is_wrong_leaves_the_function_serving_as_before(
    server: ScriptedApiServer, rig: SourceRig
) -> None:
    uid = rig.apply()
    await rig.ready()
    before = rig.spec(uid)
    server.change_spec(FUNCTIONS, "team", "hello", code={"zip": {"url": "https://127.0.0.1/x", "sha256": "0" * 64}})
    problem = await rig.condition("CodeReady", "UrlRefused")
    assert "loopback" in problem["message"]
    status = rig.status()
    assert (status["ready"], status["reason"], status["state"]) == ("True", "UrlRefused", "Active")
    assert rig.conditions()["Ready"]["observedGeneration"] == 1, "who waits for the change to be ready goes on waiting"
    assert rig.spec(uid) == before
    entry = await rig.entry()
    assert entry is not None
    assert entry.cannot_start == ""
    server.change_spec(FUNCTIONS, "team", "hello", code=inline("def handler(e, c): return 2"))
    await rig.ready()
    assert rig.spec(uid).revision == 2
    assert rig.conditions()["CodeReady"]["status"] == "True"


async def test_callers_of_a_new_function_without_code_get_the_reason(server: ScriptedApiServer, rig: SourceRig) -> None:
    uid = rig.apply(code={"configMap": {"name": "lib"}})
    await rig.condition("CodeReady", "ConfigMapNotFound")
    entry = await rig.entry()
    assert entry is not None
    assert "There is no ConfigMap lib" in entry.cannot_start
    assert entry.retry_at_ms > 0
    assert uid not in rig.source.functions()
    assert rig.status()["ready"].startswith("False: kubectl describe fn hello")
    server.put(CONFIG_MAPS, {"metadata": {"name": "lib", "namespace": "team"}, "data": {"app.py": "x = 1"}})
    await rig.ready()
    entry = await rig.entry()
    assert entry is not None
    assert entry.cannot_start == ""


async def test_a_config_map_that_changes_makes_a_new_revision(server: ScriptedApiServer, rig: SourceRig) -> None:
    files = {"metadata": {"name": "lib", "namespace": "team"}, "data": {"app.py": "x = 1"}}
    server.put(CONFIG_MAPS, files)
    uid = rig.apply(code={"configMap": {"name": "lib"}})
    await rig.ready()
    await until(lambda: server.watching == 2, "the ConfigMap is watched")
    server.put(CONFIG_MAPS, {**files, "data": {"app.py": "x = 2"}})
    await until(lambda: rig.spec(uid).revision == 2, "its code is taken over")
    with zipfile.ZipFile(io.BytesIO(await rig.package(uid))) as archive:
        assert archive.read("app.py") == b"x = 2"
    server.change_spec(FUNCTIONS, "team", "hello", code=inline("x = 3"))
    await until(lambda: rig.spec(uid).revision == 3, "other code is taken over")
    await until(lambda: server.watching == 1, "the ConfigMap is not watched any more")


async def test_what_cannot_be_prepared_starts_nothing(rig: SourceRig) -> None:
    rig.prepare_error = PrepareError("PolicyRefused", "no network policy can be made")
    uid = rig.apply()
    problem = await rig.condition("Ready", "PolicyRefused")
    assert problem["message"] == "no network policy can be made"
    assert uid not in rig.source.functions()
    rig.prepare_error = None
    await until(lambda: uid in rig.source.functions(), "it is tried again")
    await rig.ready()


async def test_one_functions_trouble_delays_no_other(rig: SourceRig) -> None:
    rig.prepare_error = RuntimeError("a mistake of ours")
    rig.apply("broken")
    await until(lambda: rig.server.has(FUNCTIONS, "team", "broken"), "it is there")
    await asyncio.sleep(0)
    rig.prepare_error = None
    rig.apply("hello")
    await rig.ready()
    await rig.ready("broken")


async def test_of_two_with_one_name_the_one_that_serves_has_it(server: ScriptedApiServer, rig: SourceRig) -> None:
    uid = rig.apply()
    await rig.ready()
    other = rig.apply("other", functionName="hello")
    problem = await rig.condition("Ready", "NameTaken", "other")
    assert "Function hello" in problem["message"]
    assert other not in rig.source.functions()
    assert FINALIZER not in server.get(FUNCTIONS, "team", "other")["metadata"].get("finalizers", [])
    server.delete(FUNCTIONS, "team", "hello")
    await rig.ready("other")
    entry = await rig.entry()
    assert entry is not None
    assert entry.uid == other
    assert await rig.keys_of(uid) == []


async def test_functions_beside_the_platform_are_refused(rig: SourceRig) -> None:
    uid = rig.apply(namespace="forebay")
    problem = await rig.condition("Ready", "NamespaceRefused", namespace="forebay")
    assert "use another" in problem["message"]
    assert uid not in rig.source.functions()
    assert await rig.entry(namespace="forebay") is None


async def test_what_the_schema_cannot_tell_is_a_condition(rig: SourceRig) -> None:
    rig.apply(env=[{"name": f"V{number}", "value": "x" * 1000} for number in range(5)])
    problem = await rig.condition("Ready", "Invalid")
    assert "4096" in problem["message"]


async def test_a_runtime_that_is_not_installed_is_refused_at_once(rig: SourceRig) -> None:
    rig.apply(runtime="python3.11")
    problem = await rig.condition("Ready", "RuntimeUnknown")
    assert "no image for the runtime python3.11 (it has: python3.13)" in problem["message"]


async def test_a_deleted_function_ends_then_leaves_nothing(server: ScriptedApiServer, rig: SourceRig) -> None:
    uid = rig.apply()
    await rig.ready()
    rig.hold_retirement()
    server.delete(FUNCTIONS, "team", "hello")
    await until(lambda: rig.retired == [uid], "its instances are told to end")
    assert await rig.entry() is None
    assert server.has(FUNCTIONS, "team", "hello"), "it stays until they have"
    assert await rig.keys_of(uid)
    await rig.condition("Ready", "Deleting")
    rig.hold_retirement(hold=False)
    await until(lambda: not server.has(FUNCTIONS, "team", "hello"), "it is gone")
    assert await rig.keys_of(uid) == []
    assert rig.released == [uid]
    await until(lambda: "Deleted" in [reason for reason, _ in rig.events()], "an event tells of it")


async def test_a_function_whose_finalizer_somebody_took_away_leaves_nothing_either(
    server: ScriptedApiServer, rig: SourceRig
) -> None:
    uid = rig.apply()
    await rig.ready()
    rig.hold_retirement()
    item = server.get(FUNCTIONS, "team", "hello")
    server._remove("functions", item)
    await until(lambda: rig.retired == [uid], "its instances are told to end")
    again = rig.apply()
    rig.hold_retirement(hold=False)
    await rig.ready()
    assert set(rig.source.functions()) == {again}
    assert await rig.keys_of(uid) == []


async def test_others_finalizers_stay(server: ScriptedApiServer, rig: SourceRig) -> None:
    rig.apply()
    item = await rig.ready()
    item["metadata"]["finalizers"].append("example.com/other")
    server.put(FUNCTIONS, item)
    server.delete(FUNCTIONS, "team", "hello")
    await until(
        lambda: server.get(FUNCTIONS, "team", "hello")["metadata"]["finalizers"] == ["example.com/other"],
        "ours is taken away",
    )


async def test_a_new_leader_takes_up_what_the_one_before_had_accepted(
    server: ScriptedApiServer, rig: SourceRig
) -> None:
    uid = rig.apply()
    await rig.ready()
    before = rig.spec(uid)
    await rig.stop()
    server.change_spec(FUNCTIONS, "team", "hello", code={"zip": {"url": "https://10.0.0.1/x", "sha256": "0" * 64}})
    writes = rig.status_writes()
    rig.prepared.clear()
    await rig.lead()
    assert rig.spec(uid) == before, "known before anything else is done"
    await rig.condition("CodeReady", "UrlRefused")
    assert rig.spec(uid) == before
    assert rig.status_writes() - writes <= 2


async def test_a_new_leader_changes_nothing_where_nothing_has_changed(
    server: ScriptedApiServer, rig: SourceRig
) -> None:
    uid = rig.apply()
    await rig.ready()
    await rig.source.update_applied(uid, 1)
    await until(lambda: rig.status().get("appliedRevision") == 1, "it is settled")
    generation = await command(rig.redis, "GET", rig.platform.generation)
    await rig.stop()
    changes = sum(seen.method != "GET" for seen in server.requests)
    rig.prepared.clear()
    await rig.lead()
    await until(lambda: [spec.uid for spec in rig.prepared] == [uid], "what instances need is looked after")
    rig.apply("second")
    await rig.ready("second")
    about = [seen for seen in server.requests if seen.method != "GET"][changes:]
    assert not [seen for seen in about if "/hello" in seen.path]
    assert await command(rig.redis, "GET", rig.platform.generation) == str(int(generation) + 1).encode()


async def test_a_new_leader_finishes_a_deletion_that_the_one_before_began(
    server: ScriptedApiServer, rig: SourceRig
) -> None:
    uid = rig.apply()
    await rig.ready()
    rig.hold_retirement()
    server.delete(FUNCTIONS, "team", "hello")
    await until(lambda: rig.retired == [uid], "it has begun")
    await rig.stop()
    rig.hold_retirement(hold=False)
    rig.looks = False
    await rig.lead()
    assert uid in rig.source.functions(), "its instances are taken up first"
    assert server.has(FUNCTIONS, "team", "hello")
    await until(lambda: rig.told[-1:] == [uid], "the controller is told of it")
    assert rig.retired == [uid]
    rig.source.note_status(uid, FunctionStatus(busy=1))
    await until(lambda: not server.has(FUNCTIONS, "team", "hello"), "it is gone")
    assert rig.retired == [uid, uid]
    assert await rig.keys_of(uid) == []


async def test_entries_and_keys_without_a_function_are_removed(server: ScriptedApiServer, rig: SourceRig) -> None:
    uid = rig.apply()
    await rig.ready()
    await rig.stop()
    server._remove("functions", server.get(FUNCTIONS, "team", "hello"))
    await rig.lead()
    assert await rig.entry() is None

    async def empty() -> object:
        return not await rig.keys_of(uid)

    await wait_until_async(empty, "its keys are removed")


async def test_keys_of_namespaces_that_are_not_served_stay(
    server: ScriptedApiServer, redis: Redis, prefix: str
) -> None:
    everywhere = SourceRig(server, redis, prefix)
    await everywhere.lead()
    uid = everywhere.apply(namespace="other")
    await everywhere.ready(namespace="other")
    await everywhere.stop()
    one = SourceRig(server, redis, prefix, namespace="team", namespaces=("team",))
    await one.lead()
    assert await one.entry(namespace="other") is None
    gone = one.apply()
    await one.ready()
    assert gone in one.source.functions()
    assert await one.keys_of(uid)
    await one.close()
    await command(redis, "UNLINK", PlatformKeys(prefix).functions)


async def test_everything_is_there_again_after_redis_lost_it(rig: SourceRig) -> None:
    uid = rig.apply()
    await rig.ready()
    async for key in rig.redis.scan_iter(match=f"{rig.platform.prefix}:*", count=1000):
        await command(rig.redis, "DEL", key)
    rig.prepared.clear()
    await rig.source.republish_all()
    await until(lambda: [spec.uid for spec in rig.prepared] == [uid], "what instances need is made again")

    async def entry() -> object:
        return await rig.entry()

    await wait_until_async(entry, "gateways know it again")
    assert await rig.package(uid)
    [queues] = await observe(rig.redis, [VersionQueue(rig.platform.function("team", "hello", uid))])
    assert queues is not None
    assert rig.spec(uid).revision == 1


async def test_old_code_is_kept_for_a_while_then_removed(server: ScriptedApiServer, rig: SourceRig) -> None:
    rig.code.grace_ms = 100
    uid = rig.apply()
    await rig.ready()
    first = rig.spec(uid).code_sha256
    server.change_spec(FUNCTIONS, "team", "hello", code=inline("x = 2"))
    await until(lambda: rig.spec(uid).revision == 2, "there is other code")
    keys = rig.platform.function("team", "hello", uid)
    assert await command(rig.redis, "HEXISTS", keys.code_index(), first)
    await rig.source.update_applied(uid, 2)
    await rig.source.republish_all()

    async def removed() -> object:
        return not await command(rig.redis, "HEXISTS", keys.code_index(), first)

    await wait_until_async(removed, "the old code is removed")
    assert await rig.package(uid)
