"""Each way `forebay up` cannot start: one line on stderr that says what to do, and nothing left behind."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forebay_cli.folders import DataDir, Leftovers, make_run_dir
from forebay_cli.processes import PROCESSES_FILE, ProcessIdentity

FOREBAY = str(Path(sys.executable).with_name("forebay"))


def up(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([FOREBAY, "up", *options], capture_output=True, text=True, timeout=30, check=False)


def refused(data_dir: Path, *options: str) -> str:
    """The one line that a refused `up` says."""
    ended = up("--data-dir", str(data_dir), *options)
    assert ended.returncode == 1, ended
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1, ended.stderr
    return ended.stderr


def test_a_second_up_on_the_same_data_dir_names_the_first(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.write(pid=4711, run_dir="/tmp/x", url="http://127.0.0.1:1")
    try:
        line = refused(tmp_path)
    finally:
        data.close()

    assert "pid 4711" in line
    assert "at http://127.0.0.1:1" in line
    assert "--data-dir" in line


def test_a_taken_port(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert "choose another by --port" in refused(tmp_path, "--port", str(other.getsockname()[1]))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--host", "0.0.0.0", "--auth", "off"), "--allow-remote"),
        (("--auth", "maybe"), "choose required or off"),
        (("--host", "no.such.host.invalid"), "no address of this machine"),
        (("--port", "70000"), "1 to 65535"),
        (("--async-retry-delays", "soon"), "as 1,2"),
        (("--redis", "cache"), "is no Redis URL"),
        (("--durability", "sure"), "choose process, fsync or replica"),
        (("--durability", "replica"), "give a Redis that has one by --redis URL"),
        (("--redis", "redis://127.0.0.1:1/0"), "no Redis at redis://127.0.0.1:1/0"),
        (("--log-level", "loud"), "choose one of"),
    ],
)
def test_wrong_options(tmp_path: Path, options: tuple[str, ...], says: str) -> None:
    assert says in refused(tmp_path, *options)


def test_a_redis_that_refuses_the_credentials(tmp_path: Path, valkey_server: dict[str, Any]) -> None:
    assert "credentials" in refused(tmp_path, "--redis", f"unix://:wrong@{valkey_server['unix_socket']}")
    assert "credentials" in refused(tmp_path, "--redis", f"unix://{valkey_server['unix_socket']}")


def test_access_keys_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{}")

    assert "remove it to have new ones made" in refused(tmp_path, "--auth", "required")


def test_a_data_dir_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert "--data-dir" in refused(tmp_path / "file")


@pytest.fixture
def sleeper() -> Iterator[ProcessIdentity]:
    """A process that an earlier `up` left behind."""
    with subprocess.Popen(["sleep", "60"]) as process:
        identity = ProcessIdentity.of(process.pid)
        assert identity is not None
        yield identity
        process.kill()


def killed_up(data_dir: Path, left: ProcessIdentity) -> Path:
    """What a killed `up` leaves in the data dir; its run dir."""
    run_dir = make_run_dir()
    (run_dir / PROCESSES_FILE).write_text(f"[[{left.pid}, {left.start_ticks}]]")
    data = DataDir(data_dir)
    data.write(pid=4711, run_dir=str(run_dir), url="")
    data._lock.close()  # let go as the kernel does it: close() would tidy up
    return run_dir


def clean_up(data_dir: Path) -> Leftovers | None:
    """What the next `up` does first."""
    data = DataDir(data_dir)
    try:
        return data.clean_up_after_crash()
    finally:
        data.close()


def test_what_a_killed_up_left_is_ended_and_removed(tmp_path: Path, sleeper: ProcessIdentity) -> None:
    run_dir = killed_up(tmp_path, sleeper)

    leftovers = clean_up(tmp_path)

    assert leftovers is not None
    assert leftovers.processes == 1
    assert not run_dir.exists()
    assert not sleeper.alive()


def test_a_stranger_with_the_same_pid_is_left_alone(tmp_path: Path, sleeper: ProcessIdentity) -> None:
    run_dir = killed_up(tmp_path, ProcessIdentity(sleeper.pid, sleeper.start_ticks - 1))

    leftovers = clean_up(tmp_path)

    assert leftovers is not None
    assert leftovers.processes == 0
    assert not run_dir.exists()
    assert sleeper.alive()


def test_a_folder_that_is_no_run_dir_is_never_removed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    data = DataDir(tmp_path / "data")
    data.write(run_dir=str(precious))

    assert data.clean_up_after_crash() is None
    assert precious.is_dir()
    data.close()


SUPERVISOR = """
import asyncio, os, signal, subprocess, sys
from pathlib import Path
from forebay_cli.processes import ProcessTable, become_subreaper

async def main():
    ended = []
    table = ProcessTable(Path(sys.argv[1]), lambda child: ended.append((child.name, child.how_it_ended())))
    become_subreaper()
    table.watch(asyncio.get_running_loop())
    start = lambda name, script: table.spawn(
        name, ["sh", "-c", script], env=os.environ, death_signal=signal.SIGKILL, stdout=subprocess.DEVNULL)
    exits = start("exits", "exit 3")
    await exits.exited.wait()
    # Its child outlives it, in a session of its own.
    orphaning = start("orphaning", "(setsid sleep 60 & echo $! > orphan; wait) & until [ -s orphan ]; do :; done")
    await orphaning.exited.wait()
    start("stays", "sleep 60 & sleep 60")
    print(ended, table.end_all(), Path(sys.argv[1], "orphan").read_text().strip())

asyncio.run(main())
"""


def test_no_process_outlives_the_table_not_even_orphans(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SUPERVISOR, str(tmp_path)], capture_output=True, text=True, timeout=30, check=True
    )

    told, orphan = ended.stdout.rsplit(maxsplit=1)
    assert told == (
        "[('exits', 'exit status 3'), ('orphaning', 'exit status 0'), ('stays', 'killed by SIGKILL')] ['stays']"
    )
    assert ProcessIdentity.of(int(orphan)) is None


def test_children_go_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = SUPERVISOR.replace(
        "exits = start", "start('stays', 'sleep 60'); print('started', flush=True); exits = start"
    )
    script = script.replace('"exit 3"', '"sleep 60"')
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "started\n"
        record = (tmp_path / PROCESSES_FILE).read_text()
        parent.send_signal(signal.SIGKILL)
        parent.wait()

    pids = [pid for pid, _ in json.loads(record)]
    assert pids
    for pid in pids:
        descriptor = pidfd(pid)
        if descriptor is not None:
            assert select.select([descriptor], [], [], 5)[0], "still runs"
            os.close(descriptor)


def pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
