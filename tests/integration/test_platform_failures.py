"""Whatever a handler does, its caller gets Lambda's own answer at once, and the next call works."""

import base64
import time
from typing import Any

import pytest

from support.platform import Platform

SOURCE = """
import os, sys, time

def handler(event, context):
    what = event.get("do")
    if what == "raise":
        raise ValueError("no such luck")
    if what == "spin":
        while True:
            pass
    if what == "sys.exit":
        sys.exit(3)
    if what == "exit 0":
        os._exit(0)
    if what == "killed":
        os.kill(os.getpid(), 9)
    if what == "memory":
        return len(bytearray(1 << 30))
    if what == "set":
        return {1, 2}
    if what == "large":
        return "x" * 6_300_000
    if what == "log":
        print("y" * 7_000_000)
    return "fine"
"""


@pytest.fixture(scope="module")
def unruly(platform: Platform) -> str:
    platform.create("unruly", SOURCE, Timeout=1)
    return "unruly"


@pytest.mark.parametrize(
    ("do", "error_type", "message"),
    [
        ("raise", "ValueError", "no such luck"),
        ("spin", "Sandbox.Timedout", "RequestId: {id} Error: Task timed out after 1.00 seconds"),
        ("sys.exit", "Runtime.ExitError", "RequestId: {id} Error: Runtime exited with error: exit status 3"),
        ("exit 0", "Runtime.ExitError", "RequestId: {id} Error: Runtime exited without providing a reason"),
        ("killed", "Runtime.ExitError", "RequestId: {id} Error: Runtime exited with error: signal: killed"),
        ("memory", "Runtime.OutOfMemory", "RequestId: {id} Error: Runtime exited with error: signal: killed"),
        ("set", "Runtime.MarshalError", "Unable to marshal response: Object of type set is not JSON serializable"),
        (
            "large",
            "Function.ResponseSizeTooLarge",
            "Response payload size exceeded maximum allowed payload size (6291556 bytes).",
        ),
    ],
)
def test_a_failure_is_answered_and_the_next_call_works(
    platform: Platform, unruly: str, do: str, error_type: str, message: str
) -> None:
    started = time.monotonic()
    payload, answer = platform.invoke(unruly, {"do": do})
    assert time.monotonic() - started < 5
    assert answer["StatusCode"] == 200
    assert answer["FunctionError"] == "Unhandled"
    assert payload["errorType"] == error_type
    assert payload["errorMessage"] == message.format(id=answer["ResponseMetadata"]["RequestId"])
    assert platform.invoke(unruly, {})[0] == "fine"


def test_a_trace_shows_the_users_frames_under_var_task(platform: Platform, unruly: str) -> None:
    payload, answer = platform.invoke(unruly, {"do": "raise"})
    assert payload["requestId"] == answer["ResponseMetadata"]["RequestId"]
    (frame,) = payload["stackTrace"]
    assert frame.startswith('  File "/var/task/app.py", line 7, in handler\n')


def test_seven_megabytes_of_log_leave_a_tail_that_ends_with_the_report(platform: Platform, unruly: str) -> None:
    payload, answer = platform.invoke(unruly, {"do": "log"}, LogType="Tail")
    assert payload == "fine"
    tail = base64.b64decode(answer["LogResult"])
    assert len(tail) <= 4096
    assert b"REPORT RequestId: " in tail


@pytest.mark.parametrize(
    ("name", "files", "handler", "error_type", "message"),
    [
        (
            "no-module", {"app.py": ""}, "missing.handler",
            "Runtime.ImportModuleError", "Unable to import module 'missing': No module named 'missing'",
        ),
        (
            "no-handler", {"app.py": ""}, "app.missing",
            "Runtime.HandlerNotFound", "Handler 'missing' missing on module 'app'",
        ),
        ("bad-import", {"app.py": "1 / 0"}, "app.handler", "ZeroDivisionError", "division by zero"),
        ("bad-syntax", {"app.py": "def"}, "app.handler", "Runtime.UserCodeSyntaxError", "Syntax error in module 'app'"),
    ],
)  # fmt: skip
def test_a_handler_that_cannot_be_loaded_answers_every_call(
    platform: Platform, name: str, files: dict[str, str], handler: str, error_type: str, message: str
) -> None:
    platform.create(name, files, Handler=handler)
    for _ in range(2):
        payload, answer = platform.invoke(name)
        assert answer["FunctionError"] == "Unhandled"
        assert payload["errorType"] == error_type
        assert payload["errorMessage"].startswith(message)


def seen(platform: Platform, name: str, source: str, **members: Any) -> Any:
    platform.create(name, source, **members)
    return platform.invoke(name)[0]


def test_a_function_sees_its_package_the_standard_library_and_boto3_only(platform: Platform) -> None:
    source = """
import importlib.util, os, sys
NAMES = ["boto3", "hiredis", "redis", "fastapi", "uvicorn", "pydantic", "typer",
         "forebay_common", "forebay_runtime", "forebay_handlers", "wire", "zygote"]
def handler(event, context):
    return {
        "found": [name for name in NAMES if importlib.util.find_spec(name)],
        "loaded": [name for name in sys.modules if name.startswith("forebay")],
        "cwd": os.getcwd(), "first": sys.path[0], "uid": os.getuid(), "tmp": os.access("/tmp", os.W_OK),
        "root": os.environ["LAMBDA_TASK_ROOT"], "memory": context.memory_limit_in_mb,
        "left": context.get_remaining_time_in_millis(),
    }
"""
    found = seen(platform, "looks", source, Timeout=5)
    assert found["found"] == ["boto3"]
    assert found["loaded"] == []
    assert found["cwd"] == found["first"] == found["root"]
    assert found["uid"] != 0
    assert found["tmp"]
    assert found["memory"] == "128"
    assert 4000 < found["left"] <= 5000


def test_a_package_and_its_own_modules_win_over_anything_warm(platform: Platform) -> None:
    files = {
        "pkg/__init__.py": "",
        "pkg/mod.py": "import queue, gateway\ndef fn(event, context): return [queue.MINE, gateway.MINE]",
        "queue.py": "MINE = 'queue'",
        "gateway.py": "MINE = 'gateway'",
    }
    platform.create("packaged", files, Handler="pkg/mod.fn")
    assert platform.invoke("packaged")[0] == ["queue", "gateway"]


def test_a_function_calls_another_with_boto3(platform: Platform) -> None:
    platform.create("inner", "def handler(event, context): return event['n'] + 1")
    source = """
import boto3, json
def handler(event, context):
    answer = boto3.client("lambda").invoke(FunctionName="inner", Payload=json.dumps({"n": 41}))
    return json.load(answer["Payload"])
"""
    assert seen(platform, "outer", source, Timeout=20, MemorySize=512) == 42
