"""Chaos as a part of `make test`: a few seeds, each with another kind of faults. `make chaos` runs many."""

import asyncio
from pathlib import Path

import pytest

from chaos.plan import INSTANCES, PAUSES, PROCESSES, REDIS, STORE, WIRES, make_plan
from chaos.run import run_seed

EVENTS = 300


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("seed", "families"), [(1, (INSTANCES, PAUSES)), (2, (INSTANCES, PROCESSES, REDIS)), (3, (INSTANCES, WIRES, STORE))]
)
def test_nothing_accepted_is_lost_and_no_call_runs_twice_whatever_dies(
    seed: int, families: tuple[str, ...], tmp_path: Path
) -> None:
    outcome = asyncio.run(run_seed(make_plan(seed, EVENTS, families), logs=tmp_path))
    assert outcome.ok, "\n".join([outcome.line, *outcome.verdict.violations, *outcome.timeline])
    assert outcome.verdict.accepted > EVENTS / 4, "there was a load to be hurt"


def test_the_same_seed_makes_the_same_plan() -> None:
    assert make_plan(7, 100) == make_plan(7, 100)
    assert make_plan(7, 100) != make_plan(8, 100)
