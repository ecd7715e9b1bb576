"""The two programs of a function's pod, started as their containers start them."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

import forebay_runtime
from forebay_common.frames import ERROR_FUNCTION, ERROR_NONE
from forebay_common.record import FLAG_LOG_TAIL
from support.pod_rig import WAIT_S, PodRig
from support.ports import free_port
from support.queue_side import call
from support.waiting import wait_until

LOOK = """
    import os, resource
    def handler(event, context):
        print("hello from inside")
        return {
            "env": dict(os.environ),
            "data": resource.getrlimit(resource.RLIMIT_DATA)[0],
            "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            "folder": os.getcwd(),
        }
"""


@pytest.fixture
async def rig(redis: Redis, valkey_server: dict[str, Any], prefix: str) -> AsyncIterator[PodRig]:
    async with PodRig(redis, valkey_server, prefix) as rig:
        yield rig


async def test_a_call_runs_in_the_other_container_and_its_log_is_the_runtimes_output(rig: PodRig) -> None:
    await rig.run(LOOK)

    frame = await rig.invoke(flags=FLAG_LOG_TAIL)

    assert frame.error_kind == ERROR_NONE
    assert b"hello from inside" in frame.log_tail
    assert "hello from inside" in rig.messages()
    assert json.loads(frame.payload or b"")["folder"] == str(rig.code_dir)


async def test_handlers_take_over_only_the_named_variables_of_their_container(rig: PodRig) -> None:
    rig.container_env = {"FROM_SECRET": "s", "OVER": "container", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    env = {"PATH": "/usr/bin:/bin", "OVER": "settings", "PLAIN": "p"}

    await rig.run(LOOK, env=env, inherited_env=["FROM_SECRET", "OVER", "NOT_THERE"])
    seen = json.loads((await rig.invoke()).payload or b"")["env"]

    assert {name: seen[name] for name in ("FROM_SECRET", "OVER", "PLAIN")} == {
        "FROM_SECRET": "s",
        "OVER": "container",
        "PLAIN": "p",
    }
    assert seen.keys().isdisjoint({"KUBERNETES_SERVICE_HOST", "FOREBAY_SOCKET", "NOT_THERE"})


async def test_memory_is_bounded_by_the_container_and_open_files_as_on_lambda(rig: PodRig) -> None:
    await rig.run(LOOK, memory_mb=128)

    seen = json.loads((await rig.invoke()).payload or b"")

    assert (seen["data"], seen["files"]) == (-1, 1024)


async def test_the_code_folder_needs_nothing_beside_it(rig: PodRig) -> None:
    rig.code_dir.mkdir(parents=True)
    rig.code_dir.chmod(0o777)

    await rig.run()

    assert (await rig.invoke(b"1")).payload == b"1"
    assert [path.name for path in rig.code_dir.parent.iterdir()] == ["task"]
    # Here, other than in a pod, the handlers may write what they compiled.
    assert {path.name for path in rig.code_dir.iterdir()} - {"__pycache__"} == {"app.py"}


async def test_both_are_asked_to_end_and_the_running_call_is_finished_first(rig: PodRig) -> None:
    slow = "import time\ndef handler(event, context):\n    print('started')\n    time.sleep(1)\n    return 'done'"
    await rig.run(slow)
    record = await rig.append(call())
    await asyncio.to_thread(wait_until, lambda: "started" in rig.messages(), "the call runs")

    rig.handlers.send_signal(signal.SIGTERM)
    rig.runtime.send_signal(signal.SIGTERM)

    assert (await rig.reply_to(record)).payload == b'"done"'
    assert await rig.exit_code() == 0
    assert await asyncio.to_thread(rig.handlers.wait, WAIT_S) == 0


async def test_handlers_without_a_runtime_end_when_asked_to(rig: PodRig) -> None:
    await rig.prepare()
    rig.start_handlers()
    # Its own way to say that it listens to signals: before that the default would end it just as well.
    await asyncio.to_thread(wait_until, lambda: _catches_sigterm(rig.handlers.pid), "it listens to signals")

    rig.handlers.send_signal(signal.SIGTERM)

    assert await asyncio.to_thread(rig.handlers.wait, WAIT_S) == 0


def _catches_sigterm(pid: int) -> bool:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) & 1 << signal.SIGTERM - 1)
    return False


async def test_handlers_that_are_killed_answer_their_call_and_end_the_instance_with_a_reason(rig: PodRig) -> None:
    await rig.run("import time\ndef handler(event, context):\n    print('started')\n    time.sleep(60)")
    record = await rig.append(call(timeout_ms=60_000))
    await asyncio.to_thread(wait_until, lambda: "started" in rig.messages(), "the call runs")

    os.killpg(rig.handlers.pid, signal.SIGKILL)

    frame = await rig.reply_to(record)
    assert frame.error_kind == ERROR_FUNCTION
    document = json.loads(frame.payload or b"")
    assert document["errorType"] == "Runtime.ExitError"
    assert document["errorMessage"].endswith("Runtime exited with error: signal: killed")
    assert await rig.exit_code() == 1
    assert "the handlers' program ended" in (await rig.heartbeat()).get("reason", rig.errors())


async def test_a_runtime_without_its_variables_says_so(rig: PodRig) -> None:
    command = [sys.executable, str(Path(forebay_runtime.__file__).with_name("__main__.py")), "--pod"]
    done = await asyncio.to_thread(subprocess.run, command, env={}, capture_output=True, check=False, text=True)

    assert done.returncode == 2
    assert done.stderr.startswith("the runtime cannot read what it is started with: KeyError('FOREBAY_SETTINGS')")


async def test_a_flood_of_output_is_written_whole_lines(rig: PodRig) -> None:
    await rig.run("def handler(event, context):\n    for n in range(20_000):\n        print(n, 'x' * 50)\n")

    await rig.invoke(timeout_ms=20_000)
    await rig.invoke(timeout_ms=20_000)

    numbers = [int(message.split()[0]) for message in rig.messages() if message.endswith("xx")]
    assert numbers == [*range(20_000)] * 2


async def test_waiting_for_the_api_ends_once_it_listens(rig: PodRig) -> None:
    port = free_port()
    code = f"import sys; from forebay_runtime.container import wait_for_api; sys.exit(wait_for_api({port}))"
    waiting = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    try:
        await rig.prepare(mode="image", runtime_api_port=port)
        rig.start()
        async with asyncio.timeout(WAIT_S):
            assert await waiting.wait() == 0
    finally:
        if waiting.returncode is None:
            waiting.kill()
            await waiting.wait()
