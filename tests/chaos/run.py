"""One seed from start to end: platform, load and faults, then the reckoning."""

import asyncio
import base64
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from support.waiting import wait_until_async

from . import functions, plan, queues, starvation
from .case import Evidence, Verdict
from .executions import Executions
from .faults import Faults, Hit, timeline
from .load import Load
from .parts import Process
from .plan import FUNCTIONS, Plan
from .results import results
from .rig import Rig
from .starvation import Starvation
from .verdict import judge

QUIET_MAX_S = 100.0
"""Until all work is done after the last fault: leases (30 s), heartbeats (15 s), retries, and the work itself."""
LEAVE_MAX_S = 20.0
WATCH_S = 0.25


@dataclass(slots=True)
class Outcome:
    """What a seed came to; `line` is its one line."""

    plan: Plan
    verdict: Verdict = field(default_factory=Verdict)
    timeline: list[str] = field(default_factory=list)
    line: str = ""
    faults: int = 0
    fsync_delayed: int = 0
    took_s: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every promise was kept."""
        return not self.verdict.violations


class Watch:
    """Looks on: remembers processes, who had no CPU, and how often Valkey's fsync was delayed."""

    def __init__(self, rig: Rig) -> None:
        self.starvation = Starvation()
        self.fsync_delayed = 0
        self._rig = rig
        self._seen = 0

    async def run(self) -> None:
        """Look on for ever."""
        redis = self._rig.connect()
        try:
            while True:
                self._look(self._rig.tree.look())
                self._note(await _delayed_fsyncs(redis))
                await asyncio.sleep(WATCH_S)
        finally:
            await redis.aclose()

    def _look(self, processes: Sequence[Process]) -> None:
        parts = [(os.getpid(), starvation.CALLERS)]
        for process in processes:
            if process.part == plan.GATEWAY:
                parts.append((process.pid, self._rig.urls[self._rig.is_second(process.pid)]))
            else:
                parts.append((process.pid, process.instance or process.part))
        self.starvation.look(time.monotonic(), parts)

    def _note(self, count: int | None) -> None:
        if count is not None:
            # A server that was started again counts from 0.
            self.fsync_delayed += max(0, count - self._seen) if count >= self._seen else count
            self._seen = count


async def _delayed_fsyncs(redis: Redis) -> int | None:
    with suppress(RedisError, TimeoutError):
        async with asyncio.timeout(1.0):
            return int((await redis.info("persistence")).get("aof_delayed_fsync", 0))
    return None


async def run_seed(wanted: Plan, *, python: str | None = None, logs: Path | None = None) -> Outcome:
    """Run one seed; `logs` is where a failing one leaves what its parts wrote."""
    outcome = Outcome(wanted)
    began_s = time.monotonic()
    rig = Rig(wanted) if python is None else Rig(wanted, python)
    try:
        with Executions() as executions:
            await rig.start()
            await _run(rig, executions, outcome)
        if not outcome.ok and logs is not None:
            rig.keep_logs(logs)
    finally:
        await rig.close()
    outcome.took_s = time.monotonic() - began_s
    outcome.line = _line(outcome)
    return outcome


async def _run(rig: Rig, executions: Executions, outcome: Outcome) -> None:
    await _create_functions(rig, executions.address)
    redis = rig.connect()
    watch = Watch(rig)
    watching = asyncio.create_task(watch.run())
    load, faults = Load(rig.urls), Faults(rig, executions.busy)
    began_s = time.monotonic()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run(outcome.plan.calls))
            group.create_task(faults.run(outcome.plan.faults))
        outcome.timeline = timeline(faults.hits, began_s)
        outcome.faults = len(faults.hits)
        try:
            await rig.ready()
        except AssertionError as error:
            outcome.verdict.wrong(f"it does not serve again: {error}")
            return
        stuck = await _quiet(redis)
        outcome.fsync_delayed = watch.fsync_delayed
        idents = {call.invocation_id.replace("-", ""): call.plan.ident for call in load.calls}
        found = await queues.function_queues(redis)
        outcome.verdict = judge(
            Evidence(
                calls=load.calls,
                entries=executions.entries(),
                dead=await queues.dead_letters(redis, found, idents),
                hits=faults.hits,
                results=await results(rig.urls[0], {call.invocation_id for call in load.calls if call.accepted}),
                starvation=watch.starvation,
                loss_allowed=_loss_allowed(outcome.plan, faults.hits, watch.fsync_delayed),
            )
        )
        outcome.verdict.violations += [
            f"not done after {QUIET_MAX_S:.0f} s: {name}: {left}" for name, left in stuck.items()
        ]
        await _left_over(rig, redis, outcome.verdict)
    finally:
        watching.cancel()
        await asyncio.wait({watching})
        await redis.aclose()
    code = await rig.stop()
    if code != 0:
        outcome.verdict.wrong(f"`forebay up` ended with exit code {code}")
    await _gone(rig, outcome.verdict)


