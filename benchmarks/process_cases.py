"""The benchmarks of processes that come and go."""

import subprocess
import sys
import time

from benchmarks.figures import Figure, judge
from benchmarks.stage import Stage

DEATHS = 15

_DIES = """
import os
def handler(event, context):
    if event.get("die"):
        os._exit(1)
    return None
"""


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
