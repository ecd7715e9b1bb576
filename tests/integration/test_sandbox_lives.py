"""What ends when something ends: nothing that user code started outlives its slot, its instance or the platform."""

import json
import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.handlers_peer import (
    BASE_INTERPRETER,
    HANDLERS,
    Function,
    HandlerPeer,
    Runner,
    alive,
    runners,
    wait_gone,
)
from support.waiting import wait_until

DAEMON = """
    import os, signal, subprocess, sys
    def handler(event, context):
        if event == "daemon":
            # Twice forked, in a session of its own, holding the log pipe, ignoring what can be ignored.
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)
                    signal.signal(signal.SIGHUP, signal.SIG_IGN)
                    os.execvp("sleep", ["sleep", os.environ["SLEEP"]])
                os._exit(0)
            os.wait()
        elif event == "exit":
            sys.exit(3)
        elif event == "kill the parent":
            os.kill(os.getppid(), signal.SIGKILL)
        return os.getpid()
"""
TREES = [
    pytest.param(runner, isolation, id=f"{runner}-{isolation}")
    for runner in runners()
    for isolation in ("namespaces", "process_group")
    # Root's process groups run as another user, who needs a way to every folder: tested with the other user's own.
    if isolation == "namespaces" or runner.user is not None or os.getuid() != 0
]


def all_pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


class Tree:
    """A sandbox whose handler has left a daemon; `sleep` is the daemon's mark on this machine."""

    def __init__(self, function: Function, runner: Runner, isolation: str, supervisor_pid: int = 0) -> None:
        self.function = function
        self.sleep = f"600.{secrets.randbelow(10**9):09d}"
        function.start_sandbox(runner, isolation=isolation, supervisor_pid=supervisor_pid)
        inside = isolation == "namespaces"
        function.set_up(
            "/var/task" if inside else str(function.code),
            "/var/runtime" if inside else str(function.boto),
            env={"SLEEP": self.sleep, "TMPDIR": "/tmp" if inside else str(function.tmp)},
        )

    def with_daemon(self) -> HandlerPeer:
        """A handler process that has started the daemon."""
        handler = self.function.spawn()
        handler.value("daemon")
        wait_until(self.daemons, "the daemon runs")
        return handler

    def daemons(self) -> list[int]:
        """The daemons that run, as this machine numbers them."""
        return [pid for pid in all_pids() if self._marked(pid) and alive(pid)]

    def _marked(self, pid: int) -> bool:
        try:
            return self.sleep.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return False

    def everything(self) -> list[int]:
        """All processes below the sandbox's outer one, and that one."""
        children: dict[int, list[int]] = {}
        for pid in all_pids():
            try:
                stat = Path(f"/proc/{pid}/stat").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(int(stat.rsplit(b")", 1)[1].split()[1]), []).append(pid)
        found, pending = [], [self.function.sandbox.pid]
        while pending:
            pid = pending.pop()
            found.append(pid)
            pending.extend(children.get(pid, ()))
        return found


@pytest.fixture
def tree(runner: Runner, isolation: str) -> Iterator[Tree]:
    with Function({"app.py": DAEMON}) as function:
        yield Tree(function, runner, isolation)


@pytest.mark.parametrize(("runner", "isolation"), TREES)
def test_a_killed_slot_takes_its_daemons_along_and_is_replaced(tree: Tree) -> None:
    handler = tree.with_daemon()
    tree.function.runtime.kill()
    assert tree.function.runtime.exited() == (0, signal.SIGKILL)
    assert handler.answer() is None
    wait_until(lambda: not tree.daemons(), "the daemon's end")
    assert tree.function.spawn().value() > 0


@pytest.mark.parametrize(("runner", "isolation"), TREES)
def test_what_an_ended_handler_left_behind_ends_too(tree: Tree) -> None:
    tree.with_daemon().send("exit")
    assert tree.function.runtime.exited() == (0, 3 << 8)
    wait_until(lambda: not tree.daemons(), "the daemon's end")


@pytest.mark.parametrize(("runner", "isolation"), TREES)
def test_a_killed_sandbox_leaves_nothing(tree: Tree) -> None:
    tree.with_daemon()
    pids = tree.everything()
    assert len(pids) >= 4
    tree.function.sandbox.send_signal(signal.SIGKILL)
    wait_gone(pids[1:])


@pytest.mark.parametrize(("runner", "isolation"), TREES)
def test_the_end_of_the_runtime_ends_everything(tree: Tree) -> None:
    tree.with_daemon()
    pids = tree.everything()
    tree.function.runtime.close()
    assert tree.function.sandbox.wait(20) == 0
    wait_gone(pids)


@pytest.mark.parametrize(("runner", "isolation"), TREES)
def test_the_end_of_the_supervisor_ends_everything(runner: Runner, isolation: str) -> None:
    with Function({"app.py": DAEMON}) as function, subprocess.Popen(["sleep", "600"]) as supervisor:
        try:
            tree = Tree(function, runner, isolation, supervisor.pid)
            tree.with_daemon()
            pids = tree.everything()
        finally:
            supervisor.kill()
        wait_until(lambda: function.sandbox.poll() is not None, "the sandbox's end")
        wait_gone(pids)


@pytest.mark.parametrize(("runner", "isolation"), TREES)
def test_a_supervisor_that_is_already_gone_starts_nothing(runner: Runner, isolation: str) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    with Function({}) as function:
        function.start_sandbox(runner, isolation=isolation, supervisor_pid=gone.pid)
        assert function.sandbox.wait(20) == 1


@pytest.mark.parametrize(("runner", "isolation"), [tree for tree in TREES if "group" in str(tree.id)])
def test_user_code_that_kills_its_parent_ends_its_own_instance(tree: Tree) -> None:
    handler = tree.with_daemon()
    pids = tree.everything()
    handler.send("kill the parent")
    assert tree.function.sandbox.wait(20) == 128 + signal.SIGKILL
    wait_gone(pids)
    assert not tree.daemons()


@pytest.mark.parametrize("runner", runners(), ids=str)
def test_root_is_refused_as_the_handlers_user(runner: Runner) -> None:
    if os.getuid() == 0 and runner.user is None:
        with Function({}) as function:
            function.start_sandbox(runner, uid=0, gid=0)
            assert function.sandbox.wait(20) == 1
            assert "user code never runs as root" in function.errors.read_text()
    else:
        with Function({"app.py": "import os\ndef handler(event, context):\n    return os.getuid()\n"}) as function:
            function.start_sandbox(runner, uid=0, gid=0)
            function.set_up()
            assert function.spawn().value() == (os.getuid() or runner.user)


def test_a_way_that_is_barred_is_named() -> None:
    with Function({}) as function:
        function.code.chmod(0)
        [*_, runner] = runners()
        function.start_sandbox(runner, isolation="process_group")
        assert function.sandbox.wait(20) == 1
        function.code.chmod(0o755)
        assert f"cannot reach {function.code}" in function.errors.read_text()


@pytest.mark.parametrize("content", ["", "{}", "[]", json.dumps({"isolation": "namespaces"})])
def test_a_bad_config_is_a_failed_start(content: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    command = [BASE_INTERPRETER, "-I", "-S", str(HANDLERS / "sandbox.py"), "--config", str(path)]
    ended = subprocess.run(command, capture_output=True, check=False, timeout=20)
    assert ended.returncode == 1
    assert ended.stderr.startswith(b"the handlers' sandbox could not be started: ")
    assert ended.stderr.count(b"\n") == 1
