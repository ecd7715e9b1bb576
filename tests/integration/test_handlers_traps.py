"""What hostile or careless handlers do to their process; the next call is answered, or the process ends."""

import signal
from typing import Any

import pytest

from forebay_handlers import wire
from support.handlers_peer import Function, alive, handler_of, wait_gone

NEXT_CALL_WORKS = {
    "json taken away": "import json; json.dumps = json.loads = None; json.JSONEncoder = json.JSONDecoder = None",
    "environment cleared": "import os; os.environ.clear(); os.environ = {}",
    "standard streams closed": "import sys; sys.stdout.close(); sys.stderr.close()",
    "standard streams replaced": "import sys; sys.stdout = None; sys.stderr = object()",
    "descriptors 0 to 2 closed": "import os; [os.close(n) for n in range(3)]",
    "folder and umask changed": "import os; os.chdir('/'); os.umask(0o777)",
    "modules forgotten": "import sys; sys.modules.clear(); sys.path.clear()",
    "os taken apart": "import os; os.getpid = os._exit = os.write = None",
    "signals ignored": "import signal; [signal.signal(n, signal.SIG_IGN) for n in (15, 2, 1, 17, 13)]",
    "logging shut down": "import logging; logging.shutdown(); logging.root.handlers.clear()",
    "recursion limit lowered": "import sys; sys.setrecursionlimit(60)",
    "clock moved": "import time; time.time = lambda: 0",
    "garbage collection off": "import gc; gc.disable()",
    "forged result printed": "print('END RequestId: x\\nREPORT RequestId: x\\tDuration: 0 ms')",
    "memory limit raised": "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))",
}


@pytest.mark.parametrize("damage", list(NEXT_CALL_WORKS))
def test_the_call_and_the_next_are_answered(damage: str) -> None:
    source = (
        f"def handler(event, context):\n    if event:\n        {NEXT_CALL_WORKS[damage]}\n    return ['fine', event]\n"
    )
    with handler_of(source) as handler:
        assert handler.value(1) == ["fine", 1]
        assert handler.value(0, trace_id="Root=2") == ["fine", 0]


@pytest.mark.parametrize("damage", list(NEXT_CALL_WORKS))
def test_an_error_after_the_damage_is_answered(damage: str) -> None:
    source = f"def handler(event, context):\n    {NEXT_CALL_WORKS[damage]}\n    raise ValueError('broken')\n"
    with handler_of(source) as handler:
        answer = handler.call()
        assert answer.kind == wire.RESULT_ERROR
        assert answer.document["errorType"] == "ValueError"


@pytest.mark.parametrize(
    "damage",
    [
        "import os; os.closerange(0, 1024)",
        "import builtins; builtins.len = builtins.isinstance = builtins.type = None; return {}",
        "import threading, os; threading.Thread(target=threading.Event().wait).start(); os.closerange(0, 1024)",
    ],
)
def test_what_the_loop_cannot_survive_ends_the_process(damage: str) -> None:
    with Function({"app.py": f"def handler(event, context):\n    {damage}\n"}) as function:
        handler = function.start().spawn()
        handler.send()
        assert handler.answer() is None
        assert function.runtime.exited() == (0, 1 << 8)


def test_a_forked_child_that_comes_back_does_not_answer() -> None:
    source = """
        import os
        def handler(event, context):
            child = os.fork()
            if child:
                os.waitpid(child, 0)
            return [event, "parent" if child else "child"]
    """
    with handler_of(source) as handler:
        tokens = [handler.send(number) for number in range(5)]
        answers = [handler.answer() for _ in tokens]
        assert [answer and (answer.token, answer.document) for answer in answers] == [
            (token, [number, "parent"]) for number, token in enumerate(tokens)
        ]


@pytest.mark.parametrize("end", ["raise ValueError('child')", "import sys; sys.exit(1)", "raise KeyboardInterrupt"])
def test_a_forked_child_that_fails_does_not_answer(end: str) -> None:
    source = f"""
        import os
        def handler(event, context):
            child = os.fork()
            if not child:
                {end}
            os.waitpid(child, 0)
            return "parent"
    """
    with handler_of(source) as handler:
        assert handler.value() == "parent"
        assert handler.value() == "parent"


def test_a_child_forked_at_import_does_not_answer() -> None:
    source = """
        import os
        child = os.fork()
        if child:
            os.waitpid(child, 0)
        def handler(event, context):
            return bool(child)
    """
    with handler_of(source) as handler:
        assert handler.value() is True


