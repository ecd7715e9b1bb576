"""`python -m tests.chaos [--seeds N | --seed N] [--events N]`, `python -m tests.chaos selftest`: the suite by hand."""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from .breakages import BREAKAGES
from .plan import FAMILIES, make_plan
from .run import Outcome, run_seed
from .selftest import selftest

FIRST_SEED = 1


def main() -> int:
    """Run what the command line says; 0 when every promise was kept, 1 when one was not."""
    # Whoever ends it ends the platforms with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = _options()
    if options.command == "selftest":
        return int(not selftest(say, options.only))
    seeds = [options.seed] if options.seed is not None else range(options.first, options.first + options.seeds)
    outcomes = []
    for seed in seeds:
        wanted = make_plan(seed, options.events, tuple(options.families))
        logs = None if options.logs is None else options.logs / str(seed)
        outcome = asyncio.run(run_seed(wanted, logs=logs))
        outcomes.append(outcome)
        say(outcome.line)
        if not outcome.ok:
            say(report(outcome, options))
    say(summary(outcomes))
    return int(not all(outcome.ok for outcome in outcomes))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Faults by seed, and what came of them.")
    parser.add_argument("command", nargs="?", choices=("run", "selftest"), default="run")
    parser.add_argument("--only", choices=[breakage.name for breakage in BREAKAGES], help="selftest: one mistake alone")
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds")
    parser.add_argument("--first", type=int, default=FIRST_SEED, help="the first of them")
    parser.add_argument("--seed", type=int, help="one seed alone")
    parser.add_argument("--events", type=int, default=2000, help="calls of each seed, async and sync")
    parser.add_argument(
        "--families", nargs="*", choices=FAMILIES, default=[], help="faults (default: the seed chooses)"
    )
    parser.add_argument("--logs", type=Path, help="a folder for the logs of seeds that fail")
    return parser.parse_args()


def say(text: str) -> None:
    """Show lines at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def report(outcome: Outcome, options: argparse.Namespace) -> str:
    """What a failing seed says: how to see it again, what is wrong, what was done."""
    families = f" --families {' '.join(options.families)}" if options.families else ""
    replay = f"  again: python -m tests.chaos --seed {outcome.plan.seed} --events {len(outcome.plan.calls)}{families}"
    wrong = [f"  wrong: {violation}" for violation in outcome.verdict.violations[:30]]
    return "\n".join([replay, *wrong, *(f"  {line}" for line in outcome.timeline)])


def summary(outcomes: list[Outcome]) -> str:
    """All seeds together."""
    verdicts = [outcome.verdict for outcome in outcomes]
    failed = [str(outcome.plan.seed) for outcome in outcomes if not outcome.ok]
    return (
        f"{len(outcomes)} seeds: {sum(v.accepted for v in verdicts)} events accepted, "
        f"{sum(v.finished for v in verdicts)} done, {sum(v.dead for v in verdicts)} failed, "
        f"{sum(v.cancelled for v in verdicts)} cancelled, {sum(v.lost for v in verdicts)} lost; "
        f"{sum(v.repeated for v in verdicts)} repeats; {sum(v.duplicates for v in verdicts)} duplicates, "
        f"{sum(v.explained for v in verdicts)} explained; {sum(v.sync for v in verdicts)} sync calls; "
        f"{sum(outcome.faults for outcome in outcomes)} faults; "
        f"{'failed: ' + ', '.join(failed) if failed else 'all ok'}"
    )


sys.exit(main())
