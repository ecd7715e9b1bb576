"""`forebay up` from start to end: what it prints, what it survives, what it leaves."""

import json
import os
import re
import signal
import stat
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from support.platform import FOREBAY, Platform, alive, kill, running_platform
from support.waiting import wait_until


@pytest.fixture
def own_platform() -> Iterator[Platform]:
    """A platform of the test's own, to be stopped and killed."""
    with running_platform("--async-retry-delays", "0.5,1") as running:
        yield running


def run_dir(platform: Platform) -> Path:
    [found] = {match[0] for line in platform.processes().values() for match in re.finditer(r"/\S*/forebay-[^/]+", line)}
    return Path(found)


def is_gone(pid: int) -> bool:
    return not alive(pid)


def gone(pids: dict[int, str]) -> None:
    for pid, command in pids.items():
        wait_until(partial(is_gone, pid), f"{command} is gone")


def test_it_tells_how_to_use_it(own_platform: Platform) -> None:
    wait_until(lambda: "Ctrl-C stops it" in own_platform.output.read_text(), "it has said all")
    printed = own_platform.output.read_text()

    assert f"is ready at {own_platform.url}" in printed
    assert f"curl {own_platform.url}/fn/hello" in printed
    assert f"export AWS_ENDPOINT_URL_LAMBDA={own_platform.url}" in printed
    assert "AWS_REGION=us-east-1" in printed
    assert re.search(r"functions  run in .*(namespaces|process groups)", printed)
    assert str(own_platform.data_dir) in printed


def test_handlers_that_pass_through_the_run_dir_reach_no_socket_of_the_platform(own_platform: Platform) -> None:
    folder = run_dir(own_platform)
    sockets = [path for path in folder.rglob("*.sock") if "instances" not in path.parts]
    assert {path.name for path in sockets} == {"controller.sock", "valkey.sock"}
    for path in sockets:
        assert path.parent != folder
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_functions_and_accepted_events_survive_a_restart_and_nothing_else_stays(own_platform: Platform) -> None:
    code = (
        "import time\ndef handler(event, context):\n    print('ran', event)\n    time.sleep(event)\n    return 'kept'\n"
    )
    own_platform.create("kept", code, Timeout=5)
    own_platform.scale("kept", max_instances=1)
    own_platform.invoke("kept", 0)
    for _ in range(3):
        own_platform.boto().invoke(FunctionName="kept", InvocationType="Event", Payload=b"0.2")
    processes, folder = own_platform.processes(), run_dir(own_platform)

    assert own_platform.stop() == 0

    gone(processes)
    assert not folder.exists()
    own_platform.start()
    wait_until(lambda: f"curl {own_platform.url}/fn/kept" in own_platform.output.read_text(), "it names the function")
    assert own_platform.invoke("kept", 0)[0] == "kept"
    logs = own_platform.data_dir / "logs" / "kept"
    wait_until(lambda: sum(log.read_text().count("ran 0.2") for log in logs.iterdir()) >= 3, "the accepted events ran")


@pytest.mark.parametrize("component", ["forebay_gateway", "forebay_controller", "valkey-server"])
def test_a_died_process_is_started_again_and_functions_answer(own_platform: Platform, component: str) -> None:
    own_platform.create("steady", "def handler(event, context): return 'here'")
    assert own_platform.invoke("steady")[0] == "here"
    [pid] = own_platform.pids_of(component)

    kill(pid)

    def back() -> bool:
        pids = own_platform.pids_of(component)
        return bool(pids) and pid not in pids

    wait_until(back, f"{component} is back")
    wait_until(lambda: answers(own_platform), "it is ready again")
    assert own_platform.invoke("steady")[0] == "here"
    assert "died (killed by SIGKILL)" in own_platform.output.read_text()


def answers(platform: Platform) -> bool:
    try:
        return platform.http("GET", "/readyz")[0] == 200
    except OSError:
        return False


def test_a_killed_up_leaves_no_process_and_the_next_one_tidies_up(own_platform: Platform) -> None:
    own_platform.create("orphan", "def handler(event, context): return 1")
    own_platform.invoke("orphan")
    processes, folder = own_platform.processes(), run_dir(own_platform)
    assert len(processes) >= 6  # supervisor, Valkey, gateway, controller, runtime, sandbox

    kill(own_platform.pid)
    assert own_platform.stop() == -signal.SIGKILL

    gone(processes)
    own_platform.start()
    assert not folder.exists()
    assert "cleaned up after an earlier `up`" in own_platform.output.read_text()
    assert own_platform.invoke("orphan")[0] == 1


def test_a_second_ctrl_c_hurries(own_platform: Platform) -> None:
    own_platform.create("slow", "import time\ndef handler(event, context): time.sleep(60)", Timeout=90)
    call = subprocess.Popen(
        [FOREBAY, "invoke", "slow"], env={**os.environ, "FOREBAY_ENDPOINT": own_platform.url},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_until(lambda: own_platform.status("slow")["in_flight"] == 1, "the call runs")
    processes = own_platform.processes()

    os.kill(own_platform.pid, signal.SIGINT)
    wait_until(lambda: "Ctrl-C again hurries" in own_platform.output.read_text(), "it says that it stops")
    os.kill(own_platform.pid, signal.SIGINT)

    gone(processes)
    call.wait(10)


def test_durability_fsync_has_everything_on_the_disk_before_it_is_accepted() -> None:
    with running_platform("--durability", "fsync") as platform:
        document = json.loads((run_dir(platform) / "gateway.json").read_bytes())
        assert document["durability"] == "fsync"
        redis = Redis(unix_socket_path=document["redis"]["unix_socket"], password=document["redis"]["password"])
        assert redis.config_get("appendfsync") == {"appendfsync": "always"}
        redis.close()
        platform.create("kept", "def handler(event, context): pass")
        assert platform.invoke("kept", InvocationType="Event")[1]["StatusCode"] == 202


def test_an_external_redis_serves_as_well(valkey_server: dict[str, Any]) -> None:
    url = f"unix://:{valkey_server['password']}@{valkey_server['unix_socket']}"
    with running_platform("--redis", url) as platform:
        assert not platform.pids_of("valkey-server")
        platform.create("outside", "def handler(event, context): return 'kept elsewhere'")
        assert platform.invoke("outside")[0] == "kept elsewhere"
        platform.boto().delete_function(FunctionName="outside")


def test_a_watched_folder_is_deployed_and_deployed_again_at_each_save(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("def handler(event, context): return 1")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "app.py").write_text("def handler(event, context): return 2")
    with running_platform("--watch", str(tmp_path)) as platform:
        said = platform.output.read_text
        wait_until(lambda: "one: deployed" in said() and "two: deployed" in said(), "both are deployed")
        assert (platform.invoke("one")[0], platform.invoke("two")[0]) == (1, 2)

        (tmp_path / "one.py").write_text("def handler(event, context): return 11")
        wait_until(lambda: said().count("one: deployed") == 2, "the saved one is deployed again")
        assert platform.invoke("one")[0] == 11
        assert said().count("two: deployed") == 1

        (tmp_path / "two" / "app.py").unlink()
        (tmp_path / "three.py").write_text("x = 1")
        wait_until(lambda: "two: " in said() and "holds no file" in said(), "what is wrong is said")
        wait_until(lambda: "three: three.py defines none of" in said(), "what is wrong is said")
        assert platform.invoke("two")[0] == 2

        kill(platform.pids_of("forebay_cli.watcher")[0])
        (tmp_path / "one.py").write_text("def handler(event, context): return 111")
        wait_until(lambda: said().count("one: deployed") == 3, "a watcher that died is started again")
