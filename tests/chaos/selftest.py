"""`python -m tests.chaos selftest`: every deliberate mistake is caught within ten seeds, and what is whole is not."""

import asyncio
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from .breakages import BREAKAGES, ROOT, Breakage, BrokenCopy
from .plan import make_plan
from .run import run_seed

SEEDS_MAX = 10
EVENTS = 400
MODEL = "tests/integration/test_queue_model.py"
MODEL_MAX_S = 300


def selftest(say: Callable[[str], None], only: str | None = None) -> bool:
    """Break the product in each way (or in the one named); whether all was as it must be."""
    wanted = [breakage for breakage in BREAKAGES if only in {None, breakage.name}]
    right = True
    if only is None:
        with tempfile.TemporaryDirectory(prefix="fbb-", dir="/tmp") as folder:
            complaint = _complaint(BrokenCopy(Path(folder), ()), Breakage("nothing", ()), 1)
            say(f"nothing broken: {complaint or 'nothing found, as it must be'}")
            right = complaint == ""
    for breakage in wanted:
        with tempfile.TemporaryDirectory(prefix="fbb-", dir="/tmp") as folder:
            right = _catch(BrokenCopy(Path(folder), breakage.changes), breakage, say) and right
    return right


def _catch(copy: BrokenCopy, breakage: Breakage, say: Callable[[str], None]) -> bool:
    for seed in range(1, SEEDS_MAX + 1):
        complaint = _complaint(copy, breakage, seed)
        if complaint:
            say(f"{breakage.name}: caught at seed {seed}: {complaint}")
            return True
    say(f"{breakage.name}: NOT CAUGHT within {SEEDS_MAX} seeds")
    return False


def _complaint(copy: BrokenCopy, breakage: Breakage, seed: int) -> str:
    """What a seed finds wrong, "" for nothing."""
    if breakage.by_model:
        return _model_complaint(copy, seed)
    outcome = asyncio.run(run_seed(make_plan(seed, EVENTS, breakage.families), python=copy.python))
    return outcome.verdict.violations[0] if outcome.verdict.violations else ""


def _model_complaint(copy: BrokenCopy, seed: int) -> str:
    with tempfile.TemporaryDirectory(prefix="fbb-") as storage:
        command = [
            copy.python,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            f"--hypothesis-seed={seed}",
            MODEL,
        ]
        environment = {**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": storage}
        found = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=MODEL_MAX_S, check=False
        )
    if found.returncode == 0:
        return ""
    # 1: a test failed; anything else says nothing about the product.
    assert found.returncode == 1, found.stdout + found.stderr
    errors = [line for line in found.stdout.splitlines() if line.startswith("E  ")]
    return errors[0].removeprefix("E").strip() if errors else "the model's test failed"
