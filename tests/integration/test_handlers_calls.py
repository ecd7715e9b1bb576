"""What a handler sees and answers when all goes well, on every interpreter this machine has."""

import base64
import json

import pytest

from forebay_handlers import wire
from support.handlers_peer import Function, RuntimePeer, handler_of, interpreters, running, zygote_command

ECHO = "def handler(event, context):\n    return event\n"
REQUEST_ID = "8f7c2f4e-0d7a-4b6e-9f1e-2d3c4b5a6978"


@pytest.mark.parametrize("interpreter", interpreters(), ids=lambda path: path.rsplit("/", 1)[-1])
def test_a_call_is_answered_on_every_interpreter(interpreter: str) -> None:
    source = """
        import asyncio, logging, sys
        seen = sorted(name for name in sys.modules if "forebay" in name)
        def handler(event, context):
            logging.getLogger().warning("hello %s", event)
            asyncio.new_event_loop().run_until_complete(asyncio.sleep(0))
            return {"event": event, "python": list(sys.version_info[:2]), "ours": seen, "id": context.aws_request_id}
    """
    with handler_of(source, interpreter=interpreter) as handler:
        result = handler.value({"a": "ü"}, request_id=REQUEST_ID)
        assert interpreter.endswith("python{}.{}".format(*result.pop("python")))
        assert result == {"event": {"a": "ü"}, "ours": [], "id": REQUEST_ID}
        assert f"\t{REQUEST_ID}\thello {{'a': 'ü'}}" in handler.wait_log("hello")


def test_payloads_of_any_json_come_back_unchanged() -> None:
    deep: object = 1
    for _ in range(900):
        deep = [deep]
    with handler_of(ECHO) as handler:
        for event in (None, 0, "", [], {}, 2**70, 1.5, "ünïcödé 🙂", deep, {"k": "v" * 200_000}):
            assert handler.value(event) == event
        assert handler.call(payload=b"[NaN, -Infinity]").data == b"[NaN, -Infinity]"
        assert json.loads(handler.call(payload=b'"\\ud800"').data) == "\ud800"


def test_several_calls_in_the_socket_are_answered_in_order() -> None:
    with handler_of(ECHO) as handler:
        tokens = [handler.send(number) for number in range(40)]
        answers = [handler.answer() for _ in tokens]
        assert [(answer.token, answer.document) for answer in answers if answer] == [
            (token, number) for number, token in enumerate(tokens)
        ]


def test_a_six_megabyte_event_and_result_pass() -> None:
    with handler_of(ECHO) as handler:
        event = "x" * 6_000_000
        assert handler.value(event) == event


def test_the_result_is_written_as_lambda_writes_it() -> None:
    source = """
        import decimal
        RESULTS = [None, "ü", {"a": 1}, (1, 2), decimal.Decimal("7"), decimal.Decimal("1.5"), float("nan")]
        def handler(event, context):
            return RESULTS[event]
    """
    with handler_of(source) as handler:
        found = [handler.call(number).data.decode() for number in range(7)]
        assert found == ["null", '"ü"', '{"a": 1}', "[1, 2]", "7", "1.5", "NaN"]


def test_the_context_has_lambdas_attributes() -> None:
    source = """
        def handler(event, context):
            left = context.get_remaining_time_in_millis()
            names = ["function_name", "function_version", "invoked_function_arn", "memory_limit_in_mb",
                     "aws_request_id", "log_group_name", "log_stream_name", "tenant_id"]
            client = context.client_context
            context.log("logged by context")
            return {
                **{name: getattr(context, name) for name in names},
                "left": left,
                "identity": [context.identity.cognito_identity_id, context.identity.cognito_identity_pool_id],
                "client": client and [client.custom, client.env, client.client.app_title],
                "shown": repr(context),
            }
    """
    with handler_of(source) as handler:
        client = {"custom": {"a": 1}, "env": {"locale": "de"}, "client": {"app_title": "app"}}
        result = handler.value(
            request_id=REQUEST_ID, arn="arn:x:prod", client_context=json.dumps(client).encode(), timeout_s=5
        )
        assert 4_000 < result.pop("left") <= 5_000
        assert result.pop("shown").startswith(f"LambdaContext([aws_request_id={REQUEST_ID},")
        assert result == {
            "function_name": "f",
            "function_version": "$LATEST",
            "invoked_function_arn": "arn:x:prod",
            "memory_limit_in_mb": "128",
            "aws_request_id": REQUEST_ID,
            "log_group_name": "/aws/lambda/f",
            "log_stream_name": "stream",
            "tenant_id": None,
            "identity": [None, None],
            "client": [{"a": 1}, {"locale": "de"}, "app"],
        }
        assert handler.value(timeout_s=-1)["left"] == 0
        handler.wait_log("logged by context")


