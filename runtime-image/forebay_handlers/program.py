"""Mode bootstrap: a handler process that becomes a program speaking the Lambda Runtime API."""

import os
import signal
import sys

from forebay_handlers import errors
from forebay_handlers.wire import INIT_ERROR, U32, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, NoReturn

    from forebay_handlers.connection import Connection
    from forebay_handlers.supervisor import Child

FOLDERS = ("/opt", "/var/runtime")
INVALID_ENTRYPOINT = "Runtime.InvalidEntrypoint"


def candidates(task_root: str) -> "List[str]":
    """Where Lambda looks for `bootstrap`, in its order (Lambda developer guide, custom runtimes)."""
    return [f"{folder}/bootstrap" for folder in (task_root, *FOLDERS)]


def environment_of(setup: "Dict[str, Any]") -> "Dict[str, str]":
    """A handler process's whole environment: as the runtime says, and what it takes over from its own container."""
    inherited = {name: os.environ[name] for name in setup.get("inherited_env", ()) if name in os.environ}
    return {**setup["env"], **inherited}


def execute(connection: "Connection", child: "Child") -> "NoReturn":
    """Become the first bootstrap there is, with the connection left open so that the runtime sees its end."""
    setup = child.setup
    writer = errors.ErrorWriter(setup["task_root"])
    environment = {**environment_of(setup), "AWS_LAMBDA_RUNTIME_API": child.api}
    os.chdir(setup["task_root"])
    os.set_inheritable(connection.fileno(), True)
    # Python ignores these two; a program that is no Python expects to die of them.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    paths = candidates(setup["task_root"])
    text = f"Couldn't find valid bootstrap(s): [{' '.join(writer.shown_path(path) for path in paths)}]"
    for path in paths:
        if os.path.lexists(path):
            try:
                os.execve(path, [path], environment)
            except OSError as error:
                text = f"fork/exec {writer.shown_path(path)}: {(error.strerror or '').lower()}"
            break
    document = writer.of_fault(errors.FaultError(INVALID_ENTRYPOINT, f"Error: {text}"), "")
    sys.stderr.write(errors.log_lines(document))
    sys.stderr.flush()
    connection.send(pack(INIT_ERROR, U32.pack(0), writer.encode(document)))
    os._exit(1)
