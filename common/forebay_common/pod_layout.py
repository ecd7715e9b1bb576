"""What a function's pod is made of: programs, paths, users, ports and variables, for its template and its runtime.

Two containers share the network, and two volumes: one at `SOCKET_FOLDER` and one at `TASK_ROOT`, both written by the
runtime and mounted read-only for the handlers (neither is needed with a container image, which brings its own code).

    container  command                                 gets
    runtime    RUNTIME_PROGRAM --pod                   SETTINGS_VARIABLE, REDIS_VARIABLE (both JSON)
    handlers   HANDLERS_PROGRAM SOCKET_PATH            the variables that the settings' `inherited_env` names
    handlers   the image's own (settings' mode: image) its whole environment, with RUNTIME_API_VARIABLE

With a container image the handlers' container must not start before the Runtime API listens, since clients of it try
once: `RUNTIME_PROGRAM --wait-for-api`, run in the runtime's container after its start, ends when it does. Then the
runtime answers on LIFECYCLE_PORT, on all addresses: `STARTED_PATH` says that the handlers' container was started (from
then on its initialisation may take `init_timeout_ms`), `DRAINED_PATH` is answered once no call runs, so that it can
hold up the end of a container whose program would not finish its call by itself.

The runtime's reason for an exit code above 0 is the container's termination message.
"""

RUNTIME_PROGRAM = "/usr/local/bin/forebay-runtime"
HANDLERS_PROGRAM = "/usr/local/bin/forebay-handlers"

SETTINGS_VARIABLE = "FOREBAY_SETTINGS"
REDIS_VARIABLE = "FOREBAY_REDIS"
RUNTIME_API_VARIABLE = "AWS_LAMBDA_RUNTIME_API"

SOCKET_FOLDER = "/run/forebay"
SOCKET_PATH = f"{SOCKET_FOLDER}/control.sock"
TASK_ROOT = "/var/task"
BOTO_FOLDER = "/var/runtime"
"""boto3 as Lambda provides it, in the runtime's image."""
STANDARD_OUTPUT = "-"
"""The settings' `log_path`: the function's log is the runtime's container's output."""
TERMINATION_MESSAGE_PATH = "/dev/termination-log"
TERMINATION_MESSAGE_MAX_BYTES = 4096

RUNTIME_UID = 10_001
HANDLERS_UID = 10_002

RUNTIME_API_PORT = 9001
RUNTIME_API_ADDRESS = f"127.0.0.1:{RUNTIME_API_PORT}"
LIFECYCLE_PORT = 9002
STARTED_PATH = "/started"
DRAINED_PATH = "/drained"