def test_the_trace_id_is_unset_at_import_and_new_for_each_call() -> None:
    source = """
        import os
        at_import = os.environ.get("_X_AMZN_TRACE_ID")
        def handler(event, context):
            return [at_import, os.environ.get("_X_AMZN_TRACE_ID")]
    """
    with handler_of(source) as handler:
        assert handler.value(trace_id="Root=1-a") == [None, "Root=1-a"]
        assert handler.value(trace_id="Root=1-b") == [None, "Root=1-b"]
        assert handler.value() == [None, None]


def test_calls_leave_no_memory_behind() -> None:
    source = """
        def handler(event, context):
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1])
    """
    with handler_of(source) as handler:
        for number in range(2_000):
            before = handler.value(trace_id=f"Root=1-{number:032x}")
        for number in range(20_000):
            after = handler.value(trace_id=f"Root=2-{number:032x}")
    # Pages of 4 KiB. With the trace id in the C library's environment it was about 500 of them.
    assert after - before < 100


def test_the_process_is_as_a_function_expects_it() -> None:
    source = """
        import __main__, os, sys, time, threading
        def handler(event, context):
            return {
                "environment": sorted(os.environ),
                "cwd": os.getcwd(),
                "path": sys.path,
                "argv": sys.argv,
                "stdin": sys.stdin.read(),
                "main_thread": threading.current_thread() is threading.main_thread(),
                "leader": os.getsid(0) == os.getpid(),
                "main": getattr(__main__, "__file__", None),
                "exit": callable(exit) and callable(quit),
                "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1],
                "zone": time.tzname[0],
            }
    """
    with Function({"app.py": source}) as function:
        function.start(env={"MINE": "1", "PYTHONPATH": f"/extra:{function.boto}"})
        result = function.spawn().value()
        assert result["environment"] == sorted(
            [
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
                "AWS_LAMBDA_FUNCTION_NAME",
                "AWS_LAMBDA_FUNCTION_VERSION",
                "AWS_LAMBDA_LOG_GROUP_NAME",
                "AWS_LAMBDA_LOG_STREAM_NAME",
                "LANG",
                "MINE",
                "PATH",
                "PYTHONPATH",
                "TZ",
            ]
        )
        assert result["cwd"] == str(function.code)
        assert result["path"][:2] == [str(function.code), "/extra"]
        assert result["path"][-1] == str(function.boto)
        assert not any("site-packages" in entry for entry in result["path"] if not entry.startswith("/opt/"))
        assert result["argv"] == ["/var/runtime/bootstrap.py"]
        assert result["main"] is None
        assert (result["stdin"], result["main_thread"], result["leader"], result["exit"]) == ("", True, True, True)
        assert result["descriptors"] == [0, 1, 2, 3]
        assert result["zone"] == "UTC"


@pytest.mark.parametrize("name", ["app.handler", "pkg/mod.handler", "pkg.mod.handler"])
def test_handlers_in_modules_and_packages_are_found(name: str) -> None:
    files = {"app.py": ECHO, "pkg/__init__.py": "", "pkg/mod.py": "from pkg import x\n" + ECHO, "pkg/x.py": ""}
    with Function(files) as function:
        assert function.start(name).spawn().value("hi") == "hi"


