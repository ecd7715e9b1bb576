"""An instance from its start to each of its ends, and what Redis holds afterwards."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from forebay_common.frames import ERROR_EXPIRED, ERROR_FUNCTION, ERROR_NONE
from forebay_common.limits import CODE_CHUNK_BYTES
from forebay_common.queue import VersionQueue, send_control
from forebay_common.redis_client import command
from support.queue_side import append, call, event, give, pending, replies
from support.runtime_rig import ECHO, PlayedHandler, PlayedHandlers, RuntimeRig, package
from support.waiting import wait_until, wait_until_async

SLOW = """
    import time
    def handler(event, context):
        time.sleep(event["s"])
        return event
"""


@pytest.fixture
async def rig(redis: Redis, valkey_server: dict[str, Any], prefix: str) -> AsyncIterator[RuntimeRig]:
    async with RuntimeRig(redis, valkey_server, prefix) as rig:
        yield rig


async def held(rig: RuntimeRig, count: int) -> None:
    async def so_many() -> bool:
        return (await rig.queued(rig.queue.sync))[1] == count

    await wait_until_async(so_many, f"{count} calls are leased")


async def one_handler(rig: RuntimeRig, **settings: Any) -> tuple[PlayedHandlers, PlayedHandler]:
    await rig.prepare(**settings)
    rig.start()
    handlers = await rig.play_handlers()
    handler = handlers.handler(*handlers.next_spawn())
    await rig.wait_for_state("ready")
    return handlers, handler


async def test_an_instance_says_who_it_is_and_wakes_the_controller(rig: RuntimeRig) -> None:
    await rig.prepare()
    async with rig.redis.pubsub() as channel:
        await channel.subscribe(rig.platform_keys.wake_channel)
        rig.start()
        starting = await rig.wait_for_state("starting")
        rig.start_handlers()
        ready = await rig.wait_for_state("ready")
        heard = [await channel.get_message(timeout=5) for _ in range(3)]

    assert starting["pid"] == str(rig.runtime.pid)
    assert ready["revision"] == "7"
    assert int(ready["init_us"]) > 0
    assert {message["data"] for message in heard[1:] if message} == {f"default/fn/{rig.settings['uid']}".encode()}
    for key in (rig.keys.instance(rig.instance_id), rig.keys.control(rig.instance_id)):
        assert 0 < await rig.redis.pttl(key) <= 15_000


@pytest.mark.parametrize("how", ["control", "signal"])
async def test_a_drained_instance_finishes_what_runs_and_leaves_the_rest(rig: RuntimeRig, how: str) -> None:
    await rig.run(SLOW)
    sent = [await rig.append(call(json.dumps({"s": 0.5}).encode())) for _ in range(3)]
    await held(rig, 1)

    if how == "control":
        assert await send_control(rig.redis, rig.keys, rig.instance_id, {"command": "drain"})
    else:
        rig.runtime.send_signal(signal.SIGTERM)

    assert (await rig.replies(1))[sent[0].reply_token].error_kind == ERROR_NONE
    assert await rig.exit_code() == 0
    assert await rig.queued(rig.queue.sync) == (2, 0)
    assert await rig.has_left()
    assert await command(rig.redis, "XINFO", "CONSUMERS", rig.queue.sync, "g") == []


async def test_an_idle_instance_drains_at_once_though_its_read_blocks(rig: RuntimeRig) -> None:
    await rig.run()

    started = asyncio.get_running_loop().time()
    rig.runtime.send_signal(signal.SIGTERM)

    assert await rig.exit_code() == 0
    assert asyncio.get_running_loop().time() - started < 2.0


async def test_a_call_that_waits_for_its_handlers_start_is_handed_back_by_a_drain(rig: RuntimeRig) -> None:
    handlers, handler = await one_handler(rig)
    handler.close()
    handlers.exited(handlers.next_kill(), 7 << 8)
    await rig.invoke()
    await rig.append(call())
    handlers.next_spawn()

    assert await rig.drain() == 0

    assert await rig.queued(rig.queue.sync) == (1, 0)


async def test_kill_9_leaves_the_leased_entries_pending(rig: RuntimeRig) -> None:
    await rig.run(SLOW)
    await rig.append(call(b'{"s": 60}'))
    await held(rig, 1)

    rig.runtime.kill()
    await rig.exit_code()

    assert [entry["consumer"] for entry in await pending(rig.redis, rig.queue.sync)] == [rig.instance_id.encode()]
    assert await asyncio.to_thread(rig.handlers.wait, 10) is not None


async def test_an_instance_ends_when_its_function_is_deleted(rig: RuntimeRig) -> None:
    await rig.run()

    await rig.redis.unlink(rig.queue.sync, rig.queue.async_)

    assert await rig.exit_code() == 0
    assert await rig.heartbeat() == {}


async def test_a_running_call_is_answered_before_a_deleted_functions_instance_ends(rig: RuntimeRig) -> None:
    await rig.run(SLOW)
    record = await rig.append(call(b'{"s": 1}'))
    await held(rig, 1)

    await rig.redis.unlink(rig.queue.sync, rig.queue.async_)

    assert (await rig.replies(1))[record.reply_token].payload == b'{"s": 1}'
    assert await rig.exit_code() == 0


async def test_a_lost_control_stream_is_made_again(rig: RuntimeRig) -> None:
    await rig.run()

    await rig.redis.unlink(rig.keys.control(rig.instance_id))
    await rig.invoke()

    assert (await rig.invoke()).error_kind == ERROR_NONE

    async def there() -> bool:
        return bool(await rig.redis.exists(rig.keys.control(rig.instance_id)))

    await wait_until_async(there, "the control stream is there again")
    assert await rig.drain() == 0


async def test_control_entries_that_make_no_sense_are_passed_over(rig: RuntimeRig) -> None:
    await rig.run()
    control = rig.keys.control(rig.instance_id)

    for text in ("", "{", "[]", '{"command":"dance"}', '{"command":"cancel","invocation_id":"zz"}', "\udcff"):
        await rig.redis.xadd(control, {"c": text.encode("utf-8", "surrogateescape")})

    async def taken() -> bool:
        return not await rig.redis.xlen(control)

    await wait_until_async(taken, "the control stream is empty")
    assert (await rig.invoke()).error_kind == ERROR_NONE


async def test_cancelling_a_running_call_ends_its_process(rig: RuntimeRig) -> None:
    await rig.run(SLOW)
    record = await rig.append(call(b'{"s": 60}', timeout_ms=60_000))
    await held(rig, 1)

    message = {"command": "cancel", "invocation_id": record.invocation_id.hex()}
    assert await send_control(rig.redis, rig.keys, rig.instance_id, message)

    frame = (await rig.replies(1))[record.reply_token]
    assert (frame.error_kind, json.loads(frame.payload or b"")["errorType"]) == (ERROR_FUNCTION, "Sandbox.Cancelled")
    assert (await rig.invoke(b'{"s": 0}')).error_kind == ERROR_NONE


async def test_cancelling_a_call_that_waits_for_its_handlers_start_answers_it_unrun(rig: RuntimeRig) -> None:
    handlers, handler = await one_handler(rig)
    handler.close()
    handlers.exited(handlers.next_kill(), 7 << 8)
    await rig.invoke()
    record = await rig.append(call())
    spawned = handlers.next_spawn()

    message = {"command": "cancel", "invocation_id": record.invocation_id.hex()}
    assert await send_control(rig.redis, rig.keys, rig.instance_id, message)

    assert (await rig.replies(1))[record.reply_token].error_kind == ERROR_EXPIRED
    successor = handlers.handler(*spawned)
    await rig.append(call(b"next"))
    assert successor.next_event()[1] == b"next"


async def scripts_run(rig: RuntimeRig) -> int:
    """How many scripts this server has run, for whomever."""
    stats = await rig.redis.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])


async def test_a_record_of_a_later_release_is_handed_back_and_said_so(rig: RuntimeRig) -> None:
    await rig.run()
    before = await scripts_run(rig)
    later = call()
    later.optional = {0x70: b"mandatory and unknown"}
    await rig.append(later)

    async def said() -> bool:
        return "1 queued records were written by a later release" in (await rig.heartbeat()).get("reason", "")

    await wait_until_async(said, "the heartbeat says so")
    assert (await rig.invoke()).error_kind == ERROR_NONE
    assert await scripts_run(rig) - before < 100
    assert await rig.drain() == 0
    assert await rig.queued(rig.queue.sync) == (1, 0)


async def test_a_lease_that_somebody_else_took_is_noticed_and_its_finish_changes_nothing(rig: RuntimeRig) -> None:
    await rig.run(SLOW)
    await rig.append(event(b'{"s": 7}', timeout_ms=20_000))

    async def leased() -> bool:
        return (await rig.queued(rig.queue.async_))[1] == 1

    await wait_until_async(leased, "the event is leased")
    [entry] = await pending(rig.redis, rig.queue.async_)
    await give(rig.redis, rig.queue.async_, entry["message_id"], "other")

    wait_until(lambda: "the lease was lost while the call was held" in rig.errors(), "the loss is noticed", 15)
    wait_until(lambda: any(text.startswith("END") for text in rig.messages()), "the event ended", 15)
    await rig.invoke(b'{"s": 0}')
    [entry] = await pending(rig.redis, rig.queue.async_)
    assert entry["consumer"] == b"other"


async def test_leases_of_long_calls_are_extended(rig: RuntimeRig) -> None:
    await rig.run(SLOW)
    await rig.append(call(b'{"s": 8}', timeout_ms=20_000))
    await held(rig, 1)
    await asyncio.sleep(4)  # the idle time that the extension sets back to 0

    async def young() -> bool:
        [entry] = await pending(rig.redis, rig.queue.sync)
        return int(entry["time_since_delivered"]) < 3000

    await wait_until_async(young, "the lease was extended")
    assert len(await rig.replies(1)) == 1


async def test_code_in_several_chunks_is_verified_unpacked_and_shared(rig: RuntimeRig) -> None:
    noise = os.urandom(CODE_CHUNK_BYTES + 1000).hex()
    await rig.run(package({"app.py": ECHO, "noise.txt": noise}))

    assert rig.settings["code_size"] > CODE_CHUNK_BYTES
    assert (rig.code_dir / "noise.txt").read_text() == noise
    assert rig.code_dir.with_suffix(".complete").exists()
    async with RuntimeRig(rig.redis, rig.credentials, rig.platform_keys.prefix) as second:
        # The folder is there: the second instance needs nothing from Redis.
        await second.prepare(rig.zip, code_dir=str(rig.code_dir), task_root=str(rig.code_dir))
        await rig.redis.unlink(second.keys.code(second.settings["code_sha256"], 0))
        second.start()
        second.start_handlers()
        await second.wait_for_state("ready")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"code_sha256": "00" * 32}, "chunk 0 of the code is not in Redis (gone)"),
        ({"code_size": 60_000_000}, "the code is 60000000 bytes long, 52428800 are allowed"),
    ],
)
async def test_code_that_cannot_be_had_fails_the_instance_with_the_reason(
    rig: RuntimeRig, change: dict[str, Any], reason: str
) -> None:
    await rig.prepare()
    rig.settings |= change
    rig.start()

    assert await rig.exit_code() == 1
    assert (await rig.heartbeat())["reason"] == reason


async def test_code_with_another_digest_is_not_unpacked(rig: RuntimeRig) -> None:
    await rig.prepare()
    await rig.redis.set(rig.keys.code(rig.settings["code_sha256"], 0), rig.zip[:-1] + b"!", ex=60)
    rig.start()

    assert await rig.exit_code() == 1
    assert "SHA-256" in (await rig.heartbeat())["reason"]
    assert not list(rig.code_dir.iterdir())


async def test_a_half_unpacked_folder_is_unpacked_again(rig: RuntimeRig) -> None:
    await rig.prepare()
    rig.code_dir.mkdir(parents=True)
    (rig.code_dir / "app.py").write_text("half of i")
    rig.start()
    rig.start_handlers()
    await rig.wait_for_state("ready")

    assert (await rig.invoke(b"1")).payload == b"1"


async def test_the_socket_may_lie_deeper_than_an_address_is_long(rig: RuntimeRig) -> None:
    deep = rig.folder / ("d" * 60) / ("e" * 60) / "control.sock"
    await rig.prepare(socket_path=str(deep))
    rig.start()

    await asyncio.to_thread(wait_until, deep.exists, "the socket is there")
    assert deep.stat().st_mode & 0o777 == 0o666


def test_wrong_arguments_and_files_are_said_in_a_line(tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        command_line = [sys.executable, "-m", "forebay_runtime", *arguments]
        done = subprocess.run(command_line, capture_output=True, check=False, text=True)
        return done.returncode, done.stderr

    broken = tmp_path / "broken.json"
    broken.write_text("{")

    usage = "usage: python -m forebay_runtime --settings FILE --credentials FILE | --pod | --wait-for-api\n"
    assert run() == (2, usage)
    for path in (broken, tmp_path / "missing.json"):
        code, text = run("--settings", str(path), "--credentials", str(path))
        assert code == 2
        assert text.startswith("the runtime cannot read what it is started with")
        assert text.count("\n") == 1


PARENT = """
    import ctypes, os, subprocess, sys, time
    if sys.argv[1] == "supervisor":
        ctypes.CDLL(None).prctl(36, 1)
        controller = subprocess.Popen([sys.executable, __file__, "controller", str(os.getpid()), *sys.argv[2:]])
        print(controller.pid, flush=True)
    else:
        os.environ["FOREBAY_SUPERVISOR_PID"] = sys.argv[2]
        runtime = subprocess.Popen([sys.executable, "-m", "forebay_runtime", *sys.argv[3:]])
        print(runtime.pid, flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def _tree(command_line: list[Any]) -> Iterator[tuple[subprocess.Popen[str], set[int]]]:
    """A supervisor with a controller with a runtime; and the pids of the last two."""
    with subprocess.Popen(command_line, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        pids = {int(supervisor.stdout.readline()) for _ in range(2)}
        try:
            yield supervisor, pids
        finally:
            supervisor.kill()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


async def _command_line(rig: RuntimeRig, tmp_path: Path) -> list[Any]:
    """What starts such a tree with a runtime of this rig, whose files an earlier start has left."""
    await rig.prepare()
    rig.start()
    rig.runtime.kill()
    await rig.exit_code()
    await rig.redis.unlink(rig.keys.instance(rig.instance_id))
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(PARENT))
    files = ("--settings", rig.folder / "settings.json", "--credentials", rig.folder / "credentials.json")
    return [sys.executable, script, "supervisor", *files]


def _wait_for_end(pid: int) -> None:
    status = Path(f"/proc/{pid}/status")
    wait_until(lambda: not status.exists() or "State:\tZ" in status.read_text(), "the runtime has ended")


async def test_an_instance_outlives_the_controller_and_not_the_supervisor(
    rig: RuntimeRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = tmp_path / "instance.json"
    record.touch()
    monkeypatch.setenv("FOREBAY_INSTANCE_RECORD", str(record))
    with _tree(await _command_line(rig, tmp_path)) as (tree, pids):
        runtime = int((await rig.wait_for_state("starting"))["pid"])
        [controller] = pids - {runtime}

        os.kill(controller, signal.SIGKILL)
        status = Path(f"/proc/{runtime}/status")
        wait_until(lambda: f"PPid:\t{tree.pid}\n" in status.read_text(), "the supervisor has adopted the runtime")
        await rig.redis.hdel(rig.keys.instance(rig.instance_id), "state")
        await rig.wait_for_state("starting")

        tree.kill()
        _wait_for_end(runtime)


async def test_an_instance_that_no_controller_can_find_again_ends(
    rig: RuntimeRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOREBAY_INSTANCE_RECORD", str(tmp_path / "never-written.json"))
    with _tree(await _command_line(rig, tmp_path)) as (_, pids):
        runtime = int((await rig.wait_for_state("starting"))["pid"])
        [controller] = pids - {runtime}

        os.kill(controller, signal.SIGKILL)

        _wait_for_end(runtime)


async def test_instances_share_one_queue_without_running_anything_twice(rig: RuntimeRig) -> None:
    await rig.run()
    async with RuntimeRig(rig.redis, rig.credentials, rig.platform_keys.prefix) as second:
        second.keys, second.queue, second.removes_keys = rig.keys, rig.queue, False
        await second.prepare(rig.zip, uid=rig.settings["uid"])
        second.start()
        second.start_handlers()
        await second.wait_for_state("ready")
        sent = [await rig.append(call(b"%d" % number)) for number in range(100)]

        answers = await rig.replies(100)

        assert {record.reply_token for record in sent} == set(answers)
        assert not await replies(rig.redis, rig.platform_keys)
        assert await second.drain() == 0
    assert await rig.drain() == 0


async def test_a_handed_back_entry_keeps_its_moment_of_acceptance(rig: RuntimeRig) -> None:
    handlers, handler = await one_handler(rig)
    handler.close()
    handlers.exited(handlers.next_kill(), 7 << 8)
    await rig.invoke()
    entry_id = await append(rig.redis, VersionQueue(rig.keys), call())
    handlers.next_spawn()
    assert await rig.drain() == 0

    [(moved, fields)] = await command(rig.redis, "XRANGE", rig.queue.sync, "-", "+")
    assert moved != entry_id
    assert int.from_bytes(fields[b"r"][18:26], "big") == int(entry_id.split(b"-")[0])
