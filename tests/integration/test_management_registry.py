"""What the registry keeps across its process's death, and cleans up after it."""

import logging
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from forebay_common.frames import ERROR_DELETED, ERROR_INSTANCE_LOST
from forebay_common.function_table import publish_entry, remove_entry
from forebay_common.keys import PlatformKeys
from forebay_common.queue import VersionQueue
from forebay_common.redis_client import command
from forebay_common.routing import RoutingEntry
from forebay_common.spec import FunctionSpec
from forebay_controller import registry_rules as rules
from forebay_controller.code_package import CodePackage, read_package
from forebay_controller.code_store import CodeStore
from forebay_controller.interfaces import FunctionStatus
from forebay_controller.management import Place
from forebay_controller.registry import Registry
from support.management import HELLO, zip_of
from support.queue_side import append, call, lease, replies
from support.waiting import wait_until_async

pytestmark = pytest.mark.usefixtures("no_leaked_keys")

PACKAGE = read_package(HELLO)
OTHER = read_package(zip_of(app__py="other"))


class Registries:
    """Registries over one Redis, one after the other, as after a controller's restart."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        self.redis = redis
        self.platform = PlatformKeys(prefix)
        self.current: Registry | None = None

    async def start(self, *, grace_ms: int = 600_000) -> Registry:
        await self.close()
        code = CodeStore(self.redis, grace_ms=grace_ms)
        self.current = Registry(self.redis, self.platform, code, Place())
        await self.current.load()
        return self.current

    async def close(self) -> None:
        if self.current is not None:
            await self.current.close()

    async def entry(self, name: str = "hello") -> RoutingEntry:
        return RoutingEntry.from_json(await command(self.redis, "HGET", self.platform.functions, f"default/{name}"))

    async def keys(self) -> set[str]:
        return {key.decode() async for key in self.redis.scan_iter(match=f"{self.platform.prefix}:*")}


@pytest.fixture
async def registries(redis: Redis, prefix: str) -> Any:
    made = Registries(redis, prefix)
    yield made
    await made.close()


def wanted(package: CodePackage = PACKAGE, **changes: Any) -> Any:
    def decide(old: FunctionSpec | None) -> FunctionSpec:
        first = old or FunctionSpec("default", "hello", "", "python3.11", "app.handler", "", 0)
        return first.with_changes(code_sha256=package.sha256, code_size=package.size, **changes)

    return decide


def state_of(registry: Registry) -> str:
    spec = registry.find("hello")
    return "" if spec is None else spec.state


async def no_retirement(_: str) -> None:
    pass


async def test_functions_survive_a_restart(registries: Registries) -> None:
    registry = await registries.start()
    made = await registry.change("hello", wanted(timeout_s=7, env={"AB": "x"}), PACKAGE, visible_s=0)
    again = await registries.start()
    assert again.functions() == {made.uid: made}
    chunks = [chunk async for chunk in again.code.chunks(again.keys(made), made.code_sha256)]
    assert b"".join(chunks) == HELLO
    assert again.code.total_bytes == len(HELLO)


async def test_a_restart_announces_nothing_that_is_known(registries: Registries) -> None:
    registry = await registries.start()
    made = await registry.change("hello", wanted(), PACKAGE, visible_s=0)
    await registry.publish_status(made.uid, FunctionStatus(capacity=3, cannot_start="no luck", retry_at_ms=5))
    generation = await command(registries.redis, "GET", registries.platform.generation)
    await registries.start()
    assert await command(registries.redis, "GET", registries.platform.generation) == generation
    assert (await registries.entry()).cannot_start == "no luck"


async def test_a_pending_function_becomes_active_after_a_restart(registries: Registries) -> None:
    await (await registries.start()).change("hello", wanted(), PACKAGE, visible_s=60)
    again = await registries.start()
    assert state_of(again) == "Pending"

    async def active() -> bool:
        return (await registries.entry()).state == "Active"

    await wait_until_async(active, "the function is active")


async def test_an_update_is_still_in_progress_after_a_restart(registries: Registries) -> None:
    registry = await registries.start()
    made = await registry.change("hello", wanted(), PACKAGE, visible_s=0)
    await registry.change("hello", wanted(timeout_s=9))
    again = await registries.start()
    assert again.functions()[made.uid].update_status == "InProgress"
    await again.update_applied(made.uid, 2)

    async def applied() -> bool:
        return again.functions()[made.uid].update_status == "Successful"

    await wait_until_async(applied, "the update is applied")


async def test_changes_are_told_by_uid(registries: Registries) -> None:
    registry = await registries.start()
    told: list[tuple[str, bool]] = []
    registry.on_change(lambda uid: told.append((uid, uid in registry.functions())))
    made = await registry.change("hello", wanted(), PACKAGE, visible_s=0)
    await registry.change("hello", wanted(timeout_s=9))
    await registry.delete("hello", no_retirement)
    assert told == [(made.uid, True), (made.uid, True), (made.uid, False)]


async def test_gateways_are_told_only_of_what_they_use(registries: Registries) -> None:
    registry = await registries.start()
    made = await registry.change("hello", wanted(), PACKAGE, visible_s=0)
    generation = int(await command(registries.redis, "GET", registries.platform.generation))
    await registry.publish_status(made.uid, FunctionStatus(queued=1, idle=2))
    await registry.publish_status(made.uid, FunctionStatus(capacity=2, idle=2))
    await registry.publish_status(made.uid, FunctionStatus(capacity=2, busy=2))
    assert int(await command(registries.redis, "GET", registries.platform.generation)) == generation + 1
    assert (await registries.entry()).capacity == 2


async def test_a_late_status_does_not_bring_a_deleted_function_back(registries: Registries) -> None:
    registry = await registries.start()
    made = await registry.change("hello", wanted(), PACKAGE, visible_s=0)
    await registry.delete("hello", no_retirement)
    await registry.publish_status(made.uid, FunctionStatus(capacity=9))
    await registry.update_applied(made.uid, 1)
    assert await registries.keys() == {registries.platform.generation}


async def test_old_code_is_kept_for_a_while_and_then_deleted(registries: Registries) -> None:
    registry = await registries.start(grace_ms=300)
    made = await registry.change("hello", wanted(), PACKAGE, visible_s=0)
    await registry.change("hello", wanted(OTHER), OTHER, visible_s=0)
    keys = registry.keys(made)
    old_chunk = keys.code(PACKAGE.sha256, 0)
    assert old_chunk in await registries.keys()
    await registry.update_applied(made.uid, 2)

    async def swept() -> bool:
        return old_chunk not in await registries.keys()

    await wait_until_async(swept, "the old code is deleted")
    assert keys.code(OTHER.sha256, 0) in await registries.keys()
    assert registry.code.total_bytes == OTHER.size


async def test_code_is_kept_while_an_update_runs(registries: Registries) -> None:
    registry = await registries.start(grace_ms=1)
    made = await registry.change("hello", wanted(), PACKAGE, visible_s=0)
    await registry.change("hello", wanted(OTHER), OTHER, visible_s=0)
    assert await registry._sweep(made.uid, PACKAGE.sha256) is not None
    assert await registry.code.size(registry.keys(made), PACKAGE.sha256) == PACKAGE.size


async def test_code_of_an_earlier_process_is_deleted_after_its_grace(registries: Registries) -> None:
    registry = await registries.start()
    made = await registry.change("hello", wanted(), PACKAGE, visible_s=0)
    await registry.change("hello", wanted(OTHER), OTHER, visible_s=0)
    again = await registries.start(grace_ms=100)
    await again.update_applied(made.uid, 2)
    wait_for = again.keys(made).code(PACKAGE.sha256, 0)

    async def swept() -> bool:
        return wait_for not in await registries.keys()

    await wait_until_async(swept, "the old code is deleted")


async def test_a_package_whose_upload_was_cut_is_stored_again(registries: Registries) -> None:
    registry = await registries.start()
    made = await registry.change("hello", wanted(), PACKAGE, visible_s=0)
    keys = registry.keys(made)
    await registry.code.put(keys, OTHER)
    await command(registries.redis, "DEL", keys.code(OTHER.sha256, 0))
    await registry.change("hello", wanted(OTHER), OTHER, visible_s=0)
    assert await command(registries.redis, "GET", keys.code(OTHER.sha256, 0)) == OTHER.data


async def test_a_creation_that_died_half_way_leaves_nothing(registries: Registries) -> None:
    keys = registries.platform.function("default", "half", "u1")
    await CodeStore(registries.redis).put(keys, PACKAGE)
    await registries.start()
    assert await registries.keys() == set()


async def test_a_creation_that_died_before_its_routing_entry_is_finished(registries: Registries) -> None:
    registry = await registries.start()
    made = await registry.change("hello", wanted(), PACKAGE, visible_s=0)
    await remove_entry(registries.redis, registries.platform, "default/hello")
    again = await registries.start()
    assert again.functions() == {made.uid: made}
    assert (await registries.entry()).uid == made.uid


@pytest.mark.parametrize("entry_is_gone", [True, False])
async def test_a_deletion_that_died_half_way_is_finished(registries: Registries, *, entry_is_gone: bool) -> None:
    registry = await registries.start()
    made = await registry.change("hello", wanted(), PACKAGE, visible_s=0)
    await command(
        registries.redis, "SET", registry.keys(made).spec(), made.with_changes(state=rules.DELETING).to_json()
    )
    if entry_is_gone:
        await remove_entry(registries.redis, registries.platform, "default/hello")
    again = await registries.start()
    assert again.functions() == {}
    assert await registries.keys() == {registries.platform.generation}


async def test_a_restart_finds_nothing_to_remove_where_nothing_is_left_over(
    registries: Registries, caplog: pytest.LogCaptureFixture
) -> None:
    registry = await registries.start()
    await registry.change("hello", wanted(), PACKAGE, visible_s=0)
    caplog.set_level(logging.INFO, "forebay_controller")
    again = await registries.start()
    assert [spec.name for spec in again.functions().values()] == ["hello"]
    assert caplog.records == []


async def test_callers_of_a_function_whose_deletion_died_are_told(registries: Registries) -> None:
    registry = await registries.start()
    made = await registry.change("hello", wanted(), PACKAGE, visible_s=0)
    queue = VersionQueue(registry.keys(made))
    await append(registries.redis, queue, held := call())
    await lease(registries.redis, queue.sync, "i1")
    await append(registries.redis, queue, waiting := call())
    deleting = made.with_changes(state=rules.DELETING)
    await command(registries.redis, "SET", registry.keys(made).spec(), deleting.to_json())

    await registries.start()

    told = {frame.token: frame.error_kind for frame in await replies(registries.redis, registries.platform)}
    assert told == {waiting.reply_token: ERROR_DELETED, held.reply_token: ERROR_INSTANCE_LOST}


async def test_an_entry_without_a_record_is_taken_out(registries: Registries) -> None:
    spec = FunctionSpec("default", "ghost", "u1", "python3.11", "a.b", "00", 1)
    entry = rules.routing_entry(spec, FunctionStatus(), region="us-east-1", account="000000000000")
    await publish_entry(registries.redis, registries.platform, entry)
    await registries.start()
    assert await registries.keys() == {registries.platform.generation}


async def test_a_write_that_failed_is_undone_by_writing_what_memory_says(
    registries: Registries, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = await registries.start()
    made = await registry.change("hello", wanted(), PACKAGE, visible_s=0)
    write = registry._write

    async def write_and_lose_the_answer(spec: FunctionSpec) -> None:
        await write(spec)
        raise RedisConnectionError("gone")

    monkeypatch.setattr(registry, "_write", write_and_lose_the_answer)
    with pytest.raises(RedisConnectionError):
        await registry.change("hello", wanted(timeout_s=9))
    monkeypatch.setattr(registry, "_write", write)
    assert registry.functions() == {made.uid: made}

    async def restored() -> bool:
        return bool(await command(registries.redis, "GET", registry.keys(made).spec()) == made.to_json())

    await wait_until_async(restored, "Redis holds what memory says")


async def test_a_failed_creation_is_taken_back(registries: Registries, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = await registries.start()

    async def fail(_: FunctionSpec) -> None:
        raise RedisConnectionError("gone")

    monkeypatch.setattr(registry, "_write", fail)
    with pytest.raises(RedisConnectionError):
        await registry.change("hello", wanted(), PACKAGE)
    assert registry.find("hello") is None

    async def clean() -> bool:
        return await registries.keys() <= {registries.platform.generation}

    await wait_until_async(clean, "the failed creation's keys are gone")
    assert registry.code.total_bytes == 0


async def test_deletion_waits_for_retirement_and_goes_on_without_its_caller(registries: Registries) -> None:
    registry = await registries.start()
    made = await registry.change("hello", wanted(), PACKAGE, visible_s=0)
    attempts: list[str] = []

    async def retire(uid: str) -> None:
        assert registry.keys(made).spec() in await registries.keys()
        attempts.append(uid)
        if len(attempts) == 1:
            raise RedisConnectionError("gone for a moment")

    await registry.delete("hello", retire)
    assert attempts == [made.uid, made.uid]
    assert await registries.keys() == {registries.platform.generation}


def test_a_record_survives_its_json() -> None:
    now = datetime(2024, 5, 6, 7, 8, 9, 123_999, tzinfo=UTC)
    spec = rules.created(wanted(env={"AB": "ä"}, allowed_origins=("*",))(None), uid="u", now=now, pending=True)
    assert FunctionSpec.from_json(spec.to_json()) == spec
    assert spec.last_modified == "2024-05-06T07:08:09.123+0000"
    assert replace(spec, state="Active") != spec
