"""The benchmarks of what happens to accepted events: after a death, and while they wait for their time."""

import json
import os
import signal
import time
from typing import Any

from benchmarks.figures import Figure, judge
from benchmarks.posting import post
from benchmarks.stage import Stage, wait_until

DEATHS = 5
EVENTS_A_DEATH = 8
LEASE_MS = 30_000
RECOVERY_MARGIN_MS = 500
WAITING = 100_000
PROBES = 200
PROBE_DELAY_S = 10
EVENT = "X-Amz-Invocation-Type: Event"
_ENDED = ("succeeded", "failed", "cancelled")

# What it returns is the moment at which the run that succeeded began.
_STARTED_AT = (
    "import time\ndef handler(event, context):\n    now = time.time()\n    time.sleep({sleep_s})\n    return now\n"
)


def recovery_delay(stage: Stage) -> list[Figure]:
    """After the kill -9 of an instance, how long its events waited for their next start, the worst of all.

    They are given to another instance of the function, behind what it has itself; the bound is a lease and half a
    second.
    """
    name = "recovering"
    path = f"/2015-03-31/functions/{name}/invocations"
    stage.deploy(name, _STARTED_AT.format(sleep_s=0.5), {"min_instances": 2, "max_instances": 3})
    worst_ms: list[float] = []
    for _ in range(3 * DEATHS):
        if len(worst_ms) == DEATHS:
            break
        # Instances that die again and again are started later and later.
        wait_until(lambda: len(stage.runtimes(name)) >= 2, 90, "starting two instances")
        ids = post(stage.port, path, EVENTS_A_DEATH, EVENT)
        wait_until(lambda: stage.status(name)["in_flight"] >= 2, 30, "running events")
        killed_at = time.time()
        os.kill(next(iter(stage.runtimes(name))), signal.SIGKILL)
        ended = [_ended(stage, one) for one in ids]
        delays_ms = [(each["result"] - killed_at) * 1000 for each in ended if each["attempts"] > 1]
        # The one that was killed may have had none.
        worst_ms += [max(delays_ms)] if delays_ms else []
    return [judge("recovery_delay", [max(worst_ms)], "ms", f"<= {LEASE_MS + RECOVERY_MARGIN_MS}")]


def delayed_100k(stage: Stage) -> list[Figure]:
    """How late events start that were sent for later, while 100,000 others wait for a time that is further away."""
    name = "delayed"
    path = f"/2015-03-31/functions/{name}/invocations"
    stage.deploy(name, _STARTED_AT.format(sleep_s=0), {"min_instances": 1})
    wait_until(lambda: bool(stage.runtimes(name)), 60, "starting an instance")
    # With the probes they are as many as a function's queue takes.
    post(stage.port, path, WAITING - PROBES, EVENT, "X-Forebay-Delay: 86400")
    due = {}
    for _ in range(PROBES):
        due_at = time.time() + PROBE_DELAY_S
        due[post(stage.port, path, 1, EVENT, f"X-Forebay-Delay: {PROBE_DELAY_S}")[0]] = due_at
    late_ms = sorted((_ended(stage, found)["result"] - due_at) * 1000 for found, due_at in due.items())
    stage.call("DELETE", f"/v1/functions/{name}")
    return [
        judge("delayed_100k_worst", [late_ms[-1]], "ms late", "<= 1000"),
        judge("delayed_100k_p50", late_ms, "ms late", ""),
    ]


def _ended(stage: Stage, found: str) -> dict[str, Any]:
    """What became of an event, waited for. Raises RuntimeError unless it succeeded."""
    give_up_s = time.monotonic() + 90
    while time.monotonic() < give_up_s:
        status, body = stage.call("GET", f"/v1/invocations/{found}?wait=30")
        document: dict[str, Any] = json.loads(body)
        if status != 200 or document["status"] in _ENDED:
            break
    if status != 200 or document["status"] != "succeeded":
        raise RuntimeError(f"event {found}: {status} {body!r}")
    return document
