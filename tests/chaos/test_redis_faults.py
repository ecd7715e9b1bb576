"""What Redis itself can suffer, each alone: the whole platform under load, and the ledger outside it."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from chaos.plan import (
    ALWAYS,
    EVERYSEC,
    FULL_DISK,
    FULL_MEMORY,
    PAUSE,
    READ_ONLY,
    STORE,
    VALKEY,
    Fault,
    Plan,
    make_plan,
)
from chaos.run import Outcome, run_seed
from forebay_common.limits import LEASE_MS

EVENTS = 250


def planned(fsync: str, *faults: Fault) -> Plan:
    """A load, and these faults alone."""
    return replace(make_plan(11, EVENTS, (STORE,)), fsync=fsync, faults=faults)


def run(plan: Plan, logs: Path) -> Outcome:
    outcome = asyncio.run(run_seed(plan, logs=logs))
    assert outcome.ok, "\n".join([outcome.line, *outcome.verdict.violations, *outcome.timeline])
    return outcome


@pytest.mark.timeout(240)
@pytest.mark.parametrize("fsync", [EVERYSEC, ALWAYS])
def test_a_redis_whose_disk_or_memory_is_full_or_that_takes_no_writes_loses_nothing(fsync: str, tmp_path: Path) -> None:
    faults = [
        Fault(at_s, how, VALKEY, for_s=1.5, pick=0.0, amount=0.5)
        for at_s, how in ((2.0, FULL_DISK), (5.0, FULL_MEMORY), (8.0, READ_ONLY))
    ]
    outcome = run(planned(fsync, *faults), tmp_path)
    assert outcome.faults == len(faults)
    assert outcome.verdict.unknown, "there were callers who were told that nothing is accepted"
    assert outcome.verdict.accepted > EVENTS / 8


@pytest.mark.timeout(300)
def test_what_runs_while_redis_is_away_for_longer_than_a_lease_runs_once(tmp_path: Path) -> None:
    # Every lease and heartbeat is over when it is back, and every instance lives.
    away = Fault(3.0, PAUSE, VALKEY, for_s=LEASE_MS / 1000 + 5, pick=0.0, amount=0.5)
    outcome = run(planned(EVERYSEC, away), tmp_path)
    assert outcome.verdict.duplicates == 0
    assert outcome.verdict.accepted > EVENTS / 8
