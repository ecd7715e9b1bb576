"""The management API's functions, kept as Function resources."""

import asyncio
from collections.abc import AsyncIterator, Awaitable

import pytest
from redis.asyncio import Redis

from forebay_common.keys import PlatformKeys
from forebay_common.names import id_prefix
from forebay_common.redis_client import command
from forebay_common.spec import FunctionSpec
from forebay_controller.cluster.api import FUNCTIONS, Object
from forebay_controller.cluster.code_source import make_zip
from forebay_controller.cluster.informer import Informer
from forebay_controller.cluster.resources_store import NamespaceFunctions, ResourceStore
from forebay_controller.code_package import CodePackage, read_package
from forebay_controller.code_store import CodeStorageFullError, CodeStore
from forebay_controller.interfaces import FunctionStatus
from forebay_controller.management import FunctionStore, StoreError
from forebay_controller.settings_rules import SettingError
from support.controller_rig import until
from support.scripted_api_server import ScriptedApiServer, scripted_api_server
from support.source_rig import SourceRig

pytestmark = pytest.mark.usefixtures("no_leaked_keys")

PACKAGE = read_package(make_zip([("app.py", b"x = 1")]))
OTHER = read_package(make_zip([("app.py", b"x = 2")]))


class RefusedError(Exception):
    """What a decision may raise."""


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


@pytest.fixture
async def functions(rig: SourceRig) -> NamespaceFunctions:
    return in_team(rig.store)


def in_team(store: ResourceStore) -> NamespaceFunctions:
    found = store.in_namespace("team")
    assert found is not None
    return found


def new(name: str = "hello", package: CodePackage = PACKAGE) -> FunctionSpec:
    return FunctionSpec("team", name, "", "python3.13", "app.handler", package.sha256, package.size)


async def made(functions: NamespaceFunctions, name: str = "hello") -> FunctionSpec:
    def decide(old: FunctionSpec | None) -> FunctionSpec:
        if old is not None:
            raise RefusedError(old.name)
        return new(name)

    return await functions.change(name, decide, PACKAGE)


def settings(**changes: object) -> "Decision":
    return Decision(changes)


class Decision:
    """Changes some settings of what is there."""

    def __init__(self, changes: dict[str, object]) -> None:
        self.changes = changes
        self.seen: list[FunctionSpec | None] = []

    def __call__(self, old: FunctionSpec | None) -> FunctionSpec:
        self.seen.append(old)
        if old is None:
            raise RefusedError("gone")
        return old.with_changes(**self.changes)


async def store_error(changing: Awaitable[object]) -> StoreError:
    with pytest.raises(StoreError) as caught:
        await changing
    return caught.value


async def nobody(_uid: str) -> None:
    raise AssertionError("the leader ends what runs")


async def test_an_invocations_id_leads_to_its_function_in_its_namespace_as_long_as_it_is_there(
    rig: SourceRig, functions: NamespaceFunctions
) -> None:
    spec = await made(functions)
    elsewhere = rig.store.in_namespace("elsewhere")
    assert elsewhere is not None
    prefix = id_prefix(spec.uid)
    assert [found.name for found in functions.by_id_prefix(prefix)] == ["hello"]
    assert elsewhere.by_id_prefix(prefix) == []
    assert functions.by_id_prefix(bytes(4)) == []
    await rig.ready("hello")
    assert await functions.delete("hello", nobody)
    assert functions.by_id_prefix(prefix) == []


async def test_a_created_function_is_a_resource_that_kubectl_shows(
    rig: SourceRig, server: ScriptedApiServer, functions: NamespaceFunctions
) -> None:
    spec = await made(functions, "My_Function")
    assert (spec.state, spec.namespace, spec.code_sha256) == ("Pending", "team", PACKAGE.sha256)
    item = server.get(FUNCTIONS, "team", spec.pod.resource_name)
    assert item["spec"]["functionName"] == "My_Function"
    assert item["spec"]["code"] == {"blob": {"sha256": PACKAGE.sha256, "size": PACKAGE.size}}
    await rig.ready(spec.pod.resource_name)
    assert await rig.package(spec.uid) == PACKAGE.data
    found = functions.find("My_Function")
    assert found is not None
    assert found.state == "Active"


async def test_what_was_written_is_read_at_once(server: ScriptedApiServer, functions: NamespaceFunctions) -> None:
    server.silent = True
    await made(functions)
    found = functions.find("hello")
    assert found is not None
    assert found.state == "Pending"
    await functions.change("hello", settings(memory_mb=256))
    found = functions.find("hello")
    assert found is not None
    assert found.memory_mb == 256


