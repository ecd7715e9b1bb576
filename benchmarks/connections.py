"""`python -m benchmarks connections [--json FILE]`: an echo against how many connections, or callers, ask at once.

Requests a second, p50 and p99 of Forebay, naive, hello and the peers of `peers.py`.
`python -m benchmarks.plot FILE OUT.svg` draws the file.
"""

import argparse
import contextlib
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from benchmarks.cases import ECHO_PATH
from benchmarks.figures import rotated_rounds
from benchmarks.peers import started_peers
from benchmarks.stage import Stage, load, open_stage

CONNECTIONS = (1, 4, 16, 64, 256, 960)
"""The last is just below what may wait for one function, 1,000 calls: beyond it the next one is answered 429."""
PEER_CALLERS_MAX = 256
"""Above that most peers' clients take more than a round to begin."""
ROUNDS = 3
ROUND_S = 2


@dataclass(frozen=True, slots=True)
class Point:
    """A contender at so many connections, medians of the rounds; `ratio` is of requests a second over hello's."""

    contender: str
    connections: int
    per_second: float
    ratio: float
    p50_ms: float
    p99_ms: float


def measure_connections(stage: Stage, round_s: int) -> list[Point]:
    """All points. A contender of which a request failed has none at so many connections, which is said."""
    with contextlib.ExitStack() as stack:
        peers = started_peers(stage, stack)[0]
        return _measured(stage, round_s, {name.partition(",")[0]: measure for name, measure in peers.items()})


def _measured(stage: Stage, round_s: int, peers: dict[str, Callable[[int, float], dict[str, float]]]) -> list[Point]:
    ways = {"hello": (stage.hello_port, "/"), "naive": (stage.naive_port, "/"), "forebay": (stage.port, ECHO_PATH)}
    for port, path in ways.values():
        load(port, path, seconds=1)
    points = []
    for connections in CONNECTIONS:
        contenders: dict[str, Callable[[], dict[str, float] | None]] = {
            name: partial(
                _tried, name, connections, partial(load, port, path, connections=connections, seconds=round_s)
            )
            for name, (port, path) in ways.items()
        }
        if connections <= PEER_CALLERS_MAX:
            contenders |= {
                name: partial(_tried, name, connections, partial(measure, connections, round_s))
                for name, measure in peers.items()
            }
        points += points_of(connections, rotated_rounds(ROUNDS, contenders))
    return points


def _tried(name: str, connections: int, measure: Callable[[], dict[str, float]]) -> dict[str, float] | None:
    try:
        return measure()
    except RuntimeError as error:
        print(f"{name} at {connections} connections: {error}", file=sys.stderr)
        return None


def points_of(connections: int, results: dict[str, list[dict[str, float] | None]]) -> list[Point]:
    """The points of some rounds, each ratio inside its round. Pure."""
    points = []
    for name, rounds in results.items():
        pairs = [(own, hello) for own, hello in zip(rounds, results["hello"], strict=True) if own and hello]
        if len(pairs) < len(rounds):
            continue
        rates = [own["requests"] / own["seconds"] for own, _ in pairs]
        ratios = [rate * hello["seconds"] / hello["requests"] for rate, (_, hello) in zip(rates, pairs, strict=True)]
        p50_ms, p99_ms = (statistics.median(own[key] for own, _ in pairs) / 1e3 for key in ("p50_us", "p99_us"))
        points.append(Point(name, connections, statistics.median(rates), statistics.median(ratios), p50_ms, p99_ms))
    return points


def main(arguments: Sequence[str]) -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks connections", description="An echo by connections.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the points as a JSON list")
    parser.add_argument("--seconds", type=int, default=ROUND_S, metavar="N", help=f"of a round (default: {ROUND_S})")
    options = parser.parse_args(arguments)
    with open_stage() as stage:
        points = measure_connections(stage, options.seconds)
    print(f"{'connections':>11}  {'':10}{'x hello':>9}{'p50 ms':>10}{'p99 ms':>10}")
    for each in points:
        print(f"{each.connections:>11}  {each.contender:10}{each.ratio:>9.3f}{each.p50_ms:>10.2f}{each.p99_ms:>10.2f}")
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in points], indent=2) + "\n")
    return 0
