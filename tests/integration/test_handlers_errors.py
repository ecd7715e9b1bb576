"""Each way a handler can fail has its own Lambda-shaped error, and the next call works where it can."""

import json
from typing import Any

import pytest

from forebay_handlers import wire
from support.handlers_peer import Function, HandlerPeer, handler_of, init_error

REQUEST_ID = "8f7c2f4e-0d7a-4b6e-9f1e-2d3c4b5a6978"


def error_of(handler: HandlerPeer, event: Any = None, **options: Any) -> Any:
    answer = handler.call(event, request_id=REQUEST_ID, **options)
    assert answer.kind == wire.RESULT_ERROR
    return answer.document


def test_an_exception_shows_the_users_frames_under_var_task() -> None:
    source = """
        import json
        class OrderError(Exception):
            pass
        def check(event):
            json.loads("{}")
            raise OrderError("no such order")
        def handler(event, context):
            if event:
                check(event)
            return "fine"
    """
    with handler_of(source) as handler:
        assert error_of(handler, 1) == {
            "errorMessage": "no such order",
            "errorType": "OrderError",
            "requestId": REQUEST_ID,
            "stackTrace": [
                '  File "/var/task/app.py", line 10, in handler\n    check(event)\n',
                '  File "/var/task/app.py", line 7, in check\n    raise OrderError("no such order")\n',
            ],
        }
        log = handler.wait_log("raise OrderError")
        assert "[ERROR] OrderError: no such order\nTraceback (most recent call last):\n" in log
        assert handler.value(0) == "fine"


def test_frames_of_the_standard_library_are_not_shown() -> None:
    source = "import json\ndef handler(event, context):\n    return json.loads('{')\n"
    with handler_of(source) as handler:
        document = error_of(handler)
        assert document["errorType"] == "JSONDecodeError"
        assert document["stackTrace"] == [
            "  File \"/var/task/app.py\", line 3, in handler\n    return json.loads('{')\n"
        ]


def test_endless_recursion_is_an_error_of_bounded_size() -> None:
    with handler_of("def handler(event, context):\n    return handler(event, context)\n") as handler:
        document = error_of(handler)
        assert document["errorType"] == "RecursionError"
        assert len(document["stackTrace"]) < 10


def test_an_exception_that_cannot_be_shown_is_named_all_the_same() -> None:
    source = """
        class Odd(Exception):
            def __str__(self):
                raise ValueError
        def handler(event, context):
            raise Odd
    """
    with handler_of(source) as handler:
        assert error_of(handler)["errorMessage"] == "<unprintable Odd object>"


@pytest.mark.parametrize(
    ("result", "why"),
    [
        ("{1, 2}", "Object of type set is not JSON serializable"),
        ("b'x'", "Object of type bytes is not JSON serializable"),
        ("object", "Object of type type is not JSON serializable"),
        ("{(1, 2): 3}", "keys must be str, int, float, bool or None, not tuple"),
    ],
)
def test_a_result_that_is_no_json(result: str, why: str) -> None:
    with handler_of(f"def handler(event, context):\n    return {result} if event else 'fine'\n") as handler:
        assert error_of(handler, 1) == {
            "errorMessage": f"Unable to marshal response: {why}",
            "errorType": "Runtime.MarshalError",
            "requestId": REQUEST_ID,
            "stackTrace": [],
        }
        assert handler.value(0) == "fine"


def test_a_circular_result() -> None:
    with handler_of("loop = []\nloop.append(loop)\ndef handler(event, context):\n    return loop\n") as handler:
        document = error_of(handler)
        assert document["errorType"] == "Runtime.MarshalError"
        assert document["errorMessage"] == "Unable to marshal response: Circular reference detected"


def test_a_result_above_the_quota() -> None:
    with handler_of("def handler(event, context):\n    return 'x' * event\n") as handler:
        assert error_of(handler, 9_000_000) == {
            "errorType": "Function.ResponseSizeTooLarge",
            "errorMessage": "Response payload size exceeded maximum allowed payload size (6291556 bytes).",
        }
        assert handler.value(3) == "xxx"


def test_an_error_document_above_the_quota() -> None:
    with handler_of("def handler(event, context):\n    raise ValueError('x' * 9_000_000)\n") as handler:
        assert error_of(handler)["errorType"] == "Function.ResponseSizeTooLarge"


@pytest.mark.parametrize("payload", [b"{", b"", b"\xff\xfe", b"[" * 100_000])
def test_an_event_that_is_no_json(payload: bytes) -> None:
    with handler_of("def handler(event, context):\n    return 'fine'\n") as handler:
        document = error_of(handler, payload=payload)
        assert document["errorType"] == "Runtime.UnmarshalError"
        assert document["errorMessage"].startswith("Unable to unmarshal input: ")
        assert handler.value() == "fine"


@pytest.mark.parametrize("client_context", [b"{", b"[]", b"\xff"])
def test_a_client_context_that_is_no_object(client_context: bytes) -> None:
    with handler_of("def handler(event, context):\n    return 'fine'\n") as handler:
        document = error_of(handler, client_context=client_context)
        assert document["errorType"] == "Runtime.LambdaContextUnmarshalError"


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("import sys\ndef handler(e, c):\n    print('bye'); sys.exit(3)\n", 3),
        ("import sys\ndef handler(e, c):\n    print('bye'); sys.exit()\n", 0),
        ("import sys\ndef handler(e, c):\n    sys.exit('bye')\n", 1),
        ("def handler(e, c):\n    print('bye'); exit(4)\n", 4),
        ("import os\ndef handler(e, c):\n    print('bye'); os._exit(7)\n", 7),
        ("def handler(e, c):\n    raise KeyboardInterrupt('bye')\n", 1),
        ("import asyncio\ndef handler(e, c):\n    raise asyncio.CancelledError('bye')\n", 1),
    ],
)
def test_an_exit_ends_the_process_with_its_status(source: str, status: int) -> None:
    with Function({"app.py": source}) as function:
        handler = function.start().spawn()
        handler.send()
        assert handler.answer() is None
        assert function.runtime.exited() == (0, status << 8)
        handler.wait_log("bye")
        function.spawn()


