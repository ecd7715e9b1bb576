"""The benchmarks of processes: one that comes back, and one that holds many callers."""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.figures import Figure, judge
from benchmarks.stage import Stage, wait_until

DEATHS = 15
CALLERS = 10_000
FUNCTIONS = 11
"""A function's own queue holds a thousand callers."""

_DIES = """
import os
def handler(event, context):
    if event.get("die"):
        os._exit(1)
    return None
"""

_WAITING = "forebay_gateway_waiting_callers "
_HOLDS = "import time\ndef handler(event, context):\n    time.sleep(100)\n"


def handler_replace(stage: Stage) -> list[Figure]:
    """From the death of a handler process to the answer of the next call, over a `python -c pass` of that moment."""
    name = "dying"
    stage.deploy(name, _DIES, {"min_instances": 1, "max_instances": 1})
    stage.invoke(name)
    ratios = []
    for _ in range(DEATHS):
        stage.invoke(name, b'{"die": true}')
        began = time.perf_counter()
        stage.invoke(name)
        took = time.perf_counter() - began
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        ratios.append(took / (time.perf_counter() - began))
    stage.call("DELETE", f"/v1/functions/{name}")
    return [judge("handler_replace", ratios, "x python -c pass", "<= 0.5")]


def waiting_callers(stage: Stage) -> list[Figure]:
    """How many callers one gateway process holds at once, and the memory that it takes for each of them."""
    names = [f"hold-{number}" for number in range(FUNCTIONS)]
    for name in names:
        stage.deploy(name, _HOLDS, {"max_instances": 1}, timeout_s=120)
    gateway = stage.part("forebay_gateway")
    before = _resident_bytes(gateway)
    paths = [f"/2015-03-31/functions/{name}/invocations" for name in names]
    command = [sys.executable, "-m", "benchmarks.hold", str(stage.port), str(CALLERS), *paths]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holding:
        assert holding.stdin is not None
        assert holding.stdout is not None
        holding.stdout.readline()
        # If not all of them are, the figure tells.
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: _held(stage) >= CALLERS, 20, "taking all callers")
        held = _held(stage)
        took = _resident_bytes(gateway) - before
        holding.stdin.close()
    wait_until(lambda: _held(stage) == 0, 60, "letting go of them")
    for name in names:
        stage.call("DELETE", f"/v1/functions/{name}")
    return [
        judge("waiting_callers", [held], "callers", f">= {CALLERS}", timed=False),
        judge("waiting_bytes", [took / max(held, 1)], "bytes each", "<= 20000", timed=False),
    ]


def _held(stage: Stage) -> float:
    text = stage.call("GET", "/metrics")[1].decode()
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(_WAITING))


def _resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} is gone")
