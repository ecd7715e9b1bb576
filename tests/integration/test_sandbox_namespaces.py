"""What user code meets in a namespace sandbox, started by root and by an unprivileged user."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.handlers_peer import (
    HANDLERS,
    Function,
    Runner,
    interpreters,
    runners,
)

pytestmark = pytest.mark.parametrize("runner", runners(), ids=str)

EVALUATE = """
    import errno, os, resource, socket, stat, subprocess, sys
    def attempt(action):
        try:
            return action() or "done"
        except OSError as error:
            return errno.errorcode[error.errno]
    def handler(event, context):
        return eval(event)
"""


class Inside:
    """A handler process in a sandbox that evaluates expressions."""

    def __init__(self, function: Function) -> None:
        self.function = function
        function.set_up()
        self._handler = function.spawn()

    def __call__(self, expression: str) -> Any:
        return self._handler.value(expression)


@pytest.fixture
def inside(runner: Runner) -> Iterator[Inside]:
    with Function({"app.py": EVALUATE}) as function:
        yield Inside(function.start_sandbox(runner))


def test_user_code_is_never_root_and_cannot_become_it(inside: Inside, runner: Runner) -> None:
    uid = inside("[os.getuid(), os.geteuid(), os.getgid(), os.getgroups()]")
    expected = os.getuid() or 65_534
    assert uid[:2] == [expected, expected]
    assert 0 not in uid[3]
    status = inside("open('/proc/self/status').read()")
    assert "NoNewPrivs:\t1\n" in status
    assert "CapEff:\t0000000000000000\n" in status
    assert "CapPrm:\t0000000000000000\n" in status
    assert inside("attempt(lambda: os.setuid(0))") in {"EPERM", "EINVAL"}


def test_lambdas_folders_are_in_place(inside: Inside) -> None:
    assert inside("[os.getcwd(), sys.path[0], sys.path[-1]]") == ["/var/task", "/var/task", "/var/runtime"]
    assert inside("sorted(os.listdir('/var/task'))") == ["app.py"]
    assert inside("oct(os.stat('/tmp').st_mode)") == "0o41777"


@pytest.mark.parametrize("folder", ["/", "/var", "/var/task", "/var/runtime", "/var/forebay", "/usr", "/etc", "/dev"])
def test_everything_but_tmp_is_read_only(inside: Inside, folder: str) -> None:
    assert inside(f"attempt(lambda: open('{folder}/new', 'w').close())") in {"EROFS", "EACCES"}
    assert inside(f"os.statvfs('{folder}').f_flag & os.ST_RDONLY") == 1


def test_tmp_is_the_instances_own(inside: Inside) -> None:
    assert inside("open('/tmp/note', 'w').write('mine')") == 4
    assert inside("os.listdir('/tmp')") == ["note"]
    assert (inside.function.tmp / "note").read_text() == "mine"


def test_shared_memory_is_the_instances_own(inside: Inside) -> None:
    assert inside("open('/dev/shm/x', 'w').write('mine')") == 4
    assert not Path("/dev/shm/x").exists()


def test_devices_are_the_harmless_ones(inside: Inside) -> None:
    assert inside("sorted(os.listdir('/dev'))") == sorted(
        ["fd", "full", "null", "random", "shm", "stderr", "stdin", "stdout", "urandom", "zero"]
    )
    assert inside("[len(open('/dev/urandom', 'rb').read(3)), open('/dev/null', 'w').write('x')]") == [3, 1]


def test_only_the_instances_processes_are_seen(inside: Inside) -> None:
    pids = inside("sorted(int(name) for name in os.listdir('/proc') if name.isdigit())")
    assert pids[0] == 1
    assert len(pids) == 2
    assert inside("os.getppid()") == 1


def test_a_signal_to_the_parent_does_nothing(inside: Inside) -> None:
    assert inside(f"os.kill(1, {int(signal.SIGKILL)})") is None
    assert inside("os.getppid()") == 1


def test_limits_are_sane(inside: Inside) -> None:
    assert inside("resource.getrlimit(resource.RLIMIT_CORE)") == [0, 0]
    assert inside("resource.getrlimit(resource.RLIMIT_NOFILE)") == [1024, 1024]


def test_names_and_users_can_be_looked_up(inside: Inside) -> None:
    assert inside("len(open('/etc/passwd').read()) > 0")
    assert inside("socket.gethostbyname('localhost')") == "127.0.0.1"


def test_subprocesses_run(inside: Inside) -> None:
    assert inside("subprocess.run(['sh', '-c', 'echo $0 done'], capture_output=True).stdout.decode()") == "sh done\n"


def test_nothing_is_inherited(runner: Runner) -> None:
    reading, writing = os.pipe()
    try:
        with Function({"app.py": EVALUATE}) as function:
            inside = Inside(function.start_sandbox(runner, pass_fds=(reading, writing)))
            assert inside("open('/proc/1/environ', 'rb').read().decode()") == ""
            assert inside("open('/proc/1/cmdline').read().split(chr(0))[1:-1]") == [
                "-I",
                "-S",
                "/var/forebay/forebay_handlers/zygote.py",
                "control.sock",
            ]
            # One that the zygote has closed since it was listed was not inherited.
            kept = inside("[attempt(lambda: os.readlink('/proc/1/fd/' + name)) for name in os.listdir('/proc/1/fd')]")
            assert any(link.startswith("socket:") for link in kept), kept
            assert f"pipe:[{os.fstat(reading).st_ino}]" not in kept
            assert inside("sorted(int(name) for name in os.listdir('/proc/self/fd'))[:4]") == [0, 1, 2, 3]
    finally:
        os.close(reading)
        os.close(writing)


def test_hidden_folders_are_empty(runner: Runner) -> None:
    hidden = Path(tempfile.mkdtemp(prefix="fb-hidden-", dir="/var/tmp"))
    try:
        hidden.chmod(0o755)
        (hidden / "data").write_text("of another function")
        with Function({"app.py": EVALUATE}) as function:
            inside = Inside(function.start_sandbox(runner, hide=[str(hidden), str(function.folder), "/no/such"]))
            assert inside(f"os.listdir('{hidden}')") == []
            assert inside(f"attempt(lambda: os.listdir('{function.folder}'))") == "ENOENT"
            assert inside("sorted(os.listdir('/var/forebay/socket'))") == ["control.sock"]
    finally:
        shutil.rmtree(hidden)


def test_the_code_may_arrive_after_the_start(runner: Runner) -> None:
    with Function({}) as function:
        function.start_sandbox(runner)
        function.set_up()
        function.add_code({"app.py": "def handler(event, context):\n    return 'late'\n"})
        assert function.spawn().value() == "late"


def test_a_bootstrap_runs_in_the_sandbox(runner: Runner) -> None:
    with Function({"bootstrap": '#!/bin/sh\necho "$AWS_LAMBDA_RUNTIME_API $(pwd) $PPID"\nexec sleep 60\n'}) as function:
        (function.code / "bootstrap").chmod(0o755)
        function.start_sandbox(runner)
        function.set_up(mode="bootstrap")
        function.runtime.spawn(api="127.0.0.1:9001").wait_log("127.0.0.1:9001 /var/task 1\n")
        function.runtime.kill()
        assert function.runtime.exited() == (0, signal.SIGKILL)


def test_the_probe_says_yes(runner: Runner) -> None:
    with Function({}) as function:
        program = shutil.copytree(HANDLERS, function.folder / "handlers" / HANDLERS.name)
        command = [runner.interpreter, "-I", "-S", str(program / "sandbox.py"), "--probe"]
        answer = subprocess.run(command, capture_output=True, check=True, timeout=20, **runner.options)
        assert json.loads(answer.stdout) == {"namespaces": True, "reason": ""}
        assert answer.stderr == b""


def test_a_handlers_path_too_long_for_a_socket_is_no_matter(runner: Runner) -> None:
    with Function({"app.py": EVALUATE}) as function:
        deep = function.folder / ("d" * 120)
        deep.mkdir()
        function.runtime.path.rename(deep / "control.sock")
        inside = Inside(function.start_sandbox(runner, socket_path=str(deep / "control.sock")))
        assert inside("1 + 1") == 2


@pytest.mark.parametrize("interpreter", interpreters(), ids=lambda path: path.rsplit("/", 1)[-1])
def test_every_interpreter_runs_in_the_sandbox(runner: Runner, interpreter: str) -> None:
    prefix = str(Path(interpreter).parent.parent)
    if runner.user is not None:
        # Another user's way to an interpreter is opened by root only: they bring one that they can reach.
        interpreter, prefix = runner.interpreter, "/usr"
    with Function({"app.py": EVALUATE}) as function:
        inside = Inside(function.start_sandbox(runner, interpreter=interpreter, interpreter_prefix=prefix))
        assert inside("os.path.realpath(sys.executable)") == os.path.realpath(interpreter)


def test_a_missing_folder_is_a_failed_start_in_one_line(runner: Runner) -> None:
    with Function({}) as function:
        function.start_sandbox(runner, code_dir="/no/such/folder")
        assert function.sandbox.wait(20) == 1
        [line] = function.errors.read_text().splitlines()
        assert line.startswith("the handlers' sandbox could not be started: ")
        assert "/var/task" in line


def test_the_machines_own_tree_is_left_alone(inside: Inside) -> None:
    mounts = Path("/proc/self/mounts").read_text()
    assert "/var/task" not in mounts
    assert str(inside.function.folder) not in mounts