def test_a_crash_is_reported_with_its_signal() -> None:
    source = "import ctypes\ndef handler(event, context):\n    ctypes.string_at(0)\n"
    with Function({"app.py": source}) as function:
        handler = function.start().spawn()
        handler.send()
        assert handler.answer() is None
        slot, status = function.runtime.exited()
        assert (slot, status & 0x7F) == (0, 11)


@pytest.mark.parametrize("allocation", ["bytearray(200 * 2**20)", "['x' * 2**20 for _ in range(200)]"])
def test_more_memory_than_the_function_has(allocation: str) -> None:
    source = f"def handler(event, context):\n    return len({allocation}) if event else 'fine'\n"
    with Function({"app.py": source}) as function:
        handler = function.start(memory_mb=128).spawn()
        assert handler.value(0) == "fine"
        answer = handler.call(1, request_id=REQUEST_ID)
        assert answer.kind == wire.RESULT_ERROR_EXIT
        assert answer.document == {
            "errorType": "Runtime.OutOfMemory",
            "errorMessage": f"RequestId: {REQUEST_ID} Error: Runtime exited with error: signal: killed",
        }
        assert function.runtime.exited() == (0, 0)
        assert function.spawn().value(0) == "fine"


def test_the_memory_a_function_has_can_be_used() -> None:
    source = """
        from concurrent.futures import ThreadPoolExecutor
        def handler(event, context):
            with ThreadPoolExecutor(20) as pool:
                list(pool.map(len, [b"x"] * 100))
            return len(bytearray(60 * 2**20))
    """
    with handler_of(source, memory_mb=128) as handler:
        assert handler.value() == 60 * 2**20


def test_out_of_memory_at_import() -> None:
    error = init_error({"app.py": "data = bytearray(500 * 2**20)\n"})
    assert error == {
        "errorType": "Runtime.OutOfMemory",
        "errorMessage": "Error: Runtime exited with error: signal: killed",
    }


@pytest.mark.parametrize(
    ("handler", "error_type", "message"),
    [
        ("app", "Runtime.MalformedHandlerName", "Bad handler 'app': not enough values to unpack (expected 2, got 1)"),
        (
            "nothing.handler",
            "Runtime.ImportModuleError",
            "Unable to import module 'nothing': No module named 'nothing'",
        ),
        ("app.missing", "Runtime.HandlerNotFound", "Handler 'missing' missing on module 'app'"),
        ("pkg/mod.missing", "Runtime.HandlerNotFound", "Handler 'missing' missing on module 'pkg/mod'"),
        ("imports.handler", "Runtime.ImportModuleError", "Unable to import module 'imports': No module named 'absent'"),
        ("sys.exit", "Runtime.BuiltInModuleConflict", "Cannot use built-in module sys as a handler module"),
    ],
)
def test_a_handler_that_cannot_be_found(handler: str, error_type: str, message: str) -> None:
    files = {"app.py": "x = 1\n", "imports.py": "import absent\n", "pkg/__init__.py": "", "pkg/mod.py": ""}
    error = init_error(files, handler)
    assert error == {"errorMessage": message, "errorType": error_type, "requestId": "", "stackTrace": []}


def test_a_syntax_error() -> None:
    error = init_error({"app.py": "def handler(event, context):\n    return (\n"})
    assert error["errorType"] == "Runtime.UserCodeSyntaxError"
    assert error["errorMessage"].startswith("Syntax error in module 'app': ")
    assert error["stackTrace"][0].startswith('  File "/var/task/app.py" Line 2\n    ')


def test_an_exception_at_import_is_the_users_own() -> None:
    error = init_error({"app.py": "import other\n", "other.py": "raise KeyError('BUCKET')\n"})
    assert error == {
        "errorMessage": "'BUCKET'",
        "errorType": "KeyError",
        "requestId": "",
        "stackTrace": [
            '  File "/var/task/app.py", line 1, in <module>\n    import other\n',
            "  File \"/var/task/other.py\", line 1, in <module>\n    raise KeyError('BUCKET')\n",
        ],
    }


def test_an_import_error_is_in_the_log_and_the_process_ends() -> None:
    with Function({"app.py": "print('importing')\nimport absent\n"}) as function:
        handler = function.start().runtime.spawn()
        assert handler.init().error["errorType"] == "Runtime.ImportModuleError"
        assert function.runtime.exited() == (0, 0)
        assert "importing\n[ERROR] Runtime.ImportModuleError: Unable" in handler.wait_log("[ERROR]")


def test_an_exit_at_import_ends_the_process() -> None:
    with Function({"app.py": "import sys\nsys.exit(5)\n"}) as function:
        function.start().runtime.spawn()
        assert function.runtime.exited() == (0, 5 << 8)


def test_a_handler_that_is_not_callable() -> None:
    with handler_of("handler = 5\n") as handler:
        document = error_of(handler)
        assert document["errorType"] == "TypeError"
        assert document["errorMessage"] == "'int' object is not callable"
        assert json.dumps(document["stackTrace"]) == "[]"
