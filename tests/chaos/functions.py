"""The code that the load runs: one handler for all functions, told by its environment what kind it is."""

from typing import Any

from support.platform import RUNTIME, package

from .plan import FunctionPlan

TIMEOUT_S = 10

SOURCE = '''
import os
import signal
import socket
import time

KIND = os.environ["KIND"]
connection = None


def tell(what, event, context):
    """Write into the ledger outside the platform; how often this event had been started before."""
    global connection
    if connection is None:
        host, port = os.environ["LEDGER"].split(":")
        connection = socket.create_connection((host, int(port))).makefile("rwb")
    connection.write(f"{what} {event['id']} {context.log_stream_name}\\n".encode())
    connection.flush()
    return int(connection.readline())


def handler(event, context):
    started_before = tell("start", event, context)
    time.sleep(event["work_s"])
    if KIND == "failing" or (KIND == "flaky" and not started_before):
        tell("fail", event, context)
        raise ValueError("as it was told")
    if KIND == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    tell("end", event, context)
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
    return {
        "runtime": RUNTIME,
        "handler": "app.handler",
        "timeout_s": TIMEOUT_S,
        "env": {"KIND": function.kind, "LEDGER": ledger},
        "scale": {"max_instances": 3, "concurrency": 2, "idle_s": function.idle_s},
        "async": delivery,
        "code": {"zip_base64": zip_base64},
    }
