"""Parts of this release and of the one before it work together, in any order in which an upgrade replaces them.

Under load nothing is lost, runs twice, is out of order, or goes unanswered; the ledger is outside the platform.
"""

import asyncio
import base64
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from chaos import functions, queues
from chaos.case import Evidence, Verdict
from chaos.executions import Executions
from chaos.load import Load
from chaos.plan import FUNCTIONS, make_plan
from chaos.results import results
from chaos.starvation import Starvation
from chaos.verdict import judge
from support.waiting import wait_until_async
from upgrade.previous import previous_python
from upgrade.rig import CONTROLLER, GATEWAYS, MixedRig

EVENTS = 500
STEP_S = 2.0
"""Between two replacements, so that each mixture has work."""
QUIET_MAX_S = 100.0


@pytest.fixture(scope="session")
def previous(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of the release before."""
    return previous_python(tmp_path_factory.mktemp("previous"))


@pytest.mark.timeout(400)
@pytest.mark.parametrize("order", [(*GATEWAYS, CONTROLLER), (CONTROLLER, *GATEWAYS)], ids=["gateways", "controller"])
@pytest.mark.parametrize("way", ["upgrade", "rollback"])
async def test_a_rolling_upgrade_and_its_rollback_lose_nothing_whichever_part_goes_first(
    way: str, order: Sequence[str], previous: str, tmp_path: Path
) -> None:
    before, after = (previous, sys.executable) if way == "upgrade" else (sys.executable, previous)
    async with MixedRig(tmp_path) as rig:
        for name in (CONTROLLER, *GATEWAYS):
            await rig.put(name, before)
        with Executions() as executions:
            await _create_functions(rig, executions.address)
            load, starvation = Load(rig.entrances), Starvation()
            watching = asyncio.create_task(rig.watch(starvation))
            async with asyncio.TaskGroup() as group:
                group.create_task(load.run(make_plan(1, EVENTS).calls))
                group.create_task(_replace(rig, order, after))
            watching.cancel()
            verdict = await _verdict(rig, executions, load, starvation)
        assert set(rig.releases.values()) == {after}
    assert not verdict.violations, "\n".join(verdict.violations)
    assert verdict.lost == verdict.duplicates == verdict.unknown == 0
    assert verdict.accepted > EVENTS / 2
    assert verdict.sync_answered == verdict.sync


async def _create_functions(rig: MixedRig, ledger: str) -> None:
    code = base64.b64encode(functions.package_of_all()).decode()
    for function in FUNCTIONS:
        await rig.api("PUT", f"/v1/functions/{function.name}", functions.settings(function, ledger, code))


async def _replace(rig: MixedRig, order: Sequence[str], python: str) -> None:
    for name in order:
        await asyncio.sleep(STEP_S)
        await rig.put(name, python)


async def _verdict(rig: MixedRig, executions: Executions, load: Load, starvation: Starvation) -> Verdict:
    redis = rig.redis()
    found = await queues.function_queues(redis)

    async def done() -> bool:
        return not await queues.unfinished(redis, found)

    await wait_until_async(done, "all work is done", QUIET_MAX_S, 0.1)
    idents = {call.invocation_id.replace("-", ""): call.plan.ident for call in load.calls}
    evidence = Evidence(
        calls=load.calls,
        entries=executions.entries(),
        dead=await queues.dead_letters(redis, found, idents),
        hits=rig.hits,
        starvation=starvation,
        results=await results(rig.urls[0], {call.invocation_id for call in load.calls if call.accepted}),
    )
    verdict = judge(evidence)
    verdict.violations += await queues.leaks(redis, found)
    await redis.aclose()
    return verdict
