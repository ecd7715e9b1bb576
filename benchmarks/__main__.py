"""`python -m benchmarks [NAME …] [--json FILE]`: run the benchmarks and print a table.

`python -m benchmarks peers` and `… connections` are runs of their own, with tables of their own.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import connections, peers
from benchmarks.cases import CASES
from benchmarks.cluster_cases import CLUSTER_CASES
from benchmarks.cluster_stage import open_cluster_stage
from benchmarks.figures import MISSED, Figure
from benchmarks.stage import open_stage

MODES = {"connections": connections.main, "peers": peers.main}
"""Runs that are no benchmark with a target; each is given the words after its name."""


def main() -> int:
    """Run the named benchmarks, or all that need no cluster; 1 when a target is missed."""
    if len(sys.argv) > 1 and sys.argv[1] in MODES:
        return MODES[sys.argv[1]](sys.argv[2:])
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Each figure is a ratio in one run.",
        epilog=f"Runs with tables of their own, each with its --help: {', '.join(MODES)}.",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"one of: {', '.join(CASES)} (default: all of these); on the cluster of KUBECONFIG with the chart "
        f"installed: {', '.join(CLUSTER_CASES)}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as a JSON list")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in CASES and name not in CLUSTER_CASES]
    if unknown:
        known = ", ".join([*CASES, *CLUSTER_CASES])
        parser.error(f"there is no benchmark {unknown[0]!r}; there are: {known}")
    names = arguments.names or list(CASES)
    figures = []
    if here := [name for name in names if name in CASES]:
        print("starting hello, naive and the platform …", file=sys.stderr)
        with open_stage() as stage:
            figures += [figure for name in here for figure in _run(name, partial(CASES[name], stage))]
    if there := [name for name in names if name in CLUSTER_CASES]:
        with open_cluster_stage() as cluster:
            figures += [figure for name in there for figure in _run(name, partial(CLUSTER_CASES[name], cluster))]
    if arguments.json:
        arguments.json.write_text(json.dumps([figure.as_json() for figure in figures], indent=2) + "\n")
    return int(any(figure.verdict == MISSED for figure in figures))


def _run(name: str, case: Callable[[], list[Figure]]) -> list[Figure]:
    """Run a benchmark and print its figures."""
    started = time.monotonic()
    found = case()
    for figure in found:
        print(
            f"{figure.name:24}{figure.value:>10.3f} {figure.unit:<20}"
            f"{figure.target or '-':>10}   ±{figure.spread:<7.0%}{figure.verdict}"
        )
    print(f"  {name} took {time.monotonic() - started:.1f} s", file=sys.stderr)
    return found


if __name__ == "__main__":
    sys.exit(main())
