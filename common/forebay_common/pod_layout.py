"""What a function's pod is made of: commands, paths, users, ports and variables, for its template and its runtime.

Two containers share the network, and two volumes: one for the socket's folder and one at `TASK_ROOT`, both written by
the runtime and mounted read-only for the handlers (neither is needed with a container image, which brings its code).

    container  command                                 gets
    runtime    RUNTIME_COMMAND                         SETTINGS_VARIABLE, REDIS_VARIABLE (both JSON)
    handlers   HANDLERS_COMMAND                        SOCKET_VARIABLE, and what the settings' `inherited_env` names
    handlers   the image's own (settings' mode: image) its whole environment, with RUNTIME_API_VARIABLE

A client of the Runtime API connects once and ends when nobody listens. So a container image must not be started before
`WAIT_FOR_API_COMMAND` has ended in the runtime's container (as its postStart hook), which waits until it listens.

The runtime's reason for an exit code above 0 is its container's termination message.
"""

PROGRAM_FOLDER = "/opt/forebay"
"""Where the runtime's image has our packages: below no folder that a Python searches by itself."""
RUNTIME_COMMAND = ("/usr/local/bin/python3", "-I", "-S", f"{PROGRAM_FOLDER}/forebay_runtime/__main__.py", "--pod")
WAIT_FOR_API_COMMAND = (*RUNTIME_COMMAND[:-1], "--wait-for-api")
HANDLERS_COMMAND = ("/usr/local/bin/python3", "-I", "-S", f"{PROGRAM_FOLDER}/forebay_handlers/container.py")

SETTINGS_VARIABLE = "FOREBAY_SETTINGS"
REDIS_VARIABLE = "FOREBAY_REDIS"
SOCKET_VARIABLE = "FOREBAY_SOCKET"
RUNTIME_API_VARIABLE = "AWS_LAMBDA_RUNTIME_API"

TASK_ROOT = "/var/task"
BOTO_FOLDER = "/var/runtime"
"""boto3 as Lambda provides it, in the runtime's image."""
STANDARD_OUTPUT = "-"
"""The settings' `log_path`: the function's log is the runtime's container's output."""
TERMINATION_MESSAGE_PATH = "/dev/termination-log"
TERMINATION_MESSAGE_MAX_BYTES = 4096

RUNTIME_UID = 65_532
HANDLERS_UID = 65_534

RUNTIME_API_PORT = 9001
RUNTIME_API_ADDRESS = f"127.0.0.1:{RUNTIME_API_PORT}"
