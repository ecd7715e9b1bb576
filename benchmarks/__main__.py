"""`python -m benchmarks [NAME …] [--json FILE]`: run the benchmarks and print a table."""

import argparse
import json
import sys
import time
from pathlib import Path

from benchmarks.cases import CASES
from benchmarks.figures import MISSED
from benchmarks.stage import open_stage


def main() -> int:
    """Run the named benchmarks, or all; 1 when a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Each figure is a ratio in one run.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of: {', '.join(CASES)} (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as a JSON list")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in CASES]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are: {', '.join(CASES)}")
    figures = []
    print("starting hello, naive and the platform …", file=sys.stderr)
    with open_stage() as stage:
        for name in arguments.names or CASES:
            started = time.monotonic()
            found = CASES[name](stage)
            figures += found
            for figure in found:
                print(
                    f"{figure.name:24}{figure.value:>10.3f} {figure.unit:<20}"
                    f"{figure.target or '-':>10}   ±{figure.spread:<7.0%}{figure.verdict}"
                )
            print(f"  {name} took {time.monotonic() - started:.1f} s", file=sys.stderr)
    if arguments.json:
        arguments.json.write_text(json.dumps([figure.as_json() for figure in figures], indent=2) + "\n")
    return int(any(figure.verdict == MISSED for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
