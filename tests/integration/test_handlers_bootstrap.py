"""Programs that speak the Runtime API: found, started and ended like handlers of managed Python."""

import os
import signal

import pytest

from support.handlers_peer import Function, HandlerPeer

SHELL = '#!/bin/sh\necho "api=$AWS_LAMBDA_RUNTIME_API handler=$_HANDLER here=$(pwd)"\nexec sleep 60\n'


def bootstrap(function: Function, mode: int = 0o755) -> HandlerPeer:
    path = function.code / "bootstrap"
    if path.exists():
        path.chmod(mode)
    function.start(mode="bootstrap", env={"_HANDLER": "x.y"})
    return function.runtime.spawn(api="127.0.0.1:9001")


def test_a_bootstrap_gets_the_api_and_lambdas_environment() -> None:
    with Function({"bootstrap": SHELL}) as function:
        program = bootstrap(function)
        program.wait_log(f"api=127.0.0.1:9001 handler=x.y here={function.code}\n")
        function.runtime.kill()
        assert function.runtime.exited() == (0, signal.SIGKILL)


def test_the_connection_stays_open_until_the_program_ends() -> None:
    with Function({"bootstrap": "#!/bin/sh\nread line < go\nexit 3\n"}) as function:
        fifo = function.code / "go"
        os.mkfifo(fifo)
        program = bootstrap(function)
        fifo.write_text("now\n")
        assert program.answer() is None
        assert function.runtime.exited() == (0, 3 << 8)


def test_each_process_gets_its_own_api() -> None:
    with Function({"bootstrap": SHELL}) as function:
        bootstrap(function).wait_log("api=127.0.0.1:9001 ")
        function.runtime.spawn(1, api="127.0.0.1:9002").wait_log("api=127.0.0.1:9002 ")


@pytest.mark.parametrize(
    ("files", "mode", "message"),
    [
        (
            {},
            0o755,
            "Error: Couldn't find valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap /var/runtime/bootstrap]",
        ),
        ({"bootstrap": SHELL}, 0o644, "Error: fork/exec /var/task/bootstrap: permission denied"),
        ({"bootstrap": "no program"}, 0o755, "Error: fork/exec /var/task/bootstrap: exec format error"),
        ({"bootstrap": "#!/no/such\n"}, 0o755, "Error: fork/exec /var/task/bootstrap: no such file or directory"),
    ],
)
def test_a_bootstrap_that_cannot_run(files: dict[str, str], mode: int, message: str) -> None:
    with Function(files) as function:
        error = bootstrap(function, mode).init().error
        assert error == {
            "errorMessage": message,
            "errorType": "Runtime.InvalidEntrypoint",
            "requestId": "",
            "stackTrace": [],
        }
        assert function.runtime.exited() == (0, 1 << 8)