def test_the_users_modules_win_over_whatever_is_warm() -> None:
    names = [
        "queue",
        "random",
        "common",
        "gateway",
        "redis",
        "boto3",
        "forebay_handlers",
        "datetime",
        "json",
        "logging",
    ]
    files = {f"{name}.py": f"mine = '{name}'\n" for name in names}
    files["collections/README"] = "a mere folder shadows nothing"
    files["app.py"] = f"""
        import collections, importlib
        OrderedDict = collections.OrderedDict
        def handler(event, context):
            return [importlib.import_module(name).mine for name in {names!r}]
    """
    with Function(files) as function:
        (function.boto / "boto3.py").write_text("mine = 'the platform'\n")
        assert function.start().spawn().value() == names


def test_boto3_is_there_without_being_packaged() -> None:
    with Function({"app.py": "import boto3\ndef handler(event, context):\n    return boto3.mine\n"}) as function:
        (function.boto / "boto3.py").write_text("mine = 'the platform'\n")
        assert function.start().spawn().value() == "the platform"


def test_random_numbers_differ_between_handler_processes() -> None:
    source = "import random\nvalue = random.random()\ndef handler(event, context):\n    return value\n"
    with Function({"app.py": source}) as function:
        function.start()
        assert len({function.spawn(slot).value() for slot in range(3)}) == 3


def test_logging_is_lambdas() -> None:
    source = """
        import logging
        logging.info("not shown: the level is WARNING")
        logging.warning("at import")
        def handler(event, context):
            logging.getLogger().setLevel(logging.INFO)
            logging.info("in %s", "call")
    """
    with handler_of(source) as handler:
        handler.call(request_id=REQUEST_ID)
        first, second = handler.wait_log("in call").splitlines()
        assert first.startswith("[WARNING]\t")
        assert first.endswith("Z\t\tat import")
        level, moment, request_id, message = second.split("\t")
        assert (level, request_id, message) == ("[INFO]", REQUEST_ID, "in call")
        assert len(moment) == len("2024-01-01T00:00:00.000Z")


def test_the_log_level_can_be_set() -> None:
    source = "import logging\nlogging.debug('shown')\ndef handler(event, context):\n    pass\n"
    with handler_of(source, env={"AWS_LAMBDA_LOG_LEVEL": "debug"}) as handler:
        handler.wait_log("shown")


def test_everything_printed_is_in_the_pipe_before_the_result() -> None:
    source = """
        import sys
        def handler(event, context):
            print("out", end="")
            sys.stdout.buffer.write(b" raw")
            sys.stderr.write(" err")
    """
    with handler_of(source) as handler:
        handler.call()
        log = handler.wait_log("raw")
        assert "out" in log
        assert " err" in log


def test_the_result_carries_the_peak_memory() -> None:
    source = "def handler(event, context):\n    return len(bytearray(50 * 2**20))\n"
    with handler_of(source) as handler:
        answer = handler.call()
        assert answer.kind == wire.RESULT_OK
        assert 50 * 1024 < answer.max_rss_kib < 500 * 1024


def test_state_stays_between_calls_of_one_process() -> None:
    source = "seen = []\ndef handler(event, context):\n    seen.append(event)\n    return seen\n"
    with handler_of(source) as handler:
        handler.call(1)
        assert handler.value(2) == [1, 2]


def test_the_supervisor_says_who_it_is() -> None:
    with Function({"app.py": ECHO}) as function:
        function.start()
        assert set(function.runtime.claims) == {"pid", "python"}


def test_binary_text_survives() -> None:
    event = base64.b64encode(bytes(range(256))).decode()
    with handler_of("import base64\ndef handler(e, c):\n    return list(base64.b64decode(e))\n") as handler:
        assert handler.value(event) == list(range(256))


def test_the_handlers_program_may_be_there_before_its_runtime() -> None:
    with Function({"app.py": ECHO}) as function:
        function.runtime.close()
        function.runtime.path.unlink()
        with running(zygote_command(function.runtime)):
            function.runtime = RuntimePeer(function.folder / "socket")
            function.set_up(str(function.code), str(function.boto))
            assert function.spawn().value(1) == 1