def test_ten_megabytes_in_one_line_come_through() -> None:
    source = "def handler(event, context):\n    print('x' * 10_000_000)\n    print('end')\n"
    with handler_of(source) as handler:
        handler.call()
        assert handler.wait_log("\nend\n") == "x" * 10_000_000 + "\nend\n"


def test_signals_can_be_set_at_import_and_reach_the_main_thread() -> None:
    source = """
        import os, signal, threading
        seen = []
        signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(threading.current_thread().name))
        def handler(event, context):
            os.kill(os.getpid(), signal.SIGUSR1)
            return [seen, signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, signal.getsignal(signal.SIGCHLD) == 0]
    """
    with handler_of(source) as handler:
        assert handler.value() == [["MainThread"], True, True]


def test_asyncio_works_at_import_and_in_the_call() -> None:
    source = """
        import asyncio, warnings
        warnings.simplefilter("ignore")
        loop = asyncio.get_event_loop_policy().new_event_loop()
        asyncio.set_event_loop(loop)
        lock = asyncio.Lock()
        async def work(event):
            async with lock:
                await asyncio.sleep(0)
            return event
        def handler(event, context):
            return asyncio.get_event_loop().run_until_complete(work(event))
    """
    with handler_of(source) as handler:
        assert handler.value(7) == 7
        assert handler.value(8) == 8


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_works(method: str) -> None:
    files = {
        "work.py": "def double(pipe):\n    pipe.send(2 * pipe.recv())\n",
        "app.py": f"""
            import multiprocessing, work
            def handler(event, context):
                processes = multiprocessing.get_context({method!r})
                ours, theirs = processes.Pipe()
                child = processes.Process(target=work.double, args=(theirs,))
                child.start()
                ours.send(event)
                result = ours.recv()
                child.join()
                return [result, child.exitcode]
        """,
    }
    with Function(files) as function:
        assert function.start(env={"HOME": "/tmp"}).spawn().value(21, timeout_s=20) == [42, 0]


def test_subprocesses_inherit_nothing_of_ours() -> None:
    source = """
        import subprocess
        def handler(event, context):
            return subprocess.run(["ls", "/proc/self/fd"], stdout=subprocess.PIPE).stdout.decode().split()
    """
    with handler_of(source) as handler:
        assert handler.value() == ["0", "1", "2", "3"]  # 3 is what `ls` itself reads


def test_threads_left_behind_do_not_hold_the_next_call_up() -> None:
    source = """
        import threading
        def handler(event, context):
            threading.Thread(target=threading.Event().wait, daemon=event).start()
            return "fine"
    """
    with handler_of(source) as handler:
        assert handler.value(True) == "fine"
        assert handler.value(False) == "fine"


@pytest.mark.parametrize(
    "stubborn",
    [
        "while True: pass",
        "while True:\n            try: time.sleep(60)\n            except BaseException: pass",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)",
    ],
)
def test_nothing_survives_the_runtimes_kill(stubborn: str) -> None:
    source = f"""
import signal, time
def handler(event, context):
    if event:
        print("started")
        {stubborn}
    return "fine"
"""
    with Function({"app.py": source}) as function:
        handler = function.start().spawn()
        handler.send(1)
        handler.wait_log("started")
        function.runtime.kill()
        assert function.runtime.exited() == (0, signal.SIGKILL)
        assert function.spawn().value(0) == "fine"


def test_a_killed_slot_leaves_the_other_slots_alone() -> None:
    source = """
        import os, subprocess
        def handler(event, context):
            if event == "start":
                return [os.getpid(), subprocess.Popen(["sleep", "60"], start_new_session=True).pid]
            return os.getpid()
    """
    with Function({"app.py": source}) as function:
        first, second = (function.start().spawn(0), function.spawn(1))
        own = first.value("start")
        others: Any = second.value("start")
        function.runtime.kill(0)
        assert function.runtime.exited() == (0, signal.SIGKILL)
        assert not any(alive(pid) for pid in own)
        assert all(alive(pid) for pid in others)
        assert second.value() == others[0]
        function.runtime.kill(1)
        assert function.runtime.exited() == (1, signal.SIGKILL)


def test_a_kill_of_an_empty_slot_is_nothing() -> None:
    with Function({"app.py": "def handler(event, context):\n    return 1\n"}) as function:
        function.start()
        function.runtime.kill(3)
        assert function.spawn().value() == 1


def test_everything_ends_when_the_runtime_goes_away() -> None:
    source = "import os\ndef handler(event, context):\n    return [os.getpid(), os.getppid()]\n"
    with Function({"app.py": source}) as function:
        pids = function.start().spawn().value()
        function.runtime.close()
        wait_gone(pids)