async def test_a_change_touches_what_differs_and_shows_as_in_progress_until_it_is_applied(
    rig: SourceRig, server: ScriptedApiServer, functions: NamespaceFunctions
) -> None:
    uid = rig.apply(env=[{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}])
    await rig.ready()
    await rig.source.update_applied(uid, 1)
    await until(lambda: rig.status().get("appliedRevision") == 1, "it is settled")
    before = server.get(FUNCTIONS, "team", "hello")["spec"]
    changed = await functions.change("hello", settings(timeout_s=9))
    assert changed.update_status == "InProgress"
    assert server.get(FUNCTIONS, "team", "hello")["spec"] == {**before, "timeoutSeconds": 9}
    await until(lambda: rig.spec(uid).revision == 2, "the leader takes it over")
    await rig.source.update_applied(uid, 2)
    await until(lambda: (functions.find("hello") or new()).update_status == "Successful", "it is applied")


async def test_other_code_is_uploaded_and_taken_over(rig: SourceRig, functions: NamespaceFunctions) -> None:
    spec = await made(functions)
    await rig.ready()
    await functions.change("hello", settings(code_sha256=OTHER.sha256, code_size=OTHER.size), OTHER)
    await until(lambda: rig.spec(spec.uid).revision == 2, "it is another revision")
    assert await rig.package(spec.uid) == OTHER.data


async def test_a_change_is_decided_anew_on_what_somebody_else_left(
    rig: SourceRig, server: ScriptedApiServer, functions: NamespaceFunctions
) -> None:
    await made(functions)
    await rig.ready()
    server.silent = True
    server.change_spec(FUNCTIONS, "team", "hello", memory="512Mi")
    decision = settings(timeout_s=9)
    changed = await functions.change("hello", decision)
    assert (changed.timeout_s, changed.memory_mb) == (9, 512)
    first, *later = [old.memory_mb for old in decision.seen if old is not None]
    assert first == 128
    assert set(later) == {512}


async def test_a_change_against_endless_others_gives_up(
    rig: SourceRig, server: ScriptedApiServer, functions: NamespaceFunctions
) -> None:
    await made(functions)
    await rig.ready()
    server.fail("PATCH", "/functions/hello\\?", 409, times=100, reason="Conflict")
    error = await store_error(functions.change("hello", settings(timeout_s=9)))
    assert error.code == "conflict"
    assert server.count("PATCH", "/functions/hello$") < 10


async def test_two_who_create_the_same_function_do_not_both_succeed(rig: SourceRig, server: ScriptedApiServer) -> None:
    api = server.api()
    informer = Informer(api, FUNCTIONS)
    await informer.start()
    other = ResourceStore(api, informer, rig.redis, rig.platform, CodeStore(rig.redis), rig.config)
    other.start()
    outcomes = await asyncio.gather(made(in_team(rig.store)), made(in_team(other)), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["FunctionSpec", "RefusedError"]
    await informer.close()
    await api.close()


async def test_what_a_decision_or_a_rule_refuses_changes_nothing(
    server: ScriptedApiServer, functions: NamespaceFunctions
) -> None:
    await made(functions)
    with pytest.raises(RefusedError):
        await made(functions)
    with pytest.raises(SettingError):
        await functions.change("hello", settings(memory_mb=1))
    assert server.get(FUNCTIONS, "team", "hello")["metadata"]["generation"] == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "forbidden"), (422, "invalid"), (400, "invalid"), (404, "invalid"), (500, "unavailable")],
)
async def test_what_the_api_server_refuses_is_told_in_its_words(
    server: ScriptedApiServer, functions: NamespaceFunctions, status: int, code: str
) -> None:
    server.fail("POST", "/functions", status, times=1)
    error = await store_error(made(functions))
    assert error.code == code
    assert "as the test says" in error.message


async def test_tags_are_no_update(rig: SourceRig, functions: NamespaceFunctions) -> None:
    spec = await made(functions)
    await rig.ready()
    await rig.source.update_applied(spec.uid, 1)
    await until(lambda: (functions.find("hello") or new()).update_status == "Successful", "it is settled")
    before = functions.find("hello")
    await functions.annotate("hello", settings(aws={"Tags": {"team": "a"}}))
    after = functions.find("hello")
    assert before is not None
    assert after is not None
    assert after.aws == {"Tags": {"team": "a"}}
    assert after == before.with_changes(aws=after.aws)
    await rig.ready()


