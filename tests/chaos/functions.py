"""The code that the load runs: one handler for all functions, told by each event what to do."""

from typing import Any

from support.platform import RUNTIME, package

from .plan import SINK, FunctionPlan

TIMEOUT_S = 10

SOURCE = '''
import os
import signal
import socket
import time

connection = None


def tell(what, ident, context):
    """Write into the ledger outside the platform; how often this event had been started before."""
    global connection
    if connection is None:
        host, port = os.environ["LEDGER"].split(":")
        connection = socket.create_connection((host, int(port))).makefile("rwb")
    connection.write(f"{what} {ident} {context.log_stream_name}\\n".encode())
    connection.flush()
    return int(connection.readline())


def handler(event, context):
    if "requestContext" in event:
        # How another function's event has ended.
        tell("told-" + event["requestContext"]["condition"], event["requestPayload"]["id"], context)
        return None
    started_before = tell("start", event["id"], context)
    time.sleep(event["work_s"])
    if event["poison"]:
        os.kill(os.getpid(), signal.SIGKILL)
    if started_before < event["fails"]:
        tell("fail", event["id"], context)
        raise ValueError("as it was told")
    tell("end", event["id"], context)
    return {"id": event["id"], "filler": event["filler"]}
'''


def package_of_all() -> bytes:
    """The zip that every function has."""
    return package(SOURCE)


def settings(function: FunctionPlan, ledger: str, zip_base64: str) -> dict[str, Any]:
    """The body of a PUT of /v1 that creates a function."""
    delivery: dict[str, Any] = {"max_retries": function.max_retries}
    if function.max_age_s is not None:
        delivery["max_age_s"] = function.max_age_s
    if function.reports:
        delivery |= {"on_success": f"function:{SINK.name}", "on_failure": f"function:{SINK.name}"}
    return {
        "runtime": RUNTIME,
        "handler": "app.handler",
        "timeout_s": TIMEOUT_S,
        "env": {"LEDGER": ledger},
        "scale": {
            "min_instances": function.min_instances,
            "max_instances": function.max_instances,
            "concurrency": 2,
            "idle_s": function.idle_s,
        },
        "async": delivery,
        "code": {"zip_base64": zip_base64},
    }
