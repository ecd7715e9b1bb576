"""The benchmark of a runtime's start: from its process to its first reply."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.figures import Figure, judge, rotated_rounds, spread
from benchmarks.stage import Stage, command_of, wait_until
from forebay_common.keys import RECORD_FIELD, PlatformKeys
from forebay_common.record import KIND_SYNC, Invocation

STARTS = 11
HANDLERS_AHEAD_S = 0.2
"""Long enough for the handlers' program to be up; it then tries to reach the runtime each few milliseconds."""
ONE_INSTANCE = {"min_instances": 1, "max_instances": 1}
UP = 'def handler(event, context):\n    return "up"\n'


def bare_python_s() -> float:
    """How long `python -c pass` takes, from its start to its end."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - started


def runtime_start(stage: Stage) -> list[Figure]:
    """From a runtime's start to its first reply, over `python -c pass`.

    It is started with the command and the settings with which the controller starts one, again and again while the
    controller is paused. The call waits in the queue, the function's code is on the disk, and the handlers' program
    is up and waits for the runtime, as in a pod whose other container was first. The figure so has in it what the
    runtime needs of that program: a fork and the import of the function.
    """
    name = "started"
    stage.deploy(name, UP, ONE_INSTANCE)
    stage.invoke(name)
    runtime, settings = next(iter(stage.runtimes(name).items()))
    starter = _Starter(stage, name, runtime, settings)
    with stage.paused_controller():
        os.kill(runtime, signal.SIGTERM)
        wait_until(lambda: not _works(runtime), 30, "ending the platform's own instance")
        results = rotated_rounds(STARTS, {"bare": bare_python_s, "runtime": starter.first_reply_s})
    stage.call("DELETE", f"/v1/functions/{name}")
    ratios = [ours / floor for ours, floor in zip(results["runtime"], results["bare"], strict=True)]
    return [judge("runtime_start", ratios, "x python -c pass", "<= 2", floor_spread=spread(results["bare"]))]


class _Starter:
    """Starts instances of a function like one that the controller started."""

    def __init__(self, stage: Stage, name: str, runtime: int, settings: Path) -> None:
        self._redis = stage.redis
        self._queue = stage.queue(name)
        self._reply = f"reply:bench-{secrets.token_hex(4)}"
        self._template = settings.parent
        self._copy = stage.folder / "instance"
        shutil.copytree(self._template, self._copy, ignore=shutil.ignore_patterns("tmp", "control.sock"))
        self._runtime = [os.fsdecode(word) for word in command_of(runtime).split(b"\0") if word]
        variables = Path(f"/proc/{runtime}/environ").read_bytes().split(b"\0")
        pairs = dict(os.fsdecode(found).split("=", 1) for found in variables if found)
        # The benchmark ends it; the platform's supervisor is not its parent.
        self._environment = {name: value for name, value in pairs.items() if name not in _OF_THE_SUPERVISOR}
        self._sandbox = [os.fsdecode(word) for word in command_of(_sandbox_of(stage, settings)).split(b"\0") if word]

    def first_reply_s(self) -> float:
        """Seconds from the start of a runtime to its reply to the call that waits."""
        folder = self._prepare()
        handlers = self._spawn(self._sandbox, folder)
        time.sleep(HANDLERS_AHEAD_S)
        record = Invocation(
            kind=KIND_SYNC,
            invocation_id=secrets.token_bytes(16),
            wait_ms=30_000,
            timeout_ms=3_000,
            payload=b"{}",
            reply_token=secrets.token_bytes(16),
            reply_address=self._reply,
        )
        self._redis.xadd(self._queue.sync, {RECORD_FIELD: record.encode()})
        started = time.perf_counter()
        runtime = self._spawn(self._runtime, folder)
        reply = self._redis.blpop([f"{PlatformKeys().prefix}:{self._reply}"], timeout=20)
        took_s = time.perf_counter() - started
        for process in (runtime, handlers):
            process.terminate()
            process.wait(30)
        if reply is None:
            raise RuntimeError("the runtime gave no reply")
        return took_s

    def _prepare(self) -> Path:
        """A folder for one more instance, under an id of its own."""
        ident = secrets.token_hex(6)
        folder = self._copy.with_name(ident)
        shutil.copytree(self._copy, folder)
        (folder / "tmp").mkdir()
        (folder / "tmp").chmod(0o1777)
        for path in (folder / "settings.json", folder / "sandbox.json"):
            text = path.read_text().replace(str(self._template), str(folder)).replace(self._template.name, ident)
            # The benchmark ends it; the platform's supervisor is not its parent.
            own = {"supervisor_pid": 0} if path.name == "sandbox.json" else {}
            path.write_text(json.dumps({**json.loads(text), **own}))
        return folder

    def _spawn(self, command: list[str], folder: Path) -> subprocess.Popen[bytes]:
        own = [word.replace(str(self._template), str(folder)) for word in command]
        with (folder / "bench.err").open("ab") as errors:
            return subprocess.Popen(
                own, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, env=self._environment
            )


_OF_THE_SUPERVISOR = ("FOREBAY_SUPERVISOR_PID", "FOREBAY_INSTANCE_RECORD")


def _sandbox_of(stage: Stage, settings: Path) -> int:
    """Pid of the program that an instance's handlers run under."""
    wanted = os.fsencode(settings.with_name("sandbox.json"))
    return next(pid for pid in stage.platform.pids() if wanted in command_of(pid).split(b"\0"))


def _works(pid: int) -> bool:
    """Whether a process is there and no zombie, which its paused parent cannot bury."""
    return bool(command_of(pid))