def _loss_allowed(planned: Plan, hits: Sequence[Hit], fsync_delayed: int) -> bool:
    """Whether Redis was killed while what it had accepted may not have been on its disk."""
    killed = any(hit.part == plan.VALKEY and hit.how == plan.KILL for hit in hits)
    behind = fsync_delayed > 0 or any(hit.how == plan.FULL_DISK for hit in hits)
    return planned.fsync == plan.EVERYSEC and killed and behind


async def _create_functions(rig: Rig, ledger: str) -> None:
    zip_base64 = base64.b64encode(functions.package_of_all()).decode()
    for function in FUNCTIONS:
        body: Any = functions.settings(function, ledger, zip_base64)
        await asyncio.to_thread(rig.platform.api, "PUT", f"/v1/functions/{function.name}", body)


async def _quiet(redis: Redis) -> dict[str, str]:
    """Wait until nothing is queued, running or delayed; what is left when that does not come."""
    found = await queues.function_queues(redis)

    async def done() -> bool:
        return not await queues.unfinished(redis, found)

    with suppress(AssertionError):
        await wait_until_async(done, "all work is done", QUIET_MAX_S, 0.1)
    return await queues.unfinished(redis, found)


async def _left_over(rig: Rig, redis: Redis, verdict: Verdict) -> None:
    """No key is left: neither now nor, of functions, once they are deleted."""
    verdict.violations += await queues.leaks(redis, await queues.function_queues(redis))
    for function in FUNCTIONS:
        await asyncio.to_thread(rig.platform.api, "DELETE", f"/v1/functions/{function.name}")

    async def gone() -> bool:
        return not await queues.left_of_functions(redis)

    with suppress(AssertionError):
        await wait_until_async(gone, "functions' keys are gone", LEAVE_MAX_S, 0.1)
    verdict.violations += [f"{key} is left of a deleted function" for key in await queues.left_of_functions(redis)]


async def _gone(rig: Rig, verdict: Verdict) -> None:
    """No process is left."""

    async def none() -> bool:
        return not rig.tree.left_over()

    with suppress(AssertionError):
        await wait_until_async(none, "every process is gone", LEAVE_MAX_S, 0.1)
    verdict.violations += [f"process {process} is left" for process in rig.tree.left_over()]
    if rig.run_dir.exists():
        verdict.wrong(f"{rig.run_dir} is left")


def _line(outcome: Outcome) -> str:
    verdict, planned = outcome.verdict, outcome.plan
    store = f"{'embedded ' if planned.embedded else ''}{planned.fsync}"
    return (
        f"seed {planned.seed:<5} {'ok    ' if outcome.ok else 'FAILED'} {outcome.took_s:5.1f} s  "
        f"events {verdict.accepted} accepted, {verdict.finished} done, {verdict.dead} failed, "
        f"{verdict.cancelled} cancelled, {verdict.lost} lost, {verdict.unknown} unknown; "
        f"duplicates {verdict.duplicates}, explained {verdict.explained}; repeats {verdict.repeated}; "
        f"told {verdict.told}; "
        f"sync {verdict.sync}, answered {verdict.sync_answered}; faults {outcome.faults} "
        f"({'+'.join(planned.families)}, {store})"
    )