async def test_a_deleted_function_is_gone_when_the_answer_comes(
    rig: SourceRig, server: ScriptedApiServer, functions: NamespaceFunctions
) -> None:
    await made(functions)
    await rig.ready()
    assert await functions.delete("hello", nobody)
    assert not server.has(FUNCTIONS, "team", "hello")
    assert functions.find("hello") is None
    assert not await functions.delete("hello", nobody)


async def test_a_function_that_still_drains_is_gone_for_the_api_and_its_name_waits(
    rig: SourceRig, server: ScriptedApiServer, functions: NamespaceFunctions
) -> None:
    await made(functions)
    await rig.ready()
    rig.hold_retirement()
    deleting = asyncio.create_task(functions.delete("hello", nobody))
    await until(lambda: functions.find("hello") is None, "the API does not show it any more")
    assert functions.by_name() == []
    creating = asyncio.create_task(made(functions))
    await asyncio.wait({creating}, timeout=0.3)
    assert not creating.done()
    rig.hold_retirement(hold=False)
    assert await deleting
    assert (await creating).state == "Pending"
    await rig.ready()


async def test_a_name_that_a_resource_of_another_function_bears_is_told(
    rig: SourceRig, functions: NamespaceFunctions
) -> None:
    rig.apply("hello", functionName="other")
    await rig.ready()
    error = await store_error(made(functions))
    assert error.code == "conflict"
    assert "function other" in error.message


async def test_functions_are_listed_by_name_without_those_that_have_none(
    rig: SourceRig, functions: NamespaceFunctions
) -> None:
    for name in ("b", "a"):
        rig.apply(name)
        await rig.ready(name)
    rig.apply("c", functionName="a")
    await rig.condition("Ready", "NameTaken", "c")
    rig.apply("elsewhere", namespace="other")
    await rig.ready("elsewhere", "other")
    assert [spec.name for spec in functions.by_name()] == ["a", "b"]


async def test_code_above_the_bound_for_all_is_refused_before_it_is_stored(
    rig: SourceRig, server: ScriptedApiServer, functions: NamespaceFunctions
) -> None:
    await made(functions)
    await rig.ready()
    rig.code.total_max_bytes = PACKAGE.size + 10
    with pytest.raises(CodeStorageFullError):
        await functions.change("hello", settings(code_sha256=OTHER.sha256, code_size=OTHER.size), OTHER)
    assert functions.code.total_bytes == PACKAGE.size


async def test_any_replica_reads_code_and_status(rig: SourceRig, server: ScriptedApiServer) -> None:
    spec = await made(in_team(rig.store))
    await rig.ready()
    rig.source.note_status(spec.uid, FunctionStatus(capacity=2, starting=1, idle=1, queued=4))
    await until(lambda: rig.status()["instances"] == 2, "the leader writes it down")
    api = server.api()
    informer = Informer(api, FUNCTIONS)
    await informer.start()
    standby = ResourceStore(api, informer, rig.redis, rig.platform, CodeStore(rig.redis), rig.config)
    standby.start()
    assert standby.get_status(spec.uid) == FunctionStatus(capacity=2, starting=1, idle=1, queued=4)
    assert standby.get_status("nobody") == FunctionStatus()
    functions = in_team(standby)
    assert await functions.code.size(functions.keys(spec), PACKAGE.sha256) == PACKAGE.size
    chunks = [chunk async for chunk in functions.code.chunks(functions.keys(spec), PACKAGE.sha256)]
    assert b"".join(chunks) == PACKAGE.data
    assert functions.code.total_bytes == PACKAGE.size
    await informer.close()
    await api.close()


async def test_namespaces_that_are_not_served_have_no_functions(
    server: ScriptedApiServer, redis: Redis, prefix: str
) -> None:
    rig = SourceRig(server, redis, prefix, namespace="team", namespaces=("team", "other"))
    await rig.lead()
    store: FunctionStore = rig.store
    assert store.has_pods
    assert store.namespaces_served == "team and other"
    assert store.in_namespace("elsewhere") is None
    assert store.in_namespace("forebay") is None
    await rig.close()


async def test_an_upload_alone_is_kept_for_a_resource_to_name(rig: SourceRig) -> None:
    await rig.store.stage_blob(OTHER)
    uid = rig.apply(code={"blob": {"sha256": OTHER.sha256}})
    item: Object = await rig.ready()
    assert item["status"]["codeSize"] == OTHER.size
    assert await rig.package(uid) == OTHER.data
